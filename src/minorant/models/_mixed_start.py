"""What a mixed model's climb walks in, and where it starts; starts are host side."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._parameters import PositiveDefinite
from minorant._types import Array

_ITERATIONS = 50


@dataclasses.dataclass(frozen=True)
class Turned:
    """Coefficients whose free coordinates belong to orthonormal columns, in units of the noise."""

    root: Any

    def free(self, value: Array) -> Array:
        """Value to free coordinates."""
        return jnp.asarray(self.root) @ value

    def value(self, free: Array) -> Array:
        """Free coordinates to value."""
        return _namespace(free).linalg.solve(self.root, free)

    def count(self, shape: tuple[int, ...]) -> int:
        """All of them."""
        return shape[0]


@dataclasses.dataclass(frozen=True)
class InUnits:
    """Covariances of effects u, in log-Cholesky coordinates of ``unit u``."""

    unit: Any

    def free(self, value: Array) -> Array:
        """Value to free coordinates."""
        unit = jnp.asarray(self.unit)
        return PositiveDefinite().free(unit @ value @ unit.T)

    def value(self, free: Array) -> Array:
        """Free coordinates to value."""
        inverse = _namespace(free).linalg.inv(self.unit)
        return inverse @ PositiveDefinite().value(free) @ inverse.T

    def count(self, shape: tuple[int, ...]) -> int:
        """The distinct entries."""
        return PositiveDefinite().count(shape)


def check_design(design: np.ndarray, random: tuple[int, ...]) -> None:
    """Raise ValueError for a design whose columns are missing or depend on each other."""
    m = design.shape[1]
    if max(random) >= m:
        raise ValueError(
            f"random names design column {max(random)}, but the design has only columns 0 "
            f"to {m - 1}: the constant and the inputs. Give more inputs, or other columns."
        )
    size = np.sqrt((design**2).mean(0))
    scaled = design / np.where(size > 0, size, 1.0)
    diagonal = np.abs(np.diag(np.linalg.qr(scaled)[1])) / np.sqrt(len(design))
    if len(design) < m or (diagonal < 1e-9).any():
        column = int(np.argmin(diagonal)) if len(diagonal) else 0
        raise ValueError(
            f"Column {column} of the design (0: the constant, then the inputs) is a linear "
            "combination of those before it: its coefficient is not determined. Drop it."
        )


def regression(
    family: str, values: np.ndarray, design: np.ndarray, offset: Any, weight: np.ndarray
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " n"] | None]:
    """Coefficients of the regression without random effects, and residuals of a normal outcome.

    Iterated weighted least squares, ridged where groups are separated perfectly.
    """
    y = values[:, 0]
    trials = values.sum(1) if family == "binomial" else np.ones(len(y))
    if family == "normal":
        root = np.sqrt(weight)
        found = np.linalg.lstsq(design * root[:, None], (y - offset) * root, rcond=None)[0]
        return found, y - offset - design @ found
    start = np.log(y + 0.5) if family == "poisson" else np.log((y + 0.5) / (trials - y + 0.5))
    found = np.linalg.lstsq(design, start - offset, rcond=None)[0]
    ridge = 1e-6 * len(y) * np.diag((design**2).mean(0))
    for _ in range(_ITERATIONS):
        predictor = np.clip(design @ found + offset, -30, 30)
        mean = np.exp(predictor) if family == "poisson" else trials / (1 + np.exp(-predictor))
        spread = mean if family == "poisson" else mean * (1 - mean / np.maximum(trials, 1))
        gradient = design.T @ (weight * (y - mean))
        step = np.linalg.solve((design.T * (weight * spread)) @ design + ridge, gradient)
        found = found + step
        if np.abs(design @ step).max() < 1e-8:
            break
    return found, None


def split(
    away: Float[np.ndarray, " n"], own: Float[np.ndarray, "n l"], index: np.ndarray
) -> tuple[float, float]:
    """The variance of residuals within groups, and what groups add to it.

    Within: what is left of each group's residuals when they are regressed on its own effects.
    """
    total = max(float((away**2).mean()), 1e-24)
    left, free = 0.0, 0
    order = np.argsort(index, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(index[order])) + 1):
        if len(rows) > own.shape[1]:
            fitted = own[rows] @ np.linalg.lstsq(own[rows], away[rows], rcond=None)[0]
            left += float(((away[rows] - fitted) ** 2).sum())
            free += len(rows) - own.shape[1]
    within = left / free if free else 0.5 * total
    within = float(np.clip(within, 1e-6 * total, total))
    return within, max(total - within, 0.05 * total) / own.shape[1]


def _namespace(array: Array):  # noqa: ANN202
    return np if isinstance(array, np.ndarray) else jnp
