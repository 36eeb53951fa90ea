"""State of the generators that dropout draws from: kept, restored and replayed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """State of the generators that dropout draws from: the CPU's and, elsewhere, the device's."""

    device: torch.device
    cpu: Tensor
    accelerator: Tensor | None


def random_state(device: torch.device) -> RandomState:
    """Current state of the generators, with which a later forward pass can draw the same dropout masks."""
    accelerator = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
    return RandomState(device, torch.get_rng_state(), accelerator)


def seeded_state(seed: int, device: torch.device) -> RandomState:
    """State right after seeding; the current state is left unchanged."""
    current = random_state(device)
    torch.manual_seed(seed)
    seeded = random_state(device)
    restore(current)
    return seeded


def restore(state: RandomState) -> None:
    """Draw from a state from now on; without one of the accelerator, its own stays."""
    torch.set_rng_state(state.cpu)
    if state.accelerator is not None:
        torch.get_device_module(state.device).set_rng_state(state.accelerator, state.device)


@contextmanager
def replayed(state: RandomState) -> Iterator[None]:
    """Draw from a given state within the context, and restore the current state afterwards."""
    current = random_state(state.device)
    restore(state)
    try:
        yield
    finally:
        restore(current)
