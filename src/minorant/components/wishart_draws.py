r"""Draws of means and precisions from a normal-Wishart q, with ``log prior - log q`` of each.

A Wishart draw is ``Lambda = M A A' M'`` with ``M M' = V^-1``, A lower triangular, normal below the
diagonal and with ``A_ii^2`` chi-squared of ``nu + 1 - i`` degrees (Bartlett's decomposition; Smith
& Hocking, 1972, "Wishart variate generator"). Order 1: gammas.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Float

from minorant import _factors
from minorant._types import Array, Key
from minorant.components.normal_wishart import log_determinant


class Roots(NamedTuple):
    """``B`` with ``B B' = Lambda^-1``, its inverse, and ``log |Lambda|``."""

    root: Float[Array, "k d d"]
    inverse: Float[Array, "k d d"]
    log_determinant: Float[Array, " k"]


def wishart_roots(key: Key, covariance: Array, degrees: Float[Array, " k"]) -> Roots:
    """Roots of inverses of draws from ``W((nu S)^-1, nu)``, S (k, d, d)."""
    k, d = covariance.shape[:2]
    normal_key, tail_key = jax.random.split(key)
    dtype = covariance.dtype
    left = 0.5 * (degrees[:, None] - np.arange(d, dtype=dtype))
    diagonal = jnp.sqrt(2.0 * jax.random.gamma(tail_key, left, dtype=dtype))
    noise = jnp.tril(jax.random.normal(normal_key, (k, d, d), dtype=dtype), -1)
    triangle = noise + diagonal[..., None] * jnp.eye(d, dtype=dtype)
    factor, whitener = _factors.factored(covariance)
    scale = jnp.sqrt(degrees)[:, None, None]
    turned = jnp.swapaxes(_factors.inverse_triangle(triangle), 1, 2)
    inverse = jnp.swapaxes(triangle, 1, 2) @ whitener / scale
    logs = jnp.log(diagonal * jnp.diagonal(whitener, axis1=1, axis2=2)).sum(1)
    return Roots(scale * factor @ turned, inverse, 2.0 * logs - d * jnp.log(degrees))


def wishart_log_ratio(
    roots: Roots,
    covariance: Float[Array, "k d d"],
    degrees: Float[Array, " k"],
    prior: tuple[Array, Array],
) -> Float[Array, " k"]:
    """``log W(Lambda; V_0^-1, nu_0) - log W(Lambda; (nu S)^-1, nu)``; ``prior`` is nu_0, V_0."""
    first, scale = prior
    d = covariance.shape[-1]
    whole = degrees[:, None, None] * covariance
    precision = jnp.swapaxes(roots.inverse, 1, 2) @ roots.inverse
    trace = ((scale - whole) * precision).sum((1, 2))
    ratio = 0.5 * ((first - degrees) * roots.log_determinant - trace)
    return ratio + _log_normaliser(whole, degrees, d) - _log_normaliser(scale, first, d)


def mean_log_ratio(
    away: Float[Array, "k d"],
    inverse: Float[Array, "k d d"],
    noise: Float[Array, "k d"],
    precision: Array,
    prior: Array,
) -> Float[Array, ""]:
    """``log N(mu; m_0, (beta_0 Lambda)^-1) - log N(mu; m, (beta Lambda)^-1)``, summed.

    Args:
        away: ``mu - m_0``.
        inverse: the inverse root of ``Lambda^-1``.
        noise: ``root^-1 (mu - m) sqrt(beta)``, the standard normal draw.
        precision: ``beta``, (k, 1) or (k, d).
        prior: ``beta_0``.
    """
    white = jnp.einsum("kij,kj->ki", inverse, away)
    logs = jnp.broadcast_to(jnp.log(prior / precision), away.shape)
    return 0.5 * (logs - prior * white**2 + noise**2).sum()


def _log_normaliser(scale: Array, degrees: Array, d: int) -> Array:
    """``log int |Lambda|^((nu - d - 1) / 2) exp(-tr(V Lambda) / 2)``, less ``log pi``."""
    halves = 0.5 * (degrees[..., None] - np.arange(d, dtype=scale.dtype))
    logs = 0.5 * degrees * (d * np.log(2.0) - log_determinant(scale))
    return logs + gammaln(halves).sum(-1)
