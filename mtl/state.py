"""The state of a training run as stored in checkpoints, independent of the number of processes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from mtl.best import Best, Number
from mtl.checkpoint import Checkpoint
from mtl.errors import UserError, counted, first_line
from mtl.model import MultiTaskModel
from mtl.processes import Processes
from mtl.random_state import RandomState, random_state, restore
from mtl.sampling import derive_seed
from mtl.shards import piece_like, pieces_like, whole


@dataclass
class TrainState:
    """State of the training loop other than tensors.

    Attributes:
        step: Optimizer steps done.
        best: Task to its best step.
        last: Task to the metrics by split at the latest evaluation.
        stale: Evaluations since a task last improved.
        skipped: Steps that the loss scaler skipped because of an overflow.
        nonfinite: Steps skipped because a term or the gradient was NaN or infinite.
        log_position: Size of the log, in bytes.
    """

    step: Number = 0
    best: dict[str, Best] = field(default_factory=dict)
    last: dict[str, dict[str, Any]] = field(default_factory=dict)
    stale: Number = 0
    skipped: Number = 0
    nonfinite: Number = 0
    log_position: Number = 0

    def is_done(self, steps: int, patience: int | None) -> bool:
        """Whether the run is over: all steps are done, or no task improved in `patience` evaluations."""
        return self.step >= steps or (patience is not None and self.stale >= patience)

    def stopped_early(self, steps: int, patience: int | None) -> str | None:
        """Message if the run stopped before its last step, else None."""
        if self.step >= steps or not self.is_done(steps, patience):
            return None
        without = f"no task improved in {counted(self.stale, 'evaluation')} (evaluation.patience)"
        return f"stopped at step {self.step:,} of {steps:,}: {without}"

    @classmethod
    def stored(cls, checkpoint: Checkpoint) -> TrainState:
        """Read the state from a checkpoint.

        Raises:
            UserError: The checkpoint was written by another version.
        """
        try:
            own = {key.name: checkpoint.state[key.name] for key in fields(cls)}
            return TypeAdapter(cls).validate_json(json.dumps(own), strict=True)
        except (KeyError, ValidationError) as error:
            message = f"the checkpoint of step {checkpoint.step:,} does not fit this run ({type(error).__name__})"
            raise UserError.of("--resume", message) from error


@dataclass
class Tensors:
    """The parts of a run that a checkpoint stores as tensors.

    Attributes:
        student: θ.
        teacher: θ̃, if there is one.
        optimizer: The optimizer itself, without Accelerate's wrapper.
        scaler: The loss scaler of fp16, else None.
        device: The device of the run.
        processes: The processes of the run.
        seed: The run's seed.
    """

    student: MultiTaskModel
    teacher: MultiTaskModel | None
    optimizer: torch.optim.Optimizer
    scaler: Any
    device: torch.device
    processes: Processes
    seed: int

    def snapshot(self, state: TrainState) -> Checkpoint:
        """The complete state: student, teacher, optimizer, generators of all processes, and the rest as JSON.

        Every process has to call this. The result is complete in the main process; in the others, sharded tensors are
        missing, as they are gathered one at a time and not kept.
        """
        tensors = {
            "model": self._whole(self.student.named_tensors().items()),
            "optimizer": self._whole(self._optimizer_tensors()),
            "random": self._random_tensors(),
        }
        if self.teacher is not None:
            tensors["teacher"] = self._whole(self.teacher.named_tensors().items())
        scaler = None if self.scaler is None else self.scaler.state_dict()
        return Checkpoint(state.step, tensors, {**asdict(state), "scaler": scaler})

    def restore(self, checkpoint: Checkpoint) -> TrainState:
        """Restore a checkpoint, which may have been written with another number of processes.

        Raises:
            UserError: The checkpoint is of another model or another version.
        """
        try:
            return self._restore(checkpoint)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            message = f"the checkpoint of step {checkpoint.step:,} does not fit this run ({reason})"
            raise UserError.of("--resume", message) from error

    def _restore(self, checkpoint: Checkpoint) -> TrainState:
        for part, model in (("model", self.student), ("teacher", self.teacher)):
            if model is not None:
                model.load_tensors(pieces_like(checkpoint.tensors[part], model.named_tensors()))
        self._restore_optimizer(checkpoint.tensors["optimizer"])
        if self.scaler is not None and checkpoint.state["scaler"] is not None:
            self.scaler.load_state_dict(checkpoint.state["scaler"])
        self._restore_random(checkpoint)
        return TrainState.stored(checkpoint)

    def _whole(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        found = {}
        for name, tensor in tensors:
            full = whole(tensor)
            if full is tensor:
                found[name] = full
            elif self.processes.is_main:
                found[name] = full.cpu()
        return found

    def _optimizer_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Optimizer state named by parameter, so that it does not depend on the order of parameters."""
        for name, parameter in self.student.named_tensors().items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                yield f"{name}.{key}", value if isinstance(value, Tensor) else torch.tensor(float(value))

    def _restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        parameters = self.student.named_tensors()
        names = {parameter: name for name, parameter in parameters.items()}
        ordered = [names[parameter] for group in self.optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            name, _, entry = key.rpartition(".")
            piece = piece_like(tensor, parameters[name]) if tensor.dim() else tensor  # the step count is not sharded
            state.setdefault(ordered.index(name), {})[entry] = piece
        # The optimizer's own `load_state_dict` decides which entry belongs on which device.
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def _random_tensors(self) -> dict[str, Tensor]:
        state = random_state(self.device)
        states = {"cpu": state.cpu} | ({} if state.accelerator is None else {self.device.type: state.accelerator})
        return {
            f"{kind}.{rank}": state
            for kind, own in states.items()
            for rank, state in enumerate(self.processes.all_states(own))
        }

    def _restore_random(self, checkpoint: Checkpoint) -> None:
        tensors, rank = checkpoint.tensors["random"], self.processes.rank
        if f"cpu.{rank}" not in tensors:  # written by fewer processes
            separate_dropout(self.seed, self.processes, checkpoint.step)
            return
        kind = self.device.type
        accelerator = None if kind == "cpu" else tensors.get(f"{kind}.{rank}")
        restore(RandomState(self.device, tensors[f"cpu.{rank}"], accelerator))


def separate_dropout(seed: int, processes: Processes, step: int = 0) -> None:
    """Seed every process but the main one, so that each draws its own dropout masks.

    Args:
        seed: The run's seed.
        processes: The processes of the run.
        step: Steps done so far, which the seeds depend on.
    """
    if processes.rank > 0:
        torch.manual_seed(derive_seed(seed, "process", processes.rank, step))
