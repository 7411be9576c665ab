"""Columns of Arrow or NumPy: what counts as numbers, and what the columns of a table are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

Cells: TypeAlias = Any  # one column: an Arrow array or a NumPy array (n,)
Label: TypeAlias = str | bool | int | float
EVERY = ("",)  # no column has an empty name that a role could mean
_REMEDY = "leave it out with columns=[...], or turn it into numbers first"
_CODES = "leave it out with columns=[...], or name it in categories=[...]"
_SHOWN = 10


class Codes(NamedTuple):
    """Columns of categories: their labels in the order of codes, None while these are not known.

    ``unknown`` says what a cell with another label is: an ``"error"``, or ``"missing"``.
    """

    labels: tuple[tuple[str, tuple[Label, ...] | None], ...] = ()
    unknown: str = "error"

    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(name for name, _ in self.labels)


class Roles(NamedTuple):
    """What columns are for, by name; ``columns`` None for all that have no other role.

    ``categories`` are columns of values or inputs that may hold text; ``EVERY`` for all that do.
    """

    columns: tuple[str, ...] | None = None
    weights: str | None = None
    labels: str | None = None
    groups: str | None = None
    inputs: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()

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

    def coded(self, types: Mapping[str, pa.DataType], names: Sequence[str]) -> tuple[str, ...]:
        """The columns of categories among ``names``."""
        if self.categories == EVERY:
            return tuple(name for name in names if kind_of(types[name]) == "text")
        return tuple(name for name in names if name in self.categories)

    def _others(self) -> list[tuple[str, str]]:
        single = [("weights", self.weights), ("labels", self.labels), ("groups", self.groups)]
        several = [("inputs", name) for name in self.inputs]
        return [(role, name) for role, name in single if name is not None] + several


def roles_of(  # noqa: PLR0913
    columns: Sequence[str] | None,
    weights: str | None,
    labels: str | None,
    groups: str | None,
    inputs: Sequence[str] | str | None,
    categories: Sequence[str] | str | None = None,
) -> Roles:
    """Roles from what a user gives."""
    for role, given in (("weights", weights), ("labels", labels), ("groups", groups)):
        if given is not None and not isinstance(given, str):
            raise ValueError(
                f"{role} must be the name of a column of the data here; got a "
                f"{type(given).__name__}."
            )
    chosen = None if columns is None else _several(columns)
    return Roles(chosen, weights, labels, groups, _several(inputs), _several(categories))


def _several(names: Sequence[str] | str | None) -> tuple[str, ...]:
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else tuple(names)


def _check_roles(pairs: list[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for role, name in pairs:
        if name in seen:
            first = f"{seen[name]} and in {role}" if seen[name] != role else f"{role} twice"
            raise ValueError(f"The column {name!r} is named in {first}: name it once.")
        seen[name] = role


def _listed(names: Sequence[Label]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")


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
    for name in () if roles.categories == EVERY else roles.categories:
        if name not in (*names, *roles.inputs):
            raise ValueError(
                f"categories names the column {name!r}, which is not among those that {where} is "
                f"described by: {_listed(names)}."
            )
    coded = roles.coded(types, (*names, *roles.inputs))
    for role, name in [("", name) for name in names] + roles.numbers():
        found = kind_of(types[name])
        if found != "numbers" and not (found == "text" and name in coded):
            what = f"Column {name!r} of {where} holds {found}"
            remedy = _CODES if found == "text" else _REMEDY
            rule = f"{role} must be numbers: turn it into numbers first" if role else remedy
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


# --- categories ----------------------------------------------------------------------------------


def is_text(cells: Cells) -> bool:
    """Whether these are cells of text."""
    return not isinstance(cells, np.ndarray) and kind_of(cells.type) == "text"


def words_in(cells: Cells) -> set[str]:
    """The words that occur in a column of text."""
    import pyarrow.types as types

    found = cells.unique()
    found = found.dictionary_decode() if types.is_dictionary(found.type) else found
    return set(found.drop_null().to_pylist())


def as_codes(cells: Cells, labels: Sequence[Label]) -> tuple[np.ndarray, np.ndarray]:
    """Places of cells among labels, NaN where missing or of no label; and which are the latter."""
    if is_text(cells):
        words = [(place, word) for place, word in enumerate(labels) if isinstance(word, str)]
        found, there = _among_words(cells, [word for _, word in words])
        places = np.array([place for place, _ in words], dtype=float)
    else:
        values = np.asarray(as_floats(cells), dtype=float)
        numbers = [(float(n), place) for place, n in enumerate(labels) if not isinstance(n, str)]
        known = np.array([number for number, _ in sorted(numbers)])
        places = np.array([place for _, place in sorted(numbers)], dtype=float)
        found, there = _among_numbers(values, known), ~np.isnan(values)
    codes = np.full(len(found), np.nan)
    codes[found >= 0] = places[found[found >= 0]]
    return codes, there & (found < 0)


def _among_numbers(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Places among ascending numbers, -1 for others."""
    if not len(known):
        return np.full(len(values), -1)
    place = np.searchsorted(known, values).clip(0, len(known) - 1)
    return np.where(known[place] == values, place, -1)


def _among_words(cells: Cells, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Places among words, -1 for others; and which cells are not missing."""
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_dictionary(cells.type):
        inner, _ = _among_words(cells.dictionary, words)
        there = cells.is_valid().to_numpy(zero_copy_only=False)
        place = cells.indices.fill_null(0).to_numpy(zero_copy_only=False)
        found = inner[place] if len(inner) else np.full(len(cells), -1)
        there = there & cells.dictionary.is_valid().to_numpy(zero_copy_only=False)[place]
        return np.where(there, found, -1), there
    import pyarrow.compute

    compute: Any = pyarrow.compute
    kind = pa.large_string()
    found = compute.index_in(cells.cast(kind), value_set=pa.array(words, kind))
    there = cells.is_valid().to_numpy(zero_copy_only=False)
    return found.fill_null(-1).to_numpy(zero_copy_only=False), there


def strange_sentence(name: str, cells: Cells, row: int, where: str, labels: Sequence[Label]) -> str:
    """What is said of a cell whose label is not known."""
    cell = as_floats(cells)[row] if not is_text(cells) else cells[row].as_py()
    shown = f"{cell:g}" if not isinstance(cell, str) else repr(cell)
    return (
        f"Column {name!r} holds {shown} in {where}, which is none of its known categories "
        f"{_listed(labels)}. Recode the cell, or leave it missing."
    )
