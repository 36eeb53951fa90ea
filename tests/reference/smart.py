"""R_s of a two-layer network in plain NumPy: loops, textbook formulas, and derivatives by the complex step.

f(x + ih) = f(x) + ih f'(x) + O(h²) for analytic f, so Im f(x + ih)/h is the derivative without any cancellation
(Squire & Trapp 1998): with h = 1e-30 it is exact to rounding. Functions here therefore take complex arrays too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

STEP = 1e-30


def network(x: Array, weights: dict[str, Array]) -> Array:
    """tanh(x W₁ + b₁) summed over the tokens, then W₂: (T, D) -> (C,)."""
    hidden = np.tanh(x @ weights["w1"] + weights["b1"])
    outputs: Array = hidden.sum(axis=0) @ weights["w2"]
    return outputs


def softmax(z: Array) -> Array:
    e: Array = np.exp(z - z.real.max())
    return e / e.sum()


def _sym_kl(z: Array, y: Array) -> Any:
    p, q = softmax(z), softmax(y)
    return ((p - q) * (np.log(p) - np.log(q))).sum()


def _kl(z: Array, y: Array) -> Any:
    p, q = softmax(z), softmax(y)
    return (q * (np.log(q) - np.log(p))).sum()


def _js(z: Array, y: Array) -> Any:
    p, q = softmax(z), softmax(y)
    m = (p + q) / 2
    return (p * np.log(p / m) + q * np.log(q / m)).sum() / 2


def _hellinger(z: Array, y: Array) -> Any:
    return ((np.sqrt(softmax(z)) - np.sqrt(softmax(y))) ** 2).sum() / 2


def _mse(z: Array, y: Array) -> Any:
    return ((z - y) ** 2).sum()


DIVERGENCES: dict[str, Callable[[Array, Array], Any]] = {
    "sym_kl": _sym_kl,
    "kl": _kl,
    "js": _js,
    "hellinger": _hellinger,
    "mse": _mse,
}


def length(values: Array, norm: str) -> float:
    return float(np.abs(values).max()) if norm == "linf" else float(np.sqrt((values**2).sum()))


def project(values: Array, radius: float, norm: str) -> Array:
    if norm == "linf":
        return np.minimum(np.maximum(values, -radius), radius)
    return values if length(values, norm) <= radius else values * radius / length(values, norm)


def gradient(function: Callable[[Array], Any], at: Array) -> Array:
    """Derivatives of a scalar function, coordinate by coordinate."""
    result = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        moved = at.astype(complex)
        moved[index] += 1j * STEP
        result[index] = function(moved).imag / STEP
    return result


def smoothness(
    x: Array,
    noise: Array,
    weights: dict[str, Array],
    *,
    divergence: str,
    norm: str,
    epsilon: float,
    noise_std: float,
    step_size: float,
    steps: int,
) -> tuple[float, Array]:
    """R_s of one example and the δ that attains it: Algorithm 1 of arXiv 1911.03437, lines 5 to 9."""
    clean = network(x, weights)

    def distance(delta: Array) -> Any:
        return DIVERGENCES[divergence](network(x + delta, weights), clean)

    delta = project(noise_std * noise, epsilon, norm)
    for _ in range(steps):
        g = gradient(distance, delta)
        delta = project(delta + step_size * g / length(g, norm), epsilon, norm)
    return float(distance(delta)), delta
