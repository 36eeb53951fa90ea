"""The order in which a task's settings win, and which of them its definition names.

A run's `task_defs.yml` spells every value out. Those that the definition did not name, which a default or the run's
settings gave, its `run.yml` repeats under `inherited`: a configuration file wins over them, unless they were edited.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mtl.errors import Problem
from mtl.presets import under_preset, with_presets
from mtl.settings import KeyPath, Sourced, dotted
from mtl.taskdef import Defaults, TaskDef

PER_TASK = ("learning_rate", "batch_size", "max_length")  # keys of `train` that a task may have its own of

SIZES = ("train_size", "train_fraction")  # keys of `train`: of each task
EXCLUSIVE = (("max_steps", "epochs"), SIZES)  # keys of `train`: one or the other is meant


def leaves(data: Mapping[str, Any], *path: str) -> Iterator[tuple[str, Any]]:
    """Yields the dotted key and the value of every setting in nested mappings; an empty mapping is a value."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, *path, key)
        else:
            yield dotted((*path, key)), value


def contradictions(typed: Sourced) -> list[Problem]:
    """Settings of which a run's file may hold both, but of which a person means one."""
    problems, train = list[Problem](), typed.child("train")
    for one, other in EXCLUSIVE:
        if isinstance(train.data, dict) and train.data.get(one) is not None and train.data.get(other) is not None:
            here, there = train.place((one,)), train.place((other,))
            rival = f"train.{other}" + (f" ({there})" if there != here else "")
            problems.append(Problem(here, f"train.{one} not together with {rival}; leave one of them out"))
    return problems


def without_rivals(base: Sourced, top: Sourced, keep: str = "") -> Sourced:
    """Settings without those, but one to keep, that exclude one of others, which will be laid over them.

    A size of each task's training data excludes sizes of single tasks: the narrower wins within a layer only.
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
    name: str, own: Sourced, settled: Sourced, file: Sourced, typed: Sourced, *, adapting: bool
) -> tuple[Sourced, Any]:
    """One task's settings from all layers, the later over the earlier; a preset over what lower layers spell out.

    Args:
        name: The task.
        own: Its definition.
        settled: What of it is inherited.
        file: Settings of `--config`.
        typed: Settings of flags and `--set`.
        adapting: Whether `adapt` sections count.

    Returns:
        The settings, and those of them that come from the definition.
    """

    def with_adapt(*layers: Sourced) -> list[Sourced]:
        adapt = [definition_adapt if layer is definition else with_presets(layer.child("adapt")) for layer in layers]
        return [*layers, *adapt] if adapting else list(layers)

    definition = _without(with_presets(own), settled)
    definition_adapt = _without(with_presets(own.child("adapt")), settled.child("adapt"))
    defaults, task = with_presets(file.child("defaults")), with_presets(file.child("tasks", name))
    written = with_adapt(settled, _shared(file), defaults, definition, task)
    words = [with_presets(layer) for layer in (_shared(typed), typed.child("defaults"), typed.child("tasks", name))]
    result, named = Sourced({}, own.places), Sourced()
    typed_layers = with_adapt(*words)
    for layer in written + typed_layers:
        if isinstance(layer.data, dict) and layer.data:
            below = under_preset(result, layer)
            result = layer.over(_without_budget(below, layer) if any(layer is word for word in typed_layers) else below)
            defines = layer is definition or layer is definition_adapt
            named = layer.over(named) if defines else Sourced(_less(named.data, layer.data))
    section = result.child("adapt").data
    if adapting and isinstance(section, dict):  # says what it came to, or it would win over words when it is read again
        words_won = {"adapt": _overruled(with_presets(Sourced(section)).data, result.data)}
        result, named = Sourced(words_won).over(result), Sourced(_less(named.data, words_won))
    return result, named.data


def _without_budget(base: Sourced, typed: Sourced) -> Sourced:
    """Settings without the tokens of a batch where its rows are typed: tokens would win over these."""
    if typed.data.get("batch_size") is None or "batch_tokens" in typed.data:
        return base
    return Sourced({key: value for key, value in base.data.items() if key != "batch_tokens"}, base.places)


def inherited(task: TaskDef, named: Any) -> dict[str, Any]:
    """What of a task's settings its definition does not name."""
    return _less(task.model_dump(include=set(Defaults.model_fields), exclude_none=True), named)


def _shared(source: Sourced) -> Sourced:
    train = source.child("train")
    data = {key: train.data[key] for key in PER_TASK if key in train.data} if isinstance(train.data, dict) else {}
    return Sourced(data, {path: place for path, place in train.places.items() if path and path[0] in data})


def _without(definition: Sourced, settled: Sourced) -> Sourced:
    """What a definition says itself: all that is not as it was settled."""
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
    """What became of nested settings that are no longer what a section says."""
    if not (isinstance(section, dict) and isinstance(final, dict)):
        return final
    return {
        key: _overruled(section[key], final[key]) for key in section if final.get(key, section[key]) != section[key]
    }


def _less(data: dict[str, Any], other: dict[str, Any], *, equal: bool = False) -> dict[str, Any]:
    """Nested settings without those that another has too, or has equal."""
    left: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and isinstance(other.get(key), dict):
            if rest := _less(value, other[key], equal=equal):
                left[key] = rest
        elif key not in other or (equal and value != other[key]):
            left[key] = value
    return left
