"""Parquet and Arrow files as chunks: one file, a folder, a pattern, folders named year=2024."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minorant.data.arrays import Table
from minorant.data.cells import Cells, Roles, float_type, kind_of, roles_of
from minorant.data.cutting import AbstractCutChunks, Cutter, Form, Piece, bytes_of, form_of
from minorant.data.delimited import no_rows
from minorant.data.grouping import group_kind
from minorant.data.paths import find_files
from minorant.data.stored import StoredFile, first_look, read_batches

if TYPE_CHECKING:
    import pyarrow as pa


class ParquetChunks(AbstractCutChunks):
    """Rows of Parquet or Arrow files, in the order of the files' paths, read again at every pass.

    The footers are read at once, the rows never all: a chunk has the same number of rows whatever
    the row groups are (the last one fewer; with groups, whole ones up to that number). Integers,
    truth, decimals and float64 become float64, nulls NaN. A part ``year=2024`` of a path below the
    folder is a column. Not for tables that fit in memory a few times over: read them whole.

    Args:
        path: a file, a folder, a pattern such as ``"rows/*.parquet"``, or several of them. CSV is
            refused: turn it into Parquet once.
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
        OSError: when a file is not there or cannot be read.
        ValueError: for files that are no tables or do not agree, and columns that are not there or
            not of numbers.

    Example:
        >>> import tempfile, pathlib
        >>> from minorant.data.dataset import ParquetChunks
        >>> from minorant.data.files import write_table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_table(pathlib.Path(folder) / "a.parquet", {"x": [1.0, 2.0], "y": [3, None]})
        ...     write_table(pathlib.Path(folder) / "b.parquet", {"x": [5.0], "y": [6]})
        ...     chunks = ParquetChunks(folder, chunk_rows=2)
        ...     [table.values.tolist() for table in chunks.read()]
        [[[1.0, 3.0], [2.0, nan]], [[5.0, 6.0]]]
    """

    def __init__(  # noqa: PLR0913
        self,
        path: str | os.PathLike[str] | Iterable[Any],
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
        self._files = with_partitions([first_look(found) for found in find_files(path)])
        self.memory = bytes_of(memory)
        form = _form(self._files, roles, self.memory, chunk_rows)
        self._starts = np.concatenate([[0], np.cumsum([file.n_rows for file in self._files])])
        if self.n_rows == 0:
            raise ValueError(_none_in(self._files))
        _check_room(self._files, len(form.columns), self.memory)
        self._cutter = Cutter(form._replace(empty_rows=empty_rows), self._place)

    @property
    def n_rows(self) -> int:
        """Rows of all files, from their footers."""
        return int(self._starts[-1])

    def read(self, first: int = 0) -> Iterator[Table]:
        """The chunks in order, from number ``first``; see :class:`AbstractChunks`."""
        return self._cutter.read(self._pieces, first)

    def count(self) -> int | None:
        """How many chunks there are; with groups, None before the first whole pass."""
        return self._cutter.count(self.n_rows)

    def identity(self) -> str:
        """A digest of the files' paths, sizes and times of change, and of what is read of them."""
        seen = [(os.path.abspath(file.path), *file.stamp[1:]) for file in self._files]
        return hashlib.sha256(repr((seen, self._cutter.form)).encode()).hexdigest()

    def _pieces(self, row: int) -> Iterator[Piece]:
        names = self._cutter.form.columns
        for file, start in zip(self._files, self._starts.tolist(), strict=False):
            if start + file.n_rows <= row:
                continue
            stored = [name for name in names if name not in file.partition]
            for batch in read_batches(file, stored, max(row - start, 0)):
                yield Piece([column_of(file, batch, name) for name in names], batch.num_rows)

    def _place(self, row: int) -> str:
        file = int(np.searchsorted(self._starts, row, side="right")) - 1
        inside = row - int(self._starts[file])
        path = repr(self._files[file].path)
        if len(self._files) == 1:
            return f"row {row} of the file {path}"
        return f"row {row} (row {inside} of the file {path})"


def _none_in(files: Sequence[StoredFile]) -> str:
    if len(files) == 1:
        return no_rows(f"The file {files[0].path!r}")
    return (
        f"None of the {len(files)} files, {files[0].path!r} the first, has rows: give at least one."
    )


def column_of(file: StoredFile, batch: pa.RecordBatch, name: str) -> Cells:
    """A column of a batch, or what the file's folders say of all its rows."""
    import pyarrow as pa

    if name not in file.partition:
        return batch.column(batch.schema.get_field_index(name))
    value = pa.array([file.partition[name]], pa.string()).cast(file.types[name])
    return pa.repeat(value[0], batch.num_rows)


def _form(files: Sequence[StoredFile], roles: Roles, memory: int | None, rows: int | None) -> Form:
    form = form_of(files[0].types, roles, f"the file {files[0].path!r}", memory, rows)
    for file in files[1:]:
        _check_alike(files[0], file, form, roles.columns is None)
    dtype = float_type([file.types[name] for file in files for name in form.names])
    return form._replace(dtype=dtype)


def _check_room(files: Sequence[StoredFile], n_columns: int, memory: int | None) -> None:
    """A record batch of an Arrow file is read whole, whatever its size."""
    for file in files:
        size = 8 * n_columns * max(file.lengths, default=0)
        if memory is not None and file.kind == "arrow" and size > memory // 2:
            raise ValueError(
                f"The file {file.path!r} has a record batch of {max(file.lengths)} rows, about "
                f"{size} bytes, which is too long for a memory of {memory}: write it with shorter "
                "ones, or as Parquet."
            )


def _check_alike(first: StoredFile, file: StoredFile, form: Form, all_of_them: bool) -> None:
    for name in form.columns:
        if name not in file.types:
            raise ValueError(
                f"The file {file.path!r} has no column {name!r}, which {first.path!r} has: write "
                "it again with the same columns, or leave the file out."
            )
        kind = group_kind if name == form.groups else kind_of
        found, known = kind(file.types[name]), kind(first.types[name])
        if found != known and str(file.types[name]) != "null":  # nulls are of any kind
            raise ValueError(
                f"Column {name!r} holds {found} in the file {file.path!r}, but {known} in "
                f"{first.path!r}: write it again with one type, or leave the file or column out."
            )
    extra = [name for name in file.types if name not in first.types] if all_of_them else []
    if extra:
        raise ValueError(
            f"The file {file.path!r} has a column {extra[0]!r} that {first.path!r} does not have: "
            "name the columns to read with columns=[...], or leave the file out."
        )


# --- folders named year=2024 ---------------------------------------------------------------------


def with_partitions(files: list[StoredFile]) -> tuple[StoredFile, ...]:
    """Types of all columns; what a file has itself is not taken from its folders."""
    files = [file._replace(partition=_not_stored(file)) for file in files]
    kinds = {name: _partition_type(name, files) for file in files for name in file.partition}
    return tuple(
        file._replace(types=file.types | {name: kinds[name] for name in file.partition})
        for file in files
    )


def _not_stored(file: StoredFile) -> dict[str, str | None]:
    return {name: value for name, value in file.partition.items() if name not in file.types}


def _partition_type(name: str, files: Sequence[StoredFile]) -> pa.DataType:
    """Whole numbers, numbers or text: the first that all values can be."""
    import pyarrow as pa

    values = pa.array([file.partition.get(name) for file in files], pa.string())
    for kind in (pa.int64(), pa.float64()):
        try:
            values.cast(kind)
        except pa.ArrowInvalid:
            continue
        return kind
    return pa.string()
