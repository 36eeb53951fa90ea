"""Best steps, and backups of their models that checkpoints refer to.

A best model that is replaced after a checkpoint is still needed if the run dies and is resumed from that checkpoint,
which may be an older one if the newest is damaged: the resumed run may round differently, for example with another
number of processes, and then never have the model that was the replacement. Its backup is restored instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mtl.files import TEMPORARY, new_directory, remove, storing

Number = Annotated[int, Field(ge=0)]
MODEL = "model"


@dataclass(frozen=True)
class Best:
    """A task's best step.

    Attributes:
        step: The step.
        splits: Metrics by split at that step.
    """

    step: Number
    splits: Mapping[str, Mapping[str, Any]]


def back_up(model: Path, step: int, predictions: Sequence[Path]) -> None:
    """Back up the best model of a checkpoint, unless that is done already.

    Args:
        model: Directory of the task's best model.
        step: Its step.
        predictions: Files of its predictions.
    """
    backup = model.with_name(f".{model.name}.{step}")
    if not backup.exists() and model.is_dir():
        with new_directory(backup) as folder:
            shutil.copytree(model, folder / MODEL, copy_function=_link)
            for path in predictions:
                if path.is_file():
                    _link(path, folder / path.name)


def restore(model: Path, best: int | None, predictions: Sequence[Path]) -> None:
    """Restore a backup if it is of the checkpoint's best step, then remove all that are not of earlier steps.

    Args:
        model: Directory of the task's best model.
        best: The task's best step in the checkpoint, if any.
        predictions: Files of its predictions.
    """
    for backup in _backups(model):
        if best is not None and backup.suffix == f".{best}":
            with new_directory(model) as folder:
                shutil.copytree(backup / MODEL, folder, copy_function=_link, dirs_exist_ok=True)
            with storing(model):
                for path in predictions:
                    if (backup / path.name).is_file():
                        (backup / path.name).replace(path)
    _remove(model, [backup for backup in _backups(model) if best is None or _step(backup) >= best])


def discard(model: Path, keep: int = 0) -> None:
    """Remove all of a task's backups but the newest ones.

    A checkpoint has one best model, so as many backups as there are checkpoints contain all that are needed.
    """
    _remove(model, _backups(model)[: -keep or None])


def _remove(model: Path, backups: Sequence[Path]) -> None:
    """Remove backups, and those that were not completed."""
    for path in [*backups, *model.parent.glob(f"{TEMPORARY}.{model.name}.*")]:
        remove(path)


def _backups(model: Path) -> list[Path]:
    """A task's backups, by step; another task's name has no dot."""
    found = model.parent.glob(f".{model.name}.*")
    return sorted((path for path in found if path.suffix[1:].isdecimal()), key=_step)


def _step(backup: Path) -> int:
    return int(backup.suffix[1:])


def _link(source: str | Path, target: str | Path) -> None:
    """Hard-link a file, or copy it if that fails; a link is safe because files are replaced, never changed in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
