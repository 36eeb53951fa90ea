"""Statistics of the columns of a data file, from which `propose` guesses what they are."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from numbers import Number
from pathlib import Path
from typing import Any

import yaml

from mtl.errors import UserError, listed, nearest
from mtl.file_formats import suffix_of
from mtl.source import Source, read_rows
from mtl.taskdef import NUMBER
from mtl.text_encoding import guessed_encoding

LIMIT = 20_000  # rows read from a file
MOST_LATE = 100  # columns up to which keys that only later rows of JSON lines have are added
LONGEST_LABEL = 200  # characters
MOST_NUMBERS = 0.9  # share of numbers in a column above which the other values are taken for mistakes
IDENTIFIER = re.compile(r"(.+_)?(ids?|idx|index|uuid|guid|key|url|hash|date|time|timestamp|lang|language|split|user)")
SENTENCE = re.compile(r"[^\W\d_]\S*\s+\S*[^\W\d_]|[^\x00-\x7f]{4}")  # two words, or a script without spaces
MISSING_NUMBERS = ("na", "n/a", "nan", "null", "none", "?")  # in columns of numbers only
PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")


class Column:
    """Statistics of one column.

    `keys` has a hash of each row's value, or None for an empty cell. `values` counts values as a definition spells them
    (except nested and very long ones), with the first place of each in `places`, and `missing` the spellings of "no
    value" (None for null). `gap` is the first place without text.
    """

    def __init__(self, name: str) -> None:
        self.name, self.gap = name, ""
        self.canonical = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W+", "_", name).strip("_").lower()
        self.keys: list[int | None] = []
        self.values, self.missing = Counter[str](), Counter[str | None]()
        self.places: dict[str, str] = {}
        self.filled = self.characters = self.sentences = self.words = self.nested = 0

    def add(self, place: str, value: Any) -> None:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        empty = value is None or not text.strip() or (isinstance(value, float) and math.isnan(value))
        self.keys.append(None if empty else hash(text))
        self.filled += not empty
        self.nested += isinstance(value, (list, dict))
        if empty:
            self.missing[None if value is None else text] += 1
        elif isinstance(value, (str, Number)) and len(text) <= LONGEST_LABEL:
            self.values[text] += 1
            self.places.setdefault(text, place)
        if isinstance(value, str):
            self.characters += len(value)
            self.sentences += SENTENCE.search(value[:500]) is not None
            self.words += value.isalpha()
        else:
            self.gap = self.gap or place

    def settle(self) -> None:
        """After the last row, take "-" for "no value" unless there is "+" too, and "None" if there is null too."""
        dashes = {text for text in self.values if text.strip() == "-"} if "+" not in self.values else set[str]()
        absent = dashes | ({"None"} & self.values.keys() if None in self.missing else set[str]())
        keys = {hash(text) for text in absent}
        self.keys = [None if key in keys else key for key in self.keys] if keys else self.keys
        for text in absent:
            self.missing[text] = self.values.pop(text)
            self.filled -= self.missing[text]

    @property
    def distinct(self) -> int:
        return len(set(self.keys) - {None})

    @property
    def may_be_label(self) -> bool:
        return 0 < self.filled == self.values.total()

    def numbers(self) -> dict[str, float]:
        """Map each value to a number; empty if any value is not a number."""
        return as_numbers(t for t in self.values if t.lower() not in MISSING_NUMBERS) if self.may_be_label else {}

    def mistakes(self) -> list[str]:
        """The values that are not numbers, where all but few are."""
        given = [text for text in self.values if text.lower() not in MISSING_NUMBERS]
        wrong = [text for text in given if not as_numbers([text])]
        rows = sum(self.values[text] for text in wrong)
        return wrong if rows <= (1 - MOST_NUMBERS) * sum(self.values[text] for text in given) else []

    def __str__(self) -> str:
        what = "text" if self.sentences else "numbers" if self.numbers() else f"{self.distinct:,} different values"
        return f"{word(self.name)} ({what if self.filled else 'empty'})"


class Table:
    """Statistics of the first `LIMIT` rows of a file; `more` tells whether there are further rows."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.more = path, 0, False
        self.encoding = None if suffix_of(path) == ".parquet" else guessed_encoding(path)
        self.columns: dict[str, Column] = {}
        first = ""
        for place, cells in read_rows(Source(path=path, encoding=self.encoding)):
            self.more = self.rows == LIMIT
            if self.more:
                break
            first = first or place
            for name in cells if len(self.columns) < MOST_LATE or not self.rows else ():
                if name not in self.columns:  # the first row has all columns, except in JSON lines
                    self.columns[name] = Column(name)
                    for _ in range(self.rows):
                        self.columns[name].add(first, None)
            for name, column in self.columns.items():
                column.add(place, cells.get(name))
            self.rows += 1
        for column in self.columns.values():
            column.settle()
        self.ordinary = [c for c in self.columns.values() if not IDENTIFIER.fullmatch(c.canonical)]

    def column(self, name: str) -> Column:
        """The column of a name.

        Raises:
            UserError: There is none.
        """
        if name not in self.columns:
            known = f"{listed(list(self.columns))}{nearest(name, list(self.columns))}"
            raise UserError.of(str(self.path), f"has no column {name!r}; it has: {known}")
        return self.columns[name]

    def lacks(self, what: str, name: str) -> UserError:
        columns = listed(list(self.columns.values()))
        return UserError.of(str(self.path), f"has no column that {what}: {columns}; name the right one with --{name}")


def as_numbers(texts: Iterable[str]) -> dict[str, float]:
    """Map each text to a finite number, as a cell of a label is read; empty if any text is not one."""
    numbers = {text: float(text) if NUMBER.fullmatch(text.strip()) else math.nan for text in texts}
    return numbers if all(map(math.isfinite, numbers.values())) else {}


def word(text: str) -> str:
    """Format a text for YAML of any version, quoted if necessary, and safe within a comment."""
    plain = PLAIN.fullmatch(text) and yaml.safe_load(text) == text
    return text if plain else yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf).strip()
