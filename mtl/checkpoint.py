"""Checkpoints: the complete state of a run on disk, written completely or not at all, and verified when read.

A checkpoint is a directory of safetensors and JSON files; nothing in it can run code.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mtl.errors import first_line
from mtl.files import TEMPORARY, digest, new_directory

STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"
PREFIX = "step-"
NAME = re.compile(rf"{PREFIX}[0-9]{{7,15}}")


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint.

    Attributes:
        step: Optimizer steps done.
        tensors: Part (`model`, `teacher`, `optimizer`, `random`) to its named tensors.
        state: Everything else, as JSON.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


class DamagedCheckpointError(Exception):
    """A checkpoint does not match its manifest."""


def save_checkpoint(root: Path, checkpoint: Checkpoint, keep_last: int) -> Path:
    """Write a checkpoint under a temporary name, sync it to disk, rename it, and remove the oldest ones.

    Checkpoints of later steps are removed too: the run was resumed from an earlier one because they were damaged.

    Args:
        root: The run's `checkpoints` directory.
        checkpoint: What to write.
        keep_last: How many to keep.

    Returns:
        The checkpoint's directory.
    """
    final = root / f"{PREFIX}{checkpoint.step:07d}"
    for leftover in root.glob(f"{TEMPORARY}*"):  # of a killed process; the space may be needed
        shutil.rmtree(leftover, ignore_errors=True)
    with new_directory(final) as folder:
        for part, tensors in checkpoint.tensors.items():
            save_file(
                {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / f"{part}.safetensors"
            )
        (folder / STATE_FILE).write_text(json.dumps(checkpoint.state, indent=1))
        manifest = {path.name: digest(path) for path in sorted(folder.iterdir())}
        (folder / MANIFEST_FILE).write_text(_manifest_text(manifest))
    found = checkpoint_directories(root)
    newer = found.index(final)
    for old in (*found[:newer], *found[newer + keep_last :]):
        shutil.rmtree(old, ignore_errors=True)
    return final


def checkpoint_directories(root: Path) -> list[Path]:
    """All checkpoints under their final names, newest first."""
    found = root.iterdir() if root.is_dir() else ()
    return sorted(
        (path for path in found if NAME.fullmatch(path.name)),
        key=lambda path: int(path.name.removeprefix(PREFIX)),
        reverse=True,
    )


def _manifest_text(manifest: Mapping[str, str]) -> str:
    return json.dumps(manifest, indent=1)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint and verify every file's digest.

    Raises:
        DamagedCheckpointError: A file is missing, truncated or altered.
    """
    try:
        text = (folder / MANIFEST_FILE).read_text()
        manifest = json.loads(text)
        if text != _manifest_text(manifest) or {*manifest, MANIFEST_FILE} != {path.name for path in folder.iterdir()}:
            raise DamagedCheckpointError(f"{folder / MANIFEST_FILE} does not match the files beside it")
        for name, written in manifest.items():
            if digest(folder / name) != written:
                raise DamagedCheckpointError(f"{folder / name} has changed since it was written")
        state = json.loads((folder / STATE_FILE).read_text())
        if folder.name != f"{PREFIX}{state['step']:07d}":
            raise DamagedCheckpointError(f"{folder} holds step {state['step']}")
        parts = {Path(name).stem: load_file(folder / name) for name in manifest if name.endswith(".safetensors")}
        return Checkpoint(step=state["step"], tensors=parts, state=state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise DamagedCheckpointError(f"{folder} cannot be read: {first_line(error)}") from error


def load_newest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """Read the newest undamaged checkpoint.

    Returns:
        The checkpoint (None if there is none), and a message for each newer, damaged one.
    """
    damaged: list[str] = []
    for folder in checkpoint_directories(root):
        try:
            return load_checkpoint(folder), damaged
        except DamagedCheckpointError as error:
            damaged.append(str(error))
    return None, damaged
