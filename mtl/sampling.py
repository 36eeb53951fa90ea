"""The task sampled at each optimizer step: a pure function of sizes, strategy, seed and step.

Legend: S steps, K tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Exponent: TypeAlias = Callable[[Floats, float], Floats]

ANNEALING_DECAY = 0.8


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed that depends only on its parts, on every machine.

    Args:
        parts: The run's seed, the purpose, and whatever identifies the draw (task, step, row, …).
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def proportional(epochs: Floats, temperature: float) -> Floats:
    """α = 1: tasks are sampled in proportion to their size."""
    return np.ones_like(epochs)


def sqrt(epochs: Floats, temperature: float) -> Floats:
    """α = ½."""
    return np.full_like(epochs, 0.5)


def tempered(epochs: Floats, temperature: float) -> Floats:
    """α = 1/τ."""
    return np.full_like(epochs, 1.0 / temperature)


def annealed(epochs: Floats, temperature: float) -> Floats:
    """α = 1 − 0.8 (e − 1)/(E − 1) in epoch e of E (arXiv 1902.02671, section 3.2); 1 in a run of one epoch."""
    last = epochs[-1] if len(epochs) else 0.0
    return 1.0 - ANNEALING_DECAY * epochs / max(last, 1.0)


def task_sequence(
    sizes: Sequence[int], strategy: str, seed: int, steps: int, *, epoch_steps: int, temperature: float = 5.0
) -> npt.NDArray[np.int64]:
    """Sample the task of every step.

    `round_robin` cycles through the tasks in order. The other strategies draw task t with probability p_t ∝ N_t^α,
    independently at each step, where N_t is the task's size and the strategy determines α, which may depend on the
    step's epoch.

    Args:
        sizes: N_t, the number of steps in one pass over each task, (K,).
        strategy: A name in `SAMPLERS`.
        seed: Seed of the draws.
        steps: S, the length of the run.
        epoch_steps: Steps per epoch, used by `annealed`.
        temperature: τ, used by `temperature`.

    Returns:
        Task indices, (S,). A longer run begins with the same sequence, except under `annealed`, whose α depends on the
        number of epochs.
    """
    exponent = SAMPLERS[strategy]
    if exponent is None:
        return np.arange(steps, dtype=np.int64) % len(sizes)
    epochs = np.floor(np.arange(steps) / epoch_steps)
    alpha = exponent(epochs, temperature)[:, None]
    weights = np.asarray(sizes, dtype=np.float64)[None, :] ** alpha
    upper = np.cumsum(weights, axis=1)  # (S, K)
    # Philox is counter-based: the draws of a shorter run are a prefix of those of a longer one.
    draws = np.random.Generator(np.random.Philox(key=derive_seed(seed, "task_sequence"))).random(steps)
    tasks: npt.NDArray[np.int64] = (draws[:, None] * upper[:, -1:] >= upper).sum(axis=1)
    return tasks


SAMPLERS: dict[str, Exponent | None] = {
    "round_robin": None,
    "proportional": proportional,
    "sqrt": sqrt,
    "temperature": tempered,
    "annealed": annealed,
}
