r"""Each row's best Gaussian, for likelihoods that nothing closed or finite integrates.

.. math:: \log p_\theta(x_i) \ge \max_{\mu, F} \; \frac1s \sum_{j=1}^s
          \log p_\theta(x_i, \mu + F \epsilon_j) + \log |F| + \tfrac l2 (1 + \log 2\pi)

All rows climb side by side by natural-gradient steps on the same antithetic draws, whose covariance
is exactly the identity (see :mod:`minorant.solvers.natural`): exact where the posterior is normal,
with no step size, each row's steps halved where its bound would fall. Mean and factor are held in
derivatives: at the optimum their part of the derivative is zero, so that the bound's derivative by
the parameters is that of the joint at the draws (the envelope theorem).

Opper & Archambeau (2009), "The variational Gaussian approximation revisited", equations 5 to 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from minorant import _factors
from minorant._linalg import LOG_TWO_PI
from minorant._types import Array, PyTree
from minorant.posteriors.gaussian import Gaussian

# (parameters, latents (n, l)) -> log joint density (n,): row i sees row i of the latents alone.
LogJoint = Callable[[PyTree, Array], Array]
_STEPS = 60
_SHORTEST = 1e-4
_WIDTH = 0.5


class Local(NamedTuple):
    """Every row's Gaussian, and the bound it gives."""

    bound: Float[Array, " n"]
    posterior: Gaussian


class Search(NamedTuple):
    """The accepted Gaussians, those to be looked at next, and each row's step length."""

    mean: Float[Array, "n l"]
    factor: Float[Array, "n l l"]
    bound: Float[Array, " n"]
    slope: Float[Array, "n l"]
    curvature: Float[Array, "n l l"]
    length: Float[Array, " n"]
    done: Bool[Array, " n"]
    count: Int[Array, ""]


class Held(NamedTuple):
    """What the climbs of all rows share: the joint, the draws, and the family."""

    log_joint: Callable[[Array], Array]
    draws: Float[Array, "s l"]
    diagonal: bool


def number_of_draws(l: int) -> int:
    """How many draws a row's bound is averaged over."""
    return max(32, 4 * l)


def held_draws(s: int, l: int) -> Float[np.ndarray, "s l"]:
    """The draws that all rows share: antithetic, with the identity for covariance; s >= 2 l."""
    half = np.random.default_rng(s * 1009 + l).normal(size=(s // 2, l))
    factor = np.linalg.cholesky(half.T @ half / (s // 2))
    matched = np.linalg.solve(factor, half.T).T
    return np.concatenate([matched, -matched])


def best_gaussians(
    log_joint: LogJoint,
    parameters: PyTree,
    start: Float[Array, "n l"],
    s: int,
    diagonal: bool = False,
    factor: Float[Array, "n l l"] | None = None,
) -> Local:
    """Every row's best Gaussian and its bound, differentiable in the parameters.

    Args:
        log_joint: (parameters, latents (n, l)) -> (n,), rows independent of each other.
        parameters: what the bound is differentiated by.
        start: (n, l) where the climbs start.
        s: draws, at least twice l.
        diagonal: whether latent dimensions are independent under q.
        factor: (n, l, l) lower factors of the covariances that the climbs start with; None for
            half the identity.

    Returns:
        Bound and posterior per row.
    """
    draws = jnp.asarray(held_draws(s, start.shape[-1]), start.dtype)
    held = jax.lax.stop_gradient(parameters)
    joint_held = Held(lambda latents: log_joint(held, latents), draws, diagonal)
    end = _climbed(joint_held, *jax.lax.stop_gradient((start, factor)))
    points = end.mean + jnp.einsum("nij,sj->sni", end.factor, draws)
    joint = jax.vmap(lambda latents: log_joint(parameters, latents))(points).mean(0)
    # The entropy is the search's own; the joint is computed again to be differentiated.
    held_joint = jax.lax.stop_gradient(joint)
    bound = jnp.where(jnp.isfinite(held_joint), end.bound - held_joint, -jnp.inf) + joint
    return Local(bound, Gaussian(end.mean, end.factor @ jnp.swapaxes(end.factor, -1, -2)))


def _climbed(held: Held, start: Array, factor: Array | None) -> Search:
    """Steps of all rows until each has nothing left to gain."""

    def goes_on(search: Search) -> Array:
        return ~search.done.all() & (search.count < _STEPS)

    eps = jnp.finfo(start.dtype).eps

    def step(search: Search) -> Search:
        mean, factor = _moved(search, held.diagonal)
        slack = jnp.where(jnp.isfinite(search.bound), 8 * eps * jnp.abs(search.bound), 0.0)
        found = _measured(held, mean, factor)
        rose = _finite(found) & (found.bound >= search.bound - slack)
        length = jnp.where(rose, jnp.minimum(1.0, 4.0 * search.length), 0.25 * search.length)
        taken = found._replace(
            length=length, done=_left(found, held.diagonal) < 64 * eps, count=search.count + 1
        )
        kept = search._replace(
            length=length, done=search.done | (length < _SHORTEST), count=search.count + 1
        )
        return jax.tree.map(lambda a, b: _by_row(rose & ~search.done, a, b), taken, kept)

    return jax.lax.while_loop(goes_on, step, _begun(held, start, factor))


def _begun(held: Held, start: Array, factor: Array | None) -> Search:
    n, l = start.shape
    if factor is None:
        factor = jnp.broadcast_to(_WIDTH * jnp.eye(l, dtype=start.dtype), (n, l, l))
    first = _measured(held, start, factor)
    return first._replace(bound=jnp.where(_finite(first), first.bound, -jnp.inf))


def _measured(held: Held, mean: Array, factor: Array) -> Search:
    """The bound of every row and its natural gradient in the coordinates of the draws."""
    n, l = mean.shape
    draws, s = held.draws, len(held.draws)

    def total(latents: Array) -> tuple[Array, Array]:
        values = held.log_joint(latents)
        return values.sum(), values

    points = mean + jnp.einsum("nij,sj->sni", factor, draws)
    gradients, values = jax.vmap(jax.grad(total, has_aux=True))(points)
    turned = jnp.einsum("sni,nij->snj", gradients, factor)
    # Half of Stein's matrix is enough: on held draws its lower triangle is the exact derivative.
    curvature = jnp.tril(-jnp.einsum("sni,sj->nij", turned, draws) / s)
    curvature = curvature + jnp.swapaxes(jnp.tril(curvature, -1), -1, -2)
    log_volume = jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)
    bound = values.mean(0) + log_volume + 0.5 * l * (1 + LOG_TWO_PI)
    one, none = jnp.ones(n, mean.dtype), jnp.zeros(n, bool)
    return Search(
        mean, factor, bound, turned.mean(0), curvature, one, none, jnp.zeros((), jnp.int32)
    )


def _moved(search: Search, diagonal: bool) -> tuple[Array, Array]:
    """Means and factors a natural-gradient step further; NaN where the step is too long.

    Means of independent latents take the same step, by the whole curvature: what the covariance
    may not be says nothing of them.
    """
    eye = jnp.eye(search.mean.shape[-1], dtype=search.mean.dtype)
    length = search.length[:, None, None]
    half = _lower_inverse_root(eye + length * (search.curvature - eye))
    turned = jnp.swapaxes(half, -1, -2) @ search.slope[..., None]
    shift = search.length[:, None] * (half @ turned)[..., 0]
    mean = search.mean + (search.factor @ shift[..., None])[..., 0]
    if diagonal:
        precision = jnp.diagonal(eye + length * (search.curvature - eye), axis1=-2, axis2=-1)
        half = eye / jnp.sqrt(precision)[..., None]
    return mean, search.factor @ half


def _lower_inverse_root(matrices: Float[Array, "n l l"]) -> Float[Array, "n l l"]:
    """The lower triangular C with ``C C' = P^-1``: a Cholesky factorisation from the last row up.

    A triangular root keeps factors triangular, so that they are a function of the covariance, and
    the bound on held draws a function of mean and covariance.
    """
    turned = matrices[..., ::-1, ::-1]
    inverse = _factors.factored(turned)[1]
    return jnp.swapaxes(inverse[..., ::-1, ::-1], -1, -2)


def _left(search: Search, diagonal: bool) -> Float[Array, " n"]:
    """About how many nats a full step would gain."""
    eye = jnp.eye(search.mean.shape[-1], dtype=search.mean.dtype)
    away = (search.curvature - eye) ** 2
    away = (away * eye if diagonal else away).sum((-2, -1))
    return 0.5 * (search.slope**2).sum(-1) + 0.25 * away


def _finite(search: Search) -> Bool[Array, " n"]:
    finite = jnp.isfinite(search.slope).all(-1) & jnp.isfinite(search.curvature).all((-2, -1))
    return finite & jnp.isfinite(search.bound)


def _by_row(which: Bool[Array, " n"], one: Array, other: Array) -> Array:
    if one.ndim == 0:
        return one
    return jnp.where(which.reshape(which.shape + (1,) * (one.ndim - 1)), one, other)
