"""One door to rows that are read in chunks, whatever they are kept in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from minorant.data.chunks import AbstractChunks, is_collection, is_sharded
from minorant.data.coding import names_of, with_categories
from minorant.data.dataset import ParquetChunks
from minorant.data.in_batches import BatchChunks
from minorant.data.in_chunks import ArrayChunks, FrameChunks
from minorant.data.paths import is_place


def chunks(  # noqa: PLR0913
    data: Any,
    *,
    columns: Sequence[str] | None = None,
    weights: Any = None,
    labels: Any = None,
    groups: Any = None,
    inputs: Any = None,
    categories: Any = None,
    memory: int | str | None = None,
    empty_rows: bool = False,
    dask: Any = None,
    devices: Any = None,
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
        categories: names of columns of categories, text or numbers: a first pass finds the labels
            of each, and cells become their places in sorted order, 0, 1 and so on. Or labels by
            name, in the order of codes; a cell with another one is refused.
        memory: bytes that the fit may take, as a number or as ``"2GB"``.
        empty_rows: let rows without any observed cell through: for models that allow them.
        dask: who reads files and sums over them, instead of this process: a ``distributed.Client``,
            the address of a scheduler, or ``"local"`` for a process on every core; True for the
            client that was made last. Files must have the same paths on every machine.
        devices: which devices hold the rows and sum over them: ``"all"`` (of every process that
            ``jax.distributed`` has brought together), or some of ``jax.devices()``; None for this
            process's first one. A sharded ``jax.Array`` stays on its own devices.

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
    given = (columns, weights, labels, groups, inputs, categories)
    if isinstance(data, AbstractChunks):
        return _as_they_are(data, given)
    options: dict[str, Any] = {"memory": memory, "empty_rows": empty_rows}
    roles = {"weights": weights, "labels": labels, "groups": groups, "inputs": inputs}
    text = () if categories is None else names_of(categories)
    found = uncoded(data, {"columns": columns, **roles}, options, text, dask, devices)
    return found if categories is None else with_categories(found, categories)


def uncoded(  # noqa: PLR0913
    data: Any,
    roles: dict[str, Any],
    options: dict[str, Any],
    text: tuple[str, ...],
    dask: Any = None,
    devices: Any = None,
) -> Any:
    """Chunks whose columns of text cannot be read before their labels are known.

    Args:
        data: as for :func:`chunks`.
        roles: what columns are for; with "columns".
        options: of the readers.
        text: columns that may hold text; ``EVERY``.
        dask: as for :func:`chunks`.
        devices: as for :func:`chunks`.
    """
    if devices is not None or isinstance(data, jax.Array):
        return _on_devices(data, devices, dask, roles, (options, text))
    columns = roles["columns"]
    roles = {name: side for name, side in roles.items() if name != "columns"}
    if dask not in (None, False) or is_collection(data):
        from minorant.data.dask_rows import on_dask

        options = {**options, "columns": columns, "categories": text}
        return on_dask(data, roles, options, None if dask is False else dask)
    if isinstance(data, np.ndarray):
        _check_no_columns(columns)
        return ArrayChunks(data, **roles, **options)
    return _reader(data)(data, columns=columns, **roles, **options, categories=text)


def _on_devices(data: Any, devices: Any, dask: Any, roles: dict[str, Any], how: Any) -> Any:
    """Chunks whose rows devices hold."""
    from minorant.data.sharded import Devices
    from minorant.data.shards import ShardedChunks

    if dask not in (None, False):
        raise ValueError("devices and dask are two ways to sum over rows: give one of them.")
    if devices is None and not is_sharded(data):
        return uncoded(np.asarray(data), roles, *how)
    if not is_sharded(data):
        found = copy.copy(uncoded(data, roles, *how))
        found.engine = Devices(devices)
        return found
    if devices is not None:
        raise ValueError(
            "A sharded array stays on the devices that it is on: leave devices out, or give "
            "numpy.asarray(data)."
        )
    _check_no_columns(roles["columns"])
    sides = {name: side for name, side in roles.items() if name != "columns"}
    return ShardedChunks(data, **sides, **how[0])


def _as_they_are(data: AbstractChunks, given: tuple[Any, ...]) -> AbstractChunks:
    if any(one is not None for one in given):
        raise ValueError(
            "columns, weights, labels, groups, inputs and categories are settled when chunks are "
            "made: give them there."
        )
    return data


def _check_no_columns(columns: Any) -> None:
    if columns is not None:
        raise ValueError(
            "columns must be left out with an array, whose columns have no names: give "
            "data[:, [0, 2]] instead."
        )


def _reader(data: Any) -> Callable[..., AbstractChunks]:
    if is_place(data) or (isinstance(data, list | tuple) and not data):
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
