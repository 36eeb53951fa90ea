"""What a process draws dropout masks from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from mtl.state import Tensors, separate_dropout


def draws(rank: int, *, seed: int = 0, step: int = 0) -> list[float]:
    """The next numbers of the global generator, in the process of a rank."""
    processes: Any = SimpleNamespace(rank=rank)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        separate_dropout(seed, processes, step)
        numbers: list[float] = torch.rand(8).tolist()
    return numbers


def test_every_process_draws_masks_of_its_own() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        untouched = torch.rand(8).tolist()
    assert draws(0) == untouched == draws(0, seed=1, step=5), "the main one goes on"
    others = [draws(1), draws(2), draws(1, step=5), draws(2, step=5), draws(1, seed=1)]
    assert len({tuple(numbers) for numbers in [untouched, *others]}) == 1 + len(others)
    assert draws(1, step=5) == others[2], "the same rank, seed and step, the same masks"


def test_a_checkpoint_of_fewer_processes_repeats_no_masks() -> None:
    """A process that it has no state of is seeded anew, by the step that the run goes on from."""

    def resumed(rank: int, step: int) -> list[float]:
        processes, device = SimpleNamespace(rank=rank), torch.device("cpu")
        tensors: Any = SimpleNamespace(processes=processes, device=device, seed=0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            checkpoint: Any = SimpleNamespace(tensors={"random": {"cpu.0": torch.get_rng_state()}}, step=step)
            torch.manual_seed(17)
            Tensors._restore_random(tensors, checkpoint)
            numbers: list[float] = torch.rand(8).tolist()
        return numbers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        stored = torch.rand(8).tolist()
    assert resumed(0, 5) == resumed(0, 9) == stored
    assert resumed(1, 5) == draws(1, step=5) and resumed(1, 9) == draws(1, step=9)
