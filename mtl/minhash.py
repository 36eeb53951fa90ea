"""Rows that may be near duplicates, by hashes that such rows share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Texts: TypeAlias = tuple[str, ...]
Keys: TypeAlias = npt.NDArray[np.uint64]

SHINGLE = 5  # characters of one shingle
SIMILAR = 0.8  # Jaccard index of two texts' shingles from which they are near duplicates
BANDS, HASHES = 20, 3  # buckets that a row is put into, and minimum hashes that rows of one bucket share
BUCKET = 8  # rows of one bucket that a training row is compared with
CHUNK = 1000  # evaluation rows hashed at once

_RANDOM = np.random.Generator(np.random.Philox(key=0))
_FACTORS, _SHIFTS = _RANDOM.integers(0, 1 << 32, size=(2, BANDS * HASHES), dtype=np.uint32)
_FACTORS |= np.uint32(1)
_WIDE = np.uint64(0x9E3779B97F4A7C15)


def bucket_keys(rows: Sequence[Texts]) -> Keys:
    """Hashes of which two rows share at least one if they are near duplicates, with a probability close to 1.

    MinHash (Broder 1997) in `BANDS` bands of `HASHES` functions: at a similarity s of single texts they share one with
    probability 1 − (1 − s^HASHES)^BANDS, and of pairs with s^(2·HASHES): 0.998 where both texts have s = 0.8.

    Args:
        rows: Normal forms, all with the same number of texts.

    Returns:
        (rows, BANDS).
    """
    texts = [text.ljust(SHINGLE, "\0") for row in rows for text in row]
    characters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    lengths = np.array([len(text) for text in texts])
    ends = np.cumsum(lengths)
    # Every window of the joined texts is hashed; those that reach into the next text are then left out.
    values = np.zeros(len(characters) - SHINGLE + 1, dtype=np.uint32)
    for offset, factor in enumerate(_FACTORS[:SHINGLE]):
        values += characters[offset : len(values) + offset] * factor
    inside = np.ones(len(characters), dtype=bool)
    for offset in range(1, SHINGLE):
        inside[ends - offset] = False
    values = _mixed(values[inside[: len(values)]])
    starts = np.concatenate([[0], np.cumsum(lengths - SHINGLE + 1)[:-1]])
    keys = np.empty((len(texts), BANDS), dtype=np.uint64)
    for band in range(BANDS):
        key = np.full(len(texts), band, dtype=np.uint64)
        for factor, shift in zip(_FACTORS[band * HASHES :][:HASHES], _SHIFTS[band * HASHES :], strict=False):
            key = (key * _WIDE) ^ np.minimum.reduceat(values * factor + shift, starts)
        keys[:, band] = key * _WIDE
    return keys.reshape(len(rows), -1, BANDS).sum(axis=1, dtype=np.uint64)  # whatever the order of a pair


def _mixed(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Spreads every bit over all others (the finalizer of MurmurHash3)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        values = (values ^ (values >> np.uint32(shift))) * np.uint32(factor)
    return values ^ (values >> np.uint32(16))


class Buckets:
    """Evaluation rows by the hashes of `bucket_keys`."""

    def __init__(self, rows: Sequence[Texts], members: Sequence[int]) -> None:
        parts = [
            bucket_keys([rows[member] for member in members[start : start + CHUNK]])
            for start in range(0, len(members), CHUNK)
        ]
        keys = np.concatenate(parts).ravel()
        order = np.argsort(keys, kind="stable")
        self.keys, self.members = keys[order], np.repeat(np.asarray(members), BANDS)[order]
        self.occupied = np.zeros(1 << 24, dtype=bool)  # a quick no for most hashes
        self.occupied[self.keys >> np.uint64(40)] = True

    def candidates(self, rows: Sequence[Texts]) -> Iterator[tuple[int, int]]:
        """Yields (position in `rows`, evaluation row) of every two that share a bucket, each once."""
        keys = bucket_keys(rows)
        row, band = np.nonzero(self.occupied[keys >> np.uint64(40)])
        wanted = keys[row, band]
        start = np.searchsorted(self.keys, wanted)
        found = set()
        for offset in range(BUCKET):
            at = np.minimum(start + offset, len(self.keys) - 1)
            hit = self.keys[at] == wanted
            found |= set(zip(row[hit].tolist(), self.members[at[hit]].tolist(), strict=True))
            row, start, wanted = row[hit], start[hit], wanted[hit]
        yield from sorted(found)


def shingles(text: str) -> set[str]:
    """All sequences of `SHINGLE` characters of a text; a shorter text is one of its own."""
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def similarity(one: Texts, other: Texts) -> float:
    """The lesser Jaccard index of the shingles of two pairs of texts, in the order that makes it greater; 0 to 1."""
    if len(one) != len(other):
        return 0.0
    return max(min(map(_jaccard, one, order)) for order in (other, other[::-1]))


def _jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)
