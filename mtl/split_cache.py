"""Cache of the results of reading splits, so that unchanged splits are not read again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl.checks import SplitSummary
from mtl.errors import StorageError
from mtl.files import cache_directory, write_file
from mtl.leaks import LeakSearch
from mtl.source import Source
from mtl.taskdef import TaskDef

CHECKED_FORMAT = 9  # increment when checks, the way rows are read, or facts change


def digest_of(task: TaskDef, source: Source) -> str:
    """Digest of everything that determines the result of reading a split: its content, and how the task reads it."""
    rows = task.data.model_dump(include={"columns", "unlabelled", "encoding"})
    described = [CHECKED_FORMAT, source.fingerprint(), str(source), rows, task.type, task.labels]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _checked_file(keys: Mapping[str, str], watched: Sequence[str]) -> Path:
    digest = hashlib.sha256(json.dumps([list(keys.items()), list(watched)]).encode()).hexdigest()
    return cache_directory() / "checked" / f"{digest}.json"


def recall(keys: Mapping[str, str], watched: Sequence[str]) -> tuple[dict[str, SplitSummary], LeakSearch] | None:
    """Load the results of reading exactly these splits; None if there are none, or problems were found.

    Args:
        keys: `task/split` to its digest.
        watched: The splits among which leaks are searched for.
    """
    try:
        stored = json.loads(_checked_file(keys, watched).read_text(encoding="utf-8"))
        summaries = {
            place: SplitSummary(facts["rows"], facts["unlabelled"], [], facts)
            for place, facts in stored["facts"].items()
        }
        leaks = LeakSearch.recalled(stored["leaks"], stored["leaked"]) if watched else LeakSearch()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return summaries, leaks


def remember(
    keys: Mapping[str, str], watched: Sequence[str], summaries: Mapping[str, SplitSummary], leaks: LeakSearch
) -> None:
    """Store the results of reading splits in which no problems were found."""
    found: dict[str, Any] = {"facts": {place: summary.facts for place, summary in summaries.items()}}
    if watched:
        found["leaks"] = [leak.as_json() for leak in leaks.leaks()]
        found["leaked"] = {split: sorted(rows) for split, rows in leaks.leaked.items()}
    with contextlib.suppress(StorageError):  # without the cache, the splits are read again
        write_file(_checked_file(keys, watched), json.dumps(found))
