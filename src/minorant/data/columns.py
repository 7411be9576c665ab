"""Columns of mixed kinds: which component describes each, its categories, and codes and back.

A table is read into plain columns: float arrays with NaN where missing, or, where there is text or
truth, object arrays with None. `Columns` remembers what `fit` saw, by name, so that rows that come
later are read alike; as JSON it travels with a saved fit.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
from jaxtyping import Float

from minorant.data.cells import Label

Cells: TypeAlias = np.ndarray  # (n,) floats with NaN, or objects with None

CATEGORIES = ("bernoulli", "categorical")
COUNTS = ("poisson", "negative-binomial")
COMPONENTS = (
    "gaussian", "student-t", "log-normal", "gamma", "exponential", "von-mises",
    *COUNTS, *CATEGORIES,
)  # fmt: skip
LARGEST_COUNT_MEAN = 30.0
MOST_RECURRING, LEAST_RECURRENCE = 10, 5


class Column(NamedTuple):
    """One column: its name, the component that describes it, and its labels in the order of codes.

    `categories` is None for a column of numbers.
    """

    name: str
    component: str
    categories: tuple[Label, ...] | None = None


class Columns(NamedTuple):
    """The columns of a table, in order.

    Example:
        >>> from minorant.data.columns import Columns, infer
        >>> columns = infer({"height": [1.5, 1.7], "sex": ["f", "m"], "visits": [3, 2]})
        >>> columns.components
        ('gaussian', 'categorical', 'poisson')
        >>> columns.encode({"height": [1.6], "sex": ["m"], "visits": [None]})
        array([[1.6, 1. , nan]])
        >>> Columns.from_json(columns.to_json()) == columns
        True
    """

    items: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(column.name for column in self.items)

    @property
    def components(self) -> tuple[str, ...]:
        """What describes each column: one of `COMPONENTS`."""
        return tuple(column.component for column in self.items)

    @property
    def categories(self) -> dict[str, tuple[Label, ...]]:
        """The labels of every column that has categories."""
        return {c.name: c.categories for c in self.items if c.categories is not None}

    def encode(self, data: Any, unknown: str = "error") -> Float[np.ndarray, "n d"]:
        """Return the table in numbers, categories as 0, 1, ..., missing cells as NaN.

        Args:
            data: what `read` takes.
            unknown: "error", or "missing" to read a category not seen in `fit` as a missing cell.

        Raises:
            ValueError: a column is missing, extra, reordered or of another kind; a category was not
                seen in `fit`. Names column, row and value.
        """
        names, cells = read(data)
        self._check(names)
        pairs = zip(self.items, cells, strict=True)
        return np.stack([_encoded(column, values, unknown) for column, values in pairs], axis=1)

    def decode(self, values: Float[np.ndarray, "n d"]) -> dict[str, Cells]:
        """Return numbers as columns with the original labels; whole counts come as integers."""
        pairs = zip(self.items, values.T, strict=True)
        return {column.name: _decoded(column, codes) for column, codes in pairs}

    def to_json(self) -> list[dict[str, Any]]:
        """Return what `json.dumps` can write."""
        return [column._asdict() for column in self.items]

    @staticmethod
    def from_json(record: list[dict[str, Any]]) -> Columns:
        """Return the columns that `to_json` described."""
        return Columns(tuple(_column_of(entry) for entry in record))

    def _check(self, names: tuple[str, ...] | None) -> None:
        if names is None or names == self.names:
            return
        missing = [name for name in self.names if name not in names]
        extra = [name for name in names if name not in self.names]
        if missing or extra:
            parts = [
                f"lacks {missing}" if missing else "",
                f"has {extra} too many" if extra else "",
            ]
            raise ValueError(
                f"The table {' and '.join(filter(None, parts))}: give the columns of the fit, "
                f"{list(self.names)}."
            )
        raise ValueError(
            f"The table has the fit's columns in another order, {list(names)}: select them as "
            f"{list(self.names)}."
        )


def infer(
    data: Any,
    overrides: Mapping[Any, str] | None = None,
    weights: Float[np.ndarray, " n"] | None = None,
) -> Columns:
    """Return how the columns of a table are to be described.

    Truth values and the numbers 0 and 1 alone: bernoulli. Text and categories: categorical. Whole
    numbers, none negative, with a mean below 30: negative-binomial where their variance exceeds
    their mean, else poisson (of which the former is the wider family). Other whole numbers of at
    most 10 different values, seen 5 times each on average (years, codes): categorical, for a
    gaussian would collapse onto one of them. All else: gaussian.

    Args:
        data: a data frame, an (n, d) array, or a mapping from names to columns.
        overrides: column (name, or number where there are no names) to one of `COMPONENTS`.
        weights: (n,) row weights; a row of weight 0 is not looked at.

    Raises:
        ValueError: an override names no column or no component; a column cannot be described.
    """
    names, cells = read(data)
    names = names or tuple(f"column {j}" for j in range(len(cells)))
    if weights is not None:
        cells = [column[weights > 0] for column in cells]
        weights = weights[weights > 0]
    chosen = named_overrides(overrides or {}, names)
    columns = []
    for name, values in zip(names, cells, strict=True):
        component = chosen.get(name) or _component(values, weights)
        labels = _labels(name, component, values) if component in CATEGORIES else None
        columns.append(Column(name, component, labels))
    return Columns(tuple(columns))


def read(data: Any) -> tuple[tuple[str, ...] | None, list[Cells]]:
    """Return the names of a table's columns, None where it has none, and the columns.

    Raises:
        ValueError: the data are no table, or a column holds neither numbers, text nor truth.
    """
    if isinstance(data, np.ndarray):
        if data.ndim != 2:
            raise ValueError(f"data must be a table of rows and columns; got shape {data.shape}.")
        return None, [_cells(f"column {j}", column) for j, column in enumerate(data.T)]
    if isinstance(data, Mapping):
        return tuple(map(str, data)), [_cells(str(n), _array(v)) for n, v in data.items()]
    import narwhals.stable.v2 as nw

    frame = nw.from_native(data, eager_only=True)
    names = tuple(map(str, frame.columns))
    pairs = zip(names, frame.iter_columns(), strict=True)
    return names, [_from_series(name, series) for name, series in pairs]


def _from_series(name: str, series: Any) -> Cells:
    import narwhals.stable.v2 as nw

    if series.dtype.is_numeric():
        return series.cast(nw.Float64).to_numpy()
    if series.dtype.is_temporal():
        _refuse(name, f"holds dates or times ({series.dtype})", "Turn it into numbers first")
    return _cells(name, _array(series.to_list()))


def _array(values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    return array


def _cells(name: str, values: np.ndarray) -> Cells:
    """Return floats where all cells are numbers, else the objects with None where missing."""
    if values.dtype.kind in "fiu":
        return values.astype(float, copy=False)
    found: list[Any] = [None if is_missing(cell) else cell for cell in values.tolist()]
    kinds = {_kind(name, row, cell) for row, cell in enumerate(found) if cell is not None}
    if kinds <= {"number"}:
        return np.array([math.nan if cell is None else float(cell) for cell in found], dtype=float)
    cells = np.empty(len(found), dtype=object)
    cells[:] = found
    return cells


def is_missing(cell: Any) -> bool:
    """Tell whether a cell is None, NaN, NA or NaT."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType", "MaskedConstant"):
        return True
    return isinstance(cell, float) and math.isnan(cell)


def _kind(name: str, row: int, cell: Any) -> str:
    if isinstance(cell, bool | np.bool_):
        return "truth"
    if isinstance(cell, str | bytes):
        return "text"
    if isinstance(cell, numbers.Real):
        return "number"
    raise TypeError(
        f"Column {name!r} holds {cell!r} in row {row}: argument must be a string or a real number. "
        "Turn such cells into numbers or text, or leave the column out."
    )


def named_overrides(overrides: Mapping[Any, str], names: tuple[str, ...]) -> dict[str, str]:
    """The overrides by name.

    Raises:
        ValueError: for one that names no column or no component.
    """
    chosen = {}
    for key, component in overrides.items():
        name = names[key] if isinstance(key, int) and 0 <= key < len(names) else str(key)
        if name not in names:
            raise ValueError(
                f"components names the column {key!r}, but the columns are {list(names)}."
            )
        if component not in COMPONENTS:
            raise ValueError(
                f"components[{key!r}] must be one of {', '.join(COMPONENTS)}; got {component!r}."
            )
        chosen[name] = component
    return chosen


def _component(values: Cells, weights: np.ndarray | None) -> str:
    if values.dtype == object:
        truth = all(cell is None or isinstance(cell, bool | np.bool_) for cell in values)
        return "bernoulli" if truth else "categorical"
    seen = ~np.isnan(values)
    mass = np.ones(seen.sum()) if weights is None else weights[seen]
    if not mass.any() or (values[seen] != np.round(values[seen])).any():
        return "gaussian"
    return _component_of_whole(values[seen], mass)


def _component_of_whole(values: np.ndarray, weights: np.ndarray) -> str:
    with np.errstate(over="ignore", invalid="ignore"):  # of counts, no square overflows
        mean = np.average(values, weights=weights)
        variance = np.average((values - mean) ** 2, weights=weights)
    ends, different = (values.min(), values.max()), len(np.unique(values))
    return component_of_whole(ends, mean, variance, different, weights.sum())


def component_of_whole(
    ends: tuple[float, float], mean: float, variance: float, different: int, weight: float
) -> str:
    """What describes whole numbers.

    Args:
        ends: the least and the largest.
        mean: weighted.
        variance: weighted.
        different: how many different ones there are.
        weight: of all rows that have one.
    """
    if ends[0] >= 0 and mean < LARGEST_COUNT_MEAN:
        if ends[1] <= 1:
            return "bernoulli"
        return "negative-binomial" if variance > mean else "poisson"
    recurring = different <= MOST_RECURRING and weight >= LEAST_RECURRENCE * different
    return "categorical" if recurring else "gaussian"


def _labels(name: str, component: str, values: Cells) -> tuple[Label, ...]:
    """Return the distinct labels in order."""
    labels = {_label(cell) for cell in values.tolist() if not is_missing(cell)}
    if math.inf in labels or -math.inf in labels:
        row = next(row for row, cell in enumerate(values.tolist()) if cell in (math.inf, -math.inf))
        remedy = "Infinity is no category: correct it, or leave the cell missing"
        _refuse(name, f"holds {values[row]} in row {row}", remedy)
    return labels_of(name, component, labels)


def labels_of(name: str, component: str, found: Iterable[Label]) -> tuple[Label, ...]:
    """The labels of a column in the order of their codes; of truth and 0/1 both, seen or not.

    Raises:
        ValueError: for a bernoulli column with more than two.
    """
    labels = sorted({_label(one) for one in found}, key=_order)
    if component == "categorical":
        return tuple(labels)
    if all(isinstance(label, bool) for label in labels):
        return (False, True)
    if set(labels) <= {0, 1}:
        return (0, 1)
    if len(labels) > 2:
        _refuse(name, f"has {len(labels)} different values", "Describe it as categorical")
    return tuple(labels)


def _label(cell: Any) -> Label:
    if isinstance(cell, bool | np.bool_):
        return bool(cell)
    if isinstance(cell, bytes):
        return cell.decode()
    if isinstance(cell, str):
        return str(cell)
    return int(cell) if float(cell).is_integer() else float(cell)


def _order(label: Label) -> tuple[bool, Any]:
    return isinstance(label, str), label


def _encoded(column: Column, values: Cells, unknown: str) -> Float[np.ndarray, " n"]:
    if column.categories is None:
        return _numbers(column, values)
    codes: dict[Any, float] = {label: float(j) for j, label in enumerate(column.categories)}
    cells = [None if is_missing(cell) else _label(cell) for cell in values.tolist()]
    encoded = np.array([codes.get(cell, math.nan) for cell in cells], dtype=float)
    strange = [row for row, cell in enumerate(cells) if cell is not None and cell not in codes]
    if strange and unknown == "error":
        row = strange[0]
        _refuse(
            column.name,
            f"holds {cells[row]!r} in row {row}, which is none of its known categories "
            f"{_shown(column.categories)}",
            "Recode the cell, or leave it missing",
        )
    return encoded


def _shown(labels: tuple[Label, ...]) -> str:
    return ", ".join(map(repr, labels[:10])) + (", ..." if len(labels) > 10 else "")


def _numbers(column: Column, values: Cells) -> Float[np.ndarray, " n"]:
    if values.dtype != object:
        return values
    texts = [row for row, cell in enumerate(values) if isinstance(cell, str | bytes)]
    if texts:
        row = texts[0]
        remedy = "Correct it, or describe the column as categorical"
        what = f"is described as {column.component} but holds {values[row]!r} in row {row}"
        _refuse(column.name, what, remedy)
    return np.array([math.nan if cell is None else float(cell) for cell in values])


def _decoded(column: Column, codes: Float[np.ndarray, " n"]) -> Cells:
    missing = np.isnan(codes)
    if column.categories is None:
        whole = column.component in COUNTS and not missing.any() and bool((codes % 1 == 0).all())
        return codes.astype(np.int64) if whole else codes
    kinds = {type(label) for label in column.categories}
    if len(kinds) == 1 and str not in kinds and not missing.any():
        return np.array(column.categories)[codes.astype(int)]
    labels = np.empty(len(column.categories) + 1, dtype=object)
    labels[:-1] = column.categories
    return labels[np.where(missing, len(column.categories), codes).astype(int)]


def _column_of(entry: dict[str, Any]) -> Column:
    categories = entry["categories"]
    return Column(
        entry["name"], entry["component"], None if categories is None else tuple(categories)
    )


def _refuse(name: str, what: str, remedy: str) -> NoReturn:
    raise ValueError(f"Column {name!r} {what}. {remedy}.")
