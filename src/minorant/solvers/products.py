r"""The best product of exponential families: natural-gradient steps on held draws.

With :math:`\log q = \eta \cdot t(u) + h(u) - A(\eta)`, the path derivative of the bound on draws
:math:`u_i = T(\epsilon_i, \eta)` is

.. math:: g = \frac1s \sum_i \nabla_u [\log p - \log q](u_i) \cdot \partial u_i / \partial \eta,
          \qquad F = \frac1s \sum_i \partial t(u_i) / \partial \eta,

and the step is :math:`\Delta = F^{-\top} g`. F is the Fisher information in expectation; on the
draws of g it makes the step exact: where log p is itself linear in t (a conjugate posterior), one
step lands on it, whatever the draws. Blocks of F are those of single unknowns. Steps that leave the
parameters' domain are cut short, and steps that lower the bound on the held draws by more than
noise are halved.

Salimans & Knowles (2013), "Fixed-form variational posterior approximation through stochastic linear
regression", section 4; Khan & Lin (2017), "Conjugate-computation variational inference".
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._types import Array
from minorant.models.target import AbstractTarget, log_densities_and_gradients
from minorant.posteriors.exponential import AbstractFactor, Independent

_SHORTEST = 1e-4
_MEMORY, _FEWEST = 8, 3
_EDGE = 0.95  # no positive parameter falls by more than this share in a step


class ProductClimb(NamedTuple):
    """Where a climb ended: the member, steps, about how many nats are left, and whether it is over.

    ``left`` is what a full natural-gradient step would gain.
    """

    member: Independent
    steps: int
    left: float
    over: bool


class _Look(NamedTuple):
    """Log ratios of the draws; of each factor the step, what all would gain, and their units."""

    ratios: Float[np.ndarray, " s"]
    steps: list[np.ndarray]
    left: float
    weights: Float[np.ndarray, " m"]


def climb_product(
    target: AbstractTarget,
    member: Independent,
    noise: Float[np.ndarray, "s e"],
    tolerance: float,
    max_steps: int = 200,
) -> ProductClimb:
    """Natural-gradient steps until what is left to gain is below ``tolerance`` nats."""
    here, length, count, past = _looked_at(target, member, noise), 1.0, 1, _Past([], [])
    while count < max_steps and length > _SHORTEST and not here.left <= tolerance:
        past = past.longer(_flat(member), np.concatenate([s.ravel() for s in here.steps]))
        bold = past.extrapolated(here.weights)
        steps = here.steps if bold is None else _parted(member, bold - _flat(member))
        moved = _moved(member, steps, length if bold is None else 1.0)
        there = _looked_at(target, moved, noise)
        count += 1
        if _is_taken(here, there, bold is not None):
            member, here, length = moved, there, min(1.0, 2.0 * length)
        elif bold is not None:
            past = _Past([], [])
        else:
            length /= 2.0
    return ProductClimb(member, count, here.left, here.left <= tolerance)


class _Past(NamedTuple):
    """Points and steps there, newest last: unknowns that depend on each other pull in turns.

    Anderson (1965), "Iterative procedures for nonlinear integral equations".
    """

    points: list[np.ndarray]
    steps: list[np.ndarray]

    def longer(self, point: np.ndarray, step: np.ndarray) -> _Past:
        """With one more, unless it is the last again."""
        if self.points and np.array_equal(point, self.points[-1]):
            return self
        return _Past([*self.points, point][-_MEMORY:], [*self.steps, step][-_MEMORY:])

    def extrapolated(self, weights: np.ndarray) -> np.ndarray | None:
        """Where a linear map with these steps would rest; None while too little is known."""
        if len(self.points) < _FEWEST:
            return None
        moves, changes = np.diff(self.points, axis=0).T, np.diff(self.steps, axis=0).T
        right, sides = weights * self.steps[-1], weights[:, None] * changes
        share = np.linalg.lstsq(sides, right, rcond=1e-10)[0]
        return self.points[-1] + self.steps[-1] - (moves + changes) @ share


def _flat(member: Independent) -> Float[np.ndarray, " m"]:
    return np.concatenate([np.ravel(factor.natural) for factor in member.factors])


def _parted(member: Independent, flat: np.ndarray) -> list[np.ndarray]:
    shapes = [np.shape(factor.natural) for factor in member.factors]
    parts = np.split(flat, np.cumsum([b * m for b, m in shapes])[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _looked_at(target: AbstractTarget, member: Independent, noise: np.ndarray) -> _Look:
    ratios, slopes = jax.device_get(_look(target, member, noise))
    steps, weights, left = [], [], 0.0
    for gradient, fisher in slopes:
        step = _solved(np.swapaxes(fisher, 1, 2), gradient)
        steps.append(step)
        weights.append(np.sqrt(np.abs(np.diagonal(fisher, axis1=1, axis2=2))).ravel())
        left += 0.5 * float((step * gradient).sum())
    return _Look(ratios, steps, left, np.concatenate(weights))


def _solved(matrices: np.ndarray, right: np.ndarray) -> np.ndarray:
    """NaN where a matrix is singular."""
    try:
        return np.linalg.solve(matrices, right[..., None])[..., 0]
    except np.linalg.LinAlgError:
        return np.full(right.shape, np.nan)


def _is_taken(before: _Look, after: _Look, bold: bool) -> bool:
    """Whether the bound on the held draws did not fall by more than their noise."""
    gain = after.ratios - before.ratios
    if not (np.isfinite(after.ratios).all() and np.isfinite(after.left)):
        return False
    if bold and after.left > before.left:
        return False
    if not np.isfinite(gain).all():
        return True
    return bool(gain.mean() >= -2.0 * gain.std() / np.sqrt(len(gain)))


def _moved(member: Independent, steps: list[np.ndarray], length: float) -> Independent:
    """Natural parameters a step further, inside their domain, each entry by itself."""
    factors = tuple(_stepped(f, s, length) for f, s in zip(member.factors, steps, strict=True))
    return eqx.tree_at(lambda m: m.factors, member, factors)


def _stepped(factor: AbstractFactor, step: np.ndarray, length: float) -> AbstractFactor:
    natural = np.asarray(factor.natural)
    positive = factor.is_positive()
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(positive & (step < 0), -_EDGE * natural / step, np.inf)
    share = np.minimum(length, reach.min(1, keepdims=True))
    return eqx.tree_at(lambda f: f.natural, factor, natural + share * step)


def _evaluated(
    target: AbstractTarget, member: Independent, noise: Float[Array, "s e"]
) -> tuple[Array, list[tuple[Array, Array]]]:
    """Log ratios, and of each factor the path derivative g and F."""
    points, log_q = member.transform(noise)
    values, gradients = log_densities_and_gradients(target, points)
    own = jax.grad(lambda z: member.log_density(z).sum())(points)
    # In the factors' own coordinates, of which the vector's are 1 / scale.
    residuals = member.by_factor((gradients - own) / member.scale)
    parts = zip(member.factors, *member.bases_and_slopes(noise), residuals, strict=True)
    return values - log_q, [_slopes(*part) for part in parts]


def _slopes(
    factor: AbstractFactor,
    base: Float[Array, "s b e"],
    by_shape: Float[Array, "s b e"] | None,
    residual: Float[Array, "s b c"],
) -> tuple[Float[Array, "b m"], Float[Array, "b m m"]]:
    """Derivatives by one natural parameter of all entries at a time: entries are independent."""

    def moved(natural: Array) -> tuple[Array, Array]:
        there = eqx.tree_at(lambda f: f.natural, factor, natural)
        shift = 0.0 if by_shape is None else by_shape * (there.shapes() - factor.shapes())
        free = there.transform(base + shift)
        return free, there.statistics(free)

    def along(direction: Array) -> tuple[Array, Array]:
        tangent = jnp.broadcast_to(direction, factor.natural.shape)
        free, statistics = jax.jvp(moved, (factor.natural,), (tangent,))[1]
        return (free * residual).sum(-1).mean(0), statistics.mean(0)

    gradient, fisher = jax.vmap(along)(jnp.eye(factor.natural.shape[1]))
    return gradient.T, jnp.moveaxis(fisher, 0, 2)


_look = _config.small_jit(_evaluated)
