"""Phrase messages for the caller: in terms of flags for the command line, of arguments and settings for Python code."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from mtl.errors import NonFiniteError, Problem, UserError

Folder: TypeAlias = "str | os.PathLike[str]"

# Flag name to the configuration key that it sets; `--set KEY=VALUE` sets any other key.
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
    *("trust_remote_code", "baselines"),
)
VALUES = ("drop", "warn", "ignore", "fp32", "bf16")  # values that may follow a flag in messages
SWITCHES = ("--resume", "--overwrite", "--trust-remote-code")


@contextlib.contextmanager
def words_of(command: Sequence[str] | None) -> Iterator[None]:
    """Rephrase errors raised in the block for Python callers, unless a command line was given."""
    try:
        yield
    except UserError as error:
        if command is not None:
            raise
        problems = [Problem(in_python(p.where, ""), in_python(p.message)) for p in error.problems]
        raise UserError(problems) from error.__cause__
    except NonFiniteError as error:
        if command is not None:
            raise
        raise NonFiniteError(in_python(str(error))) from error.__cause__


def in_python(text: str, switched_on: str = "=True") -> str:
    """Replace command-line flags in a text by Python: `resume=True`, `settings['train.smart'] = False`.

    Args:
        text: A message that names flags.
        switched_on: Suffix of an argument that is a switch on the command line.
    """

    def word(match: re.Match[str]) -> str:
        name, value = match[1].replace("-", "_"), match[2]
        if name in ARGUMENTS:
            return name + (switched_on if f"--{match[1]}" in SWITCHES else "") + (f" {value}" if value else "")
        off = name.removeprefix("no_") != name
        key = FLAGS.get(name.removeprefix("no_"))
        set_to = " = False" if off else f" = {value!r}" if value else ""
        return match[0] if key is None else f"settings[{key!r}]{set_to}"

    return re.sub(rf"(?<!\w)--([a-z]+(?:-[a-z]+)*)(?: ({'|'.join(VALUES)})\b)?", word, text)
