"""What users pass, as NumPy: matrices, weights and labels, or one sentence that says what is wrong.

Nothing here imports scikit-learn or a table library, unless the input is a table (then narwhals
reads it) or is refused in scikit-learn's own words.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np

# What users may pass, and what only duck typing names.
Rows: TypeAlias = Any  # a table, an array, lists of numbers: whatever reads as a matrix
Values: TypeAlias = Any  # whatever reads as a vector
HasColumns: TypeAlias = Any  # an object that carries n_features_in_ and feature_names_in_
Frame: TypeAlias = Any  # a narwhals frame
Series: TypeAlias = Any  # a narwhals series

_TABLES = {"pandas", "polars", "pyarrow", "narwhals", "modin", "cudf", "dask", "ibis", "duckdb"}
_RESHAPE = (
    "Reshape your data either using array.reshape(-1, 1) if your data has a single feature "
    "or array.reshape(1, -1) if it contains a single sample."
)


@dataclass(frozen=True)
class _Argument:
    """What is being read: the names that its error sentences use."""

    name: str
    owner: str
    columns: np.ndarray | None = None

    def column(self, index: int) -> str:
        if self.columns is None:
            return f"column {index} of {self.name}"
        return f"column {self.columns[index]!r} (index {index}) of {self.name}"

    def place(self, row: int, index: int) -> str:
        return f"{self.column(index)}, row {row}"


@dataclass(frozen=True)
class _Vector(_Argument):
    """An argument of one value per row."""

    def place(self, row: int, index: int) -> str:  # noqa: ARG002
        return f"{self.name}, row {row}"


def as_matrix(
    estimator: HasColumns,
    X: Rows,
    *,
    reset: bool,
    allow_nan: bool = True,
    min_rows: int = 1,
) -> np.ndarray:
    """Return X as a float matrix of shape (n, d), which may share its memory.

    `float32` stays `float32`, everything else becomes `float64`. NaN, None, `pandas.NA`, masked
    and null entries come out as NaN.

    Args:
        estimator: The object that keeps `n_features_in_` and `feature_names_in_`.
        X: A table, an array, or lists of numbers.
        reset: Whether to set the two attributes (in `fit`) or to check X against them.
        allow_nan: Whether missing entries are accepted.
        min_rows: The least number of rows.

    Raises:
        TypeError: X is sparse, lazy, or holds objects that are no numbers.
        ValueError: X has the wrong shape, names or values.
    """
    owner = type(estimator).__name__
    _refuse_sparse(X)
    frame = _as_frame(X)
    names = None if frame is None else _feature_names(frame)
    argument = _Argument("X", owner, names)
    if not reset:
        _check_names(estimator, X if frame is None else frame, names)
    matrix = _from_array(X, argument) if frame is None else _from_frame(frame, argument)
    _check_size(matrix, owner, min_rows)
    if not reset:
        _check_width(estimator, matrix.shape[1])
    _check_values(matrix, argument, allow_nan)
    if reset:
        _remember(estimator, matrix.shape[1], names)
    return matrix


def as_weights(
    sample_weight: Values,
    n: int,
    dtype: type[np.floating] | np.dtype = np.float64,
) -> np.ndarray | None:
    """Return the weights of n rows as a vector, a number repeated, or None where none are given.

    Raises:
        ValueError: The weights have the wrong length, a value below zero, missing or infinite,
            or are all zero.
    """
    if sample_weight is None:
        return None
    if isinstance(sample_weight, numbers.Real):
        weights = np.full(n, float(sample_weight))
    else:
        weights = _as_vector(sample_weight, n, "sample_weight")
    _check_weights(weights)
    return weights.astype(dtype, copy=False)


def as_labels(y: Values, n: int, n_components: int, name: str = "y") -> np.ndarray | None:
    """Return the known component of each of n rows, -1 where it is unknown.

    Args:
        y: One number per row in 0 .. n_components - 1, or -1, NaN, None for unknown; None: no
            label is known.
        n: The number of rows.
        n_components: The number of components.
        name: The name of the argument, for the error sentences.

    Raises:
        ValueError: A label is not a whole number, or lies out of range.
    """
    if y is None:
        return None
    values = _as_vector(y, n, name)
    values = np.where(np.isnan(values), -1.0, values)
    wrong = (values != np.floor(values)) | (values < -1) | (values >= n_components)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{name} holds {values[row]:g} at row {row}: a label must be a whole number from 0 to "
            f"{n_components - 1}, or -1 or NaN where it is unknown. Number the labels from 0, or "
            "raise n_components."
        )
    return values.astype(np.int64)


# Tables


def _is_table(X: object) -> bool:
    roots = {base.__module__.partition(".")[0] for base in type(X).__mro__}
    return bool(roots & _TABLES) or hasattr(X, "__dataframe__") or hasattr(X, "__arrow_c_stream__")


def _as_frame(X: Rows) -> Frame | None:
    """Return a table as a narwhals frame, and None for all that is no table."""
    if not _is_table(X):
        return None
    import narwhals.stable.v2 as nw

    frame = nw.from_native(X, pass_through=True, allow_series=True)
    if isinstance(frame, nw.LazyFrame):
        raise TypeError(
            f"X is a lazy table ({type(X).__name__}): bring it into memory first, by .collect() "
            "or .compute()."
        )
    if isinstance(frame, nw.Series):
        raise ValueError(
            f"Expected a 2-dimensional container but got {type(X)} instead. Pass a DataFrame "
            "containing a single row (i.e. single sample) or a single column (i.e. single "
            f"feature) instead. {_RESHAPE}"
        )
    if isinstance(frame, nw.DataFrame):
        return frame
    return _through_arrow(frame)


def _through_arrow(X: Rows) -> Frame | None:
    """Return a table that narwhals does not know, if it speaks Arrow's stream protocol."""
    if not hasattr(X, "__arrow_c_stream__"):
        return None
    import narwhals.stable.v2 as nw
    import pyarrow as pa

    return nw.from_native(pa.table(X), eager_only=True)


def _feature_names(frame: Frame) -> np.ndarray | None:
    """Return the column names where all are strings, as scikit-learn does."""
    strings = {isinstance(name, str) for name in frame.columns}
    if strings == {True}:
        return np.asarray(frame.columns, dtype=object)
    if len(strings) == 2:
        from sklearn.utils.validation import _get_feature_names

        return _get_feature_names(frame)
    return None


def _from_frame(frame: Frame, argument: _Argument) -> np.ndarray:
    import narwhals.stable.v2 as nw

    kinds = set(frame.schema.dtypes())
    dtype = np.float32 if kinds == {nw.Float32()} else np.float64
    if kinds in ({nw.Float32()}, {nw.Float64()}):
        matrix = frame.to_numpy()
        if matrix.dtype == dtype:
            return matrix
    columns = [_from_series(one, index, argument) for index, one in enumerate(frame.iter_columns())]
    return np.column_stack(columns).astype(dtype) if columns else np.empty(frame.shape)


def _from_series(series: Series, index: int, argument: _Argument) -> np.ndarray:
    import narwhals.stable.v2 as nw

    kind = series.dtype
    if kind.is_numeric() or kind == nw.Boolean:
        return series.cast(nw.Float64).to_numpy()
    if kind in (nw.Object, nw.Unknown):
        values = np.asarray(series.to_numpy(), dtype=object)
        return _from_objects(values[:, None], argument, first=index)[:, 0]
    known = series.drop_nulls()
    example = f" (such as {known[0]!r})" if len(known) else ""
    return _refuse_column(f"{argument.column(index)} holds {kind} values{example}", argument.owner)


def _refuse_column(what: str, owner: str) -> NoReturn:
    raise ValueError(
        f"{what[0].upper()}{what[1:]}, but {owner} takes numbers: encode the column as numbers, "
        "or drop it."
    )


# Arrays


def _refuse_sparse(X: object) -> None:
    if hasattr(X, "toarray") or hasattr(X, "todense"):
        raise TypeError(
            "Sparse data was passed for X, but dense data is required. Use '.toarray()' to "
            "convert to a dense numpy array."
        )


def _from_array(X: object, argument: _Argument) -> np.ndarray:
    array = _as_array(X, argument.name)
    _check_dimensions(array, argument.owner)
    return _as_floats(array, argument)


def _as_array(values: object, name: str) -> np.ndarray:
    if isinstance(values, np.ma.MaskedArray):
        kept = values.dtype if values.dtype.kind == "f" else np.float64
        return np.ma.filled(values.astype(kept), np.nan)
    try:
        array = np.asarray(values)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(
            f"{name} is ragged: its rows have different lengths. Give every row the same number "
            "of entries, None where one is missing."
        ) from error
    # NumPy turns a list with one text in it into texts: read the objects themselves instead.
    mixed = array.dtype.kind in "US" and isinstance(values, list | tuple)
    return np.asarray(values, dtype=object) if mixed else array


def _as_floats(array: np.ndarray, argument: _Argument) -> np.ndarray:
    kind = array.dtype.kind
    if kind == "c":
        raise ValueError(f"Complex data not supported\n{array}\nPass real and imaginary parts.")
    if kind in "OUS":
        return _from_objects(array.astype(object), argument)
    if kind not in "fiub":
        _refuse_column(f"{argument.name} is an array of {array.dtype}", argument.owner)
    single = kind == "f" and array.dtype.itemsize == 4
    return array.astype(np.float32 if single else np.float64, copy=False)


def _from_objects(array: np.ndarray, argument: _Argument, first: int = 0) -> np.ndarray:
    """Return an object matrix as numbers, or name the first entry that is none."""
    flat = array.ravel().tolist()
    numbers_ = np.empty(len(flat))
    for position, value in enumerate(flat):
        try:
            numbers_[position] = _number(value)
        except (TypeError, ValueError, OverflowError) as error:
            row, index = divmod(position, array.shape[1])
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(
                f"{argument.place(row, first + index)}, holds {value!r}: {error}. "
                "Encode the values as numbers, or leave them out."
            ) from None
    return numbers_.reshape(array.shape)


def _number(value: Values) -> float:
    if value is None or type(value).__name__ in ("NAType", "NaTType", "MaskedConstant"):
        return math.nan
    if isinstance(value, str | bytes):
        raise ValueError("could not convert string to float, text is not a number")
    return float(value)


def _as_vector(values: object, n: int, name: str) -> np.ndarray:
    array = _as_array(values, name)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be a 1D array or a number, got an array of shape {array.shape}: pass "
            f"one value for each of the {n} rows."
        )
    if len(array) != n:
        raise ValueError(
            f"{name} has {len(array)} values, but X has {n} rows: pass one value per row."
        )
    return _as_floats(array[:, None], _Vector(name, ""))[:, 0]


# Checks


def _check_dimensions(array: np.ndarray, owner: str) -> None:
    if array.ndim < 2:
        kind = "scalar array" if array.ndim == 0 else "1D array"
        raise ValueError(f"Expected 2D array, got {kind} instead:\narray={array}.\n{_RESHAPE}")
    if array.ndim > 2:
        raise ValueError(
            f"Found array with dim {array.ndim}, while dim <= 2 is required by {owner}. Flatten "
            "each row: X.reshape(len(X), -1)."
        )


def _check_size(matrix: np.ndarray, owner: str, min_rows: int) -> None:
    for found, least, what in zip(matrix.shape, (min_rows, 1), ("sample", "feature"), strict=True):
        if found < least:
            raise ValueError(
                f"Found array with {found} {what}(s) (shape={matrix.shape}) while a minimum of "
                f"{least} is required by {owner}."
            )


def _check_width(estimator: HasColumns, width: int) -> None:
    expected = getattr(estimator, "n_features_in_", width)
    if width != expected:
        raise ValueError(
            f"X has {width} features, but {type(estimator).__name__} is expecting {expected} "
            "features as input."
        )


def _check_names(estimator: HasColumns, X: object, names: np.ndarray | None) -> None:
    """Compare the names with those of `fit`; scikit-learn itself words what differs."""
    fitted = getattr(estimator, "feature_names_in_", None)
    if fitted is None and names is None:
        return
    if fitted is None or names is None or not np.array_equal(fitted, names):
        from sklearn.utils.validation import _check_feature_names

        _check_feature_names(estimator, X, reset=False)


def _remember(estimator: HasColumns, width: int, names: np.ndarray | None) -> None:
    estimator.n_features_in_ = width
    if names is not None:
        estimator.feature_names_in_ = names
    elif hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_


def _check_values(matrix: np.ndarray, argument: _Argument, allow_nan: bool) -> None:
    if not allow_nan:
        _refuse_where(np.isnan(matrix), matrix, argument, "NaN", "Fill the entry in")
    remedy = "Write NaN if the value is unknown" if allow_nan else "Correct it"
    _refuse_where(np.isinf(matrix), matrix, argument, "infinity", remedy)


def _refuse_where(
    wrong: np.ndarray, matrix: np.ndarray, argument: _Argument, what: str, remedy: str
) -> None:
    if wrong.any():
        row, index = map(int, np.unravel_index(np.argmax(wrong), wrong.shape))
        raise ValueError(
            f"Input {argument.name} contains {what}: {argument.place(row, index)}, holds "
            f"{matrix[row, index]}, which {argument.owner} does not accept. {remedy}, or leave the "
            "row out."
        )


def _check_weights(weights: np.ndarray) -> None:
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"sample_weight holds {weights[row]} at row {row}: a weight must be a finite number, "
            "zero or above. Give a row that should not count the weight 0."
        )
    if not weights.any():
        raise ValueError(
            "sample_weight is zero in every row: Sample weights must contain at least one "
            "non-zero number. Leave sample_weight out to weight all rows alike."
        )
