"""Which task a step trains on, against sequences written out and a naive reference."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from mtl.sampling import SAMPLERS, annealed, derive_seed, task_sequence

ROOT = Path(__file__).resolve().parent.parent
SIZES = (100, 25, 4)
DRAWN = [name for name, exponent in SAMPLERS.items() if exponent is not None]


def reference(sizes: Sequence[int], strategy: str, epoch: int, epochs: int, temperature: float) -> list[float]:
    """p_t ∝ N_t^α, one task at a time."""
    alpha = {
        "proportional": 1.0,
        "sqrt": 0.5,
        "temperature": 1 / temperature,
        "annealed": 1.0 if epochs == 1 else 1 - 0.8 * epoch / (epochs - 1),
    }[strategy]
    weights = [size**alpha for size in sizes]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize(
    ("tasks", "steps", "expected"),
    [
        (1, 4, [0, 0, 0, 0]),
        (2, 5, [0, 1, 0, 1, 0]),
        (3, 8, [0, 1, 2, 0, 1, 2, 0, 1]),
        (3, 2, [0, 1]),
        (3, 0, []),
    ],
)
def test_round_robin_takes_turns(tasks: int, steps: int, expected: list[int]) -> None:
    for seed in (0, 1):
        sequence = task_sequence(list(range(1, tasks + 1)), "round_robin", seed, steps, epoch_steps=3)
        assert sequence.tolist() == expected


@pytest.mark.parametrize("strategy", DRAWN)
def test_drawn_tasks_are_the_inverse_of_the_cumulative_probabilities(strategy: str) -> None:
    """Recomputed step by step from the same uniform numbers."""
    steps, epoch_steps, seed = 200, 40, 7
    uniform = np.random.Generator(np.random.Philox(key=derive_seed(seed, "task_sequence"))).random(steps)
    expected = []
    for step in range(steps):
        shares = reference(SIZES, strategy, step // epoch_steps, -(-steps // epoch_steps), 3.0)
        passed = 0.0
        for task, share in enumerate(shares):
            passed += share
            if uniform[step] < passed:
                expected.append(task)
                break
    assert task_sequence(SIZES, strategy, seed, steps, epoch_steps=epoch_steps, temperature=3.0).tolist() == expected


@pytest.mark.parametrize("strategy", DRAWN)
def test_frequencies_are_the_probabilities(strategy: str) -> None:
    """Within five standard deviations of a binomial count, in every epoch."""
    epochs, epoch_steps = 3, 20_000
    drawn = task_sequence(SIZES, strategy, 1, epochs * epoch_steps, epoch_steps=epoch_steps, temperature=4.0)
    for epoch, sequence in enumerate(np.split(drawn, epochs)):
        counts = np.bincount(sequence, minlength=len(SIZES))
        shares = np.array(reference(SIZES, strategy, epoch, epochs, 4.0))
        deviation = np.sqrt(epoch_steps * shares * (1 - shares))
        assert (np.abs(counts - epoch_steps * shares) < 5 * deviation).all()


@pytest.mark.parametrize("strategy", [name for name in SAMPLERS if name != "annealed"])
def test_a_longer_run_begins_like_a_shorter_one(strategy: str) -> None:
    long = task_sequence(SIZES, strategy, 3, 500, epoch_steps=50)
    for steps in (1, 49, 50, 51, 499):
        assert (task_sequence(SIZES, strategy, 3, steps, epoch_steps=50) == long[:steps]).all()


def test_annealing_goes_from_proportional_to_nearly_even() -> None:
    epochs = np.array([0.0, 0.0, 1.0, 2.0, 3.0, 4.0])
    assert annealed(epochs, 5.0) == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.4, 0.2], rel=1e-12)


def test_a_run_of_one_epoch_is_not_annealed() -> None:
    assert annealed(np.zeros(3), 5.0).tolist() == [1.0, 1.0, 1.0]
    assert annealed(np.zeros(0), 5.0).tolist() == []
    one = task_sequence(SIZES, "annealed", 3, 100, epoch_steps=100)
    assert (one == task_sequence(SIZES, "proportional", 3, 100, epoch_steps=100)).all()


@pytest.mark.parametrize("strategy", DRAWN)
def test_the_seed_decides(strategy: str) -> None:
    def drawn(seed: int) -> npt.NDArray[np.int64]:
        return task_sequence((3, 4), strategy, seed, 64, epoch_steps=32)

    assert (drawn(1) == drawn(1)).all()
    assert (drawn(1) != drawn(2)).any()


def test_equal_sizes_are_drawn_evenly_whatever_the_strategy() -> None:
    sequences = [task_sequence((7, 7, 7), name, 5, 300, epoch_steps=100) for name in DRAWN]
    for sequence in sequences[1:]:
        assert (sequence == sequences[0]).all()


SEEDS = [(0,), (1,), (42, "task_sequence"), (42, "batches", "rte", 0), (42, "batches", "rte", 1), (1, 23), (12, 3)]


def test_derived_seeds_are_distinct_and_fit_a_signed_word() -> None:
    seeds = [derive_seed(*parts) for parts in SEEDS]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    many = {derive_seed(42, "noise", step, row) for step in range(50) for row in range(50)}
    assert len(many) == 2500


def test_derived_seeds_are_the_same_in_another_process() -> None:
    code = f"from mtl.sampling import derive_seed; print([derive_seed(*parts) for parts in {SEEDS}])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([derive_seed(*parts) for parts in SEEDS])
