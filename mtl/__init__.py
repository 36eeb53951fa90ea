"""Multi-task learning toolkit for text: one shared encoder, one head per task.

`train`, `adapt` and `load` are the toolkit from Python; importing this imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtl.api import Model, Trained, adapt, load, train
    from mtl.errors import Interrupted, NonFiniteError, StorageError, UserError

_ERRORS = ("Interrupted", "NonFiniteError", "StorageError", "UserError")
__all__ = ["Interrupted", "Model", "NonFiniteError", "StorageError", "Trained", "UserError", "adapt", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("mtl.errors" if name in _ERRORS else "mtl.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
