"""The plan of a run: which tasks every step trains on, with the resulting passes and tokens per task.

Legend: S steps of the run, K tasks of a step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtl.batch import BatchStream
from mtl.config import Run
from mtl.run_files import TaskPlan
from mtl.sampling import task_sequence


@dataclass(frozen=True)
class Plan:
    """Which tasks every step trains on, with totals per task.

    Attributes:
        sequence: Indices of the tasks of every step, (S, K).
        turns: Number of earlier batches of the same task, (S, K).
        epoch_steps: Steps per epoch.
        evaluate_every: Steps between evaluations.
        tasks: What the run does on each task.
    """

    sequence: npt.NDArray[np.int64]
    turns: npt.NDArray[np.int64]
    epoch_steps: int
    evaluate_every: int
    tasks: tuple[TaskPlan, ...]

    @property
    def steps(self) -> int:
        return len(self.sequence)

    def task_steps(self, done: int) -> dict[str, int]:
        """Batches of each task in the first `done` steps: the number of steps it would take if trained alone."""
        counts = np.bincount(self.sequence[:done].ravel(), minlength=len(self.tasks)).tolist()
        return {task.task: count for task, count in zip(self.tasks, counts, strict=True)}


def make_plan(run: Run, streams: Mapping[str, BatchStream]) -> Plan:
    """Plan a run; with any sampling strategy, an epoch has as many batches as one pass over every task, K per step."""
    sizes = [stream.per_pass for stream in streams.values()]
    together = run.config.train.tasks_per_step
    epoch_steps = math.ceil(sum(sizes) / together)
    steps = run.config.train.max_steps or run.config.train.epochs * epoch_steps
    sampling = run.config.sampling
    sequence = task_sequence(
        sizes,
        sampling.strategy,
        run.config.train.seed,
        steps * together,
        epoch_steps=epoch_steps * together,
        temperature=sampling.temperature,
    )
    turns = np.empty_like(sequence)
    tasks = []
    for index, (name, stream) in enumerate(streams.items()):
        own = np.flatnonzero(sequence == index)
        turns[own] = np.arange(len(own))
        passes = stream.passes(len(own))
        tasks.append(
            TaskPlan(
                task=name,
                type=run.tasks[name].type,
                rows=len(stream.examples),
                batch=stream.batch_size if stream.batch_tokens is None else None,
                batch_tokens=stream.batch_tokens,
                steps=len(own),
                passes=passes,
                tokens=int(passes * stream.pass_tokens),
            )
        )
    every = run.config.evaluation.every or min(epoch_steps, steps)
    shape = (steps, together)
    return Plan(sequence.reshape(shape), turns.reshape(shape), epoch_steps, every, tuple(tasks))
