"""CSV and its tab-separated sister: text to columns, or one sentence with the line that is wrong.

Every cell is read as text first; a column then becomes whole numbers, numbers or text by all its
cells, not by the first ones. Arrow, which does the reading, is imported when it is first used.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

MISSING = ("", "NA", "NaN", "nan", "null", "NULL", "None", "N/A")


def check_unique(names: list[str], place: str) -> None:
    """Raise ValueError when two columns share a name."""
    twice = next((one for one in names if names.count(one) > 1), None)
    if twice is not None:
        raise ValueError(
            f"{place} has more than one column named {twice!r}: give every column a name of its "
            "own in the first line."
        )


def no_rows(name: str) -> str:
    """The refusal of a table that is a header alone."""
    return f"{name} has a header and no rows: give at least one row."


def parse_delimited(
    content: bytes, delimiter: str, name: str, text: Collection[str] = ()
) -> pa.Table:
    """The table that a file's bytes spell; ``name`` stands for the file in refusals.

    Raises:
        ValueError: for bytes that are no text, no header or two columns of one name in it, rows of
            another length, an open quotation.
    """
    import pyarrow as pa

    header = _header(content, delimiter, name)
    _check_quotes(content, name)
    try:
        table = _strings(content, header, delimiter, name)
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise ValueError(no_rows(name)) from None
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{name} is not a CSV table ({reason}): correct the file.") from None
    return pa.table({one: _typed(table[one], one in text) for one in table.column_names})


def _header(content: bytes, delimiter: str, name: str) -> list[str]:
    """The names in the first line that is not blank, checked."""
    _check_text(content, name)
    lines = io.StringIO(content[: 1 << 20].decode("utf-8-sig", errors="replace"), newline=None)
    header = next((row for row in csv.reader(lines, delimiter=delimiter) if row), [])
    if not header:
        raise ValueError(f"{name} is empty: give a table with a header and rows.")
    other = next((mark for mark in ";\t|" if mark in header[0] and mark != delimiter), None)
    if len(header) == 1 and other:
        raise ValueError(
            f"{name} separates its columns by {other!r}, not by {delimiter!r}: save it with commas "
            "as .csv, or with tabs as .tsv."
        )
    check_unique(header, name)
    if _looks_like_data(header):
        raise ValueError(
            f"{name} has no header: its first line holds only numbers ({', '.join(header[:3])}). "
            "Put a line with the columns' names above it."
        )
    return header


def _check_text(content: bytes, name: str) -> None:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{name} is not UTF-8 text: line {line} holds the byte 0x{content[error.start]:02x}. "
            "Save it as UTF-8, or give it the ending of its format."
        ) from None
    if b"\0" in content:
        raise ValueError(
            f"{name} holds bytes that are no text: save it as UTF-8 text, or give it the ending of "
            "its format."
        )


def _looks_like_data(header: list[str]) -> bool:
    """Whether a first line holds numbers alone, one of them with a fraction."""
    try:
        values = [float(cell) for cell in header]
    except ValueError:
        return False
    return any(value != round(value) if np.isfinite(value) else True for value in values)


def _check_quotes(content: bytes, name: str) -> None:
    if content.count(b'"') % 2:
        raise ValueError(f"{name} has a quotation mark that is never closed: correct the file.")


def _strings(content: bytes, header: list[str], delimiter: str, name: str) -> pa.Table:
    """Every column as text, cells of ``MISSING`` as nulls."""
    ragged: list[Any] = []
    table = _parse(content, header, delimiter, ragged)
    if ragged:
        line, found = _first_ragged(content, delimiter, len(header))
        mark = "comma" if delimiter == "," else "tab"
        raise ValueError(
            f"{name} has {found} cells in line {line} and {len(header)} in its header: give every "
            f"row one cell per column, and put quotation marks around a cell that holds a {mark}."
        )
    return table


def _first_ragged(content: bytes, delimiter: str, width: int) -> tuple[int, int]:
    """The line and the length of the first row that is not as wide as the header."""
    reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=None), delimiter=delimiter)
    wrong = ((reader.line_num, len(row)) for row in reader if row and len(row) != width)
    return next(wrong)


def _parse(content: bytes, header: list[str], delimiter: str, ragged: list[Any]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv

    def note(row: Any) -> str:
        ragged.append(row)
        return "skip"

    return pyarrow.csv.read_csv(
        pa.BufferReader(content),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=delimiter, invalid_row_handler=note, newlines_in_values=True
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()),
            null_values=list(MISSING),
            strings_can_be_null=True,
        ),
    )


def _typed(column: pa.ChunkedArray, is_text: bool) -> pa.ChunkedArray:
    """Whole numbers, numbers or text: the first that all cells can be."""
    import pyarrow as pa

    if column.null_count == len(column):
        return column.cast(pa.string() if is_text else pa.float64())
    kinds = () if is_text else (pa.int64(), pa.float64())
    for cells in (lambda: column, lambda: _trimmed(column)):
        for kind in kinds:
            with contextlib.suppress(pa.ArrowInvalid):
                return cells().cast(kind)
    return _trimmed(column)


def _trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without blanks around the cells."""
    import pyarrow as pa
    import pyarrow.compute

    compute: Any = pyarrow.compute
    bare = compute.utf8_trim_whitespace(column)
    missing = compute.is_in(bare, value_set=pa.array(MISSING))
    return compute.if_else(missing, pa.scalar(None, pa.string()), bare)
