"""Where the work of a pass over chunks is done: here, or elsewhere."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from jaxtyping import Float

from minorant._types import Array
from minorant.data.chunks import AbstractChunks
from minorant.data.scratch import Scratch
from minorant.data.streamed import AbstractChunkedSource, Arrange, StreamedSource
from minorant.data.survey import Check, Survey, survey

_SHARE_OF_MEMORY = 0.25  # of what the machine has, for blocks kept between passes
_SHARE_OF_BUDGET = 0.4  # of what the user allows: chunks under way and the program take the rest


class AbstractEngine(ABC):
    """Who reads chunks and sums over them."""

    @abstractmethod
    def survey(self, chunks: AbstractChunks, check: Check, with_moments: bool) -> Survey:
        """One look at every row; see :func:`minorant.data.survey.survey`."""

    @abstractmethod
    def source(
        self,
        chunks: AbstractChunks,
        arrange: Arrange,
        total_weight: Float[Array, ""],
        size: tuple[int, int],
    ) -> AbstractChunkedSource:
        """The chunks as a source.

        Args:
            chunks: where rows come from.
            arrange: how a chunk is cut into blocks.
            total_weight: the sum of the weights.
            size: rows and columns.
        """


class Here(AbstractEngine):
    """This process."""

    def survey(self, chunks: AbstractChunks, check: Check, with_moments: bool) -> Survey:
        """One look at every row."""
        return survey(chunks, check, with_moments)

    def source(
        self,
        chunks: AbstractChunks,
        arrange: Arrange,
        total_weight: Float[Array, ""],
        size: tuple[int, int],
    ) -> AbstractChunkedSource:
        """The chunks as a source; their blocks are kept where there is room."""
        return StreamedSource(total_weight, size, chunks, arrange, Scratch(room(chunks.memory)))


def room(memory: int | None, owned: int | None = None) -> int:
    """Bytes of blocks to keep in memory.

    Args:
        memory: what the user allows, if he says.
        owned: what the process has, if that is less than what the machine has.
    """
    if memory is not None:
        return int(_SHARE_OF_BUDGET * memory)
    if owned:
        return int(_SHARE_OF_MEMORY * owned)
    try:
        return int(_SHARE_OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # a system that does not say
        return 1 << 30
