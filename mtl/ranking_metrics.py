"""Ranking metrics per query, as trec_eval 9 computes them.

Legend: n rows, each one (query, candidate) pair, in any order; Q queries, in ascending order of their ids. `scores`
float (n,); `relevance` float (n,), graded, relevant where > 0; `groups` int (n,), the query id of each row.
A query without a relevant candidate scores 0 (trec_eval's change log, 2006-04-05); `answerable` excludes such queries,
as published WikiQA results usually do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


def _order(scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort the rows of every query as trec_eval does.

    Rows are sorted by descending score; of equal scores, the later row comes first (trec_eval: the greater document
    id).

    Returns:
        order, ranks, queries, each (n,): a row's position in `scores`, its rank within the query (from 1) and the index
        of its query (0 .. Q-1, ascending).
    """
    import numpy as np

    queries = np.unique(groups, return_inverse=True)[1]
    rows = np.arange(len(scores))
    order = np.lexsort((-rows, -scores, queries))  # the last key sorts first
    queries = queries[order]
    return order, rows - np.searchsorted(queries, queries) + 1, queries


def _ranked(scores: np.ndarray, relevance: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gains, ranks and query indices in the order of `_order`, each (n,); a gain is max(relevance, 0)."""
    import numpy as np

    order, ranks, queries = _order(scores, groups)
    return np.maximum(relevance, 0)[order], ranks, queries


def candidate_ranks(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Rank of every row within its query, from 1, with the metrics' tie-breaking (later rows first), (n,)."""
    import numpy as np

    order, ranks, _ = _order(scores, groups)
    found = np.empty_like(ranks)
    found[order] = ranks
    return found


def ratios(values: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Elementwise values / whole, 0 where `whole` is 0; both have the same shape."""
    import numpy as np

    return np.divide(values, whole, out=np.zeros_like(values), where=whole > 0)


def average_precision(scores: np.ndarray, relevance: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Average precision of every query, (Q,): 1/R Σ_{i relevant} (relevant in top r_i) / r_i.

    R is the number of relevant candidates of the query and r_i the rank of candidate i.
    """
    import numpy as np

    gains, ranks, queries = _ranked(scores, relevance, groups)
    relevant = gains > 0
    totals = np.bincount(queries, weights=relevant)  # (Q,)
    found = np.cumsum(relevant) - (np.cumsum(totals) - totals)[queries]  # relevant candidates down to this rank
    return ratios(np.bincount(queries, weights=relevant * found / ranks), totals)


def first_relevant_rank(scores: np.ndarray, relevance: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Rank of the first relevant candidate of every query, 0 if it has none, (Q,)."""
    import numpy as np

    gains, ranks, queries = _ranked(scores, relevance, groups)
    found, first = np.unique(queries[gains > 0], return_index=True)
    result = np.zeros(queries[-1] + 1, dtype=np.int64)
    result[found] = ranks[gains > 0][first]
    return result


def reciprocal_rank(scores: np.ndarray, relevance: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Reciprocal rank of every query, (Q,): 1 / rank of its first relevant candidate, 0 if it has none."""
    import numpy as np

    ranks = first_relevant_rank(scores, relevance, groups)
    return ratios(np.ones(len(ranks)), ranks)


def ndcg(scores: np.ndarray, relevance: np.ndarray, groups: np.ndarray, *, k: int) -> np.ndarray:
    """NDCG@k of every query, (Q,): DCG@k / ideal DCG@k, where DCG@k = Σ_{r <= k} gain_r / log2(r + 1).

    The ideal DCG ranks all candidates of the query by relevance and truncates at k. Gains are linear (the relevance
    itself), not 2^relevance - 1.
    Source: Järvelin & Kekäläinen 2002, with the discount of trec_eval `ndcg_cut`.
    """
    import numpy as np

    def dcg(order_by: np.ndarray) -> np.ndarray:
        gains, ranks, queries = _ranked(order_by, relevance, groups)
        return np.bincount(queries, weights=gains * (ranks <= k) / np.log2(ranks + 1))  # (Q,)

    return ratios(dcg(scores), dcg(relevance))


def precision_at(scores: np.ndarray, relevance: np.ndarray, groups: np.ndarray, *, k: int) -> np.ndarray:
    """Precision at k of every query, (Q,): (relevant in top k) / k, as trec_eval `P`.

    The denominator is k even if the query has fewer candidates.
    """
    import numpy as np

    gains, ranks, queries = _ranked(scores, relevance, groups)
    return np.bincount(queries, weights=(gains > 0) & (ranks <= k)) / k


def answerable(
    per_query: Callable[..., np.ndarray], scores: np.ndarray, relevance: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """A per-query metric, with NaN for queries without a relevant candidate, (Q,)."""
    import numpy as np

    found = first_relevant_rank(scores, relevance, groups) > 0
    return np.where(found, per_query(scores, relevance, groups), np.nan)
