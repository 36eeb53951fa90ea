"""Best steps that the newest checkpoint knows, kept until the next one while newer ones take their place.

A run may be continued from a checkpoint by other processes, with other roundings: then the steps after it are others,
and a best step among them that was kept before the run died is one that this run never had.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl.files import TEMPORARY, new_directory, remove, storing

MODEL = "model"


def set_aside(model: Path, step: int, predictions: Sequence[Path]) -> None:
    """Keeps a best step of the newest checkpoint; of several since then the first call counts.

    Args:
        model: Directory of the task's best step.
        step: The step.
        predictions: Files of what it predicted.
    """
    if not any(_asides(model)) and model.is_dir():
        with new_directory(model.with_name(f".{model.name}.{step}")) as folder:
            shutil.copytree(model, folder / MODEL, copy_function=_link)
            for path in predictions:
                if path.is_file():
                    _link(path, folder / path.name)


def put_back(model: Path, best: Mapping[str, Any] | None, predictions: Sequence[Path]) -> None:
    """Puts back what was set aside if it is of a checkpoint's best step, and forgets it.

    Args:
        model: Directory of the task's best step.
        best: The checkpoint's best step.
        predictions: Files of what it predicted.
    """
    for aside in _asides(model):
        if best is not None and aside.suffix == f".{best['step']}":
            with new_directory(model) as folder:
                shutil.copytree(aside / MODEL, folder, copy_function=_link, dirs_exist_ok=True)
            with storing(model):
                for path in predictions:
                    if (aside / path.name).is_file():
                        (aside / path.name).replace(path)
    forget(model)


def forget(model: Path) -> None:
    """Removes what was set aside, whole or not: a checkpoint knows the newest."""
    for aside in [*_asides(model), *model.parent.glob(f"{TEMPORARY}.{model.name}.*")]:
        remove(aside)


def _asides(model: Path) -> list[Path]:
    return list(model.parent.glob(f".{model.name}.*"))


def _link(source: str | Path, target: str | Path) -> None:
    """A second name where the file system has them, else a copy: files are replaced by others, never changed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
