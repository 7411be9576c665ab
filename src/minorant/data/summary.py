"""One look over a table's columns: mean, variance and range, missing cells skipped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from minorant._types import Summary

# Cells of a block of float64 that stays in the second-level cache while it is worked on.
_BLOCK_CELLS = 1 << 17
_LONG_ROW = 1 << 10  # cells
_LARGE = 1e100  # beyond this, or below its inverse, squares are formed in units of the largest cell


def summarise(
    values: Float[np.ndarray, "n d"],
    weights: Float[np.ndarray, " n"] | None,
    names: tuple[str, ...],
    known: tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]] | None = None,
) -> Summary:
    """Weighted column statistics in float64, two passes, safe for values near 1e+-150.

    Args:
        values: (n, d), NaN where missing.
        weights: (n,), or None for ones.
        names: (d,) names of the columns.
        known: mean and variance of the columns, where another pass has found them.

    Raises:
        ValueError: for a column without any observed cell of positive weight, or one whose
            variance cannot be represented.
    """
    minimum, maximum = _extremes(values, weights)
    _reject_empty(minimum, names)
    mean, variance = known or _mean_and_variance(values, weights, minimum, maximum)
    variance = np.where(minimum == maximum, 0.0, variance)
    _reject_unrepresentable(variance, minimum == maximum, names)
    total = float(len(values) if weights is None else weights.sum())
    return Summary(mean, variance, minimum, maximum, total, names)


class Look(NamedTuple):
    """Column statistics of some rows, which join with those of others.

    ``observed`` and ``square`` are the observed weight of every column and its sum of squares about
    the mean; ``seen`` is ``sum_i w_i``.
    """

    observed: Float[np.ndarray, " d"]
    mean: Float[np.ndarray, " d"]
    square: Float[np.ndarray, " d"]
    minimum: Float[np.ndarray, " d"]
    maximum: Float[np.ndarray, " d"]
    seen: float

    @staticmethod
    def at(values: Float[np.ndarray, "n d"], weights: Float[np.ndarray, " n"] | None) -> Look:
        """One look at rows in memory."""
        minimum, maximum = _extremes(values, weights)
        observed, total = _sums(values, weights, np.ones(values.shape[1]), None)
        mean = total / np.where(observed > 0, observed, 1.0)
        square = _sums(values, weights, np.ones(values.shape[1]), mean)[1]
        seen = float(len(values) if weights is None else weights.sum())
        return Look(observed, mean, square, minimum, maximum, seen)

    def joined(self, other: Look) -> Look:
        """These rows and others; Chan, Golub & LeVeque (1983), equation 2.1."""
        observed = self.observed + other.observed
        share = other.observed / np.where(observed > 0, observed, 1.0)
        away = other.mean - self.mean
        return Look(
            observed,
            self.mean + share * away,
            self.square + other.square + self.observed * share * away * away,
            np.fmin(self.minimum, other.minimum),
            np.fmax(self.maximum, other.maximum),
            self.seen + other.seen,
        )

    def summary(self, names: tuple[str, ...]) -> Summary:
        """As :func:`summarise` has it, with its refusals."""
        _reject_empty(self.minimum, names)
        constant = self.minimum == self.maximum
        variance = np.where(constant, 0.0, self.square / self.observed)
        _reject_unrepresentable(variance, constant, names)
        return Summary(self.mean, variance, self.minimum, self.maximum, self.seen, names)


def _mean_and_variance(
    values: np.ndarray, weights: np.ndarray | None, minimum: np.ndarray, maximum: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    unit = np.maximum(np.maximum(np.abs(minimum), np.abs(maximum)), np.finfo(float).tiny)
    unit = np.where((unit < _LARGE) & (unit > 1 / _LARGE), 1.0, unit)
    count, mean = _sums(values, weights, unit, None)
    mean = mean / count
    square = _sums(values, weights, unit, mean)[1] / count
    with np.errstate(over="ignore", under="ignore"):
        return mean * unit, square * unit * unit


def _extremes(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    minimum = np.full(values.shape[1], np.inf)
    maximum = np.full(values.shape[1], -np.inf)
    for block, weight in row_blocks(values, weights):
        if weight is not None and not weight.all():
            block = block[weight > 0]
        if len(block):
            minimum = np.fmin(minimum, _extreme(np.minimum, np.fmin, block))
            maximum = np.fmax(maximum, _extreme(np.maximum, np.fmax, block))
    return minimum, maximum


def _extreme(quick: np.ufunc, sure: np.ufunc, block: np.ndarray) -> np.ndarray:
    """Column by column; the ufunc that skips NaN is slower and only taken where there is one."""
    found = _down(quick, block)
    return _down(sure, block) if np.isnan(found).any() else found


def _down(ufunc: np.ufunc, block: np.ndarray) -> np.ndarray:
    """``ufunc.reduce(block, axis=0)``, many short rows taken as few long ones: each has a price."""
    d = block.shape[1]
    several = max(_LONG_ROW // d, 1)
    whole = len(block) // several * several
    if several == 1 or whole == 0:
        return ufunc.reduce(block, axis=0)
    long = ufunc.reduce(block[:whole].reshape(-1, several * d), axis=0)
    found = ufunc.reduce(long.reshape(several, d), axis=0)
    return ufunc(found, ufunc.reduce(block[whole:], axis=0)) if whole < len(block) else found


def has_gaps(block: np.ndarray) -> bool:
    """Whether a cell is missing, by one product: a sum over a NaN is NaN.

    It may also say so of a block whose sums overflow, which costs time and nothing else.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isnan(np.ones(len(block), block.dtype) @ block).any())


def all_finite(block: np.ndarray) -> bool:
    """Whether no cell is missing or infinite, by one product; False also where sums overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.ones(len(block), block.dtype) @ block).all())


def _sums(
    values: np.ndarray, weights: np.ndarray | None, unit: np.ndarray, centre: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Observed weight and weighted sum of ``x / unit``, or of its square about ``centre``."""
    count, total = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    in_units = bool((unit == 1.0).all())
    for block, weight in row_blocks(values, weights):
        weight = np.ones(len(block)) if weight is None else weight
        scaled = block if in_units else block / unit
        if centre is not None:
            scaled = scaled - centre
            np.square(scaled, out=scaled)
        if has_gaps(block):
            seen = ~np.isnan(scaled)
            count, scaled = count + weight @ seen, np.where(seen, scaled, 0.0)
        else:
            count = count + weight.sum()
        total = total + weight @ scaled
    return count, total


def row_blocks(
    values: np.ndarray, weights: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Rows, in float64, and their weights, in blocks small enough to stay in the cache."""
    rows = max(_BLOCK_CELLS // values.shape[1], 1)
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        yield (
            values[part].astype(float, copy=False),
            None if weights is None else weights[part],
        )


def _reject_empty(minimum: np.ndarray, names: tuple[str, ...]) -> None:
    if np.isinf(minimum).any():
        name = names[int(np.flatnonzero(np.isinf(minimum))[0])]
        raise ValueError(
            f"Column {name!r} has no observed value: nothing can be learned from it. Drop it."
        )


def _reject_unrepresentable(
    variance: np.ndarray, is_constant: np.ndarray, names: tuple[str, ...]
) -> None:
    bad = (~np.isfinite(variance)) | ((variance < np.finfo(float).tiny) & ~is_constant)
    if bad.any():
        name = names[int(np.flatnonzero(bad)[0])]
        raise ValueError(
            f"Column {name!r} has a variance that a float64 cannot hold. Divide the column by "
            "its typical size first."
        )
