"""What a worker of an engine does: look at a share of the chunks, keep its blocks, sum over them.

A share is a stretch of chunks. Everything here is a function of what is sent, so that a share lost
with its worker is made again elsewhere and gives the same sums to the last bit.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from minorant import _config
from minorant._types import PyTree
from minorant.data.arrays import Table
from minorant.data.chunks import AbstractChunks
from minorant.data.engines import room
from minorant.data.pairwise import Node, joined, whole
from minorant.data.scratch import Scratch
from minorant.data.streamed import StreamedSource, narrowed, widened
from minorant.data.survey import Check, Seen, seen, taken, weighing

_PROGRAMS = 64  # functions that a worker keeps ready: a fit has a handful
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGEST = -1, -3, 1 << 25  # of mallopt(3), bytes
_turn = threading.Lock()  # one compiled program at a time: it has the worker's threads to itself


class Stretch(AbstractChunks):
    """Some of the chunks, numbered from 0."""

    def __init__(self, chunks: AbstractChunks, first: int, count: int) -> None:
        """``count`` chunks from number ``first``."""
        self.chunks, self._first, self._count = chunks, first, count
        self.memory = chunks.memory

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns of ``values``."""
        return self.chunks.names

    @property
    def dtype(self) -> str:
        """What ``values`` hold."""
        return self.chunks.dtype

    def read(self, first: int = 0) -> Iterator[Table]:
        """The chunks in order, from number ``first`` of these."""
        if first >= self._count:
            return iter(())
        return itertools.islice(self.chunks.read(self._first + first), self._count - first)

    def count(self) -> int:
        """How many chunks there are."""
        return self._count

    def with_empty_rows(self) -> Stretch:
        """The same chunks, rows without any observed cell let through."""
        return Stretch(self.chunks.with_empty_rows(), self._first, self._count)

    def identity(self) -> str:
        """Which chunks of which rows."""
        return f"{self._first}+{self._count} of {self.chunks.identity()}"


class _Place:
    """Where a number's place is in a structure that is sent without its numbers."""

    def __init__(self, index: int) -> None:
        self.index = index


class Packed(NamedTuple):
    """A function and the structure of its parameters as bytes; their numbers; the precision."""

    program: bytes
    leaves: tuple[np.ndarray, ...]
    x64: bool

    def open(self) -> tuple[Callable[..., Any], PyTree]:
        """The function and its parameters; what is not numbers is the same object every time."""

        def put(leaf: Any) -> Any:
            return self.leaves[leaf.index] if isinstance(leaf, _Place) else leaf

        return jax.tree.map(put, _program(self.program))

    def nbytes(self) -> int:
        """How much there is to send."""
        return len(self.program) + sum(leaf.nbytes for leaf in self.leaves)


def packed(function: Callable[..., Any], parameters: PyTree) -> Packed:
    """A function and its parameters, ready to be sent; to be computed in the precision set here."""
    import cloudpickle

    numbers: list[np.ndarray] = []

    def take(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray | np.generic | jax.Array):
            return leaf
        numbers.append(np.asarray(leaf))
        return _Place(len(numbers) - 1)

    program = cloudpickle.dumps(jax.tree.map(take, (function, parameters)))
    wide = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
    return Packed(program, tuple(numbers), wide)


@functools.lru_cache(_PROGRAMS)
def _program(program: bytes) -> Any:
    import cloudpickle

    return cloudpickle.loads(program)


class Held:
    """A share on its worker: its blocks, kept between passes; sent elsewhere, it is read anew."""

    def __init__(self, chunks: Stretch, arrange: bytes, memory: int) -> None:
        """Nothing is read yet."""
        self._made = (chunks, arrange, memory)
        self.arrange = arrange
        self.count = chunks.count()
        size = (0, len(chunks.names))
        self.source = StreamedSource(np.zeros(()), size, chunks, _program(arrange), Scratch(memory))

    def __reduce__(self) -> tuple[Any, ...]:
        """As what it was made from."""
        return Held, self._made

    def __sizeof__(self) -> int:
        """What it would cost to move it: its blocks have to be made again."""
        return self.source.scratch.bytes_in_memory() + self.source.scratch.bytes_on_disk()

    def loaded(self) -> Held:
        """Itself, with its blocks."""
        for _ in self.source.tables():
            pass
        return self


class Sums(NamedTuple):
    """Of some chunks the nodes of the tree, and what types sums are in."""

    nodes: tuple[Node, ...]
    like: PyTree


class Share(NamedTuple):
    """Which chunks: those of ``chunks``, or of what a function makes of what a worker holds.

    ``stretch`` is the number of the first and how many; None for all there are.
    """

    chunks: AbstractChunks | Callable[..., AbstractChunks | None]
    stretch: tuple[int, int] | None = None

    def open(self, *pieces: Any) -> Stretch | None:
        """The chunks; None where there are none."""
        chunks = self.chunks if isinstance(self.chunks, AbstractChunks) else self.chunks(*pieces)
        if chunks is None:
            return None
        return Stretch(chunks, *(self.stretch or (0, chunks.count() or 0)))


def look_at(share: Share, check: bytes, with_moments: bool, *pieces: Any) -> list[Seen]:
    """What there is to see of the chunks of a share."""
    test: Check = _program(check)
    chunks = share.open(*pieces)
    try:
        return [] if chunks is None else list(seen(chunks.read(), test, with_moments))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} (Dask's workers read files themselves: every machine needs them under the "
            "same path.)"
        ) from None


def hold(share: Share, arrange: bytes, shares: int, *pieces: Any) -> Held:
    """A share as blocks; ``shares`` of them are to find room on a worker."""
    chunks: Any = share.open(*pieces)
    return Held(chunks, arrange, room(chunks.memory, _own_memory()) // shares).loaded()


def count_of(chunks: AbstractChunks) -> AbstractChunks:
    """The chunks, their number known: by a walk over them if need be."""
    if chunks.count() is None:
        for _ in chunks.read():
            pass
    return chunks


def sums_of(sent: Packed, firsts: tuple[int, ...], *held: Held) -> Sums:
    """The sums over shares that are held here; ``firsts`` are the numbers of their first chunks."""
    nodes: list[Node] = []
    like: Any = None
    with _computing(sent.x64):
        function, parameters = sent.open()
        for first, share in zip(firsts, held, strict=True):
            for place, found in enumerate(share.source.by_chunk(function, parameters)):
                nodes = joined(nodes, [Node(0, first + place, jax.tree.map(widened, found))])
                like = like or jax.tree.map(_empty, found)
    return Sums(tuple(nodes), like)


def join(*sums: Sums) -> Sums:
    """The sums over the chunks of all of these."""
    nodes = sorted((node for one in sums for node in one.nodes), key=_first_chunk)
    return Sums(tuple(joined([], nodes)), sums[0].like)


def _first_chunk(node: Node) -> int:
    return node.index << node.level


def total(*sums: Sums) -> PyTree:
    """The sum over all chunks, in the types that the function has."""
    found = join(*sums)
    return jax.tree.map(narrowed, whole(list(found.nodes)), found.like)


def answers_of(held: Held, chunk: int, sent: Packed) -> tuple[Table, PyTree]:
    """A function's answers for each row of one chunk of a share."""
    with _computing(sent.x64):
        [found] = Held(Stretch(held.source.chunks, chunk, 1), held.arrange, 0).source.by_row(
            *sent.open()
        )
        return found


def rows_of(held: Held, index: np.ndarray) -> list[Table]:
    """Some rows of a share, chunk by chunk."""
    return taken(held.source.chunks.read(), index)


def weighing_of(held: Held, first: int) -> list[np.ndarray]:
    """The numbers of a share's rows that weigh something, counted from ``first``."""
    return list(weighing(held.source.chunks.read(), first))


def _empty(leaf: Any) -> np.ndarray:
    return np.empty(0, np.asarray(leaf).dtype)


@contextlib.contextmanager
def _computing(x64: bool) -> Iterator[None]:
    _prepare_process()
    with _turn, jax.enable_x64(x64):
        yield


@functools.cache
def _prepare_process() -> None:
    """Compiled programs on as many threads as the worker has, and kept on disk."""
    _config.enable_compilation_cache()
    _keep_freed_memory()
    threads = _own_threads()
    if threads is None or "NPROC" in os.environ:
        jax.devices()
        return
    os.environ["NPROC"] = str(threads)  # XLA reads it once, when it starts
    try:
        jax.devices()
    finally:
        del os.environ["NPROC"]


def _keep_freed_memory() -> None:
    """Undo Dask's ``MALLOC_TRIM_THRESHOLD_``, under which every large temporary takes fresh pages.

    They cost more than the work on them (2.3 times the CPU time of an EM step at d = 8, k = 16).
    The values are those that the C library finds for itself where nobody sets them.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        import ctypes

        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST)
        library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)


def _worker() -> Any:
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:  # not on a worker
        return None


def _own_threads() -> int | None:
    worker = _worker()
    return None if worker is None else worker.state.nthreads


def _own_memory() -> int | None:
    worker = _worker()
    return None if worker is None else worker.memory_manager.memory_limit
