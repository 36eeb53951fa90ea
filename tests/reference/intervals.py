"""The bootstrap as its definition says: the metric itself, on the rows of every resample, one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from mtl.metrics import METRICS, compute


def replicates(
    name: str,
    outputs: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    drawn: Iterable[Sequence[int]],
) -> list[float]:
    """The metric on every resample; in ranking, queries are drawn, and one drawn twice stands there twice."""
    task_type = METRICS[name].task_type
    values = []
    for units in drawn:
        if groups is None:
            rows, ids = np.array(units), None
        else:
            queries = sorted(set(groups.tolist()))
            members = [np.flatnonzero(groups == queries[unit]) for unit in units]
            rows = np.concatenate(members)
            ids = np.concatenate([np.full(len(part), copy) for copy, part in enumerate(members)])
        values.append(compute([name], task_type, outputs[rows], labels[rows], ids)[name])
    return values


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, between two neighbours in proportion."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
