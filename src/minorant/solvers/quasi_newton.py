r"""Quasi-Newton ascent of the exact evidence, for models whose M-step has no closed form.

The objective is ``sum_i w_i log p(x_i) + log p(theta)`` in free coordinates, value and gradient
summed block by block. Every step is one evaluation at a *pending* point: where the objective rose
enough (Armijo) the point is accepted, the curvature pair remembered and the limited-memory
direction taken; where not, the step is shortened by interpolation. So the accepted sequence climbs.

Stopping: the quadratic model says what is left to gain, ``g' H g / 2`` with H the inverse curvature
so far, taken double because H lags behind; twice in a row below the tolerance per row, with gains
that agree, and the climb has converged.

Nocedal & Wright (2006), "Numerical optimization", 2nd ed., algorithm 3.1 (backtracking).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._parameters import to_vector
from minorant._types import Array, Rows
from minorant.models.base import AbstractExactModel
from minorant.solvers.base import (
    CONVERGED,
    DECREASED,
    NON_FINITE,
    PRECISION,
    RUNNING,
    TRACE_LENGTH,
    AbstractSolver,
    AbstractState,
    Counted,
    Problem,
    model_at,
)
from minorant.solvers.curvature import Curvature, ascent_direction, first_length, remember

_ARMIJO = 1e-4
_SHORTEST = 1e-10


class QuasiNewtonState(AbstractState):
    """Accepted point with its gradient, the search along the direction, and the stopping rule."""

    model: AbstractExactModel
    accepted: Float[Array, " p"]
    gradient: Float[Array, " p"]
    direction: Float[Array, " p"]
    length: Float[Array, ""]
    curvature: Curvature
    bound: Float[Array, ""]
    objective: Float[Array, ""]
    left: Float[Array, ""]
    small: Int[Array, ""]
    plain_worth: Float[Array, ""]
    n_steps: Int[Array, ""]
    n_kept: Int[Array, ""]
    n_refused: Int[Array, ""]
    code: Int[Array, ""]
    trace: Float[Array, "length two"]


class Visit(NamedTuple):
    """What one evaluation at the pending point found."""

    point: Float[Array, " p"]
    bound: Float[Array, ""]
    objective: Float[Array, ""]
    gradient: Float[Array, " p"]
    slack: Float[Array, ""]


class QuasiNewton(AbstractSolver):
    """Limited-memory BFGS on the exact evidence.

    Args:
        tolerance: nats per row that may be left to gain at convergence.
        memory: curvature pairs kept.

    Example:
        >>> from minorant.solvers import QuasiNewton
        >>> QuasiNewton(1e-9).tolerance
        1e-09
    """

    tolerance: float | Array = 1e-7
    memory: int = eqx.field(static=True, default=32)

    def init(self, problem: Problem) -> QuasiNewtonState:
        """The starting model, not yet visited."""
        start = to_vector(problem.model)
        lowest, zero = jnp.asarray(-jnp.inf, start.dtype), jnp.asarray(0, jnp.int32)
        return QuasiNewtonState(
            model=problem.model,
            accepted=start,
            gradient=jnp.zeros_like(start),
            direction=jnp.zeros_like(start),
            length=jnp.zeros((), start.dtype),
            curvature=Curvature.none(self.memory, start),
            bound=lowest,
            objective=lowest,
            left=jnp.asarray(jnp.inf, start.dtype),
            small=zero,
            plain_worth=jnp.zeros((), start.dtype),
            n_steps=zero,
            n_kept=zero,
            n_refused=zero,
            code=zero,
            trace=jnp.full((TRACE_LENGTH, 2), jnp.nan, start.dtype),
        )

    def asks(self, problem: Counted, state: QuasiNewtonState) -> tuple[Any, Array, Any]:
        """The model's shape, the pending point, and what is held."""
        return state.model, state.accepted + state.length * state.direction, problem.fixed

    def look(self, parameters: tuple[Any, Array, Any], rows: Rows) -> tuple[Array, Array]:
        """The evidence of a block and its gradient."""
        template, point, fixed = parameters

        def block_evidence(vector: Array) -> Array:
            model = model_at(template, vector, fixed)
            return model.summed_log_evidence(rows, model.prepare())

        return jax.value_and_grad(block_evidence)(point)

    def answered(
        self, problem: Counted, state: QuasiNewtonState, found: tuple[Array, Array]
    ) -> QuasiNewtonState:
        """Accept or refuse the pending point; a climb that has ended stays where it is."""
        visit = self._visit(problem, state, found)
        expected = state.length * (state.gradient @ state.direction)
        gain = visit.objective - state.objective
        rose = jnp.isfinite(visit.objective) & (gain >= _ARMIJO * expected)
        rose &= jnp.all(jnp.isfinite(visit.gradient)) & (gain >= 0)
        n_rows = jnp.asarray(problem.n_rows())
        moved = self._accepted(state, visit, gain, n_rows)
        refused = self._refused(state, visit, gain, expected)
        after = jax.tree.map(lambda a, b: jnp.where(rose, a, b), moved, refused)
        return _ended(state, self._recorded(state, after))

    def verdict(self, problem: Counted, state: QuasiNewtonState) -> Int[Array, ""]:
        """0 while running."""
        del problem
        return state.code

    def settled(self, problem: Counted, state: QuasiNewtonState) -> AbstractExactModel:
        """The model at the accepted point of one climb; on the host, in NumPy."""
        return model_at(state.model, state.accepted, problem.fixed)

    def taken_up(self, state: QuasiNewtonState, structure: Any, dead: Any) -> QuasiNewtonState:
        """Stacked climbs in another numerical form, from their accepted points (host side)."""
        model = jax.tree.unflatten(structure, jax.tree.leaves(state.model))
        return dataclasses.replace(
            state,
            model=model,
            length=np.zeros_like(state.length),
            direction=np.zeros_like(state.direction),
            objective=np.full_like(state.objective, -np.inf),
            code=np.where(dead, 0, state.code).astype(np.int32),
        )

    def sentence(self) -> str:
        """Quasi-Newton, and why."""
        return (
            "quasi-Newton (limited-memory BFGS) on the evidence itself, which needs no closed "
            "M-step"
        )

    def _visit(
        self, problem: Counted, state: QuasiNewtonState, found: tuple[Array, Array]
    ) -> Visit:
        _, point, _ = self.asks(problem, state)
        bound, gradient = found

        def log_prior(vector: Array) -> Array:
            return jnp.asarray(
                model_at(state.model, vector, problem.fixed).log_prior(), point.dtype
            )

        prior, prior_gradient = jax.value_and_grad(log_prior)(point)
        objective = bound + prior
        # Rounding is that of the accepted point: a wild point's own would excuse anything.
        size = jnp.where(jnp.isfinite(state.objective), state.objective, objective)
        amplified = state.model.rounding(state.model.prepare()) * problem.n_rows()
        slack = 16 * jnp.finfo(point.dtype).eps * (jnp.abs(size) + amplified)
        return Visit(point, bound, objective, gradient + prior_gradient, slack)

    def _accepted(
        self, state: QuasiNewtonState, visit: Visit, gain: Array, n_rows: Array
    ) -> QuasiNewtonState:
        """The next direction from the accepted point, and whether it is worth taking."""
        first = ~jnp.isfinite(state.objective)
        move, fall = visit.point - state.accepted, state.gradient - visit.gradient
        curvature = remember(state.curvature, move, fall, ~first)
        direction = ascent_direction(curvature, visit.gradient)
        left = direction @ visit.gradient
        allowed = self.tolerance * n_rows
        is_small = (left <= allowed) & (gain <= jnp.maximum(allowed, visit.slack)) & ~first
        still = jnp.all(visit.gradient == 0)
        small = jnp.where(is_small, state.small + 1, 0)
        done = (small >= 2) | still | (is_small & (left <= visit.slack))
        return dataclasses.replace(
            state,
            accepted=visit.point,
            gradient=visit.gradient,
            direction=direction,
            length=first_length(curvature, direction),
            curvature=curvature,
            bound=visit.bound,
            objective=visit.objective,
            left=left,
            small=small.astype(jnp.int32),
            n_kept=state.n_kept + 1,
            code=jnp.where(done, CONVERGED, RUNNING).astype(jnp.int32),
        )

    def _refused(
        self, state: QuasiNewtonState, visit: Visit, gain: Array, expected: Array
    ) -> QuasiNewtonState:
        """A shorter step; when none helps, steepest ascent; when that does not either, the end."""
        bent = 2.0 * (expected - gain)
        shorter = jnp.where(jnp.isfinite(gain) & (bent > 0), expected / bent, 0.1)
        length = state.length * jnp.clip(jnp.nan_to_num(shorter, nan=0.1), 0.1, 0.5)
        lost_in_rounding = jnp.isfinite(gain) & (expected <= visit.slack)
        exhausted = (length < _SHORTEST) | lost_in_rounding
        over = exhausted & ((state.curvature.count == 0) | lost_in_rounding)
        start_lost = ~jnp.isfinite(state.objective)
        close = jnp.abs(gain) <= visit.slack
        end = jnp.where(jnp.isfinite(visit.objective) & ~close, DECREASED, PRECISION)
        end = jnp.where(start_lost | ~jnp.isfinite(visit.objective), NON_FINITE, end)
        # A direction that leads nowhere was built from bad curvature: forget it.
        restart = exhausted & ~over
        steepest = state.gradient
        emptied = state.curvature._replace(count=jnp.zeros_like(state.curvature.count))
        curvature = jax.tree.map(lambda a, b: jnp.where(restart, a, b), emptied, state.curvature)
        direction = jnp.where(restart, steepest, state.direction)
        return dataclasses.replace(
            state,
            direction=direction,
            length=jnp.where(restart, first_length(emptied, steepest), length),
            curvature=curvature,
            n_refused=state.n_refused + 1,
            code=jnp.where(over | start_lost, end, RUNNING).astype(jnp.int32),
        )

    def _recorded(self, before: QuasiNewtonState, after: QuasiNewtonState) -> QuasiNewtonState:
        slot = jnp.mod(before.n_steps, TRACE_LENGTH)
        entry = jnp.stack([after.bound, after.objective])
        return dataclasses.replace(
            after,
            n_steps=before.n_steps + 1,
            trace=jnp.asarray(after.trace).at[slot].set(entry),
        )


def _ended(before: QuasiNewtonState, after: QuasiNewtonState) -> QuasiNewtonState:
    """A climb that has ended stays where it is."""
    over = before.code != RUNNING
    return jax.tree.map(lambda a, b: jnp.where(over, a, b), before, after)
