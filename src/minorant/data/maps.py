"""Memory maps (``numpy.memmap``): whether their files changed, their pages, and how they travel."""

from __future__ import annotations

import mmap
import os
from typing import Any, NamedTuple

import numpy as np

from minorant.data.stored import Stamp, stamp_of


class Sent(NamedTuple):
    """A memory map as it is sent to another process: where its cells are, none of them."""

    path: str
    dtype: np.dtype
    start: int  # bytes
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def opened(self) -> np.ndarray:
        """The map, for reading."""
        raw: Any = np.memmap(self.path, np.uint8, "r")
        first = raw[self.start : self.start + self.dtype.itemsize].view(self.dtype)
        found: Any = np.lib.stride_tricks.as_strided(first, self.shape, self.strides, subok=True)
        return found


def stamp_of_map(array: np.memmap) -> Stamp | None:
    """What tells that the file is the same; None of a map without a file that is there."""
    path = array.filename
    return None if path is None or not os.path.exists(path) else stamp_of(os.path.abspath(path))


def place_of(array: np.memmap) -> Sent | None:
    """Where the cells of a map are in its file; None where no file holds them all."""
    mapping: Any = getattr(array, "_mmap", None)
    if mapping is None or array.mode == "c" or array.filename is None:
        return None
    if min(array.strides) < 0:
        return None
    inside = array.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
    mapped = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    path = os.path.abspath(array.filename or "")
    return Sent(path, array.dtype, mapped + inside, array.shape, array.strides)


def give_back(maps: list[np.memmap]) -> None:
    """Let pages go that are as they are in the file: they count as memory of the process."""
    for array in maps:
        mapping: Any = getattr(array, "_mmap", None)
        if mapping is not None and array.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)
