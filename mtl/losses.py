"""Losses and divergences: pure functions of logits, one float32 value per example.

Everything is computed in float32, or in float64 when the logits are. Averaging and weights live in `objective`.

Legend: N examples (rows, or queries in ranking), C classes or candidates of a list.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Divergence: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def full_precision(values: Tensor) -> Tensor:
    """Convert values to float32, unless they are float64."""
    return values if values.dtype == torch.float64 else values.float()


def log_softmax(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Log-probabilities over the last dimension, 0 at masked-out entries (whose probability is 0).

    Args:
        logits: (N, C).
        mask: True on the entries that take part, (N, C); all when None.
    """
    logits = full_precision(logits)
    if mask is None:
        return F.log_softmax(logits, dim=-1)
    return F.log_softmax(logits.masked_fill(~mask, -torch.inf), dim=-1).masked_fill(~mask, 0.0)


def _probabilities(log_p: Tensor, mask: Tensor | None) -> Tensor:
    return log_p.exp() if mask is None else log_p.exp().masked_fill(~mask, 0.0)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy −(1 − α) w_y log p_y − α/C Σ_c w_c log p_c; by default α = 0 and w = 1, which is −log p_y.

    Args:
        logits: (N, C).
        labels: Class indices, (N,).
        mask: Unused; classes are never masked.
        class_weights: w, (C,).
        label_smoothing: α, in [0, 1).

    Returns:
        (N,).
    """
    logits = full_precision(logits)
    weights = None if class_weights is None else class_weights.to(logits)
    return F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=label_smoothing)


def squared_error(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared error (z − y)².

    Args:
        logits: Predicted values, (N, 1).
        labels: Values, (N,).
        mask: Unused.

    Returns:
        (N,).
    """
    values = full_precision(logits).squeeze(-1)
    assert values.shape == labels.shape, f"expected one value per label, got {values.shape} and {labels.shape}"
    return (values - labels.to(values.dtype)).square()


def listwise_softmax(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Listwise softmax cross entropy −Σ_j (y_j / Σ_k y_k) log p_j over a query's candidates (ListNet's top-one form).

    Cao et al. 2007, with the relevance normalised to a distribution; with one relevant candidate j it is −log p_j.

    Args:
        logits: Scores, (N, C).
        labels: Relevance ≥ 0, (N, C).
        mask: True on real candidates, (N, C).

    Returns:
        (N,); 0 for a query without a relevant candidate.
    """
    log_p = log_softmax(logits, mask)
    relevance = labels.to(log_p.dtype)
    target = relevance / relevance.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(log_p.dtype).tiny)
    return -(target * log_p).sum(dim=-1)


def pairwise_logistic(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pairwise logistic loss: log(1 + e^(z_k − z_j)) averaged over the pairs of a query with y_j > y_k.

    RankNet's cost (Burges et al. 2005, section 3) with a target probability of 1. Arguments as in `listwise_softmax`.

    Returns:
        (N,); 0 for a query whose candidates all have the same relevance.
    """
    scores = full_precision(logits)
    better = labels.unsqueeze(-1) > labels.unsqueeze(-2)  # (N, C, C): [n, j, k] where y_j > y_k
    if mask is not None:
        better = better & mask.unsqueeze(-1) & mask.unsqueeze(-2)
    costs = F.softplus(scores.unsqueeze(-2) - scores.unsqueeze(-1)).masked_fill(~better, 0.0)
    return costs.sum(dim=(-2, -1)) / better.sum(dim=(-2, -1)).clamp(min=1)


def sym_kl(p_logits: Tensor, q_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Symmetrised Kullback-Leibler divergence Σ_k (p_k − q_k)(log p_k − log q_k), without a factor ½.

    This single product keeps its precision where p and q are close; the sum of two KL terms, by which arXiv 1911.03437
    (section 3.1) defines ℓ_s, suffers from cancellation there.

    Args:
        p_logits: (N, C).
        q_logits: (N, C).
        mask: True on the entries that take part, (N, C); all when None.

    Returns:
        (N,).
    """
    log_p, log_q = log_softmax(p_logits, mask), log_softmax(q_logits, mask)
    return ((_probabilities(log_p, mask) - _probabilities(log_q, mask)) * (log_p - log_q)).sum(dim=-1)


def kl(p_logits: Tensor, q_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence Σ_k q_k (log q_k − log p_k), where p is the perturbed side.

    Computed as Σ_k q_k (e^d − 1 − d) with d = log p_k − log q_k, which is equal because p and q both sum to 1, and is
    without its cancellation; where e^d could overflow, as p_k − q_k − q_k d. Arguments and result as in `sym_kl`.
    """
    log_p, log_q = log_softmax(p_logits, mask), log_softmax(q_logits, mask)
    p, q, d = _probabilities(log_p, mask), _probabilities(log_q, mask), log_p - log_q
    small = d.clamp(max=FAR)
    return torch.where(d > FAR, p - q - q * d, q * (torch.expm1(small) - small)).sum(dim=-1)


def js(p_logits: Tensor, q_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Jensen-Shannon divergence ½ KL(p‖m) + ½ KL(q‖m), m = (p + q)/2. Arguments and result as in `sym_kl`."""
    log_p, log_q = log_softmax(p_logits, mask), log_softmax(q_logits, mask)
    p, q, d = _probabilities(log_p, mask), _probabilities(log_q, mask), log_p - log_q
    return 0.5 * (_from_mean(p, q, -d) + _from_mean(q, p, d)).sum(dim=-1)


def _from_mean(p: Tensor, q: Tensor, d: Tensor) -> Tensor:
    """Entrywise p log(p/m) + m − p, with m = (p + q)/2 and d = log q − log p; m − p of both sides sums to 0.

    log(p/m) = −log((1 + q/p)/2) = −log1p((e^d − 1)/2) avoids the difference of nearly equal logs; where e^d could
    overflow, log 2 − log(1 + e^d) is used.
    """
    over = torch.expm1(d.clamp(max=FAR)) / 2
    return torch.where(d > FAR, (q - p) / 2 + p * (math.log(2) - F.softplus(d)), p * (over - torch.log1p(over)))


def hellinger(p_logits: Tensor, q_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared Hellinger distance ½ Σ_k (√p_k − √q_k)². Arguments and result as in `sym_kl`."""
    log_p, log_q = log_softmax(p_logits, mask), log_softmax(q_logits, mask)
    roots = (log_p / 2).exp() - (log_q / 2).exp()
    return 0.5 * roots.square().sum(dim=-1)


def mse(p_logits: Tensor, q_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared difference Σ_k (z_k − z'_k)² of the raw outputs. Arguments and result as in `sym_kl`."""
    shapes = p_logits.shape, q_logits.shape  # (N, 1) less (N,) would be (N, N)
    assert shapes[0] == shapes[1] and p_logits.dim() > 1, f"expected two (N, C), got {shapes[0]} and {shapes[1]}"
    difference = full_precision(p_logits) - full_precision(q_logits)
    if mask is not None:
        difference = difference.masked_fill(~mask, 0.0)
    return difference.square().sum(dim=-1)


FAR = 20.0  # difference of log-probabilities above which terms take a form that cannot overflow (and cancels nothing)

LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "mse": squared_error,
    "listwise": listwise_softmax,
    "pairwise": pairwise_logistic,
}

DIVERGENCES: dict[str, Divergence] = {"sym_kl": sym_kl, "kl": kl, "js": js, "hellinger": hellinger, "mse": mse}
