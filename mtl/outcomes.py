"""Outcomes of a study's cells, from the study's directory or from an earlier summary file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mtl.errors import UserError, listed, nearest
from mtl.ledger import Ledger
from mtl.machine import processor
from mtl.settings import Settings
from mtl.study import Cell, Study

Outcomes = Mapping[str, "Outcome"]


class Outcome(Settings):
    """The outcome of a finished cell.

    Attributes:
        metrics: Metrics of the cell's task, on the rows and at the step that the study selects.
        seconds: Duration of the cell's own run.
        shared_seconds: Total duration of the runs that it starts from.
        processor: The processor that it ran on.
    """

    metrics: dict[str, float]
    seconds: float
    shared_seconds: float
    processor: str


def outcome_key(cell: Cell) -> str:
    """Key of a cell's outcome: the fingerprint of its run, which covers data and preceding runs, and the task."""
    return f"{cell.node.fingerprint}/{cell.task}"


def cells_of(study: Study, arms: Sequence[str]) -> list[Cell]:
    """Cells of the named arms of a study; of all if none is named.

    Raises:
        UserError: The study has no such arm.
    """
    known = list(study.config.arms)
    if unknown := [arm for arm in arms if arm not in known]:
        told = f"there is no arm {unknown[0]!r}; the study has: {listed(known, 40)}{nearest(unknown[0], known)}"
        raise UserError.of("--arms", told)
    return [cell for cell in study.cells if not arms or cell.arm in arms]


def read_outcomes(path: Path, study: Study) -> dict[str, Outcome]:
    """Reads the outcomes in a summary file, including those of cells that the study no longer has.

    Empty if the file does not exist.

    Raises:
        UserError: The file is not a summary, or its metrics are from other rows or from another step.
    """
    if not path.exists():
        return {}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        chosen = {key: (summary[key], getattr(study.config, key)) for key in ("select", "step")}
        found = {key: Outcome.model_validate(facts) for key, facts in summary["runs"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        message = "is no summary that `compare` wrote, so it is not replaced; name another file"
        raise UserError.of(str(path), message) from error
    if others := [f"{key}: {one}, the study {key}: {other}" for key, (one, other) in chosen.items() if one != other]:
        raise UserError.of(str(path), f"has {' and '.join(others)}, so it is not replaced; name another file")
    return found


def selected(study: Study, cell: Cell, results: Mapping[str, Any]) -> Mapping[str, float]:
    """The metrics of a cell's task in `results.json`, at the step and on the rows that the study names."""
    step = "last" if study.config.step == "last" else "tasks"
    values: Mapping[str, float] = results[step][cell.task][study.config.select]
    return values


def gather_outcomes(study: Study, ledger: Ledger, earlier: Outcomes) -> dict[str, Outcome]:
    """Outcomes of all finished cells, from the ledger or else from `earlier`, then the other earlier outcomes."""
    found = {}
    for cell in study.cells:
        key, results = outcome_key(cell), ledger.results(cell.node)
        if results is not None:
            values = selected(study, cell, results)
            *shared, own = [record.seconds if (record := ledger.record(n)) else 0.0 for n in cell.node.chain()]
            found[key] = Outcome(
                metrics={metric: values[metric] for metric in study.tasks[cell.task].metrics},
                seconds=own,
                shared_seconds=math.fsum(shared),
                processor=processor(),
            )
        elif key in earlier:
            found[key] = earlier[key]
    return {**found, **{key: outcome for key, outcome in earlier.items() if key not in found}}
