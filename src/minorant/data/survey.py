"""The first pass over chunks: what a fit has to know before it begins; and rows drawn from them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from minorant.data.arrays import Table
from minorant.data.chunks import AbstractChunks
from minorant.data.moments import Moments, complete_moments
from minorant.data.summary import Look

Check = Callable[[Table], None]


class Survey(NamedTuple):
    """What one pass over chunks has seen.

    ``counted`` rows weigh something; ``lengths`` are of groups in their order, ``first_rows`` of
    chunks; ``largest_label`` is -1 where none is known. ``moments`` are of the complete rows, where
    asked.
    """

    names: tuple[str, ...]
    look: Look
    n_rows: int
    counted: int
    lengths: Int[np.ndarray, " g"]
    first_rows: tuple[int, ...]
    largest_label: int
    complete: bool
    moments: Moments | None


class Seen(NamedTuple):
    """What is seen of one chunk; ``refusal`` is why its rows cannot be described."""

    n_rows: int
    look: Look
    counted: int
    lengths: Int[np.ndarray, " g"]
    largest_label: int
    moments: Moments | None
    refusal: str | None = None


def survey(chunks: AbstractChunks, check: Check, with_moments: bool) -> Survey:
    """Look at every row once.

    Args:
        chunks: where rows come from.
        check: raises ValueError for a chunk that the model cannot describe.
        with_moments: work out the moments of complete rows too.

    Raises:
        ValueError: for a chunk that is refused, or when there are no rows.
        OSError: when the rows cannot be read.
    """
    return surveyed(chunks.names, seen(chunks.read(), check, with_moments))


def seen(tables: Iterable[Table], check: Check, with_moments: bool) -> Iterator[Seen]:
    """What there is to see of each chunk; nothing after one that is refused."""
    for table in tables:
        found = _seen(table, check, with_moments)
        yield found
        if found.refusal is not None:
            return


def surveyed(names: tuple[str, ...], found: Iterable[Seen]) -> Survey:
    """The survey of all chunks, joined in their order wherever each was seen.

    Raises:
        ValueError: for a chunk that is refused, or when there are no rows that count.
    """
    total: list[Seen] = []
    first_rows = [0]
    for one in found:
        if one.refusal is not None:
            raise ValueError(_refused(one.refusal, len(total), first_rows[-1]))
        total.append(one)
        first_rows.append(first_rows[-1] + one.n_rows)
    if not total:
        raise ValueError("There are no rows in the data: nothing can be learned from them.")
    counted = sum(one.counted for one in total)
    if counted == 0:
        raise ValueError("weights are all zero: at least one row must count.")
    look = functools.reduce(Look.joined, (one.look for one in total))
    moments = [one.moments for one in total if one.moments is not None]
    return Survey(
        names,
        look,
        first_rows[-1],
        counted,
        np.concatenate([one.lengths for one in total]),
        tuple(first_rows[:-1]),
        max(one.largest_label for one in total),
        bool(np.isclose(look.observed, look.seen, rtol=1e-12).all()),
        functools.reduce(Moments.joined, moments) if moments else None,
    )


def gather(tables: Iterable[Table], index: Int[np.ndarray, " m"]) -> Table:
    """The rows of these numbers (ascending), from a walk over the chunks."""
    return end_to_end(taken(tables, index))


def taken(tables: Iterable[Table], index: Int[np.ndarray, " m"]) -> list[Table]:
    """The rows of these numbers (ascending), chunk by chunk; groups as they are numbered there."""
    found, first = [], 0
    for table in tables:
        last = first + len(table.values)
        inside = index[np.searchsorted(index, first) : np.searchsorted(index, last)] - first
        if len(inside):
            found.append(table.take(inside))
        first = last
    return found


def weighing(tables: Iterable[Table], first: int = 0) -> Iterator[Int[np.ndarray, " m"]]:
    """The numbers of the rows that weigh something, chunk by chunk, counted from ``first``."""
    for table in tables:
        weights: Any = table.weights
        yield first + np.flatnonzero(weights > 0)
        first += len(weights)


def _seen(table: Table, check: Check, with_moments: bool) -> Seen:
    n, weights = len(table.values), table.weights
    refusal = None
    try:
        check(table)
    except ValueError as error:
        refusal = str(error)
    return Seen(
        n,
        Look.at(table.values, weights),
        n if weights is None else int((weights > 0).sum()),
        np.bincount(table.groups) if table.groups is not None else np.array([n]),
        -1 if table.labels is None else int(table.labels.max()),
        complete_moments(table).moments if with_moments and refusal is None else None,
        refusal,
    )


def _refused(sentence: str, chunk: int, row: int) -> str:
    if row == 0:
        return sentence
    return (
        f"{sentence} (Rows are counted within chunk {chunk}, whose first row is row {row} of the "
        "data.)"
    )


def end_to_end(tables: list[Table]) -> Table:
    """One table; groups numbered on."""
    parts: list[np.ndarray | None] = []
    for name in Table._fields:
        columns: list[Any] = [getattr(table, name) for table in tables]
        if columns[0] is None:
            parts.append(None)
            continue
        if name == "groups":
            begun = np.cumsum([0] + [int(column.max()) + 1 for column in columns[:-1]])
            columns = [column + offset for column, offset in zip(columns, begun, strict=True)]
        parts.append(np.ascontiguousarray(np.concatenate(columns)))
    return Table(*parts)  # pyright: ignore[reportArgumentType]
