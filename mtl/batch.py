"""The order of a task's examples and their collation into padded tensors.

Legend: B rows of a batch, T tokens of its longest row, Q queries, G candidates of the longest list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mtl.data import Examples, Ints
from mtl.sampling import derive_seed

POOL = 200  # batches whose examples are sorted together: enough to save padding, few enough to keep them random
POOLS = 4  # minimum pools per pass; with one, a small data set would have nearly the same batches in every pass


@dataclass(frozen=True)
class Batch:
    """Rows of one task, padded to the longest.

    Attributes:
        input_ids: (B, T).
        attention_mask: 1 on real tokens, (B, T).
        token_type_ids: (B, T), or None where the encoder has none.
        labels: Class indices (B,) int64, values (B,) float32, or relevance (Q, G) float32.
        lists: For ranking, position in the batch of each query's candidates, −1 beyond a list's end, (Q, G).
        rows: Position of each row in its source, (B,); always on the CPU.
        lengths: Tokens of each row, (B,); always on the CPU, as reading them from an accelerator would synchronize.
        label_scale: Divisor of a regression's outputs; its labels have already been divided.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None
    labels: Tensor
    lists: Tensor | None
    rows: Tensor
    lengths: Tensor
    label_scale: float = 1.0

    def to(self, device: torch.device) -> Batch:
        """Copy with all tensors on a device, except `rows` and `lengths`."""
        types, lists = self.token_type_ids, self.lists
        return replace(
            self,
            input_ids=send(self.input_ids, device),
            attention_mask=send(self.attention_mask, device),
            token_type_ids=None if types is None else send(types, device),
            labels=send(self.labels, device),
            lists=None if lists is None else send(lists, device),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments of a Transformers model."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return inputs if self.token_type_ids is None else inputs | {"token_type_ids": self.token_type_ids}

    @property
    def weights(self) -> Tensor:
        """0 for a query without a relevant candidate, 1 for every other example, (B,) or (Q,).

        A query whose candidates are all equally relevant counts too, though its pairwise loss is 0.
        """
        if self.lists is None:
            return torch.ones(len(self), device=self.labels.device)
        return (self.labels > 0).any(dim=1).float()


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from host memory to a device.

    Asynchronous on CUDA only, which reads the (unpinned) source before the call returns, so that it may change
    afterwards. Other devices may read it later (Metal does: pytorch issue 189690).
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def collate(examples: Examples, chosen: Ints, pad_id: int, task_type: str) -> Batch:
    """Pad the chosen examples to a batch; in ranking, `lists` groups them by query.

    Args:
        examples: The split.
        chosen: Positions in it, (B,).
        pad_id: The tokenizer's padding id.
        task_type: classification, regression or ranking.
    """
    longest = int(examples.lengths[chosen].max())
    ids = np.full((len(chosen), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(chosen), longest), dtype=np.int64)
    types = np.zeros((len(chosen), longest), dtype=np.int64) if examples.has_token_types else None
    for row, example in enumerate(chosen):
        tokens = examples.tokens("input_ids", example)
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        if types is not None:
            types[row, : len(tokens)] = examples.tokens("token_type_ids", example)
    labels, lists = torch.from_numpy(examples.labels[chosen]), None
    if task_type == "classification":
        labels = labels.nan_to_num(-1).long()
    elif task_type == "regression":
        labels = (labels / examples.label_scale).float()
    else:
        lists = torch.from_numpy(_lists(examples.groups[chosen]))
        labels = torch.where(lists >= 0, labels[lists.clamp(min=0)], 0.0).float()
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        token_type_ids=None if types is None else torch.from_numpy(types),
        labels=labels,
        lists=lists,
        rows=torch.from_numpy(examples.rows[chosen]),
        lengths=torch.from_numpy(examples.lengths[chosen]),
        label_scale=examples.label_scale,
    )


def _lists(groups: Ints) -> Ints:
    """Positions of each query's candidates, queries in order of their first candidate, (Q, G)."""
    members: dict[int, list[int]] = {}
    for position, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(position)
    lists = np.full((len(members), max(map(len, members.values()))), -1, dtype=np.int64)
    for query, positions in enumerate(members.values()):
        lists[query, : len(positions)] = positions
    return lists


def pass_batches(
    examples: Examples, batch_size: int, seed: int, *, ranking: bool = False, batch_tokens: int | None = None
) -> list[Ints]:
    """One shuffled pass over the examples, in batches of similar length.

    Examples are shuffled, sorted by length within pools of up to `POOL` batches and cut into batches, which are then
    shuffled.
    In ranking the unit is the query: a batch holds whole queries, and only a list too long for one batch is cut. It
    keeps its relevant candidates and a random sample of the others, for which a quarter of the places (rounded down,
    at least one) is reserved if there are that many.

    Args:
        examples: The split.
        batch_size: Rows of a batch.
        seed: Seed of this pass.
        ranking: Whether examples are candidates of queries.
        batch_tokens: Maximum tokens of a batch, padding included, instead of `batch_size` (a single example may have
            more).

    Returns:
        Positions of the rows of each batch.
    """
    random = np.random.Generator(np.random.Philox(key=seed))
    if ranking:
        units = [_cut(examples, u, _room(examples, u, batch_size, batch_tokens), random) for u in lists_of(examples)]
        lengths = np.array([examples.lengths[unit].max() for unit in units])
        per_unit = float(np.mean([len(unit) for unit in units]))
    else:
        units = list(np.arange(len(examples))[:, None])
        lengths, per_unit = examples.lengths, 1.0
    full = batch_size if batch_tokens is None else batch_tokens / lengths.mean()
    rows = max(1, round(full / per_unit))
    order = random.permutation(len(units))
    pool = max(1, min(POOL, len(units) // (POOLS * rows))) * rows
    order = np.concatenate(
        [p[np.argsort(lengths[p], kind="stable")] for p in np.split(order, range(pool, len(order), pool))]
    )
    batches: list[list[Ints]] = [[]]
    filled = longest = 0
    for unit in order:
        more = filled + len(units[unit])
        longest = max(longest, int(lengths[unit]))
        if filled and (more > batch_size if batch_tokens is None else more * longest > batch_tokens):
            batches.append([])
            more, longest = len(units[unit]), int(lengths[unit])
        batches[-1].append(units[unit])
        filled = more
    shuffled = random.permutation(len(batches))
    return [np.concatenate(batches[position]) for position in shuffled]


def lists_of(examples: Examples) -> list[Ints]:
    """Positions of each query's candidates."""
    by_group = np.argsort(examples.groups, kind="stable")
    return np.split(by_group, np.flatnonzero(np.diff(examples.groups[by_group])) + 1)


def _room(examples: Examples, members: Ints, batch_size: int, batch_tokens: int | None) -> int:
    """Maximum rows of a list in one batch; at least two, as a single candidate has nothing to be compared with."""
    rows = batch_size if batch_tokens is None else batch_tokens // int(examples.lengths[members].max())
    return max(2, rows)


def _cut(examples: Examples, members: Ints, room: int, random: np.random.Generator) -> Ints:
    if len(members) <= room:
        return members
    relevant, keys = examples.labels[members] > 0, random.random(len(members))
    others = min(int((~relevant).sum()), max(1, room // 4))
    kept = members[relevant][np.argsort(keys[relevant])[: room - others]]
    rest = members[~relevant][np.argsort(keys[~relevant])[: room - len(kept)]]
    return np.sort(np.concatenate([kept, rest]))


class BatchStream:
    """A task's training batches, indexed by turn.

    The batch of a turn does not depend on earlier reads; each pass over the data is reshuffled.

    Args:
        examples: The training split.
        batch_size: Rows of a batch.
        seed: The run's seed.
        task: The task's name.
        ranking: Whether examples are candidates of queries.
        batch_tokens: Maximum tokens of a batch instead of `batch_size`; see `pass_batches`.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        seed: int,
        task: str,
        *,
        ranking: bool,
        batch_tokens: int | None = None,
    ) -> None:
        self.examples, self.batch_size, self.seed, self.task, self.ranking = examples, batch_size, seed, task, ranking
        self.batch_tokens = batch_tokens
        self._starts = [0]  # turn at which each pass begins
        self._cached: tuple[int, list[Ints]] = (-1, [])
        self.per_pass = len(self._pass(0))

    def __getitem__(self, turn: int) -> Ints:
        number = 0
        while turn >= self._start(number + 1):
            number += 1
        return self._pass(number)[turn - self._start(number)]

    @property
    def pass_tokens(self) -> int:
        """Tokens of a pass without padding; in ranking those of the first pass, as the samples of cut lists differ."""
        lengths = self.examples.lengths
        return int(lengths[np.concatenate(self._pass(0))].sum() if self.ranking else lengths.sum())

    @property
    def cut_lists(self) -> int:
        """Number of queries with more candidates than a batch has room for."""
        if not self.ranking:
            return 0
        lists = lists_of(self.examples)
        return sum(len(u) > _room(self.examples, u, self.batch_size, self.batch_tokens) for u in lists)

    def passes(self, turns: int) -> float:
        """Number of passes over the data, with fraction, in the first `turns` turns."""
        number = 0
        while turns > self._start(number + 1):
            number += 1
        start, end = self._start(number), self._start(number + 1)
        return number + (turns - start) / (end - start)

    def _start(self, number: int) -> int:
        """First turn of a pass; no batches have to be drawn if every pass has the same number of them."""
        if not self.ranking and self.batch_tokens is None:
            return number * self.per_pass
        while len(self._starts) <= number:
            self._starts.append(self._starts[-1] + len(self._pass(len(self._starts) - 1)))
        return self._starts[number]

    def _pass(self, number: int) -> list[Ints]:
        if self._cached[0] != number:
            seed = derive_seed(self.seed, "batches", self.task, number)
            self._cached = (
                number,
                pass_batches(
                    self.examples, self.batch_size, seed, ranking=self.ranking, batch_tokens=self.batch_tokens
                ),
            )
        return self._cached[1]


def micro_batches(examples: Examples, chosen: Ints, parts: int, *, ranking: bool) -> list[Ints]:
    """Split the rows of a batch into parts of about equal size; in ranking, only between queries.

    Args:
        examples: The split.
        chosen: Positions of the batch's rows, (B,).
        parts: Number of parts; some are empty if the batch has fewer rows or queries.
        ranking: Whether rows are candidates of queries.
    """
    if ranking:
        groups = examples.groups[chosen]
        starts = np.append(np.flatnonzero(np.diff(groups, prepend=groups[0] - 1)), len(chosen))
        cuts = [starts[(len(starts) - 1) * part // parts] for part in range(1, parts)]
    else:
        cuts = [len(chosen) * part // parts for part in range(1, parts)]
    return np.split(chosen, cuts)


def evaluation_batches(lengths: Sequence[int] | Ints, batch_tokens: int) -> list[Ints]:
    """Batches of all examples, longest first: little padding, and memory runs out in the first batch or not at all.

    Args:
        lengths: Tokens of each example.
        batch_tokens: Maximum tokens of a batch, padding included (a single example may have more).
    """
    lengths = np.asarray(lengths)
    order, batches = np.argsort(-lengths, kind="stable"), []
    while len(order):
        rows = max(1, batch_tokens // max(1, int(lengths[order[0]])))
        batches.append(order[:rows])
        order = order[rows:]
    return batches
