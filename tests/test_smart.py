"""The smoothness regularizer against closed forms and a naive reference, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from reference import smart as reference
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mtl.cost import forward_passes
from mtl.losses import DIVERGENCES
from mtl.smart import ASCENTS, NORMS, STEP_POWERS, Ball, Perturbation, draw_noise, perturbation

CPU = torch.device("cpu")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance_of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda p, q: DIVERGENCES[name](p, q, None)


def search(
    f: Callable[[Tensor], Tensor],
    noise: Tensor,
    divergence: str,
    mask: Tensor | None = None,
    *,
    norm: str = "linf",
    epsilon: float = 0.5,
    scope: str = "example",
    **options: Any,
) -> Perturbation:
    mask = torch.ones(noise.shape[:2]) if mask is None else mask
    with torch.no_grad():
        clean = f(torch.zeros_like(noise))
    settings: dict[str, Any] = {"noise_std": 0.5, "step_size": 0.5, "steps": 1}
    ball = Ball(norm, epsilon, scope)
    return perturbation(f, clean, noise, mask, distance_of(divergence), ball, **(settings | options))


def attack(*args: Any, **options: Any) -> Tensor:
    return search(*args, **options).delta


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_linear_model_reaches_the_maximum_over_the_ball(norm: str, dual: int) -> None:
    """max over ‖δ‖ ≤ ε of (wᵀδ)² is ε² ‖w‖²_* with the dual norm."""
    w, epsilon = randn(3, 4, seed=1), 0.3

    def f(delta: Tensor) -> Tensor:
        return (delta * w).sum(dim=(1, 2), keepdim=True).squeeze(-1)

    delta = attack(f, randn(2, 3, 4), "mse", norm=norm, epsilon=epsilon, step_size=1e6 * epsilon, steps=3)
    expected = torch.full(
        (2,), epsilon**2 * float(torch.linalg.vector_norm(w.flatten(), dual)) ** 2, dtype=torch.float64
    )
    torch.testing.assert_close(f(delta).square().squeeze(-1), expected, rtol=1e-9, atol=0)


def test_binary_logistic_model_equals_its_closed_form() -> None:
    """Logits (s, −s) with s = wᵀ(x + δ): R_s = (σ(2s') − σ(2s)) (2s' − 2s) at a corner, s' = s ± ε‖w‖₁."""
    w, x, epsilon = randn(2, 3, seed=1), randn(1, 2, 3, seed=2), 0.2
    s = float((w * x).sum())

    def f(delta: Tensor) -> Tensor:
        score = (w * (x + delta)).sum(dim=(1, 2))
        return torch.stack([score, -score], dim=-1)

    delta = attack(f, randn(1, 2, 3), "sym_kl", epsilon=epsilon, step_size=1e6 * epsilon, steps=2)
    reached = float((w * (x + delta)).sum())
    assert abs(abs(reached - s) - epsilon * float(w.abs().sum())) < 1e-12  # a corner of the ball
    p, q = 1 / (1 + np.exp(-2 * reached)), 1 / (1 + np.exp(-2 * s))
    # Both classes give (p − q)(logit difference), the logit of p being 2s'.
    expected = (p - q) * (2 * reached - 2 * s)
    value = DIVERGENCES["sym_kl"](f(delta), f(torch.zeros_like(delta)), None)
    torch.testing.assert_close(value, torch.tensor([expected], dtype=torch.float64), rtol=1e-9, atol=0)


def two_layer(x: Tensor, weights: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda delta: torch.tanh((x + delta) @ weights["w1"] + weights["b1"]).sum(dim=1) @ weights["w2"]


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("divergence", sorted(DIVERGENCES))
@pytest.mark.parametrize("norm", sorted(NORMS))
def test_value_and_gradient_equal_the_naive_reference(norm: str, divergence: str, steps: int) -> None:
    x, noise = randn(2, 3, 4, seed=3), randn(2, 3, 4, seed=4)
    weights = {"w1": randn(4, 5, seed=5), "b1": randn(5, seed=6), "w2": randn(5, 3, seed=7)}
    options: dict[str, Any] = {"norm": norm, "epsilon": 0.3, "noise_std": 0.2, "step_size": 0.25, "steps": steps}
    parameters = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    f = two_layer(x, parameters)
    delta = attack(f, noise, divergence, **options)
    value = DIVERGENCES[divergence](f(delta), f(torch.zeros_like(delta)), None).mean()
    value.backward()

    plain = {name: tensor.numpy() for name, tensor in weights.items()}
    rows = [
        reference.smoothness(x[i].numpy(), noise[i].numpy(), plain, divergence=divergence, **options) for i in range(2)
    ]
    np.testing.assert_allclose(delta.numpy(), np.stack([row[1] for row in rows]), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(value.item(), np.mean([row[0] for row in rows]), rtol=1e-9)

    def objective(changed: dict[str, np.ndarray]) -> Any:
        distance, f = reference.DIVERGENCES[divergence], reference.network
        per_row = [distance(f(x[i].numpy() + delta[i].numpy(), changed), f(x[i].numpy(), changed)) for i in range(2)]
        return sum(per_row) / 2

    for name, parameter in parameters.items():
        assert parameter.grad is not None
        exact = reference.gradient(lambda moved, name=name: objective(plain | {name: moved}), plain[name])  # type: ignore[misc]
        np.testing.assert_allclose(parameter.grad.numpy(), exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scope", ["example", "token"])
@pytest.mark.parametrize("norm", sorted(NORMS))
def test_projection_is_the_nearest_point_of_the_ball(norm: str, scope: str) -> None:
    ball = Ball(norm, 0.5, scope)
    values = randn(4, 3, 2) * torch.tensor([0.01, 0.1, 1.0, 10.0], dtype=torch.float64)[:, None, None]
    projected = ball.project(values)
    assert (ball.length(projected) <= 0.5 * (1 + 1e-12)).all()
    inside = (ball.length(values) <= 0.5).expand_as(values)
    assert torch.equal(projected[inside], values[inside])
    for other in (ball.project(randn(4, 3, 2, seed=s)) for s in range(1, 20)):
        assert ((values - projected).norm(dim=(1, 2)) <= (values - other).norm(dim=(1, 2)) + 1e-12).all()


def test_lengths_are_of_the_whole_example_or_of_each_token() -> None:
    values = torch.tensor([[[3.0, 4.0], [0.0, -12.0]]])
    assert Ball("l2", 1).length(values).tolist() == [[[13.0]]]
    assert Ball("l2", 1, "token").length(values).tolist() == [[[5.0], [12.0]]]
    assert Ball("linf", 1).length(values).tolist() == [[[12.0]]]
    assert Ball("linf", 1, "token").length(values).tolist() == [[[4.0], [12.0]]]


def test_vanishing_and_tiny_gradients_do_not_become_nan() -> None:
    zero = torch.zeros(1, 2, 3)
    tiny = torch.full((1, 2, 3), 1e-30)  # squares to 0 in float32
    for norm in NORMS:
        ball = Ball(norm, 1.0)
        assert torch.equal(ball.direction(zero), zero)
        torch.testing.assert_close(ball.length(ball.direction(tiny)), torch.ones(1, 1, 1))
    constant = attack(lambda delta: torch.ones(2, 3, dtype=torch.float64) + 0 * delta.sum(), randn(2, 4, 3), "sym_kl")
    assert torch.equal(constant, (0.5 * randn(2, 4, 3)).clamp(-0.5, 0.5))


def test_half_precision_gradients_of_a_tiny_distance_do_not_vanish() -> None:
    """The outputs' gradient of 1e-9 is 0 as a half-precision number; the direction of the ascent survives."""
    w = randn(12, 2, seed=1).float()

    def f(delta: Tensor) -> Tensor:
        return (delta.flatten(1) @ w).half()

    def tiny(p: Tensor, q: Tensor) -> Tensor:
        return 1e-9 * DIVERGENCES["mse"](p, q, None)

    noise = randn(2, 3, 4).float()
    found = [
        perturbation(
            f, f(0 * noise), noise, torch.ones(2, 3), d, Ball("linf", 0.5), noise_std=1.0, step_size=1e6, steps=1
        )
        for d in (tiny, distance_of("mse"))
    ]
    assert torch.equal(found[0].delta, found[1].delta)
    assert float(found[0].boundary) == 1.0


def test_public_code_rescales_every_token_to_the_radius() -> None:
    """δ ← ε (σν + η g)/‖σν + η g‖ per token, with the gradient as it is."""
    w = randn(3, 4, seed=1)

    def f(delta: Tensor) -> Tensor:
        return (delta * w).sum(dim=(1, 2), keepdim=True).squeeze(-1)

    noise, noise_std, step_size = randn(2, 3, 4), 0.1, 0.01
    options: dict[str, Any] = {"noise_std": noise_std, "step_size": step_size, "epsilon": 5.0, "scope": "token"}
    found = search(f, noise, "mse", ascent="normalized", **options)
    start = noise_std * noise
    gradient = 2 * (start * w).sum(dim=(1, 2), keepdim=True) * w  # of (wᵀδ)²
    raw = start + step_size * gradient
    expected = 5.0 * raw / raw.abs().amax(dim=-1, keepdim=True)
    torch.testing.assert_close(found.delta, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.length, torch.tensor(1.0, dtype=torch.float64), rtol=1e-9, atol=0)
    assert set(ASCENTS) == {"projected", "normalized"}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("ascent", ASCENTS)
def test_perturbation_has_the_unit_of_the_embeddings(ascent: str, norm: str) -> None:
    """Embeddings s times as large: f(δ) becomes f(δ/s), and with ε, σ and η in their unit δ becomes s·δ."""
    w, s, noise = randn(3, 4, 5, seed=1), 0.05, randn(2, 3, 4)

    def f(delta: Tensor) -> Tensor:
        return torch.tanh(torch.einsum("btd,tdc->bc", delta, w))

    plain, scaled = (
        attack(
            lambda delta, unit=unit: f(delta / unit),
            noise,
            "sym_kl",
            norm=norm,
            ascent=ascent,
            epsilon=0.5 * unit,
            noise_std=0.1 * unit,
            step_size=0.3 * unit ** STEP_POWERS[ascent],
            steps=2,
        )
        for unit in (1.0, s)
    )
    torch.testing.assert_close(scaled, s * plain, rtol=1e-9, atol=0)


@pytest.mark.parametrize("steps", [1, 2])
def test_telemetry_of_a_known_perturbation(steps: int) -> None:
    """Linear f: ℓ_s at the noise is (wᵀδ₀)²; after a long step every coordinate is at the boundary."""
    w = randn(3, 4, seed=1)

    def f(delta: Tensor) -> Tensor:
        return (delta * w).sum(dim=(1, 2), keepdim=True).squeeze(-1)

    noise = randn(2, 3, 4)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    found = search(f, noise, "mse", mask, noise_std=0.1, step_size=1e6, steps=steps)
    start = 0.1 * noise * mask[..., None]
    assert found.at_noise is not None
    torch.testing.assert_close(found.at_noise, (start * w).sum(dim=(1, 2)).square().mean(), rtol=1e-9, atol=0)
    assert float(found.boundary) == 1.0 and float(found.length) == pytest.approx(1.0)
    still = search(f, noise, "mse", mask, noise_std=0.1, steps=0)
    assert still.at_noise is None
    inside = (start.abs() < 0.5 * (1 - 1e-4))[mask.bool()].double().mean()
    assert float(still.boundary) == pytest.approx(1 - float(inside))
    assert float(still.length) == pytest.approx(float(start.abs().amax(dim=(1, 2)).clamp(max=0.5).mean()) / 0.5)


@pytest.mark.parametrize(("scope", "lengths"), [("example", [1.0, 0.1]), ("token", [0.6, 0.8, 0.0, 0.1])])
def test_l2_telemetry_counts_rows_or_real_tokens(scope: str, lengths: list[float]) -> None:
    """δ is the noise: a row of two tokens, of l2 length 0.6 and 0.8, and a third one of 0; and a row of one of 0.1."""
    noise = torch.zeros(2, 3, 4, dtype=torch.float64)
    noise[0, 0, 0], noise[0, 1, 1], noise[1, 0, 2] = 0.6, 0.8, 0.1
    noise[1, 1:] = 9.0  # padding
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    found = search(
        lambda delta: delta.sum(dim=1), noise, "mse", mask, norm="l2", epsilon=1.0, scope=scope, noise_std=1.0, steps=0
    )
    assert float(found.length) == pytest.approx(sum(lengths) / len(lengths), rel=1e-12)
    assert float(found.boundary) == lengths.count(1.0) / len(lengths)
    beyond = search(
        lambda delta: delta.sum(dim=1), noise, "mse", mask, norm="l2", epsilon=0.5, scope=scope, noise_std=1.0, steps=0
    )
    assert float(beyond.boundary) == sum(length >= 0.5 for length in lengths) / len(lengths)


def test_cost_in_forward_passes() -> None:
    table = {(0, False): 3, (0, True): 6, (1, True): 8, (3, True): 12}
    for (steps, smart), expected in table.items():
        for proximal in (False, True):
            assert forward_passes(steps, smart=smart, perturbed=True, proximal=proximal) == expected + proximal
    assert forward_passes(1, smart=True, perturbed=False, proximal=False) == 6


@pytest.mark.parametrize("reads_padding", [False, True])
def test_padding_stays_zero_and_changes_nothing(reads_padding: bool) -> None:
    weights = {"w1": randn(4, 5, seed=5), "b1": randn(5, seed=6), "w2": randn(5, 3, seed=7)}

    def f(x: Tensor, mask: Tensor) -> Callable[[Tensor], Tensor]:
        def masked(delta: Tensor) -> Tensor:
            hidden = torch.tanh((x + delta) @ weights["w1"] + weights["b1"]) * mask[..., None]
            unmasked = delta.sum(dim=1)[:, :3] if reads_padding else 0.0
            return hidden.sum(dim=1) @ weights["w2"] + unmasked

        return masked

    results = []
    for width, rows in ((3, 1), (6, 1), (6, 3)):
        x = torch.zeros(rows, width, 4, dtype=torch.float64)
        mask = torch.zeros(rows, width)
        for row in range(rows):
            x[row, : 3 + row] = randn(3 + row, 4, seed=20 + row)
            mask[row, : 3 + row] = 1
        lengths = mask.sum(dim=1).int().tolist()
        noise = draw_noise(list(range(rows)), lengths, (rows, width, 4), seed=9, device=CPU).double()
        delta = attack(f(x, mask), noise + (1 - mask[..., None]) * 5, "sym_kl", mask=mask, steps=2, norm="l2")
        assert torch.equal(delta[mask == 0], torch.zeros_like(delta[mask == 0]))
        assert (delta[mask == 1] != 0).all()
        results.append(delta[0, :3])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(results[0], results[2], rtol=1e-12, atol=1e-14)


def test_noise_is_each_rows_own_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    together = draw_noise([5, 9, 2], [3, 5, 4], (3, 6, 4), seed=1, device=CPU)
    alone = draw_noise([9], [5], (1, 5, 4), seed=1, device=CPU)
    assert torch.equal(together[1, :5], alone[0])
    assert torch.equal(together[0, 3:], torch.zeros(3, 4))
    assert not torch.equal(together[0, :3], together[1, :3])
    assert not torch.equal(draw_noise([9], [5], (1, 5, 4), seed=2, device=CPU), alone)
    assert torch.equal(before, torch.get_rng_state())
    many = draw_noise(list(range(50)), [40] * 50, (50, 40, 8), seed=3, device=CPU)
    assert abs(float(many.mean())) < 5 / many.numel() ** 0.5
    assert abs(float(many.var()) - 1) < 5 * (2 / many.numel()) ** 0.5


class CountProducts(TorchDispatchMode):
    """Counts matrix products by the shape of what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.shapes.append(tuple(result.shape))
        return result


def test_ascent_touches_no_parameter_gradient_and_computes_none() -> None:
    first, second = torch.nn.Linear(4, 5), torch.nn.Linear(5, 3)
    for layer in (first, second):
        layer.weight.grad = torch.full_like(layer.weight, 7.0)
    x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))

    def f(delta: Tensor) -> Tensor:
        outputs: Tensor = second(torch.tanh(first((x + delta).reshape(12, 4))).reshape(2, 6, 5).sum(dim=1))
        return outputs

    with CountProducts() as counter:
        attack(f, torch.randn(2, 6, 4), "sym_kl")
    weight_gradients = [shape for shape in counter.shapes if shape in ((5, 4), (4, 5), (3, 5), (5, 3))]
    assert weight_gradients == []
    assert (2, 5) in counter.shapes and (12, 4) in counter.shapes  # the gradient did go back to the input
    for layer in (first, second):
        assert layer.weight.grad is not None
        assert torch.equal(layer.weight.grad, torch.full_like(layer.weight, 7.0))
