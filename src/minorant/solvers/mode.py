"""Modes of a target from several points at once: limited-memory BFGS with backtracking."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from minorant._types import Array
from minorant.models.target import AbstractTarget
from minorant.solvers.curvature import Curvature, ascent_direction, first_length, remember

_MEMORY = 16
_ARMIJO = 1e-4
_SHORTEST = 1e-12
_LEFT = 1e-9


class ModeClimb(NamedTuple):
    """Where a climb to a mode is: the accepted point, and the search along the direction."""

    point: Float[Array, " p"]
    value: Float[Array, ""]
    gradient: Float[Array, " p"]
    direction: Float[Array, " p"]
    length: Float[Array, ""]
    curvature: Curvature
    count: Int[Array, ""]
    over: Bool[Array, ""]


def climb_to_modes(
    target: AbstractTarget, points: Float[Array, "c p"], max_steps: Array
) -> tuple[Float[Array, "c p"], Float[Array, " c"], Bool[Array, " c"]]:
    """Where climbs from all points end, the log density there, and whether it is a mode.

    Each takes ``max_steps`` evaluations at most. A climb whose start is not finite stays there; a
    density without a mode is left part-way up.
    """
    function = jax.value_and_grad(target.log_density)

    def one(point: Array) -> tuple[Array, Array, Array]:
        def goes_on(state: ModeClimb) -> Array:
            return ~state.over & (state.count < max_steps)

        end = jax.lax.while_loop(goes_on, lambda s: step(function, s), begun(point))
        return end.point, end.value, end.over & jnp.isfinite(end.value)

    return jax.vmap(one)(points)


def begun(point: Array) -> ModeClimb:
    """The start, not yet visited."""
    lowest, still = jnp.full((), -jnp.inf, point.dtype), jnp.zeros_like(point)
    none = Curvature.none(_MEMORY, point)
    length, count = jnp.ones((), point.dtype), jnp.zeros((), jnp.int32)
    return ModeClimb(point, lowest, still, still, length, none, count, jnp.asarray(False))


def step(function: object, state: ModeClimb) -> ModeClimb:
    """One evaluation: the point is taken where it is high enough, else the step is shortened."""
    point = state.point + state.length * state.direction
    value, gradient = function(point)  # pyright: ignore[reportCallIssue]
    expected = state.length * (state.gradient @ state.direction)
    first = ~jnp.isfinite(state.value)
    gain = value - state.value
    rose = _all_finite(value, gradient) & (gain >= _ARMIJO * expected)
    taken = _taken(state, point, value, gradient)
    refused = _refused(state, gain, expected, first)
    after = jax.tree.map(lambda a, b: jnp.where(rose, a, b), taken, refused)
    return jax.tree.map(lambda a, b: jnp.where(state.over, a, b), state, after)


def _taken(state: ModeClimb, point: Array, value: Array, gradient: Array) -> ModeClimb:
    there = jnp.isfinite(state.value)
    curvature = remember(state.curvature, point - state.point, state.gradient - gradient, there)
    direction = ascent_direction(curvature, gradient)
    length = first_length(curvature, direction)
    over = direction @ gradient <= _LEFT
    return ModeClimb(point, value, gradient, direction, length, curvature, state.count + 1, over)


def _refused(state: ModeClimb, gain: Array, expected: Array, first: Array) -> ModeClimb:
    """A shorter step; where none helps, steepest ascent; where that does not either, the end."""
    bent = 2.0 * (expected - gain)
    shorter = jnp.where(jnp.isfinite(gain) & (bent > 0), expected / bent, 0.1)
    length = state.length * jnp.clip(jnp.nan_to_num(shorter, nan=0.1), 0.05, 0.5)
    exhausted = length < _SHORTEST
    over = first | (exhausted & (state.curvature.count == 0))
    emptied = state.curvature._replace(count=jnp.zeros_like(state.curvature.count))
    curvature = jax.tree.map(lambda a, b: jnp.where(exhausted, a, b), emptied, state.curvature)
    direction = jnp.where(exhausted, state.gradient, state.direction)
    length = jnp.where(exhausted, first_length(emptied, state.gradient), length)
    return state._replace(
        direction=direction, length=length, curvature=curvature, count=state.count + 1, over=over
    )


def _all_finite(value: Array, gradient: Array) -> Bool[Array, ""]:
    return jnp.isfinite(value) & jnp.isfinite(gradient).all()
