"""Each task of a run beside the same task trained alone (`train --baselines`), on the same evaluation rows."""

from __future__ import annotations

from dataclasses import dataclass

from mtl.errors import UserError
from mtl.intervals import Difference
from mtl.judged import compared, judge
from mtl.metrics import METRICS
from mtl.report import number
from mtl.runrecord import RunRecord, read_record

BASELINES = "baselines"  # folder of a run that contains a run of each task alone
HEADER = ("task", "split", "metric", "together", "alone", "difference", "95% interval", "conclusion")


@dataclass(frozen=True)
class Beside:
    """A metric of a task, trained together with the others and alone, each at its best step.

    Attributes:
        task: The task.
        split: The evaluated split.
        metric: The metric.
        together: Its value in the run.
        alone: Its value in the run of the task alone.
        paired: Difference with its interval (paired bootstrap), or None if the predictions cannot be compared.
    """

    task: str
    split: str
    metric: str
    together: float
    alone: float
    paired: Difference | None

    def cells(self) -> tuple[str, ...]:
        """One row under `HEADER`."""
        bounds = f"[{self.paired.low:+.4f}, {self.paired.high:+.4f}]" if self.paired else "–"
        values = number(self.together), number(self.alone), f"{self.together - self.alone:+.4f}"
        reading = conclusion(self.paired, self.metric, "alone", "together") if self.paired else "–"
        return self.task, self.split, self.metric, *values, bounds, reading


def conclusion(difference: Difference, metric: str, first: str, second: str) -> str:
    """What a paired difference, second less first, says in words."""
    if not difference.excludes_zero:
        return "no clear difference"
    better = (difference.value > 0) == METRICS[metric].higher_is_better
    return f"{second if better else first} is better"


def trained_alone(record: RunRecord, data_root: str | None = None) -> list[Beside]:
    """Compare a run with its baselines; empty if there are none.

    Args:
        record: The run of all tasks.
        data_root: Local mirror of the hub; by default the run's.
    """
    found = []
    for name, splits in record.results.get("single", {}).items():
        for split, values in splits.items():
            together = record.results["tasks"].get(name, {}).get(split, {})
            paired = _paired(record, name, split, data_root)
            metrics = record.run.tasks[name].metrics if record.run else values
            for metric in metrics:
                if metric in values and metric in together:
                    found.append(Beside(name, split, metric, together[metric], values[metric], paired.get(metric)))
    return found


def _paired(record: RunRecord, name: str, split: str, data_root: str | None) -> dict[str, Difference]:
    try:
        alone = read_record(record.path / BASELINES / name)
        pair = judge(alone, name, split, data_root), judge(record, name, split, data_root)
    except UserError:
        return {}
    found = compared(alone, record, name, split, pair)
    return found if isinstance(found, dict) else {}
