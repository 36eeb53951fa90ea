"""The momentum Bregman proximal point update (arXiv 1911.03437, section 3.2): a slow teacher and its momentum."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mtl.taskdef import ProximalSettings


def momentum(step: int, total_steps: int, settings: ProximalSettings) -> float:
    """β of the teacher's update after a step: `beta_early` for the first `switch` of the run, then `beta_late`.

    Args:
        step: Number of the step just done, from 1.
        total_steps: Length of the run.
        settings: The task's settings.
    """
    return settings.beta_early if step <= settings.switch * total_steps else settings.beta_late


@torch.no_grad()
def update_teacher(teacher: Iterable[Tensor], student: Iterable[Tensor], beta: float) -> None:
    """θ̃ ← β θ̃ + (1 − β) θ, in place and for all tensors at once.

    The student's parameters are those after the optimizer's step. (Line 14 of the paper's Algorithm 1 averages the
    iterate before it when S = 1, by which the teacher would lag one step behind its definition in the text.)

    Args:
        teacher: θ̃, one tensor per parameter.
        student: θ, in the same order.
        beta: Momentum, 0 to 1.
    """
    torch._foreach_lerp_(list(teacher), list(student), 1.0 - beta)
