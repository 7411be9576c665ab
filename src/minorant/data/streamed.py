"""Rows in chunks as a source: a pass is a walk over them, the next made ready while one is summed.

Every chunk becomes the blocks that its rows would be in memory, is summed by one compiled program,
and the sums are added on the host in float64, in the order of the chunks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int

from minorant._types import Array, PyTree
from minorant.data.arrays import ArraySource, Layout, Table
from minorant.data.base import AbstractPassedSource, BlockFunction, Part
from minorant.data.chunks import AbstractChunks
from minorant.data.company import AbstractCompany, Alone
from minorant.data.read_ahead import ahead
from minorant.data.scratch import Loaded, Scratch
from minorant.data.survey import gather, weighing

Arrange = Callable[[Table], tuple[ArraySource, Layout]]


class AbstractChunkedSource(AbstractPassedSource):
    """Rows in chunks, as a problem needs them besides being summed over.

    Args:
        total_weight: the sum of the weights.
        size: rows and columns.
    """

    total_weight: Float[Array, ""]
    size: tuple[int, int] = eqx.field(static=True)

    def n_rows(self) -> Float[Array, ""]:
        """The sum of the weights."""
        return self.total_weight

    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.size

    @property
    def company(self) -> AbstractCompany:
        """The processes that have the rows between them."""
        return Alone()

    @abstractmethod
    def rows(self, index: Int[np.ndarray, " m"]) -> Table:
        """The rows of these numbers (ascending), in the data's units."""

    @abstractmethod
    def of_weight(self) -> Int[np.ndarray, " m"]:
        """The numbers of the rows that weigh something; for chunks with weights."""

    @abstractmethod
    def by_row(self, function: BlockFunction, parameters: PyTree) -> Iterator[tuple[Table, PyTree]]:
        """Every chunk with a function's answers for each of its rows, in their order."""


class StreamedSource(AbstractChunkedSource):
    """Chunks, in standardised units, block by block.

    Args:
        chunks: where rows come from.
        arrange: how a chunk is cut into blocks.
        scratch: where blocks are kept between passes.
    """

    chunks: AbstractChunks = eqx.field(static=True)
    arrange: Arrange = eqx.field(static=True)
    scratch: Scratch = eqx.field(static=True)

    def sums(
        self, function: BlockFunction, parameters: PyTree, begun: Part | None = None
    ) -> Iterator[Part]:
        """The sums so far after every chunk; see ``AbstractPassedSource.sums``."""
        chunk, total, like = 0, None, None
        if begun is not None:
            chunk, like = begun.chunks, self._shape(function, parameters)
            total = jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(begun.sums))
        for like in self.by_chunk(function, parameters, chunk):
            chunk, total = chunk + 1, _added(total, like)
            yield Part(chunk, total)
        yield Part(chunk, jax.tree.map(narrowed, total, like))

    def by_chunk(
        self, function: BlockFunction, parameters: PyTree, first: int = 0
    ) -> Iterator[PyTree]:
        """The sum over each chunk, from number ``first``."""
        for loaded in ahead(self._loaded(first)):
            found = jax.device_get(folded(function, loaded.source, parameters))
            self.scratch.release(loaded)
            yield found

    def rows(self, index: Int[np.ndarray, " m"]) -> Table:
        """The rows of these numbers (ascending), in the data's units."""
        return gather(self.tables(), index)

    def of_weight(self) -> Int[np.ndarray, " m"]:
        """The numbers of the rows that weigh something."""
        return np.concatenate(list(weighing(self.chunks.read())))

    def parts(self, first: int = 0) -> Iterator[ArraySource]:
        """The blocks of every chunk from number ``first``; they hold until the next are."""
        for loaded in ahead(self._loaded(first)):
            yield loaded.source
            self.scratch.release(loaded)

    def tables(self) -> Iterator[Table]:
        """The chunks in the data's units; their blocks are kept on the way."""
        count = 0
        for table in self.chunks.read():
            self.scratch.offer(count, self.arrange(table)[0])
            count += 1
            yield table
        self.scratch.ended(count)

    def by_row(self, function: BlockFunction, parameters: PyTree) -> Iterator[tuple[Table, PyTree]]:
        """Every chunk with a function's answers for each of its rows, in their order."""
        made = ((table, *self.arrange(table)) for table in self.chunks.read())
        for table, source, layout in ahead(made):
            found = jax.device_get(_mapped(function, source, parameters))
            yield table, jax.tree.map(lambda *parts, put=layout: put.restore(parts), *found)

    def _loaded(self, first: int) -> Iterator[Loaded]:
        """Blocks from chunk ``first`` on: kept ones, then those that have to be read again."""
        index = first
        while index < len(self.scratch):
            yield self.scratch.load(index)
            index += 1
        if self.scratch.holds_all():
            return
        for table in self.chunks.read(index):
            source, _ = self.arrange(table)
            self.scratch.offer(index, source)
            yield Loaded(source)
            index += 1
        self.scratch.ended(index)

    def _shape(self, function: BlockFunction, parameters: PyTree) -> PyTree:
        """What the sums of a pass look like."""
        source = next(self._loaded(0)).source
        return eqx.filter_eval_shape(_fold, function, source, parameters)


def _fold(function: BlockFunction, source: ArraySource, parameters: PyTree) -> PyTree:
    return source.fold(function, parameters)


def _map(function: BlockFunction, source: ArraySource, parameters: PyTree) -> PyTree:
    return source.map(function, parameters)


folded = eqx.filter_jit(_fold)
_mapped = eqx.filter_jit(_map)


def _added(total: PyTree, term: PyTree) -> PyTree:
    """The sum in the widest type of its kind."""
    wide = jax.tree.map(widened, term)
    return wide if total is None else jax.tree.map(np.add, total, wide)


def widened(leaf: Any) -> np.ndarray:
    """The leaf in the widest type of its kind."""
    array = np.asarray(leaf)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def narrowed(leaf: Any, like: Any) -> np.ndarray:
    """The leaf in the type of another one."""
    return np.asarray(leaf, dtype=like.dtype)
