"""Tables in files: CSV, Parquet and Arrow, read whole and written whole or not at all.

A format is told by a file's ending; ``-`` is CSV on standard input or output. Every refusal is one
sentence with the file, the place and the remedy, of the built-in kind that Python itself would
raise (``FileNotFoundError``, ``PermissionError``, ``ValueError`` and so on). Rows are counted from
0, the header left out. Arrow is imported when a file is first read or written.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from minorant.data.delimited import check_unique, no_rows, parse_delimited

if TYPE_CHECKING:
    import pyarrow as pa

STANDARD = "-"
FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_DELIMITERS = {"csv": ",", "tsv": "\t"}
ARROW_MAGIC = b"ARROW1"
PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def file_format(path: str | Path) -> str:
    """``csv``, ``tsv``, ``parquet`` or ``arrow``, by the ending of the name.

    Raises:
        ValueError: for any other ending; lists the known ones.

    Example:
        >>> from minorant.data.files import file_format
        >>> file_format("rows.feather")
        'arrow'
    """
    if str(path) == STANDARD:
        return "csv"
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        shown = f"the ending {ending!r}" if ending else "no ending"
        raise ValueError(
            f"The file {str(path)!r} has {shown}, so its format is not known: use one of "
            f"{', '.join(FORMATS)}, or - for CSV on standard input or output."
        )
    return FORMATS[ending]


# --- reading -------------------------------------------------------------------------------------


def read_table(path: str | Path, text: Collection[str] = ()) -> pa.Table:
    r"""The table in a file, missing cells as nulls.

    In CSV a column is whole numbers, numbers or text, the first that all its cells can be; cells
    that are empty or NA, NaN, null, None or N/A are missing. The index that pandas adds to Parquet
    and Arrow files is left out.

    Args:
        path: a file with one of the endings of ``FORMATS``, or ``-`` for CSV on standard input.
        text: columns of a CSV that stay text though they hold numbers alone.

    Raises:
        OSError: when the file is not there, is a directory, or cannot be read.
        ValueError: when it holds no table, no rows, or two columns of one name.

    Example:
        >>> import tempfile, pathlib
        >>> from minorant.data.files import read_table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder) / "rows.csv"
        ...     _ = file.write_text("height,group\n1.5,a\nNA,b\n")
        ...     read_table(file).to_pydict()
        {'height': [1.5, None], 'group': ['a', 'b']}
    """
    kind = file_format(path)
    name = "Standard input" if str(path) == STANDARD else f"The file {str(path)!r}"
    content = _content(path, name)
    if not content:
        raise ValueError(f"{name} is empty: give a table with a header and rows.")
    if kind in _DELIMITERS:
        table = parse_delimited(content, _DELIMITERS[kind], name, text)
    else:
        table = _from_binary(content, kind, name)
    _check_table(table, name)
    return table


def _content(path: str | Path, name: str) -> bytes:
    if str(path) == STANDARD:
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{name} does not exist: check the path.") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{name} is a directory: name a file in it.") from None
    except PermissionError:
        raise PermissionError(
            f"{name} may not be read by this user: ask for the permission to read it."
        ) from None
    except OSError as error:
        raise OSError(f"{name} cannot be read: {error.strerror or error}.") from None


def _check_table(table: pa.Table, name: str) -> None:
    if table.num_columns == 0:
        raise ValueError(f"{name} holds no columns: give a table with named columns.")
    check_unique(table.column_names, name)
    if table.num_rows == 0:
        raise ValueError(no_rows(name))


def _from_binary(content: bytes, kind: str, name: str) -> pa.Table:
    import pyarrow as pa

    try:
        table = _parquet(content) if kind == "parquet" else _arrow(content)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise ValueError(
            f"{name} is not a readable {kind.capitalize()} table ({first_sentence(error)}): write "
            "the file again, or give it the ending of its format."
        ) from None
    return table.select([c for c in table.column_names if not PANDAS_INDEX.fullmatch(c)])


def _parquet(content: bytes) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet

    return pyarrow.parquet.read_table(pa.BufferReader(content))


def _arrow(content: bytes) -> pa.Table:
    import pyarrow as pa

    opened = pa.ipc.open_file if content.startswith(ARROW_MAGIC) else pa.ipc.open_stream
    return opened(pa.BufferReader(content)).read_all()


def first_sentence(error: Exception) -> str:
    """The first sentence of another library's message."""
    return re.split(r"[.\n:]", str(error).strip())[0].lower()


# --- writing -------------------------------------------------------------------------------------


def write_table(
    path: str | Path, columns: Mapping[str, Any] | pa.Table, *, overwrite: bool = False
) -> None:
    """Write a table whole or not at all: to a file beside the target, renamed when complete.

    Args:
        path: a file with one of the endings of ``FORMATS``, or ``-`` for CSV on standard output.
        columns: an Arrow table, or columns ``(n,)`` by name; NaN and None are missing cells.
        overwrite: replace a file that is there.

    Raises:
        OSError: when a file is there, its directory is not, or the disk is full.
        ValueError: for an unknown ending.

    Example:
        >>> from minorant.data.files import write_table
        >>> write_table("-", {"height": [1.5, 2.5], "group": ["a", None]})
        height,group
        1.5,a
        2.5,
    """
    kind = file_format(path)
    if str(path) == STANDARD:
        _to_standard_output(as_arrow(columns))
        return
    check_target(path, overwrite=overwrite)
    with written_whole(path) as stream:
        _write(as_arrow(columns), kind, stream)


def check_target(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise before any work is done when ``write_table`` could not write to ``path``.

    Raises:
        OSError: when a file is there, or its directory is not.
        ValueError: for an unknown ending.
    """
    file_format(path)
    if str(path) == STANDARD:
        return
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"The output {str(path)!r} is a directory: name a file in it.")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"The directory {str(target.parent)!r} of the output {str(path)!r} does not exist: "
            "create it first."
        )
    if target.is_file() and not overwrite:
        raise FileExistsError(
            f"The output {str(path)!r} exists: give another name, or ask to overwrite it "
            "(--overwrite, overwrite=True)."
        )


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary stream whose content becomes the file ``path`` when the block ends well.

    Raises:
        OSError: when writing fails; nothing is left behind.
    """
    target = Path(path)
    try:
        if target.exists() and not target.is_file():  # a device or a pipe has no "half"
            with target.open("wb") as stream:
                yield stream
            return
        with _renamed(target) as stream:
            yield stream
    except BrokenPipeError:
        raise
    except OSError as error:
        raise type(error)(_reason(error, f"The output {str(path)!r}")) from None


@contextlib.contextmanager
def _renamed(target: Path) -> Iterator[IO[bytes]]:
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, _mode(target))
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _mode(target: Path) -> int:
    """The rights of the file replaced, or what the user's mask leaves for a new one."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _reason(error: OSError, what: str) -> str:
    text = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == 28:
        return (
            f"{what} cannot be written, for the disk is full: free some space, or write elsewhere."
        )
    return f"{what} cannot be written ({text.lower()}): write elsewhere, or ask for the permission."


def as_arrow(columns: Mapping[str, Any] | pa.Table) -> pa.Table:
    """Columns ``(n,)`` by name as an Arrow table; NaN and None are missing cells."""
    import pyarrow as pa

    if isinstance(columns, pa.Table):
        return columns
    return pa.table({name: pa.array(cells, from_pandas=True) for name, cells in columns.items()})


def _write(table: pa.Table, kind: str, stream: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if kind == "parquet":
        pyarrow.parquet.write_table(table, stream)
    elif kind == "arrow":
        with pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)
    else:
        _write_delimited(_plain(table), _DELIMITERS[kind], stream)


def _write_delimited(table: pa.Table, delimiter: str, stream: IO[bytes]) -> None:
    """The header by Python, the rows by Arrow, which would put every name and word in quotes."""
    import pyarrow.csv

    header = io.StringIO()
    csv.writer(header, delimiter=delimiter, lineterminator="\n").writerow(table.column_names)
    stream.write(header.getvalue().encode())
    options = pyarrow.csv.WriteOptions(
        include_header=False,
        delimiter=delimiter,
        quoting_style="needed" if _needs_quotes(table, delimiter) else "none",
    )
    pyarrow.csv.write_csv(table, stream, options)


def _needs_quotes(table: pa.Table, delimiter: str) -> bool:
    """Whether some text holds a mark of the format of CSV."""
    import pyarrow as pa
    import pyarrow.compute

    compute: Any = pyarrow.compute
    marks = f'["\n\r{delimiter}]'
    texts = [
        c for c in table.columns if pa.types.is_string(c.type) or pa.types.is_large_string(c.type)
    ]
    return any(compute.any(compute.match_substring_regex(text, marks)).as_py() for text in texts)


def _plain(table: pa.Table) -> pa.Table:
    """Dictionary-coded text as text, which CSV needs."""
    import pyarrow as pa

    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            column = table.column(index).cast(field.type.value_type)
            table = table.set_column(index, field.name, column)
    return table


def _to_standard_output(table: pa.Table) -> None:
    """CSV through Python's own stream, so that whoever replaced it gets it."""
    buffer = io.BytesIO()
    _write(table, "csv", buffer)
    sys.stdout.write(buffer.getvalue().decode())
    sys.stdout.flush()
