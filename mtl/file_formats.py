"""Readers of the file formats of rows: JSON lines, CSV, TSV and Parquet.

Each yields (place, cells) of every row, such as ``("train.csv:12", {"sentence": …})``.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, AnyStr

from mtl.errors import UserError, counted, first_line

SUFFIXES = (".parquet", ".jsonl", ".csv", ".tsv")
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


def suffix_of(path: Path) -> str:
    """The suffix that says how a file is read: in lower case, and `.jsonl` for `.ndjson`."""
    suffix = path.suffix.lower()
    return ".jsonl" if suffix == ".ndjson" else suffix


def marked_encoding(path: Path) -> str:
    """Encoding of a file by its byte-order mark, else UTF-8."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((encoding for mark, encoding in MARKS.items() if start.startswith(mark)), "utf-8")


def lines(file: IO[AnyStr]) -> Iterator[AnyStr]:
    """Yield the lines of a file, refusing lines longer than `MAX_LINE`, which could exhaust memory."""
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise UserError.of(f"{file.name}:{number}", f"is longer than {MAX_LINE:,} characters; {_AT_MOST} of a text")
        yield line


def _read_jsonl(path: Path, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding=encoding) as file:
        for number, line in enumerate(lines(file), 1):
            if not line.strip():
                continue
            try:
                cells = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", "nested too deeply or a number too long")
                raise UserError.of(f"{path}:{number}", f"is not valid JSON: {reason}") from None
            if not isinstance(cells, dict):
                raise UserError.of(f"{path}:{number}", "expected one JSON object per line")
            if line.count(":") > len(cells) and (key := _repeated_key(line)) is not None:
                raise UserError.of(f"{path}:{number}", f"the key {key!r} appears twice")
            yield f"{path}:{number}", cells


def _repeated_key(line: str) -> str | None:
    """A key that a line's object has twice, of which `json` keeps the last value."""
    numbers = Counter(key for key, _ in json.loads(line, object_pairs_hook=list))
    return next((key for key, number in numbers.items() if number > 1), None)


def _read_csv(path: Path, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from _read_delimited(path, encoding, _delimiter(path, encoding), csv.QUOTE_MINIMAL)


def _delimiter(path: Path, encoding: str) -> str:
    """Detect the delimiter of a CSV: comma, semicolon, tab or vertical bar, in this order of preference.

    Of the delimiters that split the first row, the first one that splits every row into the same number of cells; if
    there is none, the first one that splits the first row, else the comma.
    """
    with path.open(encoding=encoding, newline="") as file:
        first = list(itertools.islice(lines(file), LOOKED_AT))
    cut = len(first) == LOOKED_AT  # the last row may be incomplete
    widths = {delimiter: list(_widths(filter(str.strip, first), delimiter)) for delimiter in ",;\t|"}
    dividing = {delimiter: found[:-1] if cut else found for delimiter, found in widths.items() if found[:1] > [1]}
    even = [delimiter for delimiter, found in dividing.items() if len(set(found)) == 1]
    return next(iter([*even, *dividing]), ",")


def _widths(texts: Iterable[str], delimiter: str) -> Iterator[int]:
    """Number of cells of each row, up to a malformed one, which is reported when the rows are read."""
    with suppress(csv.Error):
        for row in csv.reader(texts, delimiter=delimiter):
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
            rows = csv.reader(lines(file), delimiter="\t", strict=True)
            counted = [len(fields) for fields in rows]
        except csv.Error:
            return False
        joined = rows.line_num > len(counted)
    return len(set(counted) - {0}) == 1 and not (joined and _is_even(path, encoding))


def _is_even(path: Path, encoding: str) -> bool:
    """Whether all lines of a TSV have the same number of cells, more than one, if quotes are text."""
    with path.open(encoding=encoding, newline="") as file:
        rows = csv.reader(lines(file), delimiter="\t", quoting=csv.QUOTE_NONE)
        widths = {len(fields) for fields in rows if fields}
        return len(widths) == 1 and widths != {1}


def _read_delimited(path: Path, encoding: str, delimiter: str, quoting: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(lines(file), delimiter=delimiter, quoting=quoting, strict=True)
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


def count_parquet_rows(path: Path) -> int:
    """Number of rows, from the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except pa.ArrowInvalid as error:
        raise UserError.of(str(path), f"is not a Parquet file: {first_line(error)}") from None


def parquet_class_names(path: Path, column: str) -> list[str]:
    """Names of the integers of a column, if `datasets` wrote the file and the column is a `ClassLabel`; else none."""
    import pyarrow.parquet as pq

    stored = (pq.read_schema(path).metadata or {}).get(b"huggingface", b"{}")
    try:
        feature = json.loads(stored)["info"]["features"][column]
        return [str(name) for name in feature["names"]] if feature["_type"] == "ClassLabel" else []
    except (ValueError, LookupError, TypeError):  # other metadata under that key
        return []


def read_parquet(path: Path, columns: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a Parquet file; if it has all of `columns`, only those."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number, schema = 0, pq.read_schema(path)
        _refuse_twice(str(path), schema.names)
        texts = [field.name for field in schema if _is_text(field.type)]
        needed = list(columns) if columns and set(columns) <= set(schema.names) else None
        # Texts stay dictionary-encoded until their length is known: a few bytes of a file may decode to any amount.
        for batch in pq.ParquetFile(path, read_dictionary=texts).iter_batches(batch_size=1000, columns=needed):
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


TEXT_READERS: dict[str, Callable[[Path, str], Iterator[tuple[str, dict[str, Any]]]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
