"""The climb of a mixture whose rows look at few components each: lists and parameters in turn.

EM climbs the truncated bound with every row's list of components held, for a stretch of steps; then
lists are chosen anew, none of them worse. So the bound never falls, and the climb ends when neither
lists nor parameters have more to gain. What is lost against log p(X) is measured at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._parameters import filled, has_all_parameters
from minorant._types import Affine, Array, PyTree, Rows
from minorant.answer import answer_of
from minorant.climbing import Climb, Lanes, begin, run
from minorant.data import Segment, arrange
from minorant.data.arrays import Table
from minorant.data.base import BlockFunction
from minorant.data.paired import PairedRows, PairedSource
from minorant.data.summary import has_gaps
from minorant.lists import first_lists, new_lists
from minorant.models import Mixture
from minorant.posteriors.truncated import Truncated, Truncation
from minorant.preparation import AbstractStream, Drawn, Prepared, cast, completed_block
from minorant.result import Estimate, Fit
from minorant.solvers import EM, Problem
from minorant.solvers.many_centres import partition, sample_size
from minorant.solvers.starts import Starts
from minorant.solvers.truncated_em import TruncatedEM, pair_scores

_SMOOTHING = 0.01
_FIRST_STRETCH = 4
_LONGEST_STRETCH = 64
_LISTS_COST = 2.0  # new lists cost a few steps, and open the way for those that follow
_START_ROWS = 512  # per block: scores of all components are formed


class Course(NamedTuple):
    """What does not change from stretch to stretch.

    ``form`` is the structure of the model in product form, in which blocks of rows are scored
    under many components; pairs are scored with the means subtracted first.
    """

    prepared: Prepared
    posterior: Truncated
    form: Any
    tolerance: float


class Blockwise(AbstractStream):
    """Rows in memory block after block: responsibilities of all rows at once would not fit."""

    def __init__(self, prepared: Prepared) -> None:
        """Of complete rows, which lie in the table's order."""
        self.prepared = prepared

    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self.prepared.table.values)

    def drawn(self, rng: np.random.Generator, size: int, grouped: bool) -> Drawn:
        """Some rows."""
        del grouped
        return self.prepared.drawn(rng, size)

    def by_row(self, function: BlockFunction, parameters: PyTree) -> Iterator[tuple[Table, PyTree]]:
        """Block after block, a function's answers for each of its rows."""
        rows = self.prepared.source.segments[0].rows
        compiled = jax.jit(function)
        for block in range(-(-self.n_rows() // rows.weight.shape[1])):
            first = block * rows.weight.shape[1]
            index = np.arange(first, min(first + rows.weight.shape[1], self.n_rows()))
            found = compiled(parameters, _taken(rows, block))
            yield self.prepared.table.take(index), _taken(found, slice(len(index)))


def _taken(tree: PyTree, index: int | slice) -> PyTree:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def climbed_truncated(
    prepared: Prepared, climb: Climb, posterior: Truncated, random_state: int | None
) -> Fit:
    """Climb the truncated bound, from the given parameters or from one k-means on a sample."""
    rng = np.random.default_rng(random_state)
    model, note = prepared.template, ""
    if not has_all_parameters(model):
        model, note = _started(prepared, rng), "1 start, from k-means on a sample of rows."
    prepared = prepared._replace(template=model)
    em: Any = climb.solver  # check_truncated asks
    course = Course(prepared, posterior, jax.tree.structure(model), em.tolerance)
    paired = climb._replace(solver=TruncatedEM(em))
    lanes, source, slots = _in_stretches(course, paired)
    lanes = _in_product_form(course, paired, lanes)
    blockwise = prepared._replace(stream=Blockwise(prepared))
    answer = answer_of(blockwise, climb, lanes, note, "floor")
    found = _measured(course, source, slots, answer, rng)
    return answer._replace(truncation=found, explanation=_explanation(answer, found))


def check_truncated(model: Any, posterior: Truncated, solver: Any, remedy: str) -> None:
    """Refuse what has no truncated E-step, before any work.

    Raises:
        TypeError: for another model than a mixture, or another solver than EM.
        ValueError: for more components than the mixture has, or a remedy.
    """
    if not isinstance(model, Mixture):
        raise TypeError(
            f"posteriors.Truncated is for minorant.Mixture; got {type(model).__name__}. Leave "
            "posterior= out."
        )
    if solver is not None and not isinstance(solver, EM):
        raise TypeError(
            f"posteriors.Truncated is climbed by minorant.EM; got {type(solver).__name__}."
        )
    if posterior.components > model.n_components:
        raise ValueError(
            f"Truncated(components={posterior.components}) is more than the mixture's "
            f"{model.n_components}: give fewer, or leave posterior= out for the exact E-step."
        )
    if remedy != "floor":
        raise ValueError(
            f"remedy={remedy!r} needs every row's responsibilities for all components, which "
            "Truncated does not form: leave remedy= out."
        )


def check_rows(table: Table, starts: Starts | None) -> None:
    """Refuse rows that cannot have lists.

    Raises:
        ValueError: for missing cells, known labels, or more than one start.
    """
    if has_gaps(table.values):
        row = int(np.flatnonzero(np.isnan(table.values).any(1))[0])
        raise ValueError(
            f"Truncated needs complete rows, but row {row} misses a cell: leave posterior= out for "
            "the exact E-step, which integrates missing cells out."
        )
    if table.labels is not None:
        raise ValueError("Truncated takes no known labels: leave labels= or posterior= out.")
    if starts is not None and starts.n != 1:
        raise ValueError(
            f"Truncated climbs from one start; got starts of {starts.n}. Give Starts(n=1), or fit "
            "several times with different random_state."
        )


def _in_stretches(course: Course, climb: Climb) -> tuple[Lanes, PairedSource, np.ndarray]:
    """Stretches of EM, longer as lists settle, and new lists between them.

    Returns:
        The lane, the rows with their last lists, and the slot in memory that each row came from.
    """
    prepared = course.prepared
    model: Any = prepared.template
    source, slots = first_lists(prepared.source.segments[0], model, course.posterior.components)
    centred = model.stabilised(np.inf)
    models = jax.tree.map(lambda leaf: np.asarray(leaf)[None], centred)
    lanes = begin(climb, _problem(prepared, centred, source), models, (0,))
    length, turn = _FIRST_STRETCH, 0
    while True:
        steps = int(np.asarray(lanes.state.n_steps)[0])
        stretch = climb._replace(max_steps=min(steps + length, climb.max_steps))
        problem = _problem(prepared, centred, source)
        lanes = run(stretch, problem, lanes, prepared.spread)
        if _is_over(climb, lanes):
            return lanes, source, slots
        turn += 1
        here = lanes.model(0)
        other, order = new_lists(source, here, course.form, course.posterior.searched, turn)
        gain = _bound_of_lists(other.rows, here) - float(np.asarray(lanes.state.bound)[0])
        settled = gain <= course.tolerance * float(prepared.source.total_weight)
        if settled and int(np.asarray(lanes.state.code)[0]):
            return lanes, source, slots
        length = _next_length(length, gain, lanes, steps)
        if gain > 0:
            source, slots = other, slots[order]
            lanes = lanes._replace(state=_taken_up(lanes.state))


def _next_length(length: int, gain: float, lanes: Lanes, before: int) -> int:
    """Half as long where new lists gained more than the steps would that they cost, else twice."""
    bounds = np.concatenate(lanes.traces[0])[before:, 0]
    by_step = (bounds[-1] - bounds[0]) / max(len(bounds) - 1, 1)
    wanted = length // 2 if gain > _LISTS_COST * by_step else 2 * length
    return int(np.clip(wanted, _FIRST_STRETCH, _LONGEST_STRETCH))


def _is_over(climb: Climb, lanes: Lanes) -> bool:
    """Whether no further stretch may follow."""
    steps = int(np.asarray(lanes.state.n_steps)[0])
    return lanes.interrupted or bool(lanes.dead().any()) or steps >= climb.max_steps


def _taken_up(state: Any) -> Any:
    """The climb from its accepted point, under other lists: gains so far say nothing there."""
    return dataclasses.replace(
        state,
        pending=state.accepted,
        pending_is_plain=np.full_like(state.pending_is_plain, True),
        pending_worth=np.ones_like(state.pending_worth),
        objective=np.full_like(state.objective, -np.inf),
        checking=np.zeros_like(state.checking),
        code=np.zeros_like(state.code),
    )


def _problem(prepared: Prepared, model: Any, source: PairedSource) -> Any:
    fixed = prepared.fixed
    if fixed is not None:  # a mask has the model's structure
        fixed = jax.tree.unflatten(jax.tree.structure(model), jax.tree.leaves(fixed))
    return Problem(model, source, fixed)


def _in_product_form(course: Course, climb: Climb, lanes: Lanes) -> Lanes:
    """The lane with its model in the form in which rows are scored under all components."""
    prepared = course.prepared
    model: Any = jax.tree.unflatten(course.form, jax.tree.leaves(lanes.model(0)))
    form = jax.tree.structure(model.stabilised(prepared.spread))
    leaves = jax.tree.leaves(lanes.state.model)
    state = eqx.tree_at(lambda s: s.model, lanes.state, jax.tree.unflatten(form, leaves))
    problem = Problem(prepared.template, prepared.source, prepared.fixed)
    return lanes._replace(state=state, settle=lambda s: climb.solver.settled(problem, s))


@jax.jit
def _by_row(rows: PairedRows, model: Any) -> Float[Array, " n"]:
    """Each row's part of the truncated bound."""
    scores = pair_scores((model, model.prepare()), rows)
    return jax.nn.logsumexp(scores.ravel()[rows.pairs.place], axis=1)


def _bound_of_lists(rows: PairedRows, model: Any) -> float:
    """The truncated bound at these parameters."""
    each = np.asarray(_by_row(rows, model)).astype(float)
    return float(np.asarray(rows.weight).astype(float) @ each)


@jax.jit
def _exactly(source: Any, model: Any) -> Float[Array, ""]:
    """Evidence of all rows by the full E-step."""
    pair = (model, model.prepare())
    return source.fold(lambda p, rows: p[0].summed_log_evidence(rows, p[1]), pair)


@jax.jit
def _by_row_exactly(source: Any, model: Any) -> tuple[Float[Array, " slots"], ...]:
    return source.map(lambda p, rows: p[0].log_evidence(rows, p[1]), (model, model.prepare()))


def _measured(
    course: Course, source: PairedSource, slots: np.ndarray, answer: Fit, rng: np.random.Generator
) -> Truncation:
    """The full E-step once, on all rows or estimated from some."""
    prepared, wanted = course.prepared, course.posterior.measured_rows
    n = len(slots)
    if wanted is None or wanted >= n:
        exact = float(_exactly(prepared.source, answer.standardised)) - answer.log_scale
        return Truncation(course.posterior, answer.bound, Estimate(exact), n)
    lost = _lost(source, answer.standardised, np.sort(rng.choice(n, wanted, replace=False)))
    error = n * lost.std(ddof=1) * np.sqrt((1 - wanted / n) / wanted) if wanted > 1 else np.inf
    found = Estimate(answer.bound + n * float(lost.mean()), float(error))
    return Truncation(course.posterior, answer.bound, found, wanted)


def _lost(source: PairedSource, model: Any, index: np.ndarray) -> Float[np.ndarray, " m"]:
    """What some rows lose, weighted: log p less their part of the bound."""
    rows = source.rows
    lower = np.asarray(_by_row(rows, model.stabilised(np.inf)))[index]
    values = np.asarray(rows.values)[index]
    identity = Affine.identity(values.shape[1])
    some, layout = arrange(Table(values), identity, values.dtype, False)
    exact = layout.restore(_by_row_exactly(some, model))
    return np.asarray(rows.weight)[index] * (exact - lower).astype(float)


def _explanation(answer: Fit, found: Truncation) -> str:
    """The E-step that was asked for in the place of the exact one."""
    return f"E-step: {found}.{answer.explanation[answer.explanation.index(' Solver: ') :]}"


def _started(prepared: Prepared, rng: np.random.Generator) -> Any:
    """The smoothed M-step of a partition of some rows by k-means."""
    template: Any = prepared.template
    k = template.n_components
    table = prepared.drawn(rng, sample_size(prepared.n_rows(), k)).table
    block, m = completed_block(prepared, table, rng), len(table.values)
    values = np.asarray(block.values[:m], dtype=float)
    weights = np.asarray(block.weight[:m], dtype=float)
    labels = partition(rng, template.embedding(values), weights, k)
    part = Table(np.asarray(block.values)[:m], weights, labels)
    identity = Affine.identity(values.shape[1])
    source, _ = arrange(part, identity, prepared.dtype, False, _START_ROWS)
    model = _maximised(source.segments[0], template, prepared.fixed)
    return cast(filled(template, model), prepared.dtype)


@jax.jit
def _maximised(segment: Segment, template: Any, fixed: Any) -> Any:
    """The M-step of labelled rows, a little of each shared among all components."""
    k = template.n_components

    def part(template: Any, rows: Rows) -> PyTree:
        onehot = rows.labels == jnp.arange(k)[:, None]
        probability = (1 - _SMOOTHING) * onehot.astype(rows.values.dtype) + _SMOOTHING / k
        return template.partition_statistics(dataclasses.replace(rows, labels=None), probability)

    return template.maximise(segment.fold(part, template), fixed)
