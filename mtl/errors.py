"""User-facing errors, and helpers that format their messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """A single problem with the user's input.

    Attributes:
        where: Location of the problem: file and line, command-line flag, or directory; may be empty.
        message: What is wrong, and what is expected instead.
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
        return type(self), (self.problems,)  # by default an exception is unpickled from its message alone

    @classmethod
    def of(cls, where: str, message: str) -> UserError:
        return cls([Problem(where, message)])


class NonFiniteError(Exception):
    """A loss or gradient is NaN or infinite: the run stops with exit status 1 and its checkpoints stay intact."""


class StorageError(Exception):
    """A file or directory could not be written or read (exit status 1); its previous content is intact."""


class ElsewhereError(Exception):
    """Another process of the run failed and reports the reason; this one stops silently with exit status 1."""


class Interrupted(Exception):
    """The run was stopped by a signal; its state is on disk.

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
    """Explain why Transformers failed to load a model: the first line of its message, or the flag that it requires."""
    if "trust_remote_code=True" in str(error):
        return "it contains custom code, which runs only with --trust-remote-code"
    return first_line(error)


def printable(text: str) -> str:
    """Escape non-printable characters, so that text from a file cannot send control sequences to the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def closest(name: object, allowed: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The allowed name that is most similar to a name, ignoring case; None if none is similar."""
    options = {option.lower(): option for option in allowed}
    found = difflib.get_close_matches(str(name).lower(), list(options), n=1, cutoff=cutoff)
    return options[found[0]] if found else None


def nearest(name: object, allowed: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ``; did you mean 'x'?`` for the closest allowed name, or an empty string."""
    found = closest(name, allowed, cutoff=cutoff)
    return f"; did you mean {found!r}?" if found else ""


def listed(names: Sequence[object], limit: int = 12) -> str:
    """Join names for a message; beyond ``limit``, show only the first ones and the total."""
    shown = ", ".join(str(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown}, … ({len(names)} in all)"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Format a count with its noun: ``1 row``, ``2,000 rows``, ``3 queries``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
