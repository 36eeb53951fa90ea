"""Parts of the training data: without leaks, a few examples, or held out. Each is drawn by a seed of its own.

Legend: N examples.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mtl.data import Examples
from mtl.errors import UserError
from mtl.sampling import derive_seed
from mtl.taskdef import TaskDef


def without_leaks(task: TaskDef, examples: Examples, leaked: Collection[int]) -> Examples:
    """Training examples but those at the given positions of the source; in ranking, but all of such a query."""
    out = np.isin(examples.rows, list(leaked))
    if task.type == "ranking":
        out = np.isin(examples.groups, examples.groups[out])
    return replace(examples.select(np.flatnonzero(~out)), dropped=int(out.sum()))


def few_shot(task: TaskDef, examples: Examples, size: int | None, fraction: float | None, seed: int) -> Examples:
    """A seeded part of the training data; a smaller part lies within a larger one of the same seed.

    Classification keeps the share of each class (highest averages, Sainte-Laguë), ranking takes whole queries.

    Args:
        task: The task.
        examples: All its training examples.
        size: Examples (ranking: queries) to take; all of them where there are fewer.
        fraction: The same as a fraction, at least one.
        seed: The run's seed.

    Returns:
        The part, in the order of the source.
    """
    if size is None and fraction is None:
        return examples
    wanted = size if size is not None else max(1, round((fraction or 0.0) * count_units(task, examples)))
    return examples.select(np.flatnonzero(_seeded_part(task, examples, wanted, seed, "few_shot")))


def hold_out(task: TaskDef, examples: Examples, fraction: float, least: int, seed: int) -> tuple[Examples, Examples]:
    """Parts training data in two, as `few_shot` takes a part: what is trained on, and what is held out of it.

    Args:
        task: The task.
        examples: All its training examples.
        fraction: Of the examples (ranking: queries) that is held out.
        least: Number that at least is.
        seed: The run's seed.

    Returns:
        The rest and the held-out part, both in the order of the source.

    Raises:
        UserError: Nothing would be left to train on.
    """
    units = count_units(task, examples)
    wanted = max(least, round(fraction * units))
    if wanted >= units:
        what = "queries" if task.type == "ranking" else "rows"
        raise UserError.of("train.holdout", f"would hold out {wanted:,} of {units:,} {what} of training data")
    held = _seeded_part(task, examples, wanted, seed, "holdout")
    return examples.select(np.flatnonzero(~held)), examples.select(np.flatnonzero(held))


def repeated(examples: Examples, others: Examples) -> list[int]:
    """Positions in the source of the examples that are the same tokens as one of some others."""
    held = {others.tokens("input_ids", index).tobytes() for index in range(len(others))}
    same = [examples.tokens("input_ids", index).tobytes() in held for index in range(len(examples))]
    found: list[int] = examples.rows[np.flatnonzero(same)].tolist()
    return found


def count_units(task: TaskDef, examples: Examples) -> int:
    """What sizes of training data count: examples, in ranking queries."""
    return len(np.unique(examples.groups)) if task.type == "ranking" else len(examples)


def _seeded_part(task: TaskDef, examples: Examples, wanted: int, seed: int, purpose: str) -> npt.NDArray[np.bool_]:
    """Which examples belong to a seeded part of `wanted` units, (N,)."""
    random = np.random.Generator(np.random.Philox(key=derive_seed(seed, purpose)))
    if task.type == "ranking":
        units = np.unique(examples.groups, return_inverse=True)[1]
        strata = np.zeros(count_units(task, examples))
    else:
        units = np.arange(len(examples))
        strata = examples.labels if task.type == "classification" else np.zeros(len(examples))
    # The j-th of n units of a stratum gets the key (j + u)/n: the first keys hold every stratum in proportion.
    keys = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = random.permutation(np.flatnonzero(strata == stratum))
        keys[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = np.argsort(keys, kind="stable")[:wanted]
    return np.isin(units, chosen)
