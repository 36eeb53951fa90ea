"""How tasks pull at the shared encoder: the cosine between the gradients of their losses on rows that stay the same.

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
from mtl.objective import Objective, random_state, replayed
from mtl.parts import count_units, few_shot
from mtl.processes import Processes
from mtl.sampling import derive_seed
from mtl.taskdef import TaskDef

HELD = 4  # gradients kept at a time, each as large as the encoder


class Probe:
    """Compares the tasks' gradients on fixed training rows; training does not notice it.

    Gradients are of the plain loss (dropout off, no regularizer, full precision) by the encoder's parameters. At most
    `HELD` of them are kept, in the machine's memory, and one more is on the device: with more tasks than that some are
    computed again. Each process computes its part of the rows; the main one keeps and compares.

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
        """The names of the tasks, the cosines of each pair of them, (K, K), and the norms of their gradients, (K,).

        A cosine is None where a gradient is 0 or not finite, a norm where it is not finite.
        """
        model, names = self.objective.model, list(self._rows)
        training = model.training
        model.eval()
        try:
            with replayed(random_state(model.device)):  # also where an architecture draws without being asked to train
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
                del gradient, kept  # before the next is computed
        products: list[list[float]] = found.tolist()
        return products

    def _gradient(self, name: str) -> list[Tensor]:
        """The gradient of a task's mean loss over its probe, by parameter."""
        task, (examples, pieces) = self.objective.tasks[name], self._rows[name]
        batches = [collate(examples, piece, self.pad_id, task.type) for piece in pieces]
        labelled = max(1.0, sum(float(batch.weights.sum()) for batch in batches))
        total = [torch.zeros_like(parameter) for parameter in self._parameters]
        for batch in batches[self.processes.rank :: self.processes.count]:
            there = batch.to(self.objective.model.device)
            loss = self.objective.task_loss(task, there, self.objective.model(name, there)) / labelled
            # Unlike backward(): nothing is added to what the parameters hold, and processes exchange nothing.
            parts = torch.autograd.grad(loss, self._parameters, allow_unused=True)
            for whole, part in zip(total, parts, strict=True):
                if part is not None:
                    whole += part
            del parts
        return [self.processes.total(whole) for whole in total]

    def _pieces(self, task: TaskDef, examples: Examples, seed: int) -> list[Ints]:
        """The rows in micro-batches that take no more memory than the training's; too long lists are cut as there.

        Transformers does not compute activations again in evaluation mode: where training does, a piece holds those of
        all layers at once, and is smaller by their number.
        """
        ranking, parts = task.type == "ranking", self.run.config.train.accumulation * self.processes.count
        if self.run.config.train.gradient_checkpointing:
            parts *= len(layers(self.objective.model.encoder))
        batches = pass_batches(examples, task.batch_size, seed, ranking=ranking, batch_tokens=task.batch_tokens)
        return [p for chosen in batches for p in micro_batches(examples, chosen, parts, ranking=ranking) if len(p)]


def probe_rows(task: TaskDef, examples: Examples, rows: int, seed: int) -> Examples:
    """A seeded choice of about so many rows: classes by their shares, in ranking whole queries, at least one."""
    units = count_units(task, examples)
    return few_shot(task, examples, max(1, round(rows * units / len(examples))), None, seed)


def _product(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return math.fsum(float(torch.dot(x.flatten(), y.flatten())) for x, y in zip(a, b, strict=True))


def _cosine(product: float, a: float, b: float) -> float | None:
    if not (0 < a < math.inf and 0 < b < math.inf):
        return None
    return min(1.0, max(-1.0, product / (a * b)))
