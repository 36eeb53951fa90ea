"""The commands `tasks` and `schema`: list tasks, and print the JSON Schema of definitions. Imports no torch."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mtl.config import resolve
from mtl.definitions import TaskDefs, read_task_defs
from mtl.errors import Problem, UserError
from mtl.metrics import METRICS
from mtl.preflight import directory
from mtl.report import table
from mtl.settings import Settings, Sourced
from mtl.source import Source, count_rows, locate
from mtl.taskdef import (
    DIVERGENCES_OF,
    LOSSES_OF,
    NAME,
    Columns,
    DataSource,
    ProximalSettings,
    SmartSettings,
    TaskDef,
    TaskSettings,
)

SCHEMA_FILE = "task_defs.schema.json"
SECTIONS: tuple[type[BaseModel], ...] = (
    TaskDef,
    TaskSettings,
    DataSource,
    Columns,
    SmartSettings,
    ProximalSettings,
)


def list_tasks(
    task_defs: Sequence[TaskDefs], names: Sequence[str] = (), data_root: str | None = None
) -> dict[str, dict[str, Any]]:
    """Describe tasks and the sizes of their data.

    Args:
        task_defs: Task definitions.
        names: Tasks to list; all when empty.
        data_root: Local mirror of the hub.

    Returns:
        Task to `type`, `metrics`, `labels`, `source` and `rows`. The latter maps each split to its number of rows, or
        to None if the data is not available locally.

    Raises:
        UserError: With all problems found.
    """
    definitions, problems = read_task_defs(task_defs)
    _, tasks, found = resolve(definitions, Sourced({"encoder": ""}), Sourced(), names)
    root = directory(data_root)
    if root is not None and not Path(root).is_dir():
        problems.append(Problem("--data-root", f"there is no directory {root}"))
    if problems + found:
        raise UserError(problems + found)
    return {name: _facts(task, root) for name, task in tasks.items()}


def _facts(task: TaskDef, data_root: str | None) -> dict[str, Any]:
    data = task.data
    return {
        "type": task.type,
        "metrics": task.metrics,
        "labels": task.labels,
        "source": data.hub + (f" ({data.config})" if data.config else "") if data.hub else "files",
        "rows": {split: _rows(locate(task, split, data_root)) for split in ("train", *task.evaluation_splits)},
    }


def _rows(source: Source | Problem) -> int | None:
    return count_rows(source) if isinstance(source, Source) and source.path is not None else None


def tasks_table(tasks: dict[str, dict[str, Any]]) -> str:
    """Format the result of `list_tasks` as a table."""
    rows = [
        (
            name,
            facts["type"],
            str(len(facts["labels"])) if facts["labels"] else "–",
            ", ".join(facts["metrics"]),
            facts["source"],
            ", ".join(f"{split} {'–' if rows is None else format(rows, ',')}" for split, rows in facts["rows"].items()),
        )
        for name, facts in tasks.items()
    ]
    return table(("task", "type", "labels", "metrics", "data", "rows"), rows)


def task_schema() -> dict[str, Any]:
    """JSON Schema of a definition file, from the classes that validate it; editors complete and check keys with it."""
    whole = TaskDef.model_json_schema(ref_template="#/$defs/{model}")
    sections = whole.pop("$defs")
    task = {**whole, "allOf": list(_by_type())}
    partial = copy.deepcopy(TaskSettings.model_json_schema(ref_template="#/$defs/{model}"))
    partial.pop("$defs")
    sections |= {"TaskDef": task, "TaskSettings": partial}
    for section in SECTIONS:
        said = sections[section.__name__]["description"]
        sections[section.__name__]["description"] = said.partition("\n\nAttributes:")[0]
        for name, text in attribute_texts(section).items():
            if name in sections[section.__name__]["properties"]:
                sections[section.__name__]["properties"][name]["description"] = text
    properties = task["properties"]
    properties["adapt"] |= {"$ref": "#/$defs/TaskSettings", "default": {}}
    properties["adapt"] = {key: properties["adapt"][key] for key in ("$ref", "default", "description")}
    properties["labels"]["items"] = {"type": ["string", "integer", "number", "boolean"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Task definitions: task name to definition",
        "type": "object",
        "propertyNames": {"pattern": f"^{NAME.pattern}$"},
        "additionalProperties": {"$ref": "#/$defs/TaskDef"},
        "$defs": sections,
    }


def _by_type() -> Iterator[dict[str, Any]]:
    """Yield the additional constraints on tasks of each type."""
    for kind, losses in LOSSES_OF.items():
        metrics = [name for name, row in METRICS.items() if row.task_type == kind]
        divergence = {"properties": {"divergence": {"enum": [*DIVERGENCES_OF[kind], None]}}}
        then: dict[str, Any] = {
            "properties": {
                "metrics": {"items": {"enum": metrics}},
                "loss": {"enum": [*losses, None]},
                "smart": divergence,
                "proximal": divergence,
            }
        }
        if kind == "classification":
            then["properties"]["labels"] = {"minItems": 2}
            then["required"] = ["labels"]
        if kind == "ranking":
            then["properties"]["data"] = {"properties": {"columns": {"required": ["group"]}}}
        yield {"if": {"properties": {"type": {"const": kind}}}, "then": then}


def attribute_texts(section: type[BaseModel]) -> dict[str, str]:
    """Descriptions of attributes from the "Attributes:" section in the docstrings of a class and its base classes."""
    texts: dict[str, str] = {}
    for base in reversed([base for base in section.__mro__ if issubclass(base, Settings)]):
        text = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        for name, said in re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", text, flags=re.MULTILINE):
            texts[name] = re.sub(r"\s+", " ", said)
    return texts


def schema_text() -> str:
    """The schema as text, as it is stored in `SCHEMA_FILE`."""
    return json.dumps(task_schema(), indent=1, ensure_ascii=False) + "\n"


def schema_comment() -> str | None:
    """A first line for a definition file that points editors to the schema; None outside a checkout."""
    path = Path(__file__).resolve().parent.parent / "task_defs" / SCHEMA_FILE
    shown = str(path)
    return f"# yaml-language-server: $schema={shown}" if path.is_file() and shown.isprintable() else None
