"""The climb of a model together with its encoder: start, stochastic ascent, answer."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._parameters import count_parameters, fixed_mask, has_all_parameters
from minorant._progress import Progress, Reporter
from minorant._types import Array, Rows, Summary
from minorant.answer import in_data_units
from minorant.batches import batches_of, held_out_share
from minorant.bounds import AbstractBound, Elbo
from minorant.data.chunks import is_collection, is_sharded
from minorant.data.summary import has_gaps, summarise
from minorant.journal import Journal
from minorant.models.user import Model
from minorant.posteriors import Encoder, PerRow
from minorant.posteriors.amortised import Network
from minorant.preparation import Prepared, cast
from minorant.result import Acceleration, Fit, Trace
from minorant.solvers.minibatch import Point, RowBound
from minorant.solvers.stochastic import Ascended, Ascent, Shown
from minorant.streaming import Stream, prepared_rows

ACCURACY = 1e-4  # nats per row
MOST_STEPS = 30_000
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
    journal: Journal = Journal()


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


def encodable(
    model: Model, data: Any, sides: tuple[Any, Any, Any, Any], encoder: Encoder, fixed: Any
) -> Prepared:
    """The problem of a model with an encoder, which need not have a network yet.

    Args:
        model: with all of its parameters.
        data: a table, chunks, or where files with rows are.
        sides: weights, labels, groups and inputs; of files the names of their columns.
        encoder: with its bound; one that has a network goes on from it.
        fixed: selects what keeps its value.

    Raises:
        TypeError: for a latent that no encoder is for, or a bound that it cannot have.
        ValueError: where none is needed, for rows that others read, or where the network was
            learned on other columns or for another latent.
        OSError: when rows cannot be read.
    """
    sizes = _sizes(model, encoder)
    if is_collection(data) or is_sharded(data) or getattr(data, "engine", None) is not None:
        raise ValueError(
            "An encoder climbs on rows that this process reads: leave dask= and devices= out of "
            "minorant.chunks, and give it files or arrays."
        )
    prepared = prepared_rows(model.bounded(encoder), data, sides, fixed)
    if encoder.network is not None:
        _check_network(encoder.network, len(prepared.names), sizes)
    if not has_all_parameters(prepared.template):
        raise ValueError(
            f"{type(model).__name__} does not say where to start: give all of its parameters."
        )
    return prepared


def _sizes(model: Model, encoder: Encoder) -> tuple[int, int]:
    """How many numbers the encoder gives as means or logits, and how many for a row."""
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
    return sizes


def _check_network(network: Network, d: int, sizes: tuple[int, int]) -> None:
    columns, outputs = len(network.linear), len(network.offsets[-1])
    if (columns, outputs) != (d, sizes[1]):
        raise ValueError(
            f"the encoder's network takes {columns} columns and gives {outputs} numbers; this "
            f"table has {d} columns and the latent takes {sizes[1]} numbers. Give an Encoder "
            "without a network."
        )


def started(prepared: Prepared, fixed: Any, seed: int) -> Prepared:
    """With a network to climb from, where the encoder has none."""
    model = _model(prepared)
    if model.family.network is not None:
        return prepared
    summary, gaps = _looked_at(prepared)
    rng = np.random.default_rng(seed)
    encoder = model.family.started(summary, model.count_outputs(model.family), gaps, rng)
    template = cast(model.bounded(encoder), prepared.dtype)
    mask = None if fixed is None else fixed_mask(template, fixed)
    return prepared._replace(template=template, fixed=mask)


def _looked_at(prepared: Prepared) -> tuple[Summary, bool]:
    """Statistics of the columns, and whether cells are missing."""
    if isinstance(prepared.stream, Stream):
        seen = prepared.stream.seen
        return seen.look.summary(prepared.names), not seen.complete
    table = prepared.table
    return summarise(table.values, table.weights, prepared.names), has_gaps(table.values)


def _model(prepared: Prepared) -> Any:
    """A user's model with its encoder."""
    return prepared.template


def climbed(prepared: Prepared, course: Course, seed: int) -> Fit:
    """The climb from where model and encoder stand."""
    with _config.precision(prepared.dtype):
        found = _ascended(prepared, course, seed)
        model = found.parameters
        totals = _totals(prepared, model)
    return _answer(prepared, course, model, found, totals)


def _ascended(prepared: Prepared, course: Course, seed: int) -> Ascended:
    """Where the ascent ended; its parameters are the model with its encoder."""
    climbed, exam, supply = batches_of(prepared, seed)
    total = float(prepared.source.n_rows())
    start = jax.tree.map(np.asarray, _begin(climbed))
    settled = functools.partial(_settled, climbed)
    found = course.solver.climb(
        climbed,
        start,
        jax.random.key(seed),
        judge=lambda point: _examined(exam, point),
        watch=_watch(course, total),
        supply=supply,
        journal=course.journal,
        shown=Shown(settled, total),
    )
    return found._replace(parameters=settled(found.parameters))


def _settled(objective: RowBound, point: Point) -> Model:
    return jax.tree.map(np.asarray, _settle(objective, point))


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
        return all([callback(progress) is not False for callback in course.callbacks])

    return watch


def _totals(prepared: Prepared, model: Any) -> tuple[float, float]:
    """The bound summed over rows, on draws that are the same every time, and the log prior."""
    if prepared.stream is None:
        bound, prior = _totals_of_table(model, prepared.source)
        return float(bound), float(prior)
    bound = 0.0
    for table, each in prepared.stream.by_row(_each, model):
        weights = np.ones(len(each)) if table.weights is None else table.weights
        counted = weights > 0
        bound += float(weights[counted] @ np.asarray(each, dtype=float)[counted])
    return bound, float(_log_prior(model))


def _answer(
    prepared: Prepared,
    course: Course,
    model: Model,
    found: Ascended,
    totals: tuple[float, float],
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
    where = "" if prepared.stream is None else " dealt at random from the chunks"
    return (
        f"E-step: {prepared.template.reason()}. Climbed: the {encoder.bound.sentence()}, by "
        f"stochastic ascent on batches of {min(encoder.batch, prepared.n_rows())} rows{where} with "
        f"a raced step size ({found.step_size:.2g}) and averaged iterates{stop}; the encoder has "
        f"{numbers} numbers of its own. {found.sentence} Computed in {prepared.dtype}."
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


def _each(model: Any, rows: Rows) -> Float[Array, " n"]:
    """The bound of every row of a block."""
    return model.log_evidence(rows, None)


@_config.small_jit
def _log_prior(model: Any) -> Float[Array, ""]:
    return jnp.asarray(model.log_prior())


@_config.small_jit
def _totals_of_table(model: Any, source: Any) -> tuple[Array, Array]:
    def block(model: Model, rows: Rows) -> Array:
        return jnp.where(rows.weight > 0, rows.weight * _each(model, rows), 0.0).sum()

    return source.fold(block, model), jnp.asarray(model.log_prior())
