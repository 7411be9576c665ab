"""Steps on parts of the rows, from good starts to where full passes take over.

What ``solvers.Incremental`` and ``solvers.OnlineEM`` say is done here, on the host: a part is
looked at by one compiled program, statistics are added and replaced in float64, and the M-step is
another program. Models of several starts move side by side.
"""

from __future__ import annotations

import functools
import itertools
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
from minorant.solvers.stepwise import AbstractStepwise, Incremental, Mean, OnlineEM, Sweep

_ROOM = 1 << 29  # bytes of statistics kept of parts
_ANCHORED_RATE = 0.3  # steps towards statistics of low variance need not shrink
_SAMPLE_ROWS = 1 << 14


class Warm(NamedTuple):
    """Models that steps on parts have come to, stacked; and a sentence where none were taken."""

    models: PyTree
    note: str = ""
    interrupted: bool = False


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
    like = functools.partial(_statistics_of, prepared, models)
    now = climb.journal.entered(Sweep(models, models, like))
    made = iter(())
    if isinstance(solver, Incremental):
        made = _incremental(prepared, solver, now, sample)
    elif isinstance(solver, OnlineEM):
        some = sample or prepared.of_rows(_drawn(prepared))
        made = _online(prepared, solver, now, some.source)
    try:
        for reached in () if now.finished else made:
            now = reached
            climb.journal.keep(now)
    except KeyboardInterrupt:
        climb.journal.flush(now)
        return Warm(now.reached(), " Interrupted in steps on parts of the rows.", True)
    climb.journal.keep(now.whole())
    return Warm(now.reached())


def _statistics_of(prepared: Prepared, models: PyTree) -> PyTree:
    """What statistics look like; nothing is computed."""
    source = prepared.of_rows(_drawn(prepared)).source
    return jax.eval_shape(_fold, source, models).statistics


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
    prepared: Prepared, solver: Incremental, now: Sweep, sample: Prepared | None
) -> Iterator[Sweep]:
    """Where it stands after every part.

    Parts not yet looked at count with the sample's mean statistics. Without a sample the first
    sweep is a full pass: the free energy then begins at the bound.
    """
    source, mean = prepared.source, None
    if sample is not None:
        mean = per_weight(batch_from(sample.source), now.first)
        now = now if now.sums else now._replace(sums=(scaled(mean, float(source.n_rows())),))
    elif not now.turn:
        for reached in _first_sweep(prepared, solver, now):
            now = reached
            yield now
    while now.turn < solver.sweeps:
        for part in parts_of(source, solver, now.place[0]):
            now = _replaced(prepared, part, now, mean)
            yield now
        now = now.turned(now.models)
        if len(now.kept) < 2 or sum(map(_bytes, now.kept)) > _ROOM:
            yield now
            return
        total = functools.reduce(added, now.kept)  # without what rounding left behind
        now = now._replace(sums=(total,))
        yield now


def _first_sweep(prepared: Prepared, solver: Incremental, now: Sweep) -> Iterator[Sweep]:
    """A full pass, the statistics of every part kept."""
    for part in parts_of(prepared.source, solver, now.place[0]):
        found = wide(seen(part, now.models).statistics)
        now = now._replace(
            kept=(*now.kept, found), place=(now.place[0] + 1, 0), taken=now.taken + 1
        )
        yield now
    total = functools.reduce(added, now.kept)
    models = moved(now.models, total, prepared.fixed)
    yield now._replace(models=models, sums=(total,)).turned(models)


def _replaced(prepared: Prepared, part: ArraySource, now: Sweep, mean: PyTree | None) -> Sweep:
    """A part looked at anew, its share in the statistics replaced, and the M-step."""
    index, kept = now.place[0], list(now.kept)
    if index == len(kept):
        kept.append(scaled(mean, float(part.total_weight)))
    found = wide(seen(part, now.models).statistics)
    total = jax.tree.map(lambda t, f, k: t + f - k, now.sums[0], found, kept[index])
    kept[index] = found
    models = moved(now.models, total, prepared.fixed)
    return now._replace(
        models=models, sums=(total,), kept=tuple(kept), place=(index + 1, 0), taken=now.taken + 1
    )


def parts_of(
    source: ArraySource | StreamedSource, solver: Incremental, first: int = 0
) -> Iterator[ArraySource]:
    """A source cut into parts, from number ``first``: chunks, or runs of blocks in memory."""
    if isinstance(source, StreamedSource):
        return source.parts(first)
    parts = (part for segment in source.segments for part in _cut(segment, solver.parts))
    return itertools.islice(parts, first, None)


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
    prepared: Prepared, solver: OnlineEM, now: Sweep, sample: ArraySource
) -> Iterator[Sweep]:
    """Where it stands after every batch."""
    total = float(prepared.source.n_rows())
    if not now.sums:
        start = per_weight(batch_from(sample), now.models)
        # The sample counts as one batch, so that the first step is 2^-a, however many rows it has.
        weight = float(min(solver.batch * total / prepared.n_rows(), total))
        now = now._replace(sums=(start, start), weight=weight)
    anchored = solver.variance_reduced is not None
    while now.turn < solver.passes:
        anchor = _anchor(prepared, solver, now.reached(), total)
        for place, batch in batches(prepared, solver.batch, now.turn, now.place):
            mean = Mean(now.sums[0], now.sums[1], now.weight)
            rate = _ANCHORED_RATE if anchored else mean.rate(batch.weight, solver.exponent)
            mean = mean.moved(anchor(batch, now.models), rate, batch.weight)
            models = moved(now.models, scaled(mean.current, total), prepared.fixed)
            sums = (mean.current, mean.averaged)
            now = now._replace(
                models=models, sums=sums, weight=mean.weight, place=place, taken=now.taken + 1
            )
            yield now
        chosen = Mean(now.sums[0], now.sums[1], now.weight).chosen(solver.averaging)
        now = now.turned(moved(now.models, scaled(chosen, total), prepared.fixed))
        yield now


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


def batches(
    prepared: Prepared, size: int, turn: int, place: tuple[int, int] = (0, 0)
) -> Iterator[tuple[tuple[int, int], Batch]]:
    """Every row once, in batches, and after each the place of the next: chunk, and rows of it.

    Which rows make a batch follows from the number of the turn and of the chunk.
    """
    first, done = place
    if prepared.stream is None:
        for end, batch in _of_table(prepared, prepared.table, size, (turn,), done):
            yield (0, end), batch
        return
    for index, table in enumerate(prepared.source.chunks.read(first), first):
        for end, batch in _of_table(prepared, table, size, (turn, index), done):
            yield (index, end), batch
        done = 0


def _of_table(
    prepared: Prepared, table: Table, size: int, seed: tuple[int, ...], done: int
) -> Iterator[tuple[int, Batch]]:
    order = np.random.default_rng(seed).permutation(len(table.values))
    if table.weights is not None:
        order = order[table.weights[order] > 0]
    for start in range(done, len(order), size):
        rows = table.take(np.sort(order[start : start + size]))
        yield start + size, batch_of(rows, prepared)


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


def _bytes(tree: PyTree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
