"""Statistics of seeds: hand-computed values, and scipy's own test as the reference."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mtl.paired import bootstrap, compare_pairs, describe, spread_ratio

T_2 = 4.302652729911275  # t of 0.975 with 2 degrees of freedom, of any table
FLOATS = st.floats(-100, 100).map(lambda value: round(value, 3))


def test_three_values_by_hand() -> None:
    found = describe([1.0, 2.0, 6.0])
    std = math.sqrt((4 + 1 + 9) / 2)
    half = T_2 * std / math.sqrt(3)
    assert (found["n"], found["mean"]) == (3, 3.0)
    assert found["std"] == pytest.approx(std, rel=1e-12)
    assert found["t"] == pytest.approx([3 - half, 3 + half], rel=1e-9)


def test_too_few_values_have_no_interval() -> None:
    assert describe([]) == {"n": 0, "mean": None, "std": None, "t": None}
    assert describe([4.0]) == {"n": 1, "mean": 4.0, "std": None, "t": None}
    assert bootstrap([]) is None and bootstrap([4.0]) is None
    assert compare_pairs([], [])["n"] == 0


def exact_quantile(values: list[float], share: float) -> float:
    """The least mean that at least the given share of all nⁿ resamples does not exceed."""
    means = sorted(sum(draw) / len(values) for draw in itertools.product(values, repeat=len(values)))
    return means[math.ceil(share * len(means)) - 1]


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 10.0], [-1.0, 5.0], [2.0, 2.0, 2.0]])
def test_bootstrap_is_that_of_all_resamples(values: list[float]) -> None:
    expected = [exact_quantile(values, share) for share in (0.025, 0.975)]
    assert bootstrap(values) == pytest.approx(expected, abs=1e-12)
    assert bootstrap(values) == bootstrap(values)


def test_pairs_by_hand() -> None:
    found = compare_pairs([0.75, 0.5, 0.875], [0.5, 0.5, 1.0])
    assert (found["wins"], found["ties"], found["losses"]) == (1, 1, 1)
    assert found["mean"] == pytest.approx(0.125 / 3)
    found = compare_pairs([0.75, 0.5, 0.875, 1.0], [0.5, 0.5, 1.0, 2.0], higher_is_better=False)
    assert (found["wins"], found["ties"], found["losses"]) == (2, 1, 1)
    assert found["mean"] == pytest.approx((0.25 - 0.125 - 1) / 4), "the difference itself has no direction"


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=2, max_size=12))
def test_pairs_agree_with_scipy(pairs: list[tuple[float, float]]) -> None:
    values, base = ([pair[side] for pair in pairs] for side in (0, 1))
    found = compare_pairs(values, base)
    differences = np.subtract(values, base)
    low, high = found["bootstrap"] or bootstrap(differences.tolist()) or (math.nan, math.nan)
    assert found["mean"] == pytest.approx(differences.mean(), abs=1e-9)
    assert found["std"] == pytest.approx(differences.std(ddof=1), abs=1e-9)
    if differences.std(ddof=1) > 1e-6:
        interval: Any = stats.ttest_rel(values, base).confidence_interval(0.95)
        assert found["t"] == pytest.approx([interval.low, interval.high], rel=1e-6, abs=1e-6)
    assert (found["bootstrap"] is None) == (len(pairs) < 5)
    assert differences.min() - 1e-9 <= low <= high <= differences.max() + 1e-9
    assert found["wins"] + found["ties"] + found["losses"] == len(pairs)


def test_pairs_have_to_be_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare_pairs([1.0, 2.0], [1.0])


def test_spreads_by_hand() -> None:
    wide, narrow = [0.0, 0.0, 1.0, 2.0, 2.0], [0.5, 0.5, 1.0, 1.5, 1.5]  # variances 1 and ¼
    assert spread_ratio([narrow], [wide]) == pytest.approx(0.5)
    assert spread_ratio([narrow, wide], [wide, wide]) == pytest.approx(math.sqrt(1.25 / 2))
    assert spread_ratio([wide], [[1.0] * 5]) is None
    assert spread_ratio([narrow[1:]], [wide]) is spread_ratio([wide], [narrow[1:]]) is None, "too few seeds"
    assert spread_ratio([], []) is None
