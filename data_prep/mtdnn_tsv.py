"""Reader of MT-DNN's canonical TSV files: no header, no quoting, and for rankings one line per query."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtl.errors import Problem, counted, listed, nearest

SHOWN = 5  # bad rows of a file that are reported individually; the others are counted

# Cells of a TSV row. In PremiseAndMultiHypothesis, `hypothesis` repeats; `ruid` and `label` are comma-separated lists.
CELLS = {
    "PremiseOnly": ("uid", "label", "premise"),
    "PremiseAndOneHypothesis": ("uid", "label", "premise", "hypothesis"),
    "PremiseAndMultiHypothesis": ("uid", "ruid", "label", "premise", "hypothesis"),
}


@dataclass
class Found:
    """Problems and notes of an import; a note has the tasks or places that it concerns."""

    problems: list[Problem] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def problem(self, where: object, message: str) -> None:
        self.problems.append(Problem(str(where), message))

    def note(self, where: str, message: str) -> None:
        self.notes.setdefault(message, []).append(where)

    def lines(self) -> list[str]:
        return [f"{listed(list(dict.fromkeys(where)), 40)}: {message}" for message, where in self.notes.items()]


@dataclass(frozen=True)
class Task:
    """A task that can be imported.

    Attributes:
        name: Its name.
        type: The toolkit's task type.
        data_format: A key of `CELLS`.
        values: Text of a label cell → the label that is written for it; None if labels are numbers.
        settings: The other keys of the toolkit's definition, except `data`.
        splits: The toolkit's name of each split → its TSV file.
    """

    name: str
    type: str
    data_format: str
    values: dict[str, str | int] | None
    settings: dict[str, Any]
    splits: dict[str, Path]


def is_uniform(task: Task, path: Path) -> bool:
    """Whether a TSV file has only one label, or the same label cell (for rankings, such as `1,0`) in every row."""
    column = CELLS[task.data_format].index("label")
    cells: set[bytes] = set()
    labels: set[bytes] = set()
    with path.open("rb") as file:
        for line in file:
            for cell in line.rstrip(b"\r\n").split(b"\t")[column : column + 1]:
                cells.add(cell)
                labels.update(cell.split(b",") if task.type == "ranking" else [cell])
            if len(labels) > 1 and len(cells) > 1:
                return False
    return bool(cells)


def read_tsv(task: Task, path: Path, found: Found, *, labelled: bool) -> Iterator[dict[str, Any]]:
    """Yields the rows of a TSV file, for a ranking one per hypothesis. Quotes are ordinary characters.

    Bad rows are reported in `found`: the first `SHOWN` individually, the others as a count.
    """
    uids: set[str] = set()
    bad = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").rstrip(b"\r\n")
            try:
                rows = _rows(task, line.decode().split("\t"), labelled=labelled) if line else []
            except ValueError as error:
                bad += 1
                if bad <= SHOWN:
                    undecodable = isinstance(error, UnicodeDecodeError)
                    found.problem(
                        f"{path}:{number}", "is not UTF-8 text; convert it first" if undecodable else str(error)
                    )
                continue
            if task.type == "ranking" and rows:
                if rows[0]["uid"] in uids:
                    found.note(
                        task.name, "a repeated uid gets its line number as a suffix, so that it is a query of its own"
                    )
                    rows = [{**row, "uid": f"{row['uid']}#{number}"} for row in rows]
                uids.add(rows[0]["uid"])
            yield from rows
    if bad > SHOWN:
        found.problem(path, f"{counted(bad - SHOWN, 'more bad row')}")


def _rows(task: Task, cells: list[str], *, labelled: bool) -> list[dict[str, Any]]:
    """The rows for one line of a TSV file.

    Raises:
        ValueError: The line is invalid; the message says what was found and what is expected.
    """
    names, several = CELLS[task.data_format], task.type == "ranking"
    if len(cells) <= len(names) if several else len(cells) != len(names):
        number = f"{len(names) + 1} or more" if several else f"{len(names)}"
        raise ValueError(f"has {counted(len(cells), 'cell')}, expected {number}: {', '.join(names)}{', …' * several}")
    row: dict[str, Any] = dict(zip(names, cells, strict=False))
    rows = [row]
    if several:
        hypotheses, ruids, labels = cells[len(names) - 1 :], row["ruid"].split(","), row["label"].split(",")
        if not len(hypotheses) == len(ruids) == len(labels) or not row["uid"]:
            got = f"uid {row['uid']!r}, {counted(len(ruids), 'ruid')} and {counted(len(labels), 'label')}"
            raise ValueError(
                f"has {got} for {len(hypotheses)} hypotheses; expected a uid, and a ruid and label for each"
            )
        columns = {"hypothesis": hypotheses, "ruid": ruids, "label": labels}
        rows = [row | dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row in rows:
        label = row.pop("label")
        if labelled:
            row["label"] = _label(task, label)
    return rows


def _label(task: Task, cell: str) -> str | int | float:
    if task.values is not None:
        if cell not in task.values:
            hint = nearest(cell, task.values)
            raise ValueError(f"has the unknown label {cell!r}, expected one of {listed(list(task.values))}{hint}")
        return task.values[cell]
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (task.type == "ranking" and number < 0):
        expected = "a relevance of 0 or more" if task.type == "ranking" else "a number"
        raise ValueError(f"has the label {cell!r}, expected {expected}")
    return number
