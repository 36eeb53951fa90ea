"""Smoothness-inducing adversarial regularization (arXiv 1911.03437, section 3.1 and Algorithm 1).

The functions take tensors and a callable `f` from a perturbation δ to outputs; they do not depend on a model class.

Departures from the paper's Algorithm 1:
- the initial noise is projected into the ball, so that δ lies in it for K = 0 as well;
- g/‖g‖ is taken over all tokens of an example, and is 0 where g = 0;
- ℓ_s is computed in one cancellation-free form (see `losses.sym_kl`).
Departures from the authors' public code (MT-DNN), whose ascent `ascent="normalized"` with `scope="token"` reproduces:
- it rescales δ to unit norm instead of projecting it into a ball;
- it perturbs the output of the whole embedding layer and passes that through the embedding layer again; here the word
  embeddings are perturbed, once, so its unit radius corresponds to a radius relative to their root mean square;
- it detaches one side of each divergence, which halves the gradient; here gradient flows through both.

Legend: B rows, T tokens, D width of the word embedding, N examples (rows, or queries in ranking).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from mtl.losses import full_precision
from mtl.sampling import derive_seed

Outputs: TypeAlias = Callable[[Tensor], Tensor]  # δ (B, T, D) -> outputs
Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (perturbed, clean) -> (N,)

DIMENSIONS = {"example": (1, 2), "token": (2,)}
BOUNDARY = 1e-4  # relative distance from the radius within which a coordinate counts as at the boundary


@dataclass(frozen=True)
class Ball:
    """The set of allowed perturbations.

    Attributes:
        norm: `linf` or `l2`.
        radius: ε, in the units of the word embeddings.
        scope: `example` for one ball around all tokens of a row, `token` for one around each.
    """

    norm: str
    radius: float
    scope: str = "example"

    def length(self, values: Tensor) -> Tensor:
        """‖v‖ of each row or token: (B, T, D) -> (B, 1, 1) or (B, T, 1)."""
        return NORMS[self.norm](values, DIMENSIONS[self.scope])

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point of the ball, (B, T, D)."""
        if self.norm == "linf":
            return delta.clamp(-self.radius, self.radius)
        length = self.length(delta)
        scaled = delta * (self.radius / length.clamp(min=torch.finfo(delta.dtype).tiny))
        return torch.where(length > self.radius, scaled, delta)

    def direction(self, values: Tensor) -> Tensor:
        """v/‖v‖; 0 where v = 0, (B, T, D).

        Values are divided by their largest magnitude first, because their squares may underflow although they do not.
        """
        largest = norm_linf(values, DIMENSIONS[self.scope])
        scaled = values / torch.where(largest > 0, largest, 1.0)
        length = self.length(scaled)
        return scaled / torch.where(length > 0, length, 1.0)

    def boundary_share(self, delta: Tensor, real: Tensor) -> Tensor:
        """Fraction at the boundary: of real tokens' coordinates for linf, of rows or real tokens for l2; a scalar."""
        reached = delta.abs() if self.norm == "linf" else self.length(delta)
        counted = real.expand_as(reached) if reached.shape[1] == real.shape[1] else torch.ones_like(reached)
        at = (reached >= self.radius * (1 - BOUNDARY)).to(delta.dtype)
        return (at * counted).sum() / counted.sum()


def norm_linf(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    """max |v|, dimensions kept."""
    return values.abs().amax(dim=dim, keepdim=True)


def norm_l2(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    """√Σ v², dimensions kept."""
    return torch.linalg.vector_norm(values, dim=dim, keepdim=True)


def draw_noise(
    rows: Sequence[int], lengths: Sequence[int], shape: tuple[int, int, int], seed: int, device: torch.device
) -> Tensor:
    """Standard normal noise on the first `length` tokens of every row, 0 beyond.

    Each row draws from its own generator, so that its noise depends neither on the rest of the batch, nor on padding,
    nor on how a batch is distributed over processes; the global generator is not used.

    Args:
        rows: Position of each row in its source, (B,).
        lengths: Real tokens of each row, (B,).
        shape: (B, T, D).
        seed: Seed of the step.
        device: Device to draw on; the numbers differ between device types.

    Returns:
        float32, (B, T, D).
    """
    noise = torch.zeros(shape, device=device)
    for position, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        generator = torch.Generator(device).manual_seed(derive_seed(seed, row))
        noise[position, :length] = torch.randn((length, shape[2]), generator=generator, device=device)
    return noise


@dataclass(frozen=True)
class Perturbation:
    """The adversarial δ and statistics of its ascent.

    Attributes:
        delta: δ, detached, (B, T, D).
        at_noise: Mean of ℓ_s at the projected noise; None for K = 0, where δ is that noise.
        length: Mean of ‖δ‖ over rows (or real tokens), in units of the radius.
        boundary: Fraction at the boundary; see `Ball.boundary_share`.
    """

    delta: Tensor
    at_noise: Tensor | None
    length: Tensor
    boundary: Tensor


def perturbation(
    f: Outputs,
    clean: Tensor,
    noise: Tensor,
    mask: Tensor,
    distance: Distance,
    ball: Ball,
    *,
    noise_std: float,
    step_size: float,
    steps: int,
    ascent: str = "projected",
) -> Perturbation:
    """Find the adversarial δ by gradient ascent (Algorithm 1, lines 5 to 9).

        δ ← Π_ε(σ·ν);  repeat K times:  g = ∇_δ ℓ_s(f(x + δ), f(x)),  δ ← Π_ε(δ + η·g/‖g‖)      (projected)
                                                                      δ ← ε·(δ + η·g)/‖δ + η·g‖   (normalized)

    Gradients are computed with respect to δ only; parameter gradients are neither computed nor changed.

    Args:
        f: Outputs under a perturbation.
        clean: f(0); treated as a constant.
        noise: ν, (B, T, D).
        mask: 1 on real tokens, (B, T); δ is 0 elsewhere.
        distance: ℓ_s, per example.
        ball: Π_ε and ‖·‖.
        noise_std: σ, in the units of the word embeddings.
        step_size: η, in the same units, or with `normalized` in their square.
        steps: K.
        ascent: A name in `ASCENTS`.
    """
    real = mask[..., None].to(noise.dtype)  # (B, T, 1)
    target = clean.detach()
    delta = ball.project(noise_std * noise * real)
    at_noise = None
    for _ in range(steps):
        value, gradient = _input_gradient(f, delta, target, distance)
        at_noise = value.mean() if at_noise is None else at_noise
        delta = ASCENTS[ascent](delta.detach(), gradient * real, step_size, ball)
    length = ball.length(delta)
    weights = real if ball.scope == "token" else torch.ones_like(length)
    mean_length = (length * weights).sum() / weights.sum()
    relative = mean_length / ball.radius if ball.radius > 0 else mean_length
    return Perturbation(delta.detach(), at_noise, relative, ball.boundary_share(delta, real))


@torch.enable_grad()
def _input_gradient(f: Outputs, delta: Tensor, target: Tensor, distance: Distance) -> tuple[Tensor, Tensor]:
    """ℓ_s, (N,), and its gradient with respect to δ, (B, T, D).

    The gradient with respect to the outputs is computed in full precision and scaled to a largest entry of 1 in each
    row before backpropagation through the network, where it might underflow in half precision; the result is scaled
    back.
    """
    delta.requires_grad_()
    # A view, because module trackers register hooks on the tensors they see, and autograd.grad refuses hooks on a leaf.
    outputs = f(delta.view_as(delta))  # (B, C)
    leaf = full_precision(outputs.detach()).requires_grad_()
    value = distance(leaf, target)
    (upstream,) = torch.autograd.grad(value.sum(), leaf)
    size = upstream.abs().amax(dim=-1, keepdim=True)
    size = torch.where(size > 0, size, 1.0)  # (B, 1)
    (gradient,) = torch.autograd.grad(outputs, delta, (upstream / size).to(outputs.dtype))
    return value.detach(), gradient * size[..., None]


def projected_step(delta: Tensor, gradient: Tensor, step_size: float, ball: Ball) -> Tensor:
    """Ascent step of the paper: Π_ε(δ + η·g/‖g‖), (B, T, D)."""
    return ball.project(delta + step_size * ball.direction(gradient))


def normalized_step(delta: Tensor, gradient: Tensor, step_size: float, ball: Ball) -> Tensor:
    """Ascent step of the public code: ε·(δ + η·g)/‖δ + η·g‖, always of the ball's radius, (B, T, D)."""
    return ball.radius * ball.direction(delta + step_size * gradient)


ASCENTS: dict[str, Callable[[Tensor, Tensor, float, Ball], Tensor]] = {
    "projected": projected_step,
    "normalized": normalized_step,
}

# The unit of a step size η, as a power of that of length: a normalized step multiplies a gradient, which is per length.
STEP_POWERS = {"projected": 1, "normalized": 2}

NORMS: dict[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = {"linf": norm_linf, "l2": norm_l2}
