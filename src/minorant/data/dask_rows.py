"""What the workers of a Dask cluster read: files by themselves, or the parts of a Dask collection.

A share of files is a stretch of chunks, cut as one process would cut them. A share of a collection
is one of its partitions, cut into chunks of its own.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minorant.data import on_worker
from minorant.data.arrays import Table
from minorant.data.cells import Codes
from minorant.data.chunks import AbstractChunks, is_collection
from minorant.data.cutting import AbstractCutChunks, Form, Piece, bytes_of
from minorant.data.dask import AbstractSharedChunks, Dask, Shares
from minorant.data.dataset import ParquetChunks
from minorant.data.in_chunks import ArrayChunks, FrameChunks
from minorant.data.on_worker import Share
from minorant.data.tables import Place

_SHARES = 4  # for every worker: what a lost one held is then spread over several


class FilesOnDask(AbstractSharedChunks):
    """Chunks of files that every worker can read, under the same paths as the client."""

    def __init__(self, chunks: AbstractCutChunks, engine: Dask) -> None:
        """The chunks and who reads them."""
        self._chunks, self.engine, self.memory = chunks, engine, chunks.memory
        self._shares: Shares | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns of ``values``."""
        return self._chunks.names

    @property
    def dtype(self) -> str:
        """What ``values`` hold."""
        return self._chunks.dtype

    def read(self, first: int = 0) -> Iterator[Table]:
        """The chunks in order, read here."""
        return self._chunks.read(first)

    def count(self) -> int | None:
        """How many chunks there are."""
        return self._chunks.count()

    def identity(self) -> str:
        """The files', wherever they are read."""
        return self._chunks.identity()

    def with_empty_rows(self) -> FilesOnDask:
        """The same chunks, rows without any observed cell let through."""
        return FilesOnDask(self._chunks.with_empty_rows(), self.engine)

    @property
    def form(self) -> Form:
        """What a chunk is made of."""
        return self._chunks.form

    def pieces(self) -> Iterator[tuple[Piece, Place]]:
        """All rows as they are stored, read here."""
        return self._chunks.pieces()

    def coded(self, codes: Codes) -> FilesOnDask:
        """The same chunks, these columns read as codes of their labels."""
        return FilesOnDask(self._chunks.coded(codes), self.engine)

    def shares(self) -> Shares:
        """Stretches of chunks, several for every worker that there is when first asked."""
        if self._shares is None:
            if self._chunks.count() is None:  # of groups, only a walk over all rows can tell
                task = self.engine.submit(on_worker.count_of, self._chunks)
                self._chunks = self.engine.result(task)
            count: Any = self._chunks.count()
            n = min(count, _SHARES * max(len(self.engine.workers()), 1))
            cuts = [count * part // n for part in range(n + 1)]
            stretches = [(a, b - a) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
            self._shares = tuple((Share(self._chunks, stretch), ()) for stretch in stretches)
        return self._shares


class CollectionOnDask(AbstractSharedChunks):
    """The partitions of a Dask dataframe or array; workers hold them, or make them again.

    Args:
        engine: the cluster.
        like: chunks of a few rows of the same columns.
        make: what makes chunks of a partition's pieces, on a worker.
        pieces: for every partition its parts, each a ``dask.delayed`` object.
        identity: what tells the collection from others.
    """

    def __init__(
        self,
        engine: Dask,
        like: AbstractChunks,
        make: Callable[..., AbstractChunks | None],
        pieces: list[tuple[Any, ...]],
        identity: str,
    ) -> None:
        self.engine, self._like, self.memory = engine, like, like.memory
        self._identity = identity
        futures = engine.client.compute([piece for part in pieces for piece in part])
        rest = iter(futures)
        self._shares: Shares = tuple(
            (Share(functools.partial(make, number)), tuple(next(rest) for _ in part))
            for number, part in enumerate(pieces)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns of ``values``."""
        return self._like.names

    @property
    def dtype(self) -> str:
        """What ``values`` hold."""
        return self._like.dtype

    def read(self, first: int = 0) -> Iterator[Table]:
        """The chunks in order, one partition after the other sent here."""
        for share, pieces in self._shares:
            chunks = share.open(*[self.engine.result(piece) for piece in pieces])
            count = 0 if chunks is None else chunks.count()
            if chunks is not None and first < count:
                yield from chunks.read(first)
            first = max(first - count, 0)

    def count(self) -> int | None:
        """How many chunks there are: only a pass can tell."""
        return None

    def identity(self) -> str:
        """What Dask tells the collection by."""
        return self._identity

    def with_empty_rows(self) -> CollectionOnDask:
        """The same chunks, rows without any observed cell let through."""
        other = copy.copy(self)
        other._shares = tuple(
            (Share(functools.partial(_emptied, share.chunks)), pieces)
            for share, pieces in self._shares
        )
        return other

    def shares(self) -> Shares:
        """The partitions."""
        return self._shares


def on_dask(data: Any, roles: dict[str, Any], options: dict[str, Any], where: Any) -> Any:
    """Files or a Dask collection as chunks that Dask's workers read.

    Args:
        data: where files are; or a Dask dataframe (n, d) or array (n, d).
        roles: weights, labels, groups and inputs: names of columns, or beside an array Dask arrays.
        options: ``columns``, ``memory`` and ``empty_rows``.
        where: as ``Dask`` takes it, or None for the client that was made last, else a local one.

    Raises:
        TypeError: for rows in the client's memory.
        ValueError: for groups in a collection, and for arrays of other shapes.
    """
    if not is_collection(data):
        if not (isinstance(data, str | os.PathLike | list | tuple)):
            raise TypeError(
                "dask= is for files that workers read themselves; got a "
                f"{type(data).__name__}: write it to Parquet, or make a Dask array or dataframe."
            )
        return FilesOnDask(ParquetChunks(data, **roles, **options), Dask(where))
    if roles["groups"] is not None:
        raise ValueError(
            "groups cannot be told from the partitions of a Dask collection, which may cut them: "
            "write it to Parquet, and give minorant.chunks the folder and dask=."
        )
    engine = Dask(where)
    if hasattr(data, "_meta_nonempty"):
        return _of_frame(engine, data, {**roles, **options})
    return _of_array(engine, data, roles, options)


def _of_frame(engine: Dask, data: Any, options: dict[str, Any]) -> CollectionOnDask:
    like = FrameChunks(data._meta_nonempty, **options)
    pieces = [(piece,) for piece in data.to_delayed()]
    make = functools.partial(_frame_chunks, options)
    return CollectionOnDask(engine, like, make, pieces, _token(data, options))


def _frame_chunks(options: dict[str, Any], number: int, frame: Any) -> AbstractChunks | None:
    return None if len(frame) == 0 else _within(number, lambda: FrameChunks(frame, **options))


def _emptied(make: Any, *pieces: Any) -> AbstractChunks | None:
    chunks = make(*pieces)
    return None if chunks is None else chunks.with_empty_rows()


def _of_array(
    engine: Dask, data: Any, roles: dict[str, Any], options: dict[str, Any]
) -> CollectionOnDask:
    options.pop("categories", None)  # an array holds no text
    if options.pop("columns", None) is not None:
        raise ValueError(
            "columns must be left out with an array, whose columns have no names: give "
            "data[:, [0, 2]] instead."
        )
    if data.ndim != 2:
        raise ValueError(f"data must have rows and columns; got a Dask array of {data.ndim} axes.")
    data = data.rechunk({1: -1})
    beside = {name: _beside(data, side, name) for name, side in roles.items() if side is not None}
    parts = [data.to_delayed().ravel(), *(side.to_delayed().ravel() for side in beside.values())]
    few = np.ones((2, data.shape[1]), dtype=data.dtype)
    make = functools.partial(_array_chunks, tuple(beside), options)
    pieces = list(zip(*parts, strict=True))
    like = ArrayChunks(few, memory=bytes_of(options.get("memory")))
    return CollectionOnDask(engine, like, make, pieces, _token(data, roles, options))


def _beside(data: Any, side: Any, name: str) -> Any:
    """An array of one entry per row, cut as the rows are."""
    import dask.array

    side = dask.array.asarray(side)
    if len(side.shape) > 2 or side.shape[0] != data.shape[0]:
        raise ValueError(
            f"{name} must have one entry per row of data, {data.shape[0]}; got shape {side.shape}."
        )
    rows = {0: data.chunks[0]}
    return side.rechunk(rows if side.ndim == 1 else {**rows, 1: -1})


def _array_chunks(
    names: tuple[str, ...], options: dict[str, Any], number: int, values: Any, *sides: Any
) -> AbstractChunks | None:
    if len(values) == 0:
        return None
    beside = dict(zip(names, sides, strict=True))
    return _within(number, lambda: ArrayChunks(values, **beside, **options))


def _within(number: int, made: Callable[[], AbstractChunks]) -> AbstractChunks:
    try:
        return made()
    except ValueError as error:
        raise ValueError(f"{error} (In partition {number} of the data.)") from None


def _token(*parts: Any) -> str:
    from dask.base import tokenize

    return tokenize(*parts)
