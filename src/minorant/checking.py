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
        What is worth saying, and points to start from.

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
    return Check(note, points[sound][order])


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
        ahead = _padded(target, points + step * direction)
        behind = _padded(target, points - step * direction)
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


def _padded(target: AbstractTarget, points: np.ndarray) -> np.ndarray:
    """Values at some points, by the program that is compiled for all of them."""
    full = np.concatenate([points, np.repeat(points[:1], POINTS - len(points), axis=0)])
    return looked_at(target, full)[0][: len(points)]


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
