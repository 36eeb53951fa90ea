"""The proximal teacher against its closed form."""

from __future__ import annotations

import math

import pytest
import torch

from mtl.proximal import momentum, update_teacher
from mtl.taskdef import ProximalSettings


def test_momentum_switches_after_its_share_of_the_run() -> None:
    settings = ProximalSettings(beta_early=0.9, beta_late=0.99, switch=0.3)
    assert [momentum(step, 10, settings) for step in range(1, 11)] == [0.9] * 3 + [0.99] * 7
    rounded = ProximalSettings(beta_early=0.9, beta_late=0.99, switch=0.29)  # 0.29 · 100 is 28.999… as a float
    assert [momentum(step, 100, rounded) for step in (28, 29, 30)] == [0.9, 0.9, 0.99]


@pytest.mark.parametrize("total", [1, 10, 100, 10_000])
def test_momentum_follows_the_length_of_the_run(total: int) -> None:
    """The last tenth of the run makes up 1 − 1/e of the teacher, whatever the number of steps and of inner ones."""
    for inner in (1, 5):
        settings = ProximalSettings(window=0.1, inner_steps=inner)
        beta = momentum(1, total, settings)
        assert momentum(total, total, settings) == beta
        if total <= 100:
            assert beta == (0.0 if total * 0.1 <= inner else pytest.approx(1 - inner / (total * 0.1)))
        if total == 10_000:
            assert 1 - beta ** (total * 0.1 / inner) == pytest.approx(1 - math.exp(-1), abs=2e-3)
    half = ProximalSettings(beta_late=0.25, switch=0.5)
    assert momentum(total, total, half) == 0.25 and momentum(0, total, half) == momentum(0, total, ProximalSettings())


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.99])
def test_teacher_is_the_geometric_sum_of_the_iterates(beta: float) -> None:
    """θ̃_n = βⁿ θ_0 + (1 − β) Σ_k β^(n−k) θ_k."""
    generator = torch.Generator().manual_seed(0)
    iterates = [torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(30)]
    teacher = [iterates[0].clone()]
    for theta in iterates[1:]:
        update_teacher(teacher, [theta], beta)
    n = len(iterates) - 1
    expected = beta**n * iterates[0] + (1 - beta) * sum(beta ** (n - k) * iterates[k] for k in range(1, n + 1))
    torch.testing.assert_close(teacher[0], expected, rtol=1e-9, atol=1e-12)


def test_teacher_is_the_geometric_sum_across_the_switch() -> None:
    settings = ProximalSettings(beta_early=0.8, beta_late=0.95, switch=0.5)
    iterates = [torch.tensor([float(k**2)], dtype=torch.float64) for k in range(11)]
    teacher = [iterates[0].clone()]
    for step in range(1, 11):
        update_teacher(teacher, [iterates[step]], momentum(step, 10, settings))
    early = 0.8**5 * iterates[0] + 0.2 * sum(0.8 ** (5 - k) * iterates[k] for k in range(1, 6))
    expected = 0.95**5 * early + 0.05 * sum(0.95 ** (10 - k) * iterates[k] for k in range(6, 11))
    torch.testing.assert_close(teacher[0], expected, rtol=1e-9, atol=0)
