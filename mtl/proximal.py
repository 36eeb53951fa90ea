"""The momentum Bregman proximal point update (arXiv 1911.03437, section 3.2): momentum schedule and teacher update."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mtl.taskdef import ProximalSettings


def momentum(step: int, total_steps: int, settings: ProximalSettings) -> float:
    """β of the teacher's update after a step: `beta_early` in the first `switch` fraction of the run, then `beta_late`.

    If that setting is None, β = max(0, 1 − S/(w·T)): the weights of the last w·T steps then make up about 1 − 1/e of
    the teacher.

    Args:
        step: Number of the step just done, from 1.
        total_steps: T, length of the run in steps.
        settings: The task's settings, with the window w and S inner steps.
    """
    early = step <= round(settings.switch * total_steps, 9)  # 0.29 · 100 is 28.999…
    beta = settings.beta_early if early else settings.beta_late
    if beta is None:
        beta = max(0.0, 1.0 - settings.inner_steps / (settings.window * total_steps))
    return beta


@torch.no_grad()
def update_teacher(teacher: Iterable[Tensor], student: Iterable[Tensor], beta: float) -> None:
    """Update the teacher in place, all tensors at once: θ̃ ← β θ̃ + (1 − β) θ.

    θ are the student's parameters after the optimizer step. (For S = 1, line 14 of the paper's Algorithm 1 averages the
    parameters before the step, so that the teacher would lag one step behind its definition in the text.)

    Args:
        teacher: θ̃, one tensor per parameter.
        student: θ, in the same order.
        beta: Momentum, 0 to 1.
    """
    torch._foreach_lerp_(list(teacher), list(student), 1.0 - beta)
