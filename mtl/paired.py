"""Statistics over seeds: means, standard deviations, and confidence intervals of differences paired by seed.

Legend: n seeds, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from mtl.intervals import LEVEL
from mtl.sampling import derive_seed

RESAMPLES = 10_000
FEWEST = 5  # seeds for a bootstrap (that of two excludes 0 wherever both differences have the same sign) or a spread
Interval = list[float]


def describe(values: Sequence[float]) -> dict[str, Any]:
    """`n`, `mean`, `std` (sample standard deviation, divisor n − 1) and `t`, the t interval of the mean.

    `std` and `t` are None for fewer than two values.
    """
    count = len(values)
    if count == 0:
        return {"n": 0, "mean": None, "std": None, "t": None}
    mean = math.fsum(values) / count
    if count == 1:
        return {"n": 1, "mean": mean, "std": None, "t": None}
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * std / math.sqrt(count)
    return {"n": count, "mean": mean, "std": std, "t": [mean - half, mean + half]}


def bootstrap(values: Sequence[float]) -> Interval | None:
    """Percentile bootstrap interval of the mean, from B seeded resamples; None for fewer than two values."""
    if len(values) < 2:
        return None
    draws = np.random.Generator(np.random.Philox(key=derive_seed(0, "bootstrap")))
    array: npt.NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    means = array[draws.integers(len(array), size=(RESAMPLES, len(array)))].mean(axis=1)  # (B,)
    return [float(bound) for bound in np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def compare_pairs(values: Sequence[float], base: Sequence[float], *, higher_is_better: bool = True) -> dict[str, Any]:
    """Compares two arms seed by seed.

    Args:
        values: One arm's values, (n,).
        base: The other arm's values, for the same seeds in the same order, (n,).
        higher_is_better: The metric's direction, which only `wins` and `losses` depend on.

    Returns:
        `describe` of the differences values − base, their `bootstrap` interval (None for fewer seeds than `FEWEST`),
        and `wins`, `ties` and `losses`.
    """
    differences = [value - other for value, other in zip(values, base, strict=True)]
    better = [difference if higher_is_better else -difference for difference in differences]
    return {
        **describe(differences),
        "bootstrap": bootstrap(differences) if len(differences) >= FEWEST else None,
        "wins": sum(difference > 0 for difference in better),
        "ties": sum(difference == 0 for difference in better),
        "losses": sum(difference < 0 for difference in better),
    }


def spread_ratio(values: Sequence[Sequence[float]], base: Sequence[Sequence[float]]) -> float | None:
    """Ratio of the standard deviations of two arms over seeds: √(Σ_t s_t² / Σ_t s̃_t²) over tasks t; for one task, s/s̃.

    None if an arm has fewer seeds than `FEWEST`, or if the base arm's variance is 0.
    """
    if any(len(part) < FEWEST for part in (*values, *base)) or not values:
        return None
    ours, theirs = (math.fsum(float(np.var(part, ddof=1)) for part in parts) for parts in (values, base))
    return math.sqrt(ours / theirs) if theirs > 0 else None
