"""Parquet and Arrow files as Arrow tables of some rows each, columns of any type; and the way back.

For what is asked of single rows and written out again. Sums over rows go through
:mod:`minorant.data.dataset`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minorant.data.cutting import bytes_of, chunk_rows
from minorant.data.dataset import column_of, with_partitions
from minorant.data.files import as_arrow, check_target, file_format, written_whole
from minorant.data.grouping import GroupWalk
from minorant.data.paths import find_files, is_pattern
from minorant.data.stored import StoredFile, first_look, read_batches
from minorant.data.tables import at_row

if TYPE_CHECKING:
    import pyarrow as pa

_COPIES = 4  # of a table's cells that are there at a time besides its answers


def is_dataset(path: str) -> bool:
    """Whether a path means several files: a folder or a pattern."""
    return os.path.isdir(path) or is_pattern(path)


class Tables:
    """Files whose rows come as tables of so many rows, or of whole groups up to so many.

    Args:
        path: a file, a folder or a pattern.
        memory: bytes that may be taken, as a number or ``"2GB"``; smaller tables.
        answers: how many numbers will be said of each row.

    Raises:
        OSError: when a file is not there or cannot be read.
        ValueError: for files that are no tables.
    """

    def __init__(self, path: str, memory: int | str | None = None, answers: int = 0) -> None:
        self._files = with_partitions([first_look(found) for found in find_files(path)])
        self.names = tuple(self._files[0].types)
        width = _COPIES * (len(self.names) + answers)
        self.rows = chunk_rows(width, "float64", bytes_of(memory))

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, in order."""
        return tuple(file.path for file in self._files)

    @property
    def n_rows(self) -> int:
        """Rows of all files, from their footers."""
        return sum(file.n_rows for file in self._files)

    def read(
        self, columns: Collection[str] | None = None, group: str | None = None
    ) -> Iterator[pa.Table]:
        """The tables in order, of these columns as far as they are there; None for all.

        Raises:
            OSError: when a file has gone or was changed.
            ValueError: for files that do not agree, and rows of a group that are not together.
        """
        names = [name for name in self.names if columns is None or name in columns]
        walk = None if group not in names else GroupWalk(str(group), at_row, 0, True)
        held, starts = None, np.empty(0, dtype=bool)
        for batch in self._batches(names, columns is None):
            held = batch if held is None else _joined(held, batch)
            if walk is not None:
                starts = np.append(starts, walk.starts(batch.column(group).combine_chunks()))
            while end := self._end(held.num_rows, None if walk is None else starts):
                yield held.slice(0, end)
                held, starts = held.slice(end), starts[end:]
        if walk is not None:
            walk.check_once()
        if held is not None and held.num_rows:
            yield held

    def _end(self, n: int, starts: np.ndarray | None) -> int:
        """Where the next table ends; 0 where more rows are needed to tell."""
        if n < self.rows or n == 0:
            return 0
        if starts is None:
            return self.rows
        places = np.flatnonzero(starts[1:]) + 1
        inside = places[places <= self.rows]
        return int(inside[-1]) if len(inside) else int(places[0]) if len(places) else 0

    def _batches(self, names: Sequence[str], all_of_them: bool) -> Iterator[pa.Table]:
        import pyarrow as pa

        first = self._files[0]
        schema = pa.schema([(name, first.types[name]) for name in names])
        for file in self._files:
            _check_alike(first, file, names, all_of_them)
            stored = [name for name in names if name not in file.partition]
            for batch in read_batches(file, stored):
                if not batch.num_rows:
                    continue
                cells: Any = [column_of(file, batch, name) for name in names]
                yield _cast(pa.table(cells, names=list(names)), schema, file, first)


def _joined(held: pa.Table, batch: pa.Table) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([held, batch])


def _check_alike(
    first: StoredFile, file: StoredFile, names: Sequence[str], all_of_them: bool
) -> None:
    lacking = [name for name in names if name not in file.types]
    extra = [name for name in file.types if name not in names] if all_of_them else []
    if lacking or extra:
        what = f"no column {lacking[0]!r}" if lacking else f"a column {extra[0]!r}"
        other = "has" if lacking else "does not have"
        raise ValueError(
            f"The file {file.path!r} has {what}, which {first.path!r} {other}: write it again with "
            "the same columns, or leave the file out."
        )


def _cast(table: pa.Table, schema: pa.Schema, file: StoredFile, first: StoredFile) -> pa.Table:
    import pyarrow as pa

    if table.schema.equals(schema):
        return table
    try:
        return table.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    name = next(f.name for f in schema if table.schema.field(f.name).type != f.type)
    raise ValueError(
        f"Column {name!r} holds {file.types[name]} in the file {file.path!r}, but "
        f"{first.types[name]} in {first.path!r}: write it again with one type."
    )


# --- writing -------------------------------------------------------------------------------------


@contextlib.contextmanager
def appended_table(
    path: str, *, overwrite: bool = False
) -> Iterator[Callable[[Mapping[str, Any] | pa.Table], None]]:
    """A function that appends tables to a Parquet or Arrow file, which is there when all are.

    Columns have the types of the first table.

    Raises:
        OSError: when a file is there, its directory is not, or the disk is full.
        ValueError: for another format, which cannot be written part by part.
    """
    check_appended(path, overwrite=overwrite)
    with written_whole(path) as stream:
        writer: Any = None

        def append(columns: Mapping[str, Any] | pa.Table) -> None:
            nonlocal writer
            table = as_arrow(columns)
            writer = writer or _writer(path, table.schema, stream)
            writer.write_table(table.cast(writer.schema))

        try:
            yield append
        finally:
            if writer is not None:  # also one that failed: left open it complains when it goes
                writer.close()


def check_appended(path: str, *, overwrite: bool = False) -> None:
    """Raise before any work is done when ``appended_table`` could not write to ``path``."""
    if file_format(path) not in ("parquet", "arrow"):
        raise ValueError(
            f"The output {path!r} cannot be written part by part, as rows out of memory are: name "
            "a .parquet or .arrow file."
        )
    check_target(path, overwrite=overwrite)


def check_apart(out: str, path: str) -> None:
    """Raise FileExistsError where the output would be taken for a part of what is read."""
    target = os.path.realpath(out)
    inside = os.path.isdir(path) and Path(target).is_relative_to(os.path.realpath(path))
    if inside or fnmatch.fnmatch(target, os.path.realpath(path)):
        raise FileExistsError(
            f"The output {out!r} would be read as a part of {path!r}: write it elsewhere."
        )


def _writer(path: str, schema: pa.Schema, stream: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet

    if file_format(path) == "parquet":
        return pyarrow.parquet.ParquetWriter(stream, schema)
    return _ArrowWriter(pa.ipc.new_file(stream, schema), schema)


class _ArrowWriter:
    """Arrow's writer with the schema that Parquet's keeps too."""

    def __init__(self, writer: Any, schema: pa.Schema) -> None:
        self.schema, self.write_table, self.close = schema, writer.write_table, writer.close
