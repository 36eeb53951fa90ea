"""Candidate pairs of near-duplicate rows, by locality-sensitive hashing (MinHash)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Texts: TypeAlias = tuple[str, ...]
Shingles: TypeAlias = tuple[set[str], ...]  # of each text of a row
Keys: TypeAlias = npt.NDArray[np.uint64]

SHINGLE = 5  # characters per shingle
SIMILAR = 0.8  # minimum Jaccard index of the shingles of two near-duplicate texts
BANDS, HASHES = 20, 3  # bands (buckets per row), and minimum hashes per band
BUCKET = 8  # maximum rows of a bucket that a training row is compared with
CHUNK = 1000  # evaluation rows hashed at once

_RANDOM = np.random.Generator(np.random.Philox(key=0))
_FACTORS, _SHIFTS = _RANDOM.integers(0, 1 << 32, size=(2, BANDS * HASHES), dtype=np.uint32)
_FACTORS |= np.uint32(1)
_WIDE = np.uint64(0x9E3779B97F4A7C15)


def bucket_keys(rows: Sequence[Texts]) -> Keys:
    """Hash rows so that near duplicates share at least one key with a probability close to 1.

    MinHash (Broder 1997) in `BANDS` bands of `HASHES` functions: two single texts with similarity s share a key with
    probability 1 − (1 − s^HASHES)^BANDS, two pairs of texts with s^(2·HASHES) in place of s^HASHES: 0.998 if both texts
    have s = 0.8.

    Args:
        rows: Normalized rows, all with the same number of texts.

    Returns:
        (rows, BANDS).
    """
    texts = [text.ljust(SHINGLE, "\0") for row in rows for text in row]
    characters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    lengths = np.array([len(text) for text in texts])
    ends = np.cumsum(lengths)
    # Every window of the concatenated texts is hashed; those that extend into the next text are then dropped.
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
    return keys.reshape(len(rows), -1, BANDS).sum(axis=1, dtype=np.uint64)  # independent of the order of a pair


def _mixed(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Mix the bits of each value (the finalizer of MurmurHash3)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        values = (values ^ (values >> np.uint32(shift))) * np.uint32(factor)
    return values ^ (values >> np.uint32(16))


class Buckets:
    """Index of evaluation rows by the keys of `bucket_keys`."""

    def __init__(self, rows: Sequence[Texts], members: Sequence[int]) -> None:
        parts = [
            bucket_keys([rows[member] for member in members[start : start + CHUNK]])
            for start in range(0, len(members), CHUNK)
        ]
        keys = np.concatenate(parts).ravel()
        order = np.argsort(keys, kind="stable")
        self.keys, self.members = keys[order], np.repeat(np.asarray(members), BANDS)[order]
        self.occupied = np.zeros(1 << 24, dtype=bool)  # by the 24 high bits: rejects most keys quickly
        self.occupied[self.keys >> np.uint64(40)] = True

    def candidates(self, rows: Sequence[Texts]) -> Iterator[tuple[int, int]]:
        """Yield (position in `rows`, evaluation row) of rows that share buckets, each pair once, in order of the first.

        Of the rows in a bucket, only the first `BUCKET` are considered; of all of them, for each of `rows`, only the
        `BUCKET` with which it shares the most small buckets, of at most `BUCKET` rows, then the most buckets. A common
        prompt fills large buckets, whose first rows share more of them than a near duplicate behind the same prompt.
        """
        keys = bucket_keys(rows)
        row, band = np.nonzero(self.occupied[keys >> np.uint64(40)])
        wanted = keys[row, band]
        start = np.searchsorted(self.keys, wanted)
        small = np.searchsorted(self.keys, wanted, side="right") - start <= BUCKET
        found, weights = [], []
        for offset in range(BUCKET):
            at = np.minimum(start + offset, len(self.keys) - 1)
            hit = self.keys[at] == wanted
            row, start, wanted, small = row[hit], start[hit], wanted[hit], small[hit]
            found.append(row << 32 | self.members[at[hit]])
            weights.append(np.where(small, BANDS + 1, 1))  # one small bucket outweighs all large ones
        pairs, place = np.unique(np.concatenate(found), return_inverse=True)
        shared = np.bincount(place, np.concatenate(weights), len(pairs))
        row, other = pairs >> 32, pairs & 0xFFFFFFFF
        order = np.lexsort((other, -shared, row))
        row, other = row[order], other[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)  # among the candidates of its row
        yield from zip(row[place < BUCKET].tolist(), other[place < BUCKET].tolist(), strict=True)


def shingles(texts: Texts) -> Shingles:
    """All sequences of `SHINGLE` characters in each text of a row; a shorter text is its own single shingle."""
    return tuple({text[at : at + SHINGLE] for at in range(max(1, len(text) - SHINGLE + 1))} for text in texts)


def similarity(one: Shingles, other: Shingles) -> float:
    """Similarity of two rows, 0 to 1: the minimum over their texts of the Jaccard index of shingles.

    The texts of a pair are matched in the order that gives the greater similarity. 0 if the numbers of texts differ.
    """
    if len(one) != len(other):
        return 0.0
    orders = (other, other[::-1]) if len(other) > 1 else (other,)
    return max(min(map(_jaccard, one, order)) for order in orders)


def _jaccard(one: set[str], other: set[str]) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common)
