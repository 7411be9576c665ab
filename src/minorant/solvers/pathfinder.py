r"""Pathfinder: the best of the Gaussians that a climb to a mode passes by.

At every point :math:`\theta_l` of a limited-memory BFGS climb the curvature remembered so far says
a covariance :math:`\Sigma_l`, and a Newton step from there a mean:

.. math:: \mu_l = \theta_l + \Sigma_l \nabla \log p(\theta_l), \qquad
          \Sigma_l = \mathrm{diag}(\alpha_l) + \beta_l \gamma_l \beta_l^\top

The one with the best bound on a few draws is kept: often one short of the mode, where the mass is.

Zhang, Carpenter, Gelman & Vehtari (2022), "Pathfinder: parallel quasi-Newton variational
inference", algorithms 1 to 4. Not for: an accurate bound; its Gaussians are those of a climb, not
the best ones.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._types import Array
from minorant.models.target import AbstractTarget, log_densities
from minorant.posteriors.stretched import Stretched
from minorant.solvers.mode import ModeClimb, begun, step

_BLOCK = 256
_STEEPEST = 1e12


class Path(NamedTuple):
    """The points of one climb and the gradients there."""

    points: Float[np.ndarray, "c p"]
    gradients: Float[np.ndarray, "c p"]


def paths(target: AbstractTarget, starts: Float[np.ndarray, "c p"], evaluations: int) -> list[Path]:
    """The points that climbs from all starts accept, of as many evaluations each."""
    counted = np.zeros(evaluations)
    points, gradients, values = jax.device_get(_followed(target, starts, counted))
    found = []
    for lane in range(len(starts)):
        seen = np.isfinite(values[lane])
        new = np.r_[True, (np.diff(points[lane], axis=0) != 0).any(1)]
        found.append(Path(points[lane][seen & new], gradients[lane][seen & new]))
    return found


def _follow(
    target: AbstractTarget, starts: Float[Array, "c p"], counted: Array
) -> tuple[Array, Array, Array]:
    function = jax.value_and_grad(target.log_density)

    def one(start: Array) -> tuple[Array, Array, Array]:
        def forward(state: ModeClimb, _: Array) -> tuple:
            state = step(function, state)
            return state, (state.point, state.gradient, state.value)

        return jax.lax.scan(forward, begun(start), counted)[1]

    return jax.vmap(one)(starts)


def gaussians(path: Path, memory: int = 6) -> list[Stretched]:
    """The Gaussian at every point of a path where there is one."""
    alpha, pairs, found = np.ones(path.points.shape[1]), [], []
    for here in range(len(path.points)):
        if here:
            move = path.points[here] - path.points[here - 1]
            fall = path.gradients[here - 1] - path.gradients[here]
            if move @ fall > 0 and fall @ fall < _STEEPEST * (move @ fall):
                alpha = _diagonal(alpha, move, fall)
                pairs = [*pairs, (move, fall)][-memory:]
        member = _gaussian(path.points[here], path.gradients[here], alpha, pairs)
        if member is not None:
            found.append(member)
    return found


def _diagonal(alpha: np.ndarray, move: np.ndarray, fall: np.ndarray) -> np.ndarray:
    """The diagonal updated by one pair (algorithm 3)."""
    a, b, c = fall @ (alpha * fall), fall @ move, move @ (move / alpha)
    return 1.0 / (a / (b * alpha) + fall**2 / b - a * move**2 / (b * c * alpha**2))


def inverse_hessian(
    alpha: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[Float[np.ndarray, "p r"], Float[np.ndarray, "r r"]]:
    """``beta`` and ``gamma`` of the compact form (algorithm 4)."""
    moves, falls = (np.array(side).T for side in zip(*pairs, strict=True))
    upper = np.triu(moves.T @ falls)
    inverse = np.linalg.inv(upper)
    middle = np.diag(np.diag(upper)) + falls.T @ (alpha[:, None] * falls)
    gamma = np.block([[np.zeros_like(upper), -inverse], [-inverse.T, inverse.T @ middle @ inverse]])
    return np.concatenate([alpha[:, None] * falls, moves], 1), gamma


def _gaussian(
    point: np.ndarray, gradient: np.ndarray, alpha: np.ndarray, pairs: list
) -> Stretched | None:
    """None where the curvature remembered is of no Gaussian."""
    scale = np.sqrt(alpha)
    directions, log_stretch = np.zeros((len(point), 0)), np.zeros(0)
    if pairs:
        beta, gamma = inverse_hessian(alpha, pairs)
        basis, triangle = np.linalg.qr(beta / scale[:, None])
        values, vectors = np.linalg.eigh(triangle @ gamma @ triangle.T)
        if not (np.isfinite(values).all() and values.min() > -1.0 + 1e-12):
            return None
        directions, log_stretch = basis @ vectors, 0.5 * np.log1p(values)
    turned = directions.T @ (scale * gradient)
    newton = scale * (scale * gradient + directions @ (np.expm1(2 * log_stretch) * turned))
    member = Stretched(point + newton, np.log(scale), directions, log_stretch)
    finite = np.isfinite(member.mean).all() and np.isfinite(member.log_scale).all()
    return member if finite else None


def bounds(
    target: AbstractTarget, members: list[Stretched], noise: Float[np.ndarray, "s p"]
) -> Float[np.ndarray, " c"]:
    """Each one's bound on the same noise; -inf where a draw's density is not finite."""
    drawn = [_drawn(member, noise) for member in members]
    points = np.concatenate([points for points, _ in drawn])
    padded = np.concatenate([points, np.repeat(points[:1], -len(points) % _BLOCK, 0)])
    blocks = padded.reshape(-1, _BLOCK, padded.shape[1])
    values = np.concatenate([jax.device_get(_evaluated(target, block)) for block in blocks])
    each = values[: len(points)].reshape(len(members), -1)
    found = np.array([(v - log_q).mean() for v, (_, log_q) in zip(each, drawn, strict=True)])
    return np.where(np.isfinite(found), found, -np.inf)


def _drawn(member: Stretched, noise: np.ndarray) -> tuple[Array, Array]:
    """On the host: every member has its own number of directions, and compiling takes longer."""
    along = noise @ member.directions * np.expm1(member.log_stretch)
    points = member.mean + np.exp(member.log_scale) * (noise + along @ member.directions.T)
    squares = 0.5 * (noise**2).sum(1) + 0.5 * noise.shape[1] * np.log(2 * np.pi)
    return points, -squares - member.log_scale.sum() - member.log_stretch.sum()


def _together(target: AbstractTarget, points: Float[Array, "s p"]) -> Float[Array, " s"]:
    values = log_densities(target, points)
    return jnp.where(jnp.isnan(values), -jnp.inf, values)


_followed = _config.small_jit(_follow)
_evaluated = _config.small_jit(_together)
