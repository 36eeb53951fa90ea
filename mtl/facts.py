"""What is known of a trained task's model: what its run directory recorded, for whoever describes the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from mtl.config import Run
from mtl.origin import Origin
from mtl.runrecord import Provenance, read_provenance

BySplit: TypeAlias = Mapping[str, Mapping[str, Any]]

MEASURED = {"best": "tasks", "final": "last"}  # weights to where a run's results hold their metrics


@dataclass(frozen=True)
class Facts:
    """What is known of one task's model; all of it may be missing.

    Attributes:
        weights: Of its run, `best`, `final` or `teacher`.
        step: The step they are of.
        steps: Steps of the run.
        own_steps: Steps of the run on this task.
        metrics: Split to metric to value.
        intervals: The same for the ends of 95 % intervals.
        baselines: The same for a guess that reads no text.
        single: The same for the task trained alone.
        data: Split to counts of rows.
        run: Configuration and tasks of the run.
        provenance: Encoder, data and versions.
    """

    weights: str | None = None
    step: int | None = None
    steps: int | None = None
    own_steps: int | None = None
    metrics: BySplit = field(default_factory=dict)
    intervals: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    baselines: BySplit = field(default_factory=dict)
    single: BySplit = field(default_factory=dict)
    data: BySplit = field(default_factory=dict)
    run: Run | None = None
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def origin(self) -> Origin | None:
        return self.provenance.origin


def read_facts(name: str, run_dir: Path, run: Run, results: Mapping[str, Any], weights: str = "best") -> Facts:
    """What a run directory knows of a task's model.

    Args:
        name: The task.
        run_dir: The run.
        run: Its configuration and tasks.
        results: What its `results.json` holds.
        weights: Which weights the model has; the teacher's were not evaluated.

    Raises:
        UserError: Its provenance is damaged.
    """

    def own(key: str) -> Any:
        return results.get(key, {}).get(name) or {}

    best = weights == "best"
    return Facts(
        weights=weights,
        step=results.get("best_steps", {}).get(name) if best else results.get("steps"),
        steps=results.get("steps"),
        own_steps=results.get("task_steps", {}).get(name),
        metrics=own(MEASURED[weights]) if weights in MEASURED else {},
        intervals=own("intervals") if best else {},
        baselines=own("baselines"),
        single=own("single") if best else {},
        data=own("data"),
        run=run,
        provenance=read_provenance(run_dir) or Provenance(),
    )
