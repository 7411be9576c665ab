r"""The M-step of a linear Gaussian state space model: two regressions about the current parameters.

Both equations are ``y = Theta v + e``, ``e ~ N(0, S)``: ``y = z_t`` and ``v = (z_{t-1}, u_t, 1)``,
or ``y = x_t`` and ``v = (z_t, u_t, 1)``. Statistics are expected sums of the *residual* e at the
current parameters, not of y: where the noise is small, nothing large cancels. The step is then

.. math:: \Delta = E[e v^T] E[v v^T]^{-1}, \qquad
          S = (E[e e^T] - \Delta E[v e^T] - \ldots) / n

with the rows and columns of what is held left out. Shumway & Stoffer (1982), "An approach to time
series smoothing and forecasting using the EM algorithm"; Wu, Pai & Hosking (1996), "An algorithm
for estimating parameters of state-space models", for parameters held.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from minorant import _factors
from minorant._types import Array

_PROXIMAL = 1e3  # multiples of epsilon: the step is a little short where v is collinear
_LEAST = 1e-9


class Regression(NamedTuple):
    """Expected weighted sums of one equation at the current parameters.

    Where the noise is independent and cells are missing, the cells of each equation have their
    own ``count`` and ``inputs`` (leading axis q); otherwise that axis has length one.
    """

    count: Float[Array, " q1"]
    square: Float[Array, "q *q2"]
    cross: Float[Array, "p q"]
    inputs: Float[Array, "q1 p p"]


class First(NamedTuple):
    """Weight of the groups, and sums of ``z_1 - mean`` and of its square."""

    count: Float[Array, ""]
    away: Float[Array, " l"]
    square: Float[Array, "l l"]


class Held(NamedTuple):
    """Masks of what keeps its value: coefficients (q, p) and noise; None where nothing does."""

    coefficients: Array | None
    noise: Array | None


def regressed(
    sums: Regression, noise: Float[Array, "q *q2"], held: Held
) -> tuple[Float[Array, "q p"], Float[Array, "q *q2"]]:
    """By how much the coefficients change, and the new noise.

    Args:
        sums: statistics.
        noise: the current noise, (q,) variances or a (q, q) matrix.
        held: what keeps its value.
    """
    inputs = _proximal(sums.inputs)
    change = _change(inputs, sums.cross, noise, held.coefficients)
    return change, _keep(held.noise, noise, _noise(sums, change, noise))


def first_step(sums: First, mean: Array, covariance: Array, held: Held) -> tuple[Array, Array]:
    """The new mean and covariance of the first state."""
    count = jnp.maximum(sums.count, jnp.finfo(mean.dtype).tiny)
    shift = sums.away / count
    shift = shift if held.coefficients is None else jnp.where(held.coefficients, 0.0, shift)
    outer = shift[:, None] * sums.away
    scatter = sums.square - outer - outer.T + sums.count * (shift[:, None] * shift)
    return mean + shift, _keep(held.noise, covariance, scatter / count)


def _proximal(inputs: Float[Array, "q1 p p"]) -> Float[Array, "q1 p p"]:
    eps, tiny = jnp.finfo(inputs.dtype).eps, jnp.finfo(inputs.dtype).tiny
    diagonal = jnp.diagonal(inputs, axis1=1, axis2=2)
    least = eps * diagonal.mean(1, keepdims=True) + 1e6 * tiny
    more = _PROXIMAL * (eps * diagonal + least)
    return inputs + more[..., None] * jnp.eye(inputs.shape[-1], dtype=inputs.dtype)


def _change(inputs: Array, cross: Array, noise: Array, held: Array | None) -> Float[Array, "q p"]:
    if held is None:
        return jax.vmap(_solved)(inputs, _each(cross, inputs)).reshape(cross.T.shape)
    if noise.ndim == 1:
        inputs = jnp.broadcast_to(inputs, (len(held), *inputs.shape[1:]))
        return jax.vmap(_solved_free)(inputs, cross.T, held)
    return _solved_jointly(inputs[0], cross, noise, held)


def _each(cross: Array, inputs: Array) -> Array:
    """The right-hand sides, a (q, p, 1) or (1, p, q) stack to match ``inputs``."""
    return cross[None] if len(inputs) == 1 else cross.T[..., None]


def _solved(inputs: Array, cross: Array) -> Array:
    return _factors.cho_solve(_factors.cholesky(inputs), cross).T


def _solved_free(inputs: Array, cross: Array, held: Array) -> Array:
    """One equation's coefficients, those held left at no change."""
    free = ~held
    system = jnp.where(free[:, None] & free, inputs, jnp.diag(jnp.diagonal(inputs)))
    return jnp.where(free, _solved(system, jnp.where(free, cross, 0.0)[:, None])[0], 0.0)


def _solved_jointly(inputs: Array, cross: Array, noise: Array, held: Array) -> Array:
    """All equations at once: where noises are correlated, what one holds moves the others.

    ``S^-1 D V = S^-1 E[e v']`` over the free entries of D, at the current S.
    """
    values, vectors = jnp.linalg.eigh(noise)
    precision = (vectors / jnp.maximum(values, _LEAST * values[-1])) @ vectors.T
    system = jnp.kron(precision, inputs)
    return _solved_free(system, (precision @ cross.T).ravel(), held.ravel()).reshape(held.shape)


def _noise(sums: Regression, change: Array, noise: Array) -> Array:
    some = sums.count > 0
    count = jnp.where(some, sums.count, 1.0)
    if noise.ndim == 1:
        square = jnp.diagonal(sums.square) if sums.square.ndim == 2 else sums.square
        twice = (change * sums.cross.T).sum(1)
        inputs = jnp.broadcast_to(sums.inputs, (len(change), *sums.inputs.shape[1:]))
        quadratic = jnp.einsum("qp,qpr,qr->q", change, inputs, change)
        return jnp.where(some, (square - 2.0 * twice + quadratic) / count, noise)
    twice = change @ sums.cross
    total = sums.square - twice - twice.T + change @ sums.inputs[0] @ change.T
    return jnp.where(some[0], 0.5 * (total + total.T) / count[0], noise)


def _keep(held: Any, old: Array, new: Array) -> Array:
    return new if held is None else jnp.where(held, old, new)
