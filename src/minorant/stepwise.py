"""Steps on parts of the rows, from good starts to where full passes take over.

What ``solvers.Incremental`` and ``solvers.OnlineEM`` say is done here, on the host: a part is
looked at by one compiled program, statistics are added and replaced in float64, and the M-step is
another program. Models of several starts move side by side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from minorant._parameters import hold
from minorant._types import PyTree
from minorant.climbing import Climb
from minorant.components.covariance import AbstractCovariance
from minorant.data import ArraySource, Segment, arrange
from minorant.data.arrays import Table
from minorant.data.streamed import StreamedSource
from minorant.models.base import AbstractTractableModel, Expectation
from minorant.passes import each_lane
from minorant.preparation import Prepared
from minorant.solvers.stepwise import AbstractStepwise, Incremental, OnlineEM

_ROOM = 1 << 29  # bytes of statistics kept of parts
_ANCHORED_RATE = 0.3  # steps towards statistics of low variance need not shrink
_AVERAGED_FROM = 3.0  # the larger, the sooner the mean forgets what came first
_SAMPLE_ROWS = 1 << 14


class Warm(NamedTuple):
    """Models that steps on parts have come to, stacked; and a sentence where none were taken."""

    models: PyTree
    note: str = ""
    interrupted: bool = False


class Mean(NamedTuple):
    """Statistics per unit of weight: where online EM stands, and the mean it ends at.

    ``weight`` is what has been seen, the rows of the start included.
    """

    current: PyTree
    averaged: PyTree
    weight: float

    def rate(self, weight: float, exponent: float) -> float:
        """How far to step for a batch of this weight: ``(t + 2)^-a`` where all weigh the same."""
        return (weight / (self.weight + weight)) ** exponent

    def moved(self, found: PyTree, rate: float, weight: float) -> Mean:
        """A step towards the statistics found on a batch of this weight."""
        current = between(self.current, found, rate)
        averaged = between(self.averaged, current, self.share(weight))
        return Mean(current, averaged, self.weight + weight)

    def share(self, weight: float) -> float:
        """What the newest statistics count in the mean: early ones are forgotten, slowly.

        Shamir & Zhang (2013), "Stochastic gradient descent for non-smooth optimization", section 3.
        """
        more = _AVERAGED_FROM * weight
        return (weight + more) / (self.weight + weight + more)

    def chosen(self, averaging: bool) -> PyTree:
        """The mean, or the last."""
        return self.averaged if averaging else self.current


def warmed(prepared: Prepared, climb: Climb, models: PyTree, sample: Prepared | None) -> Warm:
    """Models moved by the solver's steps on parts of the rows; as they are for any other solver.

    Args:
        prepared: the problem of all rows.
        climb: holds the solver.
        models: stacked, where starts have come to on a sample.
        sample: the problem of rows that the models were climbed to on; None where the user gave
            them.
    """
    solver = climb.solver
    if not isinstance(solver, AbstractStepwise):
        return Warm(models)
    if reason := _refusal(prepared, solver, models):
        return Warm(models, f" No steps on parts of the rows: {reason}.")
    made = iter(())
    if isinstance(solver, Incremental):
        made = _incremental(prepared, solver, models, sample)
    elif isinstance(solver, OnlineEM):
        some = sample or prepared.of_rows(_drawn(prepared))
        made = _online(prepared, solver, models, some.source)
    try:
        for found in made:
            models = found
    except KeyboardInterrupt:
        return Warm(models, " Interrupted in steps on parts of the rows.", True)
    return Warm(models)


def finishing(climb: Climb) -> Climb:
    """The climb by full passes that follows: with ``finish="bound"`` one."""
    solver = climb.solver
    stops = isinstance(solver, OnlineEM) and solver.finish == "bound"
    return climb._replace(max_steps=1) if stops else climb


def _refusal(prepared: Prepared, solver: AbstractStepwise, models: PyTree) -> str:
    """Why statistics of parts cannot be put together; empty where they can."""
    template = prepared.template
    if template.compresses(len(prepared.names)):
        return "its complete rows are known by their moments"
    if not isinstance(prepared.source, ArraySource | StreamedSource):
        return "the rows are summed elsewhere"
    if template.is_grouped() and isinstance(solver, OnlineEM):
        return "rows of a batch would be torn from their groups; Incremental keeps groups whole"
    if not joins(models):
        return (
            "statistics do not add up where a component is so narrow, or of such a kind, that its "
            "sums are formed about its own mean"
        )
    return ""


def joins(model: Any) -> bool:
    """Whether statistics gathered at different parameters add up to statistics."""
    if not isinstance(model, AbstractTractableModel) or model.may_overshoot():
        return False
    if not model.adds_up():
        return False
    parts = jax.tree.leaves(model, is_leaf=_is_covariance)
    return not any(part.centred for part in parts if _is_covariance(part))


def in_product_form(model: Any) -> Any:
    """The same model with its sums about the origin: they add up at any parameters."""

    def plain(node: Any) -> Any:
        return type(node)(centred=False) if _is_covariance(node) else node

    return jax.tree.map(plain, model, is_leaf=_is_covariance)


def _is_covariance(node: Any) -> bool:
    return isinstance(node, AbstractCovariance)


def _drawn(prepared: Prepared) -> Table:
    return prepared.drawn(np.random.default_rng(0), _SAMPLE_ROWS).table


# Incremental EM


def _incremental(
    prepared: Prepared, solver: Incremental, models: PyTree, sample: Prepared | None
) -> Iterator[PyTree]:
    """Models after every sweep.

    Parts not yet looked at count with the sample's mean statistics. Without a sample the first
    sweep is a full pass: the free energy then begins at the bound.
    """
    kept: list[PyTree] = []
    if sample is None:
        kept = [wide(seen(part, models).statistics) for part in parts_of(prepared.source, solver)]
        total = functools.reduce(added, kept)
        models = moved(models, total, prepared.fixed)
        yield models
        mean = total
    else:
        mean = per_weight(batch_from(sample.source), models)
        total = scaled(mean, float(prepared.source.n_rows()))
    for _ in range(solver.sweeps - (sample is None)):
        for index, part in enumerate(parts_of(prepared.source, solver)):
            if index == len(kept):
                kept.append(scaled(mean, float(part.total_weight)))
            found = wide(seen(part, models).statistics)
            total = jax.tree.map(lambda t, f, k: t + f - k, total, found, kept[index])
            kept[index] = found
            models = moved(models, total, prepared.fixed)
        yield models
        if len(kept) < 2 or sum(map(_bytes, kept)) > _ROOM:
            return
        total = functools.reduce(added, kept)  # without what rounding left behind


def parts_of(source: ArraySource | StreamedSource, solver: Incremental) -> Iterator[ArraySource]:
    """A source cut into parts: chunks as they come, rows in memory in runs of blocks."""
    if isinstance(source, StreamedSource):
        return source.parts()
    return (part for segment in source.segments for part in _cut(segment, solver.parts))


def _cut(segment: Segment, parts: int) -> Iterator[ArraySource]:
    """Runs of blocks, of equal shape, so that they share a program."""
    used, weight = int(segment.n_blocks), np.asarray(segment.rows.weight)
    length = max(-(-used // parts), 1)
    length += length % 2 if used > 1 else 0
    for start in range(0, used, length):
        stop = min(start + length, used)
        run = functools.partial(_run, start=start, stop=stop, length=length)
        rows = jax.tree.map(run, segment.rows)
        total = weight[start:stop].sum(dtype=float)
        own = Segment(rows, np.asarray(stop - start, dtype=np.int32))
        yield ArraySource((own,), np.asarray(total, dtype=weight.dtype))


def _run(leaf: Any, start: int, stop: int, length: int) -> np.ndarray:
    array = np.asarray(leaf)[start:stop]
    missing = length - (stop - start)
    return np.concatenate([array, np.repeat(array[:1], missing, 0)]) if missing else array


# Online EM


class Batch(NamedTuple):
    """Some rows, and the sum of their weights."""

    source: ArraySource
    weight: float


def _online(
    prepared: Prepared, solver: OnlineEM, models: PyTree, sample: ArraySource
) -> Iterator[PyTree]:
    """Models after every pass."""
    start = per_weight(batch_from(sample), models)
    total = float(prepared.source.n_rows())
    # The sample counts as one batch, so that the first step is 2^-a, however many rows it has.
    mean = Mean(start, start, float(min(solver.batch * total / prepared.n_rows(), total)))
    end = models
    for turn in range(solver.passes):
        anchor = _anchor(prepared, solver, end, total)
        for batch in batches(prepared, solver.batch, turn):
            found = anchor(batch, models)
            anchored = solver.variance_reduced is not None
            rate = _ANCHORED_RATE if anchored else mean.rate(batch.weight, solver.exponent)
            mean = mean.moved(found, rate, batch.weight)
            models = moved(models, scaled(mean.current, total), prepared.fixed)
        chosen = scaled(mean.chosen(solver.averaging), total)
        end = moved(models, chosen, prepared.fixed)
        yield end


def _anchor(
    prepared: Prepared, solver: OnlineEM, models: PyTree, total: float
) -> Callable[[Batch, PyTree], PyTree]:
    """What a batch says of the mean statistics of all rows."""
    if solver.variance_reduced is None:
        return per_weight
    whole = scaled(_passed(prepared.source, models).statistics, 1.0 / total)

    def corrected(batch: Batch, current: PyTree) -> PyTree:
        here, there = per_weight(batch, current), per_weight(batch, models)
        return jax.tree.map(lambda w, h, t: w + h - t, whole, here, there)

    return corrected


def per_weight(batch: Batch, models: PyTree) -> PyTree:
    """A batch's statistics per unit of weight."""
    return scaled(seen(batch.source, models).statistics, 1.0 / batch.weight)


def batches(prepared: Prepared, size: int, turn: int) -> Iterator[Batch]:
    """Every row once, in batches; the order follows from the number of the turn."""
    if prepared.stream is None:
        yield from _of_table(prepared, prepared.table, size, (turn,))
        return
    for index, table in enumerate(prepared.source.chunks.read()):
        yield from _of_table(prepared, table, size, (turn, index))


def _of_table(
    prepared: Prepared, table: Table, size: int, seed: tuple[int, ...]
) -> Iterator[Batch]:
    order = np.random.default_rng(seed).permutation(len(table.values))
    if table.weights is not None:
        order = order[table.weights[order] > 0]
    for start in range(0, len(order), size):
        yield batch_of(table.take(np.sort(order[start : start + size])), prepared)


def batch_of(table: Table, into: Any) -> Batch:
    """Rows in memory as a batch, in the units and float type of ``into``.

    Rows that miss cells are blocked with the others: batches then share their programs.
    """
    return batch_from(arrange(table, into.units, np.dtype(into.dtype), False)[0])


def batch_from(source: ArraySource) -> Batch:
    """Rows in blocks as a batch."""
    return Batch(source, float(source.total_weight))


# Both


def moved(models: PyTree, total: PyTree, fixed: PyTree | None) -> PyTree:
    """The M-step of summed statistics, every model's own."""
    dtype = jax.tree.leaves(models)[0].dtype
    total = jax.tree.map(lambda leaf: np.asarray(leaf, dtype=dtype), total)
    return jax.device_get(_maximised(models, total, fixed))


@jax.jit
def _maximised(models: PyTree, total: PyTree, fixed: PyTree | None) -> PyTree:
    def one(pair: tuple[Any, PyTree]) -> Any:
        return hold(fixed, pair[0], pair[0].maximise(pair[1], fixed).projected())

    return each_lane(one, (models, total))


@jax.jit
def _fold(source: ArraySource, models: PyTree) -> Expectation:
    def one(model: Any) -> Expectation:
        pair = (model, model.prepare())
        return source.fold(_expectation, pair)

    return each_lane(one, models)


def seen(source: ArraySource, models: PyTree) -> Expectation:
    """Bound and statistics of rows, every model's own."""
    return jax.device_get(_fold(source, models))


def _passed(source: ArraySource | StreamedSource, models: PyTree) -> Expectation:
    """Bound and statistics of all rows."""
    if isinstance(source, ArraySource):
        return seen(source, models)
    parts = (seen(part, models) for part in source.parts())
    return functools.reduce(added, map(wide, parts))


def _expectation(parameters: tuple[Any, PyTree], rows: Any) -> Expectation:
    return parameters[0].expectation(rows, parameters[1])


def scaled(tree: PyTree, factor: float) -> PyTree:
    """Every leaf times a number, in float64."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype=float) * factor, tree)


def wide(tree: PyTree) -> PyTree:
    """Every leaf in float64."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype=float), tree)


def added(one: PyTree, other: PyTree) -> PyTree:
    """Leaf by leaf."""
    return jax.tree.map(np.add, one, other)


def between(one: PyTree, other: PyTree, share: float) -> PyTree:
    """``(1 - share) one + share other``."""
    return jax.tree.map(lambda a, b: a + share * (b - a), one, other)


def _bytes(tree: PyTree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
