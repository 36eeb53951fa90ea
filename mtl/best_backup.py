"""Backups of the best models that the newest checkpoint refers to, kept until the next checkpoint.

A best model that is replaced after the newest checkpoint is still needed if the run dies and is resumed from it: the
resumed run may round differently, for example with another number of processes, and then never have the model that was
the replacement. Its backup is restored instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl.files import TEMPORARY, new_directory, remove, storing

MODEL = "model"


def back_up(model: Path, step: int, predictions: Sequence[Path]) -> None:
    """Back up the best model of the newest checkpoint; only the first call after a checkpoint has an effect.

    Args:
        model: Directory of the task's best model.
        step: Its step.
        predictions: Files of its predictions.
    """
    if not any(_backups(model)) and model.is_dir():
        with new_directory(model.with_name(f".{model.name}.{step}")) as folder:
            shutil.copytree(model, folder / MODEL, copy_function=_link)
            for path in predictions:
                if path.is_file():
                    _link(path, folder / path.name)


def restore(model: Path, best: Mapping[str, Any] | None, predictions: Sequence[Path]) -> None:
    """Restore a backup if it is of the checkpoint's best step, then remove all backups.

    Args:
        model: Directory of the task's best model.
        best: The checkpoint's best step of the task, if any.
        predictions: Files of its predictions.
    """
    for backup in _backups(model):
        if best is not None and backup.suffix == f".{best['step']}":
            with new_directory(model) as folder:
                shutil.copytree(backup / MODEL, folder, copy_function=_link, dirs_exist_ok=True)
            with storing(model):
                for path in predictions:
                    if (backup / path.name).is_file():
                        (backup / path.name).replace(path)
    discard(model)


def discard(model: Path) -> None:
    """Remove a task's backups, complete or not."""
    for backup in [*_backups(model), *model.parent.glob(f"{TEMPORARY}.{model.name}.*")]:
        remove(backup)


def _backups(model: Path) -> list[Path]:
    return list(model.parent.glob(f".{model.name}.*"))


def _link(source: str | Path, target: str | Path) -> None:
    """Hard-link a file, or copy it if that fails; a link is safe because files are replaced, never changed in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
