"""Rows of a group that follow one another: where groups begin, and whether one begins twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from minorant.data.tables import Place

if TYPE_CHECKING:
    import pyarrow as pa


def as_identities(cells: Any) -> pa.Array:
    """A column of groups as an Arrow array of one of few types, so that files can be compared."""
    import pyarrow as pa
    import pyarrow.types as types

    ids = pa.array(cells, from_pandas=True) if not isinstance(cells, pa.Array) else cells
    if types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    kind = _identity_type(ids.type)
    return ids if kind == ids.type else ids.cast(kind)


def group_kind(kind: pa.DataType) -> str:
    """The type, in words, that groups of a column are compared in."""
    found = _identity_type(kind)
    return {"int64": "whole numbers", "large_string": "text"}.get(str(found), f"type {found}")


def _identity_type(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _identity_type(kind.value_type)
    if types.is_integer(kind) and not types.is_uint64(kind):
        return pa.int64()
    text = types.is_string(kind) or types.is_string_view(kind)
    return pa.large_string() if text else kind


class GroupWalk:
    """Where groups begin in rows that come in pieces."""

    def __init__(self, name: str, place: Place, first: int, remembers: bool) -> None:
        self.name, self._place, self._row = name, place, first
        self._last: Any = None
        self._type: Any = None
        self._remembers = remembers
        self._ids: list[pa.Array] = []
        self._rows: list[np.ndarray] = []
        self._count, self._check_at = 0, 1 << 10

    def starts(self, cells: Any) -> Bool[np.ndarray, " n"]:
        """Whether each of the next rows begins a group.

        Raises:
            ValueError: for a row without a group, or a group that began before.
        """
        ids = as_identities(cells)
        self._check_type(ids)
        self._check_named(ids)
        starts = np.empty(len(ids), dtype=bool)
        starts[0] = self._last is None or ids[0].as_py() != self._last
        starts[1:] = _changes(ids)
        self._last = ids[-1].as_py()
        if self._remembers:
            self._remember(ids, starts)
        self._row += len(ids)
        return starts

    def _check_type(self, ids: pa.Array) -> None:
        self._type = self._type or ids.type
        if ids.type != self._type and ids.null_count < len(ids):
            raise ValueError(
                f"groups must be of one type, but {self.name} is {self._type} at first and "
                f"{ids.type} from {self._place(self._row)} on: write it with one type."
            )

    def _check_named(self, ids: pa.Array) -> None:
        import pyarrow.compute

        compute: Any = pyarrow.compute
        missing = compute.is_null(ids, nan_is_null=True)
        if compute.any(missing).as_py():
            where = self._place(self._row + compute.index(missing, True).as_py())
            raise ValueError(f"groups must name the group of every row; {where} has none.")

    def _remember(self, ids: pa.Array, starts: np.ndarray) -> None:
        self._ids.append(ids.filter(starts))
        self._rows.append(self._row + np.flatnonzero(starts))
        self._count += len(self._rows[-1])
        if self._count >= self._check_at:
            self.check_once()
            self._check_at = 2 * self._count

    def check_once(self) -> None:
        """Raise ValueError when a group of those so far began twice."""
        import pyarrow as pa
        import pyarrow.compute

        compute: Any = pyarrow.compute
        if not self._ids:
            return
        ids, rows = pa.concat_arrays(self._ids), np.concatenate(self._rows)
        self._ids, self._rows = [ids], [rows]
        if compute.count_distinct(ids).as_py() == len(ids):
            return
        counts = compute.value_counts(ids)
        twice = counts.field(1).to_numpy() > 1
        group = counts.field(0)[int(np.argmax(twice))]
        first, second = np.flatnonzero(compute.equal(ids, group).to_numpy(zero_copy_only=False))[:2]
        raise ValueError(
            f"Rows of a group must follow one another, but {self.name} {group.as_py()!r} begins in "
            f"{self._place(int(rows[first]))} and again in {self._place(int(rows[second]))}: sort "
            "the rows by it first."
        )


def _changes(ids: pa.Array) -> np.ndarray:
    import pyarrow.compute

    compute: Any = pyarrow.compute
    return compute.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
