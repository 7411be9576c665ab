"""One door to rows that are read in chunks, whatever they are kept in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minorant.data.chunks import AbstractChunks, is_collection
from minorant.data.dataset import ParquetChunks
from minorant.data.in_batches import BatchChunks
from minorant.data.in_chunks import ArrayChunks, FrameChunks


def chunks(  # noqa: PLR0913
    data: Any,
    *,
    columns: Sequence[str] | None = None,
    weights: Any = None,
    labels: Any = None,
    groups: Any = None,
    inputs: Any = None,
    memory: int | str | None = None,
    empty_rows: bool = False,
    dask: Any = None,
) -> AbstractChunks:
    """Rows to be read in chunks, as often as a fit asks for them.

    A fit on chunks climbs as it does on rows in memory; what it sums over rows, it sums chunk by
    chunk. Not for tables that fit in memory: give those to ``minorant.fit`` as they are.

    Args:
        data: a path to a Parquet or Arrow file, to a folder of them, a pattern such as
            ``"rows/*.parquet"`` or a list of these; an array or a memory map (n, d); a pandas,
            polars or Arrow table; batches (arrays, tables, mappings of columns) in a list or from a
            function that returns an iterator; a Dask dataframe or array; chunks, which are returned
            as they are.
        columns: names of the columns to describe; None for all that have no other role.
        weights: row weights: the name of a column, or, beside an array, an array (n,).
        labels: known components, -1 or missing where unknown: a name, or an array (n,).
        groups: what belongs together: a name, or an array (n,). Rows of a group must follow one
            another; a chunk holds whole groups.
        inputs: known covariates: names, or an array (n, m).
        memory: bytes that the fit may take, as a number or as ``"2GB"``.
        empty_rows: let rows without any observed cell through: for models that allow them.
        dask: who reads files and sums over them, instead of this process: a ``distributed.Client``,
            the address of a scheduler, or ``"local"`` for a process on every core; True for the
            client that was made last. Files must have the same paths on every machine.

    Returns:
        Chunks of about 32 MB, or less where ``memory`` asks for it.

    Raises:
        OSError: when a file is not there or cannot be read.
        TypeError: for data of another kind, or that can be gone through only once.
        ConnectionError: when no Dask scheduler answers.
        ImportError: for ``dask`` without the extra of that name.
        ValueError: for files that do not agree, and columns that are not there or not of numbers.

    Example:
        >>> import numpy as np
        >>> from minorant.data.open_chunks import chunks
        >>> rows = chunks(np.arange(12.0).reshape(6, 2), weights=np.ones(6))
        >>> rows.names, rows.count()
        (('column 0', 'column 1'), 1)
        >>> next(rows.read()).values[1].tolist()
        [2.0, 3.0]
    """
    given = (columns, weights, labels, groups, inputs)
    if isinstance(data, AbstractChunks):
        return _as_they_are(data, given)
    options: dict[str, Any] = {"memory": memory, "empty_rows": empty_rows}
    roles = {"weights": weights, "labels": labels, "groups": groups, "inputs": inputs}
    if dask not in (None, False) or is_collection(data):
        from minorant.data.dask_rows import on_dask

        options["columns"] = columns
        return on_dask(data, roles, options, None if dask is False else dask)
    if isinstance(data, np.ndarray):
        _check_no_columns(columns)
        return ArrayChunks(data, **roles, **options)
    return _reader(data)(data, columns=columns, **roles, **options)


def _as_they_are(data: AbstractChunks, given: tuple[Any, ...]) -> AbstractChunks:
    if any(one is not None for one in given):
        raise ValueError(
            "columns, weights, labels, groups and inputs are settled when chunks are made: give "
            "them there."
        )
    return data


def _check_no_columns(columns: Any) -> None:
    if columns is not None:
        raise ValueError(
            "columns must be left out with an array, whose columns have no names: give "
            "data[:, [0, 2]] instead."
        )


def _reader(data: Any) -> Callable[..., AbstractChunks]:
    if isinstance(data, str | os.PathLike) or _are_paths(data):
        return ParquetChunks
    if not isinstance(data, Mapping) and any(
        hasattr(type(data), name) for name in ("columns", "column_names", "collect_schema")
    ):
        return FrameChunks
    if isinstance(data, Mapping) or not (callable(data) or isinstance(data, Iterable)):
        raise TypeError(
            "data must be a path, an array, a data frame, or batches in a list or from a function; "
            f"got a {type(data).__name__}."
        )
    return BatchChunks


def _are_paths(data: Any) -> bool:
    return isinstance(data, list | tuple) and all(isinstance(p, str | os.PathLike) for p in data)
