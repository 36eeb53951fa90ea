"""Smoothness-inducing adversarial regularization (arXiv 1911.03437, section 3.1 and Algorithm 1).

The functions here take tensors and a callable `f` from a perturbation δ to outputs; they know of no model.

Legend: B rows, T tokens, D width of the word embedding, N examples (rows, or queries in ranking).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from mtl.sampling import derive_seed

Outputs: TypeAlias = Callable[[Tensor], Tensor]  # δ (B, T, D) -> outputs
Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (perturbed, clean) -> (N,)


def norm_linf(values: Tensor) -> Tensor:
    """max |v| over the whole example: (B, T, D) -> (B, 1, 1)."""
    return values.abs().amax(dim=(1, 2), keepdim=True)


def norm_l2(values: Tensor) -> Tensor:
    """√Σ v² over the whole example: (B, T, D) -> (B, 1, 1)."""
    return torch.linalg.vector_norm(values, dim=(1, 2), keepdim=True)


def project_linf(delta: Tensor, radius: float) -> Tensor:
    """Nearest point of the ball max |v| ≤ radius, (B, T, D)."""
    return delta.clamp(-radius, radius)


def project_l2(delta: Tensor, radius: float) -> Tensor:
    """Nearest point of the ball ‖v‖₂ ≤ radius, (B, T, D)."""
    norm = norm_l2(delta)
    return torch.where(norm > radius, delta * (radius / norm.clamp(min=torch.finfo(delta.dtype).tiny)), delta)


def normalised(gradient: Tensor, norm: str) -> Tensor:
    """g/‖g‖ over each whole example; an example with g = 0 gives 0, (B, T, D).

    The gradient is divided by its largest entry first, as its square may underflow where it does not.
    """
    largest = norm_linf(gradient)
    scaled = gradient / torch.where(largest > 0, largest, 1.0)
    length = NORMS[norm][0](scaled)
    return scaled / torch.where(length > 0, length, 1.0)


def draw_noise(
    rows: Sequence[int], lengths: Sequence[int], shape: tuple[int, int, int], seed: int, device: torch.device
) -> Tensor:
    """Standard normal noise on the first `length` tokens of every row, 0 beyond.

    Each row draws from a generator of its own, so its noise depends neither on the rest of the batch, nor on how far it
    is padded, nor on how a batch is spread over processes; the global generator is not touched.

    Args:
        rows: Position of each row in its source, (B,).
        lengths: Real tokens of each row, (B,).
        shape: (B, T, D).
        seed: Seed of the step.
        device: Where to draw; the numbers differ between kinds of device.

    Returns:
        float32, (B, T, D).
    """
    noise = torch.zeros(shape, device=device)
    for position, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        generator = torch.Generator(device).manual_seed(derive_seed(seed, row))
        noise[position, :length] = torch.randn((length, shape[2]), generator=generator, device=device)
    return noise


def perturbation(
    f: Outputs,
    clean: Tensor,
    noise: Tensor,
    mask: Tensor,
    distance: Distance,
    *,
    epsilon: float,
    noise_std: float,
    step_size: float,
    steps: int,
    norm: str,
) -> Tensor:
    """The adversarial δ by projected gradient ascent (Algorithm 1, lines 5 to 9).

        δ ← Π_ε(σ·ν);  repeat K times:  g = ∇_δ ℓ_s(f(x + δ), f(x)),  δ ← Π_ε(δ + η·g/‖g‖)

    Against the paper: the noise is projected too, so that δ lies in the ball for K = 0 as well, and the gradient is
    normalised over all tokens of an example. Only δ is differentiated: no parameter's gradient is computed or touched.

    Args:
        f: Outputs for a perturbation.
        clean: f(0); treated as a constant.
        noise: ν, (B, T, D).
        mask: 1 on real tokens, (B, T); δ is 0 elsewhere.
        distance: ℓ_s, per example.
        epsilon: ε, radius.
        noise_std: σ.
        step_size: η.
        steps: K.
        norm: `linf` or `l2`, for the ball and the normalisation.

    Returns:
        δ, a constant, (B, T, D).
    """
    project = NORMS[norm][1]
    real = mask[..., None].to(noise.dtype)  # (B, T, 1)
    target = clean.detach()
    delta = project(noise_std * noise * real, epsilon)
    for _ in range(steps):
        with torch.enable_grad():
            delta.requires_grad_()
            # A view, because module trackers put hooks on what they see, and autograd.grad refuses hooks on a leaf.
            outputs = f(delta.view_as(delta))
            (gradient,) = torch.autograd.grad(distance(outputs, target).sum(), delta)
        delta = project(delta.detach() + step_size * normalised(gradient * real, norm), epsilon)
    return delta.detach()


NORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, float], Tensor]]] = {
    "linf": (norm_linf, project_linf),
    "l2": (norm_l2, project_l2),
}
