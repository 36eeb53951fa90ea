"""What a run needs to start: tokenised data in batches, a plan, and the model on its device."""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from mtl.architecture import architecture_warnings, require_known_tokens
from mtl.batch import BatchStream
from mtl.config import Run, TrainSettings
from mtl.data import Examples, prepare
from mtl.errors import UserError
from mtl.heads import stored_head
from mtl.launch import SHARDED, launcher_warnings
from mtl.leaks import Leak
from mtl.machine import device_name
from mtl.model import MultiTaskModel, build_model, load_model
from mtl.objective import Objective, with_class_weights
from mtl.plan import Plan, make_plan
from mtl.precision import erased_perturbations, precision_warnings
from mtl.preflight import Checked
from mtl.probe import Probe
from mtl.processes import Processes, make_accelerator
from mtl.run_files import earlier_runs
from mtl.run_log import Log
from mtl.run_start import Splits, fingerprints
from mtl.scale import Scale, scale_of
from mtl.shards import gather, is_sharded, shard
from mtl.subsets import few_shot, hold_out, repeated, without_leaks
from mtl.taskdef import TaskDef
from mtl.tokenizer import load_config, load_tokenizer, usable_length
from mtl.trainer import Hooks, Trainer

_RUNS = count()  # runs of this process so far


@dataclass(frozen=True)
class RunSetup:
    """A run that is ready to start.

    Attributes:
        run: Configuration and tasks.
        processes: The processes of the run.
        accelerator: Device and precision.
        tokenizer: The encoder's tokenizer.
        splits: Tokenised data by task and split.
        streams: Each task's training batches.
        plan: The steps.
        objective: Student, on its device, and teacher.
        limit: Longest input, in tokens, that both tokenizer and encoder accept.
        copy: Full copy of the model, to gather weights into before writing; in the main process of a sharded run only.
    """

    run: Run
    processes: Processes
    accelerator: Accelerator
    tokenizer: Any
    splits: Splits
    streams: dict[str, BatchStream]
    plan: Plan
    objective: Objective
    limit: int
    seen: list[Leak]
    copy: MultiTaskModel | None = None

    def whole(self, model: MultiTaskModel) -> MultiTaskModel | None:
        """The full model in the main process, None in the others; every process has to call this."""
        if is_sharded(model):
            gather(model, self.copy)
            return self.copy
        return model if self.processes.is_main else None

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @property
    def hardware(self) -> dict[str, Any]:
        """Name of the main process's device, and number of processes."""
        return {"device": device_name(self.accelerator.device), "processes": self.processes.count}

    def trainer(self, log: Log, hooks: Hooks) -> Trainer:
        """Create the trainer, with its log and hooks."""
        probe = None
        if self.run.config.telemetry.gradient_cosine_every is not None and len(self.run.tasks) > 1:
            probe = Probe(self.run, self.objective, self.streams, self.pad_id, self.processes)
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
            probe,
        )


def set_up(checked: Checked, processes: Processes, *, bar: bool = True) -> RunSetup:
    """Prepare data and model of a run.

    Raises:
        UserError: The data cannot be used, the encoder cannot be loaded, a setting is not supported on this device, or
            the processes have different data.
    """
    run = checked.run
    if next(_RUNS):  # not before the first run, which it would delay
        gc.collect()  # frees models of the previous run, which Accelerate leaves in reference cycles
    accelerator = processes.together(
        lambda: make_accelerator(run.config.train.precision, run.config.telemetry.trackers)
    )
    if run.config.train.gradient_checkpointing and accelerator.device.type == "mps":
        # torch.utils.checkpoint does not restore this device's random state: pytorch issue 194478.
        told = "would compute wrong gradients on mps, with other dropout masks than in the forward pass"
        raise UserError.of("train.gradient_checkpointing", told)
    tokenizer = load_tokenizer(checked.encoder, trust_remote_code=run.config.trust_remote_code)
    limit = longest_input(checked, tokenizer)
    splits = processes.main_first(lambda: prepare_splits(checked, tokenizer, limit, bar=bar))
    processes.require_same(fingerprints(splits), "data")
    seen = processes.together(lambda: held_out_before(checked, splits, tokenizer, limit))
    checked.data.add_before(seen)
    scales = scale_labels(run, splits)
    streams = make_streams(run, splits)
    torch.manual_seed(run.config.train.seed)
    model = make_model(checked, scales)
    model.pad_with(int(tokenizer.pad_token_id))
    tasks = {name: with_class_weights(run.as_trained(name), splits[name]["train"].labels) for name in run.tasks}
    objective = Objective(model, tasks, run.config.train.seed)
    whole = copy.deepcopy(model) if SHARDED and processes.is_main else None
    for part in (model, objective.teacher):
        if part is not None:
            part.to(accelerator.device)
            if SHARDED:
                shard(part)
    plan = make_plan(run, streams)
    return RunSetup(run, processes, accelerator, tokenizer, splits, streams, plan, objective, limit, seen, whole)


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


def longest_input(checked: Checked, tokenizer: Any) -> int:
    """Longest input, in tokens, that both tokenizer and encoder accept; a task's `max_length` may be larger."""
    config = load_config(checked.encoder, trust_remote_code=checked.run.config.trust_remote_code)
    return usable_length(tokenizer, config)


def prepare_splits(checked: Checked, tokenizer: Any, limit: int, *, bar: bool = True) -> dict[str, dict[str, Examples]]:
    """Tokenise the splits of every task, truncate inputs to `limit` tokens, and select the rows to train on."""
    run = checked.run
    splits: dict[str, dict[str, Examples]] = {}
    for name, task in run.tasks.items():
        splits[name] = {
            split: _prepared(checked, name, split, tokenizer, limit, bar=bar)
            for split in checked.data.sources[name]
            if split == "train" or run.config.train.holdout is None
        }
        splits[name] |= _held_out(run.config.train, name, task, splits[name]["train"])
    held = [parts["holdout"] for parts in splits.values() if "holdout" in parts]
    for name, task in run.tasks.items():
        examples = splits[name]["train"]
        if run.config.leaks == "drop":
            # Recorded for baselines, which hold out no rows of the other tasks but train on the same rows.
            leaked = checked.data.leaks.leaked[f"{name}/train"]
            leaked.update(repeated(examples, held))
            examples = without_leaks(task, examples, leaked)
            if len(examples) == 0:
                told = f"leaves {name} no training rows: all are also evaluation rows"
                raise UserError.of("--leaks drop", f"{told}; --set train.holdout=0.1 takes evaluation rows out instead")
        splits[name]["train"] = _drawn(run.config.train, name, task, examples)
    return splits


def _prepared(checked: Checked, name: str, split: str, tokenizer: Any, limit: int, *, bar: bool) -> Examples:
    task = checked.run.tasks[name]
    return prepare(
        name,
        task,
        checked.data.sources[name][split],
        tokenizer,
        min(task.max_length, limit),
        num_proc=checked.run.config.num_proc,
        rows=checked.data.summaries[name][split].rows,
        bar=bar,
    )


def _held_out(train: TrainSettings, name: str, task: TaskDef, examples: Examples) -> dict[str, Examples]:
    """The rows to train on and, if any are held out, `holdout`; rows left out as leaks do not change which."""
    if train.holdout is None:
        return {"train": examples}
    rest, held = hold_out(name, task, examples, train.holdout, train.holdout_rows, train.seed)
    return {"train": rest, "holdout": held}


def _drawn(train: TrainSettings, name: str, task: TaskDef, examples: Examples) -> Examples:
    size = train.task_sizes.get(name, train.train_size)
    return few_shot(task, examples, size, train.train_fraction, train.seed)


def held_out_before(checked: Checked, splits: Splits, tokenizer: Any, limit: int) -> list[Leak]:
    """Held-out rows that an earlier run of the encoder, which held out others or none of the same data, trained on."""
    run, found = checked.run, []
    if run.config.train.holdout is None or run.config.leaks == "ignore":
        return []
    for earlier in earlier_runs(checked.encoder):
        train = earlier.config.train
        for name, parts in splits.items():
            for other, task in earlier.tasks.items():
                if (task.data, task.type) != (run.tasks[name].data, run.tasks[name].type):
                    continue
                examples = _prepared(checked, name, "train", tokenizer, limit, bar=False)
                with suppress(UserError):  # there are fewer rows than then, so that others would be drawn now
                    examples = _drawn(train, other, task, _held_out(train, other, task, examples)["train"])
                if rows := len(np.intersect1d(parts["holdout"].rows, examples.rows)):
                    found.append(Leak(f"{other} before/train", f"{name}/holdout", rows, "exact"))
    return found


def scale_labels(run: Run, splits: Mapping[str, dict[str, Examples]]) -> dict[str, Scale]:
    """Set `label_scale` in `splits` of regressions whose labels are scaled, and return their scales; see `scale`."""
    found = {}
    for name, task in run.tasks.items():
        if task.type != "regression":
            continue
        scale = scale_of(splits[name]["train"].labels, task.standardize)
        if scale != Scale():
            splits[name]["train"] = replace(splits[name]["train"], label_scale=scale.size)
            found[name] = scale
    return found


def check_model(setup: RunSetup) -> list[str]:
    """Warnings about what the encoder's architecture and the precision do to training.

    Raises:
        UserError: The architecture cannot be trained as asked, or the precision rounds a perturbation away.
    """
    precision = setup.run.config.train.precision
    warnings = launcher_warnings(precision) + precision_warnings(precision, setup.accelerator.device)
    require_known_tokens(setup.objective.model, setup.splits, setup.tokenizer)
    warnings += architecture_warnings(setup.objective, setup.streams, setup.tokenizer)
    if erased := erased_perturbations(setup.objective, setup.streams, setup.pad_id, setup.accelerator):
        raise UserError(erased)
    return warnings


def make_model(checked: Checked, scales: Mapping[str, Scale]) -> MultiTaskModel:
    """Load a pretrained encoder with fresh heads or, in adaptation, the multi-task encoder with a stored or fresh head.

    Args:
        checked: The run.
        scales: Scales of the regressions whose labels are scaled.

    Raises:
        UserError: The encoder cannot be loaded, or does not support gradient checkpointing.
    """
    run = checked.run
    model = _make_model(checked)
    for name, scale in scales.items():
        model.scale_output(name, scale, fresh=run.config.phase == "train" or stored_head(run.config.head, name) is None)
    if run.config.train.gradient_checkpointing:
        if not model.encoder.supports_gradient_checkpointing:
            raise UserError.of("train.gradient_checkpointing", "this encoder's architecture does not support it")
        # Reentrant checkpointing cannot differentiate with respect to inputs alone, as the ascent of R_s does.
        encoder = model.encoder
        enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model


def _make_model(checked: Checked) -> MultiTaskModel:
    run, seed, trust = checked.run, checked.run.config.train.seed, checked.run.config.trust_remote_code
    if run.config.phase == "adapt":
        stored = {task: stored_head(run.config.head, task) for task in run.tasks}
        return load_model(checked.encoder, run.tasks, stored, seed=seed, trust_remote_code=trust)
    return build_model(checked.encoder, run.tasks, seed=seed, trust_remote_code=trust)
