"""How far a metric may be trusted: bootstrap intervals of one model, and of the difference of two on the same rows.

Rows (in ranking: whole queries) are drawn with replacement, as many as there are; the metric is computed on each of
`RESAMPLES` such samples; the interval runs from the 2.5th to the 97.5th percentile of those values. Source: Efron &
Tibshirani 1993, An Introduction to the Bootstrap, sections 13.3 (percentile interval) and 8.3 (whole units).

What it tells: how much the value would vary if other rows of the same kind had been evaluated. What it does not tell:
how much it varies with the seed of training, and how the model does on other kinds of text. It supposes that rows are
independent; with duplicates or several rows of one document it is too narrow, as it is for a few dozen rows (some 90 %
instead of 95 % at n = 20) and for a metric at the end of its range: where every row is right it has no width. A
validation split that also chose the best step makes value and interval slightly too good.

Legend: n rows, U units that are drawn (rows or queries), R resamples, B resamples computed at once, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
AT_ONCE = 1 << 22  # drawn units, or cells of confusion matrices, in memory at once


@dataclass(frozen=True, slots=True)
class Difference:
    """How two models differ in a metric on the same rows: the second's value less the first's, and its interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def resamples(units: int, number: int = RESAMPLES, *, cells: int = 0, seed: int = 0) -> Iterator[Ints]:
    """Yields blocks of resamples, each row the positions drawn, (B, U). How they are cut changes no draw.

    Args:
        units: U.
        number: R.
        cells: Further numbers that a resample takes in memory.
        seed: Another seed gives other resamples; the same for all models, so that they can be compared.
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
    """Every metric on every resample.

    Args and what is undefined are those of `metrics.compute`; so is each value, to rounding, on the rows drawn. A query
    drawn twice counts twice.

    Returns:
        name -> (R,).
    """
    compute(names, task_type, outputs, labels, groups)  # shapes
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
    """The percentile interval of every metric; args are those of `replicates`."""
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
    """Second model less first on the same rows: both are scored on the same resamples, so that what is hard for both
    cancels (paired bootstrap). Args are those of `replicates`, with the outputs of either model."""
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


# Classification: everything follows from the confusion matrix of a resample, [true, predicted], (B, C, C).


def _of_classes(names: Sequence[str], predictions: Ints, labels: Ints, number: int) -> dict[str, Floats]:
    classes = int(max(predictions.max(), labels.max())) + 1
    cells = classes * classes
    cell = labels * classes + predictions  # (n,)
    found: dict[str, list[Floats]] = {name: [] for name in names}
    for block in resamples(len(labels), number, cells=cells):
        numbered = cell[block] + cells * np.arange(len(block))[:, None]
        counts = np.bincount(numbered.ravel(), minlength=cells * len(block)).reshape(-1, classes, classes)
        for name in names:
            found[name].append(CLASSIFICATION[name](counts.astype(np.float64)))
    return {name: np.concatenate(values) for name, values in found.items()}


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
    """Hits of the positive class over its sum along one axis, or the mean of both sums."""
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


# Two classes, ranked by score: positive and all rows of every distinct score in a resample, ascending, each (B, S).


def _of_scores(names: Sequence[str], scores: Floats, labels: Ints, number: int) -> dict[str, Floats]:
    kinds, kind = np.unique(scores, return_inverse=True)  # (S,), (n,)
    cells = 2 * len(kinds)
    cell = 2 * kind + labels  # (n,)
    found: dict[str, list[Floats]] = {name: [] for name in names}
    for block in resamples(len(labels), number, cells=cells):
        numbered = cell[block] + cells * np.arange(len(block))[:, None]
        counts = np.bincount(numbered.ravel(), minlength=cells * len(block)).reshape(-1, len(kinds), 2)
        for name in names:
            found[name].append(SCORES[name](counts[..., 1].astype(np.float64), counts.sum(axis=2, dtype=np.float64)))
    return {name: np.concatenate(values) for name, values in found.items()}


def _roc_auc(positive: Floats, rows: Floats) -> Floats:
    negative = rows - positive
    below = np.cumsum(negative, axis=1) - negative / 2  # of the same score half
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.where(pairs > 0, ratios((positive * below).sum(axis=1), pairs), 0.5)


def _average_precision(positive: Floats, rows: Floats) -> Floats:
    hits, taken = (np.cumsum(side[:, ::-1], axis=1) for side in (positive, rows))  # from the greatest score
    return ratios((positive[:, ::-1] * ratios(hits, taken)).sum(axis=1), hits[:, -1])


SCORES: dict[str, Callable[[Floats, Floats], Floats]] = {"roc_auc": _roc_auc, "average_precision": _average_precision}


# Regression and ranking: means of a value per row or query, and correlations of what is drawn.


def _mean_of(values: Floats) -> Callable[[Ints], Floats]:
    """Mean of what is not NaN; 0 where nothing is."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    return lambda block: ratios(filled[block].sum(axis=1), known[block].sum(axis=1))


def _pearson(predictions: Floats, labels: Floats) -> Callable[[Ints], Floats]:
    return lambda block: _correlation(predictions[block], labels[block])


def _correlation(x: Floats, y: Floats) -> Floats:
    """Correlation of every row of x with that of y, both (B, n); 0 where one is constant."""
    sides = []
    for side in (x, y):
        side = side - side[:, :1]  # keeps the digits that a large mean would take; a constant becomes 0 exactly
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
    """Ranks of every row from 1, tied ones sharing their mean, of dense whole numbers (B, n)."""
    kinds = int(values.max()) + 1
    numbered = values + kinds * np.arange(len(values))[:, None]
    counts = np.bincount(numbered.ravel(), minlength=kinds * len(values)).reshape(-1, kinds)
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
