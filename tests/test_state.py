"""What a process draws dropout masks from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from mtl.state import separate_dropout


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
