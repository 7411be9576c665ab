"""Rows on many devices, of one process or of several: every device sums over those it holds.

A pass sends the parameters to every device and adds what they find: first those of a process, then
(``psum``) those of all processes that ``jax.distributed`` has brought together. Each process runs
the same program, reads the chunks of its own devices and comes to the same answer.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int

from minorant._types import Array, PyTree
from minorant.data.arrays import ArraySource, Table
from minorant.data.base import BlockFunction, Part
from minorant.data.chunks import AbstractChunks
from minorant.data.company import AbstractCompany, company_of
from minorant.data.engines import AbstractEngine
from minorant.data.on_worker import Stretch, count_of
from minorant.data.resident import resident, weightless
from minorant.data.scratch import Scratch
from minorant.data.streamed import (
    AbstractChunkedSource,
    Arrange,
    StreamedSource,
    folded,
    narrowed,
    widened,
)
from minorant.data.survey import Check, Survey, end_to_end, seen, surveyed, weighing


class AbstractPlacedChunks(AbstractChunks):
    """Chunks that each have a device already."""

    @abstractmethod
    def places(self) -> tuple[int, ...]:
        """For every chunk the number of its device, among those of the engine."""


class Devices(AbstractEngine):
    """Devices that hold rows between passes.

    Args:
        devices: ``"all"`` for every device of every process, or some of ``jax.devices()``.

    Raises:
        TypeError: for what are no devices.
        ValueError: when this process has none of them.
    """

    def __init__(self, devices: Any) -> None:
        found = jax.devices() if isinstance(devices, str) and devices == "all" else devices
        if isinstance(found, str) or not all(isinstance(one, jax.Device) for one in found):
            raise TypeError(f"devices must be 'all' or some of jax.devices(); got {devices!r}.")
        if not found:
            raise ValueError("devices must name at least one; got none.")
        self.devices = tuple(sorted(found, key=lambda one: one.process_index))
        self.company: AbstractCompany = company_of(self.devices)

    def survey(self, chunks: AbstractChunks, check: Check, with_moments: bool) -> Survey:
        """One look at every row, by the process that reads it; joined in order."""
        own = Own(self, chunks)

        def look() -> list[tuple[int, Any]]:
            return list(zip(own.numbers, seen(own.tables(), check, with_moments), strict=False))

        return surveyed(chunks.names, in_order(self.company.agreed(look)))

    def source(
        self,
        chunks: AbstractChunks,
        arrange: Arrange,
        total_weight: Float[Array, ""],
        size: tuple[int, int],
    ) -> AbstractChunkedSource:
        """The chunks as a source; their blocks lie on the devices."""
        own = Own(self, chunks)
        held: dict[int, ArraySource] = {}

        def hold() -> list[tuple[int, int]]:
            lengths: list[int] = []
            for place, tables in own.by_device():
                made = (arrange(_counted(table, lengths))[0] for table in tables)
                held[place] = resident(made, self.devices[place])
            return list(zip(own.numbers, lengths, strict=True))

        lengths = list(in_order(self.company.agreed(hold)))
        self._fill(own, held)
        first_rows = tuple(np.cumsum([0, *lengths]).tolist())
        return ShardedSource(total_weight, size, self, chunks, arrange, own, held, first_rows)

    def _fill(self, own: Own, held: dict[int, ArraySource]) -> None:
        """Where there are fewer chunks than processes, a block that weighs nothing."""
        idle = {one.process_index for one in self.devices} - {
            self.devices[place].process_index for place in own.places
        }
        if not idle:
            return
        blocks = self.company.gathered(weightless(next(iter(held.values()))) if held else None)
        if not held:
            place = own.devices[0]
            like = next(block for block in blocks if block is not None)
            held[place] = resident([like], self.devices[place])


class Own:
    """Which chunks this process has, and on which devices."""

    def __init__(self, engine: Devices, chunks: AbstractChunks) -> None:
        """Chunks that have no device are dealt out in stretches of equal number."""
        self.chunks = chunks
        if isinstance(chunks, AbstractPlacedChunks):
            self.places = chunks.places()
        else:
            count, n = count_of(chunks).count() or 0, len(engine.devices)
            self.places = tuple(chunk * n // count for chunk in range(count))
        rank = jax.process_index()
        self.devices = [k for k, one in enumerate(engine.devices) if one.process_index == rank]
        self.numbers = tuple(
            chunk
            for place in self.devices
            for chunk, other in enumerate(self.places)
            if other == place
        )

    def has(self, chunk: int) -> bool:
        """Whether a chunk is this process's."""
        return self.places[chunk] in self.devices

    def tables(self) -> Iterator[Table]:
        """The chunks of all its devices, one device after the other."""
        return itertools.chain.from_iterable(tables for _, tables in self.by_device())

    def by_device(self) -> Iterator[tuple[int, Iterator[Table]]]:
        """Its devices that have chunks, and these."""
        for place in self.devices:
            numbers = [chunk for chunk, other in enumerate(self.places) if other == place]
            if numbers:
                yield place, self._read(numbers)

    def _read(self, numbers: list[int]) -> Iterator[Table]:
        for first, count in _runs(numbers):
            yield from Stretch(self.chunks, first, count).read()


class ShardedSource(AbstractChunkedSource):
    """Chunks whose blocks lie on devices.

    Args:
        engine: the devices.
        chunks: where rows come from.
        arrange: how a chunk is cut into blocks.
        own: what this process has.
        held: the blocks on each of its devices.
        first_rows: the number of the first row of every chunk, and of one after the last.
    """

    engine: Devices = eqx.field(static=True)
    chunks: AbstractChunks = eqx.field(static=True)
    arrange: Arrange = eqx.field(static=True)
    own: Own = eqx.field(static=True)
    held: dict[int, ArraySource]
    first_rows: tuple[int, ...] = eqx.field(static=True)

    @property
    def company(self) -> AbstractCompany:
        """The processes that fit together."""
        return self.engine.company

    def sums(
        self, function: BlockFunction, parameters: PyTree, begun: Part | None = None
    ) -> Iterator[Part]:
        """The sums of the whole pass, at once: all devices work at the same time.

        A pass that was ``begun`` is made anew.
        """
        del begun
        under_way = [folded(function, source, parameters) for source in self.held.values()]
        found = [jax.tree.map(widened, one) for one in jax.device_get(under_way)]
        total = found[0]
        for one in found[1:]:
            total = jax.tree.map(np.add, total, one)
        total = jax.tree.map(narrowed, self.company.total(total), under_way[0])
        yield Part(len(self.own.places), total)

    def rows(self, index: Int[np.ndarray, " m"]) -> Table:
        """The rows of these numbers (ascending), each told by the process that has it."""

        def mine() -> list[tuple[int, Table]]:
            return [
                (chunk, table.take(inside))
                for chunk, table in zip(self.own.numbers, self.own.tables(), strict=True)
                if len(inside := self._inside(index, chunk))
            ]

        return end_to_end(list(in_order(self.company.agreed(mine))))

    def of_weight(self) -> Int[np.ndarray, " m"]:
        """The numbers of the rows that weigh something."""

        def mine() -> list[tuple[int, np.ndarray]]:
            return [
                (chunk, next(weighing([table], self.first_rows[chunk])))
                for chunk, table in zip(self.own.numbers, self.own.tables(), strict=True)
            ]

        return np.concatenate(list(in_order(self.company.agreed(mine))))

    def by_row(self, function: BlockFunction, parameters: PyTree) -> Iterator[tuple[Table, PyTree]]:
        """Every chunk with a function's answers for each of its rows, in their order."""
        for chunk in range(len(self.own.places)):

            def mine(chunk: int = chunk) -> list[tuple[int, Any]]:
                if not self.own.has(chunk):
                    return []
                one = Stretch(self.chunks, chunk, 1)
                source = StreamedSource(np.zeros(()), (0, 0), one, self.arrange, Scratch(0, False))
                return [(chunk, next(source.by_row(function, parameters)))]

            yield next(in_order(self.company.agreed(mine)))

    def _inside(self, index: np.ndarray, chunk: int) -> np.ndarray:
        first, last = self.first_rows[chunk], self.first_rows[chunk + 1]
        return index[np.searchsorted(index, first) : np.searchsorted(index, last)] - first


def in_order(found: list[list[tuple[int, Any]]]) -> Iterator[Any]:
    """What the processes have of chunks, in the order of the chunks."""
    return (thing for _, thing in sorted(itertools.chain(*found), key=lambda pair: pair[0]))


def _counted(table: Table, lengths: list[int]) -> Table:
    lengths.append(len(table.values))
    return table


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as stretches: the first and how many."""
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    return [(int(run[0]), len(run)) for run in np.split(np.asarray(numbers), cuts)]
