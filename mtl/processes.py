"""The processes of a run, on Accelerate and torch.distributed: the main process, and communication between all.

A run with one process uses the same code: every exchange is then the identity.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
)
from torch import Tensor

from mtl.config import PrecisionName
from mtl.errors import ElsewhereError, Problem, UserError, first_line
from mtl.launch import LOCAL_RANK, PROCESSES, launcher_problems
from mtl.precision import best_device, precision_problems
from mtl.shards import let_go, shard_problems

PATIENCE = timedelta(hours=1)  # timeout while another process prepares data or writes; a dead one is noticed at once
T = TypeVar("T")


def make_accelerator(precision: PrecisionName, trackers: Sequence[str] = ()) -> Accelerator:
    """Create the Accelerator of a run: device, precision and processes.

    Args:
        precision: fp32, bf16 or fp16.
        trackers: Experiment trackers, which log nothing until they are initialised.

    Raises:
        UserError: The device does not support the precision, or a launcher option is not supported.
    """
    if problems := launcher_problems() + shard_problems(precision):
        raise UserError(problems)
    # Accelerate shards one model only, but there may be a teacher, so `shards` does it. Transformers reads this
    # variable too, and would load weights in the main process only.
    os.environ["ACCELERATE_USE_FSDP"] = "false"
    AcceleratorState._reset_state()  # a singleton, and an earlier run may have had another precision
    together = DistributedDataParallelKwargs(find_unused_parameters=True)  # a step leaves the other tasks' heads unused
    try:
        accelerator = Accelerator(
            cpu=best_device().type == "cpu",
            mixed_precision="no" if precision == "fp32" else precision,
            # The trainer accumulates by itself; by default, a variable of the environment would scale every gradient.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[together, InitProcessGroupKwargs(timeout=PATIENCE)],
            log_with=list(trackers) or None,
            project_config=ProjectConfiguration(logging_dir="."),  # Aim keeps all runs there; others choose theirs
        )
    except ValueError as error:
        if precision == "fp32" or not any(word in str(error).lower() for word in ("precision", "scaler", precision)):
            raise
        raise UserError.of("--precision", f"{precision}: {first_line(error)}") from error
    if problems := precision_problems(precision, accelerator.device):
        raise UserError(problems)
    return accelerator


class Processes:
    """The processes of a run, as seen from this one.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
    """

    def __init__(self) -> None:
        state = PartialState(cpu=best_device().type == "cpu", timeout=PATIENCE) if PROCESSES > 1 else None
        self.rank = int(state.process_index) if state is not None else 0
        self.count = int(state.num_processes) if state is not None else 1
        # A separate gloo group on the hosts, so that what is agreed on in every step need not wait for an accelerator.
        self._hosts = dist.new_group(backend="gloo", timeout=PATIENCE) if self.count > 1 else None
        self._asked: tuple[Tensor, Any] | None = None

    @classmethod
    @cache
    def current(cls) -> Processes:
        """The instance of this process, which joins the others once and leaves at its end."""
        joined = cls()
        atexit.register(joined.leave)
        return joined

    def leave(self) -> None:
        """Destroy the process groups, unless this process ends with an uncaught exception.

        A single process that was started by a launcher has a group too.

        Despite its name, `destroy_process_group` does not end a group's threads: they end with the last reference to
        the group, and may otherwise abort a process whose interpreter has shut down
        (https://github.com/pytorch/pytorch/issues/190489). After an uncaught exception the other processes may be
        waiting for this one, and destroying the groups could wait for them.
        """
        if getattr(sys, "last_value", None) is not None or not (dist.is_available() and dist.is_initialized()):
            return
        with contextlib.suppress(RuntimeError):  # another process has died
            if self._asked is not None:
                self._asked[1].wait()
            dist.destroy_process_group()
        self._asked = self._hosts = None
        let_go()
        gc.collect()  # parts of a sharded model are in reference cycles that hold the group

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, the only one that writes files and messages."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all processes."""
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def all_states(self, state: Tensor) -> list[Tensor]:
        """The tensors that all processes passed, by rank; they have to be on the CPU."""
        if self.count == 1:
            return [state]
        states = [torch.empty_like(state) for _ in range(self.count)]
        dist.all_gather(states, state, group=self._hosts)
        return states

    def agreed(self, number: int) -> int:
        """Largest number that any process passed to the previous call, 0 at the first; with one process, `number`.

        This hardly waits: the exchange that a call starts has until the next call, a step later, to complete.
        """
        if self.count == 1:
            return number
        before = 0
        if self._asked is not None:
            tensor, exchange = self._asked
            exchange.wait()
            before = int(tensor)
        tensor = torch.tensor(number)
        exchange = dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._hosts, async_op=True)
        self._asked = tensor, exchange
        return before

    def together(self, work: Callable[[], T]) -> T:
        """Run a function in every process; if it raises a `UserError` in one of them, all stop.

        Raises:
            UserError: In the main process, with the problems of all processes.
            ElsewhereError: In the other processes.
        """
        if self.count == 1:
            return work()
        result: T | None = None
        problems: list[Problem] = []
        try:
            result = work()
        except UserError as error:
            problems = error.problems
        everywhere: list[list[Problem]] = [[] for _ in range(self.count)]
        dist.all_gather_object(everywhere, problems, group=self._hosts)
        if any(everywhere):
            if not self.is_main:
                raise ElsewhereError
            raise UserError(_merged(everywhere))
        return result  # type: ignore[return-value]  # what `work` returned, as it raised nothing

    def in_main(self, work: Callable[[], None]) -> None:
        """Run a function in the main process only; the others wait, and stop if it raises a `UserError`."""
        self.together(work if self.is_main else _nothing)

    def main_first(self, work: Callable[[], T]) -> T:
        """Run a function in one process of each machine, then in the others, which find on disk what it made."""
        if self.count == 1:
            return work()
        mine: T | None = None
        for turn in (True, False):
            first = LOCAL_RANK == 0
            done = self.together(work if first == turn else _nothing)
            mine = done if first == turn else mine
        return mine  # type: ignore[return-value]  # set in one of the two turns

    def require_same(self, facts: Mapping[str, str], where: str) -> None:
        """Check that facts are the same in every process.

        Args:
            facts: Name of each fact to its fingerprint.
            where: Location to name in the message.

        Raises:
            UserError: A fact differs between a process and the main one.
        """
        if self.count == 1:
            return
        everywhere: list[dict[str, str]] = [{} for _ in range(self.count)]
        dist.all_gather_object(everywhere, dict(facts), group=self._hosts)
        main = everywhere[0]
        mine = everywhere[self.rank]
        other = [key for key in sorted(main.keys() | mine.keys()) if main.get(key) != mine.get(key)]

        def check() -> None:
            if other:
                raise UserError(Problem(where, f"{key} is not the same as in process 0") for key in other)

        self.together(check)


def _nothing() -> Any:
    return None


def _merged(everywhere: list[list[Problem]]) -> list[Problem]:
    """Problems of all processes: those of the main process, then the others with their process."""
    other = [
        Problem(problem.where, f"{problem.message} (in process {rank})")
        for rank, problems in enumerate(everywhere)
        for problem in problems
        if problem not in everywhere[0]
    ]
    return everywhere[0] + other
