"""The two phases, `train` and `adapt`: from a checked request to a finished run directory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from mtl.batch import BatchStream
from mtl.checkpoint import Checkpoint, load_newest, save_checkpoint
from mtl.config import Run
from mtl.data import Examples, load_config, load_tokenizer, prepare, usable_length
from mtl.display import Display
from mtl.errors import Interrupted, StorageError, UserError, counted
from mtl.evaluate import (
    Outputs,
    counts,
    prediction_records,
    score,
    score_baseline,
    score_intervals,
    split_outputs,
    write_predictions,
)
from mtl.export import save_export, save_model, task_of
from mtl.files import locked, write_file
from mtl.model import MultiTaskModel, build_model, load_model
from mtl.objective import Objective
from mtl.parts import few_shot, hold_out, without_leaks
from mtl.plan import Plan, make_plan
from mtl.precision import erased_perturbations
from mtl.predictions import predictions_file, read_predictions
from mtl.preflight import Checked
from mtl.processes import Processes, make_accelerator
from mtl.report import plan_table, results_table
from mtl.rundir import Splits, fingerprints, resume_command, start_directory
from mtl.runlog import RunLog, Silence, Writer
from mtl.state import TrainState, separate_dropout
from mtl.stop import StopSignal
from mtl.trainer import Hooks, Trainer

RESULTS_FILE = "results.json"


def run_phase(
    checked: Checked,
    output: Path,
    *,
    resume: bool,
    command: Sequence[str] | None = None,
    overwrite: bool = False,
    display: Display | None = None,
) -> dict[str, Any]:
    """Trains (or continues) a run and finishes its directory.

    Args:
        checked: The run, as `preflight` left it.
        output: Its directory, which this process alone writes to.
        resume: Whether to continue from its newest checkpoint.
        command: The command line, for the record; None from a program.
        overwrite: Whether an earlier run in the directory may be replaced.
        display: What shows the run; by default as the command line does.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: The run cannot start, or another one is writing there.
        Interrupted: A signal came; the message says how to continue.
        NonFiniteError: A term became NaN or infinite, and may not be skipped.
        StorageError: Something could not be written.
    """
    processes = Processes.current()
    display = (display or Display()) if processes.is_main else Display("silent")
    show_data_notes(checked, display)
    ready = get_ready(checked, processes, bar=display.shows("normal"))
    display.say(plan_table(ready.plan.rows, ready.plan.steps, ready.plan.epoch_steps))
    for line in remarks(ready.run, ready.splits):
        display.say(f"note: {line}")
    if erased := erased_perturbations(ready.objective, ready.streams, ready.pad_id, ready.accelerator):
        raise UserError(erased)
    separate_dropout(ready.run.config.train.seed, processes)
    hooks = RunHooks(ready, output, display)
    with contextlib.ExitStack() as held:

        def start() -> None:
            held.enter_context(locked(output))
            start_directory(checked, ready.splits, output, resume=resume, overwrite=overwrite, command=command)

        processes.in_main(start)
        state = _train(ready, hooks, output, resume=resume, command=command)
        if processes.is_main:
            save_model(ready.objective.model, ready.tokenizer, output / "model")
            if ready.objective.teacher is not None:
                save_model(ready.objective.teacher, ready.tokenizer, output / "teacher")
        results = hooks.store_results(state, intervals=hooks.intervals() if processes.is_main else {})
    display.say(results_table(results, ready.run.tasks, output), "quiet")
    return results


@dataclass(frozen=True)
class Ready:
    """A run that can start.

    Attributes:
        run: Configuration and tasks.
        processes: Who takes part.
        accelerator: Device and precision.
        tokenizer: The encoder's.
        splits: Tokenised data by task and split.
        streams: Each task's training batches.
        plan: The steps.
        objective: Student, on its device, and teacher.
    """

    run: Run
    processes: Processes
    accelerator: Accelerator
    tokenizer: Any
    splits: Splits
    streams: dict[str, BatchStream]
    plan: Plan
    objective: Objective

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def trainer(self, log: Writer, hooks: Hooks) -> Trainer:
        """The loop, which writes to a log and asks its surroundings through hooks."""
        return Trainer(
            self.run,
            self.objective,
            self.streams,
            self.plan,
            self.pad_id,
            self.accelerator,
            log,
            hooks,
            self.processes,
        )


def get_ready(checked: Checked, processes: Processes, *, bar: bool = True) -> Ready:
    """Prepares data and model of a run.

    Raises:
        UserError: The data cannot be used, the encoder not be loaded, or processes have different data.
    """
    run = checked.run
    accelerator = processes.together(lambda: make_accelerator(run.config.train.precision))
    tokenizer = load_tokenizer(checked.encoder, trust_remote_code=run.config.trust_remote_code)
    splits = processes.main_first(lambda: prepare_splits(checked, tokenizer, bar=bar))
    processes.require_same(fingerprints(splits), "the data of")
    streams = make_streams(run, splits)
    torch.manual_seed(run.config.train.seed)
    model = make_model(checked)
    objective = Objective(model, {name: run.regularized(name) for name in run.tasks}, run.config.train.seed)
    model.to(accelerator.device)
    return Ready(run, processes, accelerator, tokenizer, splits, streams, make_plan(run, streams), objective)


def make_streams(run: Run, splits: Splits) -> dict[str, BatchStream]:
    """Each task's training batches."""
    return {
        name: BatchStream(
            splits[name]["train"],
            task.batch_size,
            run.config.train.seed,
            name,
            ranking=task.type == "ranking",
            batch_tokens=task.batch_tokens,
        )
        for name, task in run.tasks.items()
    }


def _train(ready: Ready, hooks: RunHooks, output: Path, *, resume: bool, command: Sequence[str] | None) -> TrainState:
    """Trains from the newest checkpoint, or from the first step, to the end of the plan."""
    processes = ready.processes
    checkpoint, damaged = load_newest(output / "checkpoints") if resume else (None, [])
    if resume:
        step = "none" if checkpoint is None else str(checkpoint.step)
        processes.require_same({"newest checkpoint": step}, f"{output}, which all machines have to share")
    for line in damaged:
        hooks.display.warn(f"passed over a damaged checkpoint: {line}")
    if resume:
        found = (
            f"resuming after step {checkpoint.step:,}" if checkpoint else "no checkpoint: starting from the first step"
        )
        hooks.display.say(found)
    state = TrainState() if checkpoint is None else TrainState.stored(checkpoint)
    continued = f"continue with{resume_command(command)}"
    try:
        log = RunLog(output, position=state.log_position, step=state.step) if processes.is_main else Silence()
        with contextlib.closing(log):
            trainer = ready.trainer(log, hooks)
            if checkpoint is not None:
                trainer.state = trainer.tensors.restore(checkpoint)
            hooks.display.continued(trainer.state.last)
            bar = hooks.display.bar(ready.plan.steps, trainer.state.step)
            with bar, StopSignal(launched=processes.count > 1).installed() as stop:
                trainer.fit(stop)
    except Interrupted as error:
        raise Interrupted(error.signal_number, f"{error}; {continued}") from None
    except StorageError as error:
        raise StorageError(f"{error}; {continued}") from error
    return trainer.state


def prepare_splits(checked: Checked, tokenizer: Any, *, bar: bool = True) -> dict[str, dict[str, Examples]]:
    """Tokenised splits of every task; training data cut to the size asked for."""
    run = checked.run
    config = load_config(checked.encoder, trust_remote_code=run.config.trust_remote_code)
    limit = usable_length(tokenizer, config)
    splits: dict[str, dict[str, Examples]] = {}
    for name, task in run.tasks.items():
        splits[name] = {
            split: prepare(
                name,
                task,
                source,
                tokenizer,
                min(task.max_length, limit),
                num_proc=run.config.num_proc,
                rows=checked.data.summaries[name][split].rows,
                bar=bar,
            )
            for split, source in checked.data.sources[name].items()
            if split == "train" or run.config.train.holdout is None
        }
        train, examples = run.config.train, splits[name]["train"]
        if train.holdout is not None:  # of all rows, so that it is the same part whatever is left out of the others
            examples, splits[name]["holdout"] = hold_out(task, examples, train.holdout, train.holdout_rows, train.seed)
        if run.config.leaks == "drop":
            examples = without_leaks(task, examples, checked.data.leaks.leaked[f"{name}/train"])
            if len(examples) == 0:
                raise UserError.of("--leaks drop", f"leaves {name} no training rows: all stand in evaluation rows")
        size = train.task_sizes.get(name, train.train_size)
        splits[name]["train"] = few_shot(task, examples, size, train.train_fraction, train.seed)
    return splits


def show_data_notes(checked: Checked, display: Display) -> None:
    """Tells what was found of the data before it was tokenised."""
    for note in checked.data.notes:
        display.say(f"note: {note}")
    leaks, warn = checked.data.leaks.leaks(), checked.run.config.leaks == "warn"
    for leak in leaks:
        if warn:
            display.warn(str(leak))
        else:
            display.say(f"note: {leak}")
    if warn and leaks:
        display.say("note: --leaks drop leaves such training rows out, --leaks ignore does not look for them")


def remarks(run: Run, splits: Splits) -> list[str]:
    """What a user should know about the data: truncation, rows left out, queries that teach nothing."""
    lines = []
    for name, parts in splits.items():
        for split, examples in parts.items():
            share = float(examples.truncated.mean())
            if share > 0:
                lines.append(
                    f"{name}/{split}: {share:.1%} of the inputs are truncated to {run.tasks[name].max_length} tokens"
                )
            if examples.unlabelled:
                lines.append(f"{name}/{split}: {counted(examples.unlabelled, 'row')} without a label left out")
            if examples.dropped:
                lines.append(
                    f"{name}/{split}: {counted(examples.dropped, 'row')} left out that stand in evaluation rows"
                )
            without = int(counts(run.tasks[name], examples).get("queries_without_relevant", 0))
            if without:
                effect = "no task loss for" if split == "train" else "0 in the metrics for"
                what = counted(without, "query", "queries")
                lines.append(f"{name}/{split}: {effect} {what} without a relevant candidate")
    return lines


def make_model(checked: Checked) -> MultiTaskModel:
    """A pretrained encoder with fresh heads; in adaptation the multi-task encoder and, if reused, its head.

    Raises:
        UserError: It cannot be loaded, or cannot compute activations again.
    """
    run = checked.run
    model = _make_model(checked)
    if run.config.train.gradient_checkpointing:
        if not model.encoder.supports_gradient_checkpointing:
            raise UserError.of("train.gradient_checkpointing", "this encoder's architecture does not support it")
        # The reentrant kind knows no gradient by the input alone, which the ascent of R_s needs.
        encoder = model.encoder
        enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model


def _make_model(checked: Checked) -> MultiTaskModel:
    run = checked.run
    if run.config.phase == "adapt":
        fresh = set(run.tasks) if run.config.head == "fresh" else set()
        model: MultiTaskModel = load_model(checked.encoder, run.tasks, fresh=fresh, seed=run.config.train.seed)
        return model
    return build_model(
        checked.encoder, run.tasks, seed=run.config.train.seed, trust_remote_code=run.config.trust_remote_code
    )


class RunHooks:
    """Evaluation, files and display of a run, as `trainer.Hooks` asks for them."""

    def __init__(self, ready: Ready, output: Path, display: Display) -> None:
        self.run, self.splits, self.plan, self.processes = ready.run, ready.splits, ready.plan, ready.processes
        self.model, self.tokenizer, self.output = ready.objective.model, ready.tokenizer, output
        self.display = display
        self._outputs: dict[str, dict[str, Outputs]] = {}

    def progress(self, step: int, task: str) -> None:
        self.display.step(step, task)

    def logged(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.display.logged(records, self.plan.steps)

    def evaluate(self, step: int) -> dict[str, dict[str, dict[str, float]]]:
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

    def keep_best(self, task: str, step: int) -> None:
        if not self.processes.is_main:
            return
        for split, outputs in self._outputs[task].items():
            records = prediction_records(self.run.tasks[task], outputs, self.splits[task][split])
            write_predictions(predictions_file(self.output, task, split), records)
        metrics = {
            split: score(self.run.tasks[task], o, self.splits[task][split]) for split, o in self._outputs[task].items()
        }
        loaded = task_of(self.model, task, self.run.tasks[task], self.tokenizer)
        save_export(loaded, task, self.output / "best" / task, metrics, verify=False)

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        if not self.processes.is_main:
            return
        save_checkpoint(self.output / "checkpoints", checkpoint, self.run.config.checkpoint.keep_last)

    def report(self, step: int, metrics: Mapping[str, Any], improved: Mapping[str, bool], state: TrainState) -> None:
        self.display.evaluation(step, self.plan.steps, metrics, state.best, self.run.tasks)
        self.store_results(state)

    def intervals(self) -> dict[str, dict[str, Any]]:
        """Intervals of the metrics at each task's best step: of the predictions written there, as a continued run has
        no others."""
        found: dict[str, dict[str, Any]] = {}
        for name, task in self.run.tasks.items():
            found[name] = {}
            for split in self.splits[name]:
                if split == "train":
                    continue
                try:
                    predictions = read_predictions(predictions_file(self.output, name, split), task)
                    found[name][split] = score_intervals(task, predictions, self.splits[name][split])
                except UserError as error:
                    self.display.warn(f"no intervals of {name}/{split}: {error}")
        return found

    def store_results(self, state: TrainState, intervals: dict[str, Any] | None = None) -> dict[str, Any]:
        """Writes `results.json`: each task's metrics at its best step, and what they compare to.

        Args:
            state: Of the run.
            intervals: Of a finished run.
        """
        results = {
            "tasks": {name: best["splits"] for name, best in state.best.items()},
            **({} if intervals is None else {"intervals": intervals}),
            "best_steps": {name: best["step"] for name, best in state.best.items()},
            "last": state.last,
            "baselines": self._baselines,
            "data": {name: self._data_facts(name) for name in self.run.tasks},
            "plan": self.plan.rows,
            "task_steps": self.plan.task_steps(state.step),
            "steps": state.step,
            "planned_steps": self.plan.steps,
            "skipped_steps": state.skipped,
            "nonfinite_steps": state.nonfinite,
            "finished": intervals is not None,
        }
        if self.processes.is_main:
            write_file(self.output / RESULTS_FILE, json.dumps(results, indent=1))
        return results

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
