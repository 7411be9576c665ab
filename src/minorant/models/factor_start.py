"""Where the climb of a factor model starts: moments of the rows, noise from multiple correlations.

NumPy, on the host. Joreskog (1967), "Some contributions to maximum likelihood factor analysis",
equation 26, for the noise variances; the loadings are the best ones given these.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from minorant._types import Rows

MOST_COLUMNS_BY_MOMENTS = 400  # above, d x d eigendecompositions cost more than EM steps
_START_ROWS = 512
_LEAST_EXCESS = 1e-2  # loadings of zero would stay zero


def start(
    rows: Rows,
    rng: np.random.Generator,
    n_factors: int,
    floor: Float[np.ndarray, " d"],
    spherical: bool,
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d l"], Float[np.ndarray, " d"]]:
    """Mean, loadings and noise variances to start from.

    Args:
        rows: some or all rows in one block.
        rng: draws a subsample where there are many columns.
        n_factors: l.
        floor: the least noise variances.
        spherical: one noise variance for all columns.
    """
    mean, root = _moments(rows, rng)
    total = np.maximum((root**2).sum(0), floor)
    variance = np.maximum(_noise(root, total, n_factors), floor)
    if spherical:
        variance = np.full(len(mean), max(variance.mean(), floor.max()))
    _, values, vectors = np.linalg.svd(root / np.sqrt(variance), full_matrices=False)
    loadings = np.zeros((len(mean), n_factors))
    loadings[:, : len(values)] = vectors[:n_factors].T * _sizes(values[:n_factors])
    return mean, loadings * np.sqrt(variance)[:, None], variance


def _sizes(values: Float[np.ndarray, " l"]) -> Float[np.ndarray, " l"]:
    return np.sqrt(np.maximum(values**2 - 1.0, _LEAST_EXCESS))


def _moments(
    rows: Rows, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "r d"]]:
    """Column means, and a root R of the covariance ``R^T R``; missing cells at their mean."""
    values, weight = np.asarray(rows.values, dtype=float), np.asarray(rows.weight, dtype=float)
    kept = np.flatnonzero(weight > 0)
    if values.shape[1] > MOST_COLUMNS_BY_MOMENTS and len(kept) > _START_ROWS:
        kept = np.sort(rng.choice(kept, _START_ROWS, replace=False))
    values, share = values[kept], weight[kept, None] / weight[kept].sum()
    seen = np.ones(values.shape) if rows.observed is None else np.asarray(rows.observed)[kept]
    held = np.maximum((share * seen).sum(0), 1e-12)
    mean = (share * seen * values).sum(0) / held
    away = np.where(seen, values - mean, 0.0) * np.sqrt(share / held)
    if len(away) <= values.shape[1]:
        return mean, away
    squares, vectors = np.linalg.eigh(away.T @ away)
    return mean, (vectors * np.sqrt(np.maximum(squares, 0.0))).T


def _noise(root: np.ndarray, total: np.ndarray, n_factors: int) -> np.ndarray:
    """``(1 - l / 2d) / diag(S^-1)``, Joreskog's start; half the variance where S is singular."""
    d = len(total)
    if len(root) < d:
        return 0.5 * total
    scaled = root / np.sqrt(total)
    inverse = np.linalg.inv(scaled.T @ scaled + 1e-6 * np.eye(d))
    return np.clip((1 - 0.5 * n_factors / d) / np.diag(inverse), 0.01, 1.0) * total
