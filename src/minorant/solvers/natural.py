r"""The best Gaussian for a target, by natural-gradient steps on fixed, moment-matched draws.

The bound of :math:`q = N(\mu, L L^\top)` is

.. math:: L(\mu, L) = E_\epsilon[\log p(\mu + L \epsilon)] + \log|L| + \tfrac p2 (1 + \log 2\pi).

In the coordinates :math:`\epsilon` its natural gradient is :math:`b = E[h]` and :math:`I - A`, with
:math:`h = L^\top \nabla \log p` and :math:`A = -E[h \epsilon^\top]`, by Stein's identity the
expected negative Hessian; both vanish at the optimum. Draws come in antithetic pairs whose
covariance is made exactly the identity, so for a Gaussian target one step lands on the answer, and
draws are noise only in what is not Gaussian. The step length is searched on the same draws: the
objective is a fixed function, and it only rises. A target that is not finite somewhere refuses the
step like a bound that fell.

Opper & Archambeau (2009), "The variational Gaussian approximation revisited", equations 5 to 8;
Lin, Khan & Schmidt (2019), "Fast and simple natural-gradient variational inference with mixture of
exponential-family approximations", section 4. Not for: dimensions in which p draws of p numbers or
a (p, p) factor do not fit.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from minorant import _factors
from minorant._types import Array, Key
from minorant.models.target import AbstractTarget, log_densities_and_gradients

_FEW = 256
_FLAT, _HOLLOW = 1e-13, 0.05
_SHORTEST = 1e-6


class Moments(NamedTuple):
    """What one evaluation finds of the bound in the coordinates of the draws."""

    bound: Float[Array, ""]
    slope: Float[Array, " p"]
    curvature: Float[Array, "p p"]


class GaussianClimb(NamedTuple):
    """The accepted Gaussian and its moments; the one to be looked at next; the search.

    ``left`` estimates the nats that a full step would gain; ``length`` is that of the next step.
    """

    mean: Float[Array, " p"]
    factor: Float[Array, "p p"]
    moments: Moments
    next_mean: Float[Array, " p"]
    next_factor: Float[Array, "p p"]
    length: Float[Array, ""]
    left: Float[Array, ""]
    count: Int[Array, ""]
    over: Bool[Array, ""]


def draws_for(p: int) -> int:
    """How many draws make one chunk: enough to see all directions twice, in pairs."""
    return max(64, 4 * p) if p <= _FEW else 2 * p + 64


def matched_draws(key: Key, s: int, p: int) -> Float[Array, "s p"]:
    """Antithetic standard normal draws, their sample covariance made the identity; s >= 2 p."""
    half = jax.random.normal(key, (s // 2, p), jnp.result_type(float))
    inverse = _factors.factored(half.T @ half / (s // 2))[1]
    matched = half @ inverse.T
    return jnp.concatenate([matched, -matched])


def evaluate(
    target: AbstractTarget, mean: Array, factor: Array, key: Key, chunks: Array
) -> Moments:
    """The bound and its natural gradient on ``chunks`` chunks of draws."""
    p = target.size
    s = draws_for(p)

    def chunk(index: Array, sums: Moments) -> Moments:
        draws = matched_draws(jax.random.fold_in(key, index), s, p)
        values, gradients = log_densities_and_gradients(target, mean + draws @ factor.T)
        turned = gradients @ factor
        found = Moments(values.mean(), turned.mean(0), -(turned.T @ draws) / s)
        return jax.tree.map(jnp.add, sums, found)

    zero = Moments(jnp.zeros(()), jnp.zeros(p), jnp.zeros((p, p)))
    sums = jax.lax.fori_loop(0, chunks, chunk, zero)
    bound, slope, curvature = jax.tree.map(lambda leaf: leaf / chunks, sums)
    bound += 0.5 * p * (1 + np.log(2 * np.pi)) + jnp.linalg.slogdet(factor)[1]
    return Moments(bound, slope, 0.5 * (curvature + curvature.T))


def climb_gaussian(
    target: AbstractTarget,
    mean: Float[Array, " p"],
    factor: Float[Array, "p p"],
    key: Key,
    chunks: Array,
    tolerance: Array,
    max_steps: Array,
) -> GaussianClimb:
    """Natural-gradient steps until what is left to gain is below ``tolerance`` nats.

    A start at which the target is not finite is shrunk towards its mean. The answer's bound is
    -inf when nothing finite was found, and its factor a square root that need not be triangular.
    """

    def goes_on(state: GaussianClimb) -> Array:
        return ~state.over & (state.count < max_steps) & ~(state.left <= tolerance)

    def step(state: GaussianClimb) -> GaussianClimb:
        found = evaluate(target, state.next_mean, state.next_factor, key, chunks)
        rose = _is_finite(found) & (found.bound >= state.moments.bound)
        return jax.lax.cond(rose, _taken, _refused, state, found)

    return jax.lax.while_loop(goes_on, step, _begun(mean, factor))


def _begun(mean: Array, factor: Array) -> GaussianClimb:
    """Nothing accepted yet."""
    p = len(mean)
    lowest = Moments(jnp.full((), -jnp.inf), jnp.zeros(p), jnp.eye(p))
    one, none = jnp.ones(()), jnp.zeros((), jnp.int32)
    left = jnp.full((), jnp.inf)
    return GaussianClimb(mean, factor, lowest, mean, factor, one, left, none, jnp.asarray(False))


def _taken(state: GaussianClimb, found: Moments) -> GaussianClimb:
    """The Gaussian that was looked at, and the next one along its natural gradient."""
    first = ~jnp.isfinite(state.moments.bound)
    length = jnp.where(first, 1.0, jnp.minimum(1.0, 4.0 * state.length))
    mean, factor = _moved(state.next_mean, state.next_factor, found, length)
    return GaussianClimb(
        state.next_mean,
        state.next_factor,
        found,
        mean,
        factor,
        length,
        _left(found),
        state.count + 1,
        jnp.asarray(False),
    )


def _refused(state: GaussianClimb, found: Moments) -> GaussianClimb:
    """A shorter step; before anything was accepted, the start shrunk towards its mean."""
    del found
    first = ~jnp.isfinite(state.moments.bound)
    length = state.length / 4.0
    mean, factor = _moved(state.mean, state.factor, state.moments, length)
    return state._replace(
        next_mean=mean,
        next_factor=jnp.where(first, 0.5 * state.next_factor, factor),
        length=length,
        count=state.count + 1,
        over=length < _SHORTEST,
    )


def _moved(mean: Array, factor: Array, moments: Moments, length: Array) -> tuple[Array, Array]:
    """Mean and factor a natural-gradient step further.

    The symmetric root keeps the draws in place: another one would turn them, and the bound on
    these draws would change by the turn.
    """
    values, vectors = jnp.linalg.eigh(moments.curvature)
    # Where the density curves upwards there is no width to aim at: widen, but not too far.
    precision = jnp.where(values > _FLAT, values, _HOLLOW) ** length
    shift = vectors @ ((vectors.T @ moments.slope) / precision)
    half = (vectors / jnp.sqrt(precision)) @ vectors.T
    return mean + length * factor @ shift, factor @ half


def _left(moments: Moments) -> Float[Array, ""]:
    """About how many nats a full natural-gradient step would gain."""
    away = moments.curvature - jnp.eye(len(moments.slope), dtype=moments.slope.dtype)
    return 0.5 * moments.slope @ moments.slope + 0.25 * (away**2).sum()


def _is_finite(moments: Moments) -> Bool[Array, ""]:
    finite = jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), moments)
    return finite.bound & finite.slope & finite.curvature
