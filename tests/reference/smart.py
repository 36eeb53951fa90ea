"""R_s and the proximal term of a two-layer network, in plain NumPy with finite differences and loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def network(x: Array, weights: dict[str, Array]) -> Array:
    """tanh(x W₁ + b₁) summed over the tokens, then W₂: (T, D) -> (C,)."""
    hidden: Array = np.tanh(x @ weights["w1"] + weights["b1"])
    outputs: Array = hidden.sum(axis=0) @ weights["w2"]
    return outputs


def softmax(z: Array) -> Array:
    e: Array = np.exp(z - z.max())
    return e / e.sum()


def _js(z: Array, y: Array) -> float:
    p, q = softmax(z), softmax(y)
    m = (p + q) / 2
    return float((p * np.log(p / m) + q * np.log(q / m)).sum() / 2)


DIVERGENCES: dict[str, Callable[[Array, Array], float]] = {
    "sym_kl": lambda z, y: float(((softmax(z) - softmax(y)) * (np.log(softmax(z)) - np.log(softmax(y)))).sum()),
    "kl": lambda z, y: float((softmax(y) * (np.log(softmax(y)) - np.log(softmax(z)))).sum()),
    "js": _js,
    "hellinger": lambda z, y: float(((np.sqrt(softmax(z)) - np.sqrt(softmax(y))) ** 2).sum() / 2),
    "mse": lambda z, y: float(((z - y) ** 2).sum()),
}


def length(values: Array, norm: str) -> float:
    return float(np.abs(values).max()) if norm == "linf" else float(np.sqrt((values**2).sum()))


def project(values: Array, radius: float, norm: str) -> Array:
    if norm == "linf":
        return np.minimum(np.maximum(values, -radius), radius)
    return values if length(values, norm) <= radius else values * radius / length(values, norm)


def gradient(function: Callable[[Array], float], at: Array, step: float = 1e-5) -> Array:
    """Central differences of the fourth order, coordinate by coordinate."""
    result = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        unit = np.zeros_like(at)
        unit[index] = step
        outer, inner = function(at + 2 * unit) - function(at - 2 * unit), function(at + unit) - function(at - unit)
        result[index] = (8 * inner - outer) / (12 * step)
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

    def distance(delta: Array) -> float:
        return DIVERGENCES[divergence](network(x + delta, weights), clean)

    delta = project(noise_std * noise, epsilon, norm)
    for _ in range(steps):
        g = gradient(distance, delta, step=1e-3)
        delta = project(delta + step_size * g / length(g, norm), epsilon, norm)
    return distance(delta), delta
