"""What the estimators of sequences are given: rows with lengths, groups, times, inputs; or chunks.

Times are whole steps. Where they leave one out, a row without any observed cell takes its place:
that is exact, because such a row says nothing but that the states moved on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from minorant.estimators._validation import Rows, Values, as_labels

if TYPE_CHECKING:
    from minorant.data.arrays import Table
    from minorant.data.chunks import AbstractChunks
    from minorant.data.summary import Look
    from minorant.estimators._series_answers import States


class Series(NamedTuple):
    """Rows in the order of time inside each sequence; ``kept`` are the rows that were given."""

    rows: Float[np.ndarray, "n d"]
    groups: Int[np.ndarray, " n"]
    inputs: Float[np.ndarray, "n m"] | None
    kept: Int[np.ndarray, " m"]

    def n_sequences(self) -> int:
        """How many sequences there are."""
        return int(self.groups.max()) + 1

    def n_inputs(self) -> int:
        """How many covariates there are."""
        return 0 if self.inputs is None else self.inputs.shape[1]

    def mean_inputs(self) -> Float[np.ndarray, " m"] | None:
        """The covariates' means, None where there are none."""
        return None if self.inputs is None else self.inputs.mean(0)

    def column_moments(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
        """Mean and variance of the observed cells of every column."""
        return np.nanmean(self.rows, axis=0), np.nanvar(self.rows, axis=0)

    def data(self, named: Callable[[np.ndarray], Any]) -> Any:
        """What is climbed on, or asked about: rows with their names."""
        return named(self.rows)

    def beside(self) -> dict[str, Any]:
        """What is given beside the rows, as `minorant.fit` takes it."""
        return {"groups": self.groups, "inputs": self.inputs}


class SeriesInChunks:
    """Sequences out of memory: whole ones in every chunk, each in the order of time.

    What is known of all of them takes a pass, made when it is first asked for.
    """

    kept = slice(None)

    def __init__(self, chunks: AbstractChunks) -> None:
        """Steps at which nothing was observed have their place."""
        self._chunks = chunks.with_empty_rows()
        self._known: _Known | None = None

    def n_sequences(self) -> int:
        """How many sequences there are."""
        return self._look().n_sequences

    def n_inputs(self) -> int:
        """How many covariates there are."""
        inputs = next(self._chunks.read()).inputs
        return 0 if inputs is None else inputs.shape[1]

    def mean_inputs(self) -> Float[np.ndarray, " m"] | None:
        """The covariates' means, None where there are none."""
        found = self._look().inputs
        return None if found is None else found.mean

    def column_moments(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
        """Mean and variance of the observed cells of every column."""
        found = self._look().columns
        return found.mean, found.square / found.observed

    def data(self, named: Callable[[np.ndarray], Any]) -> AbstractChunks:
        """The chunks, which have names."""
        del named
        return self._chunks

    def beside(self) -> dict[str, Any]:
        """Nothing: chunks have it all."""
        return {}

    def _look(self) -> _Known:
        if self._known is None:
            for table in self._chunks.read():
                found = _Known.of(table)
                self._known = found if self._known is None else self._known.joined(found)
        assert self._known is not None  # chunks without rows are refused where they are opened
        return self._known


class _Known(NamedTuple):
    """What a pass over chunks finds; every row counts once, whatever its weight."""

    n_sequences: int
    columns: Look
    inputs: Look | None

    @staticmethod
    def of(table: Table) -> _Known:
        from minorant.data.summary import Look

        groups = 1 if table.groups is None else int(table.groups[-1]) + 1
        inputs = None if table.inputs is None else Look.at(table.inputs, None)
        return _Known(groups, Look.at(table.values, None), inputs)

    def joined(self, other: _Known) -> _Known:
        both = None
        if self.inputs is not None and other.inputs is not None:
            both = self.inputs.joined(other.inputs)
        n = self.n_sequences + other.n_sequences
        return _Known(n, self.columns.joined(other.columns), both)


AnySeries: TypeAlias = Series | SeriesInChunks


def learned(
    estimator: Any,
    X: Rows,  # noqa: N803
    sample_weight: Values,
    labels: Values,
    sequences: Mapping[str, Values],
) -> tuple[AnySeries, dict[str, Any]]:
    """Return the sequences that `fit` is given, and what there is beside them.

    Raises:
        ValueError: for rows, weights, labels or sequences that cannot be used.
    """
    if estimator._takes(X):
        estimator._validate_params()
        roles = {"sample_weight": sample_weight, "labels": labels, **sequences}
        return SeriesInChunks(estimator._chunks(X, True, **roles)), {}
    rows, weights = estimator._begin_fit(X, sample_weight)
    series = as_series(rows, **sequences)
    beside = {**series.beside(), "weights": spread(weights, series)}
    if labels is not None:
        known = as_labels(labels, len(rows), estimator.n_components, "labels")
        beside["labels"] = _placed(known, series)
    return series, beside


def _placed(labels: np.ndarray | None, series: Series) -> np.ndarray | None:
    """The labels with those of missing steps unknown."""
    if labels is None:
        return None
    full = np.full(len(series.rows), -1)
    full[series.kept] = labels
    return full


class Forecast(NamedTuple):
    """What is to come: rows and states of the steps after the last row, with their uncertainty.

    Attributes:
        mean: (h, d), or (g, h, d) for g sequences.
        covariance: the same with (d, d) matrices.
        states: means and covariances of the states, (g * h, l) and (g * h, l, l).
    """

    mean: Float[np.ndarray, "*g h d"]
    covariance: Float[np.ndarray, "*g h d d"]
    states: States

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return limits that hold each cell with this probability, the parameters taken as known.

        Args:
            level: between 0 and 1.

        Raises:
            ValueError: `level` is not between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"level must lie between 0 and 1; got {level!r}.")
        width = NormalDist().inv_cdf(0.5 + level / 2.0)
        away = width * np.sqrt(np.diagonal(self.covariance, axis1=-2, axis2=-1))
        return self.mean - away, self.mean + away


def as_series(
    rows: Float[np.ndarray, "n d"],
    lengths: Values = None,
    groups: Values = None,
    times: Values = None,
    inputs: Any = None,
) -> Series:
    """Checked sequences.

    Args:
        rows: (n, d) checked rows.
        lengths: rows of each sequence, one after the other; or None.
        groups: (n,) the sequence of each row, by any name; or None.
        times: (n,) the step of each row, growing inside each sequence; or None.
        inputs: (n, m) covariates; or None.

    Raises:
        ValueError: for lengths, groups, times or inputs that do not describe the rows.
    """
    if lengths is not None and groups is not None:
        raise ValueError("Give lengths or groups, not both: each says where the sequences are.")
    codes = _from_lengths(lengths, len(rows)) if groups is None else _from_names(groups, len(rows))
    known = _as_inputs(inputs, len(rows))
    if times is None:
        return Series(rows, codes, known, np.arange(len(rows)))
    return _with_steps(rows, codes, known, _as_times(times, codes))


def _from_lengths(lengths: Values, n: int) -> Int[np.ndarray, " n"]:
    if lengths is None:
        return np.zeros(n, dtype=np.int64)
    values = np.atleast_1d(np.asarray(lengths))
    if values.ndim != 1 or not np.all(values == np.floor(values)):
        raise ValueError(f"lengths must be whole numbers, one for each sequence; got {lengths!r}.")
    if (values < 1).any():
        which = int(np.argmax(values < 1))
        raise ValueError(
            f"lengths[{which}] is {values[which]}: a sequence has at least one row. Leave empty "
            "sequences out."
        )
    if values.sum() != n:
        raise ValueError(f"lengths add up to {int(values.sum())}, but X has {n} rows.")
    return np.repeat(np.arange(len(values)), values.astype(int))


def _from_names(groups: Values, n: int) -> Int[np.ndarray, " n"]:
    from minorant.data.tables import as_groups

    codes = as_groups(groups, n)
    return np.zeros(n, dtype=np.int64) if codes is None else codes


def _as_inputs(inputs: Any, n: int) -> Float[np.ndarray, "n m"] | None:
    from minorant.data.tables import as_inputs

    return as_inputs(inputs, n)


def _as_times(times: Values, codes: np.ndarray) -> Int[np.ndarray, " n"]:
    values = np.asarray(times)
    if values.shape != codes.shape:
        raise ValueError(f"times must have one entry per row, {len(codes)}; got {values.shape}.")
    numbers = values.astype(float)
    broken = ~np.isfinite(numbers) | (numbers != np.floor(numbers))
    if broken.any():
        row = int(np.argmax(broken))
        raise ValueError(
            f"times must be whole steps; row {row} has {values[row]!r}. Divide by the spacing and "
            "round."
        )
    order = np.argsort(codes, kind="stable")
    same = np.diff(codes[order]) == 0
    back = same & (np.diff(numbers[order]) <= 0)
    if back.any():
        place = int(np.argmax(back))
        first, then = order[place], order[place + 1]
        raise ValueError(
            f"times must grow inside a sequence, but row {then} has {values[then]} after "
            f"{values[first]} in row {first}: sort the rows by time, and keep one row per step."
        )
    return numbers.astype(np.int64)


def _with_steps(
    rows: np.ndarray, codes: np.ndarray, inputs: np.ndarray | None, times: np.ndarray
) -> Series:
    """The sequences with a row for every step; steps that were left out observe nothing."""
    order = np.argsort(codes, kind="stable")
    first = np.concatenate([[True], np.diff(codes[order]) != 0])
    gap = np.where(first, 1, np.diff(times[order], prepend=0))
    place = np.cumsum(gap) - 1
    n = int(place[-1]) + 1
    if n > len(rows) and inputs is not None:
        row = int(order[np.argmax(gap > 1)])
        raise ValueError(
            f"times leave out steps before row {row}, whose inputs are not known: give a row of "
            "NaN with its inputs for every step."
        )
    kept = np.empty(len(rows), dtype=np.int64)
    kept[order] = place
    full = np.full((n, rows.shape[1]), np.nan, dtype=rows.dtype)
    full[kept] = rows
    group = codes[order][np.searchsorted(place, np.arange(n))]
    known = None if inputs is None else inputs[order]
    return Series(full, group, known, kept)


def spread(weights: np.ndarray | None, series: Series) -> np.ndarray | None:
    """Return the weights with those of missing steps put in."""
    if weights is None:
        return None
    of_group = np.zeros(series.n_sequences())
    of_group[series.groups[series.kept]] = weights
    full = of_group[series.groups]
    full[series.kept] = weights
    return full


def continued(series: Series, n_steps: int, future: Values) -> Series:
    """Return the series with rows of NaN after the last row of every sequence."""
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1; got {n_steps!r}.")
    g, (_, d) = series.n_sequences(), series.rows.shape
    more = np.full((g * n_steps, d), np.nan, dtype=series.rows.dtype)
    inputs = None
    if series.inputs is not None:
        m = series.inputs.shape[1]
        if future is None:
            raise ValueError(
                f"future_inputs must be given, shape ({n_steps}, {m}): the model has inputs."
            )
        ahead = np.broadcast_to(np.asarray(future, dtype=float), (g, n_steps, m)).reshape(-1, m)
        inputs = np.concatenate([series.inputs, ahead])
    groups = np.concatenate([series.groups, np.repeat(np.arange(g), n_steps)])
    rows = np.concatenate([series.rows, more])
    return Series(rows, groups, inputs, np.arange(len(rows)))


def needed(inputs: Values, n: int, m: int) -> np.ndarray | None:
    if not m:
        return None
    if inputs is None or np.shape(inputs) != (n, m):
        raise ValueError(
            f"inputs must have shape ({n}, {m}), a row for every step; got "
            f"{None if inputs is None else np.shape(inputs)}."
        )
    return np.asarray(inputs, dtype=float)
