"""Messages in the words of who asked: flags for a command line, arguments and settings for a program."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from mtl.errors import NonFiniteError, Problem, UserError

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
    *("trust_remote_code", "baselines"),
)
VALUES = ("drop", "warn", "ignore", "fp32", "bf16")  # that stand behind a flag in messages
SWITCHES = ("--resume", "--overwrite", "--trust-remote-code")


@contextlib.contextmanager
def words_of(command: Sequence[str] | None) -> Iterator[None]:
    """Tells what is wrong in the words of the caller: arguments and settings for a program, flags for a command."""
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
    """A text with a program's words for flags: `resume=True`, `settings['train.smart'] = False`.

    Args:
        text: In the words of the command line.
        switched_on: What follows a switch.
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
