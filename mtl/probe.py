"""Interaction of tasks in the shared encoder: cosines between the gradients of their losses on fixed rows.

Legend: K tasks, P parameters of the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl.batch import BatchStream, collate, micro_batches, pass_batches
from mtl.config import Run
from mtl.data import Examples, Ints
from mtl.model import layers
from mtl.objective import Objective
from mtl.processes import Processes
from mtl.random_state import random_state, replayed
from mtl.sampling import derive_seed
from mtl.subsets import count_units, few_shot
from mtl.taskdef import TaskDef

HELD = 4  # gradients kept in host memory at a time, each as large as the encoder


class Probe:
    """Compare the tasks' gradients on fixed training rows, without any effect on training.

    Gradients are those of the plain loss (no dropout, no regularizer, full precision) with respect to the encoder's
    parameters. Two are held on the device while they are added up, and at most `HELD` + 1 in host memory (+ 2 if it is
    the device's); with more tasks than that, some are computed again. Each process computes its part of the rows; the
    main process keeps and compares gradients.

    Args:
        run: Configuration and tasks.
        objective: The student, not sharded.
        streams: Each task's training batches.
        pad_id: The tokenizer's padding id.
        processes: The processes of the run, all of which have to measure at the same step.
    """

    def __init__(
        self,
        run: Run,
        objective: Objective,
        streams: Mapping[str, BatchStream],
        pad_id: int,
        processes: Processes,
    ) -> None:
        self.run, self.objective, self.pad_id, self.processes = run, objective, pad_id, processes
        self._parameters = [p for p in objective.model.encoder.parameters() if p.requires_grad]
        rows, seed = run.config.telemetry.probe_rows, run.config.train.seed
        self._rows: dict[str, tuple[Examples, list[Ints]]] = {}
        for name, stream in streams.items():
            examples = probe_rows(run.tasks[name], stream.examples, rows, derive_seed(seed, "probe", name))
            self._rows[name] = examples, self._pieces(run.tasks[name], examples, derive_seed(seed, "probe", name))

    def due(self, step: int) -> bool:
        """Whether to measure after a step."""
        every = self.run.config.telemetry.gradient_cosine_every
        return every is not None and step % every == 0

    def measure(self) -> dict[str, Any]:
        """Measure the tasks' gradients; every process has to call this, and only the main one gets valid values.

        Returns:
            Names of the tasks (`tasks`), the cosine of each pair (`cosines`, (K, K)), None if a gradient is 0 or not
            finite, and the norms of the gradients (`norms`, (K,)), None if not finite.
        """
        model, names = self.objective.model, list(self._rows)
        training = model.training
        model.eval()
        try:
            with replayed(random_state(model.device)):  # some architectures draw in evaluation mode too
                products = self._products(names)
        finally:
            model.train(training)
        norms = [math.sqrt(products[i][i]) for i in range(len(names))]
        cosines = [[_cosine(products[i][j], norms[i], norms[j]) for j in range(len(names))] for i in range(len(names))]
        finite = [norm if math.isfinite(norm) else None for norm in norms]
        return {"tasks": names, "cosines": cosines, "norms": finite}

    def _products(self, names: Sequence[str]) -> list[list[float]]:
        """Inner products of all pairs of gradients, (K, K)."""
        found = np.zeros((len(names), len(names)))
        for start in range(0, len(names), HELD):
            held: dict[int, list[Tensor]] = {}
            for j in range(start, len(names)):
                gradient = self._gradient(names[j])
                if not self.processes.is_main:
                    continue
                kept = [part.cpu() for part in gradient]
                if j < start + HELD:
                    held[j] = kept
                for i, other in held.items():
                    found[i, j] = found[j, i] = _product(other, kept)
                del gradient, kept  # to free memory before the next is computed
        products: list[list[float]] = found.tolist()
        return products

    def _gradient(self, name: str) -> list[Tensor]:
        """Gradient of a task's mean loss over its probe rows, one tensor per parameter."""
        task, (examples, pieces) = self.objective.tasks[name], self._rows[name]
        batches = [collate(examples, piece, self.pad_id, task.type) for piece in pieces]
        labelled = max(1.0, sum(float(batch.weights.sum()) for batch in batches))
        total = [torch.zeros_like(parameter) for parameter in self._parameters]
        for batch in batches[self.processes.rank :: self.processes.count]:
            there = batch.to(self.objective.model.device)
            loss = self.objective.task_loss(task, there, self.objective.model(name, there)) / labelled
            # Unlike backward(), this neither changes the parameters' gradients nor makes processes exchange them.
            parts = torch.autograd.grad(loss, self._parameters, allow_unused=True)
            for whole, part in zip(total, parts, strict=True):
                if part is not None:
                    whole += part
            del parts
        return [self.processes.total(whole) for whole in total]

    def _pieces(self, task: TaskDef, examples: Examples, seed: int) -> list[Ints]:
        """Micro-batches of the rows that need no more memory than in training; overlong lists are cut as in training.

        Transformers does not use activation checkpointing in evaluation mode. If training uses it, micro-batches are
        smaller here by the number of layers, as the activations of all layers are held at once.
        """
        ranking, parts = task.type == "ranking", self.run.config.train.accumulation * self.processes.count
        if self.run.config.train.gradient_checkpointing:
            parts *= len(layers(self.objective.model.encoder))
        batches = pass_batches(examples, task.batch_size, seed, ranking=ranking, batch_tokens=task.batch_tokens)
        return [p for chosen in batches for p in micro_batches(examples, chosen, parts, ranking=ranking) if len(p)]


def probe_rows(task: TaskDef, examples: Examples, rows: int, seed: int) -> Examples:
    """Seeded sample of about `rows` rows, in the proportions of the classes; in ranking whole queries, at least one."""
    units = count_units(task, examples)
    return few_shot(task, examples, max(1, round(rows * units / len(examples))), None, seed)


def _product(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return math.fsum(float(torch.dot(x.flatten(), y.flatten())) for x, y in zip(a, b, strict=True))


def _cosine(product: float, a: float, b: float) -> float | None:
    if not (0 < a < math.inf and 0 < b < math.inf):
        return None
    return min(1.0, max(-1.0, product / (a * b)))
