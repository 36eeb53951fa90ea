"""The processes of a run, on Accelerate and torch.distributed: who writes, and what all of them have to agree on.

A run of one process is the same run: every exchange is then the identity.
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
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, ProjectConfiguration
from torch import Tensor

from mtl.config import PrecisionName
from mtl.errors import ElsewhereError, Problem, UserError
from mtl.launch import LOCAL_RANK, PROCESSES
from mtl.precision import precision_problems
from mtl.shards import let_go, shard_problems

PATIENCE = timedelta(hours=1)  # for a process that prepares data or writes; one that died is noticed at once
T = TypeVar("T")


def make_accelerator(precision: PrecisionName, trackers: Sequence[str] = ()) -> Accelerator:
    """Device, precision and processes of a run.

    Args:
        precision: fp32, bf16 or fp16.
        trackers: Experiment trackers, which log nothing until they are initialised.

    Raises:
        UserError: The device cannot compute in the precision asked for.
    """
    if problems := shard_problems(precision):
        raise UserError(problems)
    # Accelerate wraps one model by FSDP, but there may be a teacher: `shards` does it. Transformers, asked for it too,
    # would load weights in the main process only.
    os.environ["ACCELERATE_USE_FSDP"] = "false"
    AcceleratorState._reset_state()  # it is one for the process, and an earlier run may have had another precision
    together = DistributedDataParallelKwargs(find_unused_parameters=True)  # a step leaves the other tasks' heads unused
    accelerator = Accelerator(
        cpu=_on_cpu(),
        mixed_precision="no" if precision == "fp32" else precision,
        kwargs_handlers=[together, InitProcessGroupKwargs(timeout=PATIENCE)],
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration(logging_dir="."),  # where Aim keeps all runs; others have their own place
    )
    if problems := precision_problems(precision, accelerator.device):
        raise UserError(problems)
    return accelerator


def _on_cpu() -> bool:
    return not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true"


class Processes:
    """This process among those of the run.

    Attributes:
        rank: Its number.
        count: W, how many there are.
    """

    def __init__(self) -> None:
        state = PartialState(cpu=_on_cpu(), timeout=PATIENCE) if PROCESSES > 1 else None
        self.rank = int(state.process_index) if state is not None else 0
        self.count = int(state.num_processes) if state is not None else 1
        # What is agreed on every step must not wait for an accelerator: a group of the hosts' own.
        self._hosts = dist.new_group(backend="gloo", timeout=PATIENCE) if self.count > 1 else None
        self._asked: tuple[Tensor, Any] | None = None

    @classmethod
    @cache
    def current(cls) -> Processes:
        """This process, which joins the others once, until its end."""
        joined = cls()
        atexit.register(joined.leave)
        return joined

    def leave(self) -> None:
        """Ends the exchange with the others; nothing if this process ends by an error that nobody caught.

        One that was launched alone has a group too, of itself.

        A group's threads end with the last reference to it, whatever PyTorch's name for this says, and otherwise may
        abort a process whose interpreter has ended (https://github.com/pytorch/pytorch/issues/190489). After an error
        the others may wait for this process, and taking leave could wait for them.
        """
        if getattr(sys, "last_value", None) is not None or not (dist.is_available() and dist.is_initialized()):
            return
        with contextlib.suppress(RuntimeError):  # another process has died
            if self._asked is not None:
                self._asked[1].wait()
            dist.destroy_process_group()
        self._asked = self._hosts = None
        let_go()
        gc.collect()  # what a sharded model consists of refers to one another, and to the group

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and talks to people."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def all_states(self, state: Tensor) -> list[Tensor]:
        """A tensor of each process, on the CPU."""
        if self.count == 1:
            return [state]
        states = [torch.empty_like(state) for _ in range(self.count)]
        dist.all_gather(states, state, group=self._hosts)
        return states

    def agreed(self, number: int) -> int:
        """The largest number that any process gave at the call before this one; 0 at first.

        Nothing waits: the exchange that a call begins has the time of a step.
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
        """Does something in every process; where it is wrong in one, all of them stop.

        Raises:
            UserError: What is wrong in any process, in the one that talks to people.
            ElsewhereError: The same, in the others.
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
        """Does something in the main process only; the others wait, and stop where it is wrong."""
        self.together(work if self.is_main else _nothing)

    def main_first(self, work: Callable[[], T]) -> T:
        """Does something in the main process, then in the others, which find on the disk what it made."""
        if self.count == 1:
            return work()
        mine: T | None = None
        for turn in (True, False):  # one process of every machine is the first there
            first = LOCAL_RANK == 0
            done = self.together(work if first == turn else _nothing)
            mine = done if first == turn else mine
        return mine  # type: ignore[return-value]  # it was this process's turn once

    def require_same(self, facts: Mapping[str, str], where: str) -> None:
        """Checks that every process has the same.

        Args:
            facts: What to compare: name to its fingerprint.
            where: What to name in the message.

        Raises:
            UserError: A process has something else than the main one.
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
    """Problems that all processes have once, the others with the process that has them."""
    common = [problem for problem in everywhere[0] if all(problem in problems for problems in everywhere)]
    own = [
        Problem(problem.where, f"{problem.message} (in process {rank})")
        for rank, problems in enumerate(everywhere)
        for problem in problems
        if problem not in common
    ]
    return common + own
