"""Metrics against formulas, the naive ranking reference and the inputs on which a metric is easily undefined."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from math import log2, sqrt
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from reference.ranking import PER_QUERY, mean_over_queries

from mtl.metrics import METRICS, baseline, compute, is_better

pytestmark = pytest.mark.filterwarnings("error")

RANKING = [name for name, metric in METRICS.items() if metric.task_type == "ranking"]

# Two classes: TP = 3, FP = 1, FN = 2, TN = 4.
BINARY = (np.repeat([1, 1, 0, 0], [3, 1, 2, 4]), np.repeat([1, 0, 1, 0], [3, 1, 2, 4]))

# Three classes. True (row) by predicted (column): 0: [2, 1, 0], 1: [0, 1, 1], 2: [0, 0, 3].
THREE = (np.array([0, 0, 1, 1, 2, 2, 2, 2]), np.array([0, 0, 0, 1, 1, 2, 2, 2]))

# Rows by score, from the greatest: 4 positive, 3 one of each, 2 negative, 1 positive: of 3 · 2 pairs 2 + 3/2 are right.
SCORED = (np.array([3.0, 1.0, 4.0, 2.0, 3.0]), np.array([0, 1, 1, 0, 1]))

# Deviations from the means 3 and 4: predictions -2 -1 1 2, labels -2 -3 1 4. Errors: -1 1 -1 -3.
LINE = (np.array([1.0, 2.0, 4.0, 5.0]), np.array([2.0, 1.0, 5.0, 8.0]))

# Three queries, each written in ranked order; the last has nothing relevant: it counts as 0, or not at all.
LONG, SHORT, EMPTY = [0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 3], [1, 2], [0, 0, 0]
RELEVANCE = np.array([*LONG, *SHORT, *EMPTY], dtype=float)
QUERIES = (-np.arange(len(RELEVANCE), dtype=float), RELEVANCE, np.repeat([7, 3, 5], [12, 2, 3]))
IDEAL_LONG, IDEAL_SHORT = 3 + 2 / log2(3) + 1 / log2(4), 2 + 1 / log2(3)
SHORT_NDCG = (1 + 2 / log2(3)) / IDEAL_SHORT

CASES: dict[str, list[tuple[tuple[np.ndarray, ...], float]]] = {
    "accuracy": [(BINARY, (3 + 4) / 10), (THREE, (2 + 1 + 3) / 8)],
    "balanced_accuracy": [(BINARY, (3 / 5 + 4 / 5) / 2), (THREE, (2 / 3 + 1 / 2 + 3 / 3) / 3)],
    "mcc": [
        (BINARY, (3 * 4 - 1 * 2) / sqrt((3 + 1) * (3 + 2) * (4 + 1) * (4 + 2))),
        # R_K: (hits · rows - Σ predicted_c true_c) / sqrt((rows² - Σ predicted_c²)(rows² - Σ true_c²))
        (THREE, (6 * 8 - (2 * 3 + 2 * 2 + 4 * 3)) / sqrt((64 - (4 + 4 + 16)) * (64 - (9 + 4 + 9)))),
    ],
    "macro_f1": [
        (BINARY, (2 * 3 / (2 * 3 + 1 + 2) + 2 * 4 / (2 * 4 + 2 + 1)) / 2),
        (THREE, (2 * 2 / (2 + 3) + 2 * 1 / (2 + 2) + 2 * 3 / (4 + 3)) / 3),
    ],
    "f1": [(BINARY, 2 * 3 / (2 * 3 + 1 + 2))],
    "precision": [(BINARY, 3 / (3 + 1))],
    "recall": [(BINARY, 3 / (3 + 2))],
    "roc_auc": [(SCORED, (2 + 3 / 2 + 0) / (3 * 2))],
    "average_precision": [(SCORED, (1 / 1 + 2 / 3 + 3 / 5) / 3)],
    "pearson": [(LINE, (4 + 3 + 1 + 8) / sqrt((4 + 1 + 1 + 4) * (4 + 9 + 1 + 16)))],
    "spearman": [
        (LINE, 1 - 6 * (1 + 1) / (4 * (4**2 - 1))),
        # Tied ranks 1.5 1.5 3 4 against 1 2 3 4: deviations from 2.5 are -1 -1 0.5 1.5 and -1.5 -0.5 0.5 1.5.
        ((np.array([1.0, 1.0, 2.0, 9.0]), np.array([0.0, 1.0, 5.0, 6.0])), 4.5 / sqrt(4.5 * 5)),
    ],
    "mse": [(LINE, (1 + 1 + 1 + 9) / 4)],
    "rmse": [(LINE, sqrt((1 + 1 + 1 + 9) / 4))],
    "mae": [(LINE, (1 + 1 + 1 + 3) / 4)],
    "map": [(QUERIES, ((1 / 2 + 2 / 7 + 3 / 12) / 3 + (1 + 1) / 2) / 3)],
    "mrr": [(QUERIES, (1 / 2 + 1) / 3)],
    "ndcg@1": [(QUERIES, (0 / 3 + 1 / 2) / 3)],
    "ndcg@5": [(QUERIES, (2 / log2(3) / IDEAL_LONG + SHORT_NDCG) / 3)],
    "ndcg@10": [(QUERIES, ((2 / log2(3) + 1 / log2(8)) / IDEAL_LONG + SHORT_NDCG) / 3)],
    "p@1": [(QUERIES, (0 + 1) / 3)],
    "map_answerable": [(QUERIES, ((1 / 2 + 2 / 7 + 3 / 12) / 3 + (1 + 1) / 2) / 2)],
    "mrr_answerable": [(QUERIES, (1 / 2 + 1) / 2), ((np.ones(3), np.zeros(3), np.array([1, 1, 2])), 0.0)],
    "ndcg@1_answerable": [(QUERIES, (0 / 3 + 1 / 2) / 2)],
    "ndcg@5_answerable": [(QUERIES, (2 / log2(3) / IDEAL_LONG + SHORT_NDCG) / 2)],
    "ndcg@10_answerable": [(QUERIES, ((2 / log2(3) + 1 / log2(8)) / IDEAL_LONG + SHORT_NDCG) / 2)],
    "p@1_answerable": [(QUERIES, (0 + 1) / 2)],
}


def random_queries(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Up to 12 queries of 1 to 25 candidates, rows mixed, few distinct scores, grades from -1 to 3, most of them 0."""
    generator = np.random.default_rng(seed)
    ids = generator.choice(1000, size=generator.integers(1, 13), replace=False)
    groups = generator.permutation(np.repeat(ids, generator.integers(1, 26, size=len(ids))))
    scores = generator.integers(0, generator.integers(1, 40), size=len(groups)) / 4
    grades = generator.choice([-1, 0, 0.5, 1, 2, 3], p=[0.05, 0.75, 0.05, 0.05, 0.05, 0.05], size=len(groups))
    return scores, grades, groups


def test_every_metric_has_a_case() -> None:
    assert set(CASES) == set(METRICS)
    assert {*PER_QUERY, *(f"{name}_answerable" for name in PER_QUERY)} == set(RANKING)


@pytest.mark.parametrize(
    ("name", "columns", "expected"), [(name, *case) for name, cases in CASES.items() for case in cases]
)
def test_closed_form(name: str, columns: tuple[np.ndarray, ...], expected: float) -> None:
    assert METRICS[name].function(*columns) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_declared_direction_prefers_the_truth(name: str) -> None:
    columns, value = CASES[name][0]
    perfect = METRICS[name].function(columns[1], *columns[1:])
    assert is_better(name, perfect, value)
    assert not is_better(name, value, perfect)


def test_exactly_the_metrics_of_the_positive_class_need_two_labels() -> None:
    binary_only = {name for name, metric in METRICS.items() if metric.binary_only}
    assert binary_only == {"f1", "precision", "recall", "roc_auc", "average_precision"}
    for name in binary_only:
        with pytest.raises(ValueError, match=r"multiclass|two classes"):
            compute([name], "classification", np.eye(3)[THREE[0]], THREE[1])


# Ranking


@pytest.mark.parametrize("name", RANKING)
def test_ranking_equals_the_naive_reference(name: str) -> None:
    for seed in range(200):
        columns = random_queries(seed)
        expected = mean_over_queries(name, *(column.tolist() for column in columns))
        assert METRICS[name].function(*columns) == pytest.approx(expected, rel=0, abs=1e-12), f"seed {seed}"


@pytest.mark.parametrize("name", RANKING)
def test_ranking_equals_trec_eval(name: str) -> None:
    plain = name.removesuffix("_answerable")
    measure = {"map": "map", "mrr": "recip_rank", "p@1": "P_1"}.get(plain, plain.replace("ndcg@", "ndcg_cut_"))
    for seed in range(200):
        scores, grades, groups = random_queries(seed)
        grades = np.floor(grades).astype(int)  # it reads whole grades only
        run: dict[str, dict[str, float]] = {}
        judged: dict[str, dict[str, int]] = {}
        for row, (group, score, grade) in enumerate(zip(groups, scores, grades, strict=True)):
            run.setdefault(str(group), {})[f"{row:04}"] = float(score)  # it orders ties by name
            judged.setdefault(str(group), {})[f"{row:04}"] = int(grade)
        results = pytrec_eval.RelevanceEvaluator(judged, {measure}).evaluate(run)
        assert len(results) == len(run)
        counted = {group for group, grade in zip(map(str, groups), grades, strict=True) if grade > 0 or name == plain}
        expected = sum(results[group][measure] for group in counted) / max(1, len(counted))
        assert METRICS[name].function(scores, grades, groups) == pytest.approx(expected, rel=0, abs=1e-12), seed


def test_random_queries_contain_what_they_are_meant_to_test() -> None:
    ties = unanswerable = nothing_relevant = 0
    for seed in range(200):
        scores, grades, groups = random_queries(seed)
        ties += len(set(zip(groups.tolist(), scores.tolist(), strict=True))) < len(groups)
        unanswerable += bool(set(groups.tolist()) - set(groups[grades > 0].tolist()))
        nothing_relevant += not (grades > 0).any()
    assert min(ties, unanswerable, nothing_relevant) > 0


@pytest.mark.parametrize("name", RANKING)
def test_without_ties_neither_row_order_nor_query_ids_matter(name: str) -> None:
    _, grades, groups = random_queries(1)
    generator = np.random.default_rng(1)
    scores = generator.permutation(len(groups)).astype(float)
    expected = METRICS[name].function(scores, grades, groups)
    assert 0 < expected < 1
    rows = generator.permutation(len(groups))
    assert METRICS[name].function(scores[rows], grades[rows], groups[rows]) == pytest.approx(expected, rel=1e-12)
    assert METRICS[name].function(scores, grades, 1000 - groups) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", RANKING)
def test_among_equal_scores_the_later_row_comes_first(name: str) -> None:
    tied, groups = np.zeros(4), np.zeros(4, dtype=int)
    relevance = np.array([0.0, 1.0, 0.0, 2.0])
    assert METRICS[name].function(tied, relevance, groups) == METRICS[name].function(np.arange(4.0), relevance, groups)


@pytest.mark.parametrize("name", RANKING)
def test_queries_without_a_relevant_candidate(name: str) -> None:
    scores, relevance, groups = QUERIES
    kept = groups != 5
    others = METRICS[name].function(scores[kept], relevance[kept], groups[kept])
    share = 1 if name.endswith("_answerable") else 2 / 3
    assert METRICS[name].function(*QUERIES) == pytest.approx(others * share, rel=1e-12)
    assert METRICS[name].function(scores, np.zeros_like(relevance), groups) == 0.0


# Inputs on which a metric is easily undefined


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize(
    ("predictions", "labels"),
    [([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], [0.1, 0.1, 0.1]), ([1.0], [2.0])],
    ids=["constant predictions", "constant labels", "one row"],
)
def test_correlation_with_a_constant_is_zero(name: str, predictions: list[float], labels: list[float]) -> None:
    assert METRICS[name].function(np.array(predictions), np.array(labels)) == 0.0


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_predictions_of_one_value_have_no_correlation(name: str) -> None:
    """A model that has collapsed gives out one value but for the last digits."""
    labels = np.arange(8.0)
    noise = np.float32(0.7) + np.array([0, 1, 2, 1, 2, 2, 0, 2], np.float32) * np.float32(2**-24)
    assert len(set(noise.tolist())) > 1
    assert compute([name], "regression", noise, labels) == {name: 0.0}
    apart = np.float32(0.7) + labels.astype(np.float32) * np.float32(2**-20)
    assert compute([name], "regression", apart, labels)[name] > 0.99


def test_pearson_ignores_a_large_mean() -> None:
    predictions, labels = LINE
    assert METRICS["pearson"].function(predictions + 2.0**50, labels) == METRICS["pearson"].function(*LINE)


@pytest.mark.parametrize(
    ("predictions", "labels", "expected"),
    [
        ([0, 0], [0, 0], {"accuracy": 1, "balanced_accuracy": 1, "macro_f1": 1, "mcc": 0, "f1": 0, "precision": 0}),
        ([1, 1], [0, 0], {"accuracy": 0, "balanced_accuracy": 0, "macro_f1": 0, "mcc": 0, "f1": 0, "recall": 0}),
        ([0, 0], [0, 1], {"balanced_accuracy": 1 / 2, "mcc": 0, "f1": 0, "precision": 0, "recall": 0}),
        ([0, 1], [0, 0], {"balanced_accuracy": 1 / 2, "macro_f1": (2 / 3 + 0) / 2, "mcc": 0, "recall": 0}),
        ([1], [1], {"accuracy": 1, "balanced_accuracy": 1, "mcc": 0, "f1": 1}),
    ],
)
def test_classes_that_are_missing(predictions: list[int], labels: list[int], expected: dict[str, float]) -> None:
    columns = np.array(predictions), np.array(labels)
    assert {name: METRICS[name].function(*columns) for name in expected} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("label", "auc", "precision"), [(0, 0.5, 0.0), (1, 0.5, 1.0)])
def test_rows_of_one_class_cannot_be_ranked(label: int, auc: float, precision: float) -> None:
    scores, labels = np.array([0.5, -1.0]), np.array([label, label])
    assert METRICS["roc_auc"].function(scores, labels) == auc
    assert METRICS["average_precision"].function(scores, labels) == precision


# compute


def test_compute_takes_the_greatest_logit_and_keeps_the_order_of_names() -> None:
    predictions, labels = THREE
    logits = np.where(predictions[:, None] == np.arange(3), 2.0, -1.0).astype(np.float32)
    names = ["mcc", "accuracy", "macro_f1"]
    result = compute(names, "classification", logits, labels)
    assert list(result) == names
    assert all(type(value) is float for value in result.values())
    assert result == {name: METRICS[name].function(*THREE) for name in names}


@pytest.mark.parametrize("shift", [0.0, 100.0], ids=["logits", "far from 0"])
def test_compute_ranks_two_classes_by_how_far_the_second_is_ahead(shift: float) -> None:
    scores, labels = SCORED
    logits = np.stack([shift - scores / 2, shift + scores / 2], axis=1).astype(np.float32)
    names = ["average_precision", "accuracy", "roc_auc"]
    result = compute(names, "classification", logits, labels)
    assert list(result) == names
    expected = {"roc_auc": CASES["roc_auc"][0][1], "accuracy": 3 / 5}  # all five are predicted to be positive
    assert result == pytest.approx(expected | {"average_precision": CASES["average_precision"][0][1]}, rel=1e-12)
    probabilities = 1 / (1 + np.exp(np.stack([scores, -scores], axis=1)))
    assert compute(names, "classification", probabilities, labels) == compute(names, "classification", logits, labels)


@pytest.mark.parametrize("name", ["pearson", "spearman", "mse", "rmse", "mae"])
def test_a_column_of_outputs_is_not_broadcast_against_the_labels(name: str) -> None:
    predictions, labels = (column.astype(np.float32) for column in LINE)
    expected = pytest.approx(CASES[name][0][1], rel=1e-12)
    assert compute([name], "regression", predictions, labels)[name] == expected
    assert compute([name], "regression", predictions[:, None], labels)[name] == expected


def test_compute_ranks_a_column_of_outputs() -> None:
    scores, relevance, groups = QUERIES
    result = compute(RANKING, "ranking", scores[:, None], relevance, groups)
    assert result == pytest.approx({name: CASES[name][0][1] for name in RANKING}, rel=1e-12)


@pytest.mark.parametrize(
    ("task_type", "outputs", "labels", "groups"),
    [
        ("classification", (4,), (4,), None),
        ("classification", (3, 2), (4,), None),
        ("regression", (4, 2), (4,), None),
        ("regression", (1, 4), (4,), None),
        ("regression", (4, 1), (4, 1), None),
        ("regression", (0,), (0,), None),
        ("ranking", (4,), (4,), None),
        ("ranking", (4,), (4,), (3,)),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(
    task_type: str, outputs: tuple[int, ...], labels: tuple[int, ...], groups: tuple[int, ...] | None
) -> None:
    name = next(name for name, metric in METRICS.items() if metric.task_type == task_type)
    ids = None if groups is None else np.ones(groups)
    with pytest.raises(ValueError, match=r"expected outputs .* got"):
        compute([name], METRICS[name].task_type, np.ones(outputs), np.ones(labels), ids)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_model_has_no_score(value: float) -> None:
    logits = np.array([[1.0, 0.0], [value, 0.0]])
    result = compute(["accuracy", "mcc"], "classification", logits, np.array([0, 0]))
    assert list(result) == ["accuracy", "mcc"]
    assert all(math.isnan(value) for value in result.values())


# baseline


def test_baseline_of_classification_is_the_most_frequent_training_label() -> None:
    train, labels = np.array([0, 1, 1, 2, 1]), np.array([0, 0, 0, 1])
    result = baseline("classification", ["accuracy", "balanced_accuracy", "mcc"], train, labels)
    assert result == {"accuracy": 1 / 4, "balanced_accuracy": (0 + 1) / 2, "mcc": 0.0}
    assert baseline("classification", ["accuracy"], np.array([2, 1, 1, 2]), labels) == {"accuracy": 1 / 4}


def test_baseline_of_ranked_rows_puts_none_before_another() -> None:
    names, labels = ["roc_auc", "average_precision"], np.array([1, 0, 0, 0])
    for train in ([0, 0, 1], [0, 0], [1, 1]):
        assert baseline("classification", names, np.array(train), labels) == {
            "roc_auc": 1 / 2,
            "average_precision": 1 / 4,
        }


def test_baseline_of_regression_is_the_training_mean() -> None:
    train, labels = np.array([1.0, 2.0, 6.0]), np.array([1.0, 4.0])
    result = baseline("regression", ["pearson", "spearman", "mse", "mae"], train, labels)
    assert result == {"pearson": 0.0, "spearman": 0.0, "mse": (2**2 + 1**2) / 2, "mae": (2 + 1) / 2}


@pytest.mark.parametrize("name", RANKING)
@pytest.mark.parametrize("grades", [[1, 0], [0, 2, 0, 1], [3, 1, 0, 0, -1], [1, 1], [0, 0, 0], [2], [0, 0, 1, 0, 0, 2]])
def test_baseline_of_ranking_is_the_mean_over_all_orders(name: str, grades: list[float]) -> None:
    """Each order of a query's candidates is equally likely; another query beside it, which has no other order."""
    relevance, groups = np.array([*grades, 1.0]), np.array([4] * len(grades) + [2])
    plain = name.removesuffix("_answerable")
    values = [PER_QUERY[plain](list(order)) for order in itertools.permutations(grades)]
    counted = [math.fsum(values) / len(values), 1.0] if max(grades) > 0 or name == plain else [1.0]
    found = baseline("ranking", [name], relevance, relevance, groups)
    assert found == {name: pytest.approx(math.fsum(counted) / len(counted), rel=1e-12)}


# is_better


@pytest.mark.parametrize(
    ("name", "value", "best", "expected"),
    [
        ("accuracy", 0.5, 0.4, True),
        ("accuracy", 0.4, 0.5, False),
        ("accuracy", 0.5, 0.5, False),
        ("mse", 0.4, 0.5, True),
        ("mse", 0.5, 0.4, False),
        ("accuracy", 0.0, None, True),
        ("accuracy", math.nan, None, False),
        ("mse", math.nan, 0.5, False),
        ("mse", 0.5, math.nan, True),
        ("mse", math.nan, math.nan, False),
    ],
)
def test_is_better(name: str, value: float, best: float | None, expected: bool) -> None:
    assert is_better(name, value, best) is expected


def test_importing_the_module_loads_no_numerical_package() -> None:
    heavy = {"numpy", "scipy", "sklearn", "torch"}
    script = f"import sys, mtl.metrics; print(*{heavy} & set(sys.modules))"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
