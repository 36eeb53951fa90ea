"""Which task each optimizer step trains on: a pure function of sizes, strategy, seed and step.

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
    """A 63-bit seed for one purpose, the same for the same parts on every machine.

    Args:
        parts: The run's seed, the purpose and whatever distinguishes the draw (task, step, row, …).
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def proportional(epochs: Floats, temperature: float) -> Floats:
    """α = 1: every row of every task is as likely as any other."""
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
    """The task of every step.

    `round_robin` lets the tasks take turns in order. The other strategies draw task t with p_t ∝ N_t^α, independently
    at each step, N_t being its size and α what the strategy says for the step's epoch.

    Args:
        sizes: Steps that one pass over each task takes, (K,).
        strategy: A name in `SAMPLERS`.
        seed: Seed of the draws.
        steps: Length of the run.
        epoch_steps: Steps of an epoch, by which `annealed` counts.
        temperature: τ of `temperature`.

    Returns:
        Task indices, (S,). For a longer run the beginning is the same, except under `annealed`, whose α depends on the
        number of epochs.
    """
    exponent = SAMPLERS[strategy]
    if exponent is None:
        return np.arange(steps, dtype=np.int64) % len(sizes)
    epochs = np.floor(np.arange(steps) / epoch_steps)
    alpha = exponent(epochs, temperature)[:, None]
    weights = np.asarray(sizes, dtype=np.float64)[None, :] ** alpha
    upper = np.cumsum(weights, axis=1)  # (S, K)
    # Philox counts, so the first draws of a longer run are the draws of a shorter one.
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
