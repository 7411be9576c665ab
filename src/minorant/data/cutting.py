"""Columns that come in pieces of any length, cut into chunks of one length.

The copy of a column into its chunk is the only one. Chunks come out of a small bank of buffers: one
is used again when nobody holds a part of it any more, which saves the system from handing out and
clearing its pages for every chunk.
"""

from __future__ import annotations

import copy
import itertools
import re
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from minorant.data.arrays import Table
from minorant.data.cells import (
    Cells,
    Codes,
    Roles,
    as_codes,
    as_floats,
    check_numbers,
    float_type,
    strange_sentence,
)
from minorant.data.chunks import AbstractChunks
from minorant.data.grouping import GroupWalk
from minorant.data.tables import (
    Place,
    check_cells,
    check_even_weights,
    check_inputs,
    check_weights,
    whole_labels,
)

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK_BYTES = 1 << 25
_MOST_ROWS, _FEWEST_ROWS = 1 << 20, 1 << 10
_SHARE = 8  # of the memory: the chunk read ahead, the one computed with, and copies of it all count
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class Form(NamedTuple):
    """Which columns make up a chunk, how many rows it has and what its cells may be."""

    names: tuple[str, ...]
    dtype: str
    rows: int
    weights: str | None = None
    labels: str | None = None
    groups: str | None = None
    inputs: tuple[str, ...] = ()
    empty_rows: bool = False
    codes: Codes = Codes()

    @property
    def extras(self) -> tuple[str, ...]:
        """The columns of floats beside ``values``: weights, labels, inputs."""
        single = tuple(name for name in (self.weights, self.labels) if name is not None)
        return single + self.inputs

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in the order that pieces have them; that of groups comes last."""
        return self.names + self.extras + (() if self.groups is None else (self.groups,))


def form_of(
    types: Mapping[str, pa.DataType],
    roles: Roles,
    where: str,
    memory: int | None,
    rows: int | None,
) -> Form:
    """The form of chunks of a table.

    Args:
        types: the columns that there are.
        roles: what they are for.
        where: the table, in words.
        memory: bytes that a fit may take, or None.
        rows: rows of a chunk, or None for the rule.

    Raises:
        ValueError: for columns that are not there or not of numbers.
    """
    if rows is not None and rows < 1:
        raise ValueError(f"chunk_rows must be at least 1; got {rows}.")
    names = roles.values(tuple(types), where)
    check_numbers(types, names, roles, where)
    dtype = float_type([types[name] for name in names])
    rows = rows or chunk_rows(len(names), dtype, memory)
    coded = roles.coded(types, (*names, *roles.inputs))
    form = Form(names, dtype, rows, roles.weights, roles.labels, roles.groups, roles.inputs)
    return form._replace(codes=Codes(tuple((name, None) for name in coded)))


class Piece(NamedTuple):
    """Some rows: their columns, in the order of ``Form.columns``."""

    columns: Sequence[Cells]
    n_rows: int


Pieces = Callable[[int], Iterator[Piece]]  # the rows from a number on


def bytes_of(memory: int | str | None) -> int | None:
    """A size in bytes: 2_000_000_000, "2GB", "500 MB", "1.5 GiB".

    Raises:
        ValueError: for what is no positive size.
    """
    if memory is None:
        return None
    found = re.fullmatch(r"\s*([\d.]+)\s*([kmgt]?)(i?)b?\s*", str(memory).lower())
    size = float(found[1]) if found and found[1].count(".") < 2 and found[1] != "." else 0.0
    if found is None or size <= 0:
        raise ValueError(
            f"memory must be a size in bytes such as 2_000_000_000 or '2GB'; got {memory!r}."
        )
    unit = _UNITS[found[2]]
    return int(size * (1024 ** round(np.log10(unit) / 3) if found[3] else unit))


def chunk_rows(n_columns: int, dtype: str, memory: int | None) -> int:
    """Rows of a chunk: a power of two, about 32 MB or an eighth of the memory, what is less."""
    limit = _CHUNK_BYTES if memory is None else min(_CHUNK_BYTES, memory // _SHARE)
    rows = max(limit // (n_columns * np.dtype(dtype).itemsize), 1)
    power = 1 << (int(rows).bit_length() - 1)
    return int(np.clip(power, _FEWEST_ROWS, _MOST_ROWS))


class Bank:
    """Buffers in column order, taken again when free."""

    def __init__(self) -> None:
        self._buffers: list[np.ndarray] = []

    def take(self, rows: int, columns: int, dtype: str) -> np.ndarray:
        """A buffer (rows, columns) of any content."""
        for index in range(len(self._buffers)):
            buffer = self._buffers[index]
            # Views, and what computes on them, hold their base. Three references are ours: the
            # list, the name `buffer` and the argument of getrefcount.
            free = sys.getrefcount(buffer) <= 3
            if free and buffer.shape == (rows, columns) and buffer.dtype == dtype:
                return buffer
        self._buffers.append(np.empty((rows, columns), dtype=dtype, order="F"))
        return self._buffers[-1]


class Filling:
    """A chunk in the making."""

    def __init__(self, form: Form, bank: Bank, first: int, room: int | None = None) -> None:
        self._form, self._bank = form, bank
        self.first, self.size = first, 0
        self._values = bank.take(room or form.rows, len(form.names), form.dtype)
        self._extras = bank.take(room or form.rows, len(form.extras), "float64")
        self._starts = np.empty(room or form.rows, dtype=bool)
        self._labels = dict(form.codes.labels)

    @property
    def room(self) -> int:
        """Rows that still fit."""
        return len(self._values) - self.size

    def add(self, columns: Sequence[Cells], count: int, place: Place) -> None:
        """Rows, column by column; each is looked through while it is in the cache."""
        part, width = slice(self.size, self.size + count), len(self._form.names)
        form, finite = self._form, True
        place = self._place(place, self.size)
        for target, cells, name in zip(self._values.T[:, part], columns, form.names, strict=False):
            target[:] = self._floats(cells, name, place)
            finite = finite and bool(np.isfinite(target).all())
        beside = zip(self._extras.T[:, part], columns[width:], form.extras, strict=False)
        for target, cells, name in beside:
            plain = name in form.names  # of arrays, whose columns are numbered on both sides
            target[:] = as_floats(cells) if plain else self._floats(cells, name, place)
        if not finite:
            check_cells(self._values[part], form.names, form.empty_rows, place)
        self.size += count

    def _floats(self, cells: Cells, name: str, place: Place) -> np.ndarray:
        """A column as floats; of categories their codes."""
        labels = self._labels.get(name)
        if labels is None:
            return as_floats(cells)
        codes, strange = as_codes(cells, labels)
        if self._form.codes.unknown == "error" and strange.any():
            row = int(np.argmax(strange))
            raise ValueError(strange_sentence(name, cells, row, place(row), labels))
        return codes

    def add_starts(self, starts: np.ndarray) -> None:
        """Whether the rows that were added last begin groups."""
        self._starts[self.size - len(starts) : self.size] = starts

    def end(self) -> int:
        """Where the first chunk of these rows ends; 0 where more rows are needed to tell."""
        limit = self._form.rows
        if self.size < limit:
            return 0
        if self._form.groups is None:
            return limit
        starts = np.flatnonzero(self._starts[1 : self.size]) + 1
        inside = starts[starts < limit]
        return int(inside[-1]) if len(inside) else int(starts[0]) if len(starts) else 0

    def moved(self, start: int, room: int | None = None) -> Filling:
        """A chunk with room that begins with the rows of this one from ``start`` on."""
        room = room or max(self._form.rows, self.size - start)
        other = Filling(self._form, self._bank, self.first + start, room)
        other.size = self.size - start
        for mine, new in (
            (self._values, other._values),
            (self._extras, other._extras),
            (self._starts, other._starts),
        ):
            new[: other.size] = mine[start : self.size]
        return other

    def table(self, size: int, place: Place) -> Table:
        """The first rows; what is beside the values is checked."""
        form, extras = self._form, self._extras[:size]
        place = self._place(place, 0)
        has_weights, has_labels = form.weights is not None, form.labels is not None
        weights = extras[:, 0] if has_weights else None
        inputs = extras[:, has_weights + has_labels :] if form.inputs else None
        if weights is not None:
            check_weights(weights, place)
        if inputs is not None:
            check_inputs(inputs, form.inputs, place)
        labels = whole_labels(extras[:, int(has_weights)], place) if has_labels else None
        groups = None if form.groups is None else np.cumsum(self._starts[:size]) - 1
        table = Table(self._values[:size], weights, labels, groups, inputs)
        check_even_weights(table, place)
        return table

    def _place(self, place: Place, after: int) -> Place:
        first = self.first + after
        return lambda row: place(first + row)


class Cutter:
    """Chunks of ``form.rows`` rows, or of whole groups up to so many.

    A group with more rows than that is a chunk of its own. Where chunks of groups begin is known
    after a whole pass, and kept.
    """

    def __init__(self, form: Form, place: Place) -> None:
        self.form, self._place = form, place
        self._cuts: tuple[int, ...] | None = None

    def count(self, n_rows: int | None) -> int | None:
        """How many chunks there are; None when not known yet."""
        if self._cuts is not None:
            return len(self._cuts)
        if n_rows is None or self.form.groups is not None:
            return None
        return -(-n_rows // self.form.rows)

    def read(self, pieces: Pieces, first: int) -> Iterator[Table]:
        """The chunks from number ``first``; all are cut anew where it is not known where it begins.

        Args:
            pieces: gives the rows from a number on.
            first: the number of the first chunk.
        """
        tables = self.unweighed(pieces, first)
        return tables if self.form.weights is None or first else _weighed(tables)

    def unweighed(self, pieces: Pieces, first: int) -> Iterator[Table]:
        """The same chunks; they may all weigh nothing."""
        if self.form.groups is None:
            yield from self._chunks(pieces, first * self.form.rows)
        elif self._cuts is None:
            yield from itertools.islice(self._first_pass(pieces), first, None)
        elif first < len(self._cuts):
            yield from self._chunks(pieces, self._cuts[first])

    def _first_pass(self, pieces: Pieces) -> Iterator[Table]:
        cuts = [0]
        for table in self._chunks(pieces, 0):
            cuts.append(cuts[-1] + len(table.values))
            yield table
            del table  # nothing of it is held here while the next one is filled
        self._cuts = tuple(cuts[:-1])

    def _chunks(self, pieces: Pieces, row: int) -> Iterator[Table]:
        filling = Filling(self.form, Bank(), row)
        walk = self._walk(row)
        for piece in pieces(row):
            start = 0
            while start < piece.n_rows:
                filling = filling if filling.room else filling.moved(0, 2 * filling.size)
                taken = min(piece.n_rows - start, filling.room)
                self._add(filling, walk, [c[start : start + taken] for c in piece.columns], taken)
                start += taken
                while end := filling.end():
                    table, filling = filling.table(end, self._place), filling.moved(end)
                    yield table
                    del table  # nothing of it is held here while the next one is filled
        if walk is not None:
            walk.check_once()
        if filling.size:
            yield filling.table(filling.size, self._place)

    def _walk(self, row: int) -> GroupWalk | None:
        name = self.form.groups
        return None if name is None else GroupWalk(name, self._place, row, self._cuts is None)

    def _add(self, filling: Filling, walk: GroupWalk | None, columns: list[Any], n: int) -> None:
        filling.add(columns, n, self._place)
        if walk is not None:
            filling.add_starts(walk.starts(columns[-1]))


class AbstractCutChunks(AbstractChunks):
    """Chunks that a cutter makes of pieces."""

    _cutter: Cutter

    @abstractmethod
    def _pieces(self, row: int) -> Iterator[Piece]:
        """The rows from a number on."""

    @abstractmethod
    def _place(self, row: int) -> str:
        """Where a row is, in words."""

    @property
    def form(self) -> Form:
        """What a chunk is made of."""
        return self._cutter.form

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns of ``values``; of arrays ``column 0``, ``column 1``, ..."""
        return self.form.names

    @property
    def dtype(self) -> str:
        """``"float32"`` where every column is; else ``"float64"``."""
        return self.form.dtype

    def with_empty_rows(self) -> Self:
        """The same chunks, rows without any observed cell let through."""
        return self._cut_as(self.form._replace(empty_rows=True))

    def pieces(self) -> Iterator[tuple[Piece, Place]]:
        """All rows as they are stored, columns in the order of ``form.columns``; and where."""
        first = 0
        for piece in self._pieces(0):
            yield piece, lambda row, first=first: self._place(first + row)
            first += piece.n_rows

    def coded(self, codes: Codes) -> Self:
        """The same chunks, these columns read as codes of their labels."""
        dtype = "float64" if codes.labels else self.form.dtype
        return self._cut_as(self.form._replace(codes=codes, dtype=dtype))

    def _cut_as(self, form: Form) -> Self:
        other = copy.copy(self)
        other._cutter = Cutter(form, other._place)
        return other


def _weighed(tables: Iterator[Table]) -> Iterator[Table]:
    """The same tables; ValueError at the end when no row counts."""
    counts = False
    for table in tables:
        counts = counts or bool(np.any(table.weights))
        yield table
        del table
    if not counts:
        raise ValueError("weights are all zero: at least one row must count.")
