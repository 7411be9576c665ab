"""Slow and obvious: the second implementation that the fast one is held against.

Plain loops, NumPy, SciPy and the standard library; nothing from JAX, and nothing from the package
but the names of its structures. Rows are (d,) arrays with NaN where a cell is missing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

LogProb = Callable[[Any, int, np.ndarray], Any]


# --- normal densities ------------------------------------------------------------------------


def covariance_matrix(structure: Any, covariance: np.ndarray, j: int, d: int) -> np.ndarray:
    """The (d, d) matrix of component ``j``, by the structure's name."""
    name = type(structure).__name__
    if name == "Full":
        return covariance[j]
    if name == "Tied":
        return covariance
    if name == "Diagonal":
        return np.diag(covariance[j])
    return float(covariance[j]) * np.eye(d)


def stored(structure: Any, matrices: np.ndarray) -> np.ndarray:
    """Full matrices in a structure's shape; Tied takes the first."""
    name = type(structure).__name__
    if name == "Full":
        return matrices
    if name == "Tied":
        return matrices[0]
    diagonals = np.stack([np.diag(matrix) for matrix in matrices])
    return diagonals if name == "Diagonal" else diagonals.mean(1)


def normal_log_density(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    """``log N`` of the observed cells: rows and columns of what is missing are struck out."""
    seen = ~np.isnan(x)
    if not seen.any():
        return 0.0
    return float(
        stats.multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).logpdf(x[seen])
    )


def student_t_log_density(
    x: np.ndarray, mean: np.ndarray, scale: np.ndarray, degrees: float
) -> float:
    """``log t`` of the observed cells: a marginal of a t is a t with the same degrees."""
    seen = ~np.isnan(x)
    if not seen.any():
        return 0.0
    density = stats.multivariate_t(mean[seen], scale[np.ix_(seen, seen)], degrees)
    return float(density.logpdf(x[seen]))


def conditional_normal(
    x: np.ndarray, mean: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The row completed by ``E[x_m | x_o]``, and the (d, d) covariance of what is missing.

    Partitioned formulas with explicit inverses.
    """
    seen = ~np.isnan(x)
    filled, spread = x.copy(), np.zeros_like(covariance)
    gain = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    filled[~seen] = mean[~seen] + gain @ (x[seen] - mean[seen])
    rest = covariance[np.ix_(~seen, ~seen)] - gain @ covariance[np.ix_(seen, ~seen)]
    spread[np.ix_(~seen, ~seen)] = rest
    return filled, spread


# --- mixtures --------------------------------------------------------------------------------


def log_joint(model: Any, values: np.ndarray, log_prob: LogProb) -> np.ndarray:
    """``log w_k + log p(x_i | k)`` as (k, n), one row and component at a time."""
    k, n = len(model.weights), len(values)
    out = np.empty((k, n))
    for j, i in itertools.product(range(k), range(n)):
        out[j, i] = math.log(model.weights[j]) + np.nansum(log_prob(model.component, j, values[i]))
    return out


def log_sum(terms: Sequence[float]) -> float:
    """``log sum exp`` with an exactly rounded sum."""
    top = max(terms)
    return top + math.log(math.fsum(math.exp(term - top) for term in terms))


def log_evidence(scores: np.ndarray) -> np.ndarray:
    """``log p(x_i)`` from the log joint (k, n)."""
    return np.array([log_sum(list(column)) for column in scores.T])


def log_evidence_by_enumeration(scores: np.ndarray) -> float:
    """``log p(X)``: the sum over every one of the ``k^n`` assignments of labels to rows."""
    k, n = scores.shape
    assignments = itertools.product(range(k), repeat=n)
    return log_sum([math.fsum(scores[z, i] for i, z in enumerate(a)) for a in assignments])


def responsibilities(scores: np.ndarray) -> np.ndarray:
    """``p(z = k | x_i)`` (k, n)."""
    return np.exp(scores - log_evidence(scores))


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """``-sum_k q log q`` of every column, by SciPy."""
    return stats.entropy(probabilities, axis=0)


def divergence(q: np.ndarray, p: np.ndarray) -> np.ndarray:
    """``KL(q || p)`` of every column, by SciPy."""
    return stats.entropy(q, p, axis=0)


def gaussian_em_step(
    model: Any, values: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One EM step of a Gaussian mixture with missing cells, row by row; no floor, no prior.

    With matrices a missing cell is latent: its conditional mean and spread enter the sums. With
    independent columns the labels alone are latent, and missing cells are left out of the sums.

    Returns:
        Weights (k,), means (k, d), and covariances in the structure's own shape.
    """
    structure, k, d = model.component.structure, len(model.weights), values.shape[1]
    means, covariance = model.component.mean, model.component.covariance
    matrices = [covariance_matrix(structure, covariance, j, d) for j in range(k)]

    def density(_: Any, j: int, x: np.ndarray) -> float:
        return normal_log_density(x, means[j], matrices[j])

    share = responsibilities(log_joint(model, values, density)) * weights
    counts = share.sum(1)
    if type(structure).__name__ in ("Diagonal", "Spherical"):
        new = [observed_moments(share[j], values) for j in range(k)]
        return counts / counts.sum(), *available(structure, *map(np.array, zip(*new, strict=True)))
    new = [completed_moments(share[j], values, means[j], matrices[j]) for j in range(k)]
    new_means, scatters = map(np.array, zip(*new, strict=True))
    return counts / counts.sum(), new_means, pooled(structure, scatters, counts)


def completed_moments(
    share: np.ndarray, values: np.ndarray, mean: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The new mean, and the scatter about it, of rows completed one by one."""
    completed = [conditional_normal(x, mean, covariance) for x in values]
    new = sum(r * x for r, (x, _) in zip(share, completed, strict=True)) / share.sum()
    scatter = np.zeros_like(covariance)
    for r, (x, spread) in zip(share, completed, strict=True):
        scatter += r * (np.outer(x - new, x - new) + spread)
    return new, scatter


def observed_moments(
    share: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Column by column over the observed cells: mean, sum of squares about it, weight."""
    mean, square, count = (np.zeros(values.shape[1]) for _ in range(3))
    for column, cells in enumerate(values.T):
        seen = ~np.isnan(cells)
        count[column] = share[seen].sum()
        mean[column] = share[seen] @ cells[seen] / count[column]
        square[column] = share[seen] @ (cells[seen] - mean[column]) ** 2
    return mean, square, count


def available(
    structure: Any, means: np.ndarray, squares: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances of independent columns from their observed cells."""
    if type(structure).__name__ == "Diagonal":
        return means, squares / counts
    return means, squares.sum(1) / counts.sum(1)


def pooled(structure: Any, scatters: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Covariances in the structure's shape from scatter matrices about the means."""
    if type(structure).__name__ == "Tied":
        return scatters.sum(0) / counts.sum()
    return stored(structure, scatters / counts[:, None, None])


# --- small numerics --------------------------------------------------------------------------


def floored(covariance: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """The covariance with generalised eigenvalues below ``diag(floor)`` raised to it."""
    root = np.diag(np.sqrt(floor))
    inverse = np.linalg.inv(root)
    values, vectors = np.linalg.eigh(inverse @ covariance @ inverse)
    raised = sum(
        max(value, 1.0) * np.outer(vector, vector)
        for value, vector in zip(values, vectors.T, strict=True)
    )
    return root @ raised @ root


def compensated_sum(terms: Sequence[float]) -> float:
    """The exactly rounded sum."""
    return math.fsum(terms)


def vech(matrix: np.ndarray) -> np.ndarray:
    """The upper triangle, row by row."""
    d = len(matrix)
    return np.array([matrix[i, j] for i in range(d) for j in range(i, d)])


def quadratic_features(x: np.ndarray) -> np.ndarray:
    """``(x, vech x x^T)`` of one row."""
    return np.concatenate([x, vech(np.outer(x, x))])
