r"""Triangular factors of one matrix or of many at once, safe inside compiled programs.

A batched call of LAPACK hands its matrices to the threads that run the program and waits for them.
With some versions of jaxlib (0.10.0 to 0.11.1) two such calls side by side wait for each other's
threads, for ever. So many matrices are never given to LAPACK in one call: small ones are eliminated
side by side, large ones taken one after the other. A single matrix goes to LAPACK as usual.

Derivatives are products with the inverse factor: with ``A = L L'`` and ``W = L^-1``,
``dL = L P(W dA W')`` and ``dW = -P(W dA W') W``, P the lower triangle with half the diagonal.
Murray (2016), "Differentiation of the Cholesky decomposition", equations 7 and 8.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Float

from minorant._types import Array

_SMALL = 16
_TINY = 8  # up to which entries are written out: faster to run, and no slower to compile


def cholesky(matrices: Float[Array, "*batch d d"]) -> Float[Array, "*batch d d"]:
    """The lower factor; not finite where a matrix is not positive definite."""
    return factored(jnp.asarray(matrices))[0]


def solve_triangular(factor: Float[Array, "*batch d d"], right: Array, lower: bool = True) -> Array:
    """``L^-1 b``, or ``U^-1 b`` for an upper factor; b has columns where it has as many axes."""
    factor, right = jnp.asarray(factor), jnp.asarray(right)
    turned = factor if lower else jnp.swapaxes(factor, -1, -2)
    inverse = inverse_triangle(turned)
    inverse = inverse if lower else jnp.swapaxes(inverse, -1, -2)
    if right.ndim < factor.ndim:
        return (inverse @ right[..., None])[..., 0]
    return inverse @ right


def cho_solve(factor: Float[Array, "*batch d d"], right: Array) -> Array:
    """``(L L')^-1 b``."""
    inverse = inverse_triangle(jnp.asarray(factor))
    if right.ndim < factor.ndim:
        return cho_solve(factor, right[..., None])[..., 0]
    return jnp.swapaxes(inverse, -1, -2) @ (inverse @ right)


def inverse(matrices: Float[Array, "*batch d d"]) -> Float[Array, "*batch d d"]:
    """The inverse of positive definite matrices."""
    half = factored(jnp.asarray(matrices))[1]
    return jnp.swapaxes(half, -1, -2) @ half


@jax.custom_jvp
def factored(matrices: Float[Array, "*batch d d"]) -> tuple[Array, Array]:
    """The lower factors L and their inverses."""
    if matrices.ndim == 2:
        return _factored_one(matrices)
    return _shaped_like(matrices, _factored_many(_flat(matrices)))


@factored.defjvp
def _factored_tangent(primals: tuple[Array], tangents: tuple[Any]) -> tuple[Any, Any]:
    factor, inverse = factored(*primals)
    inner = inverse @ tangents[0] @ jnp.swapaxes(inverse, -1, -2)
    half = jnp.tril(inner) - 0.5 * inner * np.eye(inner.shape[-1], dtype=inner.dtype)
    return (factor, inverse), (factor @ half, -(half @ inverse))


@jax.custom_jvp
def inverse_triangle(factor: Float[Array, "*batch d d"]) -> Float[Array, "*batch d d"]:
    """``L^-1``; what is above the diagonal is not looked at."""
    if factor.ndim == 2:
        return _inverse_one(factor)
    return _shaped_like(factor, _inverse_many(_flat(factor)))


@inverse_triangle.defjvp
def _inverse_tangent(primals: tuple[Array], tangents: tuple[Any]) -> tuple[Any, Any]:
    inverse = inverse_triangle(*primals)
    return inverse, -(inverse @ jnp.tril(tangents[0]) @ inverse)


@custom_vmap
def eigh(matrices: Float[Array, "m d d"]) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors, one matrix after the other; has no derivative."""
    return jax.lax.map(lambda one: jnp.linalg.eigh(one, symmetrize_input=False), matrices)


@eigh.def_vmap
def _eigh_many(axis_size: int, in_batched: list[bool], matrices: Array) -> tuple[Any, Any]:
    return _again(eigh, axis_size, in_batched, matrices)


def upper_triangle(array: Float[Array, "m n"]) -> Float[Array, "k n"]:
    """R of ``A = Q R`` (k = min(m, n) rows, signs as they come); has no derivative under vmap."""
    return _triangles(array[None])[0]


@custom_vmap
def _triangles(arrays: Float[Array, "b m n"]) -> Float[Array, "b k n"]:
    """One after the other: reflections side by side are slower than as many calls."""
    if len(arrays) == 1:
        return jnp.linalg.qr(arrays[0], mode="r")[None]
    return jax.lax.map(lambda one: jnp.linalg.qr(one, mode="r"), arrays)


@_triangles.def_vmap
def _more_triangles(axis_size: int, in_batched: list[bool], arrays: Array) -> tuple[Any, Any]:
    return _again(_triangles, axis_size, in_batched, arrays)


# One matrix: LAPACK. Many: side by side, or one after the other.


@custom_vmap
def _factored_one(matrix: Float[Array, "d d"]) -> tuple[Array, Array]:
    factor = jax.lax.linalg.cholesky(jnp.asarray(matrix), symmetrize_input=False)
    return factor, _triangle(factor)


@_factored_one.def_vmap
def _factored_each(axis_size: int, in_batched: list[bool], matrix: Array) -> tuple[Any, Any]:
    del axis_size
    if not in_batched[0]:
        return _factored_one.fun(matrix), (False, False)
    return _factored_many(matrix), (True, True)


@custom_vmap
def _factored_many(matrices: Float[Array, "m d d"]) -> tuple[Array, Array]:
    if matrices.shape[-1] <= _SMALL:
        return _eliminated(matrices)
    return jax.lax.map(_factored_one, matrices)


@_factored_many.def_vmap
def _factored_more(axis_size: int, in_batched: list[bool], matrices: Array) -> tuple[Any, Any]:
    return _again(_factored_many, axis_size, in_batched, matrices)


@custom_vmap
def _inverse_one(factor: Float[Array, "d d"]) -> Float[Array, "d d"]:
    return _triangle(factor)


@_inverse_one.def_vmap
def _inverse_each(axis_size: int, in_batched: list[bool], factor: Array) -> tuple[Any, Any]:
    del axis_size
    if not in_batched[0]:
        return _inverse_one.fun(factor), False
    return _inverse_many(factor), True


@custom_vmap
def _inverse_many(factors: Float[Array, "m d d"]) -> Float[Array, "m d d"]:
    if factors.shape[-1] <= _SMALL:
        return _substituted(factors)
    return jax.lax.map(_inverse_one, factors)


@_inverse_many.def_vmap
def _inverse_more(axis_size: int, in_batched: list[bool], factors: Array) -> tuple[Any, Any]:
    return _again(_inverse_many, axis_size, in_batched, factors)


def _triangle(factor: Float[Array, "d d"]) -> Float[Array, "d d"]:
    eye = jnp.eye(len(factor), dtype=factor.dtype)
    return jax.scipy.linalg.solve_triangular(factor, eye, lower=True)


def _eliminated(matrices: Float[Array, "m d d"]) -> tuple[Array, Array]:
    """Factors and inverses by elimination, all matrices in every step; matrices last in memory."""
    d = matrices.shape[-1]
    if d <= _TINY:
        left = jnp.moveaxis(matrices, 0, -1)
        factor = _factor_written_out(left)
        return _stacked(factor, left), _stacked(_inverse_written_out(factor), left)
    places = np.arange(d)[:, None]

    def eliminate(j: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        left, factor, inverse = state
        row = jax.lax.dynamic_index_in_dim(left, j, 0, keepdims=False)
        root = jnp.sqrt(jax.lax.dynamic_index_in_dim(row, j, 0))
        # Divided, not multiplied by a reciprocal: one rounding less.
        column = jnp.where(places >= j, row / root, 0.0)
        below = jnp.where(places > j, column, 0.0)
        own = jax.lax.dynamic_index_in_dim(inverse, j, 0, keepdims=False) / root
        inverse = inverse - below[:, None] * own
        inverse = jax.lax.dynamic_update_index_in_dim(inverse, own, j, 0)
        factor = jax.lax.dynamic_update_index_in_dim(factor, column, j, 1)
        return left - below[:, None] * below, factor, inverse

    # The lower triangle alone is read, as LAPACK does.
    lower = jnp.tril(matrices)
    whole = lower + jnp.swapaxes(jnp.tril(matrices, -1), -1, -2)
    left = jnp.moveaxis(whole, 0, -1)
    eye = np.eye(d, dtype=matrices.dtype)[..., None]
    begin = (left, jnp.zeros_like(left), jnp.broadcast_to(eye, left.shape))
    _, factor, inverse = jax.lax.fori_loop(0, d, eliminate, begin)
    return jnp.moveaxis(factor, -1, 0), jnp.moveaxis(inverse, -1, 0)


def _substituted(factors: Float[Array, "m d d"]) -> Float[Array, "m d d"]:
    """Inverses of lower factors by forward substitution, all in every step."""
    d = factors.shape[-1]
    if d <= _TINY:
        own = jnp.moveaxis(factors, 0, -1)
        rows = [[own[i, j] for j in range(i + 1)] for i in range(d)]
        return _stacked(_inverse_written_out(rows), own)
    left = jnp.moveaxis(jnp.tril(factors), 0, -1)
    places = np.arange(d)[:, None]

    def substitute(j: Array, inverse: Array) -> Array:
        column = jax.lax.dynamic_index_in_dim(left, j, 1, keepdims=False)
        pivot = jax.lax.dynamic_index_in_dim(column, j, 0)
        own = jax.lax.dynamic_index_in_dim(inverse, j, 0, keepdims=False) / pivot
        below = jnp.where(places > j, column, 0.0)
        inverse = inverse - below[:, None] * own
        return jax.lax.dynamic_update_index_in_dim(inverse, own, j, 0)

    eye = jnp.broadcast_to(np.eye(d, dtype=factors.dtype)[..., None], left.shape)
    return jnp.moveaxis(jax.lax.fori_loop(0, d, substitute, eye), -1, 0)


def _factor_written_out(left: Float[Array, "d d m"]) -> list[list[Array]]:
    """The rows of the lower factors, entry by entry."""
    rows: list[list[Array]] = []
    for i in range(len(left)):
        row: list[Array] = []
        for j in range(i):
            taken = sum((row[k] * rows[j][k] for k in range(j)), start=0.0)
            row.append((left[i, j] - taken) / rows[j][j])
        row.append(jnp.sqrt(left[i, i] - sum((cell * cell for cell in row), start=0.0)))
        rows.append(row)
    return rows


def _inverse_written_out(factor: Any) -> list[list[Array]]:
    """The rows of the inverses of lower factors, entry by entry."""
    rows: list[list[Array]] = []
    for i, own in enumerate(factor):
        row: list[Array] = []
        for j in range(i):
            taken = sum((own[k] * rows[k][j] for k in range(j, i)), start=0.0)
            row.append(-taken / own[i])
        rows.append([*row, 1.0 / own[i]])
    return rows


def _stacked(rows: list[list[Array]], like: Float[Array, "d d m"]) -> Float[Array, "m d d"]:
    """Lower triangles from their rows."""
    zero = jnp.zeros_like(like[0, 0])
    full = [jnp.stack([*row, *[zero] * (len(rows) - len(row))]) for row in rows]
    return jnp.moveaxis(jnp.stack(full), -1, 0)


def _flat(matrices: Array) -> Float[Array, "m d d"]:
    return matrices.reshape(-1, *matrices.shape[-2:])


def _shaped_like(matrices: Array, found: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(matrices.shape), found)


def _again(function: Any, axis_size: int, in_batched: list[bool], matrices: Array) -> Any:
    """A function of (m, d, d) over one more axis: still one axis of matrices."""
    if not in_batched[0]:
        found = function.fun(matrices)
        return found, jax.tree.map(lambda _: False, found)
    found = function(_flat(matrices))
    unflat = jax.tree.map(lambda leaf: leaf.reshape(axis_size, -1, *leaf.shape[1:]), found)
    return unflat, jax.tree.map(lambda _: True, unflat)
