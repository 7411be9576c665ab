r"""Maximum likelihood of a factor model from moments: loadings profiled out, Newton on the rest.

Complete rows enter only through their covariance S. For given noise variances ``v = exp(u)`` let
``w_1 >= w_2 >= ...`` and ``e_m`` be the eigenpairs of ``V^-1/2 S V^-1/2``. The best loadings are
``V^1/2 e_m (w_m - 1)^1/2`` for the l largest (Lawley, 1940), and twice the negative log-likelihood
per row that is left is, up to a constant,

.. math:: f(u) = \sum_j u_j + \sum_{m \le l} (\log w_m + 1) + \sum_{m > l} w_m

(an eigenvalue at or below 1 has no factor and counts among the rest). Its gradient and exact
Hessian come from the same eigenpairs, so a step costs one eigendecomposition, and a handful of
steps replaces the hundreds to thousands that EM takes. Joreskog (1967), "Some contributions to
maximum likelihood factor analysis", section 3; Clarke (1970), "A rapidly convergent method for
maximum-likelihood factor analysis".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from minorant import _factors
from minorant._types import Array
from minorant.components.low_rank import signed

_MOST_STEPS = 100
_LONGEST = 2.0  # a step may change a variance by at most this factor's exponential
_HALVINGS = 12
_RIDGE = 1e-3


class Solution(NamedTuple):
    """Noise variances and loadings, these in the canonical rotation."""

    variance: Float[Array, " d"]
    loadings: Float[Array, "d l"]


class Eigen(NamedTuple):
    """Eigenvalues from the largest and their vectors (columns); which have a factor."""

    values: Float[Array, " d"]
    vectors: Float[Array, "d d"]
    active: Bool[Array, " d"]


class Walk(NamedTuple):
    """Where Newton's iteration is: log variances, their value and eigenpairs, steps left."""

    point: Float[Array, " d"]
    value: Float[Array, ""]
    eigen: Eigen
    steps_left: Int[Array, ""]


def diagonal(
    covariance: Float[Array, "d d"],
    start: Float[Array, " d"],
    floor: Float[Array, " d"],
    n_factors: int,
) -> Solution:
    """The maximum over loadings and one noise variance per column, none below its floor.

    Args:
        covariance: S, of complete (or completed) rows.
        start: noise variances to begin from.
        floor: the least noise variances.
        n_factors: l, at most d.
    """
    total = jnp.maximum(jnp.diagonal(covariance), floor)
    low, high = jnp.log(floor), jnp.log(total)

    def running(walk: Walk) -> Array:
        return walk.steps_left > 0

    def step(walk: Walk) -> Walk:
        return _step(covariance, n_factors, low, high, walk)

    begin = jnp.clip(jnp.log(start), low, high)
    eigen = _eigen(covariance, begin, n_factors)
    first = Walk(begin, _value(begin, eigen), eigen, jnp.asarray(_MOST_STEPS, jnp.int32))
    last = jax.lax.while_loop(running, step, first)
    variance = jnp.exp(last.point)
    return Solution(variance, _loadings(last.eigen, variance, n_factors))


def isotropic(covariance: Float[Array, "d d"], floor: Float[Array, ""], n_factors: int) -> Solution:
    """The maximum with one noise variance for all columns: closed.

    The variance is the mean of the eigenvalues left out, the loadings
    ``e_m (lambda_m - variance)^1/2``. Tipping & Bishop (1999), "Probabilistic principal component
    analysis", equations 7 and 8.
    """
    d = covariance.shape[0]
    values, vectors = jnp.linalg.eigh(covariance)
    left = values[: d - n_factors].sum() / max(d - n_factors, 1)
    variance = jnp.maximum(left, floor)
    excess = jnp.maximum(values[::-1][:n_factors] - variance, 0.0)
    loadings = signed(vectors[:, ::-1][:, :n_factors]) * jnp.sqrt(excess)
    return Solution(jnp.broadcast_to(variance, (d,)), loadings)


def _step(covariance: Array, n_factors: int, low: Array, high: Array, walk: Walk) -> Walk:
    """One projected Newton step, halved until it descends; the last where nothing is gained."""
    gradient, curvature, scores = _derivatives(walk.eigen, n_factors)
    held = ((walk.point <= low) & (gradient > 0)) | ((walk.point >= high) & (gradient < 0))
    downhill = _direction(gradient, curvature, scores, held)
    longest = jnp.max(jnp.abs(downhill))
    downhill = downhill * jnp.minimum(1.0, _LONGEST / jnp.maximum(longest, 1e-30))
    promised = -0.5 * gradient @ downhill
    eps = jnp.finfo(covariance.dtype).eps
    slack = 4 * eps * (1 + jnp.abs(walk.value))

    def attempt(size: Array) -> tuple[Array, Array, Eigen]:
        point = jnp.clip(walk.point + size * downhill, low, high)
        eigen = _eigen(covariance, point, n_factors)
        return point, _value(point, eigen), eigen

    def too_long(tried: tuple[Array, tuple[Array, Array, Eigen]]) -> Array:
        size, (_, value, _) = tried
        return ~(value <= walk.value + slack) & (size > 0.5**_HALVINGS)

    def halve(tried: tuple[Array, tuple[Array, Array, Eigen]]) -> tuple:
        return 0.5 * tried[0], attempt(0.5 * tried[0])

    def search() -> tuple[Array, Array, Eigen]:
        whole = jnp.ones((), covariance.dtype)
        return jax.lax.while_loop(too_long, halve, (whole, attempt(whole)))[1]

    def stay() -> tuple[Array, Array, Eigen]:
        return walk.point, walk.value, walk.eigen

    # Where so little is promised, the point is exact to rounding, though the value may not be.
    point, value, eigen = jax.lax.cond(promised > eps**1.5 * slack, search, stay)
    better = value <= walk.value + slack
    over = ~better | (jnp.maximum(promised, walk.value - value) <= slack)
    left = jnp.where(over, 0, walk.steps_left - 1)
    moved = Walk(point, value, eigen, left)
    stayed = walk._replace(steps_left=left)
    return jax.tree.map(lambda a, b: jnp.where(better, a, b), moved, stayed)


def _eigen(covariance: Array, point: Array, n_factors: int) -> Eigen:
    root = jnp.exp(-0.5 * point)
    values, vectors = jnp.linalg.eigh(covariance * root[:, None] * root)
    values, vectors = values[::-1], vectors[:, ::-1]
    leading = np.arange(len(root)) < n_factors
    return Eigen(values, vectors, (values > 1.0) & leading)


def _value(point: Array, eigen: Eigen) -> Float[Array, ""]:
    above = jnp.where(eigen.active, eigen.values, 1.0)
    return point.sum() + jnp.where(eigen.active, jnp.log(above) + 1.0, eigen.values).sum()


def _derivatives(
    eigen: Eigen, n_factors: int
) -> tuple[Float[Array, " d"], Float[Array, "d d"], Float[Array, "d d"]]:
    """Gradient, Hessian, and the positive semi-definite matrix that stands in for it far away.

    With ``B = V^-1/2 S V^-1/2``: ``dw_m = -w_m e_m^2`` and second-order perturbation theory;
    pairs of eigenvalues both left out, and (by symmetry) both kept, never divide by a gap.
    """
    values, vectors, active = eigen
    inverse = jnp.where(active, 1.0 / jnp.where(active, values, 1.0), 0.0)
    rest = jnp.where(active, 0.0, 1.0)
    weight = inverse + rest  # d f / d w_m
    weighted = vectors * weight
    squares = vectors * vectors
    gradient = 1.0 - squares @ (weight * values)
    whitened = (vectors * values) @ vectors.T
    curvature = 0.5 * whitened * (weighted @ vectors.T)
    curvature = curvature + 0.5 * jnp.diag(squares @ (weight * values))
    kept, lifted = vectors[:, :n_factors], jnp.where(active, 1.0, 0.0)[:n_factors]
    curvature = curvature - (squares[:, :n_factors] * lifted) @ squares[:, :n_factors].T
    curvature = curvature + _crossed(kept, kept, _both_kept(values[:n_factors], lifted))
    curvature = curvature + _crossed(kept, vectors, _one_kept(values, rest, lifted, n_factors))
    left = (vectors * rest) @ vectors.T
    return gradient, curvature, left * left


def _both_kept(values: Array, active: Array) -> Float[Array, "l l"]:
    """``-(w_m + w_q)^2 / (4 w_m w_q)`` for every ordered pair of kept eigenvalues."""
    safe = jnp.where(active > 0, values, 1.0)
    total = safe[:, None] + safe
    off = 1.0 - np.eye(len(values), dtype=values.dtype)
    return -0.25 * off * active[:, None] * active * total**2 / (safe[:, None] * safe)


def _one_kept(values: Array, rest: Array, active: Array, n_factors: int) -> Float[Array, "l d"]:
    """``(w_m + w_q)^2 / (2 (w_m - w_q)) (1 / w_m - 1)`` for m kept and q left out."""
    m = jnp.where(active > 0, values[:n_factors], 1.0)[:, None]
    pair = active[:, None] * rest
    gap = jnp.where(pair > 0, jnp.maximum(m - values, 1e-6 * m), 1.0)
    return pair * 0.5 * (m + values) ** 2 / gap * (1.0 / m - 1.0)


def _crossed(first: Array, second: Array, weight: Float[Array, "l m"]) -> Float[Array, "d d"]:
    """``sum_mq weight_mq (a_m b_q) (a_m b_q)^T``, products entry by entry."""
    d = first.shape[0]
    products = (first[:, :, None] * second[:, None, :]).reshape(d, -1)
    return (products * weight.ravel()) @ products.T


def _direction(gradient: Array, curvature: Array, scores: Array, held: Array) -> Array:
    """Newton's direction where the free curvature is positive definite, else the scores'."""
    free = ~held
    both = free[:, None] & free
    eye = np.eye(len(gradient), dtype=gradient.dtype)
    pull = jnp.where(free, -gradient, 0.0)
    exact = _factors.cholesky(jnp.where(both, curvature, eye))
    sound = jnp.all(jnp.isfinite(exact[-1]))
    ridged = jnp.where(both, scores, 0.0) + eye * jnp.where(free, _RIDGE, 1.0)
    factor = jnp.where(sound, exact, _factors.cholesky(ridged))
    found = _factors.cho_solve(factor, pull)
    return jnp.where(found @ pull > 0, found, pull)


def _loadings(eigen: Eigen, variance: Array, n_factors: int) -> Float[Array, "d l"]:
    excess = jnp.where(eigen.active, eigen.values - 1.0, 0.0)[:n_factors]
    vectors = eigen.vectors[:, :n_factors] * jnp.sqrt(variance)[:, None]
    return signed(vectors) * jnp.sqrt(excess)
