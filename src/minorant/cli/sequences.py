"""Rows of a table as sequences or clusters: which belong together, in which order, what is absent.

A column of whole-number times puts rows in order, and a time that is not there becomes a step
without observations. Times that are not whole only order the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from minorant.cli.faces import Face, floats, named
from minorant.data.tables import NamedMatrix, as_groups

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_INSERTED = 100


class Steps(NamedTuple):
    """A table as the model sees it; ``placed[i]`` is the step that row i of the table became."""

    matrix: NamedMatrix
    groups: Int[np.ndarray, " n"] | None
    inputs: Float[np.ndarray, "n m"] | None
    placed: Int[np.ndarray, " rows"]

    def keywords(self) -> dict[str, np.ndarray]:
        """What ``minorant.fit`` and ``minorant.evidence`` take beside the rows."""
        given = {"groups": self.groups, "inputs": self.inputs}
        return {name: value for name, value in given.items() if value is not None}


def steps_of(face: Face, table: pa.Table, matrix: NamedMatrix) -> Steps:
    """The rows of a table in the groups and the order that the face's columns say.

    Raises:
        ValueError: for a column that is not there, a missing or repeated time, or a gap that would
            take more than a hundred steps for every row.
    """
    n = len(matrix.values)
    groups, times, inputs = _group_codes(face, table), _times(face, table), _inputs(face, table)
    if times is None:
        return Steps(matrix, groups, inputs, np.arange(n))
    codes = np.zeros(n, dtype=np.int64) if groups is None else groups
    placed, lengths = _placed(codes, times, face.time or "")
    values = np.full((int(lengths.sum()), matrix.values.shape[1]), np.nan)
    values[placed] = matrix.values
    if inputs is not None:
        inputs = _spread(inputs, placed, len(values))
    numbers = None if groups is None else np.repeat(np.arange(len(lengths)), lengths)
    return Steps(NamedMatrix(values, matrix.names), numbers, inputs, placed)


def _group_codes(face: Face, table: pa.Table) -> np.ndarray | None:
    if face.group is None:
        return None
    column = named(table, face.group, "named by --group")
    return as_groups(np.asarray(column.to_pylist(), dtype=object), table.num_rows)


def _times(face: Face, table: pa.Table) -> np.ndarray | None:
    if face.time is None:
        return None
    times = floats(named(table, face.time, "named by --time"), face.time)
    if not np.isfinite(times).all():
        row = int(np.argmax(~np.isfinite(times)))
        raise ValueError(f"Column {face.time!r} has no time in row {row}: drop the row.")
    return times


def _inputs(face: Face, table: pa.Table) -> np.ndarray | None:
    if not face.inputs:
        return None
    cells = [floats(named(table, name, "named by --input"), name) for name in face.inputs]
    return np.stack(cells, axis=1)


def _placed(codes: np.ndarray, times: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Each row's step and the number of steps of each group."""
    order = np.lexsort((times, codes))
    same = (np.diff(codes[order]) == 0) & (np.diff(times[order]) == 0)
    if same.any():
        at = int(np.argmax(same))
        raise ValueError(
            f"Column {name!r} holds the time {times[order[at]]:g} twice in one sequence, in rows "
            f"{order[at]} and {order[at + 1]}: keep one of them, or name the sequences (--group)."
        )
    counts = np.bincount(codes)
    whole = bool((times == np.round(times)).all())
    if whole:
        first = np.full(len(counts), np.inf)
        np.minimum.at(first, codes, times)
        inside = (times - first[codes]).astype(np.int64)
    else:
        inside = np.empty(len(codes), dtype=np.int64)
        inside[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    lengths = np.zeros(len(counts), dtype=np.int64)
    np.maximum.at(lengths, codes, inside + 1)
    _check_gaps(lengths, len(codes), name)
    return (np.cumsum(lengths) - lengths)[codes] + inside, lengths


def _check_gaps(lengths: np.ndarray, n: int, name: str) -> None:
    if lengths.sum() > _MOST_INSERTED * n:
        raise ValueError(
            f"Column {name!r} spans {int(lengths.sum())} steps for {n} rows: times count steps of "
            "1. Divide them by the length of a step, or leave --time out."
        )


def _spread(inputs: np.ndarray, placed: np.ndarray, n: int) -> np.ndarray:
    """Inputs on all steps: a step that was put in takes those of the step before."""
    row_of = np.full(n, -1)
    row_of[placed] = np.arange(len(placed))
    filled = np.maximum.accumulate(np.where(row_of >= 0, np.arange(n), -1))
    return inputs[row_of[filled]]
