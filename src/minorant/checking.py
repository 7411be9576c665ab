"""What can be said of a target before the climb: is it finite, smooth, and where to start."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._types import Array
from minorant.models.target import AbstractTarget, log_densities_and_gradients

POINTS = 16
_REACH = 2.0
_NEAR = (1e-5, 1e-6)
_HALVINGS = 24
_LATER = 10  # halvings after which a kink's error is 1/1000 of what it was; a jump's stays
_VISIBLE = 1e-7


class Check(NamedTuple):
    """What the check of a target found.

    Attributes:
        sentence: what is worth saying; empty where nothing is.
        starts: (c, p) points with a finite density and gradient, the highest first.
    """

    sentence: str
    starts: Float[np.ndarray, "c p"]


def check_target(target: AbstractTarget, random_state: int = 0) -> Check:
    """Walk from "the log density is finite" to "its gradient is finite, and is the slope".

    Args:
        target: the log density.
        random_state: seed of the points it is looked at.

    Returns:
        What is worth saying (jumps between the points looked at, where they stand out from its
        curvature, are), and points to start from.

    Raises:
        ValueError: when the log density or its gradient is finite nowhere, when it does not depend
            on an unknown, or when its gradient is not its slope.
    """
    rng = np.random.default_rng(random_state)
    points = _points(target, rng)
    values, gradients = looked_at(target, points)
    finite = np.isfinite(values)
    if not finite.any():
        points = 0.05 * points
        values, gradients = looked_at(target, points)
        finite = np.isfinite(values)
    _check_values(target, values)
    _check_gradients(target, points[finite], gradients[finite])
    sound = finite & np.isfinite(gradients).all(axis=1)
    _check_slopes(target, points[sound], values[sound], gradients[sound], rng)
    order = np.argsort(-values[sound])
    share = 1.0 - finite.mean()
    note = ""
    if share > 0:
        note = (
            f"At {share:.0%} of the points looked at the log density is not finite although every "
            "unknown obeys its constraint: if its support is narrower, declare that."
        )
    jump = _jump(target, points[sound], values[sound], gradients[sound])
    return Check(" ".join(filter(None, (note, jump))), points[sound][order])


def _points(target: AbstractTarget, rng: np.random.Generator) -> Float[np.ndarray, "c p"]:
    """Around what the target proposes; else around zero, which is the first."""
    spread = rng.uniform(-_REACH, _REACH, (POINTS, target.size))
    spread[0] = 0.0
    known = target.initial()
    return spread if known is None else known + 0.1 * spread


def looked_at(target: AbstractTarget, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log densities and gradients at :data:`POINTS` points (compiled for that many)."""
    with _config.precision(np.dtype(np.float64)):
        values, gradients = jax.device_get(_look(target, points))
    return values, gradients


def _check_values(target: AbstractTarget, values: np.ndarray) -> None:
    if np.isfinite(values).any():
        return
    kinds = [("NaN", np.isnan), ("-inf", np.isneginf), ("+inf", np.isposinf)]
    found = " and ".join(name for name, is_kind in kinds if is_kind(values).any())
    raise ValueError(
        f"The log density is {found} at all {len(values)} points looked at: check its arithmetic "
        "(the logarithm of a negative number, 0/0), whether the data are inside the likelihood's "
        "support, or give start= with values at which it is finite."
    )


def _check_gradients(target: AbstractTarget, points: np.ndarray, gradients: np.ndarray) -> None:
    broken = ~np.isfinite(gradients)
    if broken.any(axis=1).all():
        names = sorted({_name(target, int(j)) for j in np.flatnonzero(broken.any(axis=0))})
        raise ValueError(
            f"The log density is finite, but its gradient by {', '.join(names)} is not: look for "
            "sqrt(0), a norm of zero, or jnp.where around something that is NaN on the other side "
            "(put jnp.where before the operation)."
        )
    # exp(c u) has no integral over all u, whatever c; c is 0, or comes from a Jacobian.
    still = np.flatnonzero((gradients == gradients[0]).all(axis=0))
    if still.size and len(gradients) > 1:
        names = sorted({_name(target, int(j)) for j in still})
        raise ValueError(
            f"The log density does not depend on {', '.join(names)}, or only in steps (a "
            "comparison, rounding, or an integer): give it a prior, or leave it out."
        )


def _check_slopes(
    target: AbstractTarget,
    points: np.ndarray,
    values: np.ndarray,
    gradients: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Along random directions, the difference of values is what the gradient says."""
    direction = rng.normal(size=points.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    slope = (gradients * direction).sum(axis=1)
    wrong = np.ones(len(points), bool)
    for step in _NEAR:
        ahead = _ends_at(target, points + step * direction).values
        behind = _ends_at(target, points - step * direction).values
        found = (ahead - behind) / (2 * step)
        scale = np.abs(gradients).max(axis=1) + np.abs(slope)
        rounding = 1e-13 * (1 + np.abs(values)) / step
        wrong &= ~(np.abs(found - slope) <= 1e-2 * scale + 10 * rounding)
    if wrong.sum() > len(points) / 2:
        raise ValueError(
            "The gradient of the log density is not its slope: it jumps, or a part of it is hidden "
            "from differentiation (jnp.round, an integer conversion, stop_gradient, a custom "
            "gradient). Make it a smooth function of every unknown."
        )


class _Ends(NamedTuple):
    """One end of each segment: points, log densities, gradients."""

    points: Float[np.ndarray, "c p"]
    values: Float[np.ndarray, " c"]
    gradients: Float[np.ndarray, "c p"]

    def where(self, chosen: np.ndarray, other: _Ends) -> _Ends:
        """These ends where chosen, the other ones elsewhere."""
        return _Ends(
            np.where(chosen[:, None], self.points, other.points),
            np.where(chosen, self.values, other.values),
            np.where(chosen[:, None], self.gradients, other.gradients),
        )

    def unexplained(self, other: _Ends) -> Float[np.ndarray, " c"]:
        """What of the difference of values the gradients at both ends leave, in nats."""
        mean_slope = 0.5 * (self.gradients + other.gradients)
        told = (mean_slope * (other.points - self.points)).sum(axis=1)
        return np.abs(other.values - self.values - told)


def _jump(
    target: AbstractTarget, points: np.ndarray, values: np.ndarray, gradients: np.ndarray
) -> str:
    """A sentence where the log density jumps on the way from one point to the next.

    Segments are halved towards what gradients do not explain: that shrinks with the cube of the
    length where the density is smooth, with the length at a kink, and not at all at a jump.
    """
    left = _Ends(points, values, gradients)
    right = _Ends(*(np.roll(part, 1, axis=0) for part in left))
    errors = []
    for _ in range(_HALVINGS):
        middle = _ends_at(target, 0.5 * (left.points + right.points))
        with np.errstate(invalid="ignore"):
            near, far = left.unexplained(middle), middle.unexplained(right)
        first = ~(far > near)  # what is not finite is not looked at further
        left, right = left.where(first, middle), middle.where(first, right)
        errors.append(np.where(first, near, far))
    size = errors[-1]
    with np.errstate(invalid="ignore"):
        stays = np.isfinite(size) & (size > 0.5 * errors[-1 - _LATER])
        seen = stays & (size > _VISIBLE * (1.0 + np.abs(left.values)))
    if not seen.any():
        return ""
    lane = int(np.argmax(np.where(seen, size, -np.inf)))
    name = _crossing(target, left.points[lane], right.points[lane], size[lane])
    return (
        f"The log density jumps by {size[lane]:.3g} nats{name}: gradients do not see jumps, so the "
        "bound is right but may not be the best. Sum out what is discrete (unknowns.finite), or "
        "replace the comparison by a smooth function."
    )


def _crossing(target: AbstractTarget, left: np.ndarray, right: np.ndarray, size: float) -> str:
    """Where the jump is, if moving one coordinate alone makes it."""
    for start in range(0, target.size, POINTS - 1):
        columns = np.arange(start, min(start + POINTS - 1, target.size))
        moved = np.repeat(left[None], len(columns) + 1, axis=0)
        moved[np.arange(len(columns)), columns] = right[columns]
        values = _ends_at(target, moved).values
        alone = np.abs(values[:-1] - values[-1]) > 0.5 * size
        if alone.any():
            return f" in {_name(target, int(columns[np.argmax(alone)]))}"
    return ""


def _ends_at(target: AbstractTarget, points: np.ndarray) -> _Ends:
    """Some points, by the program that is compiled for :data:`POINTS` of them."""
    c = len(points)
    full = np.concatenate([points, np.repeat(points[:1], POINTS - c, axis=0)])
    values, gradients = looked_at(target, full)
    return _Ends(points, values[:c], gradients[:c])


def _name(target: AbstractTarget, coordinate: int) -> str:
    """The unknown that a free coordinate belongs to."""
    moved = np.zeros((2, target.size))
    moved[1, coordinate] = 0.5
    with _config.precision(np.dtype(np.float64)):
        one, other = (jax.device_get(target.values(point)) for point in moved)
    names = getattr(target, "names", tuple(one))
    changed = [name for name in names if not np.array_equal(one[name], other[name])]
    return changed[0] if changed else f"free coordinate {coordinate}"


def _evaluated(target: AbstractTarget, points: Array) -> tuple[Array, Array]:
    return log_densities_and_gradients(target, points)


_look = _config.quick_jit(_evaluated, "small")
