"""Arrays, memory maps and data frames as chunks of one length, each copied when it is its turn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from minorant.data.arrays import Table
from minorant.data.cells import Cells, roles_of
from minorant.data.chunks import AbstractChunks
from minorant.data.cutting import (
    AbstractCutChunks,
    Cutter,
    Form,
    Piece,
    bytes_of,
    chunk_rows,
    form_of,
)
from minorant.data.delimited import check_unique
from minorant.data.maps import Sent, give_back, place_of, stamp_of_map
from minorant.data.stored import BATCH_ROWS, check_unchanged
from minorant.data.tables import at_row

if TYPE_CHECKING:
    import pyarrow as pa

_PIECE_BYTES = 1 << 20  # rows of an array that stay in the cache while their columns are copied


class ArrayChunks(AbstractCutChunks):
    """Rows of an array in any order of memory, or of a memory map (``numpy.memmap``).

    Pages of a map that were read are given back, so that the process stays small however long the
    file is. Not for arrays that fit in memory twice: ``minorant.fit(model, array)`` is faster.

    Args:
        values: (n, d) numbers, NaN where missing; float32 stays, all else becomes float64.
        weights: (n,) row weights, or None.
        labels: (n,) known components, -1 or NaN where unknown, or None.
        groups: (n,) what belongs together; rows of a group follow one another.
        inputs: (n, m) known covariates, or None.
        memory: bytes that the process may take, as a number or ``"2GB"``; smaller chunks.
        chunk_rows: rows of a chunk, instead of the rule (about 32 MB, a power of two).
        empty_rows: let rows without any observed cell through.

    Raises:
        ValueError: for what is no table of numbers, or an argument of another length.

    Example:
        >>> import numpy as np
        >>> from minorant.data.in_chunks import ArrayChunks
        >>> chunks = ArrayChunks(np.arange(6.0).reshape(3, 2), chunk_rows=2)
        >>> [table.values.tolist() for table in chunks.read()]
        [[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0]]]
    """

    def __init__(  # noqa: PLR0913
        self,
        values: Float[np.ndarray, "n d"],
        *,
        weights: Any = None,
        labels: Any = None,
        groups: Any = None,
        inputs: Any = None,
        memory: int | str | None = None,
        chunk_rows: int | None = None,
        empty_rows: bool = False,
    ) -> None:
        self._values = _matrix(values, "data")
        n = len(self._values)
        self._inputs = None if inputs is None else _matrix(inputs, "inputs", n)
        single = {"weights": weights, "labels": labels, "groups": groups}
        self._single = {k: _vector(v, k, n) for k, v in single.items() if v is not None}
        self.memory = bytes_of(memory)
        form = _array_form(self._values, self._single, self._inputs, self.memory, chunk_rows)
        self._cutter = Cutter(form._replace(empty_rows=empty_rows), self._place)
        self._maps = [array for array in self._arrays() if isinstance(array, np.memmap)]
        self._stamps = [stamp_of_map(array) for array in self._maps]

    def __getstate__(self) -> dict[str, Any]:
        """Maps travel as the places of their files; what is not in a file travels itself."""
        return self.__dict__ | {
            "_values": _sent(self._values),
            "_inputs": _sent(self._inputs),
            "_single": {name: _sent(array) for name, array in self._single.items()},
            "_maps": [],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for stamp in self._stamps:
            if stamp is not None:
                check_unchanged(stamp)
        self._values, self._inputs = _opened(self._values), _opened(self._inputs)
        self._single = {name: _opened(array) for name, array in self._single.items()}
        self._maps = [array for array in self._arrays() if isinstance(array, np.memmap)]

    def at_row(self, row: int) -> str:
        """Where a row is, in words."""
        return at_row(row)

    def _place(self, row: int) -> str:
        return self.at_row(row)

    def _arrays(self) -> list[Any]:
        return [self._values, self._inputs, *self._single.values()]

    @property
    def n_rows(self) -> int:
        """Rows of the array."""
        return len(self._values)

    def read(self, first: int = 0) -> Iterator[Table]:
        """The chunks in order, from number ``first``; see :class:`AbstractChunks`."""
        return self._cutter.read(self._pieces, first)

    def count(self) -> int | None:
        """How many chunks there are; with groups, None before the first whole pass."""
        return self._cutter.count(self.n_rows)

    def identity(self) -> str:
        """Of memory maps, a digest of the files' paths, sizes and times; else of all cells."""
        given = [array for array in self._arrays() if array is not None]
        places = [place_of(array) if isinstance(array, np.memmap) else None for array in given]
        if None in places:
            return digest(self)
        seen = (self._stamps, places, self._cutter.form)
        return hashlib.sha256(repr(seen).encode()).hexdigest()

    def _pieces(self, row: int) -> Iterator[Piece]:
        size = max(_PIECE_BYTES // max(self._values.strides[0], 1), 1)
        size = BATCH_ROWS if self._values.flags.f_contiguous else min(size, BATCH_ROWS)
        for start in range(row, self.n_rows, size):
            for stamp in self._stamps:
                if stamp is not None:
                    check_unchanged(stamp)
            part = slice(start, start + size)
            count = min(size, self.n_rows - start)
            yield Piece(self._columns(part), count)
            if (start - row) // BATCH_ROWS != (start + size - row) // BATCH_ROWS:
                give_back(self._maps)

    def _columns(self, part: slice) -> list[np.ndarray]:
        beside = [self._single[k][part] for k in ("weights", "labels") if k in self._single]
        inputs = [] if self._inputs is None else list(self._inputs[part].T)
        groups = [self._single["groups"][part]] if "groups" in self._single else []
        return [*self._values[part].T, *beside, *inputs, *groups]


def _sent(array: np.ndarray | None) -> Any:
    place = place_of(array) if isinstance(array, np.memmap) else None
    return array if place is None else place


def _opened(array: Any) -> Any:
    return array.opened() if isinstance(array, Sent) else array


def _matrix(array: Any, name: str, n: int | None = None) -> np.ndarray:
    array = array if isinstance(array, np.ndarray) else np.asarray(array)
    if name == "inputs" and array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"{name} must be a table of n rows and d columns, both at least 1; got shape "
            f"{array.shape}."
        )
    if n is not None and len(array) != n:
        raise ValueError(f"{name} must have one row per row of data, {n}; got {len(array)}.")
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"{name} must hold numbers to be read in chunks; got an array of {array.dtype}. Give "
            "an array of floats, or a data frame."
        )
    return array


def _vector(array: Any, name: str, n: int) -> np.ndarray:
    if isinstance(array, str):
        raise ValueError(
            f"{name} must be an array of one entry per row; got the name {array!r}, and the "
            "columns of an array have no names. Give the array, or a data frame."
        )
    array = array if isinstance(array, np.ndarray) else np.asarray(array)
    if array.shape != (n,):
        raise ValueError(f"{name} must have one entry per row, shape ({n},); got {array.shape}.")
    if name != "groups" and array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be numbers; got an array of {array.dtype}.")
    return array


def _array_form(
    values: np.ndarray,
    single: dict[str, np.ndarray],
    inputs: np.ndarray | None,
    memory: int | None,
    rows: int | None,
) -> Form:
    if rows is not None and rows < 1:
        raise ValueError(f"chunk_rows must be at least 1; got {rows}.")
    names = tuple(f"column {j}" for j in range(values.shape[1]))
    wide = () if inputs is None else tuple(f"column {j}" for j in range(inputs.shape[1]))
    dtype = "float32" if values.dtype == np.float32 else "float64"
    rows = rows or chunk_rows(len(names), dtype, memory)
    weights, labels, groups = (k if k in single else None for k in ("weights", "labels", "groups"))
    return Form(names, dtype, rows, weights, labels, groups, wide)


# --- frames --------------------------------------------------------------------------------------


class FrameChunks(AbstractCutChunks):
    """Rows of a pandas, polars or Arrow table in memory, turned into floats chunk by chunk.

    The table is held once, as it is, instead of a second time as floats. Not for tables that fit in
    memory twice: ``minorant.fit(model, frame)`` is faster.

    Args:
        frame: the table.
        columns: names of the columns to describe; None for all that have no other role.
        weights: name of the column of row weights.
        labels: name of the column of known components, -1 or null where unknown.
        groups: name of the column of what belongs together; rows of a group follow one another.
        inputs: names of the columns of known covariates.
        memory: bytes that the process may take, as a number or ``"2GB"``; smaller chunks.
        chunk_rows: rows of a chunk, instead of the rule (about 32 MB, a power of two).
        empty_rows: let rows without any observed cell through.
        categories: columns that may hold text; they are read once labels are known, see `coded`.

    Raises:
        ValueError: for a table without rows, and columns that are not there or not of numbers.

    Example:
        >>> import pyarrow as pa
        >>> from minorant.data.in_chunks import FrameChunks
        >>> frame = pa.table({"x": [1, None], "y": [True, False], "count": [1.0, 3.0]})
        >>> [table] = FrameChunks(frame, weights="count").read()
        >>> table.values.tolist(), table.weights.tolist()
        ([[1.0, 1.0], [nan, 0.0]], [1.0, 3.0])
    """

    def __init__(  # noqa: PLR0913
        self,
        frame: Any,
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
        roles = roles_of(columns, weights, labels, groups, inputs, categories)
        self._frame = as_frame(frame)
        self.memory = bytes_of(memory)
        if len(self._frame) == 0:
            raise ValueError(f"data must have rows and columns; got shape {self._frame.shape}.")
        form = form_of(frame_types(self._frame), roles, "the table", self.memory, chunk_rows)
        self._cutter = Cutter(form._replace(empty_rows=empty_rows), self._place)

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return len(self._frame)

    def read(self, first: int = 0) -> Iterator[Table]:
        """The chunks in order, from number ``first``; see :class:`AbstractChunks`."""
        return self._cutter.read(self._pieces, first)

    def count(self) -> int | None:
        """How many chunks there are; with groups, None before the first whole pass."""
        return self._cutter.count(self.n_rows)

    def identity(self) -> str:
        """A digest of all cells."""
        return digest(self)

    def _pieces(self, row: int) -> Iterator[Piece]:
        names = self._cutter.form.columns
        frame = self._frame.select(names)
        for start in range(row, self.n_rows, BATCH_ROWS):
            part = frame[start : start + BATCH_ROWS]
            yield Piece(frame_columns(part, names), len(part))

    def _place(self, row: int) -> str:
        return at_row(row)


def as_frame(data: Any) -> Any:
    """A table as a narwhals frame with names that are text.

    Raises:
        TypeError: for what is no table.
        ValueError: for a lazy one, or two columns of one name.
    """
    import narwhals as nw
    import pyarrow as pa

    try:
        frame = nw.from_native(
            pa.Table.from_batches([data]) if isinstance(data, pa.RecordBatch) else data
        )
    except TypeError:
        raise TypeError(
            f"data must be a pandas, polars or Arrow table here; got a {type(data).__name__}."
        ) from None
    except (nw.exceptions.DuplicateError, ValueError):
        raise ValueError(
            "The table has more than one column of one name: give every column a name of its own."
        ) from None
    if isinstance(frame, nw.LazyFrame):
        raise ValueError(
            "A lazy frame would be worked out anew for every chunk: write it to a file once "
            "(polars: frame.sink_parquet('rows.parquet')) and give that file, or collect it."
        )
    check_unique([str(name) for name in frame.columns], "The table")
    return frame.rename({name: str(name) for name in frame.columns if not isinstance(name, str)})


def frame_types(frame: Any) -> dict[str, pa.DataType]:
    """Arrow types of a narwhals frame's columns; those of objects by all their cells."""
    types = {}
    for name in frame.columns:
        of_objects = str(frame[name].dtype) in ("Object", "Unknown")
        part = frame.select(name) if of_objects else frame.select(name)[:0]
        types[str(name)] = _arrow(part).schema.field(0).type
    return types


def frame_columns(frame: Any, names: Sequence[str]) -> list[Cells]:
    """Columns of a narwhals frame: arrays where pandas has some, else of Arrow."""
    arrays = {name: _plain(frame[name].to_native()) for name in names}
    others = [name for name, array in arrays.items() if array is None]
    table = _arrow(frame.select(others)) if others else {}
    return [_whole(table[name]) if array is None else array for name, array in arrays.items()]


def _plain(series: Any) -> np.ndarray | None:
    """The array of numbers that a pandas series is, None of any other."""
    kind = getattr(series, "dtype", None)
    return series.to_numpy() if isinstance(kind, np.dtype) and kind.kind in "fiub" else None


def _arrow(frame: Any) -> pa.Table:
    import pyarrow as pa

    try:
        return frame.to_arrow()
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(
            f"Columns of the table hold cells of several kinds ({error.args[0]}): turn each into "
            "numbers, or leave it out with columns=[...]."
        ) from None


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def digest(chunks: AbstractChunks) -> str:
    """A digest of all cells, from one pass over them."""
    found = hashlib.blake2b(repr((chunks.names, chunks.dtype)).encode(), digest_size=32)
    for table in chunks.read():
        found.update(str(len(table.values)).encode())
        for field in table:
            if field is not None:
                for column in field.reshape(len(field), -1).T:
                    found.update(np.ascontiguousarray(column).data)
    return found.hexdigest()
