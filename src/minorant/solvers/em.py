"""Expectation-maximisation with safeguarded extrapolation and a stopping rule that can be trusted.

Every step is one pass over the rows, at a *pending* point. Where the objective (bound plus log
prior) is at least what it was, the point is accepted, its M-step computed, and the acceleration
asked where to look next. Where it is lower, an extrapolated point is refused and the plain M-step
of the last accepted point, which cannot be lower, comes next. So the accepted sequence climbs.

Stopping: when an accepted step gains less per row than the tolerance, two plain EM steps follow
and Aitken's rule on their gains, ``left = gain * c / (1 - c)`` with ``c`` the ratio of gains,
estimates what is left to gain; below the tolerance per row the climb has converged, otherwise it
goes on. A plain step that loses more than rounding explains is an error of the numerics.

McLachlan & Krishnan (2008), "The EM algorithm and extensions", 2nd ed., sections 4.9 (Aitken) and
4.8 (acceleration).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from minorant._parameters import to_vector
from minorant._types import Array, PyTree, Rows
from minorant.data import AbstractCount
from minorant.models.base import AbstractTractableModel, Expectation
from minorant.solvers.accelerate import AbstractAcceleration, Proposal, Squarem
from minorant.solvers.base import (
    CONVERGED,
    DECREASED,
    NON_FINITE,
    PRECISION,
    RUNNING,
    TRACE_LENGTH,
    AbstractSolver,
    AbstractState,
    Problem,
    model_at,
)

TractableProblem: TypeAlias = Problem[AbstractTractableModel, AbstractCount]


class EMState(AbstractState):
    """Where the climb is: accepted point, the point to look at next, and the stopping rule.

    Points are vectors in free coordinates; ``model`` gives them their shape, holds what is not
    learned, and is the accepted model whenever a block of steps has ended.
    """

    model: AbstractTractableModel
    accepted: Float[Array, " p"]
    pending: Float[Array, " p"]
    fallback: Float[Array, " p"]
    memory: Any
    bound: Float[Array, ""]
    objective: Float[Array, ""]
    pending_is_plain: Bool[Array, ""]
    pending_worth: Float[Array, ""]
    plain_worth: Float[Array, ""]
    last_gain: Float[Array, ""]
    checking: Int[Array, ""]
    patience: Float[Array, ""]
    rate: Float[Array, ""]
    left: Float[Array, ""]
    n_steps: Int[Array, ""]
    n_kept: Int[Array, ""]
    n_refused: Int[Array, ""]
    code: Int[Array, ""]
    trace: Float[Array, "length two"]


class Visit(NamedTuple):
    """What one pass at the pending point found."""

    bound: Float[Array, ""]
    objective: Float[Array, ""]
    image: Float[Array, " p"]
    gain: Float[Array, ""]
    accepted: Bool[Array, ""]
    slack: Float[Array, ""]


class EM(AbstractSolver):
    """Accelerated EM for tractable models.

    Args:
        acceleration: ``Squarem()``, ``Anderson()`` or ``Plain()``.
        tolerance: nats per row that may be left to gain at convergence.

    Example:
        >>> from minorant.solvers import EM, Plain
        >>> EM(Plain(), tolerance=1e-9).tolerance
        1e-09
    """

    acceleration: AbstractAcceleration = Squarem()
    tolerance: float | Array = 1e-7

    def init(self, problem: TractableProblem) -> EMState:
        """The starting model, not yet visited."""
        start = to_vector(problem.model)
        lowest = jnp.asarray(-jnp.inf, start.dtype)
        unknown = jnp.asarray(jnp.nan, start.dtype)
        zero = jnp.asarray(0, jnp.int32)
        return EMState(
            model=problem.model,
            accepted=start,
            pending=start,
            fallback=start,
            memory=self.acceleration.init(start),
            bound=lowest,
            objective=lowest,
            pending_is_plain=jnp.asarray(True),
            pending_worth=jnp.ones((), start.dtype),
            plain_worth=jnp.zeros((), start.dtype),
            last_gain=unknown,
            checking=zero,
            patience=jnp.ones((), start.dtype),
            rate=unknown,
            left=unknown,
            n_steps=zero,
            n_kept=zero,
            n_refused=zero,
            code=zero,
            trace=jnp.full((TRACE_LENGTH, 2), jnp.nan, start.dtype),
        )

    def asks(self, problem: TractableProblem, state: EMState) -> tuple[Any, PyTree]:
        """The model at the pending point, prepared."""
        model = model_at(state.model, state.pending, problem.fixed)
        return model, model.prepare()

    def look(self, parameters: tuple[Any, PyTree], rows: Rows) -> Expectation:
        """Bound and statistics of a block."""
        model, prepared = parameters
        return model.expectation(rows, prepared)

    def answered(self, problem: TractableProblem, state: EMState, found: Expectation) -> EMState:
        """Accept or refuse the pending point; a climb that has ended stays where it is."""
        visit = self._visit(problem, state, found)
        moved = self._advance(state, visit)
        return self._judge(problem, state, moved, visit)

    def verdict(self, problem: TractableProblem, state: EMState) -> Int[Array, ""]:
        """0 while running."""
        del problem
        return state.code

    def settled(self, problem: TractableProblem, state: EMState) -> AbstractTractableModel:
        """The model at the accepted point of one climb; on the host, in NumPy."""
        return model_at(state.model, state.accepted, problem.fixed)

    def taken_up(self, state: EMState, structure: Any, dead: Any) -> EMState:
        """Stacked climbs in another numerical form, from their accepted points (host side)."""
        return dataclasses.replace(
            state,
            model=jax.tree.unflatten(structure, jax.tree.leaves(state.model)),
            pending=state.accepted,
            pending_is_plain=np.full_like(state.pending_is_plain, True),
            objective=np.full_like(state.objective, -np.inf),
            code=np.where(dead, 0, state.code).astype(np.int32),
        )

    def sentence(self) -> str:
        """EM, with its acceleration."""
        rule = type(self.acceleration).__name__
        return f"EM with {rule} extrapolation, safeguarded, because the M-step is the model's own"

    def _visit(self, problem: TractableProblem, state: EMState, found: Expectation) -> Visit:
        model, prepared = self.asks(problem, state)
        objective = found.bound + model.log_prior()
        bound = objective if model.integrates_parameters() else found.bound
        image = to_vector(model.maximise(found.statistics, problem.fixed))
        gain = objective - state.objective
        eps = jnp.finfo(objective.dtype).eps
        amplified = model.rounding(prepared) * problem.n_rows()
        slack = 16 * eps * (jnp.abs(objective) + amplified)
        accepted = jnp.isfinite(objective) & (gain >= 0) & (state.code == RUNNING)
        return Visit(bound, objective, image, gain, accepted, slack)

    def _advance(self, state: EMState, visit: Visit) -> EMState:
        """Accept or refuse, and choose the next pending point."""
        took = visit.accepted
        memory, proposal = self.acceleration.propose(state.memory, state.pending, visit.image)
        memory = _where(took, memory, self.acceleration.refused(state.memory))
        fallback = jnp.where(took, visit.image, _shorter(state))
        extrapolate = took & proposal.extrapolated & (state.checking == 0)
        bound = jnp.where(took, visit.bound, state.bound)
        objective = jnp.where(took, visit.objective, state.objective)
        slot = jnp.mod(state.n_steps, TRACE_LENGTH)
        return dataclasses.replace(
            state,
            accepted=jnp.where(took, state.pending, state.accepted),
            pending=jnp.where(extrapolate, proposal.point, fallback),
            fallback=fallback,
            memory=memory,
            bound=bound,
            objective=objective,
            pending_is_plain=~extrapolate,
            pending_worth=jnp.where(extrapolate, _worth(state.pending, visit.image, proposal), 1.0),
            plain_worth=state.plain_worth + jnp.where(took, state.pending_worth, 0.0),
            n_steps=state.n_steps + (state.code == RUNNING),
            n_kept=state.n_kept + (took & ~state.pending_is_plain),
            n_refused=state.n_refused + (~took & (state.code == RUNNING)),
            trace=jnp.asarray(state.trace).at[slot].set(jnp.stack([bound, objective])),
        )

    def _judge(
        self, problem: TractableProblem, before: EMState, state: EMState, visit: Visit
    ) -> EMState:
        """The stopping rule and the failures."""
        rate, left = aitken(before.last_gain, visit.gain, visit.slack)
        checked = visit.accepted & (before.checking == 1)
        done = checked & (left <= self.tolerance * problem.n_rows())
        failed = ~visit.accepted & before.pending_is_plain & ~_may_shorten(before, visit)
        code = jnp.where(failed, self._failure(visit), jnp.where(done, CONVERGED, RUNNING))
        wanted = self.tolerance * before.patience * problem.n_rows()
        start = visit.accepted & (before.checking == 0) & (visit.gain <= wanted)
        checking = jnp.where(start, 2, jnp.maximum(before.checking - visit.accepted, 0))
        return dataclasses.replace(
            state,
            pending=jnp.where(start, state.fallback, state.pending),
            pending_is_plain=state.pending_is_plain | start,
            pending_worth=jnp.where(start, 1.0, state.pending_worth),
            last_gain=jnp.where(visit.accepted, visit.gain, before.last_gain),
            checking=checking.astype(jnp.int32),
            patience=jnp.where(checked & ~done, 0.25 * before.patience, before.patience),
            rate=jnp.where(checked, rate, before.rate),
            left=jnp.where(checked, left, before.left),
            code=jnp.where(before.code == RUNNING, code, before.code).astype(jnp.int32),
        )

    def _failure(self, visit: Visit) -> Array:
        """What a plain step that did not climb means."""
        decreased = jnp.where(visit.gain >= -visit.slack, PRECISION, DECREASED)
        return jnp.where(jnp.isfinite(visit.objective), decreased, NON_FINITE)


def aitken(first: Array, second: Array, slack: Array) -> tuple[Array, Array]:
    """The ratio of two consecutive gains and what is left to gain after them.

    ``c = g2 / g1``, ``left = g2 c / (1 - c)``; 0 when the gains drown in rounding, infinity while
    they grow.
    """
    ratio = second / jnp.where(first > 0, first, 1.0)
    left = jnp.where(ratio < 1.0, second * ratio / jnp.maximum(1.0 - ratio, 1e-12), jnp.inf)
    left = jnp.where(first <= slack, 0.0, left)
    return ratio, jnp.where(jnp.isnan(left), jnp.inf, left)


def _worth(point: Array, image: Array, proposal: Proposal) -> Array:
    """How many plain steps an extrapolation is worth: its length in units of the plain step's.

    Plain steps shorten as they go, so this is on the low side.
    """
    plain = jnp.linalg.norm(image - point)
    return jnp.linalg.norm(proposal.point - point) / jnp.maximum(plain, 1e-30)


def _shorter(state: EMState) -> Array:
    """The plain step to fall back to: halved if it was just refused and may have been too long."""
    if not state.model.may_overshoot():
        return state.fallback
    halved = 0.5 * (state.accepted + state.fallback)
    return jnp.where(state.pending_is_plain, halved, state.fallback)


def _may_shorten(state: EMState, visit: Visit) -> Array:
    """Whether a refused plain step points uphill and lost only because it was too long.

    Halving ends: near the accepted point the loss drowns in rounding.
    """
    lost = ~(visit.gain >= -visit.slack)
    return lost & jnp.isfinite(state.objective) & state.model.may_overshoot()


def _where(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
