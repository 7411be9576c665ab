"""Rows that are not all in memory at once: chunks, read again and again in the same order.

A pass over the data is a walk over the chunks. They are always cut the same way, so that sums over
them are the same to the last bit from pass to pass, and a pass can be taken up at any chunk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import jax

from minorant.data.arrays import Table


class AbstractChunks(ABC):
    """A table in chunks. Groups, where there are any, are never cut: a chunk holds whole ones.

    ``memory`` is how many bytes a fit on them may take, None where the user did not say; ``engine``
    an ``AbstractEngine`` that reads them and sums over them, None for this process.
    """

    memory: int | None = None
    engine: Any = None

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of the columns of ``values``."""

    @property
    @abstractmethod
    def dtype(self) -> str:
        """``"float32"`` where every column is; else ``"float64"``. What ``values`` hold."""

    @abstractmethod
    def read(self, first: int = 0) -> Iterator[Table]:
        """The chunks in order, from number ``first``; checked tables in the data's units.

        ``values`` may be in column order (Fortran). Groups are numbered from 0 in each chunk.

        Raises:
            OSError: when what is read has gone, or is not what it was at the first pass.
            ValueError: for cells that cannot be used; names file, column and row.
        """

    @abstractmethod
    def count(self) -> int | None:
        """How many chunks there are; None where only a whole pass can tell."""

    @abstractmethod
    def identity(self) -> str:
        """What a climb on these rows may be taken up by: the same string means the same rows."""

    @abstractmethod
    def with_empty_rows(self) -> AbstractChunks:
        """The same chunks, rows without any observed cell let through."""


def is_collection(data: Any) -> bool:
    """Whether this is a Dask dataframe or array; Dask is not imported to find out."""
    return hasattr(data, "__dask_graph__") and hasattr(data, "to_delayed")


def is_sharded(data: Any) -> bool:
    """Whether this is an array on several devices, or on those of another process."""
    if not isinstance(data, jax.Array):
        return False
    return len(data.sharding.device_set) > 1 or not data.is_fully_addressable
