"""Matrices of at most three rows, many at once, written out entry by entry.

That is faster than a library call for each, and differentiates into more of the same.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._linalg import LOG_TWO_PI
from minorant._types import Array


def cholesky(matrix: Float[Array, "*n l l"], least: Any) -> Float[Array, "*n l l"]:
    """The lower factor; pivots below ``least`` are raised to it."""
    l = matrix.shape[-1]
    zero = jnp.zeros_like(matrix[..., 0, 0])
    factor: list[list[Any]] = [[zero] * l for _ in range(l)]
    for j in range(l):
        pivot = matrix[..., j, j] - sum(factor[j][k] ** 2 for k in range(j))
        factor[j][j] = jnp.sqrt(jnp.where(pivot > least, pivot, least))
        for i in range(j + 1, l):
            inner = sum(factor[i][k] * factor[j][k] for k in range(j))
            factor[i][j] = (matrix[..., i, j] - inner) / factor[j][j]
    return jnp.stack([jnp.stack(row, axis=-1) for row in factor], axis=-2)


def forward(factor: Float[Array, "*n l l"], vector: Float[Array, "*m l"]) -> Float[Array, "*k l"]:
    """``L^-1 v``."""
    out: list[Any] = []
    for i in range(factor.shape[-1]):
        inner = sum(factor[..., i, k] * out[k] for k in range(i))
        out.append((vector[..., i] - inner) / factor[..., i, i])
    return jnp.stack(out, axis=-1)


def backward(factor: Float[Array, "*n l l"], vector: Float[Array, "*m l"]) -> Float[Array, "*k l"]:
    """``L^-T v``."""
    l = factor.shape[-1]
    out: list[Any] = [None] * l
    for i in reversed(range(l)):
        inner = sum(factor[..., k, i] * out[k] for k in range(i + 1, l))
        out[i] = (vector[..., i] - inner) / factor[..., i, i]
    return jnp.stack(out, axis=-1)


def solved(factor: Float[Array, "*n l l"], vector: Float[Array, "*n l"]) -> Float[Array, "*n l"]:
    """``(L L^T)^-1 v``."""
    return backward(factor, forward(factor, vector))


def diagonal(matrix: Float[Array, "*n l l"]) -> Float[Array, "*n l"]:
    """The diagonals."""
    xp = np if isinstance(matrix, np.ndarray) else jnp
    return xp.diagonal(matrix, axis1=-2, axis2=-1)


def log_normal(
    away: Float[Array, "*n l"], covariance: Float[Array, "*m l l"]
) -> Float[Array, "*k"]:
    """``log N(away; 0, covariance)``."""
    root = cholesky(covariance, jnp.finfo(away.dtype).tiny)
    scaled = forward(root, away)
    volume = 0.5 * LOG_TWO_PI * away.shape[-1] + jnp.log(diagonal(root)).sum(-1)
    return -0.5 * (scaled**2).sum(-1) - volume
