"""Precedence of a task's settings, and which of them its own definition sets.

The `task_defs.yml` of a run contains every value. Those that come from a default or the run's settings, rather than
from the task's definition, are repeated under `inherited` in its `run.yml`. When the two files are read again, settings
of the configuration file override inherited values, unless these were edited in `task_defs.yml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mtl.errors import Problem
from mtl.presets import under_preset, with_presets
from mtl.settings import KeyPath, Sourced, dotted
from mtl.taskdef import Defaults, TaskDef

PER_TASK = ("learning_rate", "batch_size", "max_length")  # keys of `train` that a task may override

SIZES = ("train_size", "train_fraction")  # keys of `train` that limit every task's training data
EXCLUSIVE = (("max_steps", "epochs"), SIZES)  # pairs of mutually exclusive keys of `train`


def leaves(data: Mapping[str, Any], *path: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every setting in nested mappings; an empty mapping is a value."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, *path, key)
        else:
            yield dotted((*path, key)), value


def contradictions(overrides: Sourced) -> list[Problem]:
    """Report mutually exclusive settings that a user gave together; the file of a run may contain both."""
    problems, train = list[Problem](), overrides.child("train")
    for one, other in EXCLUSIVE:
        if isinstance(train.data, dict) and train.data.get(one) is not None and train.data.get(other) is not None:
            here, there = train.place((one,)), train.place((other,))
            rival = f"train.{other}" + (f" ({there})" if there != here else "")
            problems.append(Problem(here, f"train.{one} cannot be combined with {rival}; remove one of them"))
    return problems


def of_a_task(problem: Problem) -> Problem:
    """A problem of the configuration; one with a setting of tasks in the wrong place says where to write it."""
    found = re.match(r"unknown key '(\w+)'|train\.(smart|proximal) is a mapping", problem.message)
    key = found and (found[1] or found[2])
    if key not in Defaults.model_fields:
        return problem
    message = re.sub("; (allowed|expected).*", "", problem.message)
    return Problem(problem.where, f"{message}; write defaults.{key} for every task, tasks.NAME.{key} for one")


def without_rivals(base: Sourced, top: Sourced, keep: str = "") -> Sourced:
    """Drop settings of `base`, except `keep`, that are mutually exclusive with settings of `top`, to be merged over it.

    A limit in `top` for every task's training data also drops the sizes of single tasks in `base`: the more specific
    key takes precedence only within a layer.
    """
    train, over = base.child("train").data, top.child("train").data
    if not (isinstance(train, dict) and isinstance(over, dict)):
        return base
    pairs = [*EXCLUSIVE, *((other, one) for one, other in EXCLUSIVE)]
    gone = {one for one, other in pairs if over.get(other) is not None and one not in over} - {keep}
    if any(over.get(size) is not None for size in SIZES):
        gone.add("task_sizes")
    data = {**base.data, "train": {key: value for key, value in train.items() if key not in gone}}
    return Sourced(data, base.places)


def layered(
    name: str, own: Sourced, settled: Sourced, file: Sourced, overrides: Sourced, *, adapting: bool
) -> tuple[Sourced, Any]:
    """Merge one task's settings from all layers, later layers over earlier ones.

    The values of a preset also override those that lower layers set explicitly, and a `batch_size` a `batch_tokens` of
    lower layers, except that of the configuration's `train`, the lowest.

    Args:
        name: The task.
        own: Its definition.
        settled: The values of the definition that are inherited.
        file: Settings of `--config`.
        overrides: Settings of flags and `--set`.
        adapting: Whether to apply the `adapt` sections.

    Returns:
        The merged settings, and those of them that come from the definition.
    """

    def settings_of(source: Sourced) -> list[Sourced]:
        return [with_presets(_one_budget(source.child(*path))) for path in (("defaults",), ("tasks", name))]

    def with_adapt(*layers: Sourced) -> list[Sourced]:
        adapt = [definition_adapt if layer is definition else with_presets(layer.child("adapt")) for layer in layers]
        return [*layers, *adapt] if adapting else list(layers)

    own, settled = _one_budget(own), _one_budget(settled)
    definition = _without(with_presets(own), settled)
    definition_adapt = _without(with_presets(own.child("adapt")), settled.child("adapt"))
    defaults, task = settings_of(file)
    written = with_adapt(settled, _shared(file), defaults, definition, task)
    words = with_adapt(_one_budget(_shared(overrides)), *settings_of(overrides))
    result, named = Sourced({}, own.places), Sourced()
    for layer in written + words:
        if isinstance(layer.data, dict) and layer.data:
            result = layer.over(under_preset(result, layer))
            defines = layer is definition or layer is definition_adapt
            named = layer.over(named) if defines else Sourced(_less(named.data, layer.data))
    section = result.child("adapt").data
    if adapting and isinstance(section, dict):  # store the outcome: read again, it would override the command line
        words_won = {"adapt": _overruled(with_presets(Sourced(section)).data, result.data)}
        result, named = Sourced(words_won).over(result), Sourced(_less(named.data, words_won))
    section = result.child("adapt").data
    if isinstance(section, dict) and section.get("batch_tokens", 0) is None and "batch_size" in section:
        section = {key: value for key, value in section.items() if key != "batch_tokens"}  # added again when read
        result = Sourced({**result.data, "adapt": section}, result.places)
    return result, named.data


def _one_budget(layer: Sourced) -> Sourced:
    """The layer; where it, or its `adapt`, gives a `batch_size` alone, the `batch_tokens` of lower layers end."""
    if not isinstance(layer.data, dict):
        return layer
    data = dict(layer.data)
    if "adapt" in data:
        data["adapt"] = _one_budget(Sourced(data["adapt"])).data
    if data.get("batch_size") is not None:
        data.setdefault("batch_tokens", None)
    return Sourced(data, layer.places)


def inherited(task: TaskDef, named: Any) -> dict[str, Any]:
    """The task's settings that its definition does not set."""
    return _less(task.model_dump(include=set(Defaults.model_fields), exclude_none=True), named)


def _shared(source: Sourced) -> Sourced:
    train = source.child("train")
    data = {key: train.data[key] for key in PER_TASK if key in train.data} if isinstance(train.data, dict) else {}
    return Sourced(data, {path: place for path, place in train.places.items() if path and path[0] in data})


def _without(definition: Sourced, settled: Sourced) -> Sourced:
    """The definition's own settings: those that are not equal to the inherited ones."""
    if not (isinstance(definition.data, dict) and isinstance(settled.data, dict)):
        return definition
    data = _less(definition.data, settled.data, equal=True)
    return Sourced(data, {path: place for path, place in definition.places.items() if _stands(data, path)})


def _stands(data: Any, path: KeyPath) -> bool:
    try:
        for key in path:
            data = data[key]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _overruled(section: Any, final: Any) -> Any:
    """Final values of the nested settings of a section that were overridden."""
    if not (isinstance(section, dict) and isinstance(final, dict)):
        return final
    return {
        key: _overruled(section[key], final[key]) for key in section if final.get(key, section[key]) != section[key]
    }


def _less(data: dict[str, Any], other: dict[str, Any], *, equal: bool = False) -> dict[str, Any]:
    """Nested settings of `data` without those that `other` has too; with `equal`, that it has with the same value."""
    left: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and isinstance(other.get(key), dict):
            if rest := _less(value, other[key], equal=equal):
                left[key] = rest
        elif key not in other or (equal and value != other[key]):
            left[key] = value
    return left
