"""Slow twins of the flows: scalar splines, couplings by loops, a bent target."""

from __future__ import annotations

import numpy as np
from scipy import stats


def spline(x, raw, bins=8, half_width=4.0, least=1e-3):
    """The rational-quadratic spline of Durkan et al. (2019), equation 4, at one number."""
    if abs(x) >= half_width:
        return x
    share = [np.exp(part) / np.exp(part).sum() for part in (raw[:bins], raw[bins : 2 * bins])]
    width, height = (2 * half_width * (least + (1 - bins * least) * one) for one in share)
    left = np.r_[0, np.cumsum(width)] - half_width
    bottom = np.r_[0, np.cumsum(height)] - half_width
    inner = least + np.log1p(np.exp(raw[2 * bins :] + np.log(np.expm1(1 - least))))
    slope = np.r_[1.0, inner, 1.0]
    k = max(j for j in range(bins) if x >= left[j])
    ratio, share = height[k] / width[k], (x - left[k]) / width[k]
    above = ratio * share**2 + slope[k] * share * (1 - share)
    below = ratio + (slope[k + 1] + slope[k] - 2 * ratio) * share * (1 - share)
    return bottom[k] + height[k] * above / below


def network(weights, layer, kept):
    """The output of one layer's network, for one vector."""
    step = lambda value: value / np.sqrt(1 + value**2)  # noqa: E731
    hidden = step(weights.first[layer] @ kept + weights.first_offset[layer][:, 0])
    hidden = step(weights.second[layer] @ hidden + weights.second_offset[layer][:, 0])
    return weights.last[layer] @ hidden + weights.last_offset[layer][:, 0]


def coupled(couplings, value):
    """One vector through all coupling layers, coordinate by coordinate."""
    p, kept = couplings.size, couplings.size // 2
    turn = kept + (max(1, p // 8) if p > 3 else 0)
    order = list(range(p))
    value = np.array(value)
    for layer in range(len(couplings.weights.first)):
        outputs = network(couplings.weights, layer, value[order[:kept]])
        outputs = outputs.reshape(-1, p - kept)
        for j, coordinate in enumerate(order[kept:]):
            own, old = outputs[:, j], value[coordinate]
            if couplings.kind == "spline":
                value[coordinate] = spline(old, own)
            else:
                log_scale = own[0] / np.sqrt(1 + (own[0] / 2) ** 2)
                value[coordinate] = old * np.exp(log_scale) + own[1]
        order = order[turn:] + order[:turn]
    return value


def banana(rows):
    """Log density of x ~ N(0, 1), y | x ~ N(x^2, 0.5^2)."""
    x, y = np.asarray(rows).T
    return stats.norm.logpdf(x) + stats.norm.logpdf(y, x**2, 0.5)


def banana_rows(rng, n):
    """Draws from it."""
    x = rng.normal(size=n)
    return np.c_[x, x**2 + 0.5 * rng.normal(size=n)]
