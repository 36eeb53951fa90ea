"""A naive check of data against the part of JSON Schema that pydantic writes; unknown keywords fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
    "null": type(None),
}  # fmt: skip
SILENT = {"$schema", "$defs", "title", "description", "default", "then"}


def faults(data: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, path: str = "") -> Iterator[str]:
    """Yields what in the data is against the schema."""
    root = root or schema
    for word, said in schema.items():
        if word in SILENT:
            continue
        if word == "$ref":
            yield from faults(data, root["$defs"][said.removeprefix("#/$defs/")], root, path)
        elif word == "type":
            if not any(_is(data, kind) for kind in ([said] if isinstance(said, str) else said)):
                yield f"{path}: type"
        elif word in ("enum", "const"):
            if data not in (said if word == "enum" else [said]):
                yield f"{path}: {word}"
        elif word == "anyOf":
            if all(list(faults(data, part, root, path)) for part in said):
                yield f"{path}: anyOf"
        elif word == "allOf":
            for part in said:
                yield from faults(data, part, root, path)
        elif word == "if":
            if not list(faults(data, said, root, path)):
                yield from faults(data, schema["then"], root, path)
        elif word in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            low = word.lower().endswith("minimum")
            if _is(data, "number") and ((data < said if low else data > said) or (word[0] == "e" and data == said)):
                yield f"{path}: {word}"
        elif isinstance(data, list) or word in ("items", "minItems"):
            yield from _of_list(data, word, said, root, path)
        else:
            yield from _of_mapping(data, word, said, schema, root, path)


def _is(data: Any, kind: str) -> bool:
    return isinstance(data, TYPES[kind]) and (kind == "boolean" or not isinstance(data, bool))


def _of_list(data: Any, word: str, said: Any, root: Any, path: str) -> Iterator[str]:
    if not isinstance(data, list):
        return
    if word == "minItems" and len(data) < said:
        yield f"{path}: minItems"
    if word == "items":
        for index, item in enumerate(data):
            yield from faults(item, said, root, f"{path}[{index}]")


def _of_mapping(data: Any, word: str, said: Any, schema: Any, root: Any, path: str) -> Iterator[str]:
    assert word in ("properties", "additionalProperties", "required", "propertyNames", "additionalProperties"), word
    if not isinstance(data, dict):
        return
    if word == "required":
        yield from (f"{path}.{key}: required" for key in said if key not in data)
    elif word == "propertyNames":
        yield from (f"{path}.{key}: propertyNames" for key in data if not re.search(said["pattern"], key))
    elif word == "properties":
        for key, part in said.items():
            if key in data:
                yield from faults(data[key], part, root, f"{path}.{key}")
    elif said is not True:
        for key in data.keys() - schema.get("properties", {}).keys():
            if said is False:
                yield f"{path}.{key}: additionalProperties"
            else:
                yield from faults(data[key], said, root, f"{path}.{key}")
