"""Plain data (mappings, lists, scalars) from YAML text or Python values, with the line of every value, and back.

Scalars follow YAML 1.2: `no` is a string and `1e-5` a number. Merge keys (`<<: *name`) are resolved, duplicate keys are
errors. Nothing in a file can run code; size, depth and alias expansion are bounded.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mtl.errors import Problem, UserError, first_line, nearest
from mtl.file_formats import SUFFIXES, suffix_of
from mtl.settings import KeyPath, Sourced, dotted, kind

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 24
MERGE = "tag:yaml.org,2002:merge"  # the tag that PyYAML gives to a plain `<<`

INTEGER = re.compile(r"[-+]?[0-9]{1,4000}")  # Python refuses to convert more digits
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


def scalar(text: str) -> Any:
    """Parse a plain scalar by the core schema of YAML 1.2, except that hexadecimal and octal forms stay text."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    if FLOAT.fullmatch(text):
        return float(text)
    return text


def read_yaml(path: str | os.PathLike[str]) -> tuple[Sourced, list[Problem]]:
    """Read a YAML file whose top level is a mapping.

    Returns:
        The values, and a problem for every duplicate key (the first value is kept) or value that is not plain.

    Raises:
        UserError: The file is missing, is not YAML, is not a mapping, or is too large.
    """
    shown = os.fspath(path)
    if suffix_of(Path(path)) in SUFFIXES:
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
    """Parse YAML text as `read_yaml` does; ``name`` identifies it in messages."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}" if mark and not name.startswith("--") else name
        reason = str(error.problem or error.context).replace("'<stream end>'", "the end")
        if reason.startswith("but "):
            reason = f"{error.context}, {reason}"
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
    """Convert Python data to what a YAML file can hold: paths become text, tuples become lists, keys must be text.

    Args:
        value: Mappings, lists, tuples and scalars.
        name: Origin of the data, for messages.

    Returns:
        A copy, and a problem for every value that cannot be converted.
    """
    problems: list[Problem] = []

    def copied(value: Any, path: KeyPath) -> Any:
        if len(path) > MAX_DEPTH:
            raise UserError.of(name, f"has more than {MAX_DEPTH} levels")
        if getattr(value, "ndim", None) == 0:  # a NumPy or PyTorch scalar
            value = value.item()
        if value is None or isinstance(value, bool):
            return value
        for scalar_type in (int, float, str):
            if isinstance(value, scalar_type):
                return scalar_type(value)  # not an instance of a subclass
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, (list, tuple)):
            return [copied(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    problems.append(Problem(name, f"the key {key!r} of {dotted(path) or 'the mapping'} is not text"))
            return {key: copied(item, (*path, key)) for key, item in value.items() if isinstance(key, str)}
        message = f"{dotted(path)} is of the type {type(value).__name__}; {PLAIN_TYPES}"
        problems.append(Problem(name, message.lstrip()))
        return None

    return copied(value, ()), problems


def read_plain(data: Mapping[str, Any], name: str) -> tuple[Sourced, list[Problem]]:
    """Like `read_yaml`, for a Python mapping."""
    copied, problems = plain(data, name)
    return Sourced(copied, {(): name}), problems


PLAIN_TYPES = "expected text, a number, True, False, None, a list or a mapping"


class _Builder:
    """Converts composed YAML nodes to plain data; an alias counts at each use, so that alias bombs reach the limit."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[KeyPath, str] = {}
        self.problems: list[Problem] = []
        self.nodes = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        where = f"{self.name}:{node.start_mark.line + 1}"
        self.count(node, len(path))
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
        for key_node, value_node in self.entries(node, path):
            inner = (*path, key_node.value)
            result[key_node.value] = self.build(value_node, inner)
            self.places[inner] = f"{self.name}:{key_node.start_mark.line + 1}"
        return result

    def entries(
        self, node: yaml.MappingNode, path: KeyPath, merges: int = 0
    ) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """The keys of a mapping and their values, followed by those that it takes from others through `<<`."""
        lines: dict[str, int] = {}
        merged: list[yaml.MappingNode] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(f"{self.name}:{line}", "a key must be plain text"))
            elif key_node.tag == MERGE:
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                merged += [source for source in sources if isinstance(source, yaml.MappingNode)]
                if not all(isinstance(source, yaml.MappingNode) for source in sources):
                    message = "<< takes a mapping, such as *name, or a list of them"
                    self.problems.append(Problem(f"{self.name}:{line}", message))
            elif key_node.value in lines:
                name = dotted((*path, key_node.value))
                message = f"duplicate key {name!r}; it is first defined in line {lines[key_node.value]}"
                self.problems.append(Problem(f"{self.name}:{line}", message))
            else:
                lines[key_node.value] = line
                yield key_node, value_node
        for source in merged:
            self.count(source, len(path) + merges + 1)
            for key_node, value_node in self.entries(source, path, merges + 1):
                if key_node.value not in lines:
                    lines[key_node.value] = key_node.start_mark.line + 1
                    yield key_node, value_node

    def count(self, node: yaml.Node, depth: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            limits = f"more than {MAX_NODES:,} values or {MAX_DEPTH} levels (aliases count each time)"
            raise UserError.of(f"{self.name}:{node.start_mark.line + 1}", limits)


class _Dumper(yaml.SafeDumper):
    """Quotes text that would not be read back unchanged, by `scalar` or due to line folding, where PyYAML does not."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        plain = scalar(text) == text and text.isprintable()
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')

    def represent_flow(self, mapping: Flow) -> yaml.MappingNode:
        return self.represent_mapping("tag:yaml.org,2002:map", mapping, flow_style=True)


class Flow(dict[str, Any]):
    """A mapping that is written in flow style, within braces."""


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(Flow, _Dumper.represent_flow)


def dump_yaml(data: Any) -> str:
    """YAML text that `read_yaml` reads back equal."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
