"""Blocks of chunks kept after the first pass: in memory up to a budget, then in a scratch file.

A chunk in a file of columns has to be decoded, put into rows and standardised; kept as blocks, it
is one copy away from the compiled pass. The scratch file has no name: it is gone when its process
is, however that ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any, NamedTuple

import jax
import numpy as np

from minorant.data.arrays import ArraySource

_ALIGNMENT = 64
_SHARE_OF_DISK = 0.5


class _Leaf(NamedTuple):
    """An array in the scratch file, or with ``offset`` -1 one of ones."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype


class _Kept(NamedTuple):
    """A chunk's blocks: in memory, or where in the file."""

    source: ArraySource | None
    structure: Any = None
    leaves: tuple[_Leaf, ...] = ()
    start: int = 0
    size: int = 0


class Loaded(NamedTuple):
    """Blocks ready for a pass, and the room they lie in, to be given back afterwards."""

    source: ArraySource
    room: np.ndarray | None = None


class Scratch:
    """The blocks of the first chunks, as many as there is room for."""

    def __init__(self, memory: int, on_disk: bool = True) -> None:
        """Room for ``memory`` bytes, and with ``on_disk`` for half of what the disk has free."""
        self._memory = memory
        self._disk = free_bytes() if on_disk else 0
        self._kept: list[_Kept] = []
        self._file: Any = None
        self._end = 0
        self._rooms: list[np.ndarray] = []
        self._ones: dict[tuple, np.ndarray] = {}
        self._closed = False
        self._all: int | None = None

    def __del__(self) -> None:
        """The file goes with its owner."""
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        """How many chunks are kept."""
        return len(self._kept)

    def ended(self, count: int) -> None:
        """There are ``count`` chunks and no more."""
        self._all = count

    def holds_all(self) -> bool:
        """Whether no chunk has to be read again."""
        return self._all == len(self._kept)

    def bytes_in_memory(self) -> int:
        """How much of the blocks is in memory."""
        leaves = [leaf for kept in self._kept for leaf in jax.tree.leaves(kept.source)]
        return sum(np.asarray(leaf).nbytes for leaf in leaves)

    def bytes_on_disk(self) -> int:
        """The length of the scratch file."""
        return self._end

    def offer(self, index: int, source: ArraySource) -> None:
        """Keep the blocks of chunk ``index`` if it is the next one and there is room."""
        if self._closed or index != len(self._kept):
            return
        size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(source))
        if size <= self._memory:
            self._memory -= size
            self._kept.append(_Kept(source))
            return
        self._memory = 0
        self._closed = not self._written(source)

    def load(self, index: int) -> Loaded:
        """The blocks of a chunk that is kept."""
        kept = self._kept[index]
        if kept.source is not None:
            return Loaded(kept.source)
        room = self._room(kept.size)
        read_at(self._file.fileno(), room[: kept.size], kept.start)
        leaves = [self._leaf(leaf, room, kept.start) for leaf in kept.leaves]
        return Loaded(jax.tree.unflatten(kept.structure, leaves), room)

    def release(self, loaded: Loaded) -> None:
        """The room may be written over: nothing reads these blocks any more."""
        if loaded.room is not None:
            self._rooms.append(loaded.room)

    def _written(self, source: ArraySource) -> bool:
        """Append the blocks to the file; False, and nothing kept, when that cannot be done."""
        arrays, structure = jax.tree.flatten(source)
        arrays = [np.asarray(array) for array in arrays]
        start, leaves = self._end, []
        end = start
        for array in arrays:
            same = array.dtype.kind == "f" and array.ndim > 1 and bool((array == 1).all())
            leaves.append(_Leaf(-1 if same else end, array.shape, array.dtype))
            end += 0 if same else _padded(array.nbytes)
        if end > self._disk:
            return False
        try:
            file = self._opened()
            for leaf, array in zip(leaves, arrays, strict=True):
                if leaf.offset >= 0:
                    write_at(file.fileno(), array, leaf.offset)
            os.ftruncate(file.fileno(), end)
        except OSError:  # a disk that fills up costs speed, not the fit: chunks are read again
            return False
        self._kept.append(_Kept(None, structure, tuple(leaves), start, end - start))
        self._end = end
        return True

    def _opened(self) -> Any:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="minorant-", buffering=0)  # noqa: SIM115
        return self._file

    def _room(self, size: int) -> np.ndarray:
        """Aligned memory that was used before, or new: fresh pages cost more than the copy."""
        for place, room in enumerate(self._rooms):
            if len(room) >= size:
                return self._rooms.pop(place)
        raw = np.empty(size + _ALIGNMENT, dtype=np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        return raw[start : start + size]

    def _leaf(self, leaf: _Leaf, room: np.ndarray, start: int) -> np.ndarray:
        if leaf.offset < 0:
            key = (leaf.shape, leaf.dtype)
            return self._ones.setdefault(key, np.ones(leaf.shape, leaf.dtype))
        size = int(np.prod(leaf.shape)) * leaf.dtype.itemsize
        first = leaf.offset - start
        return room[first : first + size].view(leaf.dtype).reshape(leaf.shape)


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def free_bytes() -> int:
    """How much of the disk may be taken for scratch files."""
    try:
        return int(_SHARE_OF_DISK * shutil.disk_usage(tempfile.gettempdir()).free)
    except OSError:
        return 0


def write_at(descriptor: int, array: np.ndarray, offset: int) -> None:
    """Put an array into an open file, from a byte on."""
    view: Any = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # pyright: ignore
    while len(view):
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def read_at(descriptor: int, room: np.ndarray, offset: int) -> None:
    """Fill memory from an open file, from a byte on."""
    view: Any = memoryview(room)  # pyright: ignore
    while len(view):
        read = os.preadv(descriptor, [view], offset)
        if read <= 0:
            raise OSError("The scratch file ended before its blocks did.")
        view, offset = view[read:], offset + read
