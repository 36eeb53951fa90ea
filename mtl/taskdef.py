"""What a task is: its type, data, labels, metrics and regularizers, as read from task definition YAMLs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator

from mtl.errors import Problem, UserError, listed, nearest
from mtl.metrics import METRICS, TaskType
from mtl.settings import KeyPath, Settings, Sourced, check, kind, read_plain, read_yaml

DivergenceName = Literal["sym_kl", "kl", "js", "hellinger", "mse"]
LossName = Literal["cross_entropy", "mse", "listwise", "pairwise"]
NormName = Literal["linf", "l2"]
DropoutMode = Literal["shared", "independent"]
PresetName = Literal["paper", "mtdnn", "r3f", "rdrop"]
ProximalPresetName = Literal["paper"]
RadiusUnit = Literal["absolute", "embedding_rms"]
ScopeName = Literal["example", "token"]
AscentName = Literal["projected", "normalized"]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
PARTS_OF_A_PAIR = ("text_a", "text_b")


class SmartSettings(Settings):
    """Smoothness-inducing adversarial regularizer R_s (arXiv 1911.03437).

    The default radius was chosen on rows held out of training data (RESULTS.md, d_sensitivity); the published one is
    the preset `paper`.

    Attributes:
        preset: A name in `presets.PRESETS`, whose values stand where nothing else is said.
        weight: λ, the factor of R_s in the loss; 0 switches it off.
        epsilon: ε, radius of the perturbation ball.
        noise_std: σ, standard deviation of the initial noise.
        step_size: η, length of one ascent step.
        unit: What the three are measured in: `absolute`, or `embedding_rms`, the root mean square of the pretrained
            encoder's word embeddings.
        steps: K, number of ascent steps; 0 gives R3F (arXiv 2008.03156).
        norm: Norm of the ball and of the gradient's normalisation.
        scope: Whether there is one ball around all tokens of an input or one around each.
        ascent: `projected` as in the paper, or `normalized` as in its authors' public code; see `smart.perturbation`.
        divergence: ℓ_s; by default sym_kl, for regression mse.
        dropout: Whether both branches see the same dropout masks; `independent` ones and ε = 0 give R-Drop's term.
        every: n, R_s in every n-th step of the task only, with n times the weight.
    """

    preset: PresetName | None = None
    weight: NonNegative = 1.0
    epsilon: NonNegative = 0.01
    noise_std: NonNegative = 0.01
    step_size: NonNegative = 0.1
    unit: RadiusUnit = "embedding_rms"
    steps: Annotated[int, Field(ge=0)] = 1
    norm: NormName = "linf"
    scope: ScopeName = "example"
    ascent: AscentName = "projected"
    divergence: DivergenceName | None = None
    dropout: DropoutMode = "shared"
    every: Count = 1


class ProximalSettings(Settings):
    """Momentum Bregman proximal point update (arXiv 1911.03437, section 3.2).

    By default the momentum follows the length of the run, so that a short one is not held back at where it began; the
    published one, for runs of thousands of steps, is the preset `paper`.

    Attributes:
        preset: A name in `presets.PRESETS`, whose values stand where nothing else is said.
        weight: μ, the factor of D in the loss; 0 switches it off.
        window: Share of the run's steps that the teacher averages over: gives β where it is not set.
        beta_early: β, momentum of the teacher at the start of the run.
        beta_late: β after the switch.
        switch: When β changes, as a fraction of the run's steps.
        inner_steps: S, optimizer steps between two updates of the teacher; β = 0 with S > 1 is the vanilla method.
        divergence: ℓ_s; by default sym_kl, for regression mse.
    """

    preset: ProximalPresetName | None = None
    weight: NonNegative = 1.0
    window: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    beta_early: Fraction | None = None
    beta_late: Fraction | None = None
    switch: Fraction = 0.1
    inner_steps: Count = 1
    divergence: DivergenceName | None = None


class TrainingSettings(Settings):
    """How a task is trained: the part of a definition that `defaults:` and `adapt:` may hold too.

    Attributes:
        loss: By default the first that `LOSSES_OF` names for the type.
        weight: w_t, factor of the task's whole objective.
        dropout: Dropout probability of the head.
        batch_size: Rows of one optimizer step.
        batch_tokens: Tokens of one, padding included, instead of rows.
        max_length: Tokens of one input, special tokens included; longer ones are truncated.
        learning_rate: Peak learning rate of the steps on this task.
    """

    loss: LossName | None = None
    weight: Positive = 1.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    batch_size: Count = 32
    batch_tokens: Count | None = None
    max_length: Annotated[int, Field(ge=4)] = 512
    learning_rate: Positive = 5e-5
    smart: SmartSettings = SmartSettings()
    proximal: ProximalSettings = ProximalSettings()


class Defaults(TrainingSettings):
    """Section `defaults:` of a run configuration."""

    adapt: dict[str, Any] = {}


class Columns(Settings):
    """Names of the data's columns; `group` (the query id) is for ranking."""

    text_a: str
    text_b: str | None = None
    label: str = "label"
    group: str | None = None


class DataSource(Settings):
    """Where a task's rows come from: a hub data set or local files.

    Attributes:
        hub: Hub id, such as ``nyu-mll/glue``.
        config: Configuration of the hub data set.
        files: Split name to a csv, tsv, jsonl or parquet file, relative to the definition's file.
        columns: Names of the columns.
        splits: Our name of a split to the data's name of it. `train` and `validation` have to exist; any other is
            evaluated where it is present.
        unlabelled: Label values that mean "no label": such rows are left out and counted.
        encoding: Of text files, such as cp1252; by default what their byte-order mark says, else UTF-8.
    """

    hub: str | None = None
    config: str | None = None
    files: dict[str, str] | None = None
    columns: Columns
    splits: dict[str, str] = {}
    unlabelled: list[str | int | float] = []
    encoding: str | None = None


class TaskDef(TrainingSettings):
    """One task, every default filled in.

    Attributes:
        type: classification, regression or ranking.
        data: Where the rows come from.
        labels: Names of the classes, in the order of the logits.
        metrics: Names in `METRICS`; the first one selects the best step.
        adapt: What differs in single-task adaptation, as a partial `TrainingSettings`.
    """

    type: TaskType
    data: DataSource
    labels: list[str] = []
    metrics: list[str] = []
    adapt: dict[str, Any] = {}

    @field_validator("labels", mode="before")
    @classmethod
    def _as_words(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [
                str(v).lower() if isinstance(v, bool) else str(v) if isinstance(v, (int, float)) else v for v in value
            ]
        return value

    @property
    def num_labels(self) -> int:
        return len(self.labels) if self.type == "classification" else 1

    @property
    def is_pair(self) -> bool:
        return self.data.columns.text_b is not None

    @property
    def evaluation_splits(self) -> list[str]:
        """Names of all splits but `train`, `validation` first."""
        return sorted((name for name in self.data.splits if name != "train"), key=lambda name: name != "validation")

    def label_index(self) -> dict[str, int]:
        """Maps the text of a label cell to its class index.

        A cell names its class or, unless a class name is itself an integer, gives its index.
        """
        by_name = {name: index for index, name in enumerate(self.labels)}
        if any(re.fullmatch(r"-?[0-9]+", name) for name in self.labels):
            return by_name
        return {str(index): index for index in range(len(self.labels))} | by_name


DEFAULT_METRICS = {
    "classification": ["accuracy"],
    "regression": ["pearson", "spearman"],
    "ranking": ["map", "mrr"],
}
LOSSES_OF: dict[str, tuple[LossName, ...]] = {
    "classification": ("cross_entropy",),
    "regression": ("mse",),
    "ranking": ("listwise", "pairwise"),
}
DIVERGENCES_OF: dict[str, tuple[DivergenceName, ...]] = {
    "classification": ("sym_kl", "kl", "js", "hellinger", "mse"),
    "regression": ("mse",),
    "ranking": ("sym_kl", "kl", "js", "hellinger", "mse"),
}


# A definition file, or what one holds: task name to definition.
TaskDefs: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any]"


def read_task_defs(files: Iterable[TaskDefs]) -> tuple[dict[str, Sourced], list[Problem]]:
    """Reads definitions into one partial definition per task, file paths made absolute.

    Args:
        files: YAML files, or the same as plain data (whose file paths are relative to the working directory).

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
        for name in document.data:
            source = document.child(name)
            if not NAME.fullmatch(name):
                message = f"the task name {name!r} may hold letters, digits, '-' and '_' only (it names directories)"
                problems.append(Problem(source.place(()), message))
            elif name in tasks:
                here, first = source.place(()), tasks[name].place(())
                message = f"the task {name!r} is defined here again; it is first in {first}"
                again = Problem(str(file), "is named twice; name each file of definitions once")
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
    absolute = {split: str(folder / path) if isinstance(path, str) else path for split, path in files.items()}
    return Sourced({**source.data, "data": {**data, "files": absolute}}, source.places)


def select(tasks: Mapping[str, Sourced], names: Sequence[str]) -> tuple[dict[str, Sourced], list[Problem]]:
    """Takes the named tasks, in the order named (all of them when none is)."""
    if not names:
        return dict(tasks), []
    problems = [
        Problem("--tasks", f"there is no task {name!r}; defined are: {listed(list(tasks), 40)}{nearest(name, tasks)}")
        for name in names
        if name not in tasks
    ]
    return {name: tasks[name] for name in names if name in tasks}, problems


def complete(name: str, source: Sourced) -> tuple[TaskDef | None, list[Problem]]:
    """Checks a task's merged settings and fills in what depends on its type.

    Args:
        name: The task's name, for messages.
        source: Its settings, `defaults` and command line already merged.

    Returns:
        The definition (None where no rows can be read by it) and every problem.
    """
    task, problems = check(TaskDef, source, (name,))
    adapt = source.child("adapt")
    if isinstance(adapt.data, dict):
        problems += check(TrainingSettings, adapt, (name, "adapt"))[1]
    if task is None:
        return None, problems
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
    found = list(_inconsistencies(task))
    problems += [Problem(source.place(path), f"{name}.{message}") for path, message in found]
    readable = all(path[0] not in ("data", "labels") for path, _ in found)  # else its rows would be found wrong as well
    return task if readable else None, problems


def _with_divergence(settings: Any, task_type: str) -> Any:
    return settings.model_copy(update={"divergence": settings.divergence or DIVERGENCES_OF[task_type][0]})


def _inconsistencies(task: TaskDef) -> Iterable[tuple[KeyPath, str]]:
    """Yields (path, message) for what is well-formed by itself but does not fit the rest."""
    yield from _label_problems(task)
    yield from _data_problems(task)
    for index, metric in enumerate(task.metrics):
        fitting = [name for name, row in METRICS.items() if row.task_type == task.type]
        if metric not in fitting:
            message = f"metrics: {metric!r} is no metric of {task.type}; allowed: {listed(fitting, 40)}"
            yield ("metrics", index), message + nearest(metric, fitting)
        elif METRICS[metric].binary_only and len(task.labels) > 2:
            yield (
                ("metrics", index),
                f"metrics: {metric!r} needs two labels, there are {len(task.labels)}; try 'macro_f1'",
            )
    if task.loss not in LOSSES_OF[task.type]:
        yield ("loss",), f"loss: {task.loss!r} does not fit {task.type}; allowed: {listed(LOSSES_OF[task.type])}"
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
        yield ("labels",), "labels: a classification needs at least two, in the order of the data's integers"
    for label in sorted({label for label in task.labels if task.labels.count(label) > 1}):
        yield ("labels",), f"labels: {label!r} stands there twice"


def _is_codec(name: str) -> bool:
    try:
        "".encode(name)
    except (LookupError, ValueError):  # unknown, or one of the codecs between bytes
        return False
    return True


def _data_problems(task: TaskDef) -> Iterable[tuple[KeyPath, str]]:
    data = task.data
    if (data.hub is None) == (data.files is None):
        yield ("data",), "data needs either 'hub' or 'files'" + (", not both" if data.hub else "")
    if data.files is not None and data.config is not None:
        yield ("data", "config"), "data.config belongs to 'hub', not to 'files'"
    if data.encoding is not None and not _is_codec(data.encoding):
        yield ("data", "encoding"), f"data.encoding: {data.encoding!r} is no text encoding; try utf-8, utf-16 or cp1252"
    for split, target in data.splits.items():
        if not NAME.fullmatch(split):
            yield ("data", "splits"), f"data.splits: the name {split!r} may hold letters, digits, '-' and '_' only"
        elif data.files is not None and target not in data.files:
            yield (
                ("data", "splits", split),
                f"data.splits.{split}: 'files' has no {target!r}{nearest(target, data.files)}",
            )
    from_files = data.files is not None and data.splits == {split: split for split in data.files}
    for split in ("train", "validation"):
        if split not in data.splits:
            key = "files" if from_files else "splits"
            yield (
                ("data", key),
                f"data.{key} has no {split!r}; it has: {listed(list(data.splits))}{nearest(split, data.splits)}",
            )
    if task.type == "ranking" and data.columns.group is None:
        yield ("data", "columns"), "data.columns.group is missing: ranking needs the column that holds the query's id"
    if task.type != "ranking" and data.columns.group is not None:
        yield ("data", "columns", "group"), f"data.columns.group is for ranking; this task is {task.type}"
    used = [column for column in data.columns.model_dump().values() if column is not None]
    for column in sorted({column for column in used if used.count(column) > 1}):
        if column != data.columns.group:
            yield ("data", "columns"), f"data.columns: {column!r} is used twice"
