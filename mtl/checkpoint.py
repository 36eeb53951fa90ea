"""The complete state of a run on disk: whole and verified, or not there at all.

A checkpoint is a directory of safetensors and JSON; nothing in it can run code.
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
    """What a checkpoint holds.

    Attributes:
        step: Optimizer steps done.
        tensors: Part (`model`, `teacher`, `optimizer`, `random`) to its named tensors.
        state: Everything else, as JSON.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


class DamagedCheckpointError(Exception):
    """A checkpoint does not hold what its manifest says."""


def save_checkpoint(root: Path, checkpoint: Checkpoint, keep_last: int) -> Path:
    """Writes a checkpoint under a temporary name, syncs it to the disk, renames it, and removes the oldest.

    Newer ones are removed first: the run was continued from before them, as they are damaged.

    Args:
        root: The run's `checkpoints` directory.
        checkpoint: What to write.
        keep_last: How many to keep.

    Returns:
        The checkpoint's directory.
    """
    final = root / f"{PREFIX}{checkpoint.step:07d}"
    for leftover in root.glob(f"{TEMPORARY}*"):  # of a process that was killed; the room may be needed
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
    """All checkpoints under their final names, the newest first."""
    found = root.iterdir() if root.is_dir() else ()
    return sorted(
        (path for path in found if NAME.fullmatch(path.name)),
        key=lambda path: int(path.name.removeprefix(PREFIX)),
        reverse=True,
    )


def _manifest_text(manifest: Mapping[str, str]) -> str:
    return json.dumps(manifest, indent=1)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint and verifies every file's digest.

    Raises:
        DamagedCheckpointError: A file is missing, cut off or altered.
    """
    try:
        text = (folder / MANIFEST_FILE).read_text()
        manifest = json.loads(text)
        if text != _manifest_text(manifest) or {*manifest, MANIFEST_FILE} != {path.name for path in folder.iterdir()}:
            raise DamagedCheckpointError(f"{folder / MANIFEST_FILE} does not list what is there")
        for name, written in manifest.items():
            if digest(folder / name) != written:
                raise DamagedCheckpointError(f"{folder / name} is not what was written")
        state = json.loads((folder / STATE_FILE).read_text())
        if folder.name != f"{PREFIX}{state['step']:07d}":
            raise DamagedCheckpointError(f"{folder} holds step {state['step']}")
        parts = {Path(name).stem: load_file(folder / name) for name in manifest if name.endswith(".safetensors")}
        return Checkpoint(step=state["step"], tensors=parts, state=state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise DamagedCheckpointError(f"{folder} cannot be read: {first_line(error)}") from error


def load_newest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """Reads the newest checkpoint that verifies.

    Returns:
        The checkpoint (None where there is none), and what is wrong with each newer one that was passed over.
    """
    damaged: list[str] = []
    for folder in checkpoint_directories(root):
        try:
            return load_checkpoint(folder), damaged
        except DamagedCheckpointError as error:
            damaged.append(str(error))
    return None, damaged
