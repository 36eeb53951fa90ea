"""Ranking metrics of trec_eval, one query and one candidate at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def ranked_lists(scores: Sequence[float], relevance: Sequence[float], groups: Sequence[int]) -> list[list[float]]:
    """Relevance by rank of every query: the highest score first, among equals the later row first."""
    lists = []
    for query in dict.fromkeys(groups):
        rows = [row for row, group in enumerate(groups) if group == query]
        rows.sort(key=lambda row: (scores[row], row), reverse=True)
        lists.append([relevance[row] for row in rows])
    return lists


def average_precision(ranked: list[float]) -> float:
    hits, total = 0, 0.0
    for rank, relevance in enumerate(ranked, start=1):
        if relevance > 0:
            hits += 1
            total += hits / rank
    return total / hits if hits else 0.0


def reciprocal_rank(ranked: list[float]) -> float:
    for rank, relevance in enumerate(ranked, start=1):
        if relevance > 0:
            return 1 / rank
    return 0.0


def dcg(ranked: list[float], k: int) -> float:
    return sum(max(relevance, 0) / math.log2(rank + 1) for rank, relevance in enumerate(ranked[:k], start=1))


def ndcg(ranked: list[float], k: int) -> float:
    ideal = dcg(sorted(ranked, reverse=True), k)
    return dcg(ranked, k) / ideal if ideal else 0.0


def precision_at(ranked: list[float], k: int) -> float:
    return sum(relevance > 0 for relevance in ranked[:k]) / k


PER_QUERY: dict[str, Callable[[list[float]], float]] = {
    "map": average_precision,
    "mrr": reciprocal_rank,
    "ndcg@1": lambda ranked: ndcg(ranked, 1),
    "ndcg@5": lambda ranked: ndcg(ranked, 5),
    "ndcg@10": lambda ranked: ndcg(ranked, 10),
    "p@1": lambda ranked: precision_at(ranked, 1),
}


def mean_over_queries(name: str, scores: Sequence[float], relevance: Sequence[float], groups: Sequence[int]) -> float:
    """Mean of a metric over all queries, or over those that have a relevant candidate."""
    lists = ranked_lists(scores, relevance, groups)
    if name.endswith("_answerable"):
        lists = [ranked for ranked in lists if max(ranked) > 0]
    values = [PER_QUERY[name.removesuffix("_answerable")](ranked) for ranked in lists]
    return sum(values) / len(values) if values else 0.0
