"""Rows of chunks dealt at random into sections that fit in memory, as cards are.

Of every k rows that follow one another in a chunk one goes to each of k sections, at random which.
So a section is a sample that is drawn evenly along all rows, however they are sorted, and a walk
over the sections sees every row once. Sections are kept in memory where there is room, else in a
scratch file, else gathered from the chunks whenever one is asked for: the same rows in the same
order.

Rao (1961), "Generation of random permutations of given number of elements using random sampling
numbers", and Sandelius (1962), "A simple randomization procedure", shuffle in this way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from minorant.data.arrays import Table
from minorant.data.chunks import AbstractChunks
from minorant.data.read_ahead import ahead
from minorant.data.scratch import free_bytes, read_at, write_at

Records = np.ndarray  # fields ``values`` (d,), and where rows are weighted ``weight``
Look = Callable[[Records, np.ndarray], None]


class Deal(NamedTuple):
    """Which rows go where; the same at every pass.

    Attributes:
        seed: of the dealing.
        sections: how many there are.
        held_out: the share of rows that go to none.
    """

    seed: int
    sections: int
    held_out: float = 0.0

    def places(self, chunk: int, first: int, n: int) -> Int[np.ndarray, " n"]:
        """The section of each of a chunk's n rows, of which ``first`` came before; -1: held out."""
        rng = np.random.default_rng([self.seed, 0, chunk])
        held = round(self.held_out * (first + n)) - round(self.held_out * first)
        dealt = np.sort(rng.permutation(n)[held:]) if held else np.arange(n)
        rounds = -(-len(dealt) // self.sections)
        hands = np.tile(np.arange(self.sections), (rounds, 1))
        places = np.full(n, -1)
        places[dealt] = rng.permuted(hands, axis=1).ravel()[: len(dealt)]
        return places


class Dealt:
    """All rows of chunks that weigh something, in sections.

    Args:
        chunks: where rows come from.
        deal: which go where.
        lengths: rows of every chunk.
        dtype: type that cells are kept in.
        room: bytes of sections to keep in memory.
    """

    def __init__(
        self,
        chunks: AbstractChunks,
        deal: Deal,
        lengths: Sequence[int],
        dtype: np.dtype,
        room: int,
    ) -> None:
        """Nothing is read yet; see :meth:`begin`."""
        self.deal = deal
        self.sizes = np.zeros(deal.sections, np.int64)
        self._chunks, self._dtype, self._room = chunks, dtype, room
        self._capacity = sum(-(-length // deal.sections) for length in lengths)
        self._store: Any = None

    def begin(self, look: Look) -> None:
        """Deal all rows, in one pass.

        Args:
            look: is shown the rows of every chunk and their sections.
        """
        for records, places in ahead(self._walk()):
            if not self.sizes.any():  # what records are like is known from the first
                self._store = self._opened(records.dtype)
            look(records, places)
            self._put(records, places)

    def section(self, number: int) -> Records:
        """The rows of a section, in the order of the chunks."""
        if self._store is not None:
            return self._store.get(number, int(self.sizes[number]))
        walk = ahead(self._walk())
        return np.concatenate([records[places == number] for records, places in walk])

    def _walk(self) -> Iterator[tuple[Records, Int[np.ndarray, " n"]]]:
        """Chunk after chunk, its rows that weigh something and where each goes."""
        first = 0
        for chunk, table in enumerate(self._chunks.read()):
            records = _records(table, self._dtype)
            yield records, self.deal.places(chunk, first, len(records))
            first += len(records)

    def _opened(self, record: np.dtype) -> Any:
        """Where sections are kept; None where there is no room for them."""
        shape = self.deal.sections, self._capacity
        size = shape[0] * shape[1] * record.itemsize
        if size <= self._room:
            return _InMemory(shape, record)
        try:
            return _InFile(shape, record) if size <= free_bytes() else None
        except OSError:
            return None

    def _put(self, records: Records, places: Int[np.ndarray, " n"]) -> None:
        order = np.argsort(places, kind="stable")
        ends = np.searchsorted(places[order], np.arange(self.deal.sections + 1))
        for section, (start, stop) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
            self._keep(section, records[order[start:stop]])
            self.sizes[section] += stop - start

    def _keep(self, section: int, part: Records) -> None:
        if self._store is None:
            return
        try:
            self._store.put(section, int(self.sizes[section]), part)
        except OSError:  # a disk that fills up costs passes, not the fit
            self._store = None


class _InMemory:
    """Sections in one array, its pages taken as they are filled."""

    def __init__(self, shape: tuple[int, int], record: np.dtype) -> None:
        self._rows = np.empty(shape, record)

    def put(self, section: int, start: int, part: Records) -> None:
        """Rows of a section, from its row ``start`` on."""
        self._rows[section, start : start + len(part)] = part

    def get(self, section: int, count: int) -> Records:
        """The first rows of a section."""
        return self._rows[section, :count]


class _InFile:
    """Sections in a file without a name: it is gone when its process is, however that ends."""

    def __init__(self, shape: tuple[int, int], record: np.dtype) -> None:
        self._capacity, self._record = shape[1], record
        self._file = tempfile.TemporaryFile(prefix="minorant-", buffering=0)  # noqa: SIM115

    def __del__(self) -> None:
        self._file.close()

    def put(self, section: int, start: int, part: Records) -> None:
        """Rows of a section, from its row ``start`` on."""
        if len(part):
            write_at(self._file.fileno(), part, self._place(section, start))

    def get(self, section: int, count: int) -> Records:
        """The first rows of a section."""
        found = np.empty(count, self._record)
        read_at(self._file.fileno(), found.view(np.uint8), self._place(section, 0))
        return found

    def _place(self, section: int, row: int) -> int:
        return (section * self._capacity + row) * self._record.itemsize


def _records(table: Table, dtype: np.dtype) -> Records:
    """The rows of a table that weigh something, one after the other."""
    d, weights = table.values.shape[1], table.weights
    fields: list[Any] = [("values", dtype, (d,))]
    if weights is None:
        records = np.empty(len(table.values), np.dtype(fields))
        records["values"] = table.values
        return records
    weighing = np.flatnonzero(weights > 0)
    records = np.empty(len(weighing), np.dtype([*fields, ("weight", np.float64)]))
    records["values"], records["weight"] = table.values[weighing], weights[weighing]
    return records


def weights_of(records: Records) -> np.ndarray:
    """The weights of rows; ones where they have none."""
    named = records.dtype.names or ()
    return records["weight"] if "weight" in named else np.ones(len(records))
