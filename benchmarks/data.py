"""The data that things are timed on. NumPy only, so that every peer's interpreter can make them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SHAPES = ((1000, 4, 3), (20000, 16, 8), (200000, 32, 32), (1000000, 8, 16))
SMALL = ((1000, 4, 3), (2000, 8, 4))


class Start(NamedTuple):
    """Rows and the parameters that every peer begins from."""

    rows: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def simulated(n: int, d: int, k: int) -> Start:
    """n rows of k overlapping normals, and a start at k of the rows with one spherical variance.

    The normals overlap in any number of columns, so that EM takes long and no climb ends early.
    """
    rng = np.random.default_rng(0)
    means = 1.5 * rng.standard_normal((k, d)) / np.sqrt(d)
    roots = 0.3 * rng.standard_normal((k, d, d)) / np.sqrt(d) + np.eye(d)
    labels = rng.integers(0, k, n)
    rows = np.empty((n, d))
    for j in range(k):
        mine = np.flatnonzero(labels == j)
        rows[mine] = means[j] + rng.standard_normal((len(mine), d)) @ roots[j].T
    chosen = rows[rng.choice(n, k, replace=False)].copy()
    variance = float(np.mean([column.var() for column in rows.T]))
    covariances = np.repeat((variance * np.eye(d))[None], k, axis=0)
    return Start(rows, np.full(k, 1.0 / k), chosen, covariances)


def log_density_per_row(
    rows: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray
) -> float:
    """Mean log density under a Gaussian mixture, in float64: the judge of every peer's answer."""
    scores = np.empty((len(weights), len(rows)))
    for j, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        factor = np.linalg.cholesky(covariance)
        white = np.linalg.solve(factor, (rows - mean).T)
        constant = np.log(weights[j]) - np.log(np.diag(factor)).sum()
        scores[j] = constant - 0.5 * ((white**2).sum(0) + rows.shape[1] * np.log(2 * np.pi))
    largest = scores.max(0)
    return float((np.log(np.exp(scores - largest).sum(0)) + largest).mean())


def is_sound(rows: np.ndarray, weights: np.ndarray, covariances: np.ndarray) -> bool:
    """No component holds as few as d + 1 rows, or is flatter than 1e-5 of the data's spread.

    The likelihood of a Gaussian mixture is unbounded: without this the best optimum "known" would
    be whichever run collapsed furthest.
    """
    n, d = rows.shape
    scale = rows.std(0)
    least = np.linalg.eigvalsh(covariances / np.outer(scale, scale)).min()
    return bool((weights * n).min() >= d + 2 and least > 1e-5)


def named(name: str) -> tuple[np.ndarray, int]:
    """Rows and number of components of a data set of :data:`NAMES`."""
    return _MAKERS[name]()


def _old_faithful() -> tuple[np.ndarray, int]:
    from benchmarks.problems import old_faithful

    return old_faithful(), 2


def _iris() -> tuple[np.ndarray, int]:
    from sklearn.datasets import load_iris

    return load_iris().data, 3


def _breast_cancer() -> tuple[np.ndarray, int]:
    from sklearn.datasets import load_breast_cancer

    from benchmarks.problems import principal

    return principal(load_breast_cancer().data ** (1 / 3), 5), 4


def _digits() -> tuple[np.ndarray, int]:
    from sklearn.datasets import load_digits

    from benchmarks.problems import principal

    return principal(load_digits().data, 10), 10


def _overlap() -> tuple[np.ndarray, int]:
    from benchmarks.problems import overlapping

    return overlapping(20000, 8, 6, 3.6, 0), 6


_MAKERS = {
    "Old Faithful, K=2": _old_faithful,
    "iris, K=3": _iris,
    "breast cancer, 5 axes, K=4": _breast_cancer,
    "digits, 10 axes, K=10": _digits,
    "simulated overlap 20000 x 8, K=6": _overlap,
}
NAMES = tuple(_MAKERS)
