"""Parameters of Gaussian mixtures in scikit-learn's shapes, and the way to ours and back.

Shapes by `covariance_type`: full (k, d, d), tied (d, d), diag (k, d), spherical (k,). A factor of a
precision is the upper triangular P with ``precision = P P^T``, for diag and spherical the square
root. NumPy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from minorant.components import InverseWishart
    from minorant.result import Fit

_STRUCTURES = {"full": "Full", "tied": "Tied", "diag": "Diagonal", "spherical": "Spherical"}


class Parameters(NamedTuple):
    """Weights, means and covariances, each None where it is to be learned from scratch."""

    weights: Any
    means: Any
    covariances: Any


def structure(covariance_type: str) -> Any:
    """Return our structure for scikit-learn's word."""
    from minorant import components

    return getattr(components, _STRUCTURES[covariance_type])()


def covariance_shape(covariance_type: str, k: int, d: int) -> tuple[int, ...]:
    """Return the shape of `covariances_`."""
    return {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}[covariance_type]


def precision_factors(covariance_type: str, covariances: np.ndarray) -> np.ndarray:
    """Return `precisions_cholesky_` of covariances."""
    if covariance_type in ("diag", "spherical"):
        return 1.0 / np.sqrt(covariances)
    lower = np.linalg.inv(np.linalg.cholesky(covariances))
    return np.triu(np.swapaxes(lower, -1, -2))


def precisions(covariance_type: str, factors: np.ndarray) -> np.ndarray:
    """Return `precisions_` of their factors."""
    if covariance_type in ("diag", "spherical"):
        return factors**2
    return factors @ np.swapaxes(factors, -1, -2)


def covariances_of(covariance_type: str, factors: np.ndarray) -> np.ndarray:
    """Return `covariances_` of the factors of precisions."""
    if covariance_type in ("diag", "spherical"):
        return factors**-2.0
    inverse = np.linalg.inv(factors)
    return np.swapaxes(inverse, -1, -2) @ inverse


# --- initial parameters --------------------------------------------------------------------------


def initial(estimator: Any, rows: np.ndarray, weights: np.ndarray | None) -> Parameters:
    """Return the `*_init` of an estimator, checked; completed where means are given."""
    k, d = estimator.n_components, rows.shape[1]
    given = Parameters(
        _initial_weights(estimator.weights_init, k),
        _shaped("means_init", estimator.means_init, (k, d)),
        _initial_covariances(estimator, k, d),
    )
    if given.means is None or (given.weights is not None and given.covariances is not None):
        return given
    if not len(rows):
        raise ValueError(
            "means_init alone is completed from the rows, which are not in memory here: give "
            "weights_init and precisions_init beside it."
        )
    return _completed(given, rows, weights, estimator.covariance_type)


def _shaped(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    if value is None:
        return None
    array = np.asarray(value, dtype=float)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; got {array.tolist()}.")
    return array


def _initial_weights(value: Any, k: int) -> np.ndarray | None:
    weights = _shaped("weights_init", value, (k,))
    if weights is None:
        return None
    if (weights < 0).any() or abs(weights.sum() - 1.0) > 1e-6:
        raise ValueError(
            f"weights_init must be 0 or above and sum to 1; got {weights.tolist()}, which sums to "
            f"{weights.sum():g}. Divide by the sum."
        )
    return weights


def _initial_covariances(estimator: Any, k: int, d: int) -> np.ndarray | None:
    kind = estimator.covariance_type
    given = _shaped("precisions_init", estimator.precisions_init, covariance_shape(kind, k, d))
    if given is None:
        return None
    if kind in ("diag", "spherical"):
        if (given <= 0).any():
            raise ValueError(f"precisions_init must be above 0; got {given.tolist()}.")
        return 1.0 / given
    symmetric = np.allclose(given, np.swapaxes(given, -1, -2))
    if not symmetric or (np.linalg.eigvalsh(given) <= 0).any():
        raise ValueError("precisions_init must hold symmetric positive definite matrices.")
    return np.linalg.inv(given)


def _completed(
    given: Parameters, rows: np.ndarray, weights: np.ndarray | None, covariance_type: str
) -> Parameters:
    """Fill in weights and covariances from the rows nearest to each mean, cells in column units."""
    k, d = given.means.shape
    w = np.ones(len(rows)) if weights is None else np.asarray(weights, float)
    centre = _column_mean(rows, w[:, None])
    scale = np.sqrt(_column_mean((rows - centre) ** 2, w[:, None]))
    scale = np.where(scale > 0, scale, 1.0)
    away = np.stack([np.nansum(((rows - mean) / scale) ** 2, axis=1) for mean in given.means])
    onehot = (np.argmin(away, axis=0) == np.arange(k)[:, None]) * w
    shares = (onehot.sum(1) + w.sum() / k) / (2.0 * w.sum())  # half-way to equal: none is empty
    squares = sum(  # one component at a time: k copies of a large table would not fit
        np.nansum((rows - mean) ** 2 * mine[:, None], axis=0)
        for mean, mine in zip(given.means, onehot, strict=True)
    )
    seen = ~np.isnan(rows) * w[:, None]
    pooled = squares / np.maximum(seen.sum(0), np.finfo(float).tiny)
    variances = np.broadcast_to(np.maximum(pooled, 1e-6 * scale**2), (k, d))
    return Parameters(
        shares if given.weights is None else given.weights,
        given.means,
        _spread(covariance_type, variances) if given.covariances is None else given.covariances,
    )


def _column_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = (~np.isnan(values) * weights).sum(0)
    return np.nansum(values * weights, axis=0) / np.maximum(total, np.finfo(float).tiny)


def _spread(covariance_type: str, variances: Float[np.ndarray, "k d"]) -> np.ndarray:
    """Return covariances with these variances, in the shape of the type."""
    matrices = variances[:, :, None] * np.eye(variances.shape[1])
    shapes = {
        "full": matrices,
        "tied": matrices.mean(0),
        "diag": variances,
        "spherical": variances.mean(1),
    }
    return np.array(shapes[covariance_type])


def inverse_wishart(scale: Any, d: int) -> InverseWishart | None:
    """Return the prior that the option means.

    Raises:
        ValueError: the scale has neither 1, d nor d x d entries.
    """
    if scale is None:
        return None
    from minorant.components import InverseWishart

    if isinstance(scale, str):
        return InverseWishart()
    array: Any = np.asarray(scale, dtype=float)
    if array.shape not in {(), (d,), (d, d)}:
        raise ValueError(
            f"covariance_prior must be one variance, {d} variances or a {d} x {d} matrix; got "
            f"shape {array.shape}."
        )
    return InverseWishart(array if array.ndim == 2 else array * np.eye(d))


# --- attributes assigned by hand -----------------------------------------------------------------


def follow(estimator: Any) -> Fit:
    """Return the estimator's fit, or one of its attributes where these were assigned since."""
    answer = getattr(estimator, "fit_", None)
    if answer is not None and not _reassigned(estimator, answer):
        return answer
    return _fit_of_attributes(estimator, answer)


def _reassigned(estimator: Any, answer: Fit) -> bool:
    component: Any = answer.model.component
    dtype = np.asarray(estimator.means_).dtype
    factors = precision_factors(estimator.covariance_type, component.covariance)
    pairs = (
        (estimator.weights_, answer.model.weights),
        (estimator.means_, component.mean),
        (estimator.covariances_, component.covariance),
        (estimator.precisions_cholesky_, factors),
    )
    return not all(np.array_equal(now, np.asarray(then).astype(dtype)) for now, then in pairs)


def _fit_of_attributes(estimator: Any, answer: Fit | None) -> Fit:
    """Return what a fit would be whose parameters are the attributes; in the data's own units."""
    from minorant._parameters import count_parameters
    from minorant._types import Affine
    from minorant.result import Acceleration, Fit, Outcome, Trace

    parameters = _assigned(estimator, answer)
    model = estimator._mixture(parameters, floor=0.0)
    d = parameters.means.shape[1]
    units = Affine.identity(d) if answer is None else answer.units
    nothing = np.zeros(0)
    return Fit(
        model=model,
        outcome=Outcome.RUNNING,
        bound=np.nan,
        objective=np.nan,
        trace=Trace(nothing, nothing),
        explanation="The parameters were assigned by hand.",
        standardised=model.rescaled(units),
        units=units,
        n_rows=np.nan,
        n_parameters=count_parameters(model),
        names=tuple(f"column {j}" for j in range(d)) if answer is None else answer.names,
        acceleration=Acceleration(0, 0, 0, 0),
    )


def _assigned(estimator: Any, answer: Fit | None) -> Parameters:
    """Return weights, means and covariances; of factor and covariance, what was assigned last."""
    kind = estimator.covariance_type
    weights, means = (np.asarray(value, float) for value in (estimator.weights_, estimator.means_))
    factors = getattr(estimator, "precisions_cholesky_", None)
    covariances = getattr(estimator, "covariances_", None)
    if answer is not None and factors is not None and covariances is not None:
        then = precision_factors(kind, answer.model.component.covariance)
        unchanged = np.array_equal(factors, then.astype(np.asarray(factors).dtype))
        factors = None if unchanged else factors
    if factors is not None:
        covariances = covariances_of(kind, np.asarray(factors, float))
    return Parameters(weights, means, np.asarray(covariances, float))
