"""Single-task baselines: trains each task of a multi-task run alone, for as many steps as the run spent on it."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtl.baseline_comparison import BASELINES, HEADER, BaselineComparison, compare_with_baselines
from mtl.config import Run
from mtl.display import Display
from mtl.error_analysis import join_labels
from mtl.errors import UserError
from mtl.export import renew_card
from mtl.facts import read_facts
from mtl.files import locked, write_file
from mtl.leaks import LeakSearch
from mtl.phases import run_phase
from mtl.preflight import Checked
from mtl.processes import Processes
from mtl.reading import Data
from mtl.report import table
from mtl.run_files import BEST_DIR, RESULTS_FILE, RUN_FILE, read_results
from mtl.run_record import read_record
from mtl.run_setup import longest_input
from mtl.tokenizer import load_tokenizer


def train_baselines(
    checked: Checked, output: Path, results: Mapping[str, Any], *, command: Sequence[str] | None, display: Display
) -> dict[str, Any]:
    """Trains each task of a finished run alone, in `output/baselines/TASK`, and adds the metrics to the run's results.

    A baseline has the run's settings and seed, the task's training rows and order of batches, and as many steps as the
    run spent on the task. It is evaluated at most as often as the run, so that its best step is chosen from no more
    evaluations. Finished baselines are kept, unfinished ones continued.

    Args:
        checked: The configuration and data of the multi-task run.
        output: The directory of the multi-task run.
        results: The results of the multi-task run.
        command: The command line, for the provenance record; None if called from Python.
        display: Shows the progress of the baselines.

    Returns:
        The results with `single`, task → split → metrics of the baseline at its best step, and `over_single`, task →
        split → metric → difference from it, with the paired interval where there is one.

    Raises:
        UserError: A baseline's directory holds something that cannot be continued.
    """
    processes = Processes.current()
    display = display if processes.is_main else Display("silent")
    begun = {name for name in checked.run.tasks if (output / BASELINES / name / RUN_FILE).is_file()}
    single: dict[str, Any] = {}
    with contextlib.ExitStack() as held:
        processes.in_main(lambda: _hold(held, output))
        for name, steps in results["task_steps"].items():
            if steps == 0:
                display.say(f"note: {name} got no step, so there is nothing to compare it with")
                continue
            folder = output / BASELINES / name
            display.say(f"\n{name} alone, {steps:,} steps: {folder}")
            alone = alone_of(checked, name, steps, results["steps"], results["evaluate_every"])
            results_alone = run_phase(
                alone, folder, resume=name in begun, command=command, display=display, quiet_data=True
            )
            single[name] = results_alone["tasks"][name]
        trust = checked.run.config.trust_remote_code
        limit = longest_input(checked, load_tokenizer(checked.encoder, trust_remote_code=trust))

        def store() -> None:
            record = replace(read_record(output), results={**results, "single": single})
            rows = compare_with_baselines(record, join_labels(record))
            outcome = {**record.results, "over_single": _differences(rows)}
            write_file(output / RESULTS_FILE, json.dumps(outcome, indent=1))
            display.say("\n" + table(HEADER, [row.cells() for row in rows]), "quiet")
            for name in single:
                facts = read_facts(name, output, checked.run, outcome)
                renew_card(output / BEST_DIR / name, name, checked.run.tasks[name], facts, limit)

        processes.in_main(store)
    return read_results(output)


def _differences(rows: Sequence[BaselineComparison]) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        bounds = [row.paired.low, row.paired.high] if row.paired else None
        of_split = found.setdefault(row.task, {}).setdefault(row.split, {})
        of_split[row.metric] = {"difference": row.together - row.alone, "interval": bounds}
    return found


def _hold(held: contextlib.ExitStack, output: Path) -> None:
    """Keep other runs out of the directory until `held` is closed."""
    held.enter_context(locked(output))


def require_several(checked: Checked) -> None:
    """Checks that there is more than one task, because one task alone would be compared with itself.

    Raises:
        UserError: The run has only one task.
    """
    if len(checked.run.tasks) < 2:
        raise UserError.of("--baselines", "trains each task of several alone; this run has one task only")


def alone_of(checked: Checked, name: str, steps: int, of: int, evaluate_every: int) -> Checked:
    """Configuration and data for one task alone, with its steps in a multi-task run and at most as many evaluations.

    Args:
        checked: The multi-task run.
        name: Name of the task.
        steps: Steps of the multi-task run on this task.
        of: All steps of the multi-task run.
        evaluate_every: Steps between evaluations of the multi-task run.
    """
    config = checked.run.config

    def as_often(every: int) -> int:
        return math.ceil(steps / math.ceil(of / every))

    save_every = config.checkpoint.every
    sizes = {task: size for task, size in config.train.task_sizes.items() if task == name}
    sections = {
        "train": config.train.model_copy(update={"max_steps": steps, "tasks_per_step": 1, "task_sizes": sizes}),
        # Early stopping is off: the number of steps must equal the task's steps in the multi-task run.
        "evaluation": config.evaluation.model_copy(update={"every": as_often(evaluate_every), "patience": None}),
        "checkpoint": config.checkpoint.model_copy(update={"every": save_every and as_often(save_every)}),
    }
    run = Run(config.model_copy(update=sections), {name: checked.run.tasks[name]})
    data = checked.data
    # Leaks into other tasks' evaluation data stay excluded, so that both runs train on the same rows; but only those
    # into its own are told of.
    known = [
        leak.as_json()
        for leak in data.leaks.leaks()
        if leak.evaluation.startswith(f"{name}/") and (leak.train == f"{name}/train" or data.is_before(leak))
    ]
    leaks = LeakSearch.recalled(known, data.leaks.leaked)
    own = Data({name: data.sources[name]}, {name: data.summaries[name]}, leaks, before=set(data.before))
    return replace(checked, run=run, data=own)
