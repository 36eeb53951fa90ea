"""A run's predictions with the true labels and the texts, which are read again from the data if it is available.

Legend: N rows, Q queries.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mtl.checks import Row, RowChecker
from mtl.errors import UserError
from mtl.intervals import Difference, differences, intervals
from mtl.predictions import Predictions, predictions_file, read_predictions
from mtl.ranking_metrics import candidate_ranks, first_relevant_rank
from mtl.run_record import RunRecord
from mtl.source import Source, locate
from mtl.taskdef import TaskDef

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LabelledPredictions:
    """Predictions of one split with the true labels.

    Attributes:
        task: The task's definition.
        source: The source of the rows.
        predictions: Predictions of all rows.
        labels: Class index, value or relevance, (N,).
        groups: Query number of each row, in order of appearance, (N,); None outside ranking.
    """

    task: TaskDef
    source: Source
    predictions: Predictions
    labels: Floats
    groups: Ints | None

    def intervals(self) -> dict[str, tuple[float, float]]:
        return intervals(self.task.metrics, self.task.type, self.predictions.outputs, self.labels, self.groups)


Joined = dict[str, dict[str, LabelledPredictions | str]]  # by task and split; text is the reason why there are none


def join_labels(record: RunRecord, data_root: str | None = None) -> Joined:
    """Predictions with labels of every task and split in a run's results, by task and split.

    Args:
        record: The run.
        data_root: Local mirror of the hub; by default the run's.

    Raises:
        UserError: As by `join_split`.
    """
    evaluated = record.results["tasks"].items()
    return {name: {split: join_split(record, name, split, data_root) for split in splits} for name, splits in evaluated}


def join_split(record: RunRecord, name: str, split: str, data_root: str | None) -> LabelledPredictions | str:
    """Combine the predictions of one split with its labels, or return the reason, in words, why that is impossible.

    Raises:
        UserError: The predictions are damaged; unlike the data, they are a part of the run.
    """
    if record.run is None or name not in record.run.tasks:
        return "the run's task definitions are missing"
    task, origin = record.run.tasks[name], _origin(record, split)
    if origin == split and split not in task.evaluation_splits:
        return "the run's task definitions have no such split"
    path = predictions_file(record.path, name, split)
    if not path.is_file():
        return f"there are no predictions ({path.name})"
    predictions = read_predictions(path, task)
    try:
        source = locate(task, origin, data_root or record.run.config.data_root)
        if not isinstance(source, Source):
            return f"the data is not there: {source}"
        before = record.provenance.contents.get(f"{name}/{origin}")
        if before is not None and source.fingerprint() != before:
            return f"the data is not what the run was evaluated on: {source} has changed"
        rows, labels, groups = _read_labels(name, task, source)
        if origin != split:  # the holdout, a subset of these rows
            chosen = np.isin(rows, predictions.rows)
            rows, labels, groups = rows[chosen], labels[chosen], np.unique(groups[chosen], return_inverse=True)[1]
    except (UserError, OSError) as error:
        return f"the data cannot be read: {error}"
    if not np.array_equal(rows, predictions.rows):
        return f"the data has other rows than the predictions: {source}"
    return LabelledPredictions(task, source, predictions, labels, groups if task.type == "ranking" else None)


def _origin(record: RunRecord, split: str) -> str:
    """The data's split from which a run's split is read: rows that were held out are training rows."""
    held_out = record.run is not None and record.run.config.train.holdout is not None and split == "holdout"
    return "train" if held_out else split


def _read_labels(name: str, task: TaskDef, source: Source) -> tuple[Ints, Floats, Ints]:
    checker = RowChecker(name, task)
    rows: list[int] = []
    labels: list[float] = []
    groups: list[int] = []
    numbers: dict[str | None, int] = {}
    for row in checker.read(source):
        assert row.label is not None
        rows.append(row.position)
        labels.append(float(row.label))
        groups.append(numbers.setdefault(row.group, len(numbers)))
    if checker.findings.faults:
        raise UserError(checker.findings.problems())
    return np.array(rows, dtype=np.int64), np.array(labels), np.array(groups, dtype=np.int64)


def texts(labelled: LabelledPredictions, positions: Collection[int]) -> dict[int, Row]:
    """Rows at the given source positions."""
    wanted = set(positions)
    checker = RowChecker("", labelled.task)
    return {row.position: row for row in checker.read(labelled.source) if row.position in wanted}


def confusion(labelled: LabelledPredictions) -> Ints:
    """Confusion matrix: number of rows by [true class, predicted class]."""
    number = labelled.task.num_labels
    cells = labelled.labels.astype(np.int64) * number + labelled.predictions.outputs.argmax(axis=1)
    return np.bincount(cells, minlength=number * number).reshape(number, number)


def first_ranks(labelled: LabelledPredictions) -> Ints:
    """Rank of each query's first relevant candidate, 0 if there is none, (Q,)."""
    assert labelled.groups is not None
    found: Ints = first_relevant_rank(labelled.predictions.outputs, labelled.labels, labelled.groups)
    return found


@dataclass(frozen=True)
class HardExample:
    """One of the examples that the model predicts worst.

    Attributes:
        rows: Source positions: of the row; in ranking, of the best-ranked relevant candidate and of the top candidate.
        facts: Truth and prediction, as pairs of name and text.
    """

    rows: tuple[int, ...]
    facts: tuple[tuple[str, str], ...]


def hardest(labelled: LabelledPredictions, number: int = 10) -> list[HardExample]:
    """The examples that the model predicts worst, worst first; of equally bad ones, the earlier first.

    These have the lowest probability of the true class, the largest error or, in ranking, the relevant candidates
    ranked furthest down (queries without a relevant candidate are left out).
    """
    outputs, rows = labelled.predictions.outputs, labelled.predictions.rows
    if labelled.task.type == "ranking":
        return _hardest_queries(labelled, number)
    labels = labelled.task.labels
    if labelled.task.type == "regression":
        errors = np.abs(outputs - labelled.labels)
        return [
            HardExample(
                (int(rows[i]),),
                (
                    ("true", f"{labelled.labels[i]:.4g}"),
                    ("predicted", f"{outputs[i]:.4g}"),
                    ("off by", f"{errors[i]:.4g}"),
                ),
            )
            for i in np.argsort(-errors, kind="stable")[:number]
        ]
    true = labelled.labels.astype(np.int64)
    right = outputs[np.arange(len(true)), true]
    return [
        HardExample(
            (int(rows[i]),),
            (
                ("true", f"{labels[true[i]]} ({right[i]:.1%})"),
                ("predicted", f"{labels[outputs[i].argmax()]} ({outputs[i].max():.1%})"),
            ),
        )
        for i in np.argsort(right, kind="stable")[:number]
    ]


def _hardest_queries(labelled: LabelledPredictions, number: int) -> list[HardExample]:
    assert labelled.groups is not None
    ranks, scores = first_ranks(labelled), labelled.predictions.outputs
    places = candidate_ranks(scores, labelled.groups)
    found = []
    for query in np.argsort(-ranks, kind="stable")[:number]:
        if ranks[query] == 0:
            continue
        members = np.flatnonzero(labelled.groups == query)
        ordered = members[np.argsort(places[members])]
        relevant, top = ordered[ranks[query] - 1], ordered[0]
        facts = (
            ("first relevant candidate", f"rank {ranks[query]} of {len(members)}, score {scores[relevant]:.4g}"),
            ("ranked first", f"score {scores[top]:.4g}"),
        )
        rows = labelled.predictions.rows[[relevant, top]].tolist()
        found.append(HardExample((rows[0], rows[1]), facts))
    return found


def compare_predictions(first: RunRecord, second: RunRecord, name: str, split: str, labelled: Sequence[Any]) -> Any:
    """Differences of two runs on a split, metric by metric, or the reason why they cannot be compared.

    Args:
        first: A run.
        second: The run to compare with it.
        name: The task.
        split: Its split.
        labelled: Results of `join_split` for the two runs.

    Returns:
        Metric to `Difference`, second minus first; or the reason in words.
    """
    for one in labelled:
        if isinstance(one, str):
            return one
    prints = [
        (r.provenance.contents.get(f"{name}/{_origin(r, split)}"), r.provenance.data.get(f"{name}/{split}"))
        for r in (first, second)
    ]
    if not any(a is not None and a == b for a, b in zip(*prints, strict=True)):
        unknown = any(pair == (None, None) for pair in prints)
        return "no fingerprint of the data was kept" if unknown else "the runs were evaluated on different data"
    before, after = labelled
    same = before.task.type == after.task.type and before.task.labels == after.task.labels
    if not same or not np.array_equal(before.predictions.rows, after.predictions.rows):
        return "the runs have different rows or labels"
    if not np.array_equal(before.labels, after.labels) or not _same(before.groups, after.groups):
        return "the runs read different labels from the data"
    metrics = [metric for metric in before.task.metrics if metric in after.task.metrics]
    if not metrics:
        return "the runs have no metric in common"
    outputs = before.predictions.outputs, after.predictions.outputs
    found: dict[str, Difference] = differences(metrics, before.task.type, *outputs, before.labels, before.groups)
    return found


def _same(one: Ints | None, other: Ints | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))
