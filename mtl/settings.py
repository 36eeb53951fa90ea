"""Settings from files and the command line, merged and validated, with the origin of every value."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from mtl.errors import Problem, listed, nearest

KeyPath = tuple[str | int, ...]

WANTED = {  # by pydantic's type of error
    "list_type": "expected a list, such as [a, b]",
    "bool_type": "expected true or false",
    "string_type": "expected text (numbers in quotes)",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
}
BOUNDS = (
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
    ("greater than", "more than"),
)  # pydantic's wording, and ours


class Settings(BaseModel):
    """Base class of every section: unknown keys and wrong types are errors, instances are immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Sourced:
    """Plain data (mappings, lists, scalars) with the origin of every value; equality ignores the origins.

    Attributes:
        data: The value.
        places: Maps a key path to an origin such as ``glue.yml:12`` or ``--batch-size``.
    """

    data: Any = field(default_factory=dict)
    places: Mapping[KeyPath, str] = field(default_factory=dict, compare=False)

    def place(self, path: KeyPath) -> str:
        """Origin of a path; if it has none, of a key below it, else of its closest ancestor that has one."""
        if path and path not in self.places:
            for other, place in self.places.items():
                if other[: len(path)] == path:
                    return place
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return ""

    def child(self, *path: str | int) -> Sourced:
        """The settings below a path (an empty mapping if the path does not exist)."""
        data = self.data
        for key in path:
            known = (isinstance(data, dict) and key in data) or (isinstance(data, list) and key in range(len(data)))
            data = data[key] if known else {}
        places = {p[len(path) :]: place for p, place in self.places.items() if p[: len(path)] == path}
        return Sourced(data, places or {(): self.place(path)})

    def below(self, *path: str) -> Sourced:
        """Nest the data under a path: the inverse of `child`."""
        data = self.data
        for key in reversed(path):
            data = {key: data}
        return Sourced(data, {path + p: place for p, place in self.places.items()})

    def over(self, base: Sourced) -> Sourced:
        """Merge these settings over others: mappings merge recursively, any other value replaces the one below.

        Where only the upper value is a mapping, the lower one has the wrong type, and stays for `check` to report.
        """
        places = dict(base.places)
        data = _overlay(base.data, self.data, (), places)
        places.update(self.places)
        return Sourced(data, places)


def _overlay(base: Any, top: Any, path: KeyPath, places: dict[KeyPath, str]) -> Any:
    if isinstance(base, dict) and isinstance(top, dict):
        merged = dict(base)
        for key, value in top.items():
            merged[key] = _overlay(base[key], value, (*path, key), places) if key in base else value
        return merged
    if isinstance(top, dict) and base is not None and path:
        return base
    for stale in [p for p in places if p[: len(path)] == path]:
        del places[stale]
    return top


def dotted(path: KeyPath) -> str:
    """Format a key path as users write it: `train.max_steps`."""
    return ".".join(str(key) for key in path)


def kind(value: Any) -> str:
    """Describe a value and its type in a YAML author's terms."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true/false)"
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    return "a list" if isinstance(value, list) else "a mapping"


def check(
    model: type[S], source: Sourced, prefix: KeyPath = (), vital: Collection[str] = ()
) -> tuple[S | None, list[Problem]]:
    """Validate settings against a section's class.

    Args:
        model: The class.
        source: The values with their origins.
        prefix: Keys to show before the path in messages.
        vital: Top-level keys that no default can replace; if one of them is invalid, no section is returned.

    Returns:
        The section, with defaults in place of invalid values (None if it cannot be built), and every problem.
    """
    try:
        return model.model_validate(source.data), []
    except ValidationError as error:
        items: list[dict[str, Any]] = [dict(item) for item in error.errors()]
    by_path: dict[KeyPath, list[dict[str, Any]]] = {}  # pydantic reports one error per union member
    for item in items:
        by_path.setdefault(_own_path(source.data, item), []).append(item)
    problems = [_explain(model, source, prefix, path, errors) for path, errors in by_path.items()]
    fatal = ((), *((key,) for key in vital))
    if any(path[:1] in fatal and errors[0]["type"] != "extra_forbidden" for path, errors in by_path.items()):
        return None, problems
    try:
        return model.model_validate(_without(source.data, list(by_path))), problems
    except ValidationError:
        return None, problems


def _without(data: Any, paths: list[KeyPath]) -> Any:
    result = copy.deepcopy(data)
    for path in paths:
        parent = result
        for key in path[:-1]:
            parent = parent.get(key) if isinstance(parent, dict) else None
        if isinstance(parent, dict):
            parent.pop(path[-1], None)
    return result


def _own_path(value: Any, error: dict[str, Any]) -> KeyPath:
    """The user's keys in an error's path, without the names of union members that pydantic inserts."""
    path: KeyPath = ()
    for key in error["loc"]:
        if isinstance(value, dict) and (key in value or error["type"] == "missing"):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int):
            value = value[key]
        else:
            continue
        path = (*path, key)
    return path


def _explain(
    model: type[Settings], source: Sourced, prefix: KeyPath, loc: KeyPath, errors: list[dict[str, Any]]
) -> Problem:
    error, value = errors[0], source.child(*loc).data
    shown, where = dotted(prefix + loc), source.place(loc)
    if error["type"] == "extra_forbidden":
        allowed = _fields(model, loc[:-1])
        hint = f"; allowed: {listed(sorted(allowed), 40)}{nearest(loc[-1], allowed)}" if allowed else ""
        return Problem(where, f"unknown key {shown!r}{hint}")
    if error["type"] == "missing":
        return Problem(source.place(loc[:-1]), f"the key {shown!r} is missing")
    if error["type"] == "literal_error":
        allowed = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return Problem(where, f"{shown} is {kind(value)}; allowed: {listed(allowed, 40)}{nearest(value, allowed)}")
    if error["type"] == "value_error":
        return Problem(where, f"{shown}: {error['ctx']['error']}" if shown else str(error["ctx"]["error"]))
    if error["type"] in ("model_type", "dict_type"):
        return Problem(where, f"{shown} is {kind(value)}; expected a mapping")
    wanted = _wanted(error)
    if len(errors) > 1:
        wanted = "expected " + " or ".join(re.sub(r"^expected | \(.*\)$", "", _wanted(error)) for error in errors)
    return Problem(where, f"{shown} is {kind(value)}; {wanted}")


def _wanted(error: dict[str, Any]) -> str:
    message = error["msg"][0].lower() + error["msg"][1:]
    wanted = WANTED.get(error["type"]) or message.replace("input should be", "expected")
    for long, short in BOUNDS:
        wanted = wanted.replace(long, short)
    return wanted


def _fields(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys allowed at a path of a section class."""
    kinds: list[Any] = [model]
    for key in map(str, path):
        sections = [getattr(kind, "model_fields", {}) for kind in kinds]
        below = [fields[key].annotation for fields in sections if key in fields]
        below += [get_args(kind)[-1] for kind in kinds if get_args(kind)]  # any key of a mapping, any index of a list
        kinds = [inner for kind in below for inner in _plain(kind)]
    return [name for kind in kinds for name in getattr(kind, "model_fields", ())]


def _plain(kind: Any) -> list[Any]:
    """The alternatives of an annotation, without constraints."""
    arguments = {Annotated: get_args(kind)[:1], Union: get_args(kind), UnionType: get_args(kind)}.get(get_origin(kind))
    return [kind] if arguments is None else [inner for argument in arguments for inner in _plain(argument)]
