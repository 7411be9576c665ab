"""Batches that come from anywhere, joined and cut into chunks of one length."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minorant.data.arrays import Table
from minorant.data.cells import Cells, check_numbers, float_type, roles_of
from minorant.data.cutting import AbstractCutChunks, Cutter, Piece, bytes_of, form_of
from minorant.data.files import first_sentence
from minorant.data.in_chunks import as_frame, digest, frame_columns, frame_types
from minorant.data.stored import BATCH_ROWS

if TYPE_CHECKING:
    import pyarrow as pa

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


class Batch(NamedTuple):
    """A batch as columns by name."""

    columns: dict[str, Cells]
    types: dict[str, Any]
    n_rows: int


class BatchChunks(AbstractCutChunks):
    """Rows of batches, asked for anew at every pass, in the same order with the same rows.

    Batches may have any length: they are joined and cut, so that all chunks have one. Not for a
    stream that ends, or changes from pass to pass.

    Args:
        batches: a list, or anything else that can be gone through more than once, or a function
            that returns a new iterator. A batch is an array (n, d), a mapping of columns by name,
            or a pandas, polars or Arrow table.
        columns: names of the columns to describe; None for all that have no other role.
        weights: name of the column of row weights.
        labels: name of the column of known components, -1 or null where unknown.
        groups: name of the column of what belongs together; rows of a group follow one another,
            also from batch to batch.
        inputs: names of the columns of known covariates.
        memory: bytes that the process may take, as a number or ``"2GB"``; smaller chunks.
        chunk_rows: rows of a chunk, instead of the rule (about 32 MB, a power of two).
        empty_rows: let rows without any observed cell through.
        categories: columns that may hold text; they are read once labels are known, see `coded`.

    Raises:
        TypeError: for what can be gone through only once, or is no table.
        ValueError: for no batches, and columns that are not there or not of numbers.

    Example:
        >>> import numpy as np
        >>> from minorant.data.in_batches import BatchChunks
        >>> def batches():
        ...     for seed in range(3):
        ...         yield np.random.default_rng(seed).normal(size=(2, 1))
        >>> chunks = BatchChunks(batches, chunk_rows=4)
        >>> [len(table.values) for table in chunks.read()]
        [4, 2]
    """

    def __init__(  # noqa: PLR0913
        self,
        batches: Batches,
        *,
        columns: Sequence[str] | None = None,
        weights: str | None = None,
        labels: str | None = None,
        groups: str | None = None,
        inputs: Sequence[str] | str | None = None,
        memory: int | str | None = None,
        chunk_rows: int | None = None,
        empty_rows: bool = False,
        categories: Sequence[str] = (),
    ) -> None:
        self._batches = batches
        self._roles = roles_of(columns, weights, labels, groups, inputs, categories)
        self.memory = bytes_of(memory)
        types = self._first_types()
        form = form_of(types, self._roles, "the first batch", self.memory, chunk_rows)
        self._cutter = Cutter(form._replace(empty_rows=empty_rows), self._place)
        self._starts: list[int] = []
        self._n_rows: int | None = None

    def read(self, first: int = 0) -> Iterator[Table]:
        """The chunks in order, from number ``first``; see :class:`AbstractChunks`."""
        return self._cutter.read(self._pieces, first)

    def count(self) -> int | None:
        """How many chunks there are; None before the first whole pass."""
        return self._cutter.count(self._n_rows)

    def identity(self) -> str:
        """A digest of all cells, from one pass over them."""
        return digest(self)

    def _first_types(self) -> dict[str, pa.DataType]:
        for batch in self._opened():
            found = _as_batch(batch)
            if found.n_rows:
                return found.types
        raise ValueError("There are no rows in the batches: give at least one.")

    def _opened(self) -> Iterator[Any]:
        given = self._batches
        found = given() if callable(given) else given
        if not isinstance(found, Iterable):
            raise TypeError(
                "data must be batches, or a function that returns an iterator of them; the "
                f"function returned a {type(found).__name__}."
            )
        if not callable(given) and iter(found) is found:
            raise TypeError(
                f"A {type(found).__name__} is used up after one pass over it, and a fit takes "
                "many: give a function that makes it anew, such as lambda: my_batches()."
            )
        return iter(found)

    def _pieces(self, row: int) -> Iterator[Piece]:
        start, starts = 0, []
        for index, given in enumerate(self._opened()):
            batch = _as_batch(given)
            starts.append(start)
            self._starts = starts
            if start + batch.n_rows > row:
                self._check(batch, index)
                yield from _cut(batch, self._cutter.form.columns, max(row - start, 0))
            start += batch.n_rows
        self._check_rows(start)

    def _check(self, batch: Batch, index: int) -> None:
        """Raise ValueError when a batch is not like the first one."""
        form, where = self._cutter.form, f"batch {index}"
        missing = [name for name in form.columns if name not in batch.types]
        if missing:
            raise ValueError(
                f"Column {missing[0]!r} is in the first batch but not in {where}: give every batch "
                "the same columns."
            )
        known = {name for _, name in self._roles.numbers()} | set(form.columns)
        extra = [name for name in batch.types if name not in known]
        if extra and self._roles.columns is None:
            raise ValueError(
                f"Column {extra[0]!r} is in {where} but not in the first one: name the columns to "
                "read with columns=[...]."
            )
        check_numbers(batch.types, form.names, self._roles, where)
        if (
            form.dtype == "float32"
            and float_type([batch.types[n] for n in form.names]) != "float32"
        ):
            raise ValueError(
                f"The first batch is of float32, but {where} is not: give every batch one type."
            )

    def _check_rows(self, n_rows: int) -> None:
        if self._n_rows not in (None, n_rows):
            raise ValueError(
                f"The batches had {self._n_rows} rows in the first pass and {n_rows} in a later "
                "one: every pass must give the same rows. Give a function that makes the iterator "
                "anew, with the same seed and filters."
            )
        self._n_rows = n_rows

    def _place(self, row: int) -> str:
        batch = bisect_right(self._starts, row) - 1
        return f"row {row} (row {row - self._starts[batch]} of batch {batch})"


def _cut(batch: Batch, names: Sequence[str], first: int) -> Iterator[Piece]:
    columns = [batch.columns[name] for name in names]
    for start in range(first, batch.n_rows, BATCH_ROWS):
        stop = min(start + BATCH_ROWS, batch.n_rows)
        yield Piece([cells[start:stop] for cells in columns], stop - start)


def _as_batch(given: Any) -> Batch:
    """A batch as columns.

    Raises:
        TypeError: for what is no table.
        ValueError: for arrays that are none, or columns of several lengths.
    """
    if isinstance(given, np.ndarray):
        return _of_columns(_array_columns(given))
    if isinstance(given, Mapping):
        return _of_columns({str(name): np.asarray(cells) for name, cells in given.items()})
    frame = as_frame(given)
    columns = dict(zip(frame.columns, frame_columns(frame, frame.columns), strict=True))
    return Batch(columns, frame_types(frame), len(frame))


def _array_columns(array: np.ndarray) -> dict[str, np.ndarray]:
    if array.ndim != 2:
        raise ValueError(f"A batch must be a table of rows and columns; got shape {array.shape}.")
    return {f"column {j}": array[:, j] for j in range(array.shape[1])}


def _of_columns(columns: dict[str, np.ndarray]) -> Batch:
    import pyarrow as pa

    lengths = {len(cells) if cells.ndim == 1 else -1 for cells in columns.values()}
    if len(lengths) > 1 or -1 in lengths:
        raise ValueError(
            "The columns of a batch must be one-dimensional and of one length; got shapes "
            f"{[cells.shape for cells in columns.values()]}."
        )
    cells = {name: _numeric(array) for name, array in columns.items()}
    types = {
        name: pa.from_numpy_dtype(array.dtype) if isinstance(array, np.ndarray) else array.type
        for name, array in cells.items()
    }
    return Batch(cells, types, lengths.pop() if lengths else 0)


def _numeric(array: np.ndarray) -> Cells:
    """Numbers as they are; all else, None among it, as Arrow sees it."""
    import pyarrow as pa

    if array.dtype.kind in "fiub":
        return array
    try:
        return pa.array(array, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(
            f"A column of a batch holds cells of several kinds ({first_sentence(error)}): turn it "
            "into numbers."
        ) from None
