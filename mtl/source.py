"""Where rows come from (hub, local mirror of the hub, files) and the one place where they are checked.

Needs neither torch nor transformers, so that bad data is told of before anything heavy is loaded.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mtl.errors import Problem, UserError, counted, listed, nearest
from mtl.taskdef import TaskDef

SUFFIXES = (".parquet", ".jsonl", ".csv", ".tsv")
SHOWN_PER_SPLIT = 5
MAX_CELL = 1 << 24

csv.field_size_limit(MAX_CELL)


class Row(NamedTuple):
    """One checked row.

    Attributes:
        position: Place in the source, from 0.
        text_a: First text.
        text_b: Second text of a pair.
        label: Class index, value or relevance; None where rows carry no labels.
        group: The query's id, for ranking.
    """

    position: int
    text_a: str
    text_b: str | None
    label: int | float | None
    group: str | None


@dataclass(frozen=True)
class Source:
    """One split of one task: a file, or a data set on the hub.

    Attributes:
        path: The file, if it is local.
        hub: (id, configuration, split), if it is not.
    """

    path: Path | None = None
    hub: tuple[str, str | None, str] | None = None

    def __str__(self) -> str:
        return str(self.path) if self.path else "/".join(part for part in self.hub or () if part)

    def fingerprint(self) -> str:
        """A digest of the content: of the file's bytes, or the hub's own."""
        if self.path is not None:
            digest = hashlib.sha256()
            with self.path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            return digest.hexdigest()
        return str(load_hub(self)._fingerprint)


def locate(task: TaskDef, split: str, data_root: str | None) -> Source | Problem:
    """Finds a split's rows without reading them.

    Args:
        task: The task.
        split: Our name of the split, or for a hub set the hub's.
        data_root: Local mirror of the hub, or None for the hub itself.

    Returns:
        The source, or what is missing. A split on the hub is only looked for when it is read.
    """
    data = task.data
    target = data.splits.get(split, split)
    if data.files is not None:
        if target not in data.files:
            return Problem(f"split {split!r}", f"there is no such split; the files are: {listed(list(data.files))}")
        path = Path(data.files[target])
        if path.suffix not in SUFFIXES:
            return Problem(str(path), f"is of an unknown type; allowed: {listed(SUFFIXES)}")
        return Source(path=path) if path.is_file() else Problem(str(path), f"there is no such file ({split} data)")
    assert data.hub is not None
    if data_root is None:
        return Source(hub=(data.hub, data.config, target))
    folder = Path(data_root) / data.hub / (data.config or "default")
    for suffix in SUFFIXES:
        if (folder / f"{target}{suffix}").is_file():
            return Source(path=folder / f"{target}{suffix}")
    if not folder.is_dir():
        return Problem(str(folder), "there is no such directory (--data-root / hub / config)")
    found = sorted(path.stem for path in folder.iterdir() if path.suffix in SUFFIXES)
    return Problem(
        str(folder), f"has no {split} data {target}.{{parquet,jsonl,csv,tsv}}; splits there: {listed(found)}"
    )


def load_hub(source: Source) -> Any:
    """Downloads (or finds in its cache) one split of a hub data set, as a `datasets.Dataset`."""
    import datasets

    assert source.hub is not None
    hub, config, split = source.hub
    try:
        return datasets.load_dataset(hub, config, split=split)
    except Exception as error:  # the library raises some thirty unrelated types, from HTTP to parsing
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"cannot be loaded from the hub: {reason} (offline? --data-root DIR reads a local mirror)"
        raise UserError.of(str(source), message) from error


def read_rows(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (place, cells) of every row, such as ``("train.csv:12", {"sentence": …})``."""
    if source.path is None:
        for index, cells in enumerate(load_hub(source)):
            yield f"{source} row {index + 1}", cells
        return
    try:
        yield from READERS[source.path.suffix](source.path)
    except UnicodeDecodeError:
        raise UserError([_not_utf8(source.path)]) from None
    except OSError as error:
        raise UserError.of(str(source.path), f"cannot be read: {error.strerror or error}") from None


def _not_utf8(path: Path) -> Problem:
    """The first line that is not UTF-8; the reader's own error knows only where in its buffer it was."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                message = f"is not UTF-8 text (byte {line[error.start]:#04x}); convert it first"
                return Problem(f"{path}:{number}", message)
    return Problem(str(path), "is not UTF-8 text; convert it first")


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                cells = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", "nested too deeply or a number too long")
                raise UserError.of(f"{path}:{number}", f"is not valid JSON: {reason}") from None
            if not isinstance(cells, dict):
                raise UserError.of(f"{path}:{number}", "expected one JSON object a line")
            yield f"{path}:{number}", cells


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from _read_delimited(path, ",", csv.QUOTE_MINIMAL)


def _read_tsv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from _read_delimited(path, "\t", csv.QUOTE_MINIMAL if _is_quoted(path) else csv.QUOTE_NONE)


def _is_quoted(path: Path) -> bool:
    """Whether a TSV uses quotes as CSV does: read that way it has to be well-formed and rectangular."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            return len({len(fields) for fields in csv.reader(file, delimiter="\t", strict=True) if fields}) == 1
        except csv.Error:
            return False


def _read_delimited(path: Path, delimiter: str, quoting: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        header: list[str] = []
        line = 1  # a row may take several lines; its place is the first
        try:
            for fields in reader:
                place, line = f"{path}:{line}", reader.line_num + 1
                if not fields:
                    continue
                if not header:
                    header = _header(place, fields)
                elif len(fields) != len(header):
                    message = f"has {counted(len(fields), 'cell')}, the first line has {counted(len(header), 'column')}"
                    raise UserError.of(place, message)
                else:
                    yield place, dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise UserError.of(f"{path}:{line}", f"this row cannot be read: {error} (an unmatched quote?)") from None
        if not header:
            raise UserError.of(str(path), "is empty; expected a first line with the columns' names")


def _header(place: str, names: list[str]) -> list[str]:
    for name in names:
        if name and names.count(name) > 1:
            raise UserError.of(place, f"the column {name!r} stands there twice")
    return names


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1000):
            for cells in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", cells
    except pa.ArrowInvalid as error:
        raise UserError.of(str(path), f"is not a Parquet file: {str(error).splitlines()[0]}") from None


READERS: dict[str, Callable[[Path], Iterator[tuple[str, dict[str, Any]]]]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}


@dataclass
class Findings:
    """What is wrong with a split's rows: like faults are told once, with their number and first place."""

    faults: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(self, place: str, message: str) -> None:
        first, number = self.faults.get(message, (place, 0))
        self.faults[message] = (first, number + 1)

    def problems(self) -> list[Problem]:
        shown = [
            Problem(place, message + (f" (and {counted(number - 1, 'more row')} like this)" if number > 1 else ""))
            for message, (place, number) in list(self.faults.items())[:SHOWN_PER_SPLIT]
        ]
        hidden = list(self.faults.values())[SHOWN_PER_SPLIT:]
        if hidden:
            shown.append(Problem(_file_of(hidden[0][0]), f"{counted(len(hidden), 'more kind')} of fault in its rows"))
        return shown


class RowChecker:
    """Turns raw cells into checked rows, gathering what is wrong.

    Attributes:
        findings: Faults so far.
        rows: Rows seen.
        unlabelled: Rows left out because their label is one of `data.unlabelled`.
    """

    def __init__(self, name: str, task: TaskDef, *, labelled: bool = True) -> None:
        self.name, self.task, self.labelled = name, task, labelled
        self.findings = Findings()
        self.rows = 0
        self.unlabelled = 0
        self.label_index = task.label_index()
        self.ignored = {str(value) for value in task.data.unlabelled}

    def check(self, rows: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[Row]:
        """Yields the good rows; stops at a missing column, which every row would repeat."""
        for place, cells in rows:
            if self.rows == 0 and not self._has_columns(place, cells):
                return
            index = self.rows
            self.rows += 1
            row = self._row(index, place, cells)
            if row is not None:
                yield row

    def _has_columns(self, place: str, cells: dict[str, Any]) -> bool:
        columns = self.task.data.columns.model_dump(exclude_none=True)
        if not self.labelled:
            columns.pop("label", None)
        missing = {role: column for role, column in columns.items() if column not in cells}
        for role, column in missing.items():
            message = f"has no column {column!r} ({self.name}.data.columns.{role}); columns: {listed(list(cells))}"
            self.findings.add(_file_of(place), message + nearest(column, cells))
        return not missing

    def _row(self, index: int, place: str, cells: dict[str, Any]) -> Row | None:
        columns = self.task.data.columns
        text_a = self._text(place, cells, columns.text_a)
        text_b = self._text(place, cells, columns.text_b) if columns.text_b else None
        label = self._label(place, cells) if self.labelled else None
        group = cells.get(columns.group) if columns.group else None
        if columns.group and group in (None, ""):
            self.findings.add(place, f"column {columns.group!r} holds no query id")
            return None
        if text_a is None or (columns.text_b and text_b is None) or (self.labelled and label is None):
            return None
        return Row(index, text_a, text_b, label, None if group is None else str(group))

    def _text(self, place: str, cells: dict[str, Any], column: str) -> str | None:
        value = cells.get(column)
        if isinstance(value, str):
            return value
        self.findings.add(place, f"column {column!r} holds {_named(value)}, expected text")
        return None

    def _label(self, place: str, cells: dict[str, Any]) -> int | float | None:
        value = cells.get(self.task.data.columns.label)
        if self.ignored and str(value) in self.ignored:
            self.unlabelled += 1
            return None
        if self.task.type == "classification":
            key = str(value).lower() if isinstance(value, bool) else str(value)
            index = None if value is None else self.label_index.get(key)
            if index is None:
                allowed = f"{self.name}.labels: {listed(self.task.labels)}"
                self.findings.add(
                    place, f"unknown label {value!r}; allowed: {allowed}{nearest(value, self.task.labels)}"
                )
            return index
        try:
            number = float(value) if not isinstance(value, bool) and value is not None else math.nan
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) or (self.task.type == "ranking" and number < 0):
            expected = "a number" if self.task.type == "regression" else "a relevance of 0 or more"
            self.findings.add(place, f"the label is {value!r}, expected {expected}")
            return None
        return number


def _file_of(place: str) -> str:
    return place.rpartition(":")[0] or place


def _named(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


@dataclass(frozen=True)
class SplitSummary:
    """What reading a split found: rows of the source, rows left out as unlabelled, and every problem."""

    rows: int
    unlabelled: int
    problems: list[Problem]


def check_split(name: str, task: TaskDef, source: Source) -> SplitSummary:
    """Reads a whole split and reports everything that is wrong with it."""
    checker = RowChecker(name, task)
    try:
        for _ in checker.check(read_rows(source)):
            pass
    except UserError as error:
        return SplitSummary(checker.rows, checker.unlabelled, checker.findings.problems() + error.problems)
    problems = checker.findings.problems()
    if checker.rows == 0 and not problems:
        problems.append(Problem(str(source), "holds no rows"))
    elif checker.rows == checker.unlabelled and not problems:
        problems.append(
            Problem(str(source), f"holds no labelled rows ({counted(checker.rows, 'row')} without a label)")
        )
    return SplitSummary(checker.rows, checker.unlabelled, problems)
