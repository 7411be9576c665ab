r"""Whether importance weights can be trusted: the tail of the weights, fitted and smoothed.

The largest weights are compared with a generalised Pareto distribution. Its shape k-hat says how
many moments the weights have: below 1/2 their variance is finite, above 0.7 averages cannot be
relied on at any affordable number of draws, from 1 on the mean itself does not exist.

Vehtari, Simpson, Gelman, Yao & Gabry (2024), "Pareto smoothed importance sampling", section 3;
Zhang & Stephens (2009), "A new and efficient estimation method for the generalized Pareto
distribution", equations 4 to 10.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

# From this k-hat on, weighted averages cannot be relied on.
UNRELIABLE = 0.7
# Weights that spread less than this move no average by more than so many standard deviations.
NEARLY_EQUAL = 0.05
_ROUNDING = 1e-9


def smoothed(log_weights: Float[np.ndarray, " s"]) -> tuple[Float[np.ndarray, " s"], float]:
    """Log weights with their largest ones replaced by expected order statistics, and k-hat.

    Args:
        log_weights: (s,), up to a constant.

    Returns:
        The smoothed log weights, never above the largest raw one, and the shape of the tail: NaN
        for fewer than 25 draws, infinite where a weight is not a number or infinite, or all are 0.
    """
    log_weights = np.asarray(log_weights, float)
    if not (log_weights < np.inf).all() or not (log_weights > -np.inf).any():
        return log_weights, np.inf
    s = len(log_weights)
    length = int(np.ceil(min(0.2 * s, 3.0 * np.sqrt(s))))
    if s < 25:
        return log_weights, np.nan
    order = np.argsort(log_weights)
    tail = order[-length:]
    top = log_weights[order[-1]]
    cutoff = max(log_weights[order[-length - 1]], np.log(np.finfo(float).tiny) + top)
    excess = np.exp(log_weights[tail] - top) - np.exp(cutoff - top)
    if excess[-1] <= _ROUNDING:  # all weights are equal
        return log_weights, -np.inf
    shape, scale = _pareto_fit(np.maximum(excess, np.finfo(float).tiny))
    place = (np.arange(length) + 0.5) / length
    fitted = np.log(_quantile(place, shape, scale) + np.exp(cutoff - top)) + top
    answer = log_weights.copy()
    answer[tail] = np.minimum(fitted, top)
    return answer, float(shape)


def averaged(log_weights: Float[np.ndarray, "*n s"]) -> tuple[Any, Any]:
    """Over the last axis, the log of the mean weight and the weights' relative standard deviation.

    Where all weights are zero the mean is too, and they do not differ.
    """
    highest = log_weights.max(axis=-1, keepdims=True)
    possible = highest > -np.inf
    relative = np.exp(np.where(possible, log_weights - np.where(possible, highest, 0.0), 0.0))
    mean = relative.mean(axis=-1)
    return np.log(mean) + highest[..., 0], relative.std(axis=-1) / mean


def _pareto_fit(excess: Float[np.ndarray, " m"]) -> tuple[float, float]:
    """Shape and scale by the profile posterior mean, with a weak prior towards shape 1/2."""
    m = len(excess)
    candidates = 30 + int(np.sqrt(m))
    quarter = excess[int(m / 4 + 0.5) - 1]
    grid = 1.0 - np.sqrt(candidates / (np.arange(1, candidates + 1) - 0.5))
    rates = grid / (3.0 * quarter) + 1.0 / excess[-1]
    shapes = np.log1p(-rates[:, None] * excess).mean(axis=1)
    heights = m * (np.log(-(rates / shapes)) - shapes - 1.0)
    weights = np.exp(heights - heights.max())
    rate = (rates * weights).sum() / weights.sum()
    shape = np.log1p(-rate * excess).mean()
    scale = -shape / rate
    return float((m * shape + 5.0) / (m + 10.0)), float(scale)


def _quantile(place: Float[np.ndarray, " m"], shape: float, scale: float) -> np.ndarray:
    if abs(shape) < 1e-12:
        return -scale * np.log1p(-place)
    with np.errstate(over="ignore"):
        return scale * np.expm1(-shape * np.log1p(-place)) / shape
