"""One Parquet or Arrow file: a first look at what it holds, and its rows in batches from any row.

The first look reads the footer alone. Files are read, never mapped: pages of a mapped file count as
the memory of the process, and a file cut short under a mapping ends it. What a file was at the
first look (size and time of change) is compared after every batch, so that rows of another file
are never taken for its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from minorant.data.delimited import check_unique
from minorant.data.files import ARROW_MAGIC, PANDAS_INDEX, file_format, first_sentence
from minorant.data.paths import FoundFile

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1 << 16  # cells of a column then stay in the second-level cache while they are copied
_BUFFER = (
    1 << 18
)  # bytes read at a time from each column: row groups of any size stay out of memory
_T = TypeVar("_T")


class Stamp(NamedTuple):
    """What tells that a file is the one that was looked at: bytes, and nanoseconds of change."""

    path: str
    size: int
    changed: int


class StoredFile(NamedTuple):
    """What the first look found: ``lengths`` are the rows of each row group or record batch."""

    stamp: Stamp
    kind: str
    types: dict[str, pa.DataType]
    lengths: tuple[int, ...]
    partition: dict[str, str | None]

    @property
    def path(self) -> str:
        """Where the file is."""
        return self.stamp.path

    @property
    def n_rows(self) -> int:
        """Rows of the file."""
        return sum(self.lengths)


def first_look(found: FoundFile) -> StoredFile:
    """What a file holds, from its footer.

    Raises:
        OSError: when it cannot be opened.
        ValueError: when it is empty, cut short or of another format.
    """
    name = f"The file {found.path!r}"
    kind = file_format(found.path)
    stamp = stamp_of(found.path)
    if stamp.size == 0:
        raise ValueError(f"{name} is empty: write it again, or leave it out.")
    look = _look_at_parquet if kind == "parquet" else _look_at_arrow
    schema, lengths = _guarded(lambda: look(found.path), name, kind)
    check_unique(schema.names, name)
    types = {field.name: field.type for field in schema if not PANDAS_INDEX.fullmatch(field.name)}
    return StoredFile(stamp, kind, types, lengths, found.partition)


def read_batches(
    file: StoredFile, columns: Sequence[str], first: int = 0
) -> Iterator[pa.RecordBatch]:
    """The rows from number ``first`` on, in batches of some columns.

    Raises:
        OSError: when the file has gone or was changed since the first look.
        ValueError: when its bytes cannot be read.
    """
    name = f"The file {file.path!r}"
    check_unchanged(file.stamp)
    read = _read_parquet if file.kind == "parquet" else _read_arrow
    batches = read(file, columns, first)
    while True:
        try:
            batch = _guarded(lambda: next(batches, None), name, file.kind)
        except (OSError, ValueError):
            check_unchanged(file.stamp)  # the better reason
            raise
        check_unchanged(file.stamp)
        if batch is None:
            return
        yield batch


def stamp_of(path: str) -> Stamp:
    """What a file is now.

    Raises:
        OSError: when it is not there or cannot be opened.
    """
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
    except FileNotFoundError:
        raise FileNotFoundError(f"The file {path!r} does not exist: check the path.") from None
    except PermissionError:
        raise PermissionError(
            f"The file {path!r} may not be read by this user: ask for the permission to read it."
        ) from None
    return Stamp(path, status.st_size, status.st_mtime_ns)


def check_unchanged(stamp: Stamp) -> None:
    """Raise OSError when a file has gone or is not what it was at the first look."""
    try:
        status = os.stat(stamp.path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"The file {stamp.path!r} has gone since it was first read: put it back, then go on "
            "from the last checkpoint or start again."
        ) from None
    if (status.st_size, status.st_mtime_ns) != (stamp.size, stamp.changed):
        raise OSError(
            f"The file {stamp.path!r} was changed since it was first read (it had {stamp.size} "
            f"bytes, now {status.st_size}): start again, and write new rows to another place "
            "while a fit reads."
        )


def _guarded(read: Callable[[], _T], name: str, kind: str) -> _T:
    """What ``read`` returns; Arrow's refusals as one sentence."""
    import pyarrow as pa

    try:
        return read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{name} is not a readable {kind.capitalize()} table ({first_sentence(error)}): write "
            "the file again, or give it the ending of its format."
        ) from None


# --- Parquet -------------------------------------------------------------------------------------


def _look_at_parquet(path: str) -> tuple[pa.Schema, tuple[int, ...]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        groups = range(file.metadata.num_row_groups)
        lengths = tuple(file.metadata.row_group(group).num_rows for group in groups)
        return file.schema_arrow, lengths


def _read_parquet(file: StoredFile, columns: Sequence[str], first: int) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet

    group, skip = _position(file.lengths, first)
    groups = range(group, len(file.lengths))
    if not groups:
        return
    with pyarrow.parquet.ParquetFile(file.path, buffer_size=_BUFFER, pre_buffer=False) as opened:
        batches = opened.iter_batches(
            BATCH_ROWS, row_groups=groups, columns=list(columns), use_threads=False
        )
        yield from _skipped(batches, skip)


def _position(lengths: Sequence[int], row: int) -> tuple[int, int]:
    """The part that holds a row, and the row's number in it."""
    for part, length in enumerate(lengths):
        if row < length:
            return part, row
        row -= length
    return len(lengths), 0


def _skipped(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if rows < batch.num_rows:
            yield batch.slice(rows) if rows else batch
        rows = max(rows - batch.num_rows, 0)


# --- Arrow ---------------------------------------------------------------------------------------


def _look_at_arrow(path: str) -> tuple[pa.Schema, tuple[int, ...]]:
    """One column is enough to count rows, and of one that is not compressed no cell is read."""
    import pyarrow as pa

    with pa.memory_map(path) as stream:
        schema, count, _ = _open_arrow(stream, None)
    with pa.memory_map(path) as stream:
        _, count, part = _open_arrow(stream, [0] if schema.names else None)
        return schema, tuple(part(index).num_rows for index in range(count))


def _open_arrow(stream: Any, fields: list[int] | None) -> tuple[pa.Schema, int, Callable[..., Any]]:
    """The schema, how many record batches there are, and what gets each in turn."""
    import pyarrow as pa

    options = pa.ipc.IpcReadOptions(included_fields=fields)
    stream.seek(0)
    if stream.read(len(ARROW_MAGIC)) == ARROW_MAGIC:
        stream.seek(0)
        opened: Any = pa.ipc.open_file(stream, options=options)
        return opened.schema, opened.num_record_batches, opened.get_batch
    raise pa.ArrowInvalid("a stream, not a file")


def _read_arrow(file: StoredFile, columns: Sequence[str], first: int) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    part, skip = _position(file.lengths, first)
    with pa.OSFile(file.path) as stream:
        schema = _open_arrow(stream, None)[0]
        fields = sorted(schema.get_field_index(name) for name in columns)
        _, count, get = _open_arrow(stream, fields)
        batches = (piece for index in range(part, count) for piece in _pieces(get(index)))
        yield from _skipped(batches, skip)


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield batch.slice(start, BATCH_ROWS)
