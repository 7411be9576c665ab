r"""Monotone rational-quadratic splines of one variable, many at once, and their inverses.

On ``[-B, B]`` in K bins; outside it the identity. With w, h the width and height of the bin of x,
``r = h / w``, ``d``, ``d'`` the slopes at its ends and ``u`` the share of the bin left of x,

.. math:: y = y_k + \frac{h (r u^2 + d\, u (1 - u))}{r + (d + d' - 2 r) u (1 - u)}.

Durkan, Bekasov, Murray & Papamakarios (2019), "Neural spline flows", equations 4 to 8. Bins are
the first axis of everything, so that all arithmetic runs along whole rows of memory.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._types import Array

BINS = 8
SHAPES = 3 * BINS - 1  # numbers that shape one spline: widths, heights, inner slopes
HALF_WIDTH = 4.0
_LEAST_SHARE, _LEAST_SLOPE = 1e-3, 1e-3
_TO_UNIT_SLOPE = float(np.log(np.expm1(1.0 - _LEAST_SLOPE)))


class Knots(NamedTuple):
    """Where bins begin, how wide and high they are, and the slopes at their two ends, still raw."""

    left: Float[Array, "k *batch"]
    width: Float[Array, "k *batch"]
    bottom: Float[Array, "k *batch"]
    height: Float[Array, "k *batch"]
    slope: Float[Array, "k *batch"]
    next_slope: Float[Array, "k *batch"]


def knots(raw: Float[Array, "c *batch"]) -> Knots:
    """Knots from any ``c = 3 K - 1`` real numbers; the identity where all are zero."""
    left, width = _edges(raw[:BINS])
    bottom, height = _edges(raw[BINS : 2 * BINS])
    inner = raw[2 * BINS :]
    end = jnp.zeros_like(inner[:1])
    slope, next_slope = jnp.concatenate([end, inner]), jnp.concatenate([inner, end])
    return Knots(left, width, bottom, height, slope, next_slope)


def forward(values: Float[Array, "*batch"], at: Knots) -> tuple[Array, Array]:
    """The spline's value, and the logarithm of its slope."""
    inside = jnp.abs(values) < HALF_WIDTH
    held = jnp.where(inside, values, 0.0)
    bin_ = _chosen(held, at.left, at)
    share = (held - bin_.left) / bin_.width
    ratio = bin_.height / bin_.width
    mixed = share * (1.0 - share)
    below = ratio + (bin_.slope + bin_.next_slope - 2.0 * ratio) * mixed
    moved = bin_.bottom + bin_.height * (ratio * share**2 + bin_.slope * mixed) / below
    log_slope = _log_slope(bin_, share)
    return jnp.where(inside, moved, values), jnp.where(inside, log_slope, 0.0)


def inverse(values: Float[Array, "*batch"], at: Knots) -> tuple[Array, Array]:
    """Where the spline takes this value, and the logarithm of its slope there."""
    inside = jnp.abs(values) < HALF_WIDTH
    held = jnp.where(inside, values, 0.0)
    bin_ = _chosen(held, at.bottom, at)
    ratio, above = bin_.height / bin_.width, held - bin_.bottom
    bend = above * (bin_.slope + bin_.next_slope - 2.0 * ratio)
    a = bin_.height * (ratio - bin_.slope) + bend
    b = bin_.height * bin_.slope - bend
    c = -ratio * above
    root = jnp.sqrt(jnp.maximum(b**2 - 4.0 * a * c, jnp.finfo(values.dtype).tiny))
    share = jnp.clip(-2.0 * c / (b + root), 0.0, 1.0)
    log_slope = _log_slope(bin_, share)
    origin = bin_.left + share * bin_.width
    return jnp.where(inside, origin, values), jnp.where(inside, log_slope, 0.0)


def _edges(raw: Float[Array, "k *batch"]) -> tuple[Array, Array]:
    """Left ends and widths of bins that fill the interval."""
    share = _LEAST_SHARE + (1.0 - BINS * _LEAST_SHARE) * jax.nn.softmax(raw, axis=0)
    width = 2.0 * HALF_WIDTH * share
    before = np.tril(np.ones((BINS, BINS)), -1).astype(raw.dtype)
    return jnp.tensordot(before, width, 1) - HALF_WIDTH, width


def _chosen(values: Float[Array, "*batch"], edges: Float[Array, "k *batch"], at: Knots) -> Knots:
    """Of every knot array, the entry of the bin that the value lies in; slopes made positive."""
    beyond = values >= edges[1:]
    own = jnp.concatenate([jnp.ones_like(beyond[:1]), beyond])
    own &= jnp.concatenate([~beyond, jnp.ones_like(beyond[:1])])
    entries = (jnp.where(own, column, 0.0).sum(0) for column in at)
    left, width, bottom, height, slope, next_slope = entries
    return Knots(left, width, bottom, height, _positive(slope), _positive(next_slope))


def _positive(raw: Array) -> Array:
    """A slope; 1 where the raw number is 0."""
    return _LEAST_SLOPE + jax.nn.softplus(raw + _TO_UNIT_SLOPE)


def _log_slope(bin_: Knots, share: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    ratio, mixed = bin_.height / bin_.width, share * (1.0 - share)
    below = ratio + (bin_.slope + bin_.next_slope - 2.0 * ratio) * mixed
    above = bin_.next_slope * share**2 + 2.0 * ratio * mixed + bin_.slope * (1.0 - share) ** 2
    return 2.0 * jnp.log(ratio) + jnp.log(above) - 2.0 * jnp.log(below)
