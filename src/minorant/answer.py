"""From ended lanes to a fit: the best sound optimum, in the data's units, with its record."""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np

from minorant import degeneracy
from minorant._parameters import count_parameters
from minorant._types import PyTree
from minorant.climbing import DROPPED, Climb, Lanes
from minorant.preparation import Prepared
from minorant.result import CODES, Acceleration, Climbed, Degenerate, Fit, Outcome, Trace
from minorant.solvers import AbstractState

_EQUAL = 1e-7  # nats per row below which two optima are the same


def answer_of(prepared: Prepared, climb: Climb, lanes: Lanes, note: str, remedy: str) -> Fit:
    """The best lane as a fit; a lane with a collapsed component loses to one without."""
    best = _best(prepared, lanes)
    state = jax.tree.map(lambda leaf: np.asarray(leaf)[best], lanes.state)
    model = lanes.model(best)
    model = model.oriented() if prepared.fixed is None else model
    state = dataclasses.replace(state, model=model)
    trace = np.concatenate(lanes.traces[best]).astype(float)
    log_scale = prepared.log_scale
    steps = int(state.n_steps)
    outcome, degenerate = _ended(prepared, lanes, state, remedy)
    return Fit(
        model=in_data_units(prepared, state.model),
        outcome=outcome,
        bound=float(state.bound) - log_scale,
        objective=float(state.objective) - log_scale,
        trace=Trace(trace[:, 0] - log_scale, trace[:, 1] - log_scale),
        explanation=_explanation(prepared, climb),
        standardised=state.model,
        units=prepared.units,
        n_rows=float(prepared.source.n_rows()),
        n_parameters=count_parameters(state.model, prepared.fixed),
        names=prepared.names,
        acceleration=Acceleration(
            steps=steps,
            kept=int(state.n_kept),
            refused=int(state.n_refused),
            saved=max(round(float(state.plain_worth)) - steps, 0),
        ),
        degenerate=degenerate,
        climbs=_climbs(lanes, log_scale),
        starts=note + _passed_over(lanes, best),
        dtype=str(prepared.dtype),
        seconds=time.perf_counter() - climb.began,
        state=state,
        fixed=prepared.fixed,
        log_scale=log_scale,
    )


def in_data_units(prepared: Prepared, model: PyTree) -> PyTree:
    """The model in the data's units, in float64: the change is exact."""
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, dtype=float), model)
    return jax.tree.map(np.asarray, wide.rescaled(prepared.units.inverse()))


def _best(prepared: Prepared, lanes: Lanes) -> int:
    """The best sound lane; among equals the first, so that rounding does not choose."""
    objective, total = lanes.objective(), float(prepared.source.n_rows())
    order = np.argsort(-np.round(objective / (_EQUAL * total)), kind="stable")
    for lane in order:
        if not np.isfinite(objective[lane]):
            break
        if len(order) == 1 or degeneracy.is_sound(prepared, lanes.model(int(lane))):
            return int(lane)
    return int(np.argmax(objective))


def _passed_over(lanes: Lanes, best: int) -> str:
    """A sentence on higher optima that lost because a component had collapsed."""
    found = lanes.objective()
    if not np.isfinite(found[best]):  # then no start has a bound at all
        return ""
    higher = found > found[best] + abs(found[best]) * 1e-9
    if not higher.any():
        return ""
    named = [lanes.starts[lane] for lane in np.flatnonzero(higher)]
    return f" Starts {named} ended higher on a collapsed component and were passed over."


def _climbs(lanes: Lanes, log_scale: float) -> tuple[Climbed, ...]:
    codes = np.asarray(lanes.state.code)
    return tuple(
        Climbed(
            objective=float(lanes.objective()[lane]) - log_scale,
            start=lanes.starts[lane],
            outcome=_named(int(codes[lane])).value,
            point=np.asarray(lanes.state.accepted)[lane],
        )
        for lane in range(len(codes))
        if codes[lane] != DROPPED
    )


def _named(code: int) -> Outcome:
    return Outcome.STEP_LIMIT if code <= 0 else CODES[code]


def _ended(
    prepared: Prepared, lanes: Lanes, state: AbstractState, remedy: str
) -> tuple[Outcome, tuple[Degenerate, ...]]:
    """The outcome, and what is to be said of components; or of rows, where those are to blame."""
    outcome = _named(int(state.code))
    if outcome is Outcome.NON_FINITE:
        rows = degeneracy.impossible(prepared, state.model)
        if rows:
            return outcome, rows
    if lanes.interrupted and int(state.code) <= 0:
        outcome = Outcome.INTERRUPTED
    found = degeneracy.describe(prepared, state.model, remedy)
    total = float(prepared.source.n_rows())
    spurious = degeneracy.is_spurious(state.model, total, len(prepared.names))
    if outcome.ok and (spurious or any(one.is_empty for one in found)):
        outcome = Outcome.DEGENERATE
    return outcome, found


def _explanation(prepared: Prepared, climb: Climb) -> str:
    return (
        f"E-step: {prepared.template.reason()}. Solver: {climb.solver.sentence()}. Computed in "
        f"{prepared.dtype}{_narrowed(prepared)}."
    )


def _narrowed(prepared: Prepared) -> str:
    if prepared.table.values.dtype == prepared.dtype:
        return ""
    return ", though the data are float64: JAX's 64-bit mode is off (jax.enable_x64 turns it on)"
