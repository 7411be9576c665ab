r"""The highest point of a smooth function in many dimensions: trust-region Newton, CG inside.

Steps are measured in units that the caller gives for every coordinate, so that the trust region's
radius is a number of those. Within it the quadratic model is climbed by conjugate gradients on
Hessian-vector products: no Hessian is ever stored.

Steihaug (1983), "The conjugate gradient method and trust regions in large scale optimization";
Nocedal & Wright (2006), "Numerical optimization", 2nd ed., algorithms 4.1 and 7.2. Not for: noisy
functions, or those that are cheap next to the solve (few dimensions: BFGS).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from minorant._types import Array

Operator = Callable[[Array], Array]
_FIRST_RADIUS, _WIDEST = 1.0, 1e3
_NARROWEST = 1e-8
_ACCEPTED, _GOOD = 1e-4, 0.75


class NewtonClimb(NamedTuple):
    """The accepted point, what is known of it, and the trust region's radius.

    ``left`` is about how much a full Newton step would gain, and infinite until one fits.
    """

    point: Float[Array, " p"]
    value: Float[Array, ""]
    gradient: Float[Array, " p"]
    radius: Float[Array, ""]
    left: Float[Array, ""]
    count: Int[Array, ""]
    products: Int[Array, ""]


def climb_newton(
    function: Callable[[Array], Array],
    units: Callable[[Array], Array],
    point: Float[Array, " p"],
    tolerance: Array,
    max_steps: Array,
) -> NewtonClimb:
    """Newton steps until a full one would gain less than ``tolerance``.

    Args:
        function: a vector -> a number, twice differentiable.
        units: a vector -> how far each coordinate may be expected to move from there.
        point: (p,) start, where the function is finite.
        tolerance: how much may be left to gain.
        max_steps: limit on steps.

    Returns:
        The climb at its end.
    """
    slope = jax.value_and_grad(function)

    def goes_on(state: NewtonClimb) -> Array:
        moving = (state.left > tolerance) & (state.radius > _NARROWEST)
        return moving & (state.count < max_steps)

    def step(state: NewtonClimb) -> NewtonClimb:
        return _step(slope, units(state.point), state)

    value, gradient = slope(point)
    zero, radius = jnp.zeros((), jnp.int32), jnp.full((), _FIRST_RADIUS, point.dtype)
    left = jnp.full((), jnp.inf, point.dtype)
    begun = NewtonClimb(point, value, gradient, radius, left, zero, zero)
    return jax.lax.while_loop(goes_on, step, begun)


def _step(slope: Callable, units: Array, state: NewtonClimb) -> NewtonClimb:
    def product(direction: Array) -> Array:
        gradient = lambda x: slope(x)[1]  # noqa: E731
        return -units * jax.jvp(gradient, (state.point,), (units * direction,))[1]

    found = conjugate_gradients(product, units * state.gradient, state.radius, 0.1)
    point = state.point + units * found.point
    value, gradient = slope(point)
    gain = value - state.value
    ratio = gain / jnp.maximum(found.gain, jnp.finfo(gain.dtype).tiny)
    # Where the gain is lost in rounding of the values, the model is believed.
    resolved = jnp.abs(state.value) * 1e-14 < found.gain
    ratio = jnp.where(resolved | ~jnp.isfinite(ratio), ratio, 1.0)
    taken = jnp.isfinite(value) & jnp.isfinite(gradient).all() & (ratio > _ACCEPTED)
    radius = jnp.where(ratio > _GOOD, 2.0 * state.radius, state.radius)
    radius = jnp.where(taken & (ratio > 0.25), radius, 0.25 * state.radius)
    return NewtonClimb(
        jnp.where(taken, point, state.point),
        jnp.where(taken, value, state.value),
        jnp.where(taken, gradient, state.gradient),
        jnp.minimum(radius, _WIDEST),
        jnp.where(found.inside & taken, found.gain, jnp.inf),
        state.count + 1,
        state.products + found.count,
    )


class Solved(NamedTuple):
    """An answer of conjugate gradients.

    ``gain`` is that of the quadratic model, ``inside`` whether no edge or upward bend was met.
    """

    point: Float[Array, " p"]
    gain: Float[Array, ""]
    inside: Bool[Array, ""]
    count: Int[Array, ""]


class _Search(NamedTuple):
    point: Array
    residual: Array
    direction: Array
    over: Array
    inside: Array
    count: Array


def conjugate_gradients(
    product: Operator,
    right: Float[Array, " p"],
    radius: Array | float = jnp.inf,
    relative: float = 1e-8,
    most: int = 500,
) -> Solved:
    """``A x = b`` for a symmetric A, stopped at the edge of a ball or where A bends down.

    Args:
        product: x -> A x.
        right: b.
        radius: of the ball around zero.
        relative: the residual that is small enough, relative to b.
        most: limit on products.
    """
    target = relative * jnp.linalg.norm(right)

    def goes_on(state: _Search) -> Array:
        return ~state.over & (state.count < most)

    def step(state: _Search) -> _Search:
        image = product(state.direction)
        bend, square = state.direction @ image, state.residual @ state.residual
        length = square / jnp.where(bend > 0, bend, 1.0)
        ahead = state.point + length * state.direction
        leaves = (bend <= 0) | (jnp.linalg.norm(ahead) >= radius)
        to_edge = jnp.where(jnp.isfinite(radius), _to_edge(state, radius), 0.0)
        point = jnp.where(leaves, state.point + to_edge * state.direction, ahead)
        residual = state.residual - length * image
        again = residual @ residual
        direction = residual + again / square * state.direction
        over = leaves | (jnp.sqrt(again) <= target)
        return _Search(point, residual, direction, over, ~leaves, state.count + 1)

    zero, none = jnp.zeros_like(right), jnp.zeros((), jnp.int32)
    still = ~(jnp.linalg.norm(right) > 0)
    begun = _Search(zero, right, right, still, jnp.asarray(True), none)
    end = jax.lax.while_loop(goes_on, step, begun)
    gain = end.point @ right - 0.5 * end.point @ product(end.point)
    return Solved(end.point, gain, end.inside, end.count)


def _to_edge(state: _Search, radius: Array | float) -> Array:
    """How far along the direction the ball ends."""
    a = state.direction @ state.direction
    b = state.point @ state.direction
    c = radius**2 - state.point @ state.point
    return c / jnp.maximum(b + jnp.sqrt(jnp.maximum(b**2 + a * c, 0.0)), 1e-300)
