"""Columns of Arrow or NumPy: what counts as numbers, and what the columns of a table are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

Cells: TypeAlias = Any  # one column: an Arrow array or a NumPy array (n,)
_REMEDY = "leave it out with columns=[...], or turn it into numbers first"


class Roles(NamedTuple):
    """What columns are for, by name; ``columns`` None for all that have no other role."""

    columns: tuple[str, ...] | None = None
    weights: str | None = None
    labels: str | None = None
    groups: str | None = None
    inputs: tuple[str, ...] = ()

    def values(self, names: Sequence[str], where: str) -> tuple[str, ...]:
        """The names of the columns of ``values``.

        Args:
            names: all columns there are.
            where: the table, in words.

        Raises:
            ValueError: for a name that is not there, is given twice, or leaves no column.
        """
        others = self._others()
        for role, name in others + [("columns", name) for name in self.columns or ()]:
            if name not in names:
                raise ValueError(
                    f"{role} names the column {name!r}, which {where} does not have: its columns "
                    f"are {_listed(names)}."
                )
        taken = {name for _, name in others}
        others_left = tuple(name for name in names if name not in taken)
        found = others_left if self.columns is None else self.columns
        _check_roles(others + [("columns", name) for name in found])
        if not found:
            raise ValueError(f"{where} leaves no column to describe: name some with columns=[...].")
        return found

    def numbers(self) -> list[tuple[str, str]]:
        """The roles besides values that take numbers, with their columns."""
        return [(role, name) for role, name in self._others() if role != "groups"]

    def _others(self) -> list[tuple[str, str]]:
        single = [("weights", self.weights), ("labels", self.labels), ("groups", self.groups)]
        several = [("inputs", name) for name in self.inputs]
        return [(role, name) for role, name in single if name is not None] + several


def roles_of(
    columns: Sequence[str] | None,
    weights: str | None,
    labels: str | None,
    groups: str | None,
    inputs: Sequence[str] | str | None,
) -> Roles:
    """Roles from what a user gives."""
    for role, given in (("weights", weights), ("labels", labels), ("groups", groups)):
        if given is not None and not isinstance(given, str):
            raise ValueError(
                f"{role} must be the name of a column of the data here; got a "
                f"{type(given).__name__}."
            )
    wide = () if inputs is None else (inputs,) if isinstance(inputs, str) else tuple(inputs)
    chosen = (columns,) if isinstance(columns, str) else columns
    return Roles(None if chosen is None else tuple(chosen), weights, labels, groups, wide)


def _check_roles(pairs: list[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for role, name in pairs:
        if name in seen:
            first = f"{seen[name]} and in {role}" if seen[name] != role else f"{role} twice"
            raise ValueError(f"The column {name!r} is named in {first}: name it once.")
        seen[name] = role


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")


def kind_of(kind: pa.DataType) -> str:
    """``numbers``, ``text``, ``dates or times``, or the name of a type that is none of them.

    Truth counts as numbers, 0 and 1; so does a column that is null throughout, and categories
    that are numbers.
    """
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return kind_of(kind.value_type)
    tests = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    if any(test(kind) for test in tests):
        return "numbers"
    if any(test(kind) for test in (types.is_string, types.is_large_string, types.is_string_view)):
        return "text"
    return (
        "dates or times" if types.is_temporal(kind) else f"cells of type {str(kind).split('<')[0]}"
    )


def check_numbers(
    types: Mapping[str, pa.DataType], names: Sequence[str], roles: Roles, where: str
) -> None:
    """Raise ValueError for a column that must be of numbers and is not."""
    for role, name in [("", name) for name in names] + roles.numbers():
        found = kind_of(types[name])
        if found != "numbers":
            what = f"Column {name!r} of {where} holds {found}"
            rule = f"{role} must be numbers: turn it into numbers first" if role else _REMEDY
            raise ValueError(f"{what}{', but ' if role else ', not numbers: '}{rule}.")


def float_type(types: Sequence[pa.DataType]) -> str:
    """``float32`` where every column is; else ``float64``."""
    import pyarrow.types as kinds

    return "float32" if all(kinds.is_float32(one) for one in types) else "float64"


def as_floats(cells: Cells) -> np.ndarray:
    """A column as a NumPy array that can be copied into floats; nulls as NaN."""
    if isinstance(cells, np.ndarray):
        return cells
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    kind = cells.type
    if types.is_integer(kind) or types.is_float64(kind) or types.is_float32(kind):
        return cells.to_numpy(zero_copy_only=False)
    return cells.cast(pa.float64()).to_numpy(zero_copy_only=False)
