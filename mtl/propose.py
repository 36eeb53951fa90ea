"""`init`: a task definition proposed for a data file, every guess explained by a comment behind it."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from numbers import Number
from pathlib import Path
from typing import Any

import yaml

from mtl.errors import UserError, counted, listed
from mtl.source import SUFFIXES, Source, read_rows
from mtl.taskdef import NAME

LIMIT = 20_000  # rows read of a file
FEW_INTEGERS = 20  # different whole numbers up to which they are classes
FEW_VALUES = 50  # different values up to which a column without a well-known name may be the label
LONGEST_LABEL = 200  # characters
HIGHEST_GRADE = 10  # of a relevance
MAJORITY = 0.7  # share of one label above which accuracy misleads
COUNTED_LABELS = 10  # labels up to which the rows of each are told

LABEL_NAMES = """
    label labels gold_label label_id label_name label_text gold stance target class category sentiment emotion intent
    polarity stars rating score similarity similarity_score relatedness_score relevance relevance_score relevancy
    is_relevant rel grade is_duplicate topic y"""
PAIR_NAMES = """
    premise/hypothesis question/passage question/context question/paragraph question/answer question/sentence
    question/document question/reply query/passage query/document query/doc query/candidate query/answer query/response
    query/paragraph query/title query/sentence query/text claim/evidence context/response"""
TWINS = (("1", "2"), ("a", "b"), ("left", "right"))
SINGLE = re.compile(r"(.+_)?(text|sentence|review|tweet|comment|content|document|message|utterance|post|body|headline)")
IDENTIFIER = re.compile(
    r"(.+_)?(ids?|idx|index|uuid|guid|key|url|hash|date|time|timestamp|lang|language|split|file|user)"
)
GROUP = re.compile(
    r"(q|query|question|group|topic|search|prompt|claim|request)_?(id|idx|index|number)|group|query|question"
)
TRAIN = re.compile(r"(?i)(?<![a-z0-9])(training|train)(?![a-z0-9])")
HELD_OUT = ("validation", "valid", "val", "dev", "test")
SENTENCE = re.compile(r"[^\W\d_]\S*\s+\S*[^\W\d_]|[^\x00-\x7f]{4}")  # two words, or a script that writes no spaces
MISSING = ("", "-")
MISSING_NUMBERS = ("na", "n/a", "nan", "null", "none", "?")  # between numbers only
PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
METRICS_OF = {"classification": "accuracy, macro_f1", "regression": "pearson, spearman", "ranking": "map, mrr, ndcg@10"}


@dataclass
class Column:
    """What the rows hold in one column."""

    name: str
    keys: list[int | None] = field(default_factory=list)  # a hash of each row's value
    values: Counter[str] = field(default_factory=Counter)  # as a definition spells them; not the nested and long ones
    missing: Counter[str] = field(default_factory=Counter)  # spellings of "no value"
    characters: int = 0
    sentences: int = 0  # rows of several words
    words: int = 0  # rows of one word
    gap: str = ""  # place of the first row that holds no text

    def add(self, place: str, value: Any) -> None:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        empty = value is None or text.strip() in MISSING or (isinstance(value, float) and math.isnan(value))
        self.keys.append(None if empty else hash(text))
        if empty:
            self.missing[text] += 1
        elif isinstance(value, (str, Number)) and len(text) <= LONGEST_LABEL:
            self.values[text] += 1
        if isinstance(value, str):
            self.characters += len(value)
            self.sentences += SENTENCE.search(value) is not None
            self.words += value.isalpha()
        else:
            self.gap = self.gap or place

    @property
    def filled(self) -> int:
        return len(self.keys) - self.missing.total()

    @property
    def distinct(self) -> int:
        return len(set(self.keys) - {None})

    @property
    def may_be_label(self) -> bool:
        return 0 < self.filled == self.values.total()

    @property
    def canonical(self) -> str:
        """The name in lower case, its words joined by underscores."""
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.name.strip()).lower()
        return re.sub(r"\W+", "_", words).strip("_")

    def numbers(self) -> dict[str, float]:
        """The number that each value is, empty if there is one that is none."""
        found = as_numbers(text for text in self.values if text.lower() not in MISSING_NUMBERS)
        return found if self.may_be_label else {}

    def __str__(self) -> str:
        what = "text" if self.sentences else "numbers" if self.numbers() else f"{self.distinct:,} different values"
        return f"{word(self.name)} ({what if self.filled else 'empty'})"


Columns = dict[str, Column]  # by name, or by role as in `taskdef.Columns`


class Table:
    """The first rows of a file; `more` tells whether there are others."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.more = path, 0, False
        self.columns: Columns = {}
        for place, cells in read_rows(Source(path=path)):
            if self.rows == LIMIT:
                self.more = True
                break
            self.columns = self.columns or {name: Column(name) for name in cells}  # the first row has to have them all
            for name, column in self.columns.items():
                column.add(place, cells.get(name))
            self.rows += 1

    def no_identifiers(self) -> list[Column]:
        return [column for column in self.columns.values() if not IDENTIFIER.fullmatch(column.canonical)]

    def refuse(self, message: str) -> UserError:
        return UserError.of(str(self.path), message)

    def lacks(self, what: str, name: str) -> UserError:
        columns = listed(list(self.columns.values()))
        return self.refuse(f"has no column that {what}; columns: {columns}; name the right one {name!r}")


def propose(path: Path) -> str:
    """Proposes a task definition, YAML that loads as it is, from the first `LIMIT` rows of a data file.

    - Label: the first of `LABEL_NAMES` that is a column; else the column with the fewest different values (2 to
      `FEW_VALUES`, each in two rows on average) that is no text; else a column of fractions.
    - Texts: a pair of `PAIR_NAMES` or of names that differ in their ending (`TWINS`); else the longest column with a
      `SINGLE` name; else the one or two longest columns of several words.
    - Type: ranking for a pair whose `GROUP` column gathers several candidates of relevance 0, 1, …; regression for
      fractions and for more than `FEW_INTEGERS` whole numbers; else classification.
    - Validation: a file named as a `TRAIN` file beside it, but for a word of `HELD_OUT`; else the file itself.

    Raises:
        UserError: The file can't be read, or shows no texts or no labels.
    """
    path = Path(os.path.abspath(path))  # links keep their names
    if path.suffix not in SUFFIXES:
        raise UserError.of(str(path), f"is of an unknown type; convert it to one of: {listed(SUFFIXES)}")
    if not path.is_file():
        raise UserError.of(str(path), "there is no such file; name a csv, tsv, jsonl or parquet file")
    table = Table(path)
    if not table.rows:
        raise table.refuse("holds no rows; expected one row for each example")
    kind, columns = _guess(table)
    return "\n".join(_lines(table, kind, columns, *_held_out(path, kind, columns))) + "\n"


def _guess(table: Table) -> tuple[str, Columns]:
    named = {column.canonical: column for column in reversed(table.columns.values()) if column.may_be_label}
    label = next((named[name] for name in LABEL_NAMES.split() if name in named), None)
    texts = _texts(table, label)
    label = label or _unnamed_label(table, texts)
    for column in texts:
        if column.gap:
            raise UserError.of(
                column.gap, f"column {column.name!r} holds no text here; give such rows a text or drop them"
            )
    _check_label(table, label)
    group = _group(table, texts, label)
    if group and not _varied(group, texts[1]):
        texts.reverse()
    numbers = label.numbers()
    few = len(numbers) <= min(FEW_INTEGERS, max(label.filled / 2, 3)) and all(map(float.is_integer, numbers.values()))
    kind = "ranking" if group else "regression" if numbers and not few else "classification"
    columns = dict(zip(("text_a", "text_b"), texts, strict=False)) | {"label": label}
    return kind, columns | ({"group": group} if group else {})


def _texts(table: Table, label: Column | None) -> list[Column]:
    texts = [c for c in table.no_identifiers() if c is not label and 2 * max(c.sentences, c.words) > c.filled > 0]
    named = {column.canonical: column for column in reversed(texts)}
    pairs = [
        (name, name.removesuffix(one) + two) for one, two in TWINS for name in reversed(named) if name.endswith(one)
    ]
    for one, two in [*pairs, *(pair.split("/") for pair in PAIR_NAMES.split())]:
        if one in named and two in named:
            return [named[one], named[two]]
    single = [column for column in texts if SINGLE.fullmatch(column.canonical)]
    several = [c for c in texts if 2 * c.sentences > c.filled and not c.gap and (label or 2 * c.distinct > table.rows)]
    found = single or several or [column for column in texts if 2 * column.distinct > table.rows]
    if not found:
        raise table.lacks("reads as text", "text")
    found = sorted(found, key=lambda column: column.characters, reverse=True)[: 1 if single or not several else 2]
    return sorted(found, key=texts.index)


def _unnamed_label(table: Table, texts: list[Column]) -> Column:
    others = [column for column in table.no_identifiers() if column not in texts]
    few = [c for c in others if c.may_be_label and 2 <= c.distinct <= min(FEW_VALUES, c.filled / 2)]
    fractions = [c for c in others if not all(map(float.is_integer, c.numbers().values()))]
    if not few and not fractions:
        raise table.lacks("can be the label", "label")
    return min(few or fractions[:1], key=lambda column: column.distinct)


def _check_label(table: Table, label: Column) -> None:
    numbers, rows = label.numbers(), f"{'the first ' if table.more else ''}{counted(label.filled, 'row')}"
    where, counting = f"(column {label.name!r})", list(table.columns) == list(map(str, range(len(table.columns))))
    if table.path.suffix in (".csv", ".tsv") and label.name in label.values and not counting:
        raise table.refuse(
            f"has the label {label.name!r} {where}; the first line, and no other, holds the columns' names"
        )
    if label.distinct < 2:
        sort = "; shuffle the rows if they are sorted by label" if table.more else ""
        raise table.refuse(
            f"has the label {next(iter(label.values))!r} only, in {rows} {where}; expected two or more{sort}"
        )
    if not numbers and label.distinct > max(label.filled / 2, 3):
        many = f"has {label.distinct:,} different labels in {rows} {where}, too many to learn"
        raise table.refuse(f"{many}; name the column that holds classes or numbers 'label'")
    twice = sorted(text for text in numbers if sum(n == numbers[text] for n in numbers.values()) > 1)
    if twice and len(numbers) <= FEW_INTEGERS and all(map(float.is_integer, numbers.values())):
        raise table.refuse(f"spells one label in several ways, {listed(twice)} {where}; write each label in one way")


def _group(table: Table, texts: list[Column], label: Column) -> Column | None:
    """The column of query ids, if the rows are candidates of queries with relevances."""
    grades = set(label.numbers().values())
    if len(texts) < 2 or len(grades) < 2 or not all(n.is_integer() and 0 <= n <= HIGHEST_GRADE for n in grades):
        return None
    columns = [c for c in table.columns.values() if GROUP.fullmatch(c.canonical) and c is not label and not c.missing]
    for group in sorted(columns, key=lambda column: column in texts):
        if max(_varied(group, text) for text in texts) >= 0.75 * group.distinct and _varied(group, label):
            return group
    return None


def _varied(group: Column, column: Column) -> int:
    """Number of groups in which a column has several values."""
    pairs = set(zip(group.keys, column.keys, strict=True))
    return sum(number > 1 for number in Counter(key for key, _ in pairs).values())


def _held_out(path: Path, kind: str, columns: Columns) -> tuple[Table | None, str]:
    """The first fitting file of held-out rows beside a `train` file, and a remark on those that do not fit."""
    remark = ""
    for name in HELD_OUT if TRAIN.search(path.stem) else ():
        beside = path.with_name(TRAIN.sub(name, path.stem, count=1) + path.suffix)
        if beside.is_file():
            try:
                misfit = _misfit(table := Table(beside), kind, columns)
            except UserError as error:
                misfit = f"can't be read ({word(error.problems[0].message)})"
            if not misfit:
                return table, ""
            remark += f"{word(beside.name)} beside it {misfit}; "
    return None, remark


def _misfit(table: Table, kind: str, columns: Columns) -> str:
    for role, column in columns.items():
        other = table.columns.get(column.name)
        if other is None or (role.startswith("text") and other.gap) or (role == "group" and other.missing):
            return f"has no {word(column.name)}{' in some rows' if other else ''}"
    label, known = table.columns[columns["label"].name], columns["label"]
    numbers = label.numbers().values()
    fits = label.values.keys() & known.values.keys() if kind == "classification" else numbers
    return "" if fits and label.may_be_label and (kind != "ranking" or min(numbers) >= 0) else "holds other labels"


def _lines(table: Table, kind: str, columns: Columns, held_out: Table | None, remark: str) -> Iterator[str]:
    path, label, numbers = table.path, columns["label"], columns["label"].numbers()
    rows = f"the first {counted(table.rows, 'row')}" if table.more else counted(table.rows, "row")
    later = ", labels further down are not known; `run_mtl.py validate` finds them" if table.more else ""
    yield f"# Proposed from {rows} of {word(path.name)}{later}; the comments explain the guesses."
    why = f"{label.distinct:,} different labels"
    if kind == "ranking":
        why = f"{columns['group'].distinct:,} queries with several candidates, and whole numbers as relevance"
    elif kind == "regression":
        why = f"numbers from {min(numbers.values()):g} to {max(numbers.values()):g}"
    elif len(numbers) > 2:
        why += "; if these numbers are amounts, write regression and drop 'labels' and 'metrics'"
    yield f"{_task_name(path)}:\n  type: {kind} # {why}\n  data:\n    files:\n      train: {word(str(path))}"
    own = f"{remark}these are the training rows: name held-out rows here, or the figures mean little"
    validation, why = (held_out.path, "found beside it") if held_out else (path, own)
    yield f"      validation: {word(str(validation))} # {why}"
    unused = listed([str(column) for column in table.columns.values() if column not in columns.values()])
    yield "    columns:" + (f" # not used: {unused}" if unused else "")
    for role, column in columns.items():
        about = f"{column.characters / table.rows:.0f} characters on average" if role.startswith("text") else column
        yield f"      {role}: {word(column.name)} # {about}"
    values, missing = label.values.copy(), label.missing.copy()
    if held_out:
        values.update(held_out.columns[label.name].values)
        missing.update(held_out.columns[label.name].missing)
    missing.update({text: rows for text, rows in values.items() if numbers and text.lower() in MISSING_NUMBERS})
    if missing:
        spelled = ", ".join(map(word, missing))
        yield f"    unlabelled: [{spelled}] # {counted(missing.total(), 'row')} without a label: left out"
    metrics, why = METRICS_OF[kind], "the first one selects the best step"
    if kind == "classification":
        counts = Counter({text: label.values[text] for text in values if text not in missing})
        share = max(counts.values()) / counts.total()
        if share > MAJORITY:
            metrics, why = "macro_f1, accuracy", f"{why}; {share:.0%} of the rows have one label"
        yield from _labels(counts)
    yield f"  metrics: [{metrics}] # {why}"


def _labels(counts: Counter[str]) -> Iterator[str]:
    numbers = as_numbers(counts)
    names = sorted(counts, key=lambda name: (numbers.get(name, 0.0), name))
    remark = "the order fixes the integer of each"
    if names == list(map(str, range(len(names)))):
        remark = "the integers of the data; in this order, names may stand here instead"
    elif "-1" in counts:
        remark += "; if -1 means 'no label', write unlabelled: [-1] under 'data' instead"
    elif len({name.strip().lower() for name in names}) < len(names):
        remark += "; some differ in case or spaces only"
    yield f"  labels: # {len(names):,} values; {remark}"
    for name in names:
        yield f"    - {word(name)}" + (f" # {counted(counts[name], 'row')}" if len(names) <= COUNTED_LABELS else "")


def _task_name(path: Path) -> str:
    stem = unicodedata.normalize("NFKD", TRAIN.sub("", path.stem)).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9]+", "_", stem)[:64].strip("_")
    return word(name) if NAME.fullmatch(name) else "my_task"


def as_numbers(texts: Iterable[str]) -> dict[str, float]:
    """The number that each text is, empty if there is one that is none."""
    try:
        numbers = {text: float(text) for text in texts}
    except ValueError:
        return {}
    return numbers if all(map(math.isfinite, numbers.values())) else {}


def word(text: str) -> str:
    """A text as YAML of any version reads it back, quoted where it has to be, and harmless in a comment."""
    if PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf).strip()
