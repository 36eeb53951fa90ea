"""Losses and divergences against their formulas, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mtl.losses import DIVERGENCES, LOSSES, cross_entropy, log_softmax

EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-300}


def logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


# Each divergence as its textbook definition on probabilities p (perturbed side) and q.
DIVERGENCE_FORMULAS = {
    "sym_kl": lambda z, y: float(((softmax(z) - softmax(y)) * (np.log(softmax(z)) - np.log(softmax(y)))).sum()),
    "kl": lambda z, y: float((softmax(y) * np.log(softmax(y) / softmax(z))).sum()),
    "js": lambda z, y: float(
        0.5 * (softmax(z) * np.log(2 * softmax(z) / (softmax(z) + softmax(y)))).sum()
        + 0.5 * (softmax(y) * np.log(2 * softmax(y) / (softmax(z) + softmax(y)))).sum()
    ),
    "hellinger": lambda z, y: float(0.5 * ((np.sqrt(softmax(z)) - np.sqrt(softmax(y))) ** 2).sum()),
    "mse": lambda z, y: float(((z - y) ** 2).sum()),
}
# Second-order behaviour at equality: the factor c of c · dᵀ F d, F being the Fisher information of the logits.
FISHER_FACTORS = {"sym_kl": 1.0, "kl": 0.5, "js": 0.125, "hellinger": 0.125}

LOSS_FORMULAS = {
    "cross_entropy": (logits(5, 3), torch.tensor([0, 2, 1, 1, 0]), lambda z, y: -np.log(softmax(z)[y])),
    "mse": (logits(5, 1), logits(5, seed=1), lambda z, y: (z[0] - y) ** 2),
    "listwise": (
        logits(3, 4),
        torch.tensor([[1.0, 0, 0, 0], [2.0, 0, 1.0, 0], [0, 0, 0, 0]], dtype=torch.float64),
        lambda z, y: -(y / max(y.sum(), 1) * np.log(softmax(z))).sum(),
    ),
    "pairwise": (
        logits(4, 4),
        torch.tensor([[1.0, 0, 0, 0], [2.0, 0, 1.0, 0], [0, 0, 0, 0], [1.0, 1, 1, 1]], dtype=torch.float64),
        lambda z, y: np.mean([np.log1p(np.exp(z[k] - z[j])) for j, k in np.ndindex(4, 4) if y[j] > y[k]] or [0.0]),
    ),
}


def test_tables_have_a_formula_each() -> None:
    assert set(DIVERGENCE_FORMULAS) == set(DIVERGENCES)
    assert set(FISHER_FACTORS) == set(DIVERGENCES) - {"mse"}
    assert set(LOSS_FORMULAS) == set(LOSSES)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_loss_is_its_formula(name: str) -> None:
    z, y, formula = LOSS_FORMULAS[name]
    expected = torch.tensor([formula(row, label) for row, label in zip(z.numpy(), y.numpy(), strict=True)])
    torch.testing.assert_close(LOSSES[name](z, y, None), expected, rtol=1e-9, atol=1e-12)
    assert LOSSES[name](z.half(), y, None).dtype == torch.float32


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.25]])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_weighs_and_smooths(weights: list[float] | None, smoothing: float) -> None:
    z, y = logits(5, 3), torch.tensor([0, 2, 1, 1, 0])
    w = np.array(weights or [1.0, 1.0, 1.0])
    expected = [
        -(1 - smoothing) * w[label] * np.log(softmax(row)[label]) - smoothing / 3 * (w * np.log(softmax(row))).sum()
        for row, label in zip(z.numpy(), y.tolist(), strict=True)
    ]
    found = cross_entropy(
        z, y, class_weights=None if weights is None else torch.tensor(weights), label_smoothing=smoothing
    )
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-9, atol=0)


def test_mse_refuses_to_broadcast() -> None:
    for other in (torch.zeros(3), torch.zeros(1, 3), torch.zeros(3, 2)):
        with pytest.raises(AssertionError, match="expected two"):
            DIVERGENCES["mse"](torch.zeros(3, 1), other, None)


def test_regression_refuses_to_broadcast() -> None:
    with pytest.raises(AssertionError, match="one value per label"):
        LOSSES["mse"](torch.zeros(4, 1), torch.zeros(4, 1), None)


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_divergence_is_its_formula(name: str) -> None:
    z, y = logits(6, 4), logits(6, 4, seed=1)
    rows = zip(z.numpy(), y.numpy(), strict=True)
    expected = torch.tensor([DIVERGENCE_FORMULAS[name](a, b) for a, b in rows], dtype=torch.float64)
    torch.testing.assert_close(DIVERGENCES[name](z, y, None), expected, **EXACT)


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_divergence_is_positive_and_zero_at_equality_only(name: str) -> None:
    z, y = logits(50, 4), logits(50, 4, seed=1)
    divergence = DIVERGENCES[name]
    assert (divergence(z, y, None) > 0).all()
    assert torch.equal(divergence(z, z.clone(), None), torch.zeros(50, dtype=torch.float64))
    if name != "mse":  # logits that differ by a constant are the same distribution
        shift = 3.7 * torch.ones(50, 1, dtype=torch.float64)
        torch.testing.assert_close(divergence(z + shift, y - shift, None), divergence(z, y, None), **EXACT)
        torch.testing.assert_close(
            divergence(z + shift, z, None), torch.zeros(50, dtype=torch.float64), rtol=0, atol=1e-14
        )
    if name != "kl":
        torch.testing.assert_close(divergence(z, y, None), divergence(y, z, None), **EXACT)


@pytest.mark.parametrize("name", sorted(FISHER_FACTORS))
def test_divergence_agrees_with_the_fisher_form_to_second_order(name: str) -> None:
    z, direction = logits(6, 4), logits(6, 4, seed=2, scale=1.0)
    p = z.softmax(-1)
    fisher = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    quadratic = FISHER_FACTORS[name] * torch.einsum("ni,nij,nj->n", direction, fisher, direction)
    for h in (1e-3, 1e-4, 1e-5):
        torch.testing.assert_close(
            DIVERGENCES[name](z + h * direction, z, None), h**2 * quadratic, rtol=20 * h + 1e-5, atol=0
        )


@pytest.mark.parametrize("name", ["sym_kl", "kl", "js", "hellinger"])
def test_divergence_keeps_its_precision_in_float32(name: str) -> None:
    """At |Δz| = 1e-3 two KL terms in float32 are 18 % off; these forms stay within rounding of the probabilities."""
    z, direction = logits(200, 3), logits(200, 3, seed=2, scale=1.0)
    exact = DIVERGENCES[name](z + 1e-3 * direction, z, None)
    single = DIVERGENCES[name]((z + 1e-3 * direction).float(), z.float(), None).double()
    error = ((single - exact).abs() / exact).median()
    assert error < 2e-3


@pytest.mark.parametrize("name", sorted(set(DIVERGENCES) - {"mse"}))
@pytest.mark.parametrize("apart", [15.0, 19.0, 21.0, 60.0, 100.0, 1000.0])
def test_saturated_outputs_stay_finite_and_exact(name: str, apart: float) -> None:
    """Logits that are far apart: the formula in logs in float64, and finite gradients in float32."""

    def in_logs(z: np.ndarray, y: np.ndarray) -> float:
        log_p, log_q = (v - np.logaddexp.reduce(v) for v in (z, y))
        log_m = np.logaddexp(log_p, log_q) - np.log(2)
        p, q = np.exp(log_p), np.exp(log_q)
        return {
            "sym_kl": ((p - q) * (log_p - log_q)).sum(),
            "kl": (q * (log_q - log_p)).sum(),
            "js": (p * (log_p - log_m) + q * (log_q - log_m)).sum() / 2,
            "hellinger": ((np.exp(log_p / 2) - np.exp(log_q / 2)) ** 2).sum() / 2,
        }[name]

    for one, other in (([apart, 0.0, 1.0], [0.0, 0.0, 0.0]), ([0.0, 1.0, 0.5], [0.0, apart, 0.0])):
        z, y = (torch.tensor([row], dtype=torch.float64) for row in (one, other))
        expected = torch.tensor([in_logs(z[0].numpy(), y[0].numpy())], dtype=torch.float64)
        torch.testing.assert_close(DIVERGENCES[name](z, y, None), expected, **EXACT)
        if apart < 50:  # beyond, finite differences see nothing
            assert torch.autograd.gradcheck(
                lambda a, b: DIVERGENCES[name](a, b, None), (z.requires_grad_(), y.requires_grad_())
            )
        single = (z.detach().float().requires_grad_(), y.detach().float().requires_grad_())
        value = DIVERGENCES[name](single[0], single[1], None).sum()
        torch.testing.assert_close(value.detach().double(), expected[0], rtol=1e-4, atol=1e-6)
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, single))


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
@pytest.mark.parametrize("masked", [False, True])
def test_divergence_passes_gradcheck(name: str, masked: bool) -> None:
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]]) if masked else None
    z, y = logits(2, 4).requires_grad_(), logits(2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: DIVERGENCES[name](a, b, mask), (z, y))


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_masked_entries_do_not_count(name: str) -> None:
    z, y = logits(3, 5), logits(3, 5, seed=1)
    mask = torch.tensor([[True] * 3 + [False] * 2] * 3)
    assert torch.equal(DIVERGENCES[name](z, y, mask), DIVERGENCES[name](z + ~mask * 100.0, y, mask))
    torch.testing.assert_close(
        DIVERGENCES[name](z, y, mask), DIVERGENCES[name](z[:, :3], y[:, :3], None), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("name", ["listwise", "pairwise"])
def test_ranking_loss_ignores_padding_and_order(name: str) -> None:
    z, relevance = logits(1, 5), torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False, False]])
    whole = LOSSES[name](z[:, :3], relevance[:, :3], None)
    torch.testing.assert_close(LOSSES[name](z, relevance, mask), whole, rtol=1e-12, atol=0)
    order = torch.tensor([2, 0, 1])
    permuted = LOSSES[name](z[:, :3][:, order], relevance[:, :3][:, order], None)
    torch.testing.assert_close(permuted, whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["listwise", "pairwise"])
def test_query_without_a_relevant_candidate_has_no_loss_and_no_gradient(name: str) -> None:
    z = logits(2, 3).requires_grad_()
    relevance = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    loss = LOSSES[name](z, relevance, torch.ones(2, 3, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert loss[0] == 0
    assert torch.equal(gradient[0], torch.zeros(3, dtype=torch.float64))
    assert gradient[1].abs().sum() > 0


def test_log_softmax_of_a_fully_masked_row_is_finite() -> None:
    assert torch.isfinite(
        DIVERGENCES["sym_kl"](logits(1, 3), logits(1, 3, seed=1), torch.tensor([[True, False, False]]))
    )
    assert torch.equal(log_softmax(logits(1, 2), torch.tensor([[True, False]]))[:, 1], torch.zeros(1).double())
