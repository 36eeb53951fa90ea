"""Search for evaluation rows in training data, of the same task or, in multi-task training, of another."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from unicodedata import normalize

import regex

from mtl.errors import counted

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mtl.minhash import Buckets

Texts: TypeAlias = tuple[str, ...]

KINDS = ("exact", "normalized", "near")
NON_WORD = regex.compile(r"[^\w\p{M}]+")  # combining marks (\p{M}) are vowels in Hindi, Thai or Arabic

CHUNK = 1000  # training rows compared at once
SHOWN = 10  # examples kept of each kind


@dataclass(frozen=True)
class Leak:
    """Rows of an evaluation split that also occur in a training split.

    Attributes:
        train: `task/split` trained on.
        evaluation: `task/split` evaluated.
        rows: Number of evaluation rows concerned.
        kind: `exact`; `normalized` if only case, punctuation, spacing or the order of a pair differ; `near` if each
            text shares most of its character sequences with a text of the other row.
        examples: The first of these rows as (training row, evaluation row), counted from 0.
    """

    train: str
    evaluation: str
    rows: int
    kind: str
    examples: Sequence[Sequence[int]] = field(default=(), compare=False)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def example(self) -> str:
        """The first example in words, to follow the message; empty if there is none."""
        if not self.examples:
            return ""
        training, evaluated = self.examples[0]
        return f", such as row {evaluated:,}, which is row {training:,} there (counted from 0)"

    def __str__(self) -> str:
        stand = "occurs" if self.rows == 1 else "occur"
        return f"{self.evaluation}: {counted(self.rows, 'row')} {stand} in {self.train} ({self.kind})"


def normalized(texts: Texts) -> Texts:
    """Normalize texts for comparison.

    Unicode is converted to NFC, case is folded, each run of non-word characters becomes one space, and the texts of a
    pair are sorted. A text without any word, such as an emoji, is only stripped of surrounding whitespace.
    """
    return tuple(sorted(NON_WORD.sub(" ", normalize("NFC", text).casefold()).strip() or text.strip() for text in texts))


class LeakSearch:
    """Compares the training rows of every task with the evaluation rows of every task.

    Evaluation rows are added first and kept in memory; training rows are then streamed.

    Attributes:
        leaked: Maps the `task/split` trained on to the positions of its rows that also occur in evaluation data.
    """

    def __init__(self) -> None:
        self.leaked: dict[str, set[int]] = {}
        self._splits: list[str] = []
        self._split_of: list[int] = []
        self._positions: list[int] = []
        self._normal: list[Texts] = []
        self._by_texts: dict[int, list[int]] = {}
        self._by_normal: dict[Texts, list[int]] = {}
        self._buckets: dict[int, Buckets] | None = None
        self._kinds: dict[str, npt.NDArray[np.int8]] = {}
        self._partners: dict[str, npt.NDArray[np.int64]] = {}
        self._waiting: list[tuple[int, Texts]] = []
        self._found: list[Leak] | None = None

    @classmethod
    def recalled(cls, leaks: Sequence[Mapping[str, Any]], leaked: Mapping[str, Collection[int]]) -> LeakSearch:
        """Restore a finished search from its results."""
        search = cls()
        search.leaked = {split: set(rows) for split, rows in leaked.items()}
        search._found = [Leak(**leak) for leak in leaks]
        return search

    def add_evaluation(self, split: str, position: int, texts: Texts) -> None:
        """Add a row of an evaluation split, named `task/split`."""
        assert self._buckets is None, "evaluation rows come before training rows"
        if split not in self._splits:
            self._splits.append(split)
        number, normal = len(self._normal), normalized(texts)
        self._split_of.append(self._splits.index(split))
        self._positions.append(position)
        self._normal.append(normal)
        self._by_texts.setdefault(hash(texts), []).append(number)
        self._by_normal.setdefault(normal, []).append(number)

    def add_training(self, split: str, position: int, texts: Texts) -> None:
        """Compare a row of a training split with the evaluation rows; call `finish` after the split's last row."""
        self._waiting.append((position, texts))
        if len(self._waiting) == CHUNK:
            self.finish(split)

    def finish(self, split: str) -> None:
        """Compare the pending training rows."""
        import numpy as np  # only here, since most errors are found without it

        from mtl.minhash import SIMILAR, shingles, similarity

        waiting, self._waiting = self._waiting, []
        kinds = self._kinds.setdefault(split, np.full(len(self._normal), len(KINDS), dtype=np.int8))
        partners = self._partners.setdefault(split, np.zeros(len(self._normal), dtype=np.int64))
        leaked = self.leaked.setdefault(split, set())
        normal = [normalized(texts) for _, texts in waiting]
        for (position, texts), form in zip(waiting, normal, strict=True):
            for kind, found in enumerate((self._by_texts.get(hash(texts)), self._by_normal.get(form))):
                if found is not None:
                    rows = np.asarray(found)
                    closer = rows[kinds[rows] > kind]
                    kinds[closer], partners[closer] = kind, position
                    leaked.add(position)
        near = KINDS.index("near")
        for arity, buckets in self._prepared().items():
            members = [index for index, (_, texts) in enumerate(waiting) if len(texts) == arity]
            pairs = buckets.candidates([normal[member] for member in members]) if members else ()
            for index, candidates in itertools.groupby(pairs, key=lambda pair: pair[0]):
                position, own = waiting[members[index]][0], shingles(normal[members[index]])
                for _, row in candidates:
                    known = kinds[row] <= near and position in leaked
                    if not known and similarity(own, shingles(self._normal[row])) >= SIMILAR:
                        if kinds[row] > near:
                            kinds[row], partners[row] = near, position
                        leaked.add(position)

    def _prepared(self) -> dict[int, Buckets]:
        from mtl.minhash import Buckets

        if self._buckets is None:
            members: dict[int, list[int]] = {}
            for number, texts in enumerate(self._normal):
                members.setdefault(len(texts), []).append(number)
            self._buckets = {arity: Buckets(self._normal, rows) for arity, rows in members.items()}
        return self._buckets

    def leave_out(self, train: str, tasks: Collection[str]) -> None:
        """Leave out, after the search, what was found of some tasks' evaluation rows in a training split."""
        kept = (leak for leak in self.leaks() if leak.train != train or leak.evaluation.partition("/")[0] not in tasks)
        self._found = list(kept)

    def add(self, leaks: Sequence[Leak]) -> None:
        """Add results that were found otherwise, after the search."""
        self._found = [*self.leaks(), *leaks]

    def leaks(self) -> list[Leak]:
        """One entry per pair of splits and kind; a row counts only under the closest kind of match."""
        if self._found is not None:
            return self._found
        import numpy as np

        split_of, positions = np.asarray(self._split_of), np.asarray(self._positions)
        return [
            Leak(train, evaluation, len(rows), kind, np.stack([partners[rows], positions[rows]], 1)[:SHOWN].tolist())
            for (train, kinds), partners in zip(self._kinds.items(), self._partners.values(), strict=True)
            for number, evaluation in enumerate(self._splits)
            for index, kind in enumerate(KINDS)
            if len(rows := np.flatnonzero((split_of == number) & (kinds == index)))
        ]
