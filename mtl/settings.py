"""Settings with the place each value came from: YAML files and command-line words, merged and checked.

YAML is read as YAML 1.2 reads it, so `no` is a word, `1e-5` a number, and a key that stands twice an error.
Nothing in a file can run code, and size, depth and aliases are bounded.
"""

from __future__ import annotations

import copy
import os
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mtl.errors import Problem, UserError, first_line, listed, nearest

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 24

INTEGER = re.compile(r"[-+]?[0-9]{1,4000}")  # Python refuses to read longer ones
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


WANTED = {  # by pydantic's type of error
    "list_type": "expected a list, such as [a, b]",
    "string_type": "expected text (numbers in quotes)",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
}
BOUNDS = (
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
    ("greater than", "more than"),
)  # pydantic's words, and ours


class Settings(BaseModel):
    """Base of every section: unknown keys and wrong types are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Sourced:
    """Plain data (mappings, lists, scalars) with the place of every value, which equality leaves out.

    Attributes:
        data: The value.
        places: Path of keys to a place such as ``glue.yml:12`` or ``--batch-size``.
    """

    data: Any = field(default_factory=dict)
    places: Mapping[KeyPath, str] = field(default_factory=dict, compare=False)

    def place(self, path: KeyPath) -> str:
        """The place of a path, else of a key that is set below it, else of its closest ancestor that has one."""
        if path and path not in self.places:
            for other, place in self.places.items():
                if other[: len(path)] == path:
                    return place
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return ""

    def child(self, *path: str | int) -> Sourced:
        """The part below a path (an empty mapping where there is none)."""
        data = self.data
        for key in path:
            known = (isinstance(data, dict) and key in data) or (isinstance(data, list) and key in range(len(data)))
            data = data[key] if known else {}
        places = {p[len(path) :]: place for p, place in self.places.items() if p[: len(path)] == path}
        return Sourced(data, places or {(): self.place(path)})

    def below(self, *path: str) -> Sourced:
        """The same data under a path: the inverse of `child`."""
        data = self.data
        for key in reversed(path):
            data = {key: data}
        return Sourced(data, {path + p: place for p, place in self.places.items()})

    def over(self, base: Sourced) -> Sourced:
        """Lays these settings over others: mappings merge, anything else replaces."""
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
    for stale in [p for p in places if p[: len(path)] == path]:
        del places[stale]
    return top


def scalar(text: str) -> Any:
    """Reads one plain word as YAML 1.2's core schema does, except that hexadecimal and octal forms stay text."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    if FLOAT.fullmatch(text):
        return float(text)
    return text


def read_yaml(path: str | os.PathLike[str]) -> tuple[Sourced, list[Problem]]:
    """Reads a YAML file whose top level is a mapping.

    Returns:
        The values, and every key that stands twice (the first is kept) or value that is not plain.

    Raises:
        UserError: Nothing can be made of the file: it is missing, not YAML, no mapping, or too large.
    """
    shown = os.fspath(path)
    if Path(path).suffix in (".parquet", ".jsonl", ".csv", ".tsv"):
        message = f"is data, not settings; `run_mtl.py init {shlex.quote(shown)}` proposes a task definition for it"
        raise UserError.of(shown, message)
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        folder = Path(path).parent
        beside = [p.name for p in folder.iterdir() if p.suffix in (".yml", ".yaml")] if folder.is_dir() else []
        raise UserError.of(shown, f"there is no such file{nearest(Path(path).name, beside, cutoff=0.8)}") from None
    except IsADirectoryError:
        raise UserError.of(shown, "is a directory; name a YAML file") from None
    except OSError as error:
        raise UserError.of(shown, f"cannot be read: {error.strerror or error}") from None
    if len(raw) > MAX_BYTES:
        raise UserError.of(shown, f"is {len(raw):,} bytes long; at most {MAX_BYTES:,} are read")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        message = f"is not UTF-8 text (byte {error.object[error.start]:#04x}); convert it first"
        raise UserError.of(f"{shown}:{line}", message) from None
    return parse_yaml(text, shown)


def parse_yaml(text: str, name: str) -> tuple[Sourced, list[Problem]]:
    """Reads YAML text; ``name`` stands for the file in messages. See `read_yaml`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}" if mark and not name.startswith("--") else name
        reason = str(error.problem or error.context).replace("'<stream end>'", "the end")
        raise UserError.of(where, f"is not valid YAML: {reason}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError.of(name, f"is not valid YAML: {first_line(error)}") from None
    if root is None:
        raise UserError.of(name, "is empty; expected a mapping")
    builder = _Builder(name)
    data = builder.build(root, ())
    if not isinstance(data, dict):
        problem = Problem(f"{name}:1", f"expected a mapping at the top level, got {kind(data)}")
        raise UserError([*builder.problems, problem])
    return Sourced(data, builder.places), builder.problems


def plain(value: Any, name: str) -> tuple[Any, list[Problem]]:
    """A program's own data as a file would hold it: paths become text, tuples lists, keys are text.

    Args:
        value: Mappings, sequences and scalars.
        name: Where it stands, for messages.

    Returns:
        A copy, and every value that is not plain.
    """
    problems: list[Problem] = []

    def copied(value: Any, path: KeyPath) -> Any:
        if len(path) > MAX_DEPTH:
            raise UserError.of(name, f"has more than {MAX_DEPTH} levels")
        if getattr(value, "ndim", None) == 0:  # a scalar of NumPy's or PyTorch's
            value = value.item()
        if value is None or isinstance(value, bool):
            return value
        for scalar_type in (int, float, str):
            if isinstance(value, scalar_type):
                return scalar_type(value)  # not a subclass of it
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, (list, tuple)):
            return [copied(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    problems.append(Problem(name, f"the key {key!r} of {dotted(path) or 'the mapping'} is no text"))
            return {key: copied(item, (*path, key)) for key, item in value.items() if isinstance(key, str)}
        message = f"{dotted(path)} is of the type {type(value).__name__}; {PLAIN_TYPES}"
        problems.append(Problem(name, message.lstrip()))
        return None

    return copied(value, ()), problems


def read_plain(data: Mapping[str, Any], name: str) -> tuple[Sourced, list[Problem]]:
    """The same of a mapping, as `read_yaml` reads one."""
    copied, problems = plain(data, name)
    return Sourced(copied, {(): name}), problems


PLAIN_TYPES = "expected text, a number, True, False, None, a list or a mapping"


class _Builder:
    """Turns composed nodes into plain data; an alias counts as often as it is used, so that a bomb runs out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[KeyPath, str] = {}
        self.problems: list[Problem] = []
        self.nodes = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        where = f"{self.name}:{node.start_mark.line + 1}"
        self.nodes += 1
        if self.nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise UserError.of(where, f"more than {MAX_NODES:,} values or {MAX_DEPTH} levels (aliases count each time)")
        self.places[path] = where
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python"):
            self.problems.append(Problem(where, f"the tag {node.tag!r} is not allowed; write plain values"))
            return None
        if isinstance(node, yaml.ScalarNode):
            return scalar(node.value) if node.style is None else node.value
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.MappingNode)
        return self.mapping(node, path)

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(f"{self.name}:{line}", "a key has to be a plain word"))
                continue
            key = key_node.value
            if key in lines:
                message = f"the key {dotted((*path, key))!r} stands here again; it is first in line {lines[key]}"
                self.problems.append(Problem(f"{self.name}:{line}", message))
                continue
            lines[key] = line
            inner = (*path, key)
            result[key] = self.build(value_node, inner)
            self.places[inner] = f"{self.name}:{line}"
        return result


def dotted(path: KeyPath) -> str:
    """A key path as people write it: `train.max_steps`."""
    return ".".join(str(key) for key in path)


def kind(value: Any) -> str:
    """Names a value and its type the way a YAML author thinks of it."""
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
    """Validates settings against a section's class.

    Args:
        model: The class.
        source: The values with their places.
        prefix: Keys to show before the path in messages.
        vital: Keys whose values nothing can stand for.

    Returns:
        The section, or None, and every problem. What is wrong gives way to its default where the rest can be checked.
    """
    try:
        return model.model_validate(source.data), []
    except ValidationError as error:
        items: list[dict[str, Any]] = [dict(item) for item in error.errors()]
    by_path: dict[KeyPath, list[dict[str, Any]]] = {}  # each member of a union has an error of its own
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
    """The user's own keys of an error's path, to which pydantic adds names of union members."""
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
    """The keys allowed below a path of a section class."""
    kinds: list[Any] = [model]
    for key in map(str, path):
        sections = [getattr(kind, "model_fields", {}) for kind in kinds]
        below = [fields[key].annotation for fields in sections if key in fields]
        below += [get_args(kind)[-1] for kind in kinds if get_args(kind)]  # any name in a mapping, any place in a list
        kinds = [inner for kind in below for inner in _plain(kind)]
    return [name for kind in kinds for name in getattr(kind, "model_fields", ())]


def _plain(kind: Any) -> list[Any]:
    """An annotation without constraints, its alternatives one by one."""
    arguments = {Annotated: get_args(kind)[:1], Union: get_args(kind), UnionType: get_args(kind)}.get(get_origin(kind))
    return [kind] if arguments is None else [inner for argument in arguments for inner in _plain(argument)]
