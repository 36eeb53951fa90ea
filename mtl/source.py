"""Sources of rows: the hub, a local mirror of it, or files.

Imports neither torch nor transformers, so that invalid data is reported before they are loaded.
"""

from __future__ import annotations

import codecs
import csv
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, AnyStr

from mtl.errors import Problem, UserError, counted, first_line, listed
from mtl.files import digest
from mtl.taskdef import TaskDef

SUFFIXES = (".parquet", ".jsonl", ".csv", ".tsv")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".zip")
MAX_CELL = 1 << 24  # characters (Parquet: bytes) of one text
MAX_LINE = 4 * MAX_CELL  # characters of one line
LOOKED_AT = 100  # lines of a CSV that are read to detect its delimiter
_AT_MOST = f"at most {MAX_CELL:,} are read"
MARKS = {  # byte-order marks; UTF-32 first, as its mark begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

csv.field_size_limit(MAX_CELL)


@dataclass(frozen=True)
class Source:
    """Source of one split of one task: a local file, or a data set on the hub.

    Attributes:
        path: The local file; None for the hub.
        hub: (id, configuration, split) on the hub; None for a local file.
        encoding: Encoding of a text file; by default taken from its byte-order mark, else UTF-8.
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
    if path.suffix in COMPRESSED:
        return f"is compressed; decompress it, to one of: {listed(SUFFIXES)}"
    return "" if path.suffix in SUFFIXES else f"has an unknown type; convert it to one of: {listed(SUFFIXES)}"


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
    for suffix in SUFFIXES:
        if (folder / f"{target}{suffix}").is_file():
            return Source(path=folder / f"{target}{suffix}", encoding=data.encoding)
    if not folder.is_dir():
        place = task.place("data", "config" if data.config else "hub")
        return Absent(place, f"data: there is no directory {folder} (--data-root / hub / config)")
    found = sorted(path.stem for path in folder.iterdir() if path.suffix in SUFFIXES)
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


def read_rows(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, cells) of every row, such as ``("train.csv:12", {"sentence": …})``."""
    if source.path is None:
        for index, cells in enumerate(load_hub(source)):
            yield f"{source} row {index + 1}", cells
        return
    try:
        yield from READERS[source.path.suffix](source.path, _encoding_of(source))
    except UnicodeError:
        raise UserError([_undecodable(source)]) from None
    except OSError as error:
        raise UserError.of(str(source.path), f"cannot be read: {error.strerror or error}") from None


def count_rows(source: Source) -> int:
    """Count the rows of a file, reading no more than necessary."""
    assert source.path is not None
    if source.path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return int(pq.read_metadata(source.path).num_rows)
        except pa.ArrowInvalid as error:
            raise UserError.of(str(source.path), f"is not a Parquet file: {first_line(error)}") from None
    encoding = _encoding_of(source)
    if source.path.suffix == ".jsonl" and encoding.startswith("utf-8"):
        with source.path.open("rb") as file:
            return sum(1 for line in _lines(file) if line.strip())
    return sum(1 for _ in read_rows(source))


def _encoding_of(source: Source) -> str:
    """Encoding of a file: the one that the definition names, where "utf-8" allows for a byte-order mark."""
    assert source.path is not None
    if source.encoding is not None and codecs.lookup(source.encoding).name != "utf-8":
        return source.encoding
    marked = marked_encoding(source.path)
    return marked if source.encoding is None or marked == "utf-8-sig" else source.encoding


def marked_encoding(path: Path) -> str:
    """Encoding of a file by its byte-order mark, else UTF-8."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((encoding for mark, encoding in MARKS.items() if start.startswith(mark)), "utf-8")


def _undecodable(source: Source) -> Problem:
    """Report the first line that cannot be decoded; the reader's own error has only a position in its buffer."""
    path = source.path
    assert path is not None
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


def _lines(file: IO[AnyStr]) -> Iterator[AnyStr]:
    """Yield the lines of a file, refusing lines longer than `MAX_LINE`, which could exhaust memory."""
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise UserError.of(f"{file.name}:{number}", f"is longer than {MAX_LINE:,} characters; {_AT_MOST} of a text")
        yield line


def _read_jsonl(path: Path, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding=encoding) as file:
        for number, line in enumerate(_lines(file), 1):
            if not line.strip():
                continue
            try:
                cells = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", "nested too deeply or a number too long")
                raise UserError.of(f"{path}:{number}", f"is not valid JSON: {reason}") from None
            if not isinstance(cells, dict):
                raise UserError.of(f"{path}:{number}", "expected one JSON object per line")
            yield f"{path}:{number}", cells


def _read_csv(path: Path, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from _read_delimited(path, encoding, _delimiter(path, encoding), csv.QUOTE_MINIMAL)


def _delimiter(path: Path, encoding: str) -> str:
    """Detect the delimiter of a CSV: comma, semicolon, tab or vertical bar, in this order of preference.

    Of the delimiters that split the first row, the first one that splits every row into the same number of cells; if
    there is none, the first one that splits the first row, else the comma.
    """
    with path.open(encoding=encoding, newline="") as file:
        lines = list(itertools.islice(_lines(file), LOOKED_AT))
    cut = len(lines) == LOOKED_AT  # the last row may be incomplete
    widths = {delimiter: list(_widths(filter(str.strip, lines), delimiter)) for delimiter in ",;\t|"}
    dividing = {delimiter: found[:-1] if cut else found for delimiter, found in widths.items() if found[:1] > [1]}
    even = [delimiter for delimiter, found in dividing.items() if len(set(found)) == 1]
    return next(iter([*even, *dividing]), ",")


def _widths(lines: Iterable[str], delimiter: str) -> Iterator[int]:
    """Number of cells of each row, up to a malformed one, which is reported when the rows are read."""
    with suppress(csv.Error):
        for row in csv.reader(lines, delimiter=delimiter):
            yield len(row)


def _read_tsv(path: Path, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    quoting = csv.QUOTE_MINIMAL if _is_quoted(path, encoding) else csv.QUOTE_NONE
    yield from _read_delimited(path, encoding, "\t", quoting)


def _is_quoted(path: Path, encoding: str) -> bool:
    """Whether a TSV uses quotes as CSV does: parsed that way, it must be well-formed and rectangular.

    If quotes would join lines, but the lines are rectangular without that, the quotes are text, such as quotations that
    begin in one row and end in another.
    """
    with path.open(encoding=encoding, newline="") as file:
        try:
            rows = csv.reader(_lines(file), delimiter="\t", strict=True)
            counted = [len(fields) for fields in rows]
        except csv.Error:
            return False
        joined = rows.line_num > len(counted)
    return len(set(counted) - {0}) == 1 and not (joined and _is_even(path, encoding))


def _is_even(path: Path, encoding: str) -> bool:
    """Whether all lines of a TSV have the same number of cells, more than one, if quotes are text."""
    with path.open(encoding=encoding, newline="") as file:
        rows = csv.reader(_lines(file), delimiter="\t", quoting=csv.QUOTE_NONE)
        widths = {len(fields) for fields in rows if fields}
        return len(widths) == 1 and widths != {1}


def _read_delimited(path: Path, encoding: str, delimiter: str, quoting: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(_lines(file), delimiter=delimiter, quoting=quoting, strict=True)
        header: list[str] = []
        line = 1  # a row may span several lines; its place is the first
        blank: list[str] = []
        try:
            for fields in reader:
                place, line = f"{path}:{line}", reader.line_num + 1
                if not fields:
                    if len(header) == 1:
                        blank.append(place)
                    continue
                yield from ((earlier, {header[0]: ""}) for earlier in blank)  # in a single column, an empty cell
                blank.clear()
                if not header:
                    header = _header(place, fields, delimiter)
                elif len(fields) != len(header):
                    message = f"has {counted(len(fields), 'cell')}, the first line has {counted(len(header), 'column')}"
                    raise UserError.of(place, message)
                else:
                    yield place, dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise UserError.of(f"{path}:{line}", f"this row cannot be read: {error} (an unmatched quote?)") from None
        if not header:
            raise UserError.of(str(path), "is empty; expected a first line with the columns' names")


def _header(place: str, names: list[str], delimiter: str) -> list[str]:
    if delimiter == "\t" and len(names) == 1 and re.search("[,;|]", names[0]):
        raise UserError.of(place, "has no tab between the columns' names; a file with other delimiters is a .csv")
    _refuse_twice(place, names)
    return names


def _refuse_twice(place: str, columns: Sequence[str]) -> None:
    for name in columns:
        if name and columns.count(name) > 1:
            raise UserError.of(place, f"the column {name!r} appears twice")


def _read_parquet(path: Path, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number, schema = 0, pq.read_schema(path)
        _refuse_twice(str(path), schema.names)
        texts = [field.name for field in schema if _is_text(field.type)]
        # Texts stay dictionary-encoded until their length is known: a few bytes of a file may decode to any amount.
        for batch in pq.ParquetFile(path, read_dictionary=texts).iter_batches(batch_size=1000):
            longest = max((_longest(column) for column in batch.columns), default=0)
            if longest > MAX_CELL:
                raise UserError.of(f"{path} row {number + 1}", f"a text near here has {longest:,} bytes; {_AT_MOST}")
            rows = max(1, MAX_LINE // max(1, longest))
            for start in range(0, len(batch), rows):
                for cells in _decoded(batch.slice(start, rows)).to_pylist():
                    number += 1
                    yield f"{path} row {number}", cells
    except OverflowError as error:  # a date outside the range of Python's `datetime`
        raise UserError.of(f"{path} row {number + 1}", f"a value near here cannot be read: {error}") from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError.of(str(path), f"is not a Parquet file: {first_line(error)}") from None


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _longest(column: Any) -> int:
    """Length in bytes of the longest text of a dictionary-encoded column; 0 for other columns."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return (pc.max(pc.binary_length(column.dictionary)).as_py() or 0) if pa.types.is_dictionary(column.type) else 0


def _decoded(batch: Any) -> Any:
    import pyarrow as pa

    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


READERS: dict[str, Callable[[Path, str], Iterator[tuple[str, dict[str, Any]]]]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
