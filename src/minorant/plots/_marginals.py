"""Each component's density in one column, other columns integrated out, whatever the component.

A component scores rows with missing cells by integrating them out; so a row in which one column
alone is observed has that column's marginal density.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._types import Array, Rows
from minorant.result import Fit

_POINTS = 256


class Marginal(NamedTuple):
    """Weighted densities of one column: ``density`` (k, m) at ``grid`` (m,), or masses."""

    grid: Float[np.ndarray, " m"]
    density: Float[np.ndarray, "k m"]
    is_discrete: bool


def marginal(fit: Fit, values: Float[np.ndarray, "n d"], column: int) -> Marginal:
    """``w_k p(x_j | k)`` over the range of the data.

    Args:
        fit: a fitted mixture.
        values: (n, d) rows, NaN where missing.
        column: which column j.
    """
    seen = values[~np.isnan(values[:, column]), column]
    discrete = is_discrete(fit, values, column)
    grid = _integers(seen) if discrete else _between(seen)
    with _config.precision(np.dtype(np.float64)):
        log_density = np.asarray(_score(fit.model, _rows(grid, values.shape[1], column)))
    density = np.nan_to_num(np.exp(log_density), nan=0.0, posinf=0.0)
    return Marginal(grid, density, discrete)


def is_discrete(fit: Fit, values: Float[np.ndarray, "n d"], column: int) -> bool:
    """Whether the component refuses a value between two whole numbers that the column holds."""
    seen = values[~np.isnan(values[:, column]), column]
    if len(seen) == 0 or np.any(seen != np.round(seen)) or seen.max() <= seen.min():
        return False
    probe = np.array(values[~np.isnan(values[:, column])][:1])
    probe[0, column] = seen.min() + 0.5
    try:
        fit.model.check(probe, fit.names)
    except ValueError:
        return True
    return False


@jax.jit
def _score(model: Any, rows: Rows) -> Float[Array, "k m"]:
    return model.log_joint_all(rows, model.prepare())


def _rows(grid: np.ndarray, d: int, column: int) -> Rows:
    cells: Any = np.zeros((len(grid), d))
    weight: Any = np.ones(len(grid))
    cells[:, column] = grid
    if d == 1:
        return Rows(cells, weight)
    observed: Any = np.zeros((len(grid), d), dtype=bool)
    observed[:, column] = True
    return Rows(cells, weight, observed)


def _integers(seen: np.ndarray) -> np.ndarray:
    return np.arange(seen.min(), seen.max() + 1.0)


def _between(seen: np.ndarray) -> np.ndarray:
    """A grid over the data's range, a little wider where that crosses no boundary at zero."""
    low, high = float(seen.min()), float(seen.max())
    room = 0.08 * (high - low) or 1.0
    start = low - room if low < 0 or low - room > 0 else low
    return np.linspace(start, high + room, _POINTS)
