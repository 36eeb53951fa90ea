"""The training loop's hooks into a run directory: evaluation, best steps, checkpoints, results and display."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mtl.best import Best, back_up, discard, restore
from mtl.checkpoint import Checkpoint, save_checkpoint
from mtl.display import Display
from mtl.errors import UserError
from mtl.evaluate import (
    Outputs,
    prediction_records,
    score,
    score_baseline,
    score_intervals,
    split_outputs,
    write_predictions,
)
from mtl.export import renew_card, save_export, task_of
from mtl.facts import Facts, read_facts
from mtl.files import write_file
from mtl.predictions import predictions_file, read_predictions
from mtl.run_files import BEST_DIR, CHECKPOINTS_DIR, RESULTS_FILE, read_results
from mtl.run_record import Provenance, read_provenance
from mtl.run_setup import RunSetup
from mtl.state import TrainState
from mtl.trainer import Hooks


class RunHooks(Hooks):
    """Evaluation, files and display of a run."""

    def __init__(self, setup: RunSetup, output: Path, display: Display) -> None:
        self.run, self.splits, self.plan, self.processes = setup.run, setup.splits, setup.plan, setup.processes
        self.model, self.tokenizer, self.output = setup.objective.model, setup.tokenizer, output
        self.display, self.limit = display, setup.limit
        self._whole = setup.whole
        self._outputs: dict[str, dict[str, Outputs]] = {}
        self._saved = 0  # step of the newest checkpoint

    def progress(self, step: int, task: str) -> None:
        self.display.step(step, task)

    def logged(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.display.logged(records, self.plan.steps)

    def evaluate(self) -> dict[str, dict[str, dict[str, float]]]:
        self._outputs = {}
        results: dict[str, dict[str, dict[str, float]]] = {}
        for name, task in self.run.tasks.items():
            self._outputs[name], results[name] = {}, {}
            for split, examples in self.splits[name].items():
                if split == "train":
                    continue
                outputs = split_outputs(
                    self.model,
                    partial(self.model, name),
                    examples,
                    task,
                    self.tokenizer.pad_token_id,
                    batch_tokens=self.run.config.evaluation.batch_tokens,
                    processes=self.processes,
                )
                self._outputs[name][split] = outputs
                results[name][split] = score(task, outputs, examples)
        return results

    def keep_best(self, task: str, best: Best, before: Best | None) -> None:
        whole = self._whole(self.model)
        if whole is None:
            return
        if before is not None and before.step <= self._saved:
            back_up(self._best(task), before.step, self._predictions(task))
        for split, outputs in self._outputs[task].items():
            records = prediction_records(self.run.tasks[task], outputs, self.splits[task][split])
            write_predictions(predictions_file(self.output, task, split), records)
        facts = Facts(
            weights="best",
            step=best.step,
            steps=best.step,  # until the run is finished
            metrics=best.splits,
            baselines=self._baselines[task],
            data=self._data_facts(task),
            run=self.run,
            provenance=read_provenance(self.output) or Provenance(),
        )
        loaded = task_of(whole, task, self.run.tasks[task], self.tokenizer)
        save_export(loaded, task, self._best(task), facts, verify=False)

    def continues(self, state: TrainState) -> None:
        """Restore the best steps of the checkpoint from which the run continues."""
        self._saved = state.step
        for name in self.run.tasks if self.processes.is_main else ():
            best = state.best.get(name)
            restore(self._best(name), None if best is None else best.step, self._predictions(name))

    def checkpoint(self, checkpoint: Checkpoint, *, last: bool) -> None:
        if not self.processes.is_main:
            return
        kept = self.run.config.checkpoint.keep_last
        save_checkpoint(self.output / CHECKPOINTS_DIR, checkpoint, kept)
        self._saved = checkpoint.step
        for name in self.run.tasks:
            discard(self._best(name), keep=0 if last else kept)

    def _best(self, task: str) -> Path:
        return self.output / BEST_DIR / task

    def _predictions(self, task: str) -> list[Path]:
        return [predictions_file(self.output, task, split) for split in self.splits[task] if split != "train"]

    def report(self, step: int, metrics: Mapping[str, Any], state: TrainState) -> None:
        self.display.evaluation(step, self.plan.steps, metrics, state.best, self.run.tasks)
        if early := state.stopped_early(self.plan.steps, self.run.config.evaluation.patience):
            self.display.say(early)
        self.store_results(state)

    def intervals(self) -> dict[str, dict[str, Any]]:
        """Intervals of the metrics at each task's best step, by task and split.

        They are computed from the stored predictions, as a resumed run has no others.
        """
        found: dict[str, dict[str, Any]] = {}
        for name, task in self.run.tasks.items():
            found[name] = {}
            for split in self.splits[name]:
                if split == "train":
                    continue
                try:
                    predictions = read_predictions(predictions_file(self.output, name, split), task)
                    own = score_intervals(task, predictions, self.splits[name][split])
                    found[name][split] = {metric: list(bounds) for metric, bounds in own.items()}  # lists, as in JSON
                except UserError as error:
                    self.display.warn(f"no intervals of {name}/{split}: {error}")
        return found

    def store_results(self, state: TrainState, intervals: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write `results.json` and return its contents: metrics at each task's best step, baselines, plan and data.

        Args:
            state: State of the run.
            intervals: Intervals of the metrics if the run is finished, else None.
        """
        results = {
            "tasks": {name: best.splits for name, best in state.best.items()},
            **({} if intervals is None else {"intervals": intervals}),
            "best_steps": {name: best.step for name, best in state.best.items()},
            "last": state.last,
            "baselines": self._baselines,
            "data": {name: self._data_facts(name) for name in self.run.tasks},
            "plan": [task.model_dump() for task in self.plan.tasks],
            "task_steps": self.plan.task_steps(state.step),
            "steps": state.step,
            "planned_steps": self.plan.steps,
            "evaluate_every": self.plan.evaluate_every,
            "skipped_steps": state.skipped,
            "nonfinite_steps": state.nonfinite,
            "finished": intervals is not None,
        }
        if intervals is not None:
            results |= self._alone(state)
        if self.processes.is_main:
            write_file(self.output / RESULTS_FILE, json.dumps(results, indent=1))
        return results

    def _alone(self, state: TrainState) -> dict[str, Any]:
        """Results of training each task alone, if this run had been finished before and has them."""
        try:
            before = read_results(self.output)
        except UserError:  # there is none yet
            return {}
        same = before.get("finished") and before["steps"] == state.step
        return {key: before[key] for key in ("single", "over_single") if same and key in before}

    def renew_cards(self, results: Mapping[str, Any]) -> None:
        """Add what is known at the end, intervals and the length of the run, to the model cards of the best steps."""
        if self.processes.is_main:
            for name, task in self.run.tasks.items():
                facts = read_facts(name, self.output, self.run, results)
                renew_card(self._best(name), name, task, facts, self.limit)

    @cached_property
    def _baselines(self) -> dict[str, Any]:
        return {
            name: {
                split: score_baseline(self.run.tasks[name], parts["train"], examples)
                for split, examples in parts.items()
                if split != "train"
            }
            for name, parts in self.splits.items()
        }

    def _data_facts(self, name: str) -> dict[str, Any]:
        return {
            split: {
                "rows": len(part),
                "unlabelled": part.unlabelled,
                "dropped": part.dropped,
                "truncated": int(part.truncated.sum()),
            }
            for split, part in self.splits[name].items()
        }
