"""Multi-task learning toolkit for text: one shared encoder, one head per task.

`train`, `adapt` and `load` are the toolkit from Python; importing this imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtl.api import Trained, adapt, train
    from mtl.errors import Interrupted, NonFiniteError, StorageError, UserError
    from mtl.predictor import Model, load

_HOME = {
    **dict.fromkeys(("train", "adapt", "Trained"), "mtl.api"),
    **dict.fromkeys(("load", "Model"), "mtl.predictor"),
    **dict.fromkeys(("Interrupted", "NonFiniteError", "StorageError", "UserError"), "mtl.errors"),
}
__all__ = ["Interrupted", "Model", "NonFiniteError", "StorageError", "Trained", "UserError", "adapt", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
