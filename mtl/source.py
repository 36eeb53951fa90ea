"""Sources of rows: the hub, a local mirror of it, or files.

Imports neither torch nor transformers, so that invalid data is reported before they are loaded.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl.errors import Problem, UserError, first_line, listed
from mtl.file_formats import (
    SUFFIXES,
    TEXT_READERS,
    count_parquet_rows,
    lines,
    marked_encoding,
    parquet_class_names,
    read_parquet,
    suffix_of,
)
from mtl.files import digest
from mtl.taskdef import TaskDef

COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".zip")


@dataclass(frozen=True)
class Source:
    """Source of one split of one task: a local file, or a data set on the hub.

    Attributes:
        path: The local file; None for the hub.
        hub: (id, configuration, split) on the hub; None for a local file.
        encoding: Encoding of a text file without a byte-order mark; by default UTF-8.
    """

    path: Path | None = None
    hub: tuple[str, str | None, str] | None = None
    encoding: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.path else "/".join(part for part in self.hub or () if part)

    def fingerprint(self) -> str:
        """Digest of the content: SHA-256 of a file, or the fingerprint that `datasets` gives a hub data set."""
        if self.path is not None:
            return digest(self.path)
        return str(load_hub(self)._fingerprint)


class Absent(Problem):
    """The data of a task has no such split, which only matters where one is needed."""


def type_fault(path: Path) -> str:
    """Explain why rows cannot be read from a path of this type, and what to do; empty if they can."""
    if path.is_dir():
        saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
        how = "make a file of each split with to_parquet" if saved else f"name a file: {listed(SUFFIXES)}"
        return f"is a directory{' that save_to_disk wrote' if saved else ''}; {how}"
    if path.suffix.lower() in COMPRESSED:
        return f"is compressed; decompress it, to one of: {listed(SUFFIXES)}"
    return "" if suffix_of(path) in SUFFIXES else f"has an unknown type; convert it to one of: {listed(SUFFIXES)}"


def locate(task: TaskDef, split: str, data_root: str | None) -> Source | Problem:
    """Locate a split's rows without reading them.

    Args:
        task: The task.
        split: Our name of the split, or the data's own name of it.
        data_root: Local mirror of the hub, or None for the hub itself.

    Returns:
        The source, or a problem whose message begins with the key of the definition, `Absent` unless it is one with a
        file that the definition names. The hub is not asked whether it has the split; see `is_missing`.
    """
    data = task.data
    target = data.splits.get(split, split)
    if data.files is not None:
        if target not in data.files:
            return Absent("--split", f"data.files has no {split!r}; it has: {listed(list(data.files))}")
        path, place = Path(data.files[target]), task.place("data", "files", target)
        if fault := type_fault(path):
            return Problem(place, f"data.files.{target}: {path} {fault}")
        if not path.is_file():
            return Problem(place, f"data.files.{target}: there is no file {path}")
        return Source(path=path, encoding=data.encoding)
    assert data.hub is not None
    if data_root is None:
        return Source(hub=(data.hub, data.config, target))
    folder = Path(data_root) / data.hub / (data.config or "default")
    if not folder.is_dir():
        place = task.place("data", "config" if data.config else "hub")
        return Absent(place, f"data: there is no directory {folder} (--data-root / hub / config)")
    files = sorted(path for path in folder.iterdir() if suffix_of(path) in SUFFIXES and path.is_file())
    ranked = sorted(files, key=lambda path: SUFFIXES.index(suffix_of(path)))
    for path in ranked:
        if path.stem == target:
            return Source(path=path, encoding=data.encoding)
    found = sorted({path.stem for path in files})
    message = f"data.splits.{split}: {folder} has no {target}.{{parquet,jsonl,csv,tsv}}; splits there: {listed(found)}"
    return Absent(task.place("data", "splits", split), message)


def is_missing(found: Source | Problem) -> bool:
    """Whether the data `locate` looked at has no such split; a data set on the hub is loaded to find out."""
    if isinstance(found, Problem) or found.hub is None:
        return isinstance(found, Absent)
    try:
        load_hub(found)
    except NoSuchSplitError:
        return True
    except UserError:  # reading the rows will report it
        pass
    return False


class NoSuchSplitError(UserError):
    """A data set on the hub lacks the split."""


@functools.cache  # so that a process sees a single revision
def load_hub(source: Source) -> Any:
    """Download one split of a hub data set, or load it from the local cache, as a `datasets.Dataset`.

    Raises:
        NoSuchSplitError: The data set has no such split.
        UserError: It cannot be loaded.
    """
    import datasets

    assert source.hub is not None
    hub, config, split = source.hub
    try:
        return datasets.load_dataset(hub, config, split=split)
    except Exception as error:  # the library raises some thirty unrelated types, from HTTP to parsing
        if isinstance(error, ValueError) and str(error).startswith("Unknown split"):
            raise NoSuchSplitError.of(str(source), f"the hub has no such split: {first_line(error)}") from error
        message = f"cannot be loaded from the hub: {first_line(error)} (offline? --data-root DIR reads a local mirror)"
        raise UserError.of(str(source), message) from error


def read_rows(source: Source, columns: Collection[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, cells) of every row, such as ``("train.csv:12", {"sentence": …})``.

    Args:
        source: Where the rows are.
        columns: The columns that are needed. If all are there, others may be left out, so that what they hold need not
            be readable; by default all columns.
    """
    if source.path is None:
        rows = load_hub(source)
        if columns and set(columns) <= set(rows.column_names):
            rows = rows.select_columns(list(columns))
        for index, cells in enumerate(rows):
            yield f"{source} row {index + 1}", cells
        return
    try:
        if suffix_of(source.path) == ".parquet":
            yield from read_parquet(source.path, columns)
        else:
            yield from TEXT_READERS[suffix_of(source.path)](source.path, _encoding_of(source))
    except UnicodeError:
        raise UserError([_undecodable(source)]) from None
    except OSError as error:
        raise UserError.of(str(source.path), f"cannot be read: {error.strerror or error}") from None


def class_names(source: Source, column: str) -> list[str]:
    """Names that the data itself gives to the integers of a column (`ClassLabel` of `datasets`); else none."""
    if source.path is None:
        return list(getattr(load_hub(source).features.get(column), "names", None) or [])
    return parquet_class_names(source.path, column) if suffix_of(source.path) == ".parquet" else []


def count_rows(source: Source) -> int:
    """Count the rows of a file, reading no more than necessary."""
    assert source.path is not None
    if suffix_of(source.path) == ".parquet":
        return count_parquet_rows(source.path)
    encoding = _encoding_of(source)
    if suffix_of(source.path) == ".jsonl" and encoding.startswith("utf-8"):
        with source.path.open("rb") as file:
            return sum(1 for line in lines(file) if line.strip())
    return sum(1 for _ in read_rows(source))


def _encoding_of(source: Source) -> str:
    """Encoding of a file: that of its byte-order mark, else the one that the definition names, else UTF-8."""
    assert source.path is not None
    marked = marked_encoding(source.path)
    return source.encoding if source.encoding is not None and marked == "utf-8" else marked


def _undecodable(source: Source) -> Problem:
    """Report the first line that cannot be decoded; the reader's own error has only a position in its buffer."""
    path = source.path
    assert path is not None
    if suffix_of(path) == ".parquet":
        return Problem(str(path), "holds a text that is not UTF-8; write it anew from text that is")
    if (marked := marked_encoding(path)) != "utf-8":
        return Problem(str(path), f"begins with the byte-order mark of {marked}, but is no such text; convert it")
    encoding = _encoding_of(source)
    if encoding == "utf-8":
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    what = f"is not UTF-8 text (byte {line[error.start]:#04x})"
                    return Problem(f"{path}:{number}", f"{what}; convert it, or name its encoding in data.encoding")
    return Problem(str(path), f"is not {encoding} text; name its encoding in data.encoding")
