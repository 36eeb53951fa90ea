"""The training loop of both phases."""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import get_total_norm

from mtl.batch import BatchStream, collate, micro_batches
from mtl.best import Best
from mtl.checkpoint import Checkpoint
from mtl.config import Run
from mtl.data import Examples, Ints
from mtl.errors import Interrupted, NonFiniteError, listed
from mtl.metrics import is_better
from mtl.objective import Divisors, Objective
from mtl.optimizer import learning_rate_factor, make_optimizer
from mtl.plan import Plan
from mtl.probe import Probe
from mtl.processes import Processes
from mtl.proximal import momentum, update_teacher
from mtl.run_log import Log
from mtl.shards import is_sharded, own_piece, whole
from mtl.state import Tensors, TrainState
from mtl.stop import StopSignal


class Hooks:
    """Callbacks of the training loop, for evaluation, files and display; these do nothing."""

    def evaluate(self) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        """Compute metrics by task and split, and hold the predictions for `keep_best`."""
        return {}

    def keep_best(self, task: str, best: Best, before: Best | None) -> None:
        """Store a task's model and predictions as its best, in place of those of the best step before."""

    def checkpoint(self, checkpoint: Checkpoint, *, last: bool) -> None:
        """Write a checkpoint; `last` if the run is over."""

    def progress(self, step: int, task: str) -> None:
        """Show a step."""

    def logged(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Show steps that have been logged, with their terms as numbers."""

    def report(self, step: int, metrics: Mapping[str, Any], state: TrainState) -> None:
        """Show and store an evaluation."""


class Trainer:
    """Trains an objective as planned.

    Args:
        run: Configuration and tasks.
        objective: Student and teacher.
        streams: Each task's training batches.
        plan: The steps.
        pad_id: The tokenizer's padding id.
        accelerator: Device, precision and processes.
        writer: The log.
        hooks: Evaluation, files and display.
        processes: The processes of the run; each has a trainer and takes the same steps on its part of the rows.
        probe: Measures the tasks' gradients now and then; None for no measurements.
    """

    def __init__(
        self,
        run: Run,
        objective: Objective,
        streams: Mapping[str, BatchStream],
        plan: Plan,
        pad_id: int,
        accelerator: Accelerator,
        writer: Log,
        hooks: Hooks,
        processes: Processes,
        probe: Probe | None = None,
    ) -> None:
        self.run, self.plan, self.pad_id = run, plan, pad_id
        self.accelerator, self.processes = accelerator, processes
        self.writer, self.hooks, self.probe = writer, hooks, probe
        self.names, self.streams = list(streams), streams
        self.state = TrainState()
        self.unwrapped, self.student, self.teacher = objective, objective.model, objective.teacher
        self.optimizer: Any
        self.objective: Any
        self.sharded = is_sharded(self.student)
        parameters = self.student.named_tensors()
        optimizer = make_optimizer(parameters, run.config.optimizer, self.student.scales)
        self._scaled = [(parameters[name], scale) for name, scale in self.student.scales.items()]
        if self.sharded:
            self.objective, self.optimizer = objective, accelerator.prepare_optimizer(optimizer)
        else:
            self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        self.tensors = Tensors(
            self.student,
            self.teacher,
            self.optimizer.optimizer,
            accelerator.scaler,
            accelerator.device,
            processes,
            run.config.train.seed,
        )
        self._unwritten: list[dict[str, Any]] = []

    def fit(self, stop: StopSignal) -> None:
        """Train to the end of the plan.

        Raises:
            Interrupted: A signal was received; the state has been saved.
            NonFiniteError: A term, the gradient or a metric is NaN or infinite.
        """
        every = self.run.config.checkpoint.every or self.plan.evaluate_every
        while not self.is_done:
            self.step(self.state.step)
            self.state.step += 1
            asked = self.processes.agreed(stop.received or 0)
            last = self.state.step == self.plan.steps
            if self.state.step % self.run.config.train.log_every == 0 or last:
                self._flush()
            if self.probe is not None and self.probe.due(self.state.step):
                self._flush()
                self.writer.gradients({"step": self.state.step, **self.probe.measure()})
            if self.state.step % self.plan.evaluate_every == 0 or last:
                self._evaluate()
            if self.state.step % every == 0 or self.is_done or asked:
                self._checkpoint()
            if asked and not self.is_done:
                raise Interrupted(asked, f"stopped by {signal.Signals(asked).name} after step {self.state.step:,}")

    @property
    def is_done(self) -> bool:
        return self.state.is_done(self.plan.steps, self.run.config.evaluation.patience)

    def step(self, step: int) -> list[dict[str, Any]]:
        """Take an optimizer step on its tasks: forward and backward by micro-batch, one clipping, one update.

        Returns:
            A record for each task; see `numbers`.
        """
        names = [self.names[index] for index in self.plan.sequence[step].tolist()]
        tasks = [self.run.tasks[name] for name in names]
        rate = float(np.mean([task.learning_rate for task in tasks]))
        rate *= learning_rate_factor(step, self.plan.steps, self.run.config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.objective.train()
        records = []
        for place, (name, turn) in enumerate(zip(names, self.plan.turns[step].tolist(), strict=True)):
            terms = self._backward(name, turn, share=1 / len(names), last=place == len(names) - 1)
            cost = self.unwrapped.cost(name, turn)
            records.append({"step": step + 1, "task": name, "turn": turn, **terms, "learning_rate": rate, "cost": cost})
        for parameter, scale in self._scaled:
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        norm = self._clip()
        for record in records:
            record["gradient_norm"] = norm
        taken = self._update(step, records, norm)
        self._unwritten += records if taken else [record | {"skipped": 1} for record in records]
        self.hooks.progress(step + 1, names[-1])
        return records

    def _update(self, step: int, records: list[dict[str, Any]], norm: Tensor) -> bool:
        """Update student and teacher with the gradient, which is then 0; False if the step is skipped and counted."""
        if self._skips_nonfinite(records):
            self.state.nonfinite += 1
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.update()
            self.optimizer.zero_grad()
            return False
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self._overflowed(norm):
            self.state.skipped += 1
            return False
        self._move_teacher(step)
        return True

    def _backward(self, name: str, turn: int, *, share: float, last: bool) -> dict[str, Tensor]:
        """Accumulate the gradient of this process's part of a task's batch, and return that part's terms.

        Args:
            name: The task.
            turn: Number of its earlier batches.
            share: Weight of its objective in the step.
            last: Whether this is the last batch of the step, after which processes exchange gradients.
        """
        task, examples, chosen = self.run.tasks[name], self._examples(name), self._batch(name, turn)
        ranking, here = task.type == "ranking", self.run.config.train.accumulation
        of_batch = Divisors.of(examples, chosen, ranking=ranking)
        pieces = micro_batches(examples, chosen, here * self.processes.count, ranking=ranking)
        parts = [[p for p in pieces[here * rank :][:here] if len(p)] for rank in range(self.processes.count)]
        own = [(piece, of_batch) for piece in parts[self.processes.rank]]
        # With fewer rows than processes, some compute a gradient of 0: the exchange needs one from every process, and
        # in a sharded run in every pass.
        least = max(map(len, parts)) if self.sharded else 1
        own += [(next(filter(len, pieces)), Divisors.nothing())] * (least - len(own))
        totals: dict[str, Tensor] = {}
        for number, (piece, divisors) in enumerate(own):
            batch = collate(examples, piece, self.pad_id, task.type).to(self.accelerator.device)
            with self._exchanging(last and number == len(own) - 1):
                with self.accelerator.autocast() if self.sharded else contextlib.nullcontext():
                    loss, terms = self.objective(name, batch, turn, divisors)
                # The exchange computes a mean where a sum is needed.
                self.accelerator.backward(loss * (share * self.processes.count))
            for key, term in terms.items():
                totals[key] = totals[key] + term if key in totals else term
        return totals

    def _exchanging(self, exchange: bool) -> contextlib.AbstractContextManager[Any]:
        # Sharded gradients are exchanged in every pass: accumulating full ones would take the memory that shards save.
        return contextlib.nullcontext() if exchange or self.sharded else self.accelerator.no_sync(self.objective)

    def _examples(self, name: str) -> Examples:
        return self.streams[name].examples

    def _batch(self, name: str, turn: int) -> Ints:
        return self.streams[name][turn]

    def _overflowed(self, norm: Tensor) -> bool:
        """Whether fp16's loss scaler skipped the step. A fused optimizer skips by itself, without reporting it."""
        return self.accelerator.scaler is not None and not bool(norm.isfinite())

    def _move_teacher(self, step: int) -> None:
        """Update θ̃ with the mean β of the run's tasks that have the proximal term and update at this step."""
        settings = [task.proximal for task in self.unwrapped.tasks.values() if task.proximal.weight > 0]
        moving = [s for s in settings if (step + 1) % s.inner_steps == 0]
        if self.teacher is not None and moving:
            beta = float(np.mean([momentum(step + 1, self.plan.steps, s) for s in moving]))
            update_teacher(map(own_piece, self.teacher.parameters()), map(own_piece, self.student.parameters()), beta)

    def _clip(self) -> Tensor:
        """Clip the norm of the whole gradient, and return the norm before clipping.

        A fused optimizer scales gradients while it reads them, which saves a pass over all of them.
        """
        limit, optimizer = self.run.config.train.clip_norm, self.optimizer.optimizer
        single = self.student.dtype == torch.float32 and not self.sharded
        if self.accelerator.scaler is not None or not optimizer.defaults.get("fused") or not single:
            norm: Tensor = self.accelerator.clip_grad_norm_(self.student.parameters(), limit)
            return whole(norm)
        norm = get_total_norm([p.grad for p in self.student.parameters() if p.grad is not None])
        optimizer.grad_scale = (norm / limit).clamp(min=1.0)
        return norm

    def _skips_nonfinite(self, records: list[dict[str, Any]]) -> bool:
        """Whether to skip a step because of a value that is not finite; fp16's overflows are left to the loss scaler.

        Raises:
            NonFiniteError: More steps would be skipped than `train.max_skipped` allows.
        """
        if self.run.config.train.on_nonfinite == "stop":
            return False
        fault = self._fault(self.numbers(records))
        if fault is not None and self.state.nonfinite == self.run.config.train.max_skipped:
            raise NonFiniteError(f"{fault}; that is one skipped step more than train.max_skipped allows; {ADVICE}")
        return fault is not None

    def _fault(self, records: Sequence[Mapping[str, Any]]) -> str | None:
        """Message with task, step, term and training rows if a value of a step is not finite, else None.

        The gradient, which all tasks of a step share, is blamed on all of them, and only if every term is finite.
        """
        found = [
            (record, key)
            for record in records
            for key, value in record.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        terms = [(record, key) for record, key in found if key != "gradient_norm"]
        scaled = self.accelerator.scaler is not None  # the loss scaler handles overflows
        told = []
        for record, key in terms[:1] or ([] if scaled else found):
            name = record["task"]
            rows = np.sort(self._examples(name).rows[self._batch(name, record["turn"])])
            what = f"task {name!r}, step {record['step']:,}: the {TERM_NAMES.get(key, key)} is {record[key]}"
            told.append(f"{what}; training rows, counted from 0: {listed(rows.tolist())}")
        return "; ".join(told) or None

    def numbers(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Replace tensors in records by numbers, summed over the processes, with one transfer from the device."""
        keys = [
            (place, key) for place, r in enumerate(records) for key, value in r.items() if isinstance(value, Tensor)
        ]
        exact = torch.float32 if self.accelerator.device.type == "mps" else torch.float64  # mps has no float64
        tensors = [records[place][key].detach().to(exact).reshape(()) for place, key in keys]
        # The norm is that of the exchanged gradient, the same in every process: divided, it sums to itself.
        parts = [
            t / self.processes.count if key == "gradient_norm" else t for t, (_, key) in zip(tensors, keys, strict=True)
        ]
        numbers = [dict(record) for record in records]
        for (place, key), value in zip(keys, self.processes.total(torch.stack(parts)).tolist(), strict=True):
            numbers[place][key] = value
        return numbers

    def _flush(self) -> None:
        """Log the steps since the last flush."""
        if not self._unwritten:
            return
        records, self._unwritten = self.numbers(self._unwritten), []
        for _, step in itertools.groupby(records, key=itemgetter("step")):
            own = list(step)
            if self.run.config.train.on_nonfinite == "stop" and (fault := self._fault(own)):
                raise NonFiniteError(f"{fault}; the checkpoints written before are intact; {ADVICE}")
            for record in own:
                dropout, precision = self.run.tasks[record["task"]].smart.dropout, self.run.config.train.precision
                self.writer.step(record | split_smoothness(record, dropout, precision))
        self.hooks.logged(records)

    def _evaluate(self) -> None:
        self._flush()
        step = self.state.step
        results = self.hooks.evaluate()
        improved = {}
        for name, splits in results.items():
            metric = self.run.tasks[name].metrics[0]
            for split, metrics in splits.items():
                self.writer.evaluation({"step": step, "task": name, "split": split, "metrics": metrics})
            deciding = self.run.selection_split
            value = splits[deciding][metric]
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"task {name!r}, step {step:,}: the {metric} of {deciding} is {value}: outputs diverged; {ADVICE}"
                )
            best = self.state.best.get(name)
            improved[name] = is_better(metric, value, best.splits[deciding][metric] if best else None)
            if improved[name]:
                self.state.best[name] = Best(step, splits)
                self.hooks.keep_best(name, self.state.best[name], best)
        self.state.last = {name: dict(splits) for name, splits in results.items()}
        self.state.stale = 0 if any(improved.values()) else self.state.stale + 1
        self.hooks.report(step, results, self.state)

    def _checkpoint(self) -> None:
        self._flush()
        self.state.log_position = self.writer.position()
        self.hooks.checkpoint(self.tensors.snapshot(self.state), last=self.is_done)


def split_smoothness(record: Mapping[str, Any], dropout: str, precision: str = "fp32") -> dict[str, float]:
    """Decompose R_s: the part due to dropout, the part that the perturbation adds, and the ascent's gain over noise.

    Args:
        record: A step's terms, as numbers.
        dropout: The task's `smart.dropout`; with shared masks, the part due to dropout is 0.
        precision: The run's precision. In half precision R_s at the noise is mostly rounding, so there is no gain.
    """
    if "smart" not in record:
        return {}
    parts = {"smart_dropout": 0.0} if dropout == "shared" else {}
    of_dropout = record.get("smart_dropout", parts.get("smart_dropout"))
    if of_dropout is not None:
        parts["smart_adversarial"] = record["smart"] - of_dropout
    if record.get("smart_noise", 0.0) > 0 and precision == "fp32":
        parts["smart_gain"] = record["smart"] / record["smart_noise"]
    return parts


ADVICE = "try a lower --learning-rate"  # ends messages about values that are not finite

TERM_NAMES = {
    "loss": "task loss",
    "smart": "smoothness term R_s",
    "proximal": "proximal term D",
    "gradient_norm": "gradient",
}
