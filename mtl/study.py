"""A study: a grid of arms × seeds × tasks × training sizes, read from a YAML file and resolved into runs.

A cell is one arm with one seed on one task at one training size. An arm is a sequence of phases, each of them a run;
cells whose first phases have the same resolved configuration share that run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtl.checks import SplitSummary
from mtl.config import Run, resolve
from mtl.definitions import read_task_defs
from mtl.encoder import find_encoder
from mtl.errors import Problem, UserError, counted, listed, nearest
from mtl.heads import FRESH, REUSE, head_problem
from mtl.plain_data import read_yaml
from mtl.precedence import contradictions, without_rivals
from mtl.preflight import directory, idle_problems
from mtl.presets import PRESETS
from mtl.reading import check_data
from mtl.settings import KeyPath, Sourced, check, dotted
from mtl.study_config import ALL, OWN, Phase, StudyConfig
from mtl.taskdef import NAME, TaskDef

FORMAT = 2  # increment when the same configuration gives different results
# Keys left out of the fingerprint: results do not depend on them, or the task and data fingerprints cover them.
UNTOLD = {"num_proc", "data_root", "task_defs", "telemetry", "defaults", "tasks", "inherited"}


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        label: Readable part of its directory name.
        fingerprint: Digest of its resolved configuration, its data and the run that it starts from.
        run: The resolved configuration and tasks.
        overrides: The run's settings, as on its command line; they override the task definitions.
        parent: In adaptation, the run that it starts from.
        task_defs: Absolute paths of the definition files that it needs.
    """

    label: str
    fingerprint: str
    run: Run
    overrides: Sourced
    parent: StudyRun | None
    task_defs: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the run's directory."""
        return f"{self.label}-{self.fingerprint[:12]}"

    def chain(self) -> list[StudyRun]:
        """The runs that this one builds on, in order, followed by this one."""
        return [*(self.parent.chain() if self.parent else []), self]


@dataclass(frozen=True)
class Cell:
    """One arm with one seed on one task at one training size; its result is that of `task` in the run of `node`."""

    arm: str
    task: str
    size: int | None
    seed: int
    node: StudyRun


@dataclass(frozen=True)
class Study:
    """A checked study.

    Attributes:
        name: Name of its file, without the suffix.
        config: The contents of the file.
        tasks: Definitions of the studied tasks.
        cells: The grid, ordered by seed, so that all arms have equally many seeds if the study is interrupted.
    """

    name: str
    config: StudyConfig
    tasks: dict[str, TaskDef]
    cells: list[Cell]

    @property
    def nodes(self) -> list[StudyRun]:
        """All runs without duplicates, each after the run that it starts from."""
        return list({node.name: node for cell in self.cells for node in cell.node.chain()}.values())


def read_study(path: Path, data_root: str | None = None) -> Study:
    """Reads and checks a study: its keys, every arm's settings, the definitions, the encoder and the data.

    Args:
        path: The study file.
        data_root: Local mirror of the hub; overrides that of the file.

    Raises:
        UserError: The study is invalid. Problems of the keys and definitions are reported together, then those of the
            runs.
    """
    source, problems = read_yaml(path)
    if data_root is not None:
        source = Sourced({"data_root": data_root}, {("data_root",): "--data-root"}).over(source)
    config, found = check(StudyConfig, source)
    problems += found
    if config is None:
        raise UserError(problems)
    files = [str((path.resolve().parent / file).resolve()) for file in config.task_defs]
    definitions, found = read_task_defs(files)
    problems += found
    problems += _inconsistencies(config, source, definitions)
    if problems:
        raise UserError(problems)
    grid = _Grid(config, source, definitions, files)
    cells = [
        cell
        for seed in config.seeds
        for size in config.train_sizes
        for task in config.tasks
        for arm in config.arms
        if (cell := grid.cell(arm, task, size, seed)) is not None
    ]
    if grid.problems:
        raise UserError(grid.problems)
    tasks = {task: next(cell.node.run.tasks[task] for cell in cells if cell.task == task) for task in config.tasks}
    if problems := _other_metrics(cells, tasks, source):
        raise UserError(problems)
    return Study(path.stem, config, tasks, cells)


def _other_metrics(cells: Sequence[Cell], tasks: Mapping[str, TaskDef], source: Sourced) -> list[Problem]:
    """Arms whose definition of a studied task lacks a metric on which arms are compared."""
    told = {}
    for cell in cells:
        absent = [name for name in tasks[cell.task].metrics if name not in cell.node.run.tasks[cell.task].metrics]
        if absent:
            message = f"arms.{cell.arm}: {cell.task} has no metric {listed(absent)}, by which arms are compared"
            told[cell.arm, cell.task] = Problem(source.place(("arms", cell.arm)), message)
    return list(told.values())


def _inconsistencies(config: StudyConfig, source: Sourced, definitions: Mapping[str, Sourced]) -> list[Problem]:
    """Problems between values that are valid individually."""
    problems = []

    def tell(path: KeyPath, message: str) -> None:
        problems.append(Problem(source.place(path), f"{dotted(path)}: {message}"))

    named: list[tuple[KeyPath, str]] = [(("tasks", index), task) for index, task in enumerate(config.tasks)]
    for arm, phases in config.arms.items():
        if not NAME.fullmatch(arm):
            tell(("arms", arm), "a name may hold letters, digits, '-' and '_' only (it names directories)")
        for index, phase in enumerate(phases):
            path: KeyPath = ("arms", arm, index)
            named += [((*path, "tasks", i), task) for i, task in enumerate(phase.tasks) if task != ALL]
            for task in phase.sizes:
                if task in definitions and task not in phase.tasks:
                    tell((*path, "sizes", task), "is not among the phase's 'tasks'")
            if (phase.phase == "train") != (index == 0):
                tell((*path, "phase"), "the first phase of an arm is 'train', every further one 'adapt'")
            if phase.phase == "adapt" and phase.tasks:
                tell((*path, "tasks"), "adaptation is to the cell's task; leave it out")
            if phase.phase == "adapt" and "encoder" in phase.settings:
                tell((*path, "settings", "encoder"), "adaptation starts from the phase before; leave it out")
        last = phases[-1]
        absent = [task for task in config.tasks if task not in last.tasks]
        if last.phase == "train" and last.tasks and ALL not in last.tasks and absent:
            tell(("arms", arm, len(phases) - 1, "tasks"), f"the last phase has to train {listed(absent)} too")
    for path, task, _ in _sizes(config):
        named.append((path, task))
        if task in config.tasks:
            tell(path, "is a task of the study: 'train_sizes' are for those")
    for path, task in named:
        if task not in definitions:
            message = f"there is no task {task!r}; defined are: {listed(list(definitions), 40)}"
            tell(path, message + nearest(task, definitions))
    for index, pair in enumerate(config.contrasts):
        for arm in pair:
            if arm not in config.arms:
                tell(("contrasts", index), f"there is no arm {arm!r}{nearest(arm, config.arms)}")
        if pair[0] == pair[1]:
            tell(("contrasts", index), "an arm does not differ from itself")
    for key in ("tasks", "seeds", "train_sizes", "contrasts"):
        values = getattr(config, key)
        for value in dict.fromkeys(json.dumps(value) for value in values if values.count(value) > 1):
            tell((key,), f"{value} stands there twice")
    return problems


def _sizes(config: StudyConfig) -> list[tuple[KeyPath, str, int]]:
    """Where the study and its phases set the size of a task that is not studied, the task and the size."""
    phases = [(arm, index, phase) for arm, phases in config.arms.items() for index, phase in enumerate(phases)]
    sizes: list[tuple[KeyPath, str, int]] = [(("sizes", task), task, size) for task, size in config.sizes.items()]
    return sizes + [(("arms", a, i, "sizes", t), t, size) for a, i, phase in phases for t, size in phase.sizes.items()]


def _without_tasks(settings: Sourced, others: set[str]) -> Sourced:
    """Settings without those under `tasks.NAME` for the tasks in `others`."""
    tasks = settings.child("tasks").data
    if not isinstance(tasks, dict):
        return settings
    kept = {name: values for name, values in tasks.items() if name not in others}
    return Sourced({**settings.data, "tasks": kept}, settings.places)


class _Grid:
    """Resolves cells into runs; shared runs are the same node, and each data file is read once."""

    def __init__(
        self, config: StudyConfig, source: Sourced, definitions: Mapping[str, Sourced], files: list[str]
    ) -> None:
        self.config, self.source, self.definitions, self.files = config, source, definitions, files
        self.data_root = directory(config.data_root)
        self.problems: list[Problem] = []
        self._encoders: dict[str, str | None] = {}
        self._data: dict[str, dict[str, str]] = {}
        self._nodes: dict[str, StudyRun] = {}

    def cell(self, arm: str, task: str, size: int | None, seed: int) -> Cell | None:
        """The cell, or None if a phase is invalid; problems are collected in `problems`."""
        node: StudyRun | None = None
        for index, phase in enumerate(self.config.arms[arm]):
            last = index + 1 == len(self.config.arms[arm])
            names = self._names(phase, task)
            sizes = dict.fromkeys(self.config.tasks, size) | self.config.sizes_of(phase)
            settings = self._overrides(("arms", arm, index), {n: sizes.get(n) for n in names}, seed)
            found = self._node(names, settings, node)
            if found is None:
                return None
            alone = last and names == [task]
            what = f"{task}-{size or ALL}" if alone else "shared"
            found = replace(found, label=f"{what}-{arm}-seed{seed}")
            node = self._nodes.setdefault(found.fingerprint, found)
        assert node is not None
        return Cell(arm, task, size, seed, node)

    def _names(self, phase: Phase, task: str) -> list[str]:
        chosen = phase.tasks or [task]
        return list(dict.fromkeys(n for name in chosen for n in (self.config.tasks if name == ALL else [name])))

    def _overrides(self, path: KeyPath, sizes: Mapping[str, int | None], seed: int) -> Sourced:
        """The settings of one run, by precedence: those that the study determines, the phase's own, the shared ones."""
        shared, own = self.source.child("settings"), self.source.child(*path, "settings")
        for part, where in ((shared, "settings"), (own, dotted((*path, "settings")))):
            for key, reason in OWN.items():
                *sections, name = key.split(".")
                section = part.child(*sections).data
                if isinstance(section, dict) and name in section:
                    self.problems.append(Problem(part.place(tuple(key.split("."))), f"{where}.{key}: {reason}"))
            self.problems += contradictions(part)
        others = set(self.config.tasks) - set(sizes)  # studied tasks that this run does not train
        shared = _without_tasks(shared, others)
        own = own if self.source.child(*path).data.get("tasks") else _without_tasks(own, others)
        sized = {name: size for name, size in sizes.items() if size is not None}
        train: dict[str, Any] = {"seed": seed} | ({"task_sizes": sized} if sized else {})
        if self.config.select == "holdout" and any(name in self.config.tasks for name in sizes):
            train |= {"holdout": self.config.holdout, "holdout_rows": self.config.holdout_rows}
        given, place = {"data_root": self.data_root, "train": train}, self.source.place(path)
        base = Sourced({"encoder": self.config.encoder}, {("encoder",): self.source.place(("encoder",))})
        return Sourced(given, {(): place}).over(own.over(without_rivals(shared, own).over(base)))

    def _node(self, names: list[str], overrides: Sourced, parent: StudyRun | None) -> StudyRun | None:
        """The run of a phase, resolved exactly as `preflight` will resolve its command line."""
        known = parent.run.tasks if parent else {}
        definitions = {
            n: Sourced(known[n].model_dump(exclude_none=True)) if n in known else self.definitions[n] for n in names
        }
        file = Sourced()
        if parent is not None:
            overrides = Sourced({k: v for k, v in overrides.data.items() if k != "encoder"}, overrides.places)
            head = REUSE if names[0] in known else FRESH
            file = Sourced({"phase": "adapt", "encoder": "", "head": head, "leaks": parent.run.config.leaks})
        settled = Sourced(parent.run.config.inherited) if parent else Sourced()
        config, tasks, found = resolve(definitions, file, overrides, names, settled)
        if config is not None and parent is not None:
            stored = {name: task.model_dump() for name, task in known.items()}
            for name, task in tasks.items():
                message = head_problem(config.head, name, task.model_dump(), stored)
                found += [Problem(overrides.place(("head",)), message)] if message else []
        if config is not None and parent is None:
            found += self._encoder_problems(config.encoder, overrides.place(("encoder",)))
        for name in tasks:
            found += self._read(name, tasks[name])
        run = Run(config, tasks) if config is not None else None
        found += idle_problems(run) if run is not None else []
        self.problems += found
        if found or run is None:
            return None
        files = () if names[0] in known else tuple(self.files)
        return StudyRun("", self._fingerprint(run, parent), run, overrides, parent, files)

    def _encoder_problems(self, spec: str, place: str) -> list[Problem]:
        if spec not in self._encoders:
            try:
                self._encoders[spec] = None
                find_encoder(spec)
            except UserError as error:
                self._encoders[spec] = error.problems[0].message
        message = self._encoders[spec]
        return [] if message is None else [Problem(place, message)]

    def _read(self, name: str, task: TaskDef) -> Iterator[Problem]:
        """Reads a task's data once, and yields its problems."""
        if name not in self._data:
            data = check_data({name: task}, self.data_root, held_out=self.config.select == "holdout")
            self._data[name] = {s: source.fingerprint() for s, source in data.sources.get(name, {}).items()}
            yield from data.problems or self._size_problems(name, data.summaries[name]["train"])

    def _size_problems(self, name: str, train: SplitSummary) -> Iterator[Problem]:
        """Sizes, and rows to hold out, beyond a task's training data."""
        config, studied = self.config, name in self.config.tasks
        rows = train.rows - train.unlabelled  # for rankings, more than there are queries
        sizes = [(("train_sizes",), size) for size in config.train_sizes if studied]
        for path, size in [*sizes, *((path, size) for path, task, size in _sizes(config) if task == name)]:
            if size is not None and size > rows:
                told = f"{dotted(path)}: {size:,}, but {name} has {counted(rows, 'labelled training row')} (null: all)"
                yield Problem(self.source.place(path), told)
        if config.select == "holdout" and studied and config.holdout_rows >= rows:
            told = f"holdout_rows: {config.holdout_rows:,} would be held out of the {rows:,} training rows of {name}"
            yield Problem(self.source.place(("holdout_rows",)), f"{told}; set a smaller number")

    def _fingerprint(self, run: Run, parent: StudyRun | None) -> str:
        config = run.config.model_dump(exclude=UNTOLD, exclude_none=True)
        tasks = {name: task.model_dump(exclude_none=True) for name, task in run.tasks.items()}
        for task in tasks.values():
            task["data"].pop("files", None)  # contents are fingerprinted below; paths do not matter
            for section in PRESETS:
                values = task.pop(section)
                if getattr(run.config.train, section) and values["weight"] > 0:  # otherwise results do not depend on it
                    task[section] = {key: value for key, value in values.items() if key != "preset"}  # already applied
        data = {name: self._data[name] for name in tasks}
        described = [FORMAT, config, tasks, data, parent.fingerprint if parent else None]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
