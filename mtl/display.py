"""Console output during a run: lines of text, and a progress bar if stderr is a terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from tqdm import tqdm

from mtl.best import Best
from mtl.report import number
from mtl.taskdef import TaskDef

Level = Literal["silent", "quiet", "normal", "verbose"]
LEVELS: tuple[Level, ...] = ("silent", "quiet", "normal", "verbose")

WARNING = "warning: "  # start of a warning's line
PAUSE = 60  # minimum seconds between progress lines if there is no bar
SMOOTHING = 0.1  # weight of the newest value in a smoothed loss; the first ten values are averaged


class Display:
    """Console output of a run.

    Args:
        level: `silent` shows nothing, `quiet` warnings and the final table, `normal` also the plan, notes, evaluations
            and the bar (without a terminal, a line of progress every `PAUSE` seconds), `verbose` also a line each time
            the log is written.
        write: Function that prints a line.
        words: Function that adapts a line to the caller; see `wording`.
        clock: Function that returns the time in seconds, from any fixed moment.

    Attributes:
        warnings: All warnings, shown or not.
    """

    def __init__(
        self,
        level: Level = "normal",
        write: Callable[[str], None] = print,
        words: Callable[[str], str] = str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.level, self.warnings = level, list[str]()
        self._write, self._words, self._clock = write, words, clock
        self._began, self._shown = (0, 0.0), 0.0  # step and time of the beginning; time of the last line on progress
        self._bar: Any = None
        self._losses: dict[str, tuple[float, int]] = {}  # task to its smoothed loss and the number of values in it
        self._before: Mapping[str, Any] = {}  # the previous evaluation

    def shows(self, level: Level) -> bool:
        return LEVELS.index(self.level) >= LEVELS.index(level)

    def say(self, line: str, level: Level = "normal") -> None:
        """Print a line if the display's level is at least `level`."""
        if self.shows(level):
            if self._bar is not None and not self._bar.disable:
                self._bar.clear()
            self._write(self._words(line))

    def warn(self, line: str) -> None:
        self.warnings.append(self._words(line))
        self.say(f"{WARNING}{line}", "quiet")

    def bar(self, steps: int, done: int) -> Any:
        """Create the progress bar with the remaining time, hidden below `normal` and unless stderr is a terminal."""
        hidden = None if self.shows("normal") else True
        options: dict[str, Any] = {"unit": "step", "file": sys.stderr, "dynamic_ncols": True, "disable": hidden}
        self._bar = tqdm(total=steps, initial=done, **options)
        self._began, self._shown = (done, self._clock()), self._clock()
        return self._bar

    def step(self, step: int, task: str) -> None:
        self._bar.set_description_str(task, refresh=False)
        self._bar.update(step - self._bar.n)

    def logged(self, records: Sequence[Mapping[str, Any]], steps: int) -> None:
        """Show logged steps: each task's smoothed loss and the learning rate."""
        for record in records:
            if not math.isfinite(record["loss"]):
                continue  # a skipped step
            mean, values = self._losses.get(record["task"], (0.0, 0))
            share = max(SMOOTHING, 1 / (values + 1))
            self._losses[record["task"]] = (mean + share * (record["loss"] - mean), values + 1)
        rate = records[-1]["learning_rate"]
        losses = "  ".join(f"{task} {loss:.3f}" for task, (loss, _) in self._losses.items())
        self._bar.set_postfix_str(f"loss {losses}  rate {rate:.2g}")
        step, now = records[-1]["step"], self._clock()
        line = f"step {step:,}/{steps:,}  loss {losses}  learning rate {rate:.3g}"
        if self._bar.disable and now - self._shown >= PAUSE and not self.shows("verbose"):
            self._shown = now
            left = (now - self._began[1]) / max(1, step - self._began[0]) * (steps - step)
            self.say(f"{line}  {tqdm.format_interval(left)} left")
        self.say(line, "verbose")

    def continued(self, last: Mapping[str, Any]) -> None:
        """Set the last evaluation before the run was interrupted, with which the next one is compared."""
        self._before = last

    def evaluation(
        self, step: int, steps: int, metrics: Mapping[str, Any], best: Mapping[str, Best], tasks: Mapping[str, TaskDef]
    ) -> None:
        """Print an evaluation; see `evaluation_lines`."""
        for line in evaluation_lines(step, steps, metrics, best, self._before, tasks):
            self.say(line)
        self._before = metrics


def evaluation_lines(
    step: int,
    steps: int,
    metrics: Mapping[str, Any],
    best: Mapping[str, Best],
    before: Mapping[str, Any],
    tasks: Mapping[str, TaskDef],
) -> list[str]:
    """One line per task: its selecting metric on the deciding split, starred at its best step, and on other splits.

    The change of the metric on the deciding split since the previous evaluation follows, if there was one, and the best
    value so far if this is not the best.

    Args:
        step: Steps done.
        steps: Steps of the run.
        metrics: Task to split to metrics.
        best: Task to its best step.
        before: The same as `metrics`, of the previous evaluation; empty at the first one.
        tasks: The tasks.
    """
    lines, width = [], max(map(len, metrics))
    for name, splits in metrics.items():
        metric, starred = tasks[name].metrics[0], best[name].step == step
        deciding = next(iter(splits))  # `holdout`, if rows are held out of the training data
        others = ", ".join(f"{split} {number(splits[split][metric])}" for split in splits if split != deciding)
        value = f"{metric} {number(splits[deciding][metric])}{'*' if starred else ''}"
        parts = [f"step {step:,}/{steps:,}", name.ljust(width), value + (f" ({others})" if others else "")]
        if name in before:
            parts.append(f"{splits[deciding][metric] - before[name][deciding][metric]:+.4f}")
        if not starred:
            parts.append(f"best {number(best[name].splits[deciding][metric])} at step {best[name].step:,}")
        lines.append("  ".join(parts))
    return lines
