"""One look over a table's columns: mean, variance and range, missing cells skipped."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from minorant._types import Summary

_BLOCK = 1 << 16


def summarise(
    values: Float[np.ndarray, "n d"],
    weights: Float[np.ndarray, " n"] | None,
    names: tuple[str, ...],
) -> Summary:
    """Weighted column statistics in float64, two passes, safe for values near 1e+-150.

    Args:
        values: (n, d), NaN where missing.
        weights: (n,), or None for ones.
        names: (d,) names of the columns.

    Raises:
        ValueError: for a column without any observed cell of positive weight, or one whose
            variance cannot be represented.
    """
    minimum, maximum = _extremes(values, weights)
    _reject_empty(minimum, names)
    unit = np.maximum(np.maximum(np.abs(minimum), np.abs(maximum)), np.finfo(float).tiny)
    count, mean = _sums(values, weights, unit, None)
    mean = mean / count
    square = _sums(values, weights, unit, mean)[1] / count
    with np.errstate(over="ignore", under="ignore"):
        variance = square * unit * unit
    variance = np.where(minimum == maximum, 0.0, variance)
    _reject_unrepresentable(variance, minimum == maximum, names)
    total = float(len(values) if weights is None else weights.sum())
    return Summary(mean * unit, variance, minimum, maximum, total, names)


def _extremes(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    minimum = np.full(values.shape[1], np.inf)
    maximum = np.full(values.shape[1], -np.inf)
    for block, weight in _blocks(values, weights):
        if weight is not None:
            block = block[weight > 0]
        if len(block):
            least, most = (np.fmin, np.fmax) if has_gaps(block) else (np.minimum, np.maximum)
            minimum = np.fmin(minimum, least.reduce(block, axis=0))
            maximum = np.fmax(maximum, most.reduce(block, axis=0))
    return minimum, maximum


def has_gaps(block: np.ndarray) -> bool:
    """Whether a cell is missing, by one product: a sum over a NaN is NaN.

    It may also say so of a block whose sums overflow, which costs time and nothing else.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isnan(np.ones(len(block), block.dtype) @ block).any())


def _sums(
    values: np.ndarray, weights: np.ndarray | None, unit: np.ndarray, centre: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Observed weight and weighted sum of ``x / unit``, or of its square about ``centre``."""
    count, total = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for block, weight in _blocks(values, weights):
        weight = np.ones(len(block)) if weight is None else weight
        scaled = block / unit
        if centre is not None:
            scaled -= centre
            np.square(scaled, out=scaled)
        if has_gaps(block):
            seen = ~np.isnan(scaled)
            count, scaled = count + weight @ seen, np.where(seen, scaled, 0.0)
        else:
            count = count + weight.sum()
        total = total + weight @ scaled
    return count, total


def _blocks(values: np.ndarray, weights: np.ndarray | None):  # noqa: ANN202
    for start in range(0, len(values), _BLOCK):
        stop = start + _BLOCK
        yield (
            values[start:stop].astype(float, copy=False),
            None if weights is None else weights[start:stop],
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
