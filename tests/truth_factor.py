"""Factor models, slow and obvious: dense joint normals, row by row; no JAX, nothing of the package.

Rows are (d,) arrays with NaN where a cell is missing.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import truth
from scipy import stats

# Six ability tests of 112 people: covariance matrix printed in the documentation of R's
# `ability.cov` (Bartholomew, 1987, "Latent variable models and factor analysis"; Bartholomew &
# Knott, 1990). `factanal(factors = 2, covmat = ability.cov)` prints the uniquenesses and the
# chi-square below.
ABILITY_COLUMNS = ("general", "picture", "blocks", "maze", "reading", "vocab")
ABILITY_ROWS = 112
ABILITY = np.array(
    [
        [24.641, 5.991, 33.520, 6.023, 20.755, 29.701],
        [5.991, 6.700, 18.137, 1.782, 4.936, 7.204],
        [33.520, 18.137, 149.831, 19.424, 31.430, 50.753],
        [6.023, 1.782, 19.424, 12.711, 4.757, 9.075],
        [20.755, 4.936, 31.430, 4.757, 52.604, 66.762],
        [29.701, 7.204, 50.753, 9.075, 66.762, 135.292],
    ]
)
ABILITY_UNIQUENESSES = np.array([0.455, 0.589, 0.218, 0.769, 0.052, 0.334])
ABILITY_CHI_SQUARE = 6.11
# The same page with one factor.
ABILITY_UNIQUENESSES_ONE = np.array([0.535, 0.853, 0.748, 0.910, 0.232, 0.280])
ABILITY_CHI_SQUARE_ONE = 75.18
# Its varimax loadings of two factors, by R's `varimax(normalize = TRUE, eps = 1e-5)`.
ABILITY_VARIMAX = np.array(
    [
        [0.499, 0.543],
        [0.156, 0.622],
        [0.206, 0.860],
        [0.109, 0.468],
        [0.956, 0.182],
        [0.785, 0.225],
    ]
)


class Joint(NamedTuple):
    """The dense normal of (z, x)."""

    mean: np.ndarray
    covariance: np.ndarray


def joint(mean: np.ndarray, loadings: np.ndarray, variance: Any) -> Joint:
    """z ~ N(0, I) and x = mean + L z + noise as one normal."""
    d, l = loadings.shape
    noise = np.diag(np.broadcast_to(np.asarray(variance, dtype=float), d))
    top = np.concatenate([np.eye(l), loadings.T], axis=1)
    low = np.concatenate([loadings, loadings @ loadings.T + noise], axis=1)
    return Joint(np.r_[np.zeros(l), mean], np.concatenate([top, low]))


def marginal(joint: Joint, l: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of x."""
    return joint.mean[l:], joint.covariance[l:, l:]


def conditional(joint: Joint, l: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (z, x), given the observed cells of x."""
    row = np.r_[np.full(l, np.nan), x]
    return truth.conditional_normal(row, joint.mean, joint.covariance)


def patterns(x: np.ndarray) -> np.ndarray:
    """The row with every set of its cells missing, (2^d, d)."""
    flags = np.array(list(itertools.product([False, True], repeat=len(x))))
    return np.where(flags, np.nan, x)


def em_step(
    model: Joint, l: int, values: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and covariance of the rows with (x) missing cells as completed, row by row."""
    full = [conditional(model, l, x) for x in values]
    filled = np.stack([mean[l:] for mean, _ in full])
    mean = weights @ filled / weights.sum()
    covariance = sum(
        w * (np.outer(x - mean, x - mean) + spread[l:, l:])
        for w, x, (_, spread) in zip(weights, filled, full, strict=True)
    )
    return mean, covariance / weights.sum()


def rubin_thayer(
    model: Joint, l: int, values: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One EM step with factors latent: each column regressed on (1, z) over its observed rows.

    Rubin & Thayer (1982), "EM algorithms for ML factor analysis", with an intercept and gaps.
    """
    d = values.shape[1]
    means, loadings, variances = np.empty(d), np.empty((d, l)), np.empty(d)
    scores = [conditional(model, l, x) for x in values]
    for j in range(d):
        gram, cross, square, count = np.zeros((l + 1, l + 1)), np.zeros(l + 1), 0.0, 0.0
        for w, x, (mean, spread) in zip(weights, values, scores, strict=True):
            if np.isnan(x[j]):
                continue
            z = np.r_[1.0, mean[:l]]
            gram += w * np.outer(z, z)
            gram[1:, 1:] += w * spread[:l, :l]
            cross += w * x[j] * z
            square, count = square + w * x[j] ** 2, count + w
        coefficients = np.linalg.solve(gram, cross)
        means[j], loadings[j] = coefficients[0], coefficients[1:]
        variances[j] = (square - coefficients @ cross) / count
    return means, loadings, variances


def log_likelihood(mean: Any, covariance: Any, values: np.ndarray, weights: Any = None) -> float:
    """Weighted sum of log normal densities of the observed cells."""
    weights = np.ones(len(values)) if weights is None else weights
    each = [truth.normal_log_density(x, mean, covariance) for x in values]
    return float(np.dot(weights, each))


def rows_with_moments(
    rng: np.random.Generator, n: int, mean: np.ndarray, covariance: np.ndarray
) -> np.ndarray:
    """n rows whose mean and covariance (divisor n) are exactly these."""
    noise = rng.normal(size=(n, len(mean)))
    noise -= noise.mean(0)
    own = np.linalg.cholesky(noise.T @ noise / n)
    return mean + noise @ np.linalg.inv(own).T @ np.linalg.cholesky(covariance).T


# --- rows ---


def simulated(n: int, d: int = 4, l: int = 2, seed: int = 1, noise: float = 1.0) -> np.ndarray:
    """Rows of a factor model, by NumPy."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(d, l))
    spread = noise * rng.uniform(0.4, 1.2, size=d)
    return rng.normal(size=(n, l)) @ loadings.T + spread * rng.normal(size=(n, d)) + 3.0


def holed(values: np.ndarray, share: float = 0.2, seed: int = 3) -> np.ndarray:
    """Rows with a share of their cells missing, none wholly."""
    rng = np.random.default_rng(seed)
    gaps = rng.random(values.shape) < share
    gaps[np.arange(len(values)), rng.integers(values.shape[1], size=len(values))] = False
    return np.where(gaps, np.nan, values)


# --- the component ---------------------------------------------------------------------------


def covariance_of(component: Any, j: int) -> np.ndarray:
    """The dense covariance of component ``j``."""
    loadings = component.loadings[j]
    noise = np.broadcast_to(component.noise_variance[j], len(loadings))
    return loadings @ loadings.T + np.diag(noise)


def log_prob(component: Any, j: int, x: np.ndarray) -> float:
    """``log N(x_observed)`` of component ``j``."""
    return truth.normal_log_density(x, component.mean[j], covariance_of(component, j))


def simulate(rng: np.random.Generator, component: Any, labels: np.ndarray) -> np.ndarray:
    """One row for every label."""
    matrices = [covariance_of(component, j) for j in range(len(component.mean))]
    return np.stack([rng.multivariate_normal(component.mean[z], matrices[z]) for z in labels])


def chi_square(covariance: np.ndarray, fitted: np.ndarray, n: int, n_factors: int) -> float:
    """Bartlett's corrected likelihood-ratio statistic, as R's ``factanal`` prints it."""
    d = len(covariance)
    product = np.linalg.solve(fitted, covariance)
    discrepancy = np.trace(product) - np.linalg.slogdet(product)[1] - d
    return float((n - 1 - (2 * d + 5) / 6 - 2 * n_factors / 3) * discrepancy)


def normal_quantile(level: float) -> float:
    """The standard normal's quantile."""
    return float(stats.norm.ppf(level))
