"""The objective of one step on one task: w · (L + λ R_s + μ D), in a single forward pass of a single module.

Legend: B rows, T tokens, D width of the word embedding, C outputs, N examples (rows; in ranking queries).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mtl.batch import Batch, send
from mtl.cost import relative_cost
from mtl.data import Examples, Ints
from mtl.losses import DIVERGENCES, LOSSES, Loss, cross_entropy
from mtl.model import MultiTaskModel
from mtl.random_state import RandomState, random_state, replayed, seeded_state
from mtl.sampling import derive_seed
from mtl.smart import STEP_POWERS, Ball, Distance, Perturbation, draw_noise, perturbation
from mtl.taskdef import TaskDef

DROPOUT_EVERY = 10  # turns of a task between two measurements of the divergence due to dropout alone


@dataclass(frozen=True)
class Divisors:
    """Divisors of a micro-batch's sums that make them add up to means over the whole batch of an optimizer step.

    Attributes:
        labelled: Number of examples of the batch that have a task loss.
        examples: Number of all examples of the batch.
    """

    labelled: float
    examples: float

    @classmethod
    def whole(cls, batch: Batch) -> Divisors:
        """Divisors for a batch that is computed in one piece."""
        return cls(labelled=max(1.0, float(batch.weights.sum())), examples=float(len(batch.weights)))

    @classmethod
    def of(cls, examples: Examples, chosen: Ints, *, ranking: bool) -> Divisors:
        """Divisors for a batch that is split into micro-batches, in any process; see `micro_batches`."""
        if not ranking:
            return cls(labelled=float(len(chosen)), examples=float(len(chosen)))
        groups = examples.groups[chosen]
        relevant = np.unique(groups[examples.labels[chosen] > 0])
        return cls(labelled=max(1.0, float(len(relevant))), examples=float(len(np.unique(groups))))

    @classmethod
    def nothing(cls) -> Divisors:
        """Infinite divisors, for a process without rows of a batch: whatever it computes counts as 0."""
        return cls(labelled=math.inf, examples=math.inf)


@torch.no_grad()
def _rms(table: nn.Embedding) -> float:
    """RMS of the vectors that a table gives, which may be scaled (Gemma); of another kind of table, of its weights."""
    if not isinstance(table, nn.Embedding):
        return float(table.weight.double().square().mean().sqrt())
    ids = torch.arange(table.weight.shape[0], device=table.weight.device)
    squares = math.fsum(float(table(part).double().square().sum()) for part in ids.split(4096))
    return math.sqrt(squares / table.weight.numel())


class Objective(nn.Module):
    """Student, teacher and the objectives of all tasks.

    Args:
        model: The student before training; the RMS of its word embeddings, for relative radii, is measured once here.
        tasks: Task name to its definition, with weight 0 for regularizers that are switched off.
        seed: The run's seed.
    """

    teacher: MultiTaskModel | None

    def __init__(self, model: MultiTaskModel, tasks: Mapping[str, TaskDef], seed: int) -> None:
        super().__init__()
        self.model = model
        self.tasks = dict(tasks)
        self.seed = seed
        smooth = any(task.smart.weight > 0 for task in tasks.values())
        self.embedding_rms = _rms(model.word_embeddings) if smooth else math.nan
        # Not a registered module: no optimizer, no gradient synchronisation and no mode switch may reach it.
        teacher = make_teacher(model) if any(task.proximal.weight > 0 for task in tasks.values()) else None
        object.__setattr__(self, "teacher", teacher)

    def forward(self, task: str, batch: Batch, turn: int, divisors: Divisors) -> tuple[Tensor, dict[str, Tensor]]:
        """Objective of one micro-batch.

        Args:
            task: The task's name.
            batch: The micro-batch.
            turn: Number of the task's earlier batches; seeds the noise.
            divisors: Divisors of the sums over examples.

        Returns:
            The scalar to differentiate, and the detached, unweighted terms: `loss`, `smart` (R_s), `proximal` (D)
            and the telemetry of R_s (`smart_…`); terms that are off are left out.
        """
        definition = self.tasks[task]
        state = random_state(self.model.device)
        outputs = self.model(task, batch)
        loss = self.task_loss(definition, batch, outputs) / divisors.labelled
        total, terms = loss, {"loss": loss}
        if self.smooths(task, turn):
            smart, telemetry = self._smoothness(task, batch, outputs, state, turn)
            terms["smart"] = smart / divisors.examples
            terms |= {name: value * (len(batch.weights) / divisors.examples) for name, value in telemetry.items()}
            total = total + definition.smart.weight * definition.smart.every * terms["smart"]
        if definition.proximal.weight > 0:
            terms["proximal"] = self._proximity(task, batch, outputs, state) / divisors.examples
            total = total + definition.proximal.weight * terms["proximal"]
        return definition.weight * total, {name: term.detach() for name, term in terms.items()}

    def smooths(self, task: str, turn: int) -> bool:
        """Whether R_s is part of the objective at this turn."""
        settings = self.tasks[task].smart
        return settings.weight > 0 and turn % settings.every == 0

    def cost(self, task: str, turn: int) -> float:
        """Cost of a step relative to a plain one; see `relative_cost`."""
        return relative_cost(self.tasks[task], smooths=self.smooths(task, turn))

    def radius_unit(self, task: str) -> float:
        """Unit of the task's radius, noise and step size (see `STEP_POWERS`): the RMS of the word embeddings, or 1."""
        return self.embedding_rms if self.tasks[task].smart.unit == "embedding_rms" else 1.0

    def task_loss(self, definition: TaskDef, batch: Batch, outputs: Tensor) -> Tensor:
        """L summed over the examples of a batch that have a task loss."""
        logits, mask = by_example(outputs, batch)
        return (loss_function(definition, logits.device)(logits, batch.labels, mask) * batch.weights).sum()

    def _smoothness(
        self, task: str, batch: Batch, clean: Tensor, state: RandomState, turn: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """R_s summed over the examples, and its telemetry.

        Gradient flows through both arguments of R_s, none through δ. Telemetry: `smart_noise` is the mean ℓ_s at the
        noise from which the ascent starts, `smart_length` the mean ‖δ‖ in units of ε, `smart_boundary` the fraction at
        the boundary; micro-batches and processes are averaged by examples. With independent masks, `smart_dropout` is
        the mean ℓ_s between the two masks at δ = 0, from an extra forward pass in every `DROPOUT_EVERY`-th turn (with
        shared masks it is 0).
        """
        settings = self.tasks[task].smart
        distance = self._distance(settings.divergence, batch)
        seed = derive_seed(self.seed, "smart", task, turn)
        if settings.dropout == "independent":
            # Masks differ between micro-batches and processes, as in the clean branch.
            state = seeded_state(derive_seed(seed, "dropout", int(batch.rows[0])), self.model.device)

        def f(delta: Tensor | None) -> Tensor:
            with replayed(state):
                outputs: Tensor = self.model(task, batch, delta)
            return outputs

        if settings.epsilon == 0:
            of_dropout = distance(f(None), clean)
            return of_dropout.sum(), {"smart_dropout": of_dropout.mean()}
        telemetry: dict[str, Tensor] = {}
        if settings.dropout == "independent" and turn % DROPOUT_EVERY == 0:
            with torch.no_grad():
                telemetry["smart_dropout"] = distance(f(None), clean).mean()
        found = self._perturbation(task, batch, clean, f, distance, seed)
        if found.at_noise is not None:
            telemetry["smart_noise"] = found.at_noise
        telemetry |= {"smart_length": found.length, "smart_boundary": found.boundary}
        return distance(f(found.delta), clean).sum(), telemetry

    def _perturbation(
        self, task: str, batch: Batch, clean: Tensor, f: Callable[[Tensor], Tensor], distance: Distance, seed: int
    ) -> Perturbation:
        settings, unit = self.tasks[task].smart, self.radius_unit(task)
        shape = (*batch.input_ids.shape, self.model.width)
        noise = draw_noise(batch.rows.tolist(), batch.lengths.tolist(), shape, seed, self.model.device)
        return perturbation(
            f,
            clean,
            noise.to(self.model.word_embeddings.weight.dtype),
            batch.attention_mask,
            distance,
            Ball(settings.norm, settings.epsilon * unit, settings.scope),
            noise_std=settings.noise_std * unit,
            step_size=settings.step_size * unit ** STEP_POWERS[settings.ascent],
            steps=settings.steps,
            ascent=settings.ascent,
        )

    def _proximity(self, task: str, batch: Batch, outputs: Tensor, state: RandomState) -> Tensor:
        """D summed over the examples.

        Teacher and student use the same dropout masks, so that D and its gradient are 0 at θ̃ = θ.
        """
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


def loss_function(task: TaskDef, device: torch.device) -> Loss:
    """The task's loss with its class weights and label smoothing; `balanced` weights have to be numbers by now."""
    assert task.loss is not None and task.class_weights != "balanced"
    if task.loss != "cross_entropy":
        return LOSSES[task.loss]
    weights = None if task.class_weights is None else send(torch.tensor(task.class_weights), device)
    return partial(cross_entropy, class_weights=weights, label_smoothing=task.label_smoothing or 0.0)


def with_class_weights(task: TaskDef, labels: npt.NDArray[np.floating]) -> TaskDef:
    """The task with numbers in place of `balanced`: N/(C n_c), 0 for a class without a row.

    Args:
        task: The task.
        labels: Class indices of its training rows, (N,).
    """
    if task.class_weights != "balanced":
        return task
    counts = np.bincount(labels.astype(np.int64), minlength=task.num_labels)
    weights = np.divide(len(labels) / len(counts), counts, out=np.zeros(len(counts)), where=counts > 0)
    return task.model_copy(update={"class_weights": weights.tolist()})


def by_example(outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Arrange a head's outputs by example: (B, C) stays as it is; in ranking, (B, 1) becomes (Q, G) with its mask.

    Outputs of a regression are divided by the batch's label scale.
    """
    if batch.lists is None:
        return (outputs if batch.label_scale == 1 else outputs / batch.label_scale), None
    return outputs.squeeze(-1)[batch.lists.clamp(min=0)], batch.lists >= 0


def make_teacher(model: MultiTaskModel) -> MultiTaskModel:
    """A frozen copy of the student, θ̃_0 = θ_0."""
    return copy.deepcopy(model).requires_grad_(False)
