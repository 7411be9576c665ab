"""Ascent by automatic differentiation: M-steps that have no closed form.

Everything walks in free coordinates (see ``minorant._parameters``), so constraints hold by
construction, and never lands lower than where it began: each step is shortened until it climbs,
or not taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from minorant import _factors
from minorant._parameters import from_vector, has_all_parameters, hold, to_vector
from minorant._types import Array, PyTree

Objective = Callable[[Array], Array]
NEWTON_LIMIT = 64
_HALVINGS = 40
_MEMORY = 8
_NO_CURVATURE = 1e-4
_Component = TypeVar("_Component")


class Climb(NamedTuple):
    """A point, its value, the direction rule's memory, and how many steps are left (0: done)."""

    point: Float[Array, " p"]
    value: Float[Array, ""]
    memory: PyTree
    steps_left: Int[Array, ""]


def maximum(
    function: Objective,
    start: Float[Array, " p"],
    settled: Callable[[Array], Array] = lambda point: point,
    max_steps: int = 100,
) -> Float[Array, " p"]:
    """A local maximum of ``function`` near ``start``, never lower than it.

    Newton with the exact Hessian up to 64 coordinates, L-BFGS above; backtracking on the value
    (Nocedal & Wright, 2006, "Numerical optimization", 2nd ed., algorithms 3.1 and 7.4).

    Args:
        function: (p,) -> the number to maximise; non-finite values are stepped back from.
        start: (p,) where it is finite.
        settled: takes every trial point to the nearest one inside floors that the coordinates do
            not carry; it is not differentiated.
        max_steps: at most so many steps.
    """
    newton = start.size <= NEWTON_LIMIT
    direct = _newton_direction if newton else _quasi_newton_direction
    memory = jnp.zeros(()) if newton else _empty_memory(start)
    slope = jax.grad(function)

    def running(climb: Climb) -> Array:
        return climb.steps_left > 0

    def step(climb: Climb) -> Climb:
        memory, direction, gradient = direct(function, slope, climb.point, climb.memory)
        point, value = _backtracked(function, settled, climb, direction, gradient @ direction)
        eps = jnp.finfo(value.dtype).eps
        small = value - climb.value <= 4 * eps * (1.0 + jnp.abs(value))
        left = jnp.where(small, 0, climb.steps_left - 1)
        return Climb(point, value, memory, left)

    first = Climb(start, function(start), memory, jnp.asarray(max_steps, jnp.int32))
    return jax.lax.while_loop(running, step, first).point


def newton_step(gradient: Float[Array, " p"], curvature: Float[Array, "p p"]) -> Float[Array, " p"]:
    """``|C|^-1 g``: Newton's step with every curvature counted as positive, so that it climbs."""
    values, vectors = (part[0] for part in _factors.eigh(curvature[None]))
    size = jnp.abs(values)
    least = 1e-3 * jnp.sqrt(jnp.finfo(size.dtype).eps) * size.max() + jnp.finfo(size.dtype).tiny
    return vectors @ ((vectors.T @ gradient) / jnp.maximum(size, least))


def scored_step(
    gradient: Float[Array, " p"], curvature: Float[Array, "p p"], scores: Float[Array, "p p"]
) -> Float[Array, " p"]:
    """Newton's step where the curvature is positive, a Fisher scoring step where it is not.

    Directions are told apart in the metric of ``scores``, the sum of outer products of the rows'
    scores: a density with kinks has no curvature there (Laplace), but its scores know the scale.
    """
    factor = _factors.cholesky(_lifted(scores))

    def whiten(array: Array) -> Array:
        return _factors.solve_triangular(factor, array)

    values, vectors = (part[0] for part in _factors.eigh(whiten(whiten(curvature).T)[None]))
    size = jnp.where(values > _NO_CURVATURE, values, 1.0)
    half = vectors @ ((vectors.T @ whiten(gradient)) / size)
    return _factors.solve_triangular(factor.T, half, lower=False)


def with_prior(
    component: _Component, closed: _Component, statistics: PyTree, fixed: PyTree | None
) -> _Component:
    """The M-step under a prior that has no closed one: from the closed step, uphill.

    Climbs ``expected_log_prob(statistics).sum() + log_prior()`` from the better of the component
    as it is and ``closed``, the maximiser without the prior.
    """
    before: Any = component if has_all_parameters(component) else closed
    after: Any = closed

    def at(point: Array) -> Any:
        return hold(fixed, before, from_vector(after, point))

    def settled(point: Array) -> Array:
        return to_vector(hold(fixed, before, at(point).projected()))

    def value(module: Any) -> Array:
        total = module.expected_log_prob(statistics).sum() + module.log_prior()
        return jnp.where(jnp.isfinite(total), total, -jnp.inf)

    start = _better(value, before, after)
    return at(maximum(lambda point: value(at(point)), to_vector(start), settled))


def _better(value: Callable[[Any], Array], one: Any, other: Any) -> Any:
    wins = value(other) >= value(one)
    return jax.tree.map(lambda a, b: jnp.where(wins, b, a), one, other)


def _lifted(scores: Float[Array, "p p"]) -> Float[Array, "p p"]:
    """With a diagonal that makes it safely positive definite, scale by scale."""
    eps = jnp.finfo(scores.dtype).eps
    diagonal = jnp.diagonal(scores)
    ridge = 1e3 * eps * (diagonal + eps * diagonal.max()) + jnp.finfo(scores.dtype).tiny
    return scores + jnp.diag(jnp.where(diagonal > 0, ridge, 1.0))


def _newton_direction(
    function: Objective, slope: Objective, point: Array, memory: Array
) -> tuple[Array, Array, Array]:
    gradient = slope(point)
    return memory, newton_step(gradient, -jax.hessian(function)(point)), gradient


class _Pairs(NamedTuple):
    """The last steps and changes of gradient, newest first; and the last point and gradient."""

    steps: Float[Array, "m p"]
    changes: Float[Array, "m p"]
    point: Float[Array, " p"]
    gradient: Float[Array, " p"]


def _empty_memory(start: Array) -> _Pairs:
    empty = jnp.zeros((_MEMORY, start.size), start.dtype)
    return _Pairs(empty, empty, start, jnp.full_like(start, jnp.nan))


def _quasi_newton_direction(
    function: Objective, slope: Objective, point: Array, memory: _Pairs
) -> tuple[_Pairs, Array, Array]:
    del function
    gradient = slope(point)
    step, change = point - memory.point, memory.gradient - gradient
    usable = step @ change > 1e-10 * jnp.linalg.norm(step) * jnp.linalg.norm(change)

    def pushed(rows: Array, new: Array) -> Array:
        return jnp.where(usable, jnp.concatenate([new[None], rows[:-1]]), rows)

    memory = _Pairs(pushed(memory.steps, step), pushed(memory.changes, change), point, gradient)
    return memory, _two_loops(memory, gradient), gradient


def _two_loops(pairs: _Pairs, gradient: Array) -> Float[Array, " p"]:
    """The inverse Hessian of the pairs times the gradient."""
    products = (pairs.steps * pairs.changes).sum(1)
    inverse = jnp.where(products > 0, 1.0 / jnp.where(products > 0, products, 1.0), 0.0)
    direction, weights = gradient, []
    for i in range(_MEMORY):
        weights.append(inverse[i] * (pairs.steps[i] @ direction))
        direction = direction - weights[i] * pairs.changes[i]
    newest = products[0] / jnp.maximum(pairs.changes[0] @ pairs.changes[0], 1e-30)
    unit = 1.0 / jnp.maximum(jnp.linalg.norm(gradient), 1e-30)
    direction = direction * jnp.where(products[0] > 0, newest, unit)
    for i in reversed(range(_MEMORY)):
        back = inverse[i] * (pairs.changes[i] @ direction)
        direction = direction + (weights[i] - back) * pairs.steps[i]
    return direction


def _backtracked(
    function: Objective,
    settled: Callable[[Array], Array],
    climb: Climb,
    direction: Array,
    slope: Array,
) -> tuple[Array, Array]:
    """The point of a shortened step with a sufficient rise and its value; the old one if none."""

    def look(length: Array) -> tuple[Array, Array]:
        point = settled(climb.point + length * direction)
        return point, function(point)

    def too_long(carry: tuple[Array, tuple[Array, Array], Array]) -> Array:
        length, (_, value), tries = carry
        enough = value >= climb.value + 1e-4 * length * slope
        return ~enough & (tries < _HALVINGS)

    def shorten(carry: tuple[Array, tuple[Array, Array], Array]) -> tuple[Array, Any, Array]:
        length, _, tries = carry
        return 0.5 * length, look(0.5 * length), tries + 1

    one = jnp.ones((), climb.value.dtype)
    first = (one, look(one), jnp.asarray(0, jnp.int32))
    _, (point, value), _ = jax.lax.while_loop(too_long, shorten, first)
    rises = value >= climb.value
    return jnp.where(rises, point, climb.point), jnp.where(rises, value, climb.value)
