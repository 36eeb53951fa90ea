"""The training loop of both phases and its state."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor
from torch.nn.utils import get_total_norm

from mtl.batch import Batch, BatchStream, collate
from mtl.checkpoint import Checkpoint
from mtl.config import Run
from mtl.errors import Interrupted, NonFiniteError, UserError, listed
from mtl.metrics import is_better
from mtl.objective import Objective, Share
from mtl.optimizer import learning_rate_factor, make_optimizer
from mtl.plan import Plan
from mtl.proximal import momentum, update_teacher
from mtl.runlog import Writer


class Hooks(Protocol):
    """What the loop asks of its surroundings."""

    def evaluate(self, step: int) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        """Metrics by task and split, with predictions set aside until `keep_best`."""

    def keep_best(self, task: str, step: int) -> None:
        """Keeps the evaluated task's model and predictions."""

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint."""

    def progress(self, step: int, task: str, loss: float | None) -> None:
        """Shows a step."""

    def report(self, step: int, metrics: Mapping[str, Any], improved: Mapping[str, bool], state: TrainState) -> None:
        """Shows and stores an evaluation."""


Number = Annotated[int, Field(ge=0)]


@dataclass
class TrainState:
    """What the loop remembers beside tensors.

    Attributes:
        step: Optimizer steps done.
        best: Task to its best step and the metrics by split there.
        last: Task to the metrics by split at the newest evaluation.
        stale: Evaluations since any task got better.
        skipped: Steps that a loss scaler left out because of an overflow.
        nonfinite: Steps left out because a term or the gradient was NaN or infinite.
        log_position: Size of the log, in bytes.
    """

    step: Number = 0
    best: dict[str, dict[str, Any]] = field(default_factory=dict)
    last: dict[str, dict[str, Any]] = field(default_factory=dict)
    stale: Number = 0
    skipped: Number = 0
    nonfinite: Number = 0
    log_position: Number = 0

    @classmethod
    def stored(cls, checkpoint: Checkpoint) -> TrainState:
        """What a checkpoint holds.

        Raises:
            UserError: It is of another version.
        """
        try:
            own = {key.name: checkpoint.state[key.name] for key in fields(cls)}
            return TypeAdapter(cls).validate_json(json.dumps(own), strict=True)
        except (KeyError, ValidationError) as error:
            message = f"the checkpoint of step {checkpoint.step:,} is not one of this run ({type(error).__name__})"
            raise UserError.of("--resume", message) from error


class StopSignal:
    """Notes SIGINT and SIGTERM, so that the loop can finish its step; a second one interrupts at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextlib.contextmanager
    def installed(self) -> Iterator[StopSignal]:
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.received is not None:
            raise Interrupted(number, "stopped at once; the checkpoints written before are intact")
        self.received = number


class Trainer:
    """Trains an objective through a plan.

    Args:
        run: Configuration and tasks.
        objective: Student and teacher.
        streams: Each task's training batches.
        plan: The steps.
        pad_id: The tokenizer's padding id.
        accelerator: Device, precision and processes.
        writer: The log.
        hooks: Evaluation, files and display.
    """

    def __init__(
        self,
        run: Run,
        objective: Objective,
        streams: Mapping[str, BatchStream],
        plan: Plan,
        pad_id: int,
        accelerator: Accelerator,
        writer: Writer,
        hooks: Hooks,
    ) -> None:
        self.run, self.plan, self.pad_id, self.accelerator, self.writer, self.hooks = (
            run, plan, pad_id, accelerator, writer, hooks,
        )  # fmt: skip
        self.names, self.streams = list(streams), list(streams.values())
        self.state = TrainState()
        objective.model.to(accelerator.device)
        if objective.teacher is not None:
            objective.teacher.to(accelerator.device)
        self.plain, self.student, self.teacher = objective, objective.model, objective.teacher
        self.optimizer: Any
        self.objective: Any
        self.objective, self.optimizer = accelerator.prepare(
            objective, make_optimizer(self.student.named_tensors(), run.config.optimizer)
        )
        self._unwritten: list[dict[str, Any]] = []

    def fit(self, stop: StopSignal) -> None:
        """Trains to the end of the plan.

        Raises:
            Interrupted: A signal came; the state was saved.
            NonFiniteError: A term became NaN or infinite.
        """
        every = self.run.config.checkpoint.every or self.plan.evaluate_every
        while self.state.step < self.plan.steps and not self._exhausted():
            self.step(self.state.step)
            self.state.step += 1
            last = self.state.step == self.plan.steps
            if self.state.step % self.run.config.train.log_every == 0 or last:
                self._flush()
            if self.state.step % self.plan.evaluate_every == 0 or last:
                self._evaluate()
            done = last or self._exhausted()
            if self.state.step % every == 0 or done or stop.received is not None:
                self._checkpoint()
            if stop.received is not None and not done:
                raise Interrupted(stop.received, f"stopped by signal {stop.received} after step {self.state.step:,}")

    def _exhausted(self) -> bool:
        patience = self.run.config.evaluation.patience
        return patience is not None and self.state.stale >= patience

    def step(self, step: int) -> None:
        """One optimizer step on one task: forward and backward by micro-batch, one clipping, one update."""
        index = int(self.plan.sequence[step])
        name, stream = self.names[index], self.streams[index]
        task = self.run.tasks[name]
        rate = task.learning_rate * learning_rate_factor(step, self.plan.steps, self.run.config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        turn = int(self.plan.turns[step])
        micro = self._micro_batches(stream, turn, task.type)
        share = Share.whole(micro)
        self.objective.train()
        totals: dict[str, Tensor] = {}
        for batch in micro:
            loss, terms = self.objective(name, batch.to(self.accelerator.device), turn, share)
            self.accelerator.backward(loss)
            for key, term in terms.items():
                totals[key] = totals[key] + term if key in totals else term
        norm = self._clip()
        cost = self.plain.cost(name, turn)
        record = {"step": step + 1, "task": name, **totals, "gradient_norm": norm, "learning_rate": rate, "cost": cost}
        if left_out := self._is_left_out(record):
            self.state.nonfinite += 1
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()
        if not left_out and self.accelerator.optimizer_step_was_skipped:
            left_out = True
            self.state.skipped += 1
        elif not left_out and self.teacher is not None and (step + 1) % task.proximal.inner_steps == 0:
            beta = momentum(step + 1, self.plan.steps, task.proximal)
            update_teacher(self.teacher.parameters(), self.student.parameters(), beta)
        self._unwritten.append(record | ({"skipped": 1} if left_out else {}))
        self.hooks.progress(step + 1, name, None)

    def _clip(self) -> Tensor:
        """Bounds the norm of the whole gradient and returns what it was.

        A fused optimizer scales gradients as it reads them, which spares a pass over all of them.
        """
        limit, optimizer = self.run.config.train.clip_norm, self.optimizer.optimizer
        if self.accelerator.scaler is not None or not optimizer.defaults.get("fused"):
            norm: Tensor = self.accelerator.clip_grad_norm_(self.student.parameters(), limit)
            return norm
        norm = get_total_norm([p.grad for p in self.student.parameters() if p.grad is not None])
        optimizer.grad_scale = (norm / limit).clamp(min=1.0)
        return norm

    def _is_left_out(self, record: Mapping[str, Any]) -> bool:
        """Whether a step is skipped for what it came to. Under fp16 the loss scaler decides that itself.

        Raises:
            NonFiniteError: More steps are than may be.
        """
        if self.run.config.train.on_nonfinite == "stop" or self.accelerator.scaler is not None:
            return False
        values = {key: float(value) for key, value in record.items() if isinstance(value, Tensor)}
        fault = self._fault({**record, **values})
        if fault is not None and self.state.nonfinite == self.run.config.train.max_skipped:
            raise NonFiniteError(f"{fault}; that is one step more than train.max_skipped lets be skipped")
        return fault is not None

    def _fault(self, record: Mapping[str, Any]) -> str | None:
        """What is not finite in a step, with its task, number, term and rows."""
        scaled = self.accelerator.scaler is not None  # an overflow is the scaler's business
        for key, value in record.items():
            if isinstance(value, float) and not math.isfinite(value) and not (scaled and key == "gradient_norm"):
                index, turn = self.names.index(record["task"]), int(self.plan.turns[record["step"] - 1])
                rows = np.sort(self.streams[index].examples.rows[self.streams[index][turn]]) + 1
                where = f"task {record['task']!r}, step {record['step']:,}"
                return f"{where}: the {TERM_NAMES.get(key, key)} is {value}; training rows {listed(rows.tolist(), 40)}"
        return None

    def _micro_batches(self, stream: BatchStream, turn: int, task_type: str) -> list[Batch]:
        chosen = stream[turn]
        parts = self.run.config.train.accumulation
        if task_type == "ranking":  # a query's candidates stay together
            groups = stream.examples.groups[chosen]
            starts = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
            cuts = [starts[len(starts) * part // parts] for part in range(1, parts)]
        else:
            cuts = [len(chosen) * part // parts for part in range(1, parts)]
        pieces = [piece for piece in np.split(chosen, cuts) if len(piece)]
        return [collate(stream.examples, piece, self.pad_id, task_type) for piece in pieces]

    def _flush(self) -> None:
        """Writes the steps since the last flush. Their numbers are fetched from the device here, all at once."""
        if not self._unwritten:
            return
        keys = [
            (record, key) for record in self._unwritten for key, value in record.items() if isinstance(value, Tensor)
        ]
        values = torch.stack([record[key].detach().double().reshape(()) for record, key in keys]).tolist()
        for (record, key), value in zip(keys, values, strict=True):
            record[key] = value
        records, self._unwritten = self._unwritten, []
        for record in records:
            if "skipped" not in record and (fault := self._fault(record)):
                raise NonFiniteError(f"{fault}; the checkpoints written before are intact")
            self.writer.step(record | split_smoothness(record, self.run.tasks[record["task"]].smart.dropout))
        self.hooks.progress(records[-1]["step"], records[-1]["task"], records[-1]["loss"])

    def _evaluate(self) -> None:
        self._flush()
        step = self.state.step
        results = self.hooks.evaluate(step)
        improved = {}
        for name, splits in results.items():
            metric = self.run.tasks[name].metrics[0]
            for split, metrics in splits.items():
                self.writer.evaluation({"step": step, "task": name, "split": split, "metrics": metrics})
            value = splits["validation"][metric]
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"task {name!r}, step {step:,}: the {metric} of validation is {value}: outputs diverged"
                )
            best = self.state.best.get(name)
            improved[name] = is_better(metric, value, best["splits"]["validation"][metric] if best else None)
            if improved[name]:
                self.state.best[name] = {"step": step, "splits": splits}
                self.hooks.keep_best(name, step)
        self.state.last = {name: dict(splits) for name, splits in results.items()}
        self.state.stale = 0 if any(improved.values()) else self.state.stale + 1
        self.hooks.report(step, results, improved, self.state)

    def _checkpoint(self) -> None:
        self._flush()
        self.state.log_position = self.writer.position()
        self.hooks.checkpoint(self.snapshot())

    def snapshot(self) -> Checkpoint:
        """The complete state: student, teacher, optimizer, generators, and the rest as JSON."""
        tensors = {
            "model": self.student.named_tensors(),
            "optimizer": dict(self._optimizer_tensors()),
            "random": _random_tensors(self.accelerator.device),
        }
        if self.teacher is not None:
            tensors["teacher"] = self.teacher.named_tensors()
        scaler = None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
        return Checkpoint(self.state.step, tensors, {**asdict(self.state), "scaler": scaler})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continues from a checkpoint.

        Raises:
            UserError: It is of another model or another version.
        """
        try:
            self._restore(checkpoint)
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
            message = f"the checkpoint of step {checkpoint.step:,} is not one of this run ({reason})"
            raise UserError.of("--resume", message) from error

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.student.load_tensors(checkpoint.tensors["model"])
        if self.teacher is not None:
            self.teacher.load_tensors(checkpoint.tensors["teacher"])
        self._restore_optimizer(checkpoint.tensors["optimizer"])
        if self.accelerator.scaler is not None and checkpoint.state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
        _restore_random(checkpoint.tensors["random"], self.accelerator.device)
        self.state = TrainState.stored(checkpoint)

    def _restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        optimizer = self.optimizer.optimizer
        names = {parameter: name for name, parameter in self.student.named_tensors().items()}
        ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            name, _, entry = key.rpartition(".")
            state.setdefault(ordered.index(name), {})[entry] = tensor
        # The optimizer's own loading decides which entry belongs on which device.
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def _optimizer_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Optimizer state named by parameter, so that it does not depend on the order of parameters."""
        for name, parameter in self.student.named_tensors().items():
            for key, value in self.optimizer.optimizer.state.get(parameter, {}).items():
                yield f"{name}.{key}", value if isinstance(value, Tensor) else torch.tensor(float(value))


def split_smoothness(record: Mapping[str, Any], dropout: str) -> dict[str, float]:
    """R_s taken apart: what dropout makes of it, what the perturbation adds, and the ascent's gain over noise.

    Args:
        record: A step's terms, as numbers.
        dropout: The task's `smart.dropout`; under shared masks dropout makes nothing.
    """
    if "smart" not in record:
        return {}
    parts = {"smart_dropout": 0.0} if dropout == "shared" else {}
    of_dropout = record.get("smart_dropout", parts.get("smart_dropout"))
    if of_dropout is not None:
        parts["smart_adversarial"] = record["smart"] - of_dropout
    if record.get("smart_noise", 0.0) > 0:
        parts["smart_gain"] = record["smart"] / record["smart_noise"]
    return parts


TERM_NAMES = {
    "loss": "task loss",
    "smart": "smoothness term R_s",
    "proximal": "proximal term D",
    "gradient_norm": "gradient",
}


def _random_tensors(device: torch.device) -> dict[str, Tensor]:
    tensors = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        tensors[device.type] = torch.get_device_module(device).get_rng_state(device)
    return tensors


def _restore_random(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(tensors["cpu"])
    if device.type in tensors and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(tensors[device.type], device)
