"""Rows that are not in memory, as the questions to a fit take them: chunk after chunk.

A question asks for tables and says something of each row. Of rows in memory there is one table, of
others one for every chunk, the next read ahead in a thread; what was said is joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from minorant._types import PyTree
from minorant.data.arrays import Table
from minorant.data.chunks import AbstractChunks, is_collection
from minorant.data.paths import is_place
from minorant.data.read_ahead import ahead

Sides = tuple[Any, Any, Any]  # weights, groups, inputs


def out_of_memory(data: Any) -> bool:
    """Whether these are chunks, or where files with rows are."""
    return is_place(data) or isinstance(data, AbstractChunks) or is_collection(data)


def opened(data: Any, names: Sequence[str] | None, sides: Sides) -> AbstractChunks | None:
    """The chunks that data are read in; None for tables in memory.

    Args:
        data: chunks, a path, folder or pattern of files, a memory map, or a table.
        names: the columns of files to read, None for all that have no other role.
        sides: weights, groups and inputs; of files the names of their columns.

    Raises:
        ValueError: for sides given beside chunks, which have their own.
        OSError: for files that are not there.
    """
    if not (out_of_memory(data) or isinstance(data, np.memmap)):
        return None
    from minorant.data.open_chunks import chunks

    given = dict(zip(("weights", "groups", "inputs"), sides, strict=True))
    named = is_place(data) or (is_collection(data) and hasattr(data, "columns"))
    columns = names if named else None
    return chunks(data, columns=columns, **given).with_empty_rows()


def checked_tables(chunks: AbstractChunks, check: Callable[[Table], None]) -> Iterator[Table]:
    """Every chunk, checked.

    Raises:
        ValueError: for a chunk that the fit cannot describe; says where it begins.
    """
    first = 0
    for table in ahead(chunks.read()):
        try:
            check(table)
        except ValueError as error:
            raise ValueError(_placed(str(error), first)) from None
        first += len(table.values)
        yield table
        del table  # nothing of it is held here while the next one is filled


def joined(parts: list[PyTree]) -> PyTree:
    """What was said of the rows of every chunk, end to end."""
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def refuse_chunks(data: Any) -> None:
    """Raise ValueError for rows out of memory where a question needs all of them at once."""
    if out_of_memory(data):
        raise ValueError(
            "This question needs the rows in memory; chunk after chunk there are log_evidence, "
            "evidence of an exact posterior or by quadrature, labels, posterior, impute, path, "
            "filtered and standard_errors. Read the rows into an array, or ask about a sample."
        )


def _placed(sentence: str, first: int) -> str:
    if first == 0:
        return sentence
    return f"{sentence} (Rows are counted within a chunk, which begins at row {first} of the data.)"
