"""Shell completion scripts, generated from the parser by `shtab`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

FILES = ("FILE", "FILE.html", "STUDY.yml", "TASK_DEFS")
DIRECTORIES = ("DIR", "RUN_DIR", "RUN_OR_EXPORT_DIR")


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Generate a script that completes commands, flags, choices, files and directories.

    Args:
        parser: The parser; its `prog` is the program's name, and metavars tell which arguments are files or
            directories.
        shell: bash, zsh or fish.
    """
    import shtab

    for action in _actions(parser):
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
