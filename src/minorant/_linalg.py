"""Small numerics, each with a slow twin in ``tests/truth.py``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Float

from minorant import _factors
from minorant._types import Array, PyTree

LOG_TWO_PI = float(np.log(2.0 * np.pi))


def pairs(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pair (i, j) of columns once, by wrapped diagonals: ``j = i + s mod d``.

    All pieces are d wide (the last one d / 2 when d is even), so products of whole slices build
    them; on a CPU that is faster than the ragged rows of a triangle.
    """
    whole = [(np.arange(d), (np.arange(d) + s) % d) for s in range((d + 1) // 2)]
    half = [(np.arange(d // 2), np.arange(d // 2, d))] if d % 2 == 0 else []
    first, second = zip(*whole, *half, strict=True)
    return np.concatenate(first), np.concatenate(second)


def quadratic_features(values: Float[Array, "n d"]) -> Float[Array, "n f"]:
    """``(x, x_i x_j over pairs(d))`` row by row; ``f = d + d (d + 1) / 2``."""
    d = values.shape[1]
    half = d // 2
    wrapped = jnp.concatenate([values, values[:, :half]], axis=1)
    products = [values * wrapped[:, s : s + d] for s in range((d + 1) // 2)]
    if d % 2 == 0:
        products.append(values[:, :half] * values[:, half:])
    return jnp.concatenate([values, *products], axis=1)


def vech(matrix: Float[Array, "*batch d d"]) -> Float[Array, "*batch v"]:
    """The distinct entries of symmetric matrices, in the order of :func:`pairs`."""
    first, second = pairs(matrix.shape[-1])
    return matrix[..., first, second]


def unvech(packed: Float[Array, "*batch v"], d: int) -> Float[Array, "*batch d d"]:
    """The symmetric matrices whose distinct entries are ``packed``."""
    first, second = pairs(d)
    position = np.zeros((d, d), dtype=np.int32)
    position[first, second] = position[second, first] = np.arange(len(first))
    return packed[..., position]


def inverse_from_cholesky(factor: Float[Array, "*batch d d"]) -> Float[Array, "*batch d d"]:
    """``(L L^T)^-1`` from ``L``."""
    half = _factors.inverse_triangle(jnp.asarray(factor))
    return jnp.swapaxes(half, -1, -2) @ half


def log_determinant_from_cholesky(factor: Float[Array, "*batch d d"]) -> Float[Array, "*batch"]:
    """``log |L L^T|`` from ``L``."""
    return 2.0 * jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)


def floored(
    covariance: Float[Array, "*batch d d"], floor: Float[Array, "*batch d"]
) -> Float[Array, "*batch d d"]:
    """The matrix nearest in likelihood with ``covariance - diag(floor)`` positive semi-definite.

    In the coordinates where the floor is the identity, eigenvalues below one are raised to one:
    the exact maximiser of ``-(log|S| + tr(S^-1 C)) / 2`` over ``S >= diag(floor)``, so a floor
    never breaks the monotone climb. Eigenvalues are computed only when some matrix needs it.
    """
    if isinstance(covariance, np.ndarray):
        return _floored_host(covariance, np.asarray(floor))
    return _differentiable_floored(covariance, floor)


def _floored_host(covariance: np.ndarray, floor: np.ndarray) -> np.ndarray:
    root = np.sqrt(floor)
    scale = root[..., :, None] * root[..., None, :]
    if above(covariance / scale, 1.0):
        return covariance
    values, vectors = np.linalg.eigh(covariance / scale)
    raised = (vectors * np.maximum(values, 1.0)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    return raised * scale


def above(matrices: np.ndarray, level: float) -> bool:
    """Whether all eigenvalues exceed the level: by Cholesky, far cheaper than eigenvalues."""
    try:
        np.linalg.cholesky(matrices - level * np.eye(matrices.shape[-1]))
    except np.linalg.LinAlgError:
        return False
    return True


def _eigh(matrices: Float[Array, "*batch d d"]) -> tuple[Array, Array]:
    d = matrices.shape[-1]
    values, vectors = _factors.eigh(matrices.reshape(-1, d, d))
    return values.reshape(matrices.shape[:-1]), vectors.reshape(matrices.shape)


@custom_vmap
def _floored(covariance: Array, floor: Array) -> Array:
    root = jnp.sqrt(floor)
    scale = root[..., :, None] * root[..., None, :]
    eye = np.eye(covariance.shape[-1], dtype=covariance.dtype)
    above = jnp.asarray(covariance / scale - eye)
    factor = _factors.cholesky(above)
    inside = jnp.all(jnp.isfinite(factor[..., -1, :]))

    def clipped(_: None) -> Array:
        values, vectors = _eigh(covariance / scale)
        values = jnp.maximum(values, 1.0)
        raised = (vectors * values[..., None, :]) @ jnp.swapaxes(vectors, -1, -2)
        return raised * scale

    return jax.lax.cond(inside, lambda _: covariance, clipped, None)


@_floored.def_vmap
def _floored_batch(
    axis_size: int, in_batched: list[bool], covariance: Array, floor: Array
) -> tuple[Array, bool]:
    # One scalar predicate for the whole batch: a batched one would compute both branches.
    covariance_batched, floor_batched = in_batched
    if not covariance_batched:
        covariance = jnp.broadcast_to(covariance, (axis_size, *covariance.shape))
    if floor_batched:
        floor = floor.reshape(
            axis_size, *(1,) * (covariance.ndim - 1 - floor.ndim), *floor.shape[1:]
        )
    return _floored(covariance, floor), True


@jax.custom_jvp
def _differentiable_floored(covariance: Array, floor: Array) -> Array:
    return _floored(covariance, floor)


@_differentiable_floored.defjvp
def _floored_tangent(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Any, Any]:
    """The derivative of raising eigenvalues, by divided differences; the floor is a constant.

    Eigenvalues are held in the second derivative, which is exact wherever nothing is raised.
    """
    covariance, floor = primals
    root = jnp.sqrt(floor)
    scale = root[..., :, None] * root[..., None, :]
    values, vectors = _eigh(jax.lax.stop_gradient(covariance / scale))
    left, right = values[..., :, None], values[..., None, :]
    equal = jnp.abs(left - right) <= 1e-12 * jnp.maximum(left, right)
    quotient = (jnp.maximum(left, 1.0) - jnp.maximum(right, 1.0)) / jnp.where(
        equal, 1.0, left - right
    )
    slope = jnp.where(equal, (left > 1.0).astype(values.dtype), quotient)
    turned = jnp.swapaxes(vectors, -1, -2) @ (tangents[0] / scale) @ vectors
    moved = vectors @ (slope * turned) @ jnp.swapaxes(vectors, -1, -2)
    return _differentiable_floored(covariance, floor), moved * scale


def two_sum(total: PyTree, error: PyTree, term: PyTree) -> tuple[PyTree, PyTree]:
    """Compensated addition of pytrees: ``total + error`` gains ``term`` without losing its tail.

    Neumaier (1974), "Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen".
    """
    new = jax.tree.map(jnp.add, total, term)

    def lost(a: Array, b: Array, s: Array) -> Array:
        return jnp.where(jnp.abs(a) >= jnp.abs(b), (a - s) + b, (b - s) + a)

    tail = jax.tree.map(lambda e, a, b, s: e + lost(a, b, s), error, total, term, new)
    return new, tail
