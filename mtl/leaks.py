"""Evaluation rows that stand in training data, of the same task or (as only multi-task training can have) another."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtl.errors import counted

Texts = tuple[str, ...]

NON_WORD = re.compile(r"\W+")


@dataclass(frozen=True)
class Leak:
    """Rows of an evaluation split that a training split holds.

    Attributes:
        train: `task/split` trained on.
        evaluation: `task/split` evaluated.
        rows: Evaluation rows concerned.
        kind: `exact`, or `normalized` where only case, punctuation, spacing or the order of a pair differ.
    """

    train: str
    evaluation: str
    rows: int
    kind: str

    def as_json(self) -> dict[str, Any]:
        return {"train": self.train, "evaluation": self.evaluation, "rows": self.rows, "kind": self.kind}

    def __str__(self) -> str:
        stand = "stands" if self.rows == 1 else "stand"
        return f"{self.evaluation}: {counted(self.rows, 'row')} {stand} in {self.train} ({self.kind})"


def exact(texts: Texts) -> Texts:
    return texts


def normalized(texts: Texts) -> Texts:
    """Lower case, runs of non-word characters as one space, the texts of a pair in sorted order."""
    return tuple(sorted(NON_WORD.sub(" ", text.lower()).strip() for text in texts))


KEYS: dict[str, Callable[[Texts], Texts]] = {"exact": exact, "normalized": normalized}


def find_leaks(texts: Mapping[str, Mapping[str, Sequence[Texts]]]) -> list[Leak]:
    """Compares the training rows of every task with the evaluation rows of every task.

    Args:
        texts: Task to split to the texts of its rows, one or two each.

    Returns:
        One entry per pair of splits and kind; an exact match is not counted again as a normalized one.
    """
    training = {
        f"{name}/{split}": {kind: {key(row) for row in rows} for kind, key in KEYS.items()}
        for name, splits in texts.items()
        for split, rows in splits.items()
        if split == "train"
    }
    evaluated = {
        f"{name}/{split}": [{kind: key(row) for kind, key in KEYS.items()} for row in rows]
        for name, splits in texts.items()
        for split, rows in splits.items()
        if split != "train"
    }
    leaks = []
    for train, known in training.items():
        for evaluation, keyed in evaluated.items():
            kinds = Counter(next((kind for kind in KEYS if keys[kind] in known[kind]), None) for keys in keyed)
            leaks += [Leak(train, evaluation, kinds[kind], kind) for kind in KEYS if kinds[kind]]
    return leaks
