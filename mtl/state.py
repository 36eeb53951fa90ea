"""The state of a training run: what a checkpoint holds of it, whatever the number of processes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from mtl.checkpoint import Checkpoint
from mtl.errors import UserError, counted, first_line
from mtl.model import MultiTaskModel
from mtl.processes import Processes
from mtl.sampling import derive_seed
from mtl.shards import piece_like, pieces_like, whole

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

    def is_done(self, steps: int, patience: int | None) -> bool:
        """Whether a run of so many steps, or evaluations without a better score, is over."""
        return self.step >= steps or (patience is not None and self.stale >= patience)

    def stopped_early(self, steps: int, patience: int | None) -> str | None:
        """Why a run of so many steps was over before the last of them, if it was."""
        if self.step >= steps or not self.is_done(steps, patience):
            return None
        without = f"no task had a better value in {counted(self.stale, 'evaluation')} (evaluation.patience)"
        return f"stopped at step {self.step:,} of {steps:,}: {without}"

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


@dataclass
class Tensors:
    """Everything of a run that a checkpoint holds as tensors.

    Attributes:
        student: θ.
        teacher: θ̃, where there is one.
        optimizer: The optimizer itself, not what Accelerate wraps it in.
        scaler: The loss scaler of fp16.
        device: Where the run computes.
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

        Every process has to call it. What it returns is complete in the main one; in the others sharded tensors, which
        are gathered one at a time, are left out.
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
        """Continues from a checkpoint, which a run with another number of processes may have written.

        Raises:
            UserError: It is of another model or another version.
        """
        try:
            return self._restore(checkpoint)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            message = f"the checkpoint of step {checkpoint.step:,} is not one of this run ({reason})"
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
            piece = piece_like(tensor, parameters[name]) if tensor.dim() else tensor  # the number of steps is not cut
            state.setdefault(ordered.index(name), {})[entry] = piece
        # The optimizer's own loading decides which entry belongs on which device.
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def _random_tensors(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.device.type != "cpu":
            states[self.device.type] = torch.get_device_module(self.device).get_rng_state(self.device)
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
        torch.set_rng_state(tensors[f"cpu.{rank}"])
        kind = self.device.type
        if kind != "cpu" and f"{kind}.{rank}" in tensors:
            torch.get_device_module(self.device).set_rng_state(tensors[f"{kind}.{rank}"], self.device)


def separate_dropout(seed: int, processes: Processes, step: int = 0) -> None:
    """Lets every process but the main one draw dropout masks of its own.

    Args:
        seed: The run's seed.
        processes: The processes of the run.
        step: Step after which it begins.
    """
    if processes.rank > 0:
        torch.manual_seed(derive_seed(seed, "process", processes.rank, step))
