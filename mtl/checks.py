"""Validation of rows, which happens only here, and statistics of the splits read.

Imports neither torch nor transformers, so that invalid data is reported before they are loaded.
"""

from __future__ import annotations

import math
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mtl.errors import Problem, UserError, counted, listed, nearest
from mtl.file_formats import suffix_of
from mtl.source import Source, class_names, read_rows
from mtl.taskdef import NUMBER, TaskDef

SHOWN_PER_SPLIT = 5
IMBALANCE = 0.9  # fraction of rows with one label above which a remark is made
NO_LABEL = ("", "-", "-1", "?", "None", "nan", "NA", "N/A")  # cells that mean "no label" in many data sets
CELL_KINDS = {str: "text", int: "integer", float: "number", bool: "true/false", type(None): "nothing"}
LARGEST = 1e18  # magnitude of numeric labels, so that the squared error fits into float32
LONGEST_SHOWN = 40  # characters of a cell in a message
KINDS_KEPT = 1000  # distinct faults kept; further ones are only counted, so that memory does not grow with the rows


class Row(NamedTuple):
    """One checked row.

    Attributes:
        position: Index of the row in the source, from 0.
        text_a: First text.
        text_b: Second text of a pair.
        label: Class index, value or relevance; None if labels are not read.
        group: The query id, for ranking.
    """

    position: int
    text_a: str
    text_b: str | None
    label: int | float | None
    group: str | None


@dataclass
class RowFaults:
    """Faults in a split's rows; identical faults are reported once, with their number and first place."""

    faults: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(self, place: str, message: str) -> None:
        if message not in self.faults and len(self.faults) >= KINDS_KEPT:
            message = "has another fault than those before"
        first, number = self.faults.get(message, (place, 0))
        self.faults[message] = (first, number + 1)

    def problems(self) -> list[Problem]:
        shown = [
            Problem(place, message + (f" (and {counted(number - 1, 'more row')} like this)" if number > 1 else ""))
            for message, (place, number) in list(self.faults.items())[:SHOWN_PER_SPLIT]
        ]
        hidden = list(self.faults.values())[SHOWN_PER_SPLIT:]
        if hidden:
            shown.append(Problem(_file_of(hidden[0][0]), f"{counted(len(hidden), 'more kind')} of problem in its rows"))
        return shown


class RowChecker:
    """Converts raw cells to validated rows and collects faults.

    Attributes:
        findings: Faults so far.
        rows: Number of rows seen.
        unlabelled: Number of rows left out because their label is one of `data.unlabelled`.
        kinds: Types of the cells seen, by column used.
    """

    def __init__(self, name: str, task: TaskDef, *, labelled: bool = True) -> None:
        self.name, self.task, self.labelled = name, task, labelled
        self.findings = RowFaults()
        self.rows = 0
        self.unlabelled = 0
        self.columns = task.data.columns.model_dump(exclude_none=True)
        if not labelled:
            self.columns.pop("label", None)
        self.kinds: dict[str, set[type]] = {column: set() for column in self.columns.values()}
        self.label_index = task.label_index()
        self.ignored = {str(value) for value in task.data.unlabelled if value is not None}
        self.ignores_missing = None in task.data.unlabelled
        self.ignored_numbers = {_number(value) for value in task.data.unlabelled} - {None}
        self._hints: dict[str, str] = {}  # of unknown labels, which may be many

    def read(self, source: Source) -> Iterator[Row]:
        """Yield the valid rows of a source, as `check` does."""
        yield from self.check(read_rows(source, list(dict.fromkeys(self.columns.values()))))

    def check(self, rows: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[Row]:
        """Yield the valid rows. If a column is missing there are none, and only the labels are checked.

        A missing column is reported at the place where the definition names it, or at the file if the rows are to be
        predicted, as these have to match the definition.
        """
        complete = True
        for place, cells in rows:
            if self.rows == 0:
                complete = self._has_columns(place, cells)
            if not complete and (not self.labelled or self.columns.get("label") not in cells):
                return
            index = self.rows
            self.rows += 1
            for column, kinds in self.kinds.items():
                kinds.add(type(cells.get(column)))
            row = self._row(index, place, cells) if complete else None
            if row is not None:
                yield row
            elif not complete:
                self._label(place, cells)

    def _has_columns(self, place: str, cells: dict[str, Any]) -> bool:
        missing = {role: column for role, column in self.columns.items() if column not in cells}
        if self.ignores_missing and suffix_of(Path(_file_of(place))) == ".jsonl":  # where rows may have different keys
            missing.pop("label", None)
        if len(missing) == len(self.columns) > 1:
            wanted = f"has none of {self.name}.data.columns, {listed(list(missing.values()))}"
            self._add_missing(place, f"{wanted}; its columns (first line): {listed(list(cells))}")
            return False
        for role, column in missing.items():
            message = f"has no column {column!r} ({self.name}.data.columns.{role}); columns: {listed(list(cells))}"
            self._add_missing(place, message + nearest(column, cells), role)
        return not missing

    def _add_missing(self, row: str, message: str, *role: str) -> None:
        file = _file_of(row)
        place = self.task.place("data", "columns", *role) if self.labelled else ""
        self.findings.add(place or file, f"{file} {message}" if place else message)

    def _row(self, index: int, place: str, cells: dict[str, Any]) -> Row | None:
        columns = self.task.data.columns
        text_a = self._text(place, cells, columns.text_a)
        text_b = self._text(place, cells, columns.text_b) if columns.text_b else None
        label = self._label(place, cells) if self.labelled else None
        group = cells.get(columns.group) if columns.group else None
        if columns.group and (group in (None, "") or group != group):  # None, empty, NaN
            self.findings.add(place, f"column {columns.group!r} holds no query id")
            return None
        if text_a is None or (columns.text_b and text_b is None) or (self.labelled and label is None):
            return None
        return Row(index, text_a, text_b, label, None if group is None else str(group))

    def _text(self, place: str, cells: dict[str, Any], column: str) -> str | None:
        value = cells.get(column)
        if isinstance(value, str):
            if fault := text_fault(value):
                self.findings.add(place, f"column {column!r} {fault}")
                return None
            return value
        quoted = " (in quotes)" if isinstance(value, (int, float)) else ""
        self.findings.add(place, f"column {column!r} holds {_named(value)}, expected text{quoted}")
        return None

    def _label(self, place: str, cells: dict[str, Any]) -> int | float | None:
        value = cells.get(self.task.data.columns.label)
        if self._is_ignored(value):
            self.unlabelled += 1
            return None
        if self.task.type == "classification":
            key = str(value).lower() if isinstance(value, bool) else str(value)
            index = None if value is None else self.label_index.get(key)
            if index is None:
                shown = _shortened(value)
                if shown not in self._hints and len(self._hints) < KINDS_KEPT:
                    self._hints[shown] = self._hint(value)
                allowed, hint = f"{self.name}.labels: {listed(self.task.labels)}", self._hints.get(shown, "")
                self.findings.add(place, f"unknown label {shown}; allowed: {allowed}{hint}")
            return index
        number = _number(value)
        if number is None or not abs(number) <= LARGEST or (self.task.type == "ranking" and number < 0):
            expected = "a number such as 1.5" if self.task.type == "regression" else "a relevance of 0 or more"
            large = f", and at most {LARGEST:g}" if number is not None and abs(number) > LARGEST else ""
            told = f"the label is {_shortened(value)}, expected {expected}{large}"
            self.findings.add(place, told + self._missing(value))
            return None
        return number

    def _is_ignored(self, value: Any) -> bool:
        if self.ignores_missing and (value is None or value == "" or value != value):  # missing, empty, NaN
            return True
        return bool(self.ignored) and (str(value) in self.ignored or _number(value) in self.ignored_numbers)

    def _missing(self, value: Any) -> str:
        return f"; if it means 'no label', add it to {self.name}.data.unlabelled" if str(value) in NO_LABEL else ""

    def _hint(self, value: Any) -> str:
        """Suggest what an unknown label may mean."""
        labels, text = self.task.labels, str(value)
        if missing := self._missing(value):
            return missing
        if isinstance(value, bool):
            return "; the data holds true and false: as labels, write [false, true]"
        if any(_composed(text) == _composed(label) for label in labels):
            return "; a label differs only in its Unicode normalization: convert both to NFC"
        number = _number(value)
        if isinstance(value, str) and number is not None and any(_number(label) == number for label in labels):
            return f"; if it is a label, write it in quotes in the definition: {text!r}"
        return nearest(value, labels) if len(text) <= LONGEST_SHOWN else ""


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def text_fault(text: str) -> str:
    """Explain why tokenizers reject a text; empty if they do not."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode("unicode_escape", "surrogatepass").decode()
        return f"contains half a character, {half}, as if it had been cut in the middle of an emoji"
    return ""


def _number(value: Any) -> float | None:
    """Convert a cell or a setting to a number, so that −1, −1.0 and "-1.00" are equal; None if it is not a number."""
    if value is None or isinstance(value, bool) or (isinstance(value, str) and not NUMBER.fullmatch(value.strip())):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _file_of(place: str) -> str:
    return re.sub(r"(:| row )[0-9]+$", "", place)


def _named(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:LONGEST_SHOWN]!r}"


def _shortened(value: Any) -> str:
    """A label as Python writes it, cut if it is long."""
    if isinstance(value, str) and len(value) > LONGEST_SHOWN:
        return f"{value[:LONGEST_SHOWN]!r}…"
    return repr(value)


@dataclass(frozen=True)
class SplitSummary:
    """Result of reading a split.

    Attributes:
        rows: Number of rows in the source.
        unlabelled: Number of rows left out as unlabelled.
        problems: All problems found.
        facts: Statistics, if there are no problems: rows, unlabelled, source, columns with the types of their cells,
            and those of `Tally`.
    """

    rows: int
    unlabelled: int
    problems: list[Problem]
    facts: dict[str, Any]

    def remarks(self) -> Iterator[str]:
        """Yield remarks on properties of a valid split that deserve the user's attention."""
        if empty := self.facts.get("empty"):
            yield f"{counted(empty, 'row')} with an empty text"
        if conflicts := self.facts.get("conflicts"):
            yield f"{counted(conflicts, 'row')} with the same texts as an earlier row but a different label"
        labels = self.facts.get("labels", {})
        if absent := [repr(label) for label, number in labels.items() if not number]:
            yield f"no row has the label{'s' if len(absent) > 1 else ''} {listed(absent)}"
        for label, number in labels.items():
            if number > IMBALANCE * sum(labels.values()):
                share = f"{number / sum(labels.values()):.0%}"
                yield f"{share} of the rows have the label {label!r}, so accuracy says little"
        if equal := self.facts.get("queries_of_equals"):
            shown = f"{equal:,} of {counted(self.facts['queries'], 'query', 'queries')}"
            yield f"{shown} with only one candidate, or equally relevant ones: metrics count any order as perfect"
        lowest = self.facts.get("minimum")  # of numeric labels
        if lowest is not None and lowest == self.facts["maximum"]:
            yield f"all rows have the label {lowest:g}"


class Tally:
    """Statistics of a split, accumulated in 16 bytes per row, and those of rankings in one entry per query."""

    def __init__(self) -> None:
        self.empty = 0
        self._queries: dict[str, tuple[float, float]] = {}  # least and greatest relevance of a query's candidates
        self._texts = array("q")  # a hash of each row's texts
        self._labels = array("d")

    def add(self, row: Row) -> None:
        self.empty += not row.text_a.strip() or (row.text_b is not None and not row.text_b.strip())
        self._texts.append(hash((row.text_a, row.text_b)))
        self._labels.append(math.nan if row.label is None else row.label)
        if row.group is not None and row.label is not None:
            low, high = self._queries.get(row.group, (row.label, row.label))
            self._queries[row.group] = min(low, row.label), max(high, row.label)

    def facts(self, task: TaskDef) -> dict[str, Any]:
        """Statistics of the rows added.

        Returns:
            empty: Number of rows with an empty text. duplicates: Number of rows with the same texts as an earlier row.
            conflicts: Number of those whose label is not that of the first such row. labels: For classification, label
            to number of rows; otherwise minimum, maximum and mean of the labels; for rankings also `queries`,
            `queries_without_relevant` and `queries_of_equals` (all candidates equally relevant), their numbers.
        """
        import numpy as np  # only here, since most errors are found without it

        texts, labels = np.frombuffer(self._texts, np.int64), np.frombuffer(self._labels)
        order = np.argsort(texts, kind="stable")
        starts = np.flatnonzero(np.diff(texts[order], prepend=~texts[order[:1]]))
        first = order[np.repeat(starts, np.diff(starts, append=len(texts)))]
        facts: dict[str, Any] = {"empty": self.empty, "duplicates": len(texts) - len(starts)}
        facts["conflicts"] = int((labels[order] != labels[first]).sum())
        if task.type == "classification":
            numbers = Counter(labels.tolist())
            return facts | {"labels": {label: numbers[index] for index, label in enumerate(task.labels)}}
        if task.type == "ranking":
            without = sum(high <= 0 for _, high in self._queries.values())
            facts |= {"queries": len(self._queries), "queries_without_relevant": without}
            facts["queries_of_equals"] = sum(low == high > 0 for low, high in self._queries.values())
        return facts | {"minimum": labels.min().item(), "maximum": labels.max().item(), "mean": labels.mean().item()}


def _renamed(name: str, task: TaskDef, names: list[str], source: Source) -> list[Problem]:
    """Labels that stand for another integer in the definition than in the data, which would exchange classes."""
    if any(NUMBER.fullmatch(label) for label in task.labels):  # then a cell is a name, never an index
        return []
    known = [called.lower() for called in names]
    labels = enumerate(label.lower() for label in task.labels)
    if not any(label in known and known.index(label) != index for index, label in labels):
        return []
    told = f"{name}.labels: {source} calls its labels {listed(names)}, in this order; write them in the same order"
    return [Problem(task.place("labels"), told)]


def check_split(name: str, task: TaskDef, source: Source, watch: Callable[[Row], None] | None = None) -> SplitSummary:
    """Read a whole split; collect its statistics and all problems.

    Args:
        name: The task's name, for messages.
        task: Its definition.
        source: Source of the rows.
        watch: Called with every valid row.
    """
    checker, tally = RowChecker(name, task), Tally()
    try:
        for row in checker.read(source):
            tally.add(row)
            if watch is not None:
                watch(row)
        problems = []
    except UserError as error:
        problems = error.problems
    problems = checker.findings.problems() + problems
    if not problems and int in checker.kinds[task.data.columns.label]:
        problems = _renamed(name, task, class_names(source, task.data.columns.label), source)
    if not problems and checker.rows == checker.unlabelled:
        what = f"labelled rows ({counted(checker.rows, 'row')} without a label)" if checker.rows else "rows"
        problems.append(Problem(str(source), f"holds no {what}"))
    if problems:
        return SplitSummary(checker.rows, checker.unlabelled, problems, {})
    kinds = {column: [CELL_KINDS.get(kind, kind.__name__) for kind in kinds] for column, kinds in checker.kinds.items()}
    facts = {"rows": checker.rows, "unlabelled": checker.unlabelled, "source": str(source)}
    facts |= {"columns": {column: " or ".join(sorted(names)) for column, names in kinds.items()}}
    return SplitSummary(checker.rows, checker.unlabelled, problems, facts | tally.facts(task))
