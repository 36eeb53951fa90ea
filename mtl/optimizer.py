"""The optimizer, and the learning rate schedule as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mtl.config import OptimizerSettings, ScheduleSettings


def learning_rate_factor(step: int, total: int, settings: ScheduleSettings) -> float:
    """Fraction of the peak learning rate at a step: linear warm-up, then constant or a decay to 0.

    Args:
        step: Number of the step, from 0.
        total: Length of the run in steps.
        settings: The schedule.
    """
    warmup = round(settings.warmup * total)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return DECAYS[settings.name](progress)


def linear(progress: float) -> float:
    """Fraction of the peak learning rate after this fraction of the decay: 1 − progress."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """Fraction of the peak learning rate after this fraction of the decay: (1 + cos(π · progress))/2."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def constant(progress: float) -> float:
    """Fraction of the peak learning rate after the warm-up: always 1."""
    return 1.0


DECAYS: dict[str, Callable[[float], float]] = {"linear": linear, "cosine": cosine, "constant": constant}


class DecoupledAdamax(torch.optim.Adamax):
    """Adamax with decoupled weight decay (arXiv 1711.05101): w ← w (1 − lr · decay) before the step.

    PyTorch's Adamax adds the decay to the gradient. After division by the running maximum of the gradient, this is a
    step of the full learning rate for every weight without a gradient, such as embeddings of words that do not occur.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        for group in self.param_groups:
            group["decoupled_decay"], group["weight_decay"] = group["weight_decay"], 0.0

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            if moving := [parameter for parameter in group["params"] if parameter.grad is not None]:
                with torch.no_grad():
                    torch._foreach_mul_(moving, 1.0 - group["lr"] * group["decoupled_decay"])
        return super().step(closure)


def make_optimizer(
    parameters: Mapping[str, Tensor], settings: OptimizerSettings, scales: Mapping[str, float]
) -> torch.optim.Optimizer:
    """Create the optimizer over named parameters, with parameter groups by weight decay and learning rate.

    One-dimensional parameters (biases, normalisation weights) have no weight decay. The heads, and the encoder's pooler
    if it has one, learn `head_factor` times as fast, because they are new or were trained for something else.

    Args:
        parameters: Parameters by their names in `MultiTaskModel.named_tensors`.
        settings: The section `optimizer`.
        scales: Magnitude of parameters where it is not about 1: their learning rate is multiplied by it, their weight
            decay divided by it. Their gradients have to be multiplied by it before each step; see `scale`.
    """
    groups: dict[tuple[bool, bool, float], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        behind, decays = name.startswith(BEHIND_THE_LAYERS), parameter.dim() > 1
        scale = scales.get(name, 1.0)
        options = {
            "params": [],
            "weight_decay": settings.weight_decay / scale if decays else 0.0,
            "factor": (settings.head_factor if behind else 1.0) * scale,
        }
        groups.setdefault((behind, decays, scale), options)["params"].append(parameter)
    make, more = OPTIMIZERS[settings.name]
    if "fused" in more:
        more = {"fused": next(iter(parameters.values())).device.type in FUSED}
    return make(list(groups.values()), lr=0.0, betas=(settings.beta1, settings.beta2), eps=settings.epsilon, **more)


BEHIND_THE_LAYERS = ("heads.", "encoder.pooler.")

FUSED = ("cpu", "cuda")  # fused kernels of other devices may ignore `grad_scale`, by which gradients are clipped

OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {"fused": True}),
    "adamax": (DecoupledAdamax, {"foreach": True}),
    "radam": (torch.optim.RAdam, {"foreach": True, "decoupled_weight_decay": True}),
}
