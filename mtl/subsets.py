"""Subsets of the training data: without leaks, few-shot, and held-out; random ones are drawn with seeds of their own.

Legend: N examples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mtl.data import Examples
from mtl.errors import UserError
from mtl.sampling import derive_seed
from mtl.taskdef import TaskDef


def without_leaks(task: TaskDef, examples: Examples, leaked: Collection[int]) -> Examples:
    """Remove the training examples at the given source positions; in ranking, their whole queries."""
    out = np.isin(examples.rows, list(leaked))
    if task.type == "ranking":
        out = np.isin(examples.groups, examples.groups[out])
    return replace(examples.select(np.flatnonzero(~out)), dropped=int(out.sum()))


def few_shot(task: TaskDef, examples: Examples, size: int | None, fraction: float | None, seed: int) -> Examples:
    """Seeded random subset of the training data; with the same seed, a larger subset contains a smaller one.

    Classification keeps the class proportions (highest averages, Sainte-Laguë), ranking keeps queries whole.

    Args:
        task: The task.
        examples: All its training examples.
        size: Number of examples (ranking: queries) to take; all of them if there are fewer.
        fraction: Fraction to take if no size is given, at least one.
        seed: The run's seed.

    Returns:
        The subset, in source order.
    """
    if size is None and fraction is None:
        return examples
    wanted = size if size is not None else max(1, round((fraction or 0.0) * count_units(task, examples)))
    return examples.select(np.flatnonzero(_seeded_part(task, examples, wanted, seed, "few_shot")))


def hold_out(
    name: str, task: TaskDef, examples: Examples, fraction: float, least: int, seed: int
) -> tuple[Examples, Examples]:
    """Split training data into a part to train on and a held-out part, drawn as in `few_shot`.

    Args:
        name: The task's name, for messages.
        task: The task.
        examples: All its training examples.
        fraction: Fraction of the examples (ranking: queries) to hold out.
        least: Minimum number to hold out.
        seed: The run's seed.

    Returns:
        The remaining and the held-out examples, both in source order; `unlabelled` counts with the former only.

    Raises:
        UserError: Nothing would be left to train on.
    """
    units = count_units(task, examples)
    wanted = max(least, round(fraction * units))
    if wanted >= units:
        key, what = "holdout_rows" if wanted == least else "holdout", "queries" if task.type == "ranking" else "rows"
        told = f"would hold out {wanted:,} of the {units:,} {what} of training data of {name}; set a smaller number"
        raise UserError.of(f"train.{key}", told)
    held = _seeded_part(task, examples, wanted, seed, "holdout")
    rest, part = examples.select(np.flatnonzero(~held)), examples.select(np.flatnonzero(held))
    return rest, replace(part, unlabelled=0)


def repeated(examples: Examples, others: Iterable[Examples]) -> list[int]:
    """Source positions of the examples whose tokens equal those of one of `others`."""
    held = {part.tokens("input_ids", index).tobytes() for part in others for index in range(len(part))}
    if not held:  # as in most runs, whose tokens need not be read for this
        return []
    same = [examples.tokens("input_ids", index).tobytes() in held for index in range(len(examples))]
    found: list[int] = examples.rows[np.flatnonzero(same)].tolist()
    return found


def count_units(task: TaskDef, examples: Examples) -> int:
    """Size of training data in the unit of `train_size`: examples, or queries in ranking."""
    return len(np.unique(examples.groups)) if task.type == "ranking" else len(examples)


def _seeded_part(task: TaskDef, examples: Examples, wanted: int, seed: int, purpose: str) -> npt.NDArray[np.bool_]:
    """Mask of a seeded random subset of `wanted` units, (N,)."""
    random = np.random.Generator(np.random.Philox(key=derive_seed(seed, purpose)))
    if task.type == "ranking":
        units = np.unique(examples.groups, return_inverse=True)[1]
        strata = np.zeros(count_units(task, examples))
    else:
        units = np.arange(len(examples))
        strata = examples.labels if task.type == "classification" else np.zeros(len(examples))
    # The j-th of n units of a stratum gets the key (j + ½)/n: the smallest keys hold every stratum in proportion.
    keys = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = random.permutation(np.flatnonzero(strata == stratum))
        keys[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = np.argsort(keys, kind="stable")[:wanted]
    return np.isin(units, chosen)
