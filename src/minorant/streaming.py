"""From chunks and a model to a problem ready to climb: the same checks, units and blocks.

One pass looks at every row; another draws the rows that starts are chosen on. What a fit then does
with its rows is what it does with rows in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from minorant._parameters import fixed_mask
from minorant._types import Affine, PyTree
from minorant.data import Layout, arrange
from minorant.data.arrays import Table
from minorant.data.base import BlockFunction
from minorant.data.chunks import AbstractChunks, is_collection, is_sharded
from minorant.data.company import AbstractCompany
from minorant.data.engines import Here
from minorant.data.moments import same_moments
from minorant.data.paths import is_place
from minorant.data.streamed import AbstractChunkedSource
from minorant.data.survey import Survey
from minorant.data.tables import as_table
from minorant.models.base import AbstractExactModel, count_components
from minorant.preparation import (
    AbstractStream,
    Drawn,
    Prepared,
    blocks,
    check_counts,
    check_labels,
    compute_dtype,
    described,
    prepare,
    spread_of,
)
from minorant.solvers.starts import subsample_groups, subsample_places


class Stream(AbstractStream):
    """Chunks and what a first pass has seen of them."""

    def __init__(self, source: AbstractChunkedSource, seen: Survey) -> None:
        """The source of a problem, and its survey."""
        self._source, self._seen = source, seen

    @property
    def seen(self) -> Survey:
        """What the first pass has seen."""
        return self._seen

    def n_rows(self) -> int:
        """How many rows there are."""
        return self._seen.n_rows

    def drawn(self, rng: np.random.Generator, size: int, grouped: bool) -> Drawn:
        """Some rows: the same that would be drawn in memory."""
        if grouped:
            index = subsample_groups(rng, self._seen.lengths, size)
        elif self._seen.counted == self._seen.n_rows:
            index = subsample_places(rng, self._seen.n_rows, size)
        else:
            places = subsample_places(rng, self._seen.counted, size)
            index = self._source.of_weight()[places]
        table = self._source.rows(index)
        return Drawn(table, index, len(index) == self._seen.n_rows)

    def by_row(self, function: BlockFunction, parameters: PyTree) -> Iterator[tuple[Table, PyTree]]:
        """Chunk after chunk, a function's answers for each of its rows."""
        return self._source.by_row(function, parameters)

    def company(self) -> AbstractCompany:
        """The processes that have the rows between them."""
        return self._source.company


def prepared_rows(
    model: AbstractExactModel,
    data: Any,
    sides: tuple[Any, Any, Any, Any],
    fixed: Callable[[Any], Any] | None,
) -> Prepared:
    """The problem of rows in memory or out of it.

    Args:
        model: what they are to be described by.
        data: a table, chunks, or where files with rows are.
        sides: weights, labels, groups and inputs; of files the names of their columns.
        fixed: selects what keeps its value.
    """
    empty = model.allows_empty_rows()
    if is_place(data) or isinstance(data, np.memmap) or is_collection(data) or is_sharded(data):
        from minorant.data.open_chunks import chunks

        weights, labels, groups, inputs = sides
        data = chunks(data, weights=weights, labels=labels, groups=groups, inputs=inputs)
    elif not isinstance(data, AbstractChunks):
        table, names = as_table(data, *sides, empty_rows=empty)
        return prepare(model, table, names, fixed)
    elif any(side is not None for side in sides):
        raise ValueError(
            "Of chunks, weights, labels, groups and inputs are columns: name them in "
            "minorant.chunks(..., weights=...)."
        )
    return prepare_stream(model, data.with_empty_rows() if empty else data, fixed)


def refuse_chunks(data: Any, what: str) -> None:
    """Raise ValueError for rows out of memory where they have to be in it."""
    if (
        is_place(data)
        or isinstance(data, AbstractChunks)
        or is_collection(data)
        or is_sharded(data)
    ):
        raise ValueError(
            f"{what} needs the rows in memory: read them into an array, or fit a sample of them."
        )


def prepare_stream(
    model: AbstractExactModel, chunks: AbstractChunks, fixed: Callable[[Any], Any] | None = None
) -> Prepared:
    """Checks, units, precision and blocks of rows that are not in memory.

    Raises:
        ValueError: when the rows cannot be described by the model.
        OSError: when they cannot be read.
    """
    k, names = count_components(model), chunks.names
    compresses = model.compresses(len(names))

    def check(table: Table) -> None:
        if model.is_grouped() and table.groups is None:
            raise ValueError(
                f"{type(model).__name__} is for groups of rows: name the column that tells them "
                "apart, groups=."
            )
        check_labels(table, k)
        model.check(table.values, names)

    engine = chunks.engine or Here()
    seen = engine.survey(chunks, check, compresses)
    check_counts(seen.counted, k)
    dtype = compute_dtype(np.dtype(chunks.dtype))
    summary = seen.look.summary(names)
    template, units = described(model, summary, dtype)
    source, stream = _source(template, chunks, units, dtype, seen)
    return Prepared(
        template=template,
        table=Table(np.empty((0, len(names)), dtype=chunks.dtype)),
        units=units,
        dtype=dtype,
        source=source,
        layout=Layout((), 0),
        fixed=None if fixed is None else fixed_mask(template, fixed),
        names=names,
        spread=spread_of(summary, units),
        log_scale=float(seen.look.observed @ np.log(units.scale)),
        stream=stream,
    )


def _source(
    template: AbstractExactModel,
    chunks: AbstractChunks,
    units: Affine,
    dtype: np.dtype,
    seen: Survey,
) -> tuple[Any, AbstractStream]:
    """Where the climb's rows come from: few that stand for all where the model allows."""
    total = np.asarray(seen.look.seen, dtype=dtype)
    streamed = (chunks.engine or Here()).source(
        chunks,
        lambda table: blocks(template, table, units, dtype),
        total,
        (seen.n_rows, len(chunks.names)),
    )
    stream = Stream(streamed, seen)
    if seen.moments is None or not seen.complete or not seen.moments.is_sound():
        return streamed, stream
    rows = same_moments(*seen.moments.in_units(units))
    shares = np.full(len(rows), seen.moments.weight / len(rows))
    identity = Affine.identity(rows.shape[1])
    source, _ = arrange(Table(rows, shares), identity, dtype, template.shares_patterns())
    return jax.tree.map(np.asarray, source), stream
