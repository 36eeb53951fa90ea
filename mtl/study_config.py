"""The contents of a study file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from mtl.settings import Settings
from mtl.taskdef import Count

ALL = "all"
# Settings that arms may not contain, because the study determines them or only a command line may set them.
OWN = {
    "phase": "a phase says it with its own key 'phase'",
    "task_defs": "the study names them for all arms",
    "data_root": "the study names it for all arms",
    "trust_remote_code": "it counts on the command line of a single run only",
    "train.seed": "the study's 'seeds' give it",
    "train.task_sizes": "the study's 'train_sizes' give it, and 'sizes' for tasks that are not studied",
    "train.holdout": "the study's 'select' and 'holdout' give it",
    "train.holdout_rows": "the study's 'holdout_rows' gives it",
}


class Phase(Settings):
    """One phase of an arm.

    Attributes:
        phase: `train` starts from the encoder; `adapt` starts from the preceding phase and trains on the cell's task.
        tasks: For `train`: names of tasks, or `all` for those of the study; by default only the cell's task.
        sizes: Number of training examples of its tasks that are not studied; overrides the study's `sizes`.
        settings: Keys of a run configuration; they override the study's `settings`.
    """

    phase: Literal["train", "adapt"]
    tasks: list[str] = []
    sizes: dict[str, Count] = {}
    settings: dict[str, Any] = {}

    @field_validator("tasks", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [ALL] if value == ALL else value


class StudyConfig(Settings):
    """The contents of a study file.

    Attributes:
        encoder: Hub id, directory or `pkg:PACKAGE/SUBDIR`.
        task_defs: Definition files, relative to the study file.
        data_root: Local mirror of the hub.
        tasks: The tasks that are studied; each has its own cells.
        seeds: Seeds of the runs; arms are compared seed by seed.
        train_sizes: Number of training examples (for rankings, queries) of the studied tasks, in every phase; null for
            all. Other tasks of a pre-fine-tuning have the number in `sizes`, or else all.
        sizes: Number of training examples of tasks that are trained on but not studied.
        settings: Keys of a run configuration, for all phases of all arms; they override the task definitions.
        arms: Name → phases. Every other arm is compared with the first one.
        contrasts: Further pairs of arms to compare, `[ARM, BASE]`.
        select: The evaluated rows: `validation`, or `holdout`, rows held out of the training data of the studied tasks
            (`holdout` is their fraction, `holdout_rows` their minimum number), for choices that must not see the
            validation rows.
        step: The evaluated step: `last`, or `best` on the same rows, which is optimistic.
        keep: What is kept of a finished run: `results` alone; or also, with `best`, the models of the best steps; with
            `model`, the model after the last step, from which cells that are added later can start; `all` keeps all.
    """

    encoder: str
    task_defs: Annotated[list[str], Field(min_length=1)]
    data_root: str | None = None
    tasks: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 32)]], Field(min_length=1)]
    train_sizes: Annotated[list[Count | None], Field(min_length=1)] = [None]
    sizes: dict[str, Count] = {}
    settings: dict[str, Any] = {}
    arms: Annotated[dict[str, Annotated[list[Phase], Field(min_length=1)]], Field(min_length=1)]
    contrasts: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = []
    select: Literal["validation", "holdout"] = "validation"
    holdout: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    holdout_rows: Count = 100
    step: Literal["last", "best"] = "last"
    keep: Literal["results", "best", "model", "all"] = "results"

    def sizes_of(self, phase: Phase) -> dict[str, int]:
        """Number of training examples of a phase's tasks that are not studied, where it is not all."""
        return {task: size for task, size in (self.sizes | phase.sizes).items() if task in phase.tasks}
