"""Between a table of named columns and the matrix a fit is asked about, both ways.

A fit directory keeps, beside the fit, what this needs to read other tables by column name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minorant.data.columns import Column, Columns
from minorant.data.tables import NamedMatrix

if TYPE_CHECKING:
    import pyarrow as pa

    from minorant.result import Fit

GAUSSIAN = "gaussian-mixture"
ESTIMATORS = {
    GAUSSIAN: "GaussianMixture",
    "mixture": "MixtureModel",
    "latent-class": "LatentClassAnalysis",
}
_TRUTH = {"true": True, "false": False}


class Numbers(NamedTuple):
    """Columns that are all numbers."""

    names: tuple[str, ...]
    texts: frozenset[str] = frozenset()

    def encode(self, table: pa.Table) -> NamedMatrix:
        """The columns by name, as floats, NaN where missing.

        Raises:
            ValueError: for a column that is not there or holds no numbers.
        """
        cells = [floats(named(table, name, "which the fit needs"), name) for name in self.names]
        return NamedMatrix(np.stack(cells, axis=1), self.names)

    def decode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """A matrix as columns by name."""
        return dict(zip(self.names, values.T, strict=True))


class Kinds(NamedTuple):
    """Columns of several kinds, each described by a component."""

    columns: Columns

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return self.columns.names

    @property
    def texts(self) -> frozenset[str]:
        """The columns whose categories are text, though their cells may look like numbers."""
        return frozenset(c.name for c in self.columns.items if isinstance(_example(c), str))

    def encode(self, table: pa.Table) -> NamedMatrix:
        """The columns by name, categories as 0, 1, ..., NaN where missing.

        Raises:
            ValueError: for a column that is not there, or a cell that its component cannot have.
        """
        cells = {
            c.name: _alike(c, named(table, c.name, "which the fit needs"))
            for c in self.columns.items
        }
        return NamedMatrix(self.columns.encode(cells), self.names)

    def decode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """A matrix as columns by name, categories with their labels."""
        return self.columns.decode(values)


class Face(NamedTuple):
    """A model as the command line knows it, and how its columns are read."""

    model: str
    columns: Numbers | Kinds
    group: str | None = None
    time: str | None = None
    inputs: tuple[str, ...] = ()

    def extra(self) -> dict[str, Any]:
        """What is kept beside the fit."""
        kinds = self.columns
        kept = kinds.columns.to_json() if isinstance(kinds, Kinds) else None
        where = {"group": self.group, "time": self.time, "inputs": list(self.inputs)}
        return {"model": self.model, "columns": kept, **where}

    def refilled(self, table: pa.Table, before: NamedMatrix, filled: np.ndarray) -> pa.Table:
        """The table with the cells that were missing in ``before`` taken from ``filled``."""
        import pyarrow as pa

        cells = self.columns.decode(filled)
        for name, values in zip(before.names, before.values.T, strict=True):
            if np.isnan(values).any():
                position = table.column_names.index(name)
                table = table.set_column(position, name, pa.array(cells[name], from_pandas=True))
        return table

    def with_categories(self, fit: Fit, before: NamedMatrix, filled: np.ndarray) -> np.ndarray:
        """Missing categories filled with the most probable one, for codes have no mean."""
        if not isinstance(self.columns, Kinds):
            return filled
        from minorant.estimators import _tables

        return _tables.with_categories(fit, self.columns.columns, before.values, filled)


def face_of(directory: str, fit: Fit) -> Face:
    """How the columns of a saved fit are read; one saved from Python alone has numbers."""
    from minorant.saving import load_extra

    extra = load_extra(directory) or {}
    kept = extra.get("columns")
    columns = Numbers(fit.names) if kept is None else Kinds(Columns.from_json(kept))
    name = extra.get("model", type(fit.model).__name__)
    inputs = tuple(extra.get("inputs", ()))
    return Face(name, columns, extra.get("group"), extra.get("time"), inputs)


# --- columns -------------------------------------------------------------------------------------


def optional(table: pa.Table, name: str | None, argument: str) -> np.ndarray | None:
    """A column of numbers, NaN where missing; None when none is asked for.

    Raises:
        ValueError: when it is not there or holds no numbers.
    """
    return None if name is None else floats(named(table, name, f"named by {argument}"), name)


def named(table: pa.Table, name: str, why: str) -> pa.ChunkedArray:
    """A column by name.

    Raises:
        ValueError: when it is not there.
    """
    if name not in table.column_names:
        known = ", ".join(map(repr, table.column_names[:12]))
        more = ", ..." if table.num_columns > 12 else ""
        raise ValueError(
            f"The table has no column {name!r}, {why}; it has {known}{more}. Correct the name, or "
            "rename the column."
        )
    return table[name]


def floats(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """A column as floats, NaN where missing.

    Raises:
        ValueError: when it holds anything but numbers.
    """
    import pyarrow as pa

    kind, kinds = column.type, pa.types
    numeric = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind)
    if not (numeric or kinds.is_decimal(kind) or kinds.is_null(kind)):
        row = int(np.argmax(column.is_valid().to_numpy()))
        what = "text" if "string" in str(kind) else f"cells of type {kind}"
        raise ValueError(
            f"Column {name!r} holds {what} ({column[row].as_py()!r} in row {row}), not "
            "numbers: leave the column out (--drop), or use --model mixture, which takes columns "
            "of any type."
        )
    cells = column.cast(pa.float64(), safe=False)
    return cells.to_numpy(zero_copy_only=False).astype(float)


def _example(column: Column) -> Any:
    return column.categories[0] if column.categories else None


def _alike(column: Column, cells: pa.ChunkedArray) -> Any:
    """Cells in the kind that the fit's categories have: files differ in how they type a column."""
    found, example = cells.to_pylist(), _example(column)
    if example is None or isinstance(example, str) or not _has_text(found):
        texts = isinstance(example, str) and not _has_text(found)
        return [cell if cell is None else str(cell) for cell in found] if texts else _plain(cells)
    return [_read(cell, isinstance(example, bool)) for cell in found]


def _plain(cells: pa.ChunkedArray) -> Any:
    """Numbers as an array, without a Python object for each."""
    import pyarrow as pa

    if pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type):
        return cells.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return cells.to_pylist()


def _has_text(cells: list[Any]) -> bool:
    return any(isinstance(cell, str) for cell in cells)


def _read(cell: Any, truth: bool) -> Any:
    """A number or truth value spelt in text; the text itself when it is neither."""
    if not isinstance(cell, str):
        return cell
    if truth:
        return _TRUTH.get(cell.lower(), cell)
    try:
        return float(cell)
    except ValueError:
        return cell
