"""Complete rows replaced by few weighted rows with the same first two moments.

A model whose log evidence is quadratic in x sees complete rows only through their total weight,
mean and covariance S. The 2d rows ``mean +- sqrt(d lambda_j) v_j``, with ``lambda_j, v_j`` the
eigenpairs of S and each a 2d-th of the weight, have exactly these; the climb then costs nothing per
row, whatever n.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from minorant._types import Affine
from minorant.data.arrays import ArraySource, Layout, Table, arrange
from minorant.data.summary import has_gaps

_CHUNK = 1 << 13


def arrange_compressed(
    table: Table, units: Affine, dtype: np.dtype, shares_patterns: bool
) -> tuple[ArraySource, Layout]:
    """As :func:`arrange`, complete rows compressed where that makes them fewer.

    The layout is of the rows held, not of the table's: per-row answers need ``arrange``.
    """
    complete = _complete(table.values)
    if complete.sum() <= 2 * table.values.shape[1]:
        return arrange(table, units, dtype, shares_patterns)
    weights = np.ones(len(complete)) if table.weights is None else table.weights
    total, mean, covariance = moments(table.values, weights, complete, units)
    rows = same_moments(mean, covariance)
    rest = units.apply(table.values[~complete])
    shares = np.full(len(rows), total / len(rows))
    small = Table(np.concatenate([rows, rest]), np.concatenate([shares, weights[~complete]]))
    source, layout = arrange(small, Affine.identity(rows.shape[1]), dtype, shares_patterns)
    exact = np.asarray(weights.sum(), dtype=dtype)
    return ArraySource(source.segments, exact), layout


def _complete(values: Float[np.ndarray, "n d"]) -> np.ndarray:
    """Which rows miss nothing."""
    found = np.ones(len(values), dtype=bool)
    for start in range(0, len(values), _CHUNK):
        block = values[start : start + _CHUNK]
        if has_gaps(block):
            found[start : start + _CHUNK] = ~np.isnan(block).any(1)
    return found


def moments(
    values: Float[np.ndarray, "n d"],
    weights: Float[np.ndarray, " n"],
    used: np.ndarray,
    units: Affine,
) -> tuple[float, Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Total weight, mean and covariance of the used rows in ``units``, in float64."""
    total = float(weights[used].sum())
    d = values.shape[1]
    mean, second = np.zeros(d), np.zeros((d, d))
    for start in range(0, len(values), _CHUNK):
        part = slice(start, start + _CHUNK)
        here = used[part]
        rows, weight = values[part], weights[part]
        if not here.all():
            rows, weight = rows[here], weight[here]
        rows = units.apply(rows)
        mean += weight @ rows
        # A product with its own transpose takes half the arithmetic of one with another matrix.
        rows *= np.sqrt(weight)[:, None]
        second += rows.T @ rows
    mean /= total
    # Standardised columns have means near zero: the difference loses no digits that matter.
    return total, mean, second / total - np.outer(mean, mean)


def same_moments(
    mean: Float[np.ndarray, " d"], covariance: Float[np.ndarray, "d d"]
) -> Float[np.ndarray, "two_d d"]:
    """2d rows with this mean and covariance, each of equal weight."""
    values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    arms = (vectors * np.sqrt(len(mean) * np.maximum(values, 0.0))).T
    return np.concatenate([mean + arms, mean - arms])
