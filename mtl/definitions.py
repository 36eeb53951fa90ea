"""Read task definition files, and check that each definition is well-formed and consistent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mtl.errors import Problem, UserError, closest, counted, listed, nearest
from mtl.metrics import METRICS
from mtl.plain_data import read_plain, read_yaml
from mtl.settings import KeyPath, Sourced, check, kind
from mtl.taskdef import DEFAULT_METRICS, DIVERGENCES_OF, LOSSES_OF, NAME, TaskDef, TaskSettings

# A definition file, or its content: task name to definition.
TaskDefs: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any]"


def read_task_defs(files: Iterable[TaskDefs]) -> tuple[dict[str, Sourced], list[Problem]]:
    """Read one partial definition per task, with the paths of data files made absolute.

    Args:
        files: YAML files, or mappings with the same content, in which paths are relative to the working directory.

    Returns:
        Task name to its settings, in the order of the files, and every problem found.
    """
    tasks: dict[str, Sourced] = {}
    problems: list[Problem] = []
    for file in files:
        try:
            document, found = read_plain(file, "task_defs") if isinstance(file, Mapping) else read_yaml(file)
        except UserError as error:
            problems.extend(error.problems)
            continue
        problems += found
        if not document.data:
            problems.append(Problem(document.place(()), "defines no task"))
        for name in document.data:
            source = document.child(name)
            if not NAME.fullmatch(name):
                message = f"the task name {name!r} may contain only letters, digits, '-' and '_' (it names directories)"
                problems.append(Problem(source.place(()), message))
            elif name in tasks:
                here, first = source.place(()), tasks[name].place(())
                message = f"the task {name!r} is already defined in {first}"
                again = Problem(str(file), "is given twice; give each task definition file once")
                problems.append(again if here == first else Problem(here, message))
            elif not isinstance(source.data, dict):
                message = f"the task {name!r} is {kind(source.data)}; expected a mapping with type, data, …"
                problems.append(Problem(source.place(()), message))
            else:
                folder = Path() if isinstance(file, Mapping) else Path(file).resolve().parent
                tasks[name] = _with_absolute_files(source, folder.absolute())
    return tasks, problems


def _with_absolute_files(source: Sourced, folder: Path) -> Sourced:
    data = source.data.get("data")
    files = data.get("files") if isinstance(data, dict) else None
    if not isinstance(files, dict):
        return source
    absolute = {
        split: str(folder / os.path.expanduser(path)) if isinstance(path, str) else path
        for split, path in files.items()
    }
    return Sourced({**source.data, "data": {**data, "files": absolute}}, source.places)


def select(tasks: Mapping[str, Sourced], names: Sequence[str]) -> tuple[dict[str, Sourced], list[Problem]]:
    """Select tasks by name, in the order of the names; all tasks if there are no names."""
    if not names:
        return dict(tasks), []
    problems = [
        Problem("--tasks", f"there is no task {name!r}; defined are: {listed(list(tasks), 40)}{nearest(name, tasks)}")
        for name in names
        if name not in tasks
    ]
    return {name: tasks[name] for name in names if name in tasks}, problems


def complete(name: str, source: Sourced) -> tuple[TaskDef | None, list[Problem]]:
    """Validate a task's merged settings and fill in defaults that depend on its type.

    Args:
        name: The task's name, for messages.
        source: Its settings, with `defaults` and the command line already merged.

    Returns:
        The definition (None if its rows cannot be read with it) and every problem.
    """
    task, problems = check(TaskDef, source, (name,), vital=("type", "data", "labels"))
    adapt = source.child("adapt")
    if isinstance(adapt.data, dict):
        problems += check(TaskSettings, adapt, (name, "adapt"))[1]
    if task is None:
        meant = closest(source.data.get("type"), LOSSES_OF)
        if meant in (None, source.data.get("type")):
            return None, problems
        task, more = complete(name, Sourced({**source.data, "type": meant}, source.places))  # to report the rest too
        return task, list(dict.fromkeys(problems + more))
    wrong = source.data.keys() - task.model_fields_set  # invalid keys, for which the task has defaults
    data = task.data
    splits = data.splits or {split: split for split in data.files or ("train", "validation")}
    task = task.model_copy(
        update={
            "metrics": task.metrics or DEFAULT_METRICS[task.type],
            "loss": task.loss or LOSSES_OF[task.type][0],
            "data": data.model_copy(update={"splits": splits}),
            "smart": _with_divergence(task.smart, task.type),
            "proximal": _with_divergence(task.proximal, task.type),
        }
    )
    found = [(path, message) for path, message in _inconsistencies(task) if path[0] not in wrong]
    problems += [Problem(source.place(path), f"{name}.{message}") for path, message in found]
    paths = [path for path, _ in found]
    lost = [path for path in paths if path[:2] == ("data", "splits") and len(path) == 3]  # the other splits are read
    unreadable = any(path[0] == "data" and path not in lost for path in paths)
    if unreadable or ("data", "splits", "train") in lost or (("labels",) in paths and len(task.labels) < 2):
        return None, problems  # its rows would be reported as well
    kept = {split: target for split, target in task.data.splits.items() if ("data", "splits", split) not in lost}
    return task.model_copy(update={"data": task.data.model_copy(update={"splits": kept})}).read_from(source), problems


def _with_divergence(settings: Any, task_type: str) -> Any:
    return settings.model_copy(update={"divergence": settings.divergence or DIVERGENCES_OF[task_type][0]})


def _inconsistencies(task: TaskDef) -> Iterable[tuple[KeyPath, str]]:
    """Yield (path, message) for each value that is valid by itself but inconsistent with others."""
    yield from _label_problems(task)
    yield from _data_problems(task)
    for index, metric in enumerate(task.metrics):
        fitting = [name for name, row in METRICS.items() if row.task_type == task.type]
        if metric not in fitting:
            message = f"metrics: {metric!r} is not a metric for {task.type}; allowed: {listed(fitting, 40)}"
            yield ("metrics", index), message + nearest(metric, fitting)
        elif METRICS[metric].binary_only and len(task.labels) > 2:
            yield (
                ("metrics", index),
                f"metrics: {metric!r} needs two labels, there are {len(task.labels)}; try 'macro_f1'",
            )
    if task.loss not in LOSSES_OF[task.type]:
        yield ("loss",), f"loss: {task.loss!r} does not fit {task.type}; allowed: {listed(LOSSES_OF[task.type])}"
    for key in ("class_weights", "label_smoothing"):
        if getattr(task, key) is not None and task.loss != "cross_entropy":
            yield (key,), f"{key} is for classification; this task is {task.type}"
    if isinstance(task.class_weights, list) and len(task.class_weights) != len(task.labels):
        numbers = f"{len(task.class_weights)} for {counted(len(task.labels), 'label')}"
        yield ("class_weights",), f"class_weights: expected one number per label, got {numbers}"
    if task.standardize is not None and task.type != "regression":
        yield ("standardize",), f"standardize is for regression; this task is {task.type}"
    for section in ("smart", "proximal"):
        divergence = getattr(task, section).divergence
        if divergence not in DIVERGENCES_OF[task.type]:
            allowed = listed(DIVERGENCES_OF[task.type])
            yield (
                (section, "divergence"),
                f"{section}.divergence: {divergence!r} does not fit {task.type}; allowed: {allowed}",
            )


def _label_problems(task: TaskDef) -> Iterable[tuple[KeyPath, str]]:
    if task.type != "classification":
        if task.labels:
            yield ("labels",), f"labels are for classification; this task is {task.type}"
        return
    if len(task.labels) < 2:
        yield ("labels",), "labels: classification needs at least two, in the order of the data's integer labels"
    for label in sorted({label for label in task.labels if task.labels.count(label) > 1}):
        yield ("labels",), f"labels: {label!r} is listed twice"


def _is_codec(name: str) -> bool:
    try:
        "".encode(name)
    except (LookupError, ValueError):  # unknown, or a bytes-to-bytes codec
        return False
    return True


def missing_split(task: TaskDef, split: str) -> Iterable[tuple[KeyPath, str]]:
    """Yields (path, message) if a definition names no such split."""
    data = task.data
    if split not in data.splits:
        key = "files" if data.files is not None and data.splits == {name: name for name in data.files} else "splits"
        has = f"it has: {listed(list(data.splits))}{nearest(split, data.splits)}"
        yield ("data", key), f"data.{key} has no {split!r}; {has}"


def _data_problems(task: TaskDef) -> Iterable[tuple[KeyPath, str]]:
    data = task.data
    if (data.hub is None) == (data.files is None):
        yield ("data",), "data needs either 'hub' or 'files'" + (", not both" if data.hub else "")
    if data.files is not None and data.config is not None:
        yield ("data", "config"), "data.config belongs to 'hub', not to 'files'"
    if data.encoding is not None and not _is_codec(data.encoding):
        yield ("data", "encoding"), f"data.encoding: unknown text encoding {data.encoding!r}; try utf-8, utf-16, cp1252"
    for split, target in data.splits.items():
        if not NAME.fullmatch(split):
            yield ("data", "splits"), f"data.splits: the name {split!r} may contain only letters, digits, '-' and '_'"
        elif data.files is not None and target not in data.files:
            yield (
                ("data", "splits", split),
                f"data.splits.{split}: 'files' has no {target!r}{nearest(target, data.files)}",
            )
    yield from missing_split(task, "train")
    if task.type == "ranking" and data.columns.group is None:
        yield ("data", "columns"), "data.columns.group is missing: ranking needs the column that holds the query's id"
    if task.type != "ranking" and data.columns.group is not None:
        yield ("data", "columns", "group"), f"data.columns.group is for ranking; this task is {task.type}"
    used = [column for column in data.columns.model_dump().values() if column is not None]
    for column in sorted({column for column in used if used.count(column) > 1}):
        if column != data.columns.group or column == data.columns.label:
            yield ("data", "columns"), f"data.columns: {column!r} is used twice"
