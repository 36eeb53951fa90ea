"""Every example once a pass, in unpredictable batches of like length; padding, masks and relevance by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from scipy.stats import spearmanr

from mtl.batch import POOL, Batch, BatchStream, collate, evaluation_batches, micro_batches, pass_batches
from mtl.data import CHUNK, SCHEMA, Examples

PAD = 9


def examples_of(
    lengths: Sequence[int],
    labels: Sequence[float] | None = None,
    groups: Sequence[int] | None = None,
    *,
    types: bool = True,
) -> Examples:
    """Examples whose tokens tell where they stand: token j of row i is 100 i + j + 10."""
    count = len(lengths)
    columns = {
        "input_ids": [[100 * row + token + 10 for token in range(length)] for row, length in enumerate(lengths)],
        "token_type_ids": [[int(token > 1) for token in range(length)] if types else [] for length in lengths],
        "label": list(labels) if labels is not None else [float(row) for row in range(count)],
        "group": list(groups) if groups is not None else [-1] * count,
        "row": list(range(count)),
        "truncated": [False] * count,
    }
    whole = pa.table(columns, schema=SCHEMA)
    table = pa.concat_tables([whole.slice(start, CHUNK) for start in range(0, count, CHUNK)])
    table = pa.Table.from_batches(
        [pa.RecordBatch.from_pylist(part.to_pylist(), schema=SCHEMA) for part in table.to_batches()]
    )
    return Examples(
        table=table,
        index=np.arange(count),
        lengths=np.array(lengths, dtype=np.int64),
        labels=np.array(columns["label"], dtype=np.float64),
        groups=np.array(columns["group"], dtype=np.int64),
        rows=np.arange(count) + 1000,
        fingerprint="",
        unlabelled=0,
        truncated=np.zeros(count, dtype=bool),
    )


def plain(count: int, seed: int = 0) -> Examples:
    """Lengths spread as those of sentences are, from 4 to some hundred."""
    lengths = 4 + np.random.default_rng(seed).gamma(2.0, 10.0, count)
    return examples_of(lengths.astype(int).tolist())


def queries(sizes: Sequence[int], relevant: Sequence[Sequence[int]] | None = None) -> Examples:
    """Candidate lists of the given sizes; the rows of the queries are interleaved."""
    pairs = [(place, query) for query, size in enumerate(sizes) for place in range(size)]
    pairs.sort()
    chosen = relevant if relevant is not None else [[0]] * len(sizes)
    labels = [float(place in chosen[query]) for place, query in pairs]
    return examples_of([5 + query % 7 for _, query in pairs], labels, [query for _, query in pairs])


def flat(batches: Sequence[npt.NDArray[np.int64]]) -> list[int]:
    return [int(row) for batch in batches for row in batch]


@pytest.mark.parametrize(("count", "size"), [(1, 4), (4, 4), (5, 4), (101, 8), (3000, 32), (7, 100)])
def test_every_example_is_in_a_pass_once(count: int, size: int) -> None:
    batches = pass_batches(plain(count), size, seed=0)
    assert sorted(flat(batches)) == list(range(count))
    full, rest = divmod(count, size)
    assert sorted(len(batch) for batch in batches) == [rest] * (rest > 0) + [size] * full


def test_passes_differ_and_seeds_repeat() -> None:
    for count in (24, 100, 500, 5000):
        examples = plain(count)
        first, again, other = (flat(pass_batches(examples, 8, seed)) for seed in (1, 1, 2))
        assert first == again
        assert first != other
        composition = [{frozenset(batch.tolist()) for batch in pass_batches(examples, 8, seed)} for seed in (1, 2)]
        assert len(composition[0] & composition[1]) <= 1, "batches are composed anew, not only moved"


def padding(batches: Sequence[npt.NDArray[np.int64]], lengths: npt.NDArray[np.int64]) -> float:
    """Share of padded positions."""
    cells = sum(len(batch) * lengths[batch].max() for batch in batches)
    return float(1 - lengths.sum() / cells)


def test_like_lengths_stand_together() -> None:
    examples = plain(4000)
    random_order = np.array_split(np.random.default_rng(0).permutation(4000), 4000 // 16)
    grouped = padding(pass_batches(examples, 16, seed=0), examples.lengths)
    assert padding(random_order, examples.lengths) > 0.4
    assert grouped < 0.05


def test_the_order_of_batches_does_not_follow_their_length() -> None:
    """The rank correlation of position and length is within four standard deviations, 1/√(n − 1), of 0."""
    examples = plain(6400)
    for seed in range(5):
        batches = pass_batches(examples, 16, seed)
        means = [examples.lengths[batch].mean() for batch in batches]
        assert abs(spearmanr(range(len(batches)), means).statistic) < 4 / np.sqrt(len(batches) - 1)
        # Neighbours are no likelier to be of like length than any two.
        assert abs(spearmanr(means[:-1], means[1:]).statistic) < 4 / np.sqrt(len(batches) - 2)


def test_an_example_meets_others_in_every_pass() -> None:
    """Pools are drawn at random: over many passes a row meets many more others than one batch holds."""
    size = 5
    for count in (60, 50 * POOL):
        examples = plain(count)
        met: set[int] = set()
        for seed in range(40):
            met |= {row for batch in pass_batches(examples, size, seed) if 0 in batch for row in batch.tolist()}
        assert len(met) > 6 * size


@pytest.mark.parametrize("budget", [1, 40, 700, 10**6])
@pytest.mark.parametrize("ranking", [False, True])
def test_a_budget_of_tokens_bounds_every_batch_of_several(budget: int, ranking: bool) -> None:
    examples = queries([3, 5, 4, 2, 6] * 30) if ranking else plain(500)
    batches = pass_batches(examples, 6, seed=1, ranking=ranking, batch_tokens=budget)
    whole = sorted(flat(batches)) == list(range(len(examples)))
    assert whole or (ranking and budget < 700), "lists are cut where the budget has no room for them, and there only"
    for batch in batches:
        units = len(np.unique(examples.groups[batch])) if ranking else len(batch)
        least = 2 if ranking else 1  # a candidate alone is compared with nothing
        assert (units == 1 and len(batch) <= least) or len(batch) * examples.lengths[batch].max() <= budget
    if budget == 700 and not ranking:  # batches of short rows have more of them
        filled = [len(batch) * examples.lengths[batch].max() / budget for batch in batches]
        assert np.mean(filled) > 0.8 and max(map(len, batches)) > 2 * min(map(len, batches))


def test_a_query_alone_in_its_batch_has_a_relevant_and_another_candidate() -> None:
    examples = queries([4, 5], [[1], [0, 2]])
    for batch in pass_batches(examples, 1, seed=0, ranking=True):
        assert sorted((examples.labels[batch] > 0).tolist()) == [False, True]


@pytest.mark.parametrize("size", [4, 6, 16, 100])
def test_queries_stay_whole(size: int) -> None:
    sizes = [1, 4, 2, 3, 4, 4, 2, 1, 3] * 20
    examples = queries(sizes)
    batches = pass_batches(examples, size, seed=3, ranking=True)
    assert sorted(flat(batches)) == list(range(len(examples)))
    for batch in batches:
        assert len(batch) <= size
        for query in set(examples.groups[batch].tolist()):
            assert (examples.groups[batch] == query).sum() == sizes[query]
    mean = np.mean([len(batch) for batch in batches])
    assert mean > 0.6 * min(size, sum(sizes)), "batches are filled"


def test_rows_of_a_list_are_not_limited_where_tokens_are_counted() -> None:
    examples = queries([50, 40], [list(range(30)), [0]])
    budget = 50 * int(examples.lengths.max())
    assert sorted(flat(pass_batches(examples, 8, seed=0, ranking=True, batch_tokens=budget))) == list(range(90))
    stream = BatchStream(examples, 8, 0, "t", ranking=True, batch_tokens=budget)
    assert (stream.cut_lists, stream.pass_tokens) == (0, examples.lengths.sum())
    stream = BatchStream(examples, 8, 0, "t", ranking=True)
    rows = np.concatenate([stream[turn] for turn in range(stream.per_pass)])
    assert (stream.cut_lists, stream.pass_tokens) == (2, examples.lengths[rows].sum()) and len(rows) == 16
    assert [int((examples.labels[stream[turn]] > 0).sum()) for turn in (0, 1)] in ([6, 1], [1, 6])


def test_a_list_longer_than_a_batch_keeps_what_is_relevant() -> None:
    relevant = [[0, 17, 29], [5], list(range(12)), [0]]
    examples = queries([30, 20, 15, 3], relevant)
    kept: list[set[int]] = [set(), set(), set()]
    for seed in range(60):
        batches = pass_batches(examples, 8, seed, ranking=True)
        rows = flat(batches)
        assert len(rows) == len(set(rows)) == 8 + 8 + 8 + 3
        for query, places in enumerate(relevant):
            members = np.flatnonzero(examples.groups == query)
            wanted = {int(members[place]) for place in places}
            taken = {row for row in rows if examples.groups[row] == query}
            if len(wanted) <= 8:
                assert wanted <= taken
            else:
                assert len(taken - wanted) == 2, "a quarter of the places"
            if query < 3:
                kept[query] |= taken
        assert all(len(set(examples.groups[batch].tolist())) == 1 for batch in batches if len(batch) == 8)
    # What does not fit is sampled anew in every pass, so all of them are seen.
    assert [len(rows) for rows in kept] == [30, 20, 15]


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 12])
@pytest.mark.parametrize(("ranking", "unit"), [(False, 1), (True, 5)])
def test_micro_batches_are_of_about_equal_size(ranking: bool, unit: int, parts: int) -> None:
    examples = queries([5] * 8, [[0]] * 8)
    chosen = np.argsort(examples.groups, kind="stable")
    pieces = micro_batches(examples, chosen, parts, ranking=ranking)
    assert len(pieces) == parts and np.array_equal(np.concatenate(pieces), chosen)
    sizes = [len(piece) for piece in pieces]
    assert max(sizes) - min(sizes) <= unit
    assert all(size % unit == 0 for size in sizes), "lists are whole"


def test_padding_masks_and_labels_of_a_classification() -> None:
    batch = collate(examples_of([2, 4, 1], [1.0, 0.0, 2.0]), np.array([2, 0, 1]), PAD, "classification")
    assert batch.input_ids.tolist() == [[210, PAD, PAD, PAD], [10, 11, PAD, PAD], [110, 111, 112, 113]]
    assert batch.attention_mask.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]
    assert batch.labels.tolist() == [2, 1, 0]
    assert batch.labels.dtype == batch.input_ids.dtype == torch.int64
    assert batch.rows.tolist() == [1002, 1000, 1001]
    assert batch.lists is None
    assert batch.weights.tolist() == [1.0, 1.0, 1.0]
    assert len(batch) == 3


def test_a_batch_is_as_wide_as_its_longest_row() -> None:
    examples = examples_of([2, 400, 3])
    assert collate(examples, np.array([0, 2]), PAD, "regression").input_ids.shape == (2, 3)


def test_values_of_a_regression() -> None:
    batch = collate(examples_of([1, 1], [0.25, -3.5]), np.array([1, 0]), PAD, "regression")
    assert batch.labels.tolist() == [-3.5, 0.25]
    assert batch.labels.dtype == torch.float32


def test_encoders_without_token_types_get_none() -> None:
    assert collate(examples_of([2, 3], types=False), np.array([0, 1]), PAD, "regression").token_type_ids is None


def test_rows_without_a_label_get_one_that_no_loss_takes() -> None:
    batch = collate(examples_of([1], [float("nan")]), np.array([0]), PAD, "classification")
    assert batch.labels.tolist() == [-1]


def test_the_relevance_matrix_of_a_ranking() -> None:
    # Rows 0 to 6 belong to queries a b a c b a c; the batch leaves row 5 out and mixes the others.
    examples = examples_of([1] * 7, [1.0, 0.0, 0.0, 0.0, 2.0, 9.0, 0.0], [0, 1, 0, 2, 1, 0, 2])
    batch = collate(examples, np.array([4, 0, 3, 1, 2, 6]), PAD, "ranking")
    assert batch.lists is not None
    # In order of the first candidate: b (places 0 and 3), a (1 and 4), c (2 and 5).
    assert batch.lists.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert batch.labels.tolist() == [[2.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    assert batch.weights.tolist() == [1.0, 1.0, 0.0]
    assert batch.rows.tolist() == [1004, 1000, 1003, 1001, 1002, 1006]


def test_lists_of_different_length_end_in_minus_one() -> None:
    examples = examples_of([1] * 6, [1.0, 0.0, 0.0, 0.0, 1.0, 3.0], [0, 0, 0, 1, 1, 2])
    batch = collate(examples, np.arange(6), PAD, "ranking")
    assert batch.lists is not None
    assert batch.lists.tolist() == [[0, 1, 2], [3, 4, -1], [5, -1, -1]]
    assert batch.labels.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [3.0, 0.0, 0.0]]
    assert batch.labels.dtype == torch.float32


def test_a_batch_moves_as_a_whole() -> None:
    batch = collate(examples_of([1] * 2, types=False), np.arange(2), PAD, "regression").to(torch.device("meta"))
    assert isinstance(batch, Batch)
    assert batch.token_type_ids is None
    assert batch.lists is None
    for tensor in (batch.input_ids, batch.attention_mask, batch.labels):
        assert tensor.device.type == "meta"
    assert batch.rows.tolist() == [1000, 1001] and batch.lengths.tolist() == [1, 1], "read without waiting for a device"


def test_rows_beyond_the_first_chunk_have_their_own_tokens() -> None:
    examples = examples_of([1 + row % 3 for row in range(2 * CHUNK + 5)])
    chosen = np.array([CHUNK - 1, CHUNK, 2 * CHUNK + 4])
    batch = collate(examples, chosen, PAD, "regression")
    for row, position in enumerate(chosen.tolist()):
        length = 1 + position % 3
        assert batch.input_ids[row, :length].tolist() == [100 * position + token + 10 for token in range(length)]


@pytest.mark.parametrize("ranking", [False, True])
def test_a_stream_walks_pass_after_pass(ranking: bool) -> None:
    examples = queries([3, 2, 4, 1, 3] * 4) if ranking else plain(50)

    def stream(seed: int = 1, task: str = "t") -> BatchStream:
        return BatchStream(examples, 8, seed, task, ranking=ranking)

    walked = stream()
    seen: list[list[int]] = []
    starts = [0]
    for _ in range(4):
        rows: list[int] = []
        while len(rows) < len(examples):
            seen.append(walked[len(seen)].tolist())
            rows += seen[-1]
        assert sorted(rows) == list(range(len(examples))), "a pass holds every example once"
        starts.append(len(seen))
    assert walked.per_pass == starts[1]
    passes = [frozenset(map(frozenset, seen[a:b])) for a, b in pairwise(starts)]
    assert len(set(passes)) == 4, "every pass is shuffled anew"
    # A resumed run asks for any turn first.
    for turn in (len(seen) - 1, 0, starts[2], starts[1] - 1):
        assert stream()[turn].tolist() == seen[turn]
    assert [stream(seed=2)[turn].tolist() for turn in range(3)] != seen[:3]
    assert [stream(task="u")[turn].tolist() for turn in range(3)] != seen[:3]
    assert walked.passes(0) == 0.0
    for number, start in enumerate(starts):
        assert walked.passes(start) == number
    assert walked.passes(starts[2] + 1) == 2 + 1 / (starts[3] - starts[2])


@pytest.mark.parametrize("tokens", [1, 49, 100, 333, 10**6])
@pytest.mark.parametrize("count", [0, 1, 10, 200])
def test_evaluation_takes_all_examples_longest_first(count: int, tokens: int) -> None:
    lengths = np.random.default_rng(0).integers(0, 50, count)  # a tokenizer without special tokens gives empty rows
    batches = evaluation_batches(lengths, tokens)
    order = flat(batches)
    assert sorted(order) == list(range(count))
    assert lengths[order].tolist() == sorted(lengths.tolist(), reverse=True)
    for number, batch in enumerate(batches):
        longest = max(1, lengths[batch].max())
        assert len(batch) == 1 or len(batch) * longest <= tokens
        assert number == len(batches) - 1 or (len(batch) + 1) * longest > tokens, "another row would have had room"
