"""Errors a user can act on, and the words they are told in."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the user's input.

    Attributes:
        where: File and line, command-line flag, or directory in which it stands.
        message: What is wrong and what would be right.
    """

    where: str
    message: str

    def __str__(self) -> str:
        return printable(f"{self.where}: {self.message}" if self.where else self.message)


class UserError(Exception):
    """The user's input is wrong: reported without a traceback, exit status 2."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(dict.fromkeys(problems))
        assert self.problems, "a UserError says what is wrong"
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)  # by itself an exception is pickled as its message

    @classmethod
    def of(cls, where: str, message: str) -> UserError:
        return cls([Problem(where, message)])


class NonFiniteError(Exception):
    """A loss or gradient became NaN or infinite: the run stops with status 1, its checkpoints untouched."""


class StorageError(Exception):
    """Something could not be written: status 1, and what stood there before is intact."""


class ElsewhereError(Exception):
    """Another process of the run, which tells why, cannot go on: this one stops with status 1 and says nothing."""


class Interrupted(Exception):
    """A signal asked the run to stop; its state is on disk.

    Attributes:
        signal_number: The signal received, for the exit status (130 for SIGINT, 143 for SIGTERM).
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.signal_number, str(self))


def first_line(error: Exception) -> str:
    """The first line of an exception's message without its full stop, or the exception's type if it has no message."""
    lines = str(error).strip().splitlines()
    return printable(lines[0].rstrip(" .")) if lines else type(error).__name__


def load_failure(error: Exception) -> str:
    """Why Transformers did not load something: the first line of what it says, or the flag that is missing."""
    if "trust_remote_code=True" in str(error):
        return "it brings code of its own, which runs with --trust-remote-code only"
    return first_line(error)


def printable(text: str) -> str:
    """A text with control characters written out, so that no file can steer the terminal it is shown on."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: object, allowed: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Returns ``; did you mean 'x'?`` for the closest allowed name, or an empty string."""
    options = {option.lower(): option for option in allowed}
    close = difflib.get_close_matches(str(name).lower(), list(options), n=1, cutoff=cutoff)
    return f"; did you mean {options[close[0]]!r}?" if close else ""


def listed(names: Sequence[object], limit: int = 12) -> str:
    """Joins names for a message, the first ``limit`` of them."""
    shown = ", ".join(str(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown}, … ({len(names)} in all)"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """``1 row``, ``2,000 rows``, ``3 queries``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
