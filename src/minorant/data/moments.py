"""Complete rows replaced by few weighted rows with the same first two moments.

A model whose log evidence is quadratic in x sees complete rows only through their total weight,
mean and covariance S. The 2d rows ``mean +- sqrt(d lambda_j) v_j``, with ``lambda_j, v_j`` the
eigenpairs of S and each a 2d-th of the weight, have exactly these; the climb then costs nothing per
row, whatever n. The moments themselves take one pass over the table.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from minorant._types import Affine
from minorant.data.arrays import ArraySource, Layout, Table, arrange
from minorant.data.summary import row_blocks

_LEAST_SQUARE = 1e-200  # smaller sums of squares may have lost digits to underflow


class Moments(NamedTuple):
    """Of rows: their weight, their mean, and the sum of ``(x - mean) (x - mean)^T``."""

    weight: float
    mean: Float[np.ndarray, " d"]
    scatter: Float[np.ndarray, "d d"]

    def joined(self, other: Moments) -> Moments:
        """The moments of these rows and others: no sum is formed about anything but a mean.

        Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance", equation 2.1.
        """
        total = self.weight + other.weight
        if total == 0.0:
            return self
        away = other.mean - self.mean
        between = (self.weight * other.weight / total) * np.outer(away, away)
        mean = self.mean + (other.weight / total) * away
        return Moments(total, mean, self.scatter + other.scatter + between)

    def in_units(self, units: Affine) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
        """Mean and covariance in other units."""
        covariance = self.scatter / self.weight
        return units.apply(self.mean), covariance / units.scale / units.scale[:, None]

    def is_sound(self) -> bool:
        """Whether no square has overflowed or underflowed."""
        squares = np.diagonal(self.scatter)
        return bool(np.isfinite(self.scatter).all() and (squares > _LEAST_SQUARE).all())


class Complete(NamedTuple):
    """Which rows miss nothing, and their moments."""

    rows: Bool[np.ndarray, " n"]
    moments: Moments

    def columns(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]] | None:
        """Mean and variance of every column, where they can be read off: all rows complete."""
        if not self.rows.all() or not self.moments.is_sound():
            return None
        return self.moments.mean, np.diagonal(self.moments.scatter) / self.moments.weight


def complete_moments(table: Table, units: Affine | None = None) -> Complete:
    """The complete rows and their moments, in the data's units or others; one pass, in float64."""
    values, d = table.values, table.values.shape[1]
    complete = np.ones(len(values), dtype=bool)
    total = Moments(0.0, np.zeros(d), np.zeros((d, d)))
    start, room = 0, None
    for block, weight in row_blocks(values, table.weights):
        here = complete[start : start + len(block)]
        start += len(block)
        room = np.empty(block.shape) if room is None else room
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            block = block if units is None else units.apply(block)
            found = _of_block(block, weight, room[: len(block)])
            if np.isnan(found.mean).any():
                here[:] = ~np.isnan(block).any(1)
                weight = None if weight is None else weight[here]
                found = _of_block(block[here], weight, room[: int(here.sum())])
            total = total.joined(found)
    return Complete(complete, total)


def _of_block(block: np.ndarray, weight: np.ndarray | None, room: np.ndarray) -> Moments:
    """Moments of few rows, worked out in ``room``; a missing cell makes the mean NaN."""
    sizes = np.ones(len(block)) if weight is None else weight
    total = float(sizes.sum())
    mean = sizes @ block / max(total, np.finfo(float).tiny)
    np.subtract(block, mean, out=room)
    if weight is not None:
        room *= np.sqrt(weight)[:, None]
    # A product with its own transpose takes half the arithmetic of one with another matrix.
    return Moments(total, mean, room.T @ room)


def arrange_compressed(
    table: Table,
    units: Affine,
    dtype: np.dtype,
    shares_patterns: bool,
    found: Complete | None = None,
) -> tuple[ArraySource, Layout]:
    """As :func:`arrange`, complete rows compressed where that makes them fewer.

    The layout is of the rows held, not of the table's: per-row answers need ``arrange``. ``found``
    is what :func:`complete_moments` says of the table, where that is known.
    """
    found = found or complete_moments(table)
    if found.rows.sum() <= 2 * table.values.shape[1]:
        return arrange(table, units, dtype, shares_patterns)
    if found.moments.is_sound():
        rows = same_moments(*found.moments.in_units(units))
    else:
        inside = complete_moments(table, units).moments
        rows = same_moments(*inside.in_units(Affine.identity(len(inside.mean))))
    rest = ~found.rows
    weights = np.ones(rest.sum()) if table.weights is None else table.weights[rest]
    shares = np.full(len(rows), found.moments.weight / len(rows))
    cells = np.concatenate([rows, units.apply(table.values[rest])])
    small = Table(cells, np.concatenate([shares, weights]))
    source, layout = arrange(small, Affine.identity(rows.shape[1]), dtype, shares_patterns)
    exact = len(rest) if table.weights is None else table.weights.sum()
    return ArraySource(source.segments, np.asarray(exact, dtype=dtype)), layout


def same_moments(
    mean: Float[np.ndarray, " d"], covariance: Float[np.ndarray, "d d"]
) -> Float[np.ndarray, "two_d d"]:
    """2d rows with this mean and covariance, each of equal weight."""
    values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    arms = (vectors * np.sqrt(len(mean) * np.maximum(values, 0.0))).T
    return np.concatenate([mean + arms, mean - arms])
