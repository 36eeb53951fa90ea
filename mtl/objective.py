"""The objective of one step on one task: w · (L + λ R_s + μ D), in a single forward pass of a single module.

Legend: B rows, T tokens, D width of the word embedding, C outputs, N examples (rows; in ranking queries).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtl.batch import Batch
from mtl.losses import DIVERGENCES, LOSSES, full_precision
from mtl.model import MultiTaskModel
from mtl.sampling import derive_seed
from mtl.smart import Distance, draw_noise, perturbation
from mtl.taskdef import TaskDef


@dataclass(frozen=True)
class RandomState:
    """State of the generators that dropout draws from: the CPU's and, elsewhere, the device's."""

    device: torch.device
    cpu: Tensor
    accelerator: Tensor | None


def random_state(device: torch.device) -> RandomState:
    """Reads the current state, by which a later forward pass can draw the same dropout masks."""
    accelerator = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
    return RandomState(device, torch.get_rng_state(), accelerator)


def seeded_state(seed: int, device: torch.device) -> RandomState:
    """The state right after seeding; the current one is left as it is."""
    current = random_state(device)
    torch.manual_seed(seed)
    seeded = random_state(device)
    _restore(current)
    return seeded


def _restore(state: RandomState) -> None:
    torch.set_rng_state(state.cpu)
    if state.accelerator is not None:
        torch.get_device_module(state.device).set_rng_state(state.accelerator, state.device)


@contextmanager
def replayed(state: RandomState) -> Iterator[None]:
    """Draws from a given state inside, and continues from the present one after: nothing is consumed."""
    current = random_state(state.device)
    _restore(state)
    try:
        yield
    finally:
        _restore(current)


@dataclass(frozen=True)
class Share:
    """What a micro-batch's sums are divided by to make means over the whole batch of an optimizer step.

    Attributes:
        labelled: Examples of the batch that carry a task loss.
        examples: All examples of the batch.
    """

    labelled: float
    examples: float

    @classmethod
    def whole(cls, batches: list[Batch]) -> Share:
        """The share that makes the sums over these micro-batches one mean."""
        return cls(
            labelled=max(1.0, sum(float(batch.weights.sum()) for batch in batches)),
            examples=float(sum(len(batch.weights) for batch in batches)),
        )


class Objective(nn.Module):
    """Student, teacher and the objectives of all tasks.

    Args:
        model: The student.
        tasks: Task name to its definition, weights of switched-off regularizers at 0.
        seed: The run's seed.
    """

    teacher: MultiTaskModel | None

    def __init__(self, model: MultiTaskModel, tasks: Mapping[str, TaskDef], seed: int) -> None:
        super().__init__()
        self.model = model
        self.tasks = dict(tasks)
        self.seed = seed
        # Not a registered module: no optimizer, no gradient synchronisation and no mode switch may reach it.
        teacher = make_teacher(model) if any(task.proximal.weight > 0 for task in tasks.values()) else None
        object.__setattr__(self, "teacher", teacher)

    def forward(self, task: str, batch: Batch, step: int, share: Share) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch.

        Args:
            task: The task's name.
            batch: Rows of it.
            step: Number of the optimizer step, from 0; seeds the noise.
            share: Divisors that make sums over the micro-batches of a step means.

        Returns:
            The scalar to differentiate, and the terms `loss`, `smart` and `proximal` before weighting, detached; terms
            that are off are left out.
        """
        definition = self.tasks[task]
        state = random_state(self.model.device)
        outputs = self.model(task, batch)
        loss = self._task_loss(definition, batch, outputs) / share.labelled
        terms = {"loss": loss}
        if definition.smart.weight > 0:
            terms["smart"] = self._smoothness(task, batch, outputs, state, step) / share.examples
        if definition.proximal.weight > 0:
            terms["proximal"] = self._proximity(task, batch, outputs, state) / share.examples
        total = loss
        for name in ("smart", "proximal"):
            if name in terms:
                total = total + getattr(definition, name).weight * terms[name]
        return definition.weight * total, {name: term.detach() for name, term in terms.items()}

    def _task_loss(self, definition: TaskDef, batch: Batch, outputs: Tensor) -> Tensor:
        assert definition.loss is not None
        logits, mask = by_example(outputs, batch)
        return (LOSSES[definition.loss](logits, batch.labels, mask) * batch.weights).sum()

    def _smoothness(self, task: str, batch: Batch, clean: Tensor, state: RandomState, step: int) -> Tensor:
        """R_s summed over the examples; gradient flows through both of its arguments, none through δ."""
        settings = self.tasks[task].smart
        distance = self._distance(settings.divergence, batch)
        seed = derive_seed(self.seed, "smart", task, step)
        if settings.dropout == "independent":
            state = seeded_state(derive_seed(seed, "dropout"), self.model.device)

        def f(delta: Tensor) -> Tensor:
            with replayed(state):
                outputs: Tensor = self.model(task, batch, delta)
            return outputs

        lengths = batch.attention_mask.sum(dim=1)
        shape = (*batch.input_ids.shape, self.model.word_embeddings.embedding_dim)
        noise = draw_noise(batch.rows.tolist(), lengths.tolist(), shape, seed, self.model.device)
        delta = perturbation(
            f,
            clean,
            noise.to(full_precision(clean).dtype),
            batch.attention_mask,
            distance,
            epsilon=settings.epsilon,
            noise_std=settings.noise_std,
            step_size=settings.step_size,
            steps=settings.steps,
            norm=settings.norm,
        )
        return distance(f(delta), clean).sum()

    def _proximity(self, task: str, batch: Batch, outputs: Tensor, state: RandomState) -> Tensor:
        """D summed over the examples. Teacher and student see the same dropout masks: at θ̃ = θ, D and its gradient are 0."""
        assert self.teacher is not None
        with torch.no_grad(), replayed(state):
            self.teacher.train(self.training)
            target = self.teacher(task, batch)
        return self._distance(self.tasks[task].proximal.divergence, batch)(outputs, target).sum()

    def _distance(self, name: str | None, batch: Batch) -> Distance:
        assert name is not None
        divergence = DIVERGENCES[name]

        def distance(p: Tensor, q: Tensor) -> Tensor:
            (p_logits, mask), (q_logits, _) = by_example(p, batch), by_example(q, batch)
            return divergence(p_logits, q_logits, mask)

        return distance


def by_example(outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Lays a head's outputs out by example: (B, C) as it is; in ranking (B, 1) becomes (Q, G) with its mask."""
    if batch.lists is None:
        return outputs, None
    return outputs.squeeze(-1)[batch.lists.clamp(min=0)], batch.lists >= 0


def make_teacher(model: MultiTaskModel) -> MultiTaskModel:
    """A frozen copy of the student, θ̃_0 = θ_0."""
    return copy.deepcopy(model).requires_grad_(False)
