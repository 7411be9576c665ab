r"""Rotations of factor loadings to simple structure: varimax, quartimax, oblimin.

A factor model is the same density for ``L`` and ``L (T^T)^-1`` with factors ``T^T z``. Orthogonal
rotations keep factors uncorrelated; oblique ones, ``diag(T^T T) = I``, let them correlate by
``T^T T``. Both are found by gradient projection from several starts. NumPy only.

Jennrich (2001), "A simple general procedure for orthogonal rotation", and (2002), "A simple general
method for oblique rotation"; Bernaards & Jennrich (2005), "Gradient projection algorithms and
software for arbitrary rotation criteria in factor analysis".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

METHODS = ("varimax", "quartimax", "oblimin")
_STARTS = 8
_MOST_STEPS = 1000
_MOST_HALVINGS = 30
_TOLERANCE = 1e-9

Criterion = Callable[[np.ndarray], tuple[float, np.ndarray]]


class Rotation(NamedTuple):
    """Rotated loadings and how they came about.

    Attributes:
        loadings: (d, l), ``L (T^T)^-1``; of oblique factors the pattern, regression weights on
            each factor given the others.
        transform: (l, l), T: rotated factors are ``T^T z``; scores (n, l) turn to ``scores @ T``.
        correlation: (l, l), ``T^T T``, of the rotated factors; the identity for orthogonal ones.
    """

    loadings: Float[np.ndarray, "d l"]
    transform: Float[np.ndarray, "l l"]
    correlation: Float[np.ndarray, "l l"]

    def structure(self) -> Float[np.ndarray, "d l"]:
        """Covariances of columns and rotated factors."""
        return self.loadings @ self.correlation


def rotate(
    loadings: Float[np.ndarray, "d l"],
    method: str = "varimax",
    normalise: bool = True,
    gamma: float = 0.0,
) -> Rotation:
    r"""Loadings rotated to simple structure.

    Varimax maximises the variance of squared loadings within factors, quartimax that within
    columns; oblimin minimises, over oblique factors,

    .. math:: \sum_{a < b} \Big( \sum_j \lambda_{ja}^2 \lambda_{jb}^2
              - \frac{\gamma}{d} \sum_j \lambda_{ja}^2 \sum_j \lambda_{jb}^2 \Big).

    Args:
        loadings: (d, l), in units in which columns compare (standardised, for most purposes).
        method: ``"varimax"``, ``"quartimax"`` or ``"oblimin"``.
        normalise: rotate rows scaled to length 1 (Kaiser, 1958), so that columns that the factors
            explain little count as much as the others.
        gamma: of oblimin, at most 0 for a criterion that is bounded (0: quartimin).

    Returns:
        Loadings, transform and correlations; factors in order of explained variance, each with a
        positive sum of loadings.

    Raises:
        ValueError: for an unknown method, loadings that are not a finite matrix, or gamma above 0.

    Example:
        >>> import numpy as np
        >>> from minorant.models.rotation import rotate
        >>> simple = np.array([[0.9, 0.0], [0.8, 0.0], [0.0, 0.7], [0.0, 0.6]])
        >>> turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
        >>> found = rotate(simple @ turn, "varimax")
        >>> bool(np.allclose(found.loadings, simple, atol=1e-6))
        True

    Not for: loadings with a meaning of their own (fixed zeros: a confirmatory model).

    Kaiser (1958), "The varimax criterion for analytic rotation in factor analysis"; Jennrich &
    Sampson (1966), "Rotation for simple loadings" (oblimin).
    """
    loadings = _checked(loadings, method, gamma)
    d, l = loadings.shape
    if l == 1:
        sign = np.where(loadings.sum() < 0, -1.0, 1.0)
        return Rotation(loadings * sign, np.full((1, 1), sign), np.eye(1))
    size = np.sqrt((loadings**2).sum(1, keepdims=True)) if normalise else np.ones((d, 1))
    size = np.where(size > 0, size, 1.0)
    oblique = method == "oblimin"
    criterion = _oblimin(gamma) if oblique else _orthomax(1.0 if method == "varimax" else 0.0)
    found = [_projected(loadings / size, start, criterion, oblique) for start in _starts(l)]
    transform = min(found, key=lambda one: one[0])[1]
    return _ordered(loadings, transform)


def varimax(loadings: Float[np.ndarray, "d l"], normalise: bool = True) -> Rotation:
    """The orthogonal rotation of most varied squared loadings; see :func:`rotate`."""
    return rotate(loadings, "varimax", normalise)


def quartimax(loadings: Float[np.ndarray, "d l"], normalise: bool = True) -> Rotation:
    """The orthogonal rotation that simplifies columns; see :func:`rotate`."""
    return rotate(loadings, "quartimax", normalise)


def oblimin(
    loadings: Float[np.ndarray, "d l"], normalise: bool = True, gamma: float = 0.0
) -> Rotation:
    """The oblique rotation of direct oblimin; see :func:`rotate`."""
    return rotate(loadings, "oblimin", normalise, gamma)


def _checked(loadings: np.ndarray, method: str, gamma: float) -> Float[np.ndarray, "d l"]:
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}; got {method!r}.")
    matrix = np.asarray(loadings, dtype=float)
    if matrix.ndim != 2 or 0 in matrix.shape or not np.isfinite(matrix).all():
        raise ValueError(
            f"loadings must be a finite matrix, columns by factors; got shape {matrix.shape}"
            f"{'' if np.isfinite(matrix).all() else ' with entries that are not finite'}."
        )
    if gamma > 0:
        raise ValueError(f"gamma must be at most 0, where oblimin is bounded; got {gamma}.")
    return matrix


def _starts(l: int) -> list[Float[np.ndarray, "l l"]]:
    """The identity, then random rotations, always the same."""
    rng = np.random.default_rng(0)
    return [np.eye(l)] + [np.linalg.qr(rng.normal(size=(l, l)))[0] for _ in range(_STARTS - 1)]


def _orthomax(gamma: float) -> Criterion:
    """Minus the orthomax criterion over 4, and its gradient."""

    def value(rotated: np.ndarray) -> tuple[float, np.ndarray]:
        squares = rotated**2
        away = squares - gamma * squares.mean(0)
        return -0.25 * float((squares * away).sum()), -rotated * away

    return value


def _oblimin(gamma: float) -> Criterion:
    """The oblimin criterion over 2, and its gradient."""

    def value(rotated: np.ndarray) -> tuple[float, np.ndarray]:
        squares = rotated**2
        others = squares.sum(1, keepdims=True) - squares
        others = others - gamma * others.mean(0)
        return 0.25 * float((squares * others).sum()), rotated * others

    return value


def _projected(
    loadings: np.ndarray, start: np.ndarray, criterion: Criterion, oblique: bool
) -> tuple[float, np.ndarray]:
    """Gradient projection: the value reached and the transform T."""
    transform, size = start, 1.0
    value, slope = _at(loadings, transform, criterion)
    for _ in range(_MOST_STEPS):
        along = _tangent(transform, slope, oblique)
        steep = float(np.linalg.norm(along))
        if steep < _TOLERANCE:
            break
        size *= 2.0
        for _ in range(_MOST_HALVINGS):
            trial = _back(transform - size * along, oblique)
            new, new_slope = _at(loadings, trial, criterion)
            if new <= value - 0.5 * steep**2 * size:
                break
            size *= 0.5
        else:
            break
        transform, value, slope = trial, new, new_slope
    return value, transform


def _at(loadings: np.ndarray, transform: np.ndarray, criterion: Criterion) -> tuple:
    """The criterion at ``L (T^T)^-1``, and its gradient in T."""
    inverse = np.linalg.inv(transform)
    rotated = loadings @ inverse.T
    value, slope = criterion(rotated)
    return value, -(rotated.T @ slope @ inverse).T


def _tangent(transform: np.ndarray, slope: np.ndarray, oblique: bool) -> np.ndarray:
    """The gradient along the rotations (symmetric part removed) or along columns of length 1."""
    if oblique:
        return slope - transform * (transform * slope).sum(0)
    inner = transform.T @ slope
    return slope - transform @ (0.5 * (inner + inner.T))


def _back(transform: np.ndarray, oblique: bool) -> np.ndarray:
    """The nearest rotation, or columns scaled to length 1."""
    if oblique:
        return transform / np.sqrt((transform**2).sum(0))
    left, _, right = np.linalg.svd(transform)
    return left @ right


def _ordered(loadings: np.ndarray, transform: np.ndarray) -> Rotation:
    """Factors by explained variance, signs so that loadings sum to a positive number."""
    rotated = loadings @ np.linalg.inv(transform).T
    correlation = transform.T @ transform
    explained = (rotated * (rotated @ correlation)).sum(0)
    order = np.argsort(-explained, kind="stable")
    sign = np.where(rotated[:, order].sum(0) < 0, -1.0, 1.0)
    transform = transform[:, order] * sign
    return Rotation(rotated[:, order] * sign, transform, transform.T @ transform)
