"""Metrics of the three task types, each with its direction, and baselines that ignore the text.

Legend: n rows, C classes, Q queries. A ranking row is one (query, candidate) pair and `groups` holds its query id.
Many modules need only the names in `METRICS`, so numerical packages are imported where they are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from mtl.ranking_metrics import answerable, average_precision, ndcg, precision_at, reciprocal_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

TaskType = Literal["classification", "regression", "ranking"]

ROUNDING = 4  # spread, in units in the last place, up to which predictions count as constant
RANDOM_ORDERS = 100  # random orders averaged by the ranking baseline


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of `METRICS`: the function, the task type it applies to, and the direction of improvement."""

    function: Callable[..., float]  # of (predictions, labels), for ranking (scores, relevance, groups), each (n,)
    task_type: TaskType
    higher_is_better: bool
    binary_only: bool = False  # the task must have exactly two labels
    of_scores: bool = False  # classification: predictions are scores of the positive class, label index 1
    per_query: Callable[..., np.ndarray] | None = None  # ranking: the values averaged, (Q,), without NaN


# Classification: predictions int (n,), labels int (n,), both indices into the task's `labels`.


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of rows predicted correctly: 1/n Σ_i [prediction_i = label_i]."""
    from sklearn.metrics import accuracy_score

    return accuracy_score(labels, predictions)


def balanced_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Recall averaged over the classes that occur in `labels`: mean_c TP_c / (TP_c + FN_c)."""
    import numpy as np
    from sklearn.metrics import recall_score

    return recall_score(labels, predictions, labels=np.unique(labels), average="macro")


def matthews_correlation(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation of predicted and true classes, in [-1, 1].

    Binary: (TP·TN - FP·FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN)); several classes: R_K (Gorodkin 2004).
    0.0 if the predictions or the labels contain a single class.
    """
    from sklearn.metrics import matthews_corrcoef

    if (labels == labels[0]).all():  # scikit-learn says 0.0 as well, but warns
        return 0.0
    return matthews_corrcoef(labels, predictions)


def precision(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Precision of the positive class, label index 1: TP / (TP + FP); 0.0 if it is never predicted."""
    from sklearn.metrics import precision_score

    return precision_score(labels, predictions, pos_label=1, average="binary", zero_division=0)


def recall(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Recall of the positive class, label index 1: TP / (TP + FN); 0.0 if it never occurs."""
    from sklearn.metrics import recall_score

    return recall_score(labels, predictions, pos_label=1, average="binary", zero_division=0)


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of the positive class, label index 1: 2 TP / (2 TP + FP + FN); 0.0 if it neither occurs nor is predicted."""
    from sklearn.metrics import f1_score

    return f1_score(labels, predictions, pos_label=1, average="binary", zero_division=0)


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 averaged over the classes that occur in labels or predictions: mean_c 2 TP_c / (2 TP_c + FP_c + FN_c)."""
    from sklearn.metrics import f1_score

    return f1_score(labels, predictions, average="macro", zero_division=0)


# Threshold-free metrics of two classes: predictions are scores, float (n,); labels int (n,), of which 1 is positive.


def as_scores(outputs: np.ndarray) -> np.ndarray:
    """Scores of the positive class, in float64, (n,): second output minus first.

    Raises:
        ValueError: `outputs` do not have the shape (n, 2).
    """
    import numpy as np

    if outputs.shape[1:] != (2,):
        raise ValueError(f"expected the outputs of two classes, (n, 2), got {outputs.shape}")
    first, second = outputs.astype(np.float64).T
    return second - first


def roc_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of (positive, negative) pairs of rows in which the positive row scores higher; ties count half.

    0.5, as for a constant score, if there is no such pair.
    """
    from sklearn.metrics import roc_auc_score

    if (labels == labels[0]).all():
        return 0.5
    return roc_auc_score(labels, scores)


def precision_recall_area(scores: np.ndarray, labels: np.ndarray) -> float:
    """Average precision: Σ_k (recall_k - recall_{k-1}) precision_k over the distinct scores, in descending order.

    0.0 if there is no positive row. Source: `sklearn.metrics.average_precision_score`, which does not interpolate.
    """
    from sklearn.metrics import average_precision_score

    if not labels.any():  # scikit-learn says 0.0 as well, but warns
        return 0.0
    return average_precision_score(labels, scores)


# Regression: predictions float (n,), labels float (n,).


def as_values(outputs: np.ndarray) -> np.ndarray:
    """Predictions of a regression in float64; all set to the first one if they differ only by rounding.

    The outputs of a model that predicts a constant still differ in their last digits, and correlations with those
    differences would be noise.
    """
    import numpy as np

    values = outputs.astype(np.float64)
    kind = outputs.dtype if np.issubdtype(outputs.dtype, np.floating) else values.dtype
    rounding = ROUNDING * float(np.finfo(kind).eps) * np.abs(values).max()
    return np.full_like(values, values[0]) if np.ptp(values) <= rounding else values


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Linear correlation, Σ(p - p̄)(y - ȳ) / sqrt(Σ(p - p̄)² Σ(y - ȳ)²), in [-1, 1].

    0.0, though the quotient is undefined, if predictions or labels are constant (which includes a single row).
    """
    from scipy.stats import pearsonr

    # Shifting does not change the correlation, but avoids the loss of precision from a large mean (scipy would warn).
    predictions, labels = predictions - predictions[0], labels - labels[0]
    if not predictions.any() or not labels.any():
        return 0.0
    return pearsonr(predictions, labels).statistic


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Rank correlation: `pearson` of the ranks, where ties share their mean rank; 0.0 if either side is constant."""
    from scipy.stats import rankdata

    return pearson(rankdata(predictions), rankdata(labels))


def mean_squared_error(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared error: 1/n Σ_i (p_i - y_i)²."""
    from sklearn import metrics

    return metrics.mean_squared_error(labels, predictions)


def root_mean_squared_error(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Root of the mean squared error, in the unit of the labels: sqrt(1/n Σ_i (p_i - y_i)²)."""
    return math.sqrt(mean_squared_error(predictions, labels))


def mean_absolute_error(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean absolute error, in the unit of the labels: 1/n Σ_i |p_i - y_i|."""
    from sklearn import metrics

    return metrics.mean_absolute_error(labels, predictions)


# Ranking: the mean over queries of a metric of `mtl.ranking_metrics`.


def _mean(per_query: Callable[..., np.ndarray], *columns: np.ndarray) -> float:
    """Mean of a per-query metric over the queries whose value is not NaN; 0 if there are none."""
    import numpy as np

    values = per_query(*columns)
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if len(counted) else 0.0


def _ranking(per_query: Callable[..., np.ndarray]) -> Metric:
    return Metric(partial(_mean, per_query), "ranking", higher_is_better=True, per_query=per_query)


def compute(
    names: Sequence[str], task_type: TaskType, outputs: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None
) -> dict[str, float]:
    """Score a model's raw outputs.

    Args:
        names: keys of `METRICS`, all of this task type.
        task_type: classification, regression or ranking.
        outputs: logits or probabilities (n, C) for classification, whose argmax is the prediction; (n,) or (n, 1)
            otherwise.
        labels: (n,) class indices, target values or graded relevance.
        groups: (n,) query ids; ranking only.

    Returns:
        name -> value, in the order of `names`. All NaN if any output is NaN or infinite, as after divergence.

    Raises:
        ValueError: the shapes do not match; without this check, arithmetic would silently broadcast them.
    """
    import numpy as np

    assert all(METRICS[name].task_type == task_type for name in names), (names, task_type)
    rows, classification, ranking = len(labels), task_type == "classification", task_type == "ranking"
    fits = outputs.ndim == 2 and len(outputs) == rows if classification else outputs.shape in ((rows,), (rows, 1))
    group_shape = None if groups is None else groups.shape
    if not fits or rows == 0 or labels.shape != (rows,) or (ranking and group_shape != (rows,)):
        raise ValueError(
            f"expected outputs {'(n, C)' if classification else '(n,) or (n, 1)'}, labels (n,) and, for ranking, "
            f"groups (n,), with n >= 1; got {outputs.shape}, {labels.shape}, {group_shape}"
        )
    if not np.isfinite(outputs).all():
        return dict.fromkeys(names, math.nan)
    if classification:
        predictions = outputs.argmax(axis=1)
        scores = as_scores(outputs) if any(METRICS[name].of_scores for name in names) else predictions
    else:  # float64, so that sums over float32 outputs keep their precision
        predictions, labels = outputs.reshape(rows), labels.astype(np.float64)
        predictions = predictions.astype(np.float64) if ranking else as_values(predictions)
    columns = (labels, groups) if ranking else (labels,)
    return {
        name: float(row.function(scores if row.of_scores else predictions, *columns))
        for name, row in ((name, METRICS[name]) for name in names)
    }


def baseline(
    task_type: TaskType,
    names: Sequence[str],
    train_labels: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
) -> dict[str, float]:
    """Score the best guess that ignores the text.

    Classification: always the most frequent training label (the lowest index in case of a tie). Regression: always the
    mean of the training labels. Ranking: the expectation of a random order, estimated from `RANDOM_ORDERS` seeded ones.

    Arguments and result are those of `compute`, except that `train_labels`, of any length and unused for ranking,
    replace the outputs.
    """
    import numpy as np

    if task_type == "classification":
        counts = np.bincount(train_labels, minlength=2)  # (C,)
        return compute(names, task_type, np.tile(counts, (len(labels), 1)), labels)
    if task_type == "regression":
        return compute(names, task_type, np.full(len(labels), train_labels.mean()), labels)
    generator = np.random.default_rng(0)
    orders = [compute(names, task_type, generator.random(len(labels)), labels, groups) for _ in range(RANDOM_ORDERS)]
    return {name: math.fsum(order[name] for order in orders) / RANDOM_ORDERS for name in names}


def is_better(name: str, value: float, best: float | None) -> bool:
    """Whether `value` improves on `best` in the metric's direction; any number improves on None and NaN, NaN never."""
    if math.isnan(value):
        return False
    if best is None or math.isnan(best):
        return True
    return value > best if METRICS[name].higher_is_better else value < best


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, "classification", higher_is_better=True),
    "balanced_accuracy": Metric(balanced_accuracy, "classification", higher_is_better=True),
    "mcc": Metric(matthews_correlation, "classification", higher_is_better=True),
    "macro_f1": Metric(macro_f1, "classification", higher_is_better=True),
    "f1": Metric(f1, "classification", higher_is_better=True, binary_only=True),
    "precision": Metric(precision, "classification", higher_is_better=True, binary_only=True),
    "recall": Metric(recall, "classification", higher_is_better=True, binary_only=True),
    "roc_auc": Metric(roc_auc, "classification", higher_is_better=True, binary_only=True, of_scores=True),
    "average_precision": Metric(
        precision_recall_area, "classification", higher_is_better=True, binary_only=True, of_scores=True
    ),
    "pearson": Metric(pearson, "regression", higher_is_better=True),
    "spearman": Metric(spearman, "regression", higher_is_better=True),
    "mse": Metric(mean_squared_error, "regression", higher_is_better=False),
    "rmse": Metric(root_mean_squared_error, "regression", higher_is_better=False),
    "mae": Metric(mean_absolute_error, "regression", higher_is_better=False),
    "map": _ranking(average_precision),
    "mrr": _ranking(reciprocal_rank),
    "ndcg@1": _ranking(partial(ndcg, k=1)),
    "ndcg@5": _ranking(partial(ndcg, k=5)),
    "ndcg@10": _ranking(partial(ndcg, k=10)),
    "p@1": _ranking(partial(precision_at, k=1)),
}
ANSWERABLE = "_answerable"
METRICS |= {  # the same, averaged only over queries that have a relevant candidate
    f"{name}{ANSWERABLE}": _ranking(partial(answerable, row.per_query))
    for name, row in METRICS.items()
    if row.per_query
}
