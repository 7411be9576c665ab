"""The climb of a model together with its encoder: start, stochastic ascent, answer."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant import _config
from minorant._parameters import count_parameters, has_all_parameters
from minorant._progress import Progress, Reporter
from minorant._types import Array, Rows
from minorant.answer import in_data_units
from minorant.bounds import AbstractBound, Elbo
from minorant.data.arrays import Table
from minorant.data.summary import has_gaps, summarise
from minorant.models.user import Model
from minorant.posteriors import Encoder, PerRow
from minorant.posteriors.amortised import Network
from minorant.preparation import Prepared
from minorant.result import Acceleration, Fit, Trace
from minorant.solvers.minibatch import Point, RowBound
from minorant.solvers.stochastic import Ascended, Ascent

ACCURACY = 1e-4  # nats per row
MOST_STEPS = 30_000
_EVALUATIONS = 512  # draws of a step, over all of its rows
_JUDGED_ROWS = 2048
_JUDGED_DRAWS = 16
_HELD_OUT = 0.15
_FEW_ROWS = 100  # too few to hold any out
_NAMED = {
    "encoder": Encoder(),
    "full-rank": PerRow("full-rank"),
    "mean-field": PerRow("mean-field"),
}


class Course(NamedTuple):
    """What steers the climb and is not part of the model."""

    solver: Ascent
    reporter: Reporter
    callbacks: tuple[Callable[[Progress], Any], ...]
    began: float


def asked_family(model: Any, posterior: Any, bound: Any) -> Encoder | PerRow | None:
    """The family that is asked for, with its bound; None where the model's own E-step is taken.

    Raises:
        TypeError: for what is no family, or no bound.
        ValueError: where the model cannot have it, or the family not this bound.
    """
    family = _NAMED.get(posterior) if isinstance(posterior, str) else posterior
    if family is not None and not isinstance(family, Encoder | PerRow):
        raise TypeError(
            "posterior must be a name, a minorant.Encoder or a minorant.posteriors.PerRow; got "
            f"{type(posterior).__name__}."
        )
    if family is not None and not isinstance(model, Model):
        raise ValueError(
            f"{type(model).__name__} has its own posterior, and no other: {posterior!r} is for "
            "a minorant.Model of yours."
        )
    if not isinstance(family, Encoder):
        if bound is not None and not isinstance(bound, Elbo):
            raise ValueError(
                "bound= is for an encoder: give posterior='encoder' with it, or leave it out."
            )
        return family
    bound = Elbo() if bound is None else bound
    if not isinstance(bound, AbstractBound):
        raise TypeError(
            "bound must be an object of minorant.bounds, such as ImportanceWeighted(8); got "
            f"{bound!r}."
        )
    encoder: Encoder = family
    return dataclasses.replace(encoder, bound=bound)


def default_ascent(solver: Any, max_steps: int | None) -> Ascent:
    """The ascent that is asked for, or the default.

    Raises:
        TypeError: for another solver.
    """
    if solver is None:
        return Ascent(accuracy=ACCURACY, max_steps=max_steps or MOST_STEPS)
    if not isinstance(solver, Ascent):
        raise TypeError(
            "An encoder is climbed by minorant.solvers.Ascent(accuracy, in nats per row); got "
            f"{type(solver).__name__}."
        )
    return solver if max_steps is None else dataclasses.replace(solver, max_steps=max_steps)


def started(model: Model, table: Table, names: tuple[str, ...], encoder: Encoder, seed: int) -> Any:
    """The model with an encoder to climb from; one that has a network already goes on from it.

    Raises:
        TypeError: for a latent that no encoder is for, or a bound that it cannot have.
        ValueError: where none is needed, or it was learned on other columns or for another latent.
    """
    if model.is_summed_by_number():
        raise ValueError(
            "The latent takes few values and is summed out exactly, which no encoder betters: "
            "leave posterior= out."
        )
    sizes = model.count_outputs(encoder)
    if not model.is_smooth() and not isinstance(encoder.bound, Elbo):
        raise TypeError(
            f"The {encoder.bound.sentence()} needs a latent that is continuous: this one jumps. "
            "Leave bound= out."
        )
    d = table.values.shape[1]
    if encoder.network is None:
        summary = summarise(table.values, table.weights, names)
        rng = np.random.default_rng(seed)
        encoder = encoder.started(summary, sizes, has_gaps(table.values), rng)
    else:
        _check_network(encoder.network, d, sizes)
    return model.bounded(encoder)


def _check_network(network: Network, d: int, sizes: tuple[int, int]) -> None:
    columns, outputs = len(network.linear), len(network.offsets[-1])
    if (columns, outputs) != (d, sizes[1]):
        raise ValueError(
            f"the encoder's network takes {columns} columns and gives {outputs} numbers; this "
            f"table has {d} columns and the latent takes {sizes[1]} numbers. Give an Encoder "
            "without a network."
        )


def climbed(prepared: Prepared, course: Course, seed: int) -> Fit:
    """The climb from where model and encoder stand."""
    template: Any = prepared.template
    if not has_all_parameters(template):
        raise ValueError(
            f"{type(template).__name__} does not say where to start: give all of its parameters."
        )
    with _config.precision(prepared.dtype):
        objective, found = _ascended(prepared, course, seed)
        model = jax.tree.map(np.asarray, _settle(objective, found.parameters))
        totals = [float(total) for total in _totals(model, prepared.source)]
    return _answer(prepared, course, model, found, totals)


def _ascended(prepared: Prepared, course: Course, seed: int) -> tuple[RowBound, Ascended]:
    objective, exam = _objectives(prepared, seed)
    watch = _watch(course, float(prepared.source.n_rows()))
    start = jax.tree.map(np.asarray, _begin(objective))
    try:
        found = course.solver.climb(
            objective,
            start,
            jax.random.key(seed),
            judge=lambda point: _examined(exam, point),
            watch=watch,
        )
    finally:
        course.reporter.close()
    return objective, found


def _objectives(prepared: Prepared, seed: int) -> tuple[RowBound, RowBound]:
    """What is climbed, and what says when to stop: on held draws, without what a batch adds.

    The latter is of the rows held out, or, where none are, of all rows or of many.
    """
    table = prepared.table
    weights = np.ones(len(table.values)) if table.weights is None else table.weights
    order = np.random.default_rng(seed).permutation(np.flatnonzero(weights > 0))
    held = round(held_out_share(prepared) * len(order))
    climbed_on, judged_on = np.sort(order[held:]), np.sort(order[:held] if held else order)
    if len(judged_on) > _JUDGED_ROWS:
        judged_on = judged_on[:: -(-len(judged_on) // _JUDGED_ROWS)]
    encoder = _model(prepared).family
    bound, climbed_batch = encoder.bound, min(encoder.batch, len(climbed_on))
    groups = max(_EVALUATIONS // (climbed_batch * bound.draws), _least_groups(prepared))
    exam_draws = bound.draws * -(-_JUDGED_DRAWS // bound.draws)
    return (
        _of_rows(prepared, climbed_on, climbed_batch, bound.draws * groups),
        _of_rows(prepared, judged_on, len(judged_on), exam_draws),
    )


def held_out_share(prepared: Prepared) -> float:
    """The share of rows that only say when to stop."""
    asked = _model(prepared).family.held_out
    if asked is not None:
        return asked
    n, numbers = len(prepared.table.values), count_parameters(prepared.template, prepared.fixed)
    return _HELD_OUT if numbers > n > _FEW_ROWS else 0.0


def _model(prepared: Prepared) -> Any:
    """A user's model with its encoder."""
    return prepared.template


def _least_groups(prepared: Prepared) -> int:
    """Draws that jump are compared with one another."""
    return 1 if _model(prepared).is_smooth() else 4


def _of_rows(prepared: Prepared, index: Int[np.ndarray, " m"], batch: int, draws: int) -> RowBound:
    table, dtype, model = prepared.table, prepared.dtype, _model(prepared)
    values = table.values[index]
    weights = np.ones(len(values)) if table.weights is None else table.weights[index]
    observed = ~np.isnan(values) if has_gaps(table.values) else None
    # Missing cells hold what some row has there: what a likelihood gives outside its support has
    # NaN for a gradient, even where unused.
    first = np.argmax(~np.isnan(table.values), axis=0)
    filled = np.where(np.isnan(values), table.values[first, np.arange(values.shape[1])], values)
    rows = Rows(filled.astype(dtype), np.ones(len(values), dtype), observed)
    return RowBound(
        model,
        rows,
        (np.cumsum(weights) / weights.sum()).astype(dtype),
        np.asarray(weights.sum(), dtype),
        prepared.fixed,
        model.family.bound,
        batch,
        draws,
    )


def _watch(course: Course, total: float) -> Callable[[int, float], Any]:
    """Progress to the reporter and the callbacks; False when one of them asks to stop."""
    last = [-np.inf]

    def watch(steps: int, value: float) -> bool:
        seconds = time.perf_counter() - course.began
        left = seconds / max(steps, 1) * (course.solver.max_steps - steps)
        gain = value - last[0]
        last[0] = value
        progress = Progress(steps, course.solver.max_steps, total * value, gain, seconds, left)
        course.reporter.update(progress)
        return all(callback(progress) is not False for callback in course.callbacks)

    return watch


def _answer(
    prepared: Prepared, course: Course, model: Model, found: Ascended, totals: list[float]
) -> Fit:
    total = float(prepared.source.n_rows())
    bound, prior = totals
    trace = np.asarray(found.trace) * total
    return Fit(
        model=in_data_units(prepared, model),
        outcome=found.outcome,
        bound=bound,
        objective=bound + prior,
        trace=Trace(trace - prior, trace),
        explanation=_explanation(prepared, model, found),
        standardised=model,
        units=prepared.units,
        n_rows=total,
        n_parameters=count_parameters(model, prepared.fixed),
        names=prepared.names,
        acceleration=Acceleration(found.steps, 0, found.n_refused, 0),
        dtype=str(prepared.dtype),
        seconds=time.perf_counter() - course.began,
        fixed=prepared.fixed,
    )


def _explanation(prepared: Prepared, model: Model, found: Ascended) -> str:
    encoder: Any = model.family
    numbers, share = count_parameters(encoder.network), held_out_share(prepared)
    stop = f"; {share:.0%} of the rows say when to stop" if share else ""
    return (
        f"E-step: {model.reason()}. Climbed: the {encoder.bound.sentence()}, by stochastic ascent "
        f"on batches of {min(encoder.batch, len(prepared.table.values))} rows with a raced step "
        f"size ({found.step_size:.2g}) and averaged iterates{stop}; the encoder has {numbers} "
        f"numbers of its own. {found.sentence} Computed in {prepared.dtype}."
    )


@_config.small_jit
def _begin(objective: RowBound) -> Point:
    return objective.start()


@_config.small_jit
def _settle(objective: RowBound, point: Point) -> Model:
    return objective.at(point)


@_config.small_jit
def _examined(exam: RowBound, point: Point) -> Float[Array, ""]:
    return exam(point, jax.random.key(1))


@_config.small_jit
def _totals(model: Model, source: Any) -> tuple[Array, Array]:
    """The bound summed over rows, on draws that are the same every time, and the log prior."""

    def block(model: Model, rows: Rows) -> Array:
        each = model.log_evidence(rows, None)
        return jnp.where(rows.weight > 0, rows.weight * each, 0.0).sum()

    return source.fold(block, model), jnp.asarray(model.log_prior())
