"""User input to a checked table of floats: arrays, lists, and data frames through narwhals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from minorant.data.arrays import Table
from minorant.data.summary import all_finite

Place = Callable[[int], str]  # where a row is, in words: "row 7"


def at_row(row: int) -> str:
    """Where a row of a table in memory is."""
    return f"row {row}"


class NamedMatrix(NamedTuple):
    """A float matrix whose columns have names; what is passed on where a frame has been read."""

    values: Float[np.ndarray, "n d"]
    names: tuple[str, ...]


def as_table(  # noqa: PLR0913
    data: Any,
    weights: Any = None,
    labels: Any = None,
    groups: Any = None,
    inputs: Any = None,
    *,
    empty_rows: bool = False,
) -> tuple[Table, tuple[str, ...]]:
    """A table of floats with NaN where missing, and the names of its columns.

    Args:
        data: (n, d) array, nested list, or a pandas, polars or arrow table of numbers.
        weights: (n,) non-negative, or None.
        labels: (n,) known components, -1 or NaN where unknown, or None.
        groups: (n,) what belongs together: the identity of each row's sequence or cluster, or None.
        inputs: (n, m) known covariates, or None.
        empty_rows: let rows without any observed cell through: they can be scored, not learned
            from.

    Raises:
        ValueError: when it is not a table, is empty, holds infinities, an all-missing row, or when
            weights, labels, groups or inputs are of the wrong length or range.
    """
    values, names = _matrix(data)
    # Sums depend on the order in memory in their last bit: the same rows, the same fit.
    values = np.ascontiguousarray(values)
    check_cells(values, names, empty_rows)
    n = len(values)
    table = Table(
        values,
        as_weights(weights, n),
        as_labels(labels, n),
        as_groups(groups, n),
        as_inputs(inputs, n),
    )
    check_even_weights(table)
    return table, names


def as_weights(weights: Any, n: int) -> Float[np.ndarray, " n"] | None:
    """Checked row weights, or None.

    Raises:
        ValueError: for a wrong length, a negative or non-finite weight, or all zero.
    """
    if weights is None:
        return None
    array = np.asarray(weights, dtype=float)
    if array.shape != (n,):
        raise ValueError(f"weights must have one number per row, shape ({n},); got {array.shape}.")
    check_weights(array)
    if not array.any():
        raise ValueError("weights are all zero: at least one row must count.")
    return array


def check_weights(weights: Float[np.ndarray, " n"], place: Place = at_row) -> None:
    """Raise ValueError for a negative or non-finite weight."""
    bad = ~(weights >= 0) | np.isinf(weights)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"weights must be finite and not negative; {place(row)} has {weights[row]}. Drop such "
            "rows."
        )


def as_labels(labels: Any, n: int) -> Int[np.ndarray, " n"] | None:
    """Checked known labels with -1 where unknown, or None.

    Raises:
        ValueError: for a wrong length or a label that is not an integer of at least -1.
    """
    if labels is None:
        return None
    array = np.asarray(labels, dtype=float)
    if array.shape != (n,):
        raise ValueError(f"labels must have one entry per row, shape ({n},); got {array.shape}.")
    return whole_labels(array)


def whole_labels(labels: Float[np.ndarray, " n"], place: Place = at_row) -> Int[np.ndarray, " n"]:
    """Labels as whole numbers, -1 where unknown.

    Raises:
        ValueError: for a label that is not an integer of at least -1.
    """
    known = np.where(np.isnan(labels), -1.0, labels)
    bad = (known != np.round(known)) | (known < -1) | np.isinf(known)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"labels must be whole numbers from 0, or -1 where unknown; {place(row)} has "
            f"{known[row]}."
        )
    return known.astype(np.int64)


def as_groups(groups: Any, n: int) -> Int[np.ndarray, " n"] | None:
    """Groups numbered in order of first appearance, or None.

    Raises:
        ValueError: for a wrong length or a row whose group is missing.
    """
    if groups is None:
        return None
    array = np.asarray(groups)
    if array.shape != (n,):
        raise ValueError(f"groups must have one entry per row, shape ({n},); got {array.shape}.")
    numbers: dict[Any, int] = {}
    codes = np.empty(n, dtype=np.int64)
    for row, name in enumerate(array.tolist()):
        if name is None or name != name:  # noqa: PLR0124 - NaN is unequal to itself
            raise ValueError(f"groups must name the group of every row; row {row} has none.")
        codes[row] = numbers.setdefault(name, len(numbers))
    return codes


def as_inputs(inputs: Any, n: int) -> Float[np.ndarray, "n m"] | None:
    """Checked covariates, or None.

    Raises:
        ValueError: for a wrong shape, or a cell that is missing or infinite.
    """
    if inputs is None:
        return None
    array, names = _matrix(inputs if np.ndim(inputs) != 1 else np.asarray(inputs)[:, None])
    if len(array) != n:
        raise ValueError(f"inputs must have one row per row of data, {n}; got {len(array)}.")
    check_inputs(array, names)
    return np.asarray(array, dtype=float)


def check_inputs(
    inputs: Float[np.ndarray, "n m"], names: tuple[str, ...], place: Place = at_row
) -> None:
    """Raise ValueError for a covariate that is missing or infinite."""
    bad = ~np.isfinite(inputs)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"inputs must be finite, but column {names[column]!r} holds {inputs[row, column]} in "
            f"{place(row)}: what is conditioned on cannot be missing. Drop the row or fill the "
            "cell."
        )


def check_even_weights(table: Table, place: Place = at_row) -> None:
    """Raise ValueError when rows of a group have different weights: it counts as a whole."""
    if table.groups is None or table.weights is None:
        return
    first = np.unique(table.groups, return_index=True)[1]
    bad = table.weights != table.weights[first][table.groups]
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"weights must be the same in all rows of a group; {place(row)} has "
            f"{table.weights[row]}, its group began with {table.weights[first][table.groups][row]}."
        )


def _matrix(data: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    if isinstance(data, NamedMatrix):
        return data
    if hasattr(data, "columns") or hasattr(data, "column_names"):
        return _frame(data)
    if not getattr(data, "is_fully_addressable", True):
        raise ValueError(
            "Rows of data are with other processes: ask each process about the rows that it has, "
            "numpy.concatenate([shard.data for shard in data.addressable_shards])."
        )
    array = np.asarray(data)
    if array.dtype.kind not in "fiub":
        array = _numbers(array)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            "data must be a table of n rows and d columns, both at least 1; got shape "
            f"{array.shape}."
        )
    if array.dtype != np.float32:
        array = array.astype(np.float64, copy=False)
    return array, tuple(f"column {j}" for j in range(array.shape[1]))


def _numbers(array: np.ndarray) -> np.ndarray:
    """Objects (None, NA) to floats."""

    def number(cell: Any) -> float:
        if cell is None or type(cell).__name__ in {"NAType", "NaTType"}:
            return np.nan
        return float(cell)

    try:
        return np.vectorize(number, otypes=[float])(array)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"data must hold numbers only ({error}). Encode text columns as integers, or use "
            "MixtureModel, which does it for you."
        ) from None


def _frame(data: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    import narwhals as nw

    frame = nw.from_native(data, eager_only=True)
    names = tuple(map(str, frame.columns))
    columns = [_numbers(np.asarray(frame[name].to_list(), dtype=object)) for name in frame.columns]
    if not columns or len(frame) == 0:
        raise ValueError(f"data must have rows and columns; got shape {frame.shape}.")
    return np.stack(columns, axis=1), names


def check_cells(
    values: Float[np.ndarray, "n d"],
    names: tuple[str, ...],
    empty_rows: bool,
    place: Place = at_row,
) -> None:
    """Raise ValueError for infinities and, unless allowed, rows without an observed cell."""
    for start in range(0, len(values), 1 << 16):
        block = values[start : start + (1 << 16)]
        if all_finite(block):
            continue
        if np.isinf(block).any():
            row, column = (int(i) for i in np.argwhere(np.isinf(block))[0])
            raise ValueError(
                f"Column {names[column]!r} holds {block[row, column]} in {place(start + row)}: "
                "infinities have no density. Remove the row, or use NaN for a missing cell."
            )
        empty = np.isnan(block).all(1)
        if empty.any() and not empty_rows:
            where = place(start + int(np.flatnonzero(empty)[0]))
            raise ValueError(
                f"{where[0].upper()}{where[1:]} has no observed cell: drop such rows "
                f"({int(empty.sum())} in this block)."
            )
