"""What a source of rows offers: a count, and sums of functions of blocks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Float

from minorant._types import Array, PyTree, Rows

BlockFunction = Callable[[PyTree, Rows], PyTree]


class AbstractCount(eqx.Module):
    """How many rows there are: all that the steps between two passes know of them."""

    @abstractmethod
    def n_rows(self) -> Float[Array, ""]:
        """The sum of the weights: the number of rows when all weigh one."""


class Count(AbstractCount):
    """The number of rows that are kept elsewhere."""

    total_weight: Float[Array, ""]

    def n_rows(self) -> Float[Array, ""]:
        """The sum of the weights."""
        return self.total_weight


class AbstractSource(AbstractCount):
    """Rows in blocks. Sums over them add: files, shards and machines are one fold."""

    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Rows, padding included, and columns; known without looking at the rows."""

    @abstractmethod
    def fold(self, function: BlockFunction, parameters: PyTree) -> PyTree:
        """The sum of ``function(parameters, rows)`` over all blocks."""


class Part(NamedTuple):
    """A pass under way: how many chunks are summed, and the sums (a pytree, or its leaves)."""

    chunks: int
    sums: Any


class AbstractPassedSource(AbstractSource):
    """Rows that are passed over on the host, chunk after chunk: no pass can be compiled whole."""

    @abstractmethod
    def sums(
        self, function: BlockFunction, parameters: PyTree, begun: Part | None = None
    ) -> Iterator[Part]:
        """The sums so far after every chunk; the last one's are those of the whole pass.

        Args:
            function: what is summed, compiled for blocks.
            parameters: its first argument.
            begun: sums that an earlier pass like this one had come to.
        """

    def fold(self, function: BlockFunction, parameters: PyTree) -> PyTree:
        """The sum of ``function(parameters, rows)`` over all blocks."""
        *_, last = self.sums(function, parameters)
        return last.sums
