"""Cost of a training step in forward passes: a forward counts 1, a full backward 2, a backward to δ alone 1."""

from __future__ import annotations

from mtl.taskdef import TaskDef

PLAIN = 3  # one forward and one full backward pass


def forward_passes(steps: int, *, smart: bool, perturbed: bool, proximal: bool) -> int:
    """Cost of a step.

    Args:
        steps: K.
        smart: Whether R_s is on.
        perturbed: Whether its radius is above 0 (otherwise there is no ascent).
        proximal: Whether D is on.
    """
    ascent = 2 * steps if perturbed else 0
    smoothness = 3 + ascent if smart else 0
    return PLAIN + smoothness + (1 if proximal else 0)


def relative_cost(task: TaskDef, *, smooths: bool) -> float:
    """Cost of a task's step, with or without R_s, relative to a plain one; what only telemetry computes is left out."""
    perturbed, proximal = task.smart.epsilon > 0, task.proximal.weight > 0
    return forward_passes(task.smart.steps, smart=smooths, perturbed=perturbed, proximal=proximal) / PLAIN


def mean_relative_cost(task: TaskDef, turns: int | None = None) -> float:
    """Mean of `relative_cost` over a cycle of `smart.every` turns, or over the task's first `turns`, if fewer."""
    cycle = min(task.smart.every, turns or task.smart.every)
    first, others = (relative_cost(task, smooths=on) for on in (task.smart.weight > 0, False))
    return (first + (cycle - 1) * others) / cycle
