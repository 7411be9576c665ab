"""Climbs from several starts, on a sample first, and what is done about what collapsed."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from minorant import degeneracy
from minorant._parameters import filled, has_all_parameters, hold
from minorant._types import Rows
from minorant.answer import answer_of
from minorant.climbing import DROPPED, Climb, Lanes, begin, launch, run
from minorant.data import AbstractSource
from minorant.data.arrays import Table
from minorant.models.base import (
    AbstractContinuousModel,
    AbstractDiscreteModel,
    count_components,
)
from minorant.preparation import (
    Prepared,
    cast,
    completed_block,
    initial_block,
)
from minorant.result import Fit
from minorant.solvers import Problem
from minorant.solvers.starts import (
    Starts,
    partitions,
    subsample_size,
)
from minorant.stepwise import Warm, finishing, warmed

_SHORT_STEPS = 30
_MORE_STEPS = 100  # where no partition says what is where
_SAME_START = 1e-4
_RESEEDINGS = 3


class Sample(NamedTuple):
    """The rows that starts are chosen on: all of them when there are few."""

    problem: Prepared
    block: Rows
    whole: bool


def climbed_from_starts(
    prepared: Prepared, climb: Climb, starts: Starts | None, remedy: str, random_state: int | None
) -> Fit:
    """Climb from the given parameters, or from several starts; then treat what collapsed."""
    rng = np.random.default_rng(random_state)
    template = prepared.template
    if isinstance(template, AbstractContinuousModel) and not has_all_parameters(template):
        started = template.initial(initial_block(prepared, rng), rng)
        template = filled(template, cast(started, prepared.dtype))
    if has_all_parameters(template):
        return _climbed_around(prepared, template, climb, starts, remedy, rng)
    if not isinstance(template, AbstractDiscreteModel):
        raise ValueError(
            f"{type(template).__name__} does not say where to start: give all of its parameters."
        )
    starts = starts or Starts()
    sample = _sample(prepared, rng)
    m = sample.problem.n_rows()
    weights = np.asarray(sample.block.weight[:m], dtype=float)
    points = template.embedding(np.asarray(sample.block.values[:m], dtype=float))
    labels = partitions(rng, points, weights, count_components(template), starts)
    lanes, note = _from_partitions(prepared, climb, sample, labels, starts.n_climbed)
    answer = answer_of(prepared, climb, lanes, note, remedy)
    treatable = any(one.component >= 0 for one in answer.degenerate)
    if not treatable or remedy == "floor" or lanes.interrupted:
        return answer
    return _treated(prepared, climb, sample, answer, remedy)


def _climbed_around(
    prepared: Prepared,
    first: Any,
    climb: Climb,
    starts: Starts | None,
    remedy: str,
    rng: np.random.Generator,
) -> Fit:
    """Climbs from one place; of a model that is no partition's, from places around it as well.

    What a template leaves open is moved at random; what is given stays where it is, unless all is.
    """
    n = first.n_starts() if starts is None else starts.n
    if isinstance(first, AbstractDiscreteModel) or n == 1:
        return _climbed_from(prepared._replace(template=first), climb, remedy)
    given = prepared.template
    others = [cast(first.perturbed(rng), prepared.dtype) for _ in range(n - 1)]
    if not has_all_parameters(given):
        others = [filled(given, other) for other in others]
    models = [first, *(hold(prepared.fixed, first, other) for other in others)]
    prepared = prepared._replace(template=first)
    n_climbed = Starts().n_climbed if starts is None else starts.n_climbed
    lanes, note = _from_models(prepared, climb, models, n_climbed, rng)
    return answer_of(prepared, climb, lanes, note, remedy)


def _from_models(
    prepared: Prepared, climb: Climb, models: list[Any], n_climbed: int, rng: np.random.Generator
) -> tuple[Lanes, str]:
    """The first start climbed as if alone, so that several find no less; the others side by side.

    Of many rows the others climb on a sample, and the best of them then on all rows, one after the
    other: some models know shortcuts that lanes would lose.
    """
    full = Problem(prepared.template, prepared.source, prepared.fixed)

    def alone(models: Any, start: int) -> Lanes:
        return run(climb, full, begin(climb, full, models, (start,)), prepared.spread)

    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
    first = alone(jax.tree.map(lambda leaf: leaf[:1], stacked), 0)
    if first.interrupted:
        return first, _sentence(first, 1)
    source, whole = _some_rows(prepared, rng)
    short = climb if whole else climb._replace(max_steps=_MORE_STEPS, callbacks=())
    problem = Problem(prepared.template, source, prepared.fixed)
    others = jax.tree.map(lambda leaf: leaf[1:], stacked)
    lanes = begin(short, problem, others, tuple(range(1, len(models))))
    lanes = run(short, problem, lanes, prepared.spread)
    if whole or lanes.interrupted:
        found = first.joined(lanes) if whole else first
        return found, _sentence(first.joined(lanes), len(found.starts))
    kept = _best_distinct(lanes, n_climbed, float(source.n_rows()), len(prepared.names))
    found = first
    for lane in kept:
        if not found.interrupted:
            found = found.joined(alone(lanes.models([lane]), lanes.starts[lane]))
    return found, _sentence(first.joined(lanes), len(found.starts))


def _some_rows(prepared: Prepared, rng: np.random.Generator) -> tuple[AbstractSource, bool]:
    """The rows of short climbs, and whether they are all."""
    template, d = prepared.template, len(prepared.names)
    if template.compresses(d) and prepared.stream is None:
        return prepared.source, True
    size = subsample_size(prepared.n_rows(), template.numbers_per_row(d), 1)
    chosen, whole = _chosen(prepared, rng, size)
    return chosen[0].source, whole


def _climbed_from(prepared: Prepared, climb: Climb, remedy: str) -> Fit:
    """The climb from where the template stands."""
    problem = Problem(prepared.template, prepared.source, prepared.fixed)
    models = jax.tree.map(lambda leaf: np.asarray(leaf)[None], prepared.template)
    warm = warmed(prepared, climb, models, None)
    lanes = _finished(prepared, climb, problem, warm, (0,))
    return answer_of(prepared, climb, lanes, warm.note, remedy)


def _finished(
    prepared: Prepared, climb: Climb, problem: Any, warm: Warm, starts: tuple[int, ...]
) -> Lanes:
    """The climb on all rows, from where steps on parts of them have come to."""
    last = climb._replace(max_steps=1) if warm.interrupted else finishing(climb)
    lanes = run(last, problem, begin(last, problem, warm.models, starts), prepared.spread)
    return lanes._replace(interrupted=lanes.interrupted or warm.interrupted)


def _chosen(
    prepared: Prepared, rng: np.random.Generator, size: int
) -> tuple[tuple[Prepared, Table], bool]:
    """The problem of some rows and these rows, and whether it is the whole problem."""
    drawn = prepared.drawn(rng, size)
    whole = drawn.whole and prepared.stream is None
    problem = prepared if whole else prepared.of_rows(drawn.table)
    return (problem, drawn.table), drawn.whole


def _sample(prepared: Prepared, rng: np.random.Generator) -> Sample:
    template, d = prepared.template, len(prepared.names)
    k = count_components(template)
    size = subsample_size(prepared.n_rows(), template.numbers_per_row(d), k)
    (problem, table), whole = _chosen(prepared, rng, size)
    return Sample(problem, completed_block(prepared, table, rng), whole)


def _from_partitions(
    prepared: Prepared, climb: Climb, sample: Sample, labels: np.ndarray, n_climbed: int
) -> tuple[Lanes, str]:
    """Short climbs on the sample, the distinct best of them climbed on all rows."""
    known = sample.problem.table.labels
    if known is not None:
        labels = np.where(known >= 0, known, labels)
    padded = np.zeros((len(labels), len(sample.block.weight)), dtype=np.int32)
    padded[:, : labels.shape[1]] = labels
    problem = Problem(prepared.template, sample.problem.source, prepared.fixed)
    short = climb if sample.whole else climb._replace(max_steps=_SHORT_STEPS, callbacks=())
    lanes = run(short, problem, launch(short, problem, sample.block, padded), prepared.spread)
    if sample.whole or lanes.interrupted:
        return lanes, _sentence(lanes, len(labels))
    total = float(sample.problem.source.n_rows())
    kept = _best_distinct(lanes, n_climbed, total, len(prepared.names))
    full = Problem(prepared.template, prepared.source, prepared.fixed)
    warm = warmed(prepared, climb, lanes.models(kept), sample.problem)
    starts = tuple(lanes.starts[lane] for lane in kept)
    return _finished(prepared, climb, full, warm, starts), _sentence(lanes, len(kept)) + warm.note


def _treated(prepared: Prepared, climb: Climb, sample: Sample, first: Fit, remedy: str) -> Fit:
    """The fit after re-seeding or merging; what was degenerate stays on record."""
    answer = first
    for _ in range(_RESEEDINGS if remedy == "reseed" else count_components(prepared.template) - 1):
        model = answer.standardised
        if remedy == "reseed":
            labels = degeneracy.reseeded(sample.problem, model, answer.degenerate)
        else:
            labels, k = degeneracy.merged(sample.problem, model, answer.degenerate)
            template = dataclasses.replace(prepared.template, n_components=k)
            prepared = prepared._replace(template=template)
        lanes, _ = _from_partitions(prepared, climb, sample, labels[None], 1)
        answer = answer_of(prepared, climb, lanes, first.starts, remedy)
        if not answer.degenerate or lanes.interrupted:
            return answer._replace(degenerate=first.degenerate)
    if remedy == "merge":
        return answer._replace(degenerate=first.degenerate + answer.degenerate)
    kept = f"reseed, tried {_RESEEDINGS} times in vain: left on its floor"
    return first._replace(degenerate=tuple(d._replace(remedy=kept) for d in first.degenerate))


def _sentence(lanes: Lanes, climbed: int) -> str:
    n = len(lanes.starts)
    dropped = int((np.asarray(lanes.state.code) == DROPPED).sum())
    dead = [start for start, gone in zip(lanes.starts, lanes.dead(), strict=True) if gone]
    sentence = f"{n} starts, {climbed} climbed on all rows, {dropped} dropped as hopeless; "
    return sentence + (f"dead and set aside: {dead}." if dead else "none died.")


def _best_distinct(lanes: Lanes, n: int, total: float, d: int) -> list[int]:
    """The best lanes whose bound per row differs; duplicates of a better one are left out."""
    objective = lanes.objective()
    sound = [
        np.isfinite(objective[lane]) and not degeneracy.is_spurious(lanes.model(lane), total, d)
        for lane in range(len(objective))
    ]
    # Of starts that met at one optimum the first: which is a digit higher, rounding decides.
    height = np.round(objective / total / _SAME_START, 0)
    order = np.lexsort((-height, ~np.array(sound)))
    kept: list[int] = []
    for lane in order:
        gaps = [abs(objective[lane] - objective[other]) / total for other in kept]
        if np.isfinite(objective[lane]) and all(gap > _SAME_START for gap in gaps):
            kept.append(int(lane))
    return kept[:n] or [0]
