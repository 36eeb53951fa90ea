"""Bootstrap confidence intervals of a model's metrics, and of the difference between two models on the same rows.

Rows (in ranking: whole queries) are resampled with replacement, as many as there are; the metric is computed on each of
`RESAMPLES` resamples; the interval spans the 2.5th to the 97.5th percentile of those values. Source: Efron &
Tibshirani 1993, An Introduction to the Bootstrap, sections 13.3 (percentile interval) and 8.3 (whole units).

The interval measures how much the value would vary with another sample of rows from the same distribution. It covers
neither the variation between training seeds nor performance on other kinds of text. Rows are assumed to be independent:
with duplicates, or several rows from one document, the interval is too narrow. It is also too narrow for a few dozen
rows (a coverage of about 90 % instead of 95 % at n = 20) and for a metric at the end of its range: if every row is
correct, its width is 0. On a validation split that also selected the best step, value and interval are slightly
optimistic.

Legend: n rows, U units resampled (rows or queries), R resamples, B resamples computed at once, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mtl.metrics import METRICS, TaskType, as_scores, as_values, compute
from mtl.ranking_metrics import ratios
from mtl.sampling import derive_seed

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Interval: TypeAlias = tuple[float, float]

RESAMPLES = 1000
LEVEL = 0.95
AT_ONCE = 1 << 22  # resampled units, or cells of confusion matrices, in memory at once


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference of a metric between two models on the same rows, second minus first, and its interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def resamples(units: int, number: int = RESAMPLES, *, cells: int = 0, seed: int = 0) -> Iterator[Ints]:
    """Yield blocks of resamples, (B, U), each row holding the positions drawn.

    The block size affects only memory, not the draws.

    Args:
        units: U.
        number: R.
        cells: Numbers that a computation holds in memory per resample, if more than U.
        seed: Seed of the draws; the default gives all models the same resamples, so that they can be compared.
    """
    random = np.random.Generator(np.random.Philox(key=derive_seed(seed, "bootstrap", units)))
    block = max(1, AT_ONCE // max(units, cells, 1))
    for start in range(0, number, block):
        yield random.integers(0, units, size=(min(block, number - start), units))


def replicates(
    names: Sequence[str],
    task_type: TaskType,
    outputs: npt.NDArray[np.floating],
    labels: npt.NDArray[np.generic],
    groups: npt.NDArray[np.int64] | None = None,
    *,
    number: int = RESAMPLES,
) -> dict[str, Floats]:
    """Compute every metric on every resample.

    Arguments and conventions for undefined values are those of `metrics.compute`, and each value equals, up to
    rounding, what it computes on the rows drawn. A query drawn twice counts twice.

    Returns:
        name -> (R,).
    """
    compute(names, task_type, outputs, labels, groups)  # checks the shapes
    if not np.isfinite(outputs).all():
        return {name: np.full(number, math.nan) for name in names}
    if task_type == "classification":
        of_scores = [name for name in names if METRICS[name].of_scores]
        counted = [name for name in names if name not in of_scores]
        classes = labels.astype(np.int64)
        found = _of_classes(counted, outputs.argmax(axis=1), classes, number) if counted else {}
        return found | (_of_scores(of_scores, as_scores(outputs), classes, number) if of_scores else {})
    true = labels.astype(np.float64)
    if task_type == "regression":
        values = as_values(outputs.reshape(len(labels)))
        return _gather({name: REGRESSION[name](values, true) for name in names}, resamples(len(labels), number))
    scores = outputs.reshape(len(labels)).astype(np.float64)
    per_query: dict[str, Callable[[Ints], Floats]] = {}
    units = 0
    for name in names:
        function = METRICS[name].per_query
        assert function is not None
        values = function(scores, true, groups)  # (Q,)
        units, per_query[name] = len(values), _mean_of(values)
    return _gather(per_query, resamples(units, number))


def intervals(
    names: Sequence[str],
    task_type: TaskType,
    outputs: npt.NDArray[np.floating],
    labels: npt.NDArray[np.generic],
    groups: npt.NDArray[np.int64] | None = None,
    *,
    number: int = RESAMPLES,
) -> dict[str, Interval]:
    """Percentile interval of every metric; arguments are those of `replicates`."""
    found = replicates(names, task_type, outputs, labels, groups, number=number)
    return {name: _percentiles(values) for name, values in found.items()}


def differences(
    names: Sequence[str],
    task_type: TaskType,
    first: npt.NDArray[np.floating],
    second: npt.NDArray[np.floating],
    labels: npt.NDArray[np.generic],
    groups: npt.NDArray[np.int64] | None = None,
    *,
    number: int = RESAMPLES,
) -> dict[str, Difference]:
    """Paired bootstrap of the difference between two models, second minus first.

    Both models are scored on the same resamples, so that variation in the difficulty of the rows cancels. Arguments are
    those of `replicates`, with the outputs of each model.
    """
    one, other = (replicates(names, task_type, outputs, labels, groups, number=number) for outputs in (first, second))
    before, after = (compute(names, task_type, outputs, labels, groups) for outputs in (first, second))
    return {name: Difference(after[name] - before[name], *_percentiles(other[name] - one[name])) for name in names}


def _percentiles(values: Floats) -> Interval:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _gather(functions: dict[str, Callable[[Ints], Floats]], blocks: Iterator[Ints]) -> dict[str, Floats]:
    found: dict[str, list[Floats]] = {name: [] for name in functions}
    for block in blocks:
        for name, function in functions.items():
            found[name].append(function(block))
    return {name: np.concatenate(values) for name, values in found.items()}


def _of_counts(
    functions: Mapping[str, Callable[[Floats], Floats]], cell: Ints, shape: tuple[int, ...], number: int
) -> dict[str, Floats]:
    """Metrics of a table of counts, from the cell of each row in it, (n,)."""
    found: dict[str, list[Floats]] = {name: [] for name in functions}
    cells = math.prod(shape)
    for block in resamples(len(cell), number, cells=cells):
        counts = _counts(cell[block], cells).reshape(-1, *shape).astype(np.float64)
        for name, function in functions.items():
            found[name].append(function(counts))
    return {name: np.concatenate(values) for name, values in found.items()}


def _counts(values: Ints, kinds: int) -> Ints:
    """How often each of the integers below `kinds` occurs in each row of values, (B, n) → (B, kinds)."""
    numbered = values + kinds * np.arange(len(values))[:, None]
    return np.bincount(numbered.ravel(), minlength=kinds * len(values)).reshape(-1, kinds)


# Classification: metrics are computed from the confusion matrix of each resample, [true, predicted], (B, C, C).


def _of_classes(names: Sequence[str], predictions: Ints, labels: Ints, number: int) -> dict[str, Floats]:
    classes = int(max(predictions.max(), labels.max())) + 1
    functions = {name: CLASSIFICATION[name] for name in names}
    return _of_counts(functions, labels * classes + predictions, (classes, classes), number)


def _hits(counts: Floats) -> Floats:
    return np.diagonal(counts, axis1=1, axis2=2)  # (B, C)


def _accuracy(counts: Floats) -> Floats:
    return _hits(counts).sum(axis=1) / counts.sum(axis=(1, 2))


def _balanced_accuracy(counts: Floats) -> Floats:
    true = counts.sum(axis=2)
    return ratios(_hits(counts), true).sum(axis=1) / (true > 0).sum(axis=1)


def _matthews_correlation(counts: Floats) -> Floats:
    true, predicted, rows = counts.sum(axis=2), counts.sum(axis=1), counts.sum(axis=(1, 2))
    covariance = _hits(counts).sum(axis=1) * rows - (true * predicted).sum(axis=1)
    of_true, of_predicted = (rows**2 - (marginal**2).sum(axis=1) for marginal in (true, predicted))
    return ratios(covariance, np.sqrt(of_true * of_predicted))


def _of_one(counts: Floats, axes: tuple[int, ...]) -> Floats:
    """True positives of the positive class over its row or column sum, or over the mean of both."""
    if counts.shape[1] < 2:  # it neither occurs nor is predicted
        return np.zeros(len(counts))
    whole = np.mean([counts.sum(axis=axis)[:, 1] for axis in axes], axis=0)
    return ratios(counts[:, 1, 1], whole)


def _macro_f1(counts: Floats) -> Floats:
    both = counts.sum(axis=2) + counts.sum(axis=1)
    return ratios(2 * _hits(counts), both).sum(axis=1) / (both > 0).sum(axis=1)


CLASSIFICATION: dict[str, Callable[[Floats], Floats]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "mcc": _matthews_correlation,
    "macro_f1": _macro_f1,
    "f1": lambda counts: _of_one(counts, (1, 2)),
    "precision": lambda counts: _of_one(counts, (1,)),
    "recall": lambda counts: _of_one(counts, (2,)),
}


# Threshold-free metrics of two classes are computed from the numbers of negative and positive rows at each of S
# distinct scores, in ascending order, in each resample, (B, S, 2).


def _of_scores(names: Sequence[str], scores: Floats, labels: Ints, number: int) -> dict[str, Floats]:
    kinds, kind = np.unique(scores, return_inverse=True)  # (S,), (n,)
    functions = {name: SCORES[name] for name in names}
    return _of_counts(functions, 2 * kind + labels, (len(kinds), 2), number)


def _roc_auc(counts: Floats) -> Floats:
    negative, positive = counts[..., 0], counts[..., 1]
    below = np.cumsum(negative, axis=1) - negative / 2  # ties count half
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.where(pairs > 0, ratios((positive * below).sum(axis=1), pairs), 0.5)


def _average_precision(counts: Floats) -> Floats:
    positive, rows = counts[..., 1], counts.sum(axis=2)
    hits, taken = (np.cumsum(side[:, ::-1], axis=1) for side in (positive, rows))  # from the highest score
    return ratios((positive[:, ::-1] * ratios(hits, taken)).sum(axis=1), hits[:, -1])


SCORES: dict[str, Callable[[Floats], Floats]] = {"roc_auc": _roc_auc, "average_precision": _average_precision}


# Regression and ranking: means of per-row or per-query values, and correlations, over the units drawn.


def _mean_of(values: Floats) -> Callable[[Ints], Floats]:
    """Mean of the values that are not NaN; 0 if there are none."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    return lambda block: ratios(filled[block].sum(axis=1), known[block].sum(axis=1))


def _pearson(predictions: Floats, labels: Floats) -> Callable[[Ints], Floats]:
    return lambda block: _correlation(predictions[block], labels[block])


def _correlation(x: Floats, y: Floats) -> Floats:
    """Correlation of each row of x with the same row of y, both (B, n); 0 where either is constant."""
    sides = []
    for side in (x, y):
        side = side - side[:, :1]  # a large mean would cost precision; a constant becomes exactly 0
        constant = ~side.any(axis=1)
        side -= side.mean(axis=1, keepdims=True)
        norm = np.sqrt(np.einsum("bn,bn->b", side, side))
        norm[constant] = np.inf
        sides.append((side, norm))
    (x, x_norm), (y, y_norm) = sides
    return np.clip(np.einsum("bn,bn->b", x, y) / x_norm / y_norm, -1.0, 1.0)


def _spearman(predictions: Floats, labels: Floats) -> Callable[[Ints], Floats]:
    sides = [np.unique(side, return_inverse=True)[1] for side in (predictions, labels)]  # dense ranks, ties equal
    return lambda block: _correlation(*(_mean_ranks(side[block]) for side in sides))


def _mean_ranks(values: Ints) -> Floats:
    """Ranks within each row, from 1, ties sharing their mean rank; values are dense ranks, (B, n)."""
    counts = _counts(values, int(values.max()) + 1)
    ranks = np.cumsum(counts, axis=1) - (counts - 1) / 2  # (B, kinds)
    return np.take_along_axis(ranks, values, axis=1)


def _root(function: Callable[[Ints], Floats]) -> Callable[[Ints], Floats]:
    return lambda block: np.sqrt(function(block))


REGRESSION: dict[str, Callable[[Floats, Floats], Callable[[Ints], Floats]]] = {
    "pearson": _pearson,
    "spearman": _spearman,
    "mse": lambda predictions, labels: _mean_of((predictions - labels) ** 2),
    "rmse": lambda predictions, labels: _root(_mean_of((predictions - labels) ** 2)),
    "mae": lambda predictions, labels: _mean_of(np.abs(predictions - labels)),
}
