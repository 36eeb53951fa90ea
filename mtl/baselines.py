"""Is training together better? Each task of a run trained alone, for as many steps as it got."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtl.config import Run
from mtl.display import Display
from mtl.errors import UserError
from mtl.export import renew_card
from mtl.facts import read_facts
from mtl.files import locked, write_file
from mtl.phases import run_phase
from mtl.preflight import RUN_FILE, Checked
from mtl.processes import Processes
from mtl.reading import Data
from mtl.ready import longest_input
from mtl.report import RESULTS_FILE, number, table
from mtl.tokenizer import load_tokenizer

FOLDER = "baselines"


def train_baselines(
    checked: Checked, output: Path, results: Mapping[str, Any], *, command: Sequence[str] | None, display: Display
) -> dict[str, Any]:
    """Trains each task of a finished run alone, in `output/baselines/TASK`, and puts the outcome into its results.

    A single run has the settings, seed, training rows and order of the task's batches of the run, as many steps as the
    task got, and not more evaluations to choose the best step from. Finished ones are kept, begun ones continued.

    Args:
        checked: The run, as it was trained.
        output: Its directory.
        results: What it came to.
        command: The command line, for the record; None from a program.
        display: What shows the runs.

    Returns:
        The results with `single`: task to split to the metrics of training alone, at its best step.

    Raises:
        UserError: The run has one task only, or an unfinished or foreign run is in the way.
    """
    processes = Processes.current()
    display = display if processes.is_main else Display("silent")
    begun = {name for name in checked.run.tasks if (output / FOLDER / name / RUN_FILE).is_file()}
    single: dict[str, Any] = {}
    for name, steps in results["task_steps"].items():
        if steps == 0:
            display.say(f"note: {name} got no step, so there is nothing to compare it with")
            continue
        folder = output / FOLDER / name
        display.say(f"\n{name} alone, {steps:,} steps: {folder}")
        alone = alone_of(checked, name, steps, results["steps"], results["evaluate_every"])
        results_alone = run_phase(
            alone, folder, resume=name in begun, command=command, display=display, quiet_data=True
        )
        single[name] = results_alone["tasks"][name]
    outcome = {**results, "single": single}
    trust = checked.run.config.trust_remote_code
    limit = longest_input(checked, load_tokenizer(checked.encoder, trust_remote_code=trust))

    def store() -> None:
        with locked(output):
            write_file(output / RESULTS_FILE, json.dumps(outcome, indent=1))
            for name in single:
                facts = read_facts(name, output, checked.run, outcome)
                renew_card(output / "best" / name, name, checked.run.tasks[name], facts, limit)

    processes.in_main(store)
    display.say(singles_table(outcome, checked.run), "quiet")
    return outcome


def require_several(checked: Checked) -> None:
    """Refuses a comparison with itself.

    Raises:
        UserError: The run has one task only.
    """
    if len(checked.run.tasks) < 2:
        raise UserError.of("--baselines", "trains each task of several alone; this run has one task only")


def alone_of(checked: Checked, name: str, steps: int, of: int, evaluate_every: int) -> Checked:
    """The run of one task alone: a step for each of its batches in a run of `of` steps, evaluated as often.

    Args:
        checked: The run of all tasks.
        name: The task.
        steps: Its batches there.
        of: Steps of that run.
        evaluate_every: Steps between its evaluations.
    """
    config = checked.run.config

    def as_often(every: int) -> int:
        return math.ceil(steps / math.ceil(of / every))

    save_every = config.checkpoint.every
    sections = {
        "train": config.train.model_copy(update={"max_steps": steps, "tasks_per_step": 1}),
        # Its steps are those that the task got: it does not stop earlier by itself.
        "evaluation": config.evaluation.model_copy(update={"every": as_often(evaluate_every), "patience": None}),
        "checkpoint": config.checkpoint.model_copy(update={"every": save_every and as_often(save_every)}),
    }
    run = Run(config.model_copy(update=sections), {name: checked.run.tasks[name]})
    # The rows that leak into any task's evaluation stay left out: both see the same training data.
    data = Data({name: checked.data.sources[name]}, {name: checked.data.summaries[name]}, checked.data.leaks)
    return replace(checked, run=run, data=data)


def differences(results: Mapping[str, Any]) -> list[tuple[str, str, str, float, float]]:
    """Rows (task, split, metric, multi-task value, value alone) of all that both have."""
    return [
        (name, split, metric, results["tasks"][name][split][metric], value)
        for name, splits in results.get("single", {}).items()
        for split, values in splits.items()
        for metric, value in values.items()
        if isinstance(value, float)
    ]


def singles_table(results: Mapping[str, Any], run: Run) -> str:
    """Together beside alone, each at its best step."""
    rows = []
    for name, split, metric, together, alone in differences(results):
        first = metric == run.tasks[name].metrics[0]
        lead = (name, split) if first else ("", "")
        rows.append((*lead, metric, number(together), number(alone), f"{together - alone:+.4f}"))
    return "\n" + table(("task", "split", "metric", "together", "alone", "difference"), rows)
