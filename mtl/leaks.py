"""Evaluation rows that stand in training data, of the same task or (as only multi-task training can have) another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
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
        rows: Distinct evaluation texts concerned.
        kind: `exact`, or `normalized` where only case, punctuation, spacing or the order of a pair differ.
    """

    train: str
    evaluation: str
    rows: int
    kind: str

    def as_json(self) -> dict[str, Any]:
        return {"train": self.train, "evaluation": self.evaluation, "rows": self.rows, "kind": self.kind}

    def __str__(self) -> str:
        return f"{self.evaluation}: {counted(self.rows, 'row')} stand in {self.train} ({self.kind})"


def exact(texts: Texts) -> Texts:
    return texts


def normalized(texts: Texts) -> Texts:
    """Lower case, runs of non-word characters as one space, the texts of a pair in sorted order."""
    return tuple(sorted(NON_WORD.sub(" ", text.lower()).strip() for text in texts))


KEYS: dict[str, Callable[[Texts], Texts]] = {"exact": exact, "normalized": normalized}


def find_leaks(texts: Mapping[str, Mapping[str, Iterable[Texts]]]) -> list[Leak]:
    """Compares the training rows of every task with the evaluation rows of every task.

    Args:
        texts: Task to split to the texts of its rows, one or two each.

    Returns:
        One entry per pair of splits and kind; an exact match is not counted again as a normalized one.
    """
    leaks = []
    keyed = {
        (f"{name}/{split}", split == "train"): {kind: _by_key(rows, key) for kind, key in KEYS.items()}
        for name, splits in texts.items()
        for split, rows in splits.items()
    }
    for (train, is_train), training in keyed.items():
        for (evaluation, also_train), evaluated in keyed.items():
            if not is_train or also_train:
                continue
            found: set[Texts] = set()
            for kind in KEYS:
                hits = {row for key, rows in evaluated[kind].items() if key in training[kind] for row in rows} - found
                found |= hits
                if hits:
                    leaks.append(Leak(train, evaluation, len(hits), kind))
    return leaks


def _by_key(rows: Iterable[Texts], key: Callable[[Texts], Texts]) -> dict[Texts, list[Texts]]:
    result: dict[Texts, list[Texts]] = {}
    for row in rows:
        result.setdefault(key(row), []).append(row)
    return result
