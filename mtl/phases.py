"""The two phases, `train` and `adapt`: from a checked request to a finished run directory."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tqdm import tqdm

from mtl.batch import BatchStream
from mtl.checkpoint import Checkpoint, load_newest, save_checkpoint
from mtl.config import Run
from mtl.data import Examples, few_shot, load_config, load_tokenizer, prepare, usable_length, without_leaks
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
from mtl.plan import Plan, make_plan
from mtl.precision import erased_perturbations
from mtl.predictions import predictions_file, read_predictions
from mtl.preflight import Checked
from mtl.report import evaluation_line, plan_table, results_table
from mtl.rundir import Splits, resume_command, start_directory
from mtl.runlog import RunLog
from mtl.trainer import StopSignal, Trainer, TrainState

RESULTS_FILE = "results.json"
Say = Callable[[str], None]


def run_phase(
    checked: Checked,
    output: Path,
    *,
    resume: bool,
    command: list[str],
    overwrite: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Trains (or continues) a run and finishes its directory.

    Args:
        checked: The run, as `preflight` left it.
        output: Its directory, which this process alone writes to.
        resume: Whether to continue from its newest checkpoint.
        command: The command line, for the record.
        overwrite: Whether an earlier run in the directory may be replaced.
        say: Where lines for people go.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: The run cannot start, or another one is writing there.
        Interrupted: A signal came; the message says how to continue.
        NonFiniteError: A term became NaN or infinite, and may not be skipped.
        StorageError: Something could not be written.
    """
    run = checked.run
    for line in data_notes(checked):
        say(line)
    accelerator = make_accelerator(run)
    tokenizer = load_tokenizer(checked.encoder, trust_remote_code=run.config.trust_remote_code)
    splits = prepare_splits(checked, tokenizer)
    streams = make_streams(run, splits)
    plan = make_plan(run, streams)
    say(plan_table(plan.rows, plan.steps, plan.epoch_steps))
    for line in remarks(run, splits):
        say(f"note: {line}")
    torch.manual_seed(run.config.train.seed)
    model = make_model(checked)
    objective = Objective(model, {name: run.regularized(name) for name in run.tasks}, run.config.train.seed)
    model.to(accelerator.device)
    if erased := erased_perturbations(objective, streams, tokenizer.pad_token_id, accelerator):
        raise UserError(erased)
    hooks = RunHooks(run, model, tokenizer, splits, plan, output, say)

    def trainer(log: RunLog) -> Trainer:
        return Trainer(run, objective, streams, plan, tokenizer.pad_token_id, accelerator, log, hooks)

    with locked(output):
        start_directory(checked, splits, output, resume=resume, overwrite=overwrite, command=command)
        state = _train(trainer, hooks, output, resume=resume, command=command)
        save_model(model, tokenizer, output / "model")
        if objective.teacher is not None:
            save_model(objective.teacher, tokenizer, output / "teacher")
        results = hooks.store_results(state, intervals=hooks.intervals())
    say(results_table(results, run.tasks, output))
    return results


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


def _train(
    make_trainer: Callable[[RunLog], Trainer], hooks: RunHooks, output: Path, *, resume: bool, command: list[str]
) -> TrainState:
    """Trains from the newest checkpoint, or from the first step, to the end of the plan."""
    checkpoint, damaged = load_newest(output / "checkpoints") if resume else (None, [])
    for line in damaged:
        hooks.say(f"warning: passed over a damaged checkpoint: {line}")
    if resume:
        found = (
            f"resuming after step {checkpoint.step:,}" if checkpoint else "no checkpoint: starting from the first step"
        )
        hooks.say(found)
    state = TrainState() if checkpoint is None else TrainState.stored(checkpoint)
    continued = f"continue with:\n  {resume_command(command)}"
    try:
        with contextlib.closing(RunLog(output, position=state.log_position, step=state.step)) as log:
            trainer = make_trainer(log)
            if checkpoint is not None:
                trainer.restore(checkpoint)
            with hooks.bar(trainer.state.step), StopSignal().installed() as stop:
                trainer.fit(stop)
    except Interrupted as error:
        raise Interrupted(error.signal_number, f"{error}; {continued}") from None
    except StorageError as error:
        raise StorageError(f"{error}; {continued}") from error
    return trainer.state


def make_accelerator(run: Run) -> Accelerator:
    """The device and precision of a run.

    Raises:
        UserError: The device cannot compute in the precision asked for, or several processes were launched.
    """
    precision = run.config.train.precision
    AcceleratorState._reset_state()  # it is one for the process, and an earlier run may have had another precision
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
    if accelerator.num_processes > 1:
        raise UserError.of("launch", "several processes are not supported yet; start one")
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError.of("--precision", "fp16 needs a GPU; bf16 works on the CPU")
    return accelerator


def prepare_splits(checked: Checked, tokenizer: Any) -> dict[str, dict[str, Examples]]:
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
            )
            for split, source in checked.data.sources[name].items()
        }
        train, examples = run.config.train, splits[name]["train"]
        if run.config.leaks == "drop":
            examples = without_leaks(task, examples, checked.data.leaks.leaked[f"{name}/train"])
            if len(examples) == 0:
                raise UserError.of("--leaks drop", f"leaves {name} no training rows: all stand in evaluation rows")
        splits[name]["train"] = few_shot(task, examples, train.train_size, train.train_fraction, train.seed)
    return splits


def data_notes(checked: Checked) -> list[str]:
    """What was found of the data before it was tokenised."""
    lines = [f"note: {note}" for note in checked.data.notes]
    warn = checked.run.config.leaks == "warn"
    leaks = [f"{'warning' if warn else 'note'}: {leak}" for leak in checked.data.leaks.leaks()]
    if warn and leaks:
        leaks.append("note: --leaks drop leaves such training rows out, --leaks ignore does not look for them")
    return lines + leaks


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

    def __init__(
        self, run: Run, model: MultiTaskModel, tokenizer: Any, splits: Splits, plan: Plan, output: Path, say: Say
    ) -> None:
        self.run, self.model, self.tokenizer, self.splits = run, model, tokenizer, splits
        self.plan, self.output = plan, output
        self._bar: Any = None
        self._outputs: dict[str, dict[str, Outputs]] = {}
        self._say = say

    def bar(self, done: int) -> Any:
        """The progress bar, silent unless stderr is a terminal."""
        self._bar = tqdm(
            total=self.plan.steps, initial=done, unit="step", disable=None, file=sys.stderr, dynamic_ncols=True
        )
        return self._bar

    def say(self, line: str) -> None:
        if self._bar is not None and not self._bar.disable:
            self._bar.clear()
        self._say(line)

    def progress(self, step: int, task: str, loss: float | None) -> None:
        if loss is None:
            self._bar.update(step - self._bar.n)
        else:
            self._bar.set_postfix_str(f"{task} loss {loss:.3f}")

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
                    self.run.config.evaluation.batch_size,
                )
                self._outputs[name][split] = outputs
                results[name][split] = score(task, outputs, examples)
        return results

    def keep_best(self, task: str, step: int) -> None:
        for split, outputs in self._outputs[task].items():
            records = prediction_records(self.run.tasks[task], outputs, self.splits[task][split])
            write_predictions(predictions_file(self.output, task, split), records)
        metrics = {
            split: score(self.run.tasks[task], o, self.splits[task][split]) for split, o in self._outputs[task].items()
        }
        loaded = task_of(self.model, task, self.run.tasks[task], self.tokenizer)
        save_export(loaded, task, self.output / "best" / task, metrics, verify=False)

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        save_checkpoint(self.output / "checkpoints", checkpoint, self.run.config.checkpoint.keep_last)

    def report(self, step: int, metrics: Mapping[str, Any], improved: Mapping[str, bool], state: TrainState) -> None:
        self.say(evaluation_line(step, self.plan.steps, metrics, improved, self.run.tasks))
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
                    self.say(f"warning: no intervals of {name}/{split}: {error}")
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
            "steps": state.step,
            "planned_steps": self.plan.steps,
            "skipped_steps": state.skipped,
            "nonfinite_steps": state.nonfinite,
            "finished": intervals is not None,
        }
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
