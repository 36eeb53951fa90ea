"""Rows of every format, read alike and checked once, with places a user can open."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtl.checks import SHOWN_PER_SPLIT, Row, RowChecker, check_split
from mtl.definitions import complete
from mtl.errors import Problem, UserError
from mtl.file_formats import SUFFIXES
from mtl.reading import check_data
from mtl.settings import Sourced
from mtl.source import Absent, Source, class_names, count_rows, is_missing, locate, read_rows, type_fault
from mtl.taskdef import TaskDef

PAIR = {"text_a": "first", "text_b": "second"}

# What is easily read as something else: missing values, numbers, quotes, line ends within a cell, other scripts.
TEXTS = [
    "NA",
    "null",
    "None",
    "nan",
    "-1",
    "010",
    "1e5",
    "1,5",
    "true",
    "2021-03-04",
    " spaces ",
    'a "quoted" word',
    '"all quoted"',
    "it's; a | list",
    "two\nlines",
    "windows\r\nlines",
    "tab\there",
    "comma, here",
    "ﬁne naïve 中文 😀",
    "line\u2028separator",
    "#no remark",
    "",
]
ROWS = [{"first": text, "second": f"row {row}", "label": str(row % 2)} for row, text in enumerate(TEXTS)]


def make_task(task_type: str = "classification", **more: Any) -> TaskDef:
    data: dict[str, Any] = {"hub": "owner/set", "columns": PAIR, **more.pop("data", {})}
    if task_type == "classification":
        more.setdefault("labels", ["no", "yes"])
    task, problems = complete("t", Sourced({"type": task_type, "data": data, **more}))
    assert problems == []
    assert task is not None
    return task


def delimited(rows: list[dict[str, Any]], delimiter: str, end: str = "\n") -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cells(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(Source(path=path))]


def faults(path: Path, task: TaskDef) -> list[str]:
    return [str(problem) for problem in check_split("t", task, Source(path=path)).problems]


def test_all_formats_give_the_same_rows(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.csv", delimited(ROWS, ",")),
        write(tmp_path / "a.tsv", delimited(ROWS, "\t")),
        write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
        write(tmp_path / "b.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)),
        parquet(tmp_path / "a.parquet", ROWS),
    ]
    assert {path.suffix for path in paths} == set(SUFFIXES)
    for path in paths:
        assert cells(path) == ROWS, path.name
        rows = list(RowChecker("t", make_task()).check(read_rows(Source(path=path))))
        assert rows == [Row(n, text, f"row {n}", n % 2, None) for n, text in enumerate(TEXTS)], path.name


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_nothing(suffix: str, tmp_path: Path) -> None:
    content = delimited(ROWS, "," if suffix == ".csv" else "\t", "\r\n") + "\r\n\r\n"
    assert cells(write(tmp_path / f"a{suffix}", b"\xef\xbb\xbf" + content.encode())) == ROWS


ENCODINGS = ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "gb18030"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_an_encoding_is_marked_or_named(suffix: str, encoding: str, tmp_path: Path) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in ROWS)
    content = lines if suffix == ".jsonl" else delimited(ROWS, "," if suffix == ".csv" else "\t", "\r\n")
    path = write(tmp_path / f"a{suffix}", content.encode(encoding))
    marked = not encoding.endswith(("le", "gb18030"))
    assert [cells for _, cells in read_rows(Source(path=path, encoding=None if marked else encoding))] == ROWS
    if encoding == "gb18030":
        with pytest.raises(UserError, match="is not UTF-8 text"):
            cells(path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_utf_8_that_is_named_allows_for_a_mark(suffix: str, tmp_path: Path) -> None:
    lines = delimited(ROWS, ",", "\n") if suffix == ".csv" else "".join(json.dumps(row) + "\n" for row in ROWS)
    path = write(tmp_path / f"a{suffix}", lines.encode("utf-8-sig"))
    for encoding in ("utf-8", "UTF8"):
        assert [cells for _, cells in read_rows(Source(path=path, encoding=encoding))] == ROWS
        assert count_rows(Source(path=path, encoding=encoding)) == len(ROWS)


def test_a_mark_wins_over_the_encoding_that_is_named(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):  # such as one of two files that a spreadsheet saved in another way
        path = write(tmp_path / "a.csv", delimited(ROWS, ",").encode(encoding))
        assert [cells for _, cells in read_rows(Source(path=path, encoding="cp1252"))] == ROWS


def test_the_case_of_a_suffix_is_nothing_and_ndjson_is_json_lines(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    for name, content in (("a.CSV", delimited(ROWS, ",")), ("a.JSONL", lines), ("a.ndjson", lines)):
        path = write(tmp_path / name, content)
        assert type_fault(path) == "" and cells(path) == ROWS and count_rows(Source(path=path)) == len(ROWS)


def test_a_column_that_is_not_used_need_not_be_readable(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    odd = {
        "day": pa.array([2**50], pa.timestamp("s")),
        "latin": pa.array([b"caf\xe9"]).view(pa.string()),
    }
    path = tmp_path / "a.parquet"
    for name, column in odd.items():
        pq.write_table(pa.table({"first": ["a"], "second": ["b"], "label": ["no"], name: column}), path)
        assert faults(path, make_task()) == []
    pq.write_table(pa.table({"first": ["a"], "second": odd["latin"], "label": ["no"]}), path)
    assert faults(path, make_task()) == [f"{path}: holds a text that is not UTF-8; write it anew from text that is"]


NAMED = datasets.Features(
    first=datasets.Value("string"), second=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"])
)


@pytest.mark.parametrize("hub", [False, True])
def test_classes_that_the_data_numbers_otherwise_are_told(
    hub: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = datasets.Dataset.from_dict({"first": ["a", "b"], "second": ["c", "d"], "label": [0, 1]}, features=NAMED)
    rows.to_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr(datasets, "load_dataset", lambda *words, split: rows)
    source = Source(hub=("owner/named", None, "train")) if hub else Source(path=tmp_path / "a.parquet")
    assert class_names(source, "label") == ["no", "yes"] and class_names(source, "first") == []

    def told(labels: list[Any]) -> list[str]:
        return [problem.message for problem in check_split("t", make_task(labels=labels), source).problems]

    assert told(["yes", "no"]) == [
        f"t.labels: {source} calls its labels no, yes, in this order; write them in the same order"
    ]
    assert told(["Yes", "other"]) == told(["yes", "no"])
    for labels in (["no", "yes"], ["NO", "Yes"], ["bad", "good"], [0, 1]):
        assert told(labels) == []


def test_names_of_classes_that_are_numbers_are_not_compared(tmp_path: Path) -> None:
    """Such as one to five stars, of which `class_encode_column` makes 0 to 4."""
    names = datasets.Features(first=datasets.Value("string"), label=datasets.ClassLabel(names=["1", "2", "3"]))
    rows = datasets.Dataset.from_dict({"first": ["a", "b", "c"], "label": [0, 1, 2]}, features=names)
    rows.to_parquet(tmp_path / "a.parquet")
    assert faults(tmp_path / "a.parquet", make_task(labels=[0, 1, 2], data={"columns": {"text_a": "first"}})) == []


def test_a_key_in_a_text_or_within_a_cell_is_no_column(tmp_path: Path) -> None:
    row = {"first": 'a "first": b', "second": "c", "label": "no", "more": {"first": 1, "second": {"first": 2}}}
    path = write(tmp_path / "a.jsonl", json.dumps(row) + "\n")
    assert cells(path) == [row] and faults(path, make_task()) == []


def test_an_encoding_named_in_a_definition_reaches_the_reader(tmp_path: Path) -> None:
    folder = tmp_path / "owner" / "set" / "default"
    folder.mkdir(parents=True)
    write(folder / "train.csv", "first,second,label\ncafé,x,no\n".encode("cp1252"))
    found = locate(make_task(data={"encoding": "cp1252"}), "train", str(tmp_path))
    assert isinstance(found, Source)
    assert [cells["first"] for _, cells in read_rows(found)] == ["café"]


def test_line_ends_of_all_kinds_in_one_file(tmp_path: Path) -> None:
    rows = 'first,label\r\na,no\nb,yes\r"c\r\nd",no\r\n'
    assert [row["first"] for row in cells(write(tmp_path / "a.csv", rows.encode()))] == ["a", "b", "c\r\nd"]
    lines = '{"a": 1}\r\n{"a": 2}\n{"a": 3}\r{"a": 4}'
    assert [row["a"] for row in cells(write(tmp_path / "a.jsonl", lines.encode()))] == [1, 2, 3, 4]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_csv_of_a_spreadsheet_has_other_delimiters(delimiter: str, tmp_path: Path) -> None:
    assert cells(write(tmp_path / "a.csv", delimited(ROWS, delimiter))) == ROWS


def test_the_same_of_jsonl(tmp_path: Path) -> None:
    content = "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    path = write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + content.encode())
    assert cells(path) == ROWS
    assert [place for place, _ in read_rows(Source(path=path))][:3] == [f"{path}:1", f"{path}:3", f"{path}:5"]


def test_bare_quotes_of_a_tsv_are_text(tmp_path: Path) -> None:
    raw = ['He said "no', '"well', 'five" disk', 'plain, with "both"', "'single'"]
    content = "first\tsecond\tlabel\n" + "".join(f"{text}\tx\tno\n" for text in raw)
    assert [row["first"] for row in cells(write(tmp_path / "a.tsv", content))] == raw


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_in_a_single_column_a_blank_line_between_rows_is_an_empty_cell(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{suffix}", "text\none\n\n\ntwo\n\n\n")
    assert [row["text"] for row in cells(path)] == ["one", "", "", "two"], "at the end there is no row"
    assert [place.rpartition(":")[2] for place, _ in read_rows(Source(path=path))] == ["2", "3", "4", "5"]


def test_a_line_break_in_a_single_column_of_a_tsv_is_quoted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'text\n"First\nsecond"\nplain\n"say ""hi"", ok"\n')
    assert [cells["text"] for _, cells in read_rows(Source(path=path))] == ["First\nsecond", "plain", 'say "hi", ok']


def test_a_quoted_tsv_with_blank_lines_is_read_as_quoted(tmp_path: Path) -> None:
    content = 'first\tlabel\n"a\ttab"\tno\n\n"a ""word"""\tyes\n\n'
    assert [row["first"] for row in cells(write(tmp_path / "a.tsv", content))] == ["a\ttab", 'a "word"']


def test_quotations_over_rows_of_a_tsv_are_text(tmp_path: Path) -> None:
    content = 'first\tlabel\n"One begins here\tno\nand goes on\tno\nand ends."\tyes\n"Another" one.\tno\n'
    path = write(tmp_path / "a.tsv", content.replace('"Another"', "Another"))
    assert [row["first"] for row in cells(path)] == ['"One begins here', "and goes on", 'and ends."', "Another one."]
    lines = 'first\tlabel\n"two\nlines"\tno\n"\n\nblank ones"\tyes\n'
    assert [row["first"] for row in cells(write(tmp_path / "b.tsv", lines))] == ["two\nlines", "\n\nblank ones"]


@pytest.mark.parametrize("header", ["my text, really;label", "text;label, of a kind", "a|b;label"])
def test_a_columns_name_may_hold_another_delimiter(header: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", header + "\nwell;yes\nso, so;no\nbad;no\n")
    assert list(cells(path)[1].values()) == ["so, so", "no"]
    assert list(cells(path)[0]) == header.split(";")


def test_places_are_the_first_lines_of_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"a\nb\nc",no\n\nx,yes\n"y\nz",no\n')
    assert [place for place, _ in read_rows(Source(path=path))] == [f"{path}:2", f"{path}:6", f"{path}:7"]


def test_a_column_of_a_parquet_file_may_not_stand_there_twice(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [pa.array(["a"]), pa.array([0]), pa.array([1])]
    pq.write_table(pa.Table.from_arrays(columns, names=["text", "label", "label"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet: the column 'label' appears twice"):
        list(read_rows(Source(path=tmp_path / "a.parquet")))


def test_a_date_that_python_has_not_is_told_with_its_file(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": ["a"], "day": pa.array([2**50], pa.timestamp("s"))})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet row 1: a value near here cannot be read"):
        list(read_rows(Source(path=tmp_path / "a.parquet")))


def test_parquet_rows_are_counted(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [{"text": str(row)} for row in range(2500)])
    places = [place for place, _ in read_rows(Source(path=path))]
    assert (places[0], places[-1], len(places)) == (f"{path} row 1", f"{path} row 2500", 2500)


HEAD = "first,second,label\n"
BROKEN: dict[str, tuple[str, str | bytes, str]] = {
    "too few cells": ("a.csv", HEAD + "a,b,no\na,b\n", ":3: has 2 cells, the first line has 3 columns"),
    "too many cells": ("a.csv", HEAD + "a,b,no,x\n", ":2: has 4 cells, the first line has 3 columns"),
    "one cell": ("a.tsv", "first\tsecond\na\n", ":2: has 1 cell, the first line has 2 columns"),
    "an open quote": (
        "a.csv",
        HEAD + 'a,b,no\na,b,"no\na,b,yes\n',
        ":3: this row cannot be read: unexpected end of data (an unmatched quote?)",
    ),
    "text after a quote": (
        "a.csv",
        HEAD + 'a,b,no\n"a"b,c,no\n',
        ":3: this row cannot be read: ',' expected after '\"' (an unmatched quote?)",
    ),
    "a column twice": ("a.csv", "first,label,label\n", ":1: the column 'label' appears twice"),
    "bad JSON": ("a.jsonl", '{"first": "a", "label": "no"}\n\n{"first": \n', ":3: is not valid JSON: Expecting value"),
    "a JSON key twice": (
        "a.jsonl",
        '{"first": "a", "label": "no", "first": "b"}\n',
        ":1: the key 'first' appears twice",
    ),
    "a JSON list": ("a.jsonl", '["a"]\n', ":1: expected one JSON object per line"),
    "deep JSON": (
        "a.jsonl",
        "[" * 200_000 + "\n",
        ":1: is not valid JSON: nested too deeply or a number too long",
    ),
    "a long number": (
        "a.jsonl",
        f'{{"label": {"9" * 5000}}}\n',
        ":1: is not valid JSON: nested too deeply or a number too long",
    ),
    "Latin-1 in CSV": (
        "a.csv",
        HEAD.encode() + b"x,y,no\n" * 9000 + b"caf\xe9,y,no\n",  # far beyond the reader's first buffer
        ":9002: is not UTF-8 text (byte 0xe9); convert it, or name its encoding in data.encoding",
    ),
    "Latin-1 in TSV": (
        "a.tsv",
        b"first\tlabel\ncaf\xe9\tno\n",
        ":2: is not UTF-8 text (byte 0xe9); convert it, or name its encoding in data.encoding",
    ),
    "Latin-1 in JSON": (
        "a.jsonl",
        b'{"a": 1}\n{"a": "\xfc"}\n',
        ":2: is not UTF-8 text (byte 0xfc); convert it, or name its encoding in data.encoding",
    ),
    "Latin-1 behind a mark": (
        "a.csv",
        b"\xef\xbb\xbf" + HEAD.encode() + b"caf\xe9,y,no\n",
        ": begins with the byte-order mark of utf-8-sig, but is no such text; convert it",
    ),
    "half of UTF-16": (
        "a.csv",
        HEAD.encode("utf-16")[:-1],
        ": begins with the byte-order mark of utf-16, but is no such text; convert it",
    ),
    "an empty CSV": ("a.csv", "", ": is empty; expected a first line with the columns' names"),
    "blank lines only": ("a.tsv", "\n\n", ": is empty; expected a first line with the columns' names"),
    "an empty JSONL": ("a.jsonl", "", ": holds no rows"),
    "a header only": ("a.csv", HEAD, ": holds no rows"),
    "no Parquet": ("a.parquet", "PAR1 but not", ": is not a Parquet file: "),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_told_with_the_line(case: str, tmp_path: Path) -> None:
    name, content, message = BROKEN[case]
    path = write(tmp_path / name, content)
    (problem,) = faults(path, make_task(data={"columns": {"text_a": "first"}}))
    if message.endswith(": "):
        assert problem.startswith(f"{path}{message}")
    else:
        assert problem == f"{path}{message}"


def test_an_endless_cell_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = csv.field_size_limit(100)
    try:
        (problem,) = faults(write(tmp_path / "a.csv", HEAD + f"{'x' * 200},y,no\n"), make_task())
    finally:
        csv.field_size_limit(before)
    assert problem.startswith(f"{tmp_path / 'a.csv'}:2: this row cannot be read: field larger than field limit")


def test_what_was_found_before_a_broken_row_is_told_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEAD + "a,b,maybe\na,b\n")
    assert [problem.split(": ")[0] for problem in faults(path, make_task())] == [f"{path}:2", f"{path}:3"]


def test_missing_columns_are_told_with_the_nearest_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "First,scond,label\n" + "a,b,no\n" * 3)
    assert faults(path, make_task()) == [
        f"{path}: has no column 'first' (t.data.columns.text_a); columns: First, scond, label; did you mean 'First'?",
        f"{path}: has no column 'second' (t.data.columns.text_b); columns: First, scond, label; did you mean 'scond'?",
    ]


def test_labels_need_no_column_where_none_are_wanted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "first,second\na,b\n")
    checker = RowChecker("t", make_task(), labelled=False)
    assert list(checker.check(read_rows(Source(path=path)))) == [Row(0, "a", "b", None, None)]
    assert checker.findings.problems() == []


def test_like_faults_are_told_once_with_their_number_and_first_line(tmp_path: Path) -> None:
    rows = ["a,b,no", "a,b,mabye", "a,b,mabye", "a,b,yess", "a,b,mabye", "a,b,1"]
    path = write(tmp_path / "a.csv", HEAD + "\n".join(rows))
    assert faults(path, make_task()) == [
        f"{path}:3: unknown label 'mabye'; allowed: t.labels: no, yes (and 2 more rows like this)",
        f"{path}:5: unknown label 'yess'; allowed: t.labels: no, yes; did you mean 'yes'?",
    ]


def test_a_label_column_of_texts_is_told_in_short_and_hints_are_sought_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sought: list[Any] = []

    def hint(value: Any, labels: Any) -> str:
        sought.append(value)
        return "; a hint"

    monkeypatch.setattr("mtl.checks.nearest", hint)
    path = write(tmp_path / "a.csv", HEAD + "a,b,yess\n" * 100 + f"a,b,{'long text ' * 100}\n")
    assert sought == [] and faults(path, make_task()) == [
        f"{path}:2: unknown label 'yess'; allowed: t.labels: no, yes; a hint (and 99 more rows like this)",
        f"{path}:102: unknown label 'long text long text long text long text '…; allowed: t.labels: no, yes",
    ]
    assert sought == ["yess"]


def test_many_kinds_of_fault_are_cut_short(tmp_path: Path) -> None:
    extra = 4
    labels = [f"label-{n}" for n in range(SHOWN_PER_SPLIT + extra)]
    path = write(tmp_path / "a.csv", HEAD + "\n".join(f"a,b,{label}" for label in labels))
    problems = faults(path, make_task())
    assert len(problems) == SHOWN_PER_SPLIT + 1
    assert problems[-1] == f"{path}: {extra} more kinds of problem in its rows"


# Type, label cell, expected label; None where it is a fault.
LABELS: list[tuple[str, Any, int | float | None]] = [
    ("classification", "no", 0),
    ("classification", "yes", 1),
    ("classification", 1, 1),
    ("classification", "1", 1),
    ("classification", 2, None),
    ("classification", -1, None),
    ("classification", "No", None),
    ("classification", 1.5, None),
    ("classification", None, None),
    ("classification", "", None),
    ("classification", [1], None),
    ("regression", 2, 2.0),
    ("regression", "-2.5e-1", -0.25),
    ("regression", "two", None),
    ("regression", "", None),
    ("regression", "nan", None),
    ("regression", "inf", None),
    ("regression", None, None),
    ("regression", True, None),
    ("regression", 10**400, None),
    ("regression", [2], None),
    ("ranking", 0, 0.0),
    ("ranking", "3", 3.0),
    ("ranking", -1, None),
    ("ranking", "relevant", None),
    ("ranking", 1e30, None),
    ("regression", "1e39", None),
    ("regression", -1e18, -1e18),
    ("regression", " 5. ", 5.0),
    ("regression", "1_0", None),
    ("regression", "１２", None),
]


@pytest.mark.parametrize(("task_type", "cell", "label"), LABELS, ids=[f"{t} {c!r:.20}" for t, c, _ in LABELS])
def test_label_cells(task_type: str, cell: Any, label: int | float | None) -> None:
    columns = {**PAIR, "group": "id"} if task_type == "ranking" else PAIR
    checker = RowChecker("t", make_task(task_type, data={"columns": columns}))
    rows = list(checker.check(iter([("f:1", {"first": "a", "second": "b", "label": cell, "id": 7})])))
    assert [row.label for row in rows] == ([] if label is None else [label])
    problems = checker.findings.problems()
    assert [problem.where for problem in problems] == (["f:1"] if label is None else [])
    assert all(repr(cell) in problem.message for problem in problems)


def test_true_and_false(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"first": "a", "second": "b", "label": true}\n')
    for labels in ([False, True], ["False", "True"], ["FALSE", "TRUE"]):
        checker = RowChecker("t", make_task(labels=labels))
        assert [row.label for row in checker.read(Source(path=path))] == [1]
    (problem,) = faults(path, make_task())
    assert problem.endswith("the data holds true and false: as labels, write [false, true]")


def test_queries_in_which_any_order_is_right_are_told(tmp_path: Path) -> None:
    relevance = {"one": [1], "same": [2, 2], "none": [0, 0], "sorted": [0, 1, 2]}
    rows = [
        {"first": query, "second": str(row), "query": query, "label": value}
        for query, values in relevance.items()
        for row, value in enumerate(values)
    ]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    summary = check_split("t", make_task("ranking", data={"columns": PAIR | {"group": "query"}}), Source(path=path))
    assert (summary.facts["queries_without_relevant"], summary.facts["queries_of_equals"]) == (1, 2)
    assert "2 of 4 queries with only one candidate, or equally relevant ones: metrics count any order as perfect" in (
        list(summary.remarks())
    )


def test_no_label_is_not_the_class_named_none() -> None:
    checker = RowChecker("t", make_task(labels=["None", "Some"]))
    assert list(checker.check(iter([("f:1", {"first": "a", "second": "b", "label": None})]))) == []
    assert checker.findings.problems()[0].message.startswith("unknown label None")


@pytest.mark.parametrize(
    ("cell", "shown"),
    [(5, "int '5', expected text (in quotes)"), (None, "nothing, expected text"), ([], "list '[]', expected text")],
)
def test_text_has_to_be_text(cell: Any, shown: str) -> None:
    checker = RowChecker("t", make_task())
    rows = checker.check(iter([("f:1", {"first": "a", "second": cell, "label": "no"})]))
    assert list(rows) == []
    assert checker.findings.problems() == [Problem("f:1", f"column 'second' holds {shown}")]


def test_a_row_without_a_query_is_told() -> None:
    checker = RowChecker("t", make_task("ranking", data={"columns": {**PAIR, "group": "id"}}))
    row = {"first": "a", "second": "b", "label": 1}
    rows = list(
        checker.check(iter((f"f:{n}", {**row, "id": cell}) for n, cell in enumerate(["", None, math.nan, 0], 1)))
    )
    assert rows == [Row(3, "a", "b", 1.0, "0")]
    message = "column 'id' holds no query id (and 2 more rows like this)"
    assert checker.findings.problems() == [Problem("f:1", message)]


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_rows_without_a_label_can_be_declared_unlabelled(kind: str, tmp_path: Path) -> None:
    row = {"first": "a", "second": "b"}
    rows = [row, {**row, "label": 0}, {**row, "label": None}]
    path = write(tmp_path / "a.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    assert len(faults(path, make_task(kind))) == 1
    task = make_task(kind, data={"unlabelled": [None]})
    summary = check_split("t", task, Source(path=path))
    assert (summary.rows, summary.unlabelled, summary.problems) == (3, 2, [])
    unlabelled = write(tmp_path / "c.csv", "first,second\na,b\n")
    assert "no column 'label'" in faults(unlabelled, task)[0], "where all rows have the same columns"
    table = write(tmp_path / "a.csv", HEAD + "a,b,0\nc,d,\n")
    assert check_split("t", task, Source(path=table)).unlabelled == 1
    frame = pa.table({"first": ["a", "c"], "second": ["b", "d"], "label": [1.0, math.nan]})
    pq.write_table(frame, tmp_path / "a.parquet")
    summary = check_split("t", task, Source(path=tmp_path / "a.parquet"))
    assert (summary.rows, summary.unlabelled, summary.problems) == (2, 1, [])


def test_a_class_may_be_named_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEAD + "a,b,None\nc,d,Some\ne,f,\n")
    task = make_task(labels=["None", "Some"], data={"unlabelled": [None]})
    assert [row.label for row in RowChecker("t", task).check(read_rows(Source(path=path)))] == [0, 1]


@pytest.mark.parametrize(
    ("labels", "cell", "told"),
    [
        (["n\u00e9", "ja"], "ne\u0301", "a label differs only in its Unicode normalization: convert both to NFC"),
        ([1, 2, 10], "01", "if it is a label, write it in quotes in the definition: '01'"),
        ([1000, 2], "1e3", "if it is a label, write it in quotes in the definition: '1e3'"),
        (["yes", "no"], "yess", "did you mean 'yes'?"),
    ],
)
def test_an_unknown_label_that_is_nearly_one(labels: list[Any], cell: str, told: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEAD + f"a,b,{cell}\n")
    (problem,) = faults(path, make_task(labels=labels))
    assert problem.endswith(told)


def test_unlabelled_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEAD + "a,b,-1\nc,d,no\ne,f,-1\ng,h,?\n")
    task = make_task(data={"unlabelled": [-1, "?"]})
    rows = list(RowChecker("t", task).check(read_rows(Source(path=path))))
    assert rows == [Row(1, "c", "d", 0, None)]
    summary = check_split("t", task, Source(path=path))
    assert (summary.rows, summary.unlabelled, summary.problems) == (4, 3, [])


def test_unlabelled_numbers_are_compared_as_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEAD + "a,b,-1.0\nc,d,2.5\ne,f,-1\n")
    task = make_task("regression", data={"unlabelled": [-1]})
    assert [row.label for row in RowChecker("t", task).check(read_rows(Source(path=path)))] == [2.5]
    lines = write(tmp_path / "a.jsonl", '{"first": "a", "second": "b", "label": -1.0}\n')
    assert list(RowChecker("t", task).check(read_rows(Source(path=lines)))) == []
    truth = write(tmp_path / "b.jsonl", '{"first": "a", "second": "b", "label": true}\n')
    (problem,) = faults(truth, make_task("regression", data={"unlabelled": [1]}))
    assert "the label is True" in problem, "a truth value is no number"


def test_a_split_without_any_label_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEAD + "a,b,-1\nc,d,-1\n")
    summary = check_split("t", make_task(data={"unlabelled": [-1]}), Source(path=path))
    assert summary.problems == [Problem(str(path), "holds no labelled rows (2 rows without a label)")]


def test_rows_of_the_mirror_are_found_in_any_format(tmp_path: Path) -> None:
    task = make_task(data={"hub": "owner/set", "config": "c", "splits": {"train": "train", "validation": "dev"}})
    folder = tmp_path / "owner" / "set" / "c"
    folder.mkdir(parents=True)
    write(folder / "train.csv", "")
    write(folder / "dev.tsv", "")
    write(folder / "notes.txt", "")
    assert locate(task, "train", str(tmp_path)) == Source(path=folder / "train.csv")
    assert locate(task, "validation", str(tmp_path)) == Source(path=folder / "dev.tsv")
    message = f"data.splits.test: {folder} has no test.{{parquet,jsonl,csv,tsv}}; splits there: dev, train"
    assert locate(task, "test", str(tmp_path)) == Absent("", message)
    elsewhere = tmp_path / "elsewhere"
    message = f"data: there is no directory {elsewhere / 'owner' / 'set' / 'c'} (--data-root / hub / config)"
    assert locate(task, "train", str(elsewhere)) == Absent("", message)


def test_a_hub_set_without_configuration_lies_in_default(tmp_path: Path) -> None:
    (tmp_path / "owner" / "set" / "default").mkdir(parents=True)
    path = write(tmp_path / "owner" / "set" / "default" / "train.jsonl", "")
    assert locate(make_task(), "train", str(tmp_path)) == Source(path=path)


def test_without_a_mirror_the_hub_is_named_but_not_asked() -> None:
    found = locate(make_task(data={"config": "c", "splits": {"train": "t", "validation": "v"}}), "validation", None)
    assert found == Source(hub=("owner/set", "c", "v"))
    assert str(found) == "owner/set/c/v"


def test_a_set_on_the_hub_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[Any, ...]] = []

    def load(*words: Any, split: str) -> datasets.Dataset:
        loaded.append((*words, split))
        return datasets.Dataset.from_dict({"first": ["a"], "second": ["b"], "label": [1]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = Source(hub=("owner/only-here", None, "train"))
    rows = list(read_rows(source))
    assert rows == [("owner/only-here/train row 1", {"first": "a", "second": "b", "label": 1})]
    assert rows == list(read_rows(source)) and source.fingerprint() == source.fingerprint()
    assert loaded == [("owner/only-here", None, "train")]


def test_a_further_split_that_the_hub_lacks_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_dict({"first": ["a"], "second": ["b"], "label": [1]})

    def load(*words: Any, split: str) -> datasets.Dataset:
        if split == "gone":
            raise ValueError("Unknown split \"gone\". Should be one of ['train', 'validation'].")
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load)
    splits = {"train": "train", "validation": "validation", "more": "validation", "test": "gone"}
    task = make_task(data={"hub": "owner/two-splits", "splits": splits})
    found = check_data({"t": task}, None)
    assert list(found.sources["t"]) == ["train", "validation", "more"] and found.problems == []
    assert "t: no test split here; it is not evaluated" in found.notes
    (problem,) = check_data({"t": task}, None, ["test"]).problems
    assert problem.message.startswith("the hub has no such split: Unknown split")
    assert is_missing(locate(task, "test", None)) and not is_missing(locate(task, "more", None))


def test_what_else_to_do_with_a_path(tmp_path: Path) -> None:
    assert type_fault(tmp_path / "a.csv") == ""
    assert type_fault(tmp_path / "a.csv.gz").startswith("is compressed; decompress it")
    assert type_fault(tmp_path) == f"is a directory; name a file: {', '.join(SUFFIXES)}"
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"a": [1]})}).save_to_disk(tmp_path / "saved")
    for folder in (tmp_path / "saved", tmp_path / "saved" / "train"):
        assert type_fault(folder) == "is a directory that save_to_disk wrote; make a file of each split with to_parquet"


def test_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    good, odd = write(tmp_path / "a.csv", ""), write(tmp_path / "a.xlsx", "")
    files = {"train": str(good), "validation": str(tmp_path / "missing.csv"), "odd": str(odd)}
    task = make_task(data={"hub": None, "files": files})
    assert locate(task, "train", None) == Source(path=good)
    missing = Problem("", f"data.files.validation: there is no file {files['validation']}")
    assert locate(task, "validation", None) == missing
    unknown = f"data.files.odd: {odd} has an unknown type; convert it to one of: {', '.join(SUFFIXES)}"
    assert locate(task, "odd", None) == Problem("", unknown)
    told = Absent("--split", "data.files has no 'test'; it has: train, validation, odd")
    assert locate(task, "test", None) == told
    found = check_data({"t": task}, None).problems
    assert Problem("", f"t.{unknown}") in found, "not only that it is not evaluated"


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.csv", "x"), write(tmp_path / "b.csv", "x")
    before = Source(path=first).fingerprint()
    assert before == Source(path=second).fingerprint()
    write(first, "y")
    assert Source(path=first).fingerprint() != before


def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "a.csv"
    folder.mkdir()
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        cells(folder)
