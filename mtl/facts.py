"""Information about a trained task's model, collected from its run directory for the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from mtl.config import Run
from mtl.origin import Origin
from mtl.run_record import Provenance, read_provenance

BySplit: TypeAlias = Mapping[str, Mapping[str, Any]]

MEASURED = {"best": "tasks", "final": "last"}  # weights → key of their metrics in results.json


@dataclass(frozen=True)
class Facts:
    """Information about one task's model; any field may be empty.

    Attributes:
        weights: `best`, `final` or `teacher`.
        step: The step of the weights.
        steps: Steps of the run.
        own_steps: Batches of this task in the run's steps.
        metrics: Split → metric → value.
        intervals: Split → metric → bounds of the 95 % interval.
        baselines: Split → metric → value of a baseline that ignores the text.
        single: Split → metric → value of the task trained alone.
        over_single: Split → metric → the difference from it, and its interval.
        data: Split → row counts.
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
    over_single: BySplit = field(default_factory=dict)
    data: BySplit = field(default_factory=dict)
    run: Run | None = None
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def origin(self) -> Origin | None:
        return self.provenance.origin


def read_facts(name: str, run_dir: Path, run: Run, results: Mapping[str, Any], weights: str = "best") -> Facts:
    """Collects the information about a task's model from a run directory.

    Args:
        name: Name of the task.
        run_dir: The run directory.
        run: Its configuration and tasks.
        results: The contents of its `results.json`.
        weights: The model's weights. Those of the `teacher` were not evaluated, so they have no metrics.

    Raises:
        UserError: `provenance.json` is damaged.
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
        over_single=own("over_single") if best else {},
        data=own("data"),
        run=run,
        provenance=read_provenance(run_dir) or Provenance(),
    )
