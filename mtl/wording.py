"""Messages in the words of who asked: flags for a command line, arguments and settings for a program."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from mtl.errors import Problem, UserError

Folder: TypeAlias = "str | os.PathLike[str]"

# Flag to the key it sets; `--set KEY=VALUE` reaches every other key.
FLAGS = {
    "encoder": "encoder",
    "data_root": "data_root",
    "head": "head",
    "leaks": "leaks",
    "num_proc": "num_proc",
    "epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "learning_rate": "train.learning_rate",
    "batch_size": "train.batch_size",
    "max_length": "train.max_length",
    "precision": "train.precision",
    "seed": "train.seed",
    "train_size": "train.train_size",
    "train_fraction": "train.train_fraction",
    "smart": "train.smart",
    "proximal": "train.proximal",
    "sampler": "sampling.strategy",
    "trust_remote_code": "trust_remote_code",
}
ARGUMENTS = (
    *("encoder", "data_root", "head", "output", "task", "tasks", "task_defs", "config", "resume", "overwrite"),
    "trust_remote_code",
)
SWITCHES = ("--resume", "--overwrite", "--trust-remote-code")


@contextlib.contextmanager
def words_of(command: Sequence[str] | None) -> Iterator[None]:
    """Tells what is wrong in the words of the caller: arguments and settings for a program, flags for a command."""
    try:
        yield
    except UserError as error:
        if command is not None:
            raise
        problems = [Problem(_spoken(p.where, ""), _spoken(p.message, "=True")) for p in error.problems]
        raise UserError(problems) from error.__cause__


def _spoken(text: str, value: str) -> str:
    def word(match: re.Match[str]) -> str:
        name = match[1].replace("-", "_")
        if name in ARGUMENTS:
            return name + (value if match[0] in SWITCHES else "")
        return f"settings[{FLAGS[name]!r}]" if name in FLAGS else match[0]

    return re.sub(r"--([a-z]+(?:-[a-z]+)*)", word, text)
