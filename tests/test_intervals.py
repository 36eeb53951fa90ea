"""Bootstrap intervals against the metric itself on every resample, closed forms, and what is known of coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference.intervals import percentile
from reference.intervals import replicates as naive_replicates

from mtl import intervals as module
from mtl.intervals import CLASSIFICATION, REGRESSION, SCORES, differences, intervals, replicates, resamples
from mtl.metrics import METRICS, compute

pytestmark = pytest.mark.filterwarnings("error")

Data = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]
EXACT = 1e-12


def classes(seed: int, rows: int = 23, number: int = 2) -> Data:
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, number)), random.integers(0, number, size=rows), None


def values(seed: int, rows: int = 17) -> Data:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, size=rows) / 2  # many ties
    return np.round(labels + random.normal(size=rows), 1), labels, None


def queries(seed: int, number: int = 9) -> Data:
    random = np.random.default_rng(seed)
    groups = random.permutation(np.repeat(random.choice(99, number, replace=False), random.integers(1, 7, number)))
    return random.integers(0, 5, len(groups)) / 4, random.choice([0.0, 0, 0, 1, 2], len(groups)), groups


NUMBER = 50  # resamples
RARE = np.array([0] * 11 + [1])  # a third of the resamples hold one class only
CASES: dict[str, list[Data]] = {
    "classification": [
        classes(0),
        classes(1, number=2),
        (np.eye(2)[RARE], RARE, None),
        (np.eye(2)[RARE[::-1]], RARE, None),
        (np.eye(2)[np.zeros(5, dtype=int)], np.array([0, 0, 1, 0, 1]), None),  # one class predicted
        (np.eye(2)[[0, 0, 0]], np.array([0, 0, 0]), None),  # one class altogether
        (np.eye(2)[[1]], np.array([1]), None),  # one row
        (values(2)[0][:, None] * np.array([-0.5, 0.5]), classes(4, rows=17)[1], None),  # scores with ties
    ],
    "many classes": [classes(2, number=5), classes(3, rows=40, number=11)],
    "regression": [
        values(0),
        values(1, rows=40),
        (np.array([1.0, 1.0, 1.0, 2.0]), np.array([0.0, 0.0, 3.0, 3.0]), None),  # often a constant
        (np.full(6, 0.1), np.arange(6.0), None),
        (np.array([2.0]), np.array([1.0]), None),
        (2.0**40 + np.array([0.0, 1.0, 5.0, 2.0, 7.0]), np.array([1.0, 1.0, 4.0, 2.0, 9.0]), None),
    ],
    "ranking": [queries(0), queries(1, 25), (np.zeros(4), np.array([0.0, 1, 0, 0]), np.array([5, 5, 3, 3]))],
}


def cases() -> list[tuple[str, Data]]:
    return [
        (name, data)
        for name, metric in METRICS.items()
        for kind, several in CASES.items()
        for data in several
        if metric.task_type == kind or (kind == "many classes" and name in CLASSIFICATION and not metric.binary_only)
    ]


def test_every_metric_has_its_vectorised_form() -> None:
    of_type = {
        kind: {name for name, metric in METRICS.items() if metric.task_type == kind}
        for kind in ("classification", "regression", "ranking")
    }
    assert of_type["classification"] == set(CLASSIFICATION) | set(SCORES)
    assert {name for name, metric in METRICS.items() if metric.of_scores} == set(SCORES)
    assert of_type["regression"] == set(REGRESSION)
    assert of_type["ranking"] == {name for name, metric in METRICS.items() if metric.per_query is not None}


@pytest.mark.parametrize(("name", "data"), cases())
def test_equals_the_metric_on_every_resample(name: str, data: Data) -> None:
    outputs, labels, groups = data
    units = len(labels) if groups is None else len(set(groups.tolist()))
    drawn = np.concatenate(list(resamples(units, NUMBER)))
    expected = naive_replicates(name, outputs, labels, groups, drawn.tolist())
    found = replicates([name], METRICS[name].task_type, outputs, labels, groups, number=NUMBER)[name]
    assert found.shape == (NUMBER,)
    assert np.abs(found - expected).max() <= EXACT
    low, high = intervals([name], METRICS[name].task_type, outputs, labels, groups, number=NUMBER)[name]
    assert (low, high) == pytest.approx((percentile(expected, 0.025), percentile(expected, 0.975)), rel=0, abs=EXACT)


def test_the_cases_hold_undefined_resamples() -> None:
    drawn = np.concatenate(list(resamples(len(RARE), NUMBER)))
    assert 0 < (RARE[drawn] == 0).all(axis=1).sum() < NUMBER
    drawn = np.concatenate(list(resamples(4, NUMBER)))
    assert 0 < (np.array([1, 1, 1, 2])[drawn] == 1).all(axis=1).sum() < NUMBER


@pytest.mark.parametrize("kind", ["classification", "regression", "ranking"])
def test_a_difference_is_paired(kind: str) -> None:
    outputs, labels, groups = CASES[kind][1]
    other = outputs[::-1]
    names = [name for name, metric in METRICS.items() if metric.task_type == kind]
    found = differences(names, METRICS[names[0]].task_type, outputs, other, labels, groups, number=NUMBER)
    units = len(labels) if groups is None else len(set(groups.tolist()))
    drawn = np.concatenate(list(resamples(units, NUMBER))).tolist()
    for name in names:
        one, two = (np.array(naive_replicates(name, o, labels, groups, drawn)) for o in (outputs, other))
        expected = (percentile((two - one).tolist(), 0.025), percentile((two - one).tolist(), 0.975))
        assert (found[name].low, found[name].high) == pytest.approx(expected, rel=0, abs=EXACT)
        point = [compute([name], METRICS[name].task_type, o, labels, groups)[name] for o in (outputs, other)]
        assert found[name].value == pytest.approx(point[1] - point[0], rel=0, abs=EXACT)


def test_a_model_does_not_differ_from_itself_and_a_paired_interval_is_narrower() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    right = random.random(400) < 0.7
    first = np.eye(2)[np.where(right, labels, 1 - labels)]
    changed = right.copy()
    changed[np.flatnonzero(~right)[:20]] = True  # better on twenty rows, worse on none
    second = np.eye(2)[np.where(changed, labels, 1 - labels)]
    same = differences(["accuracy"], "classification", first, first, labels)["accuracy"]
    assert (same.value, same.low, same.high, same.excludes_zero) == (0.0, 0.0, 0.0, False)
    better = differences(["accuracy"], "classification", first, second, labels)["accuracy"]
    assert better.value == pytest.approx(20 / 400)
    assert better.excludes_zero
    low, high = intervals(["accuracy"], "classification", first, labels)["accuracy"]
    assert better.high - better.low < (high - low) / 2


def test_width_is_that_of_a_binomial_share() -> None:
    """Accuracy is a mean of n independent hits: 1.96 standard errors to each side."""
    labels = np.zeros(2000, dtype=int)
    predictions = np.eye(2)[(np.arange(2000) % 5 == 0).astype(int)]  # 80 % right
    low, high = intervals(["accuracy"], "classification", predictions, labels)["accuracy"]
    error = math.sqrt(0.8 * 0.2 / 2000)
    # 1,000 resamples know a 2.5 % quantile to about 0.085 standard deviations.
    assert low == pytest.approx(0.8 - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(0.8 + 1.96 * error, abs=0.3 * error)


def test_a_query_is_drawn_whole() -> None:
    """Every query is answered at rank 1 or not at all: an interval over rows would see candidates, this one queries."""
    groups = np.repeat(np.arange(50), 20)
    labels = np.tile(np.eye(20)[0], 50)
    scores = np.where(groups % 2 == 0, labels, -labels) + 0.0
    low, high = intervals(["p@1"], "ranking", scores, labels, groups)["p@1"]
    error = math.sqrt(0.5 * 0.5 / 50)
    assert (low, high) == pytest.approx((0.5 - 1.96 * error, 0.5 + 1.96 * error), abs=0.4 * error)


def test_blocks_change_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resamples(31, 50)))
    expected = {
        kind: replicates(list(names), kind, *CASES[kind][0], number=50)  # type: ignore[arg-type]
        for kind, names in (("classification", CLASSIFICATION), ("regression", REGRESSION), ("ranking", ["map"]))
    }
    monkeypatch.setattr(module, "AT_ONCE", 64)
    parts = list(resamples(31, 50))
    assert [len(part) for part in parts] == [2] * 25
    assert (np.concatenate(parts) == whole).all()
    for kind, values_of in expected.items():
        found = replicates(list(values_of), kind, *CASES[kind][0], number=50)  # type: ignore[arg-type]
        for name, before in values_of.items():
            assert np.abs(found[name] - before).max() <= EXACT
    assert not (np.concatenate(list(resamples(31, 50, seed=1))) == whole).all()


def test_each_row_is_drawn_as_often_as_any_other() -> None:
    counts = np.bincount(np.concatenate(list(resamples(10, 5000))).ravel(), minlength=10)
    chi_square = ((counts - 5000) ** 2 / 5000).sum()
    assert chi_square < 27.9  # 0.1 % of 9 degrees of freedom


def test_a_diverged_model_has_no_interval() -> None:
    low, high = intervals(["accuracy"], "classification", np.array([[math.nan, 0.0]]), np.array([0]))["accuracy"]
    assert math.isnan(low) and math.isnan(high)
    with pytest.raises(ValueError, match=r"expected outputs .* got"):
        intervals(["accuracy"], "classification", np.zeros((3, 2)), np.array([0]))


def test_forty_thousand_rows_stay_within_bounded_memory() -> None:
    """Blocks, not one (1000, 40000) array: that alone would be 320 MB."""
    assert max(block.nbytes for block in resamples(40_000, 200)) <= 8 * module.AT_ONCE
    assert max(len(block) for block in resamples(10, 100, cells=150 * 150)) <= module.AT_ONCE // 150**2
