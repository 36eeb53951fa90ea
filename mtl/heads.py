"""Initialisation of the head in adaptation: the run's head for the task, a fresh head, or that of another task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl.errors import listed, nearest

REUSE, FRESH = "reuse", "fresh"
Definition = Mapping[str, Any]


def stored_head(head: str, task: str) -> str | None:
    """Return the task of the run whose head is used; None for a fresh head.

    Args:
        head: `reuse`, `fresh`, or a task of the run.
        task: The task adapted to.
    """
    return {REUSE: task, FRESH: None}.get(head, head)


def head_problem(head: str, task: str, definition: Definition, known: Mapping[str, Definition]) -> str | None:
    """Explain why a head cannot be used for a task; None if it can.

    Args:
        head: `reuse`, `fresh`, or a task of the run.
        task: The task adapted to.
        definition: Its resolved definition.
        known: The definitions of the run's tasks.
    """
    taken = stored_head(head, task)
    if taken is None:
        return None
    if taken not in known:
        allowed = [FRESH, *known] if head == REUSE else [REUSE, FRESH, *known]
        return f"the run has no head for {taken!r}; allowed: {listed(allowed, 40)}{nearest(taken, allowed)}"
    theirs, ours = known[taken], definition
    if theirs.get("type") != ours.get("type"):
        return f"{taken} is a {theirs.get('type')} and {task} a {ours.get('type')}: their heads differ"
    old, new = _labels(theirs), _labels(ours)
    if len(old) != len(new):
        return f"the head of {taken} has {len(old)} outputs, and {task} needs {len(new)}"
    if moved := [label for label in new if label in old and old.index(label) != new.index(label)]:
        order = f"outputs are matched by position, and the labels of {taken} are in the order {listed(old, 40)}"
        return f"{order}; " + ("use it" if sorted(old) == sorted(new) else f"keep the places of {listed(moved, 40)}")
    return None


def head_note(head: str, task: str, definition: Definition, known: Mapping[str, Definition]) -> str | None:
    """Describe a head whose outputs had another meaning, for the user; None if it is the task's own or fresh."""
    taken = stored_head(head, task)
    if taken is None or (taken == task and _labels(known[taken]) == _labels(definition)):
        return None
    pairs = zip(_labels(known[taken]), _labels(definition), strict=True)
    places = listed([f"{old} → {new}" for old, new in pairs], 40)
    return f"the head of {task} starts from that of {taken}" + (f": {places}" if places else "")


def _labels(definition: Definition) -> list[str]:
    labels = definition.get("labels") or []
    return [str(label) for label in labels] if isinstance(labels, list) else []
