"""Dry run: token lengths of the data, and one real training step of every task."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mtl.batch import BatchStream, micro_batches
from mtl.cost import mean_relative_cost
from mtl.data import Ints
from mtl.errors import NonFiniteError, UserError, first_line
from mtl.machine import peak_memory
from mtl.preflight import Checked
from mtl.processes import Processes
from mtl.run_log import Log
from mtl.run_setup import check_model, longest_input, prepare_splits, set_up
from mtl.tokenizer import load_tokenizer
from mtl.trainer import TERM_NAMES, Hooks


def lengths(checked: Checked) -> dict[tuple[str, str], dict[str, Any]]:
    """Token statistics of every split: number of examples, total, mean and longest, and truncation."""
    tokenizer = load_tokenizer(checked.encoder, trust_remote_code=checked.run.config.trust_remote_code)
    limit = longest_input(checked, tokenizer)
    splits = prepare_splits(checked, tokenizer, limit)
    return {
        (name, split): {
            "examples": len(part),
            "tokens": int(part.lengths.sum()),
            "mean_length": float(part.lengths.mean()),
            "longest": int(part.lengths.max()),
            "truncated": int(part.truncated.sum()),
            "max_length": min(checked.run.tasks[name].max_length, limit),
        }
        for name, parts in splits.items()
        for split, part in parts.items()
    }


class _Largest:
    """The largest batch of a stream's first pass, at every turn."""

    def __init__(self, stream: BatchStream) -> None:
        self.examples = stream.examples
        self._batch = max((stream[turn] for turn in range(stream.per_pass)), key=self._padded)

    def __getitem__(self, turn: int) -> Ints:
        return self._batch

    def _padded(self, chosen: Ints) -> int:
        return int(self.examples.lengths[chosen].max()) * len(chosen)

    @property
    def shape(self) -> list[int]:
        """Rows, and tokens of the longest."""
        return [len(self._batch), int(self.examples.lengths[self._batch].max())]


def try_steps(checked: Checked) -> tuple[dict[str, Any], list[str]]:
    """Take one training step of every task on its largest batch, with all its terms on.

    Returns:
        The facts: the `plan` (each task's `TaskPlan`), its `steps` and `epoch_steps`; for each of the `tasks` the
        shape of its `batch`, the number of `parts` it is split into, task `loss`, `terms` and `seconds`; an estimate
        of the run's `seconds`, and the `peak_memory` so far, in bytes. Then the warnings that a run would show.

    Raises:
        UserError: A term or the gradient is not finite, or the run would be refused for another reason.
    """
    setup = set_up(checked, Processes.current())
    run, plan, objective, accelerator = setup.run, setup.plan, setup.objective, setup.accelerator
    warnings = check_model(setup)
    largest = {name: _Largest(stream) for name, stream in setup.streams.items()}
    streams: dict[str, Any] = {**largest}  # the trainer reads only their examples and batches
    once = np.arange(len(largest))[:, None]  # (S, 1)
    tried = replace(setup, streams=streams, plan=replace(plan, sequence=once, turns=np.zeros_like(once)))
    trainer = tried.trainer(Log(), Hooks())
    rows, seconds, on_accelerator = [], 0.0, accelerator.device.type != "cpu"
    for step, (task, (name, stream)) in enumerate(zip(plan.tasks, largest.items(), strict=True)):
        for _ in range(1 + on_accelerator):  # an accelerator's first step also loads its kernels
            start = time.perf_counter()
            try:
                records = trainer.step(step)
            except NonFiniteError as error:
                raise UserError.of(name, first_line(error)) from None
            if on_accelerator:
                torch.accelerator.synchronize()
            took = time.perf_counter() - start
        (record,) = trainer.numbers(records)
        terms = {key: record[key] for key in TERM_NAMES if key in record}
        for key, value in terms.items():
            if not math.isfinite(value) and not (key == "gradient_norm" and accelerator.scaler is not None):
                raise UserError.of(name, f"the {TERM_NAMES[key]} of a first step is {value}")
        mean = task.tokens / max(1, task.steps)
        cost = mean_relative_cost(objective.tasks[name], task.steps) / objective.cost(name, 0)
        seconds += task.steps * took * min(1.0, mean / math.prod(stream.shape)) * cost
        parts = micro_batches(
            stream.examples, stream[0], run.config.train.accumulation, ranking=run.tasks[name].type == "ranking"
        )
        rows.append(
            {
                "task": name,
                "batch": stream.shape,
                "parts": sum(map(bool, map(len, parts))),
                "loss": record["loss"],
                "terms": [key for key in terms if key != "gradient_norm"],
                "seconds": took,
            }
        )
    facts = {
        "plan": [task.model_dump() for task in plan.tasks],
        "steps": plan.steps,
        "epoch_steps": plan.epoch_steps,
        "tasks": rows,
        "seconds": seconds,
        "peak_memory": _peak_memory(accelerator.device),
    }
    return facts, warnings


def _peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of the device with CUDA, else of the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
