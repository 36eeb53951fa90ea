"""Locate and read all data of a run, each split once, and search training rows for evaluation rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from mtl.checks import Row, SplitSummary, check_split
from mtl.definitions import missing_split
from mtl.errors import Problem, UserError, listed
from mtl.leaks import Leak, LeakSearch
from mtl.source import Source, is_missing, locate
from mtl.split_cache import digest_of, recall, remember
from mtl.taskdef import TaskDef

HOLD_OUT = "; or take rows out of the training data: --set train.holdout=0.1"
UNREAD = ", which the encoder was trained on, cannot be read, so it is not searched for evaluation rows"


@dataclass(frozen=True)
class Earlier:
    """A task on which the encoder was trained before.

    Attributes:
        task: Its definition.
        data_root: Local mirror of the hub at that time, or this run's if that is no longer there.
        clean: Tasks of this run whose evaluation rows were left out of its training rows.
    """

    task: TaskDef
    data_root: str | None = None
    clean: frozenset[str] = frozenset()


EMPTY: Mapping[str, Earlier] = MappingProxyType({})


@dataclass
class Data:
    """The data of the tasks, and what reading it found.

    Attributes:
        sources: Task to split to the source of its rows.
        summaries: Task to split to the result of reading it.
        leaks: Evaluation rows found in training rows, if they were searched for.
        before: Training splits, `task/split`, of all runs that trained the encoder before.
        itself: Evaluation splits, `task/split`, that are the training data itself, unless other rows are held out.
        warnings: Warnings for the user.
        notes: Remarks for the user, on optional splits that are absent and on the rows of the others.
        problems: All problems found.
    """

    sources: dict[str, dict[str, Source]] = field(default_factory=dict)
    summaries: dict[str, dict[str, SplitSummary]] = field(default_factory=dict)
    leaks: LeakSearch = field(default_factory=LeakSearch)
    before: set[str] = field(default_factory=set)
    itself: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add_before(self, leaks: Sequence[Leak]) -> None:
        """Add evaluation rows on which the encoder was trained before, except those that are known."""
        self.before |= {leak.train for leak in leaks}
        known = self.leaks.leaks()
        self.leaks.add([leak for leak in leaks if leak not in known])

    def is_before(self, leak: Leak) -> bool:
        """Whether the encoder was trained on the rows before this run, which can no longer leave them out."""
        return leak.train in self.before


INSTEAD = "not evaluated by this run, which holds rows out of the training data instead (train.holdout)"


def check_data(
    tasks: Mapping[str, TaskDef],
    data_root: str | None,
    splits: Sequence[str] | None = None,
    *,
    search: bool = False,
    held_out: bool = False,
    before: Mapping[str, Earlier] = EMPTY,
) -> Data:
    """Locate and read every split of every task, each once, or load the cached results.

    Args:
        tasks: The tasks.
        data_root: Local mirror of the hub.
        splits: Splits to read; all that a task names when None. Splits other than `train` and `validation` may be
            absent unless they are listed here.
        search: Whether to search for evaluation rows in training rows.
        held_out: Whether rows held out of the training data are evaluated. Then no task needs a validation split, and
            one that is identical to the training data, as in a definition with a single file, is not searched.
        before: Tasks on which the encoder was trained before; their training rows are searched as well.
    """
    data = Data()
    if data_root is not None and not Path(data_root).is_dir():
        data.problems.append(Problem("--data-root", f"there is no directory {data_root}"))
        return data
    for name, task in tasks.items():
        data.sources[name], data.summaries[name] = {}, {}
        _locate(name, task, data_root, splits, data, held_out=held_out)
    places = [
        _Place(name, split, tasks[name], source)
        for name, sources in data.sources.items()
        for split, source in sources.items()
    ]
    earlier = _earlier(before, data.notes) if search else []
    try:
        keys = {str(place): digest_of(place.task, place.source) for place in [*places, *earlier]}
        itself = _training_data_itself(places)
    except (UserError, OSError):  # reading the rows will report why, and all other problems
        keys, itself = {}, []
    unsearched = itself if held_out else []
    watched = [str(place) for place in [*places, *earlier] if str(place) not in unsearched] if search else []
    data.itself = [] if held_out else itself
    known = recall(keys, watched) if keys else None
    if known is not None:
        summaries, data.leaks = known
    else:
        summaries = _read([*places, *earlier], data.leaks, watched)
    for place in places:
        summary = summaries[str(place)]
        data.summaries[place.name][place.split] = summary
        data.problems.extend(summary.problems)
        if str(place) not in unsearched:
            instead = held_out and place.split != "train"
            data.notes += [f"{place}: {remark}" for remark in ([INSTEAD] if instead else summary.remarks())]
    data.problems = _joined(data.problems, {str(place.source) for place in places if place.source.path is None})
    unread = [f"{place}{UNREAD}" for place in earlier if summaries[str(place)].problems]
    if known is None and keys and not data.problems and not unread:
        remember(keys, watched, summaries, data.leaks)
    data.notes += unread
    data.before = {str(place) for place in earlier}
    for place in earlier:
        data.leaks.leave_out(str(place), before[place.name].clean)
    return data


def _joined(problems: Sequence[Problem], hub: Collection[str]) -> list[Problem]:
    """Problems in which like messages about several splits on the hub, as where it cannot be reached, are one."""
    places: dict[str, list[str]] = {}
    for problem in problems:
        places.setdefault(problem.message, []).extend([problem.where] if problem.where in hub else [])
    joined = [Problem(listed(list(dict.fromkeys(wheres)), 3), m) for m, wheres in places.items() if wheres]
    return [problem for problem in problems if problem.where not in hub] + joined


def _locate(
    name: str, task: TaskDef, data_root: str | None, splits: Sequence[str] | None, data: Data, *, held_out: bool
) -> None:
    """Add the sources of a task's splits, a note on optional ones that are absent, and problems of the others."""
    if splits is None and not held_out:
        for path, message in missing_split(task, "validation"):
            data.problems.append(Problem(task.place(*map(str, path)), f"{name}.{message}{HOLD_OUT}"))
    needed = splits or (["train"] if held_out else ["train", "validation"])
    for split in splits or ["train", *task.evaluation_splits]:
        found = locate(task, split, data_root)
        if split not in needed and is_missing(found):
            data.notes.append(f"{name}: no {split} split here; it is not evaluated")
        elif isinstance(found, Source):
            data.sources[name][split] = found
        else:
            hint = HOLD_OUT if splits is None and split == "validation" and is_missing(found) else ""
            data.problems.append(Problem(found.where, f"{name}.{found.message}{hint}"))


@dataclass(frozen=True)
class _Place:
    """A split of a task."""

    name: str
    split: str
    task: TaskDef
    source: Source

    def __str__(self) -> str:
        return f"{self.name}/{self.split}"


def _earlier(before: Mapping[str, Earlier], notes: list[str]) -> list[_Place]:
    """Training splits of earlier tasks; adds a note on each that is no longer available."""
    places = []
    for name, earlier in before.items():
        found = locate(earlier.task, "train", earlier.data_root)
        if isinstance(found, Source):
            places.append(_Place(name, "train", earlier.task, found))
        else:
            notes.append(f"{name}/train{UNREAD}")
    return places


def _training_data_itself(places: Sequence[_Place]) -> list[str]:
    """Evaluation splits that are identical to the training split of their task."""
    training = {place.name: place.source.fingerprint() for place in places if place.split == "train"}
    others = [place for place in places if place.split != "train"]
    return [str(place) for place in others if place.source.fingerprint() == training.get(place.name)]


def _read(places: Sequence[_Place], search: LeakSearch, watched: Sequence[str]) -> dict[str, SplitSummary]:
    """Read every split once, evaluation splits first, since training rows are compared with them."""
    summaries = {}
    for place in sorted(places, key=lambda place: place.split == "train"):
        training, searched = place.split == "train", str(place) in watched
        watch = _watch(search, str(place), training=training) if searched else None
        summaries[str(place)] = check_split(place.name, place.task, place.source, watch)
        if searched and training:
            search.finish(str(place))
    return summaries


def _watch(search: LeakSearch, split: str, *, training: bool) -> Callable[[Row], None]:
    def watch(row: Row) -> None:
        texts = (row.text_a,) if row.text_b is None else (row.text_a, row.text_b)
        if training:
            search.add_training(split, row.position, texts)
        else:
            search.add_evaluation(split, row.position, texts)

    return watch
