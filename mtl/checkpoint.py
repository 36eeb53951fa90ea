"""The complete state of a run on disk: whole and verified, or not there at all.

A checkpoint is a directory of safetensors and JSON; nothing in it can run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"
PREFIX = "step-"
TEMPORARY = ".writing-"


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

    Args:
        root: The run's `checkpoints` directory.
        checkpoint: What to write.
        keep_last: How many to keep.

    Returns:
        The checkpoint's directory.
    """
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"{PREFIX}{checkpoint.step:07d}"
    temporary = root / f"{TEMPORARY}{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for part, tensors in checkpoint.tensors.items():
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary / f"{part}.safetensors"
        )
    (temporary / STATE_FILE).write_text(json.dumps(checkpoint.state, indent=1))
    manifest = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
    (temporary / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1))
    for path in temporary.iterdir():
        sync(path)
    sync(temporary)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    sync(root)
    for old in checkpoint_directories(root)[keep_last:]:
        shutil.rmtree(old)
    return final


def checkpoint_directories(root: Path) -> list[Path]:
    """All checkpoints under their final names, the newest first."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if path.name.startswith(PREFIX)), reverse=True)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint and verifies every file's digest.

    Raises:
        DamagedCheckpointError: A file is missing, cut off or altered.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        for name, digest in manifest.items():
            if Path(name).name != name or _digest(folder / name) != digest:
                raise DamagedCheckpointError(f"{folder / name} is not what was written")
        state = json.loads((folder / STATE_FILE).read_text())
        parts = {Path(name).stem: load_file(folder / name) for name in manifest if name.endswith(".safetensors")}
        return Checkpoint(step=int(state["step"]), tensors=parts, state=state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise DamagedCheckpointError(f"{folder}: {error}") from error


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


def write_file(path: Path, text: str) -> None:
    """Writes a small file under a temporary name, syncs it, and renames it."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(path)


def sync(path: Path) -> None:
    """Flushes a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
