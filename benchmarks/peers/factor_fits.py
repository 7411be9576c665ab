"""Fits of one factor model: ``... benchmarks.peers.factor_fits PEER n d l METHOD TOLERANCE``.

PEER is ``ours`` or ``sklearn``; METHOD is scikit-learn's ``svd_method``. A fit is the whole call of
the estimator on rows in memory, moments included, warm; it is repeated while it takes little time.
The log-likelihood is judged by NumPy.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import numpy as np

REPEATS, LIMIT = 5, 2.0


def simulated(n: int, d: int, l: int) -> np.ndarray:
    """Rows of a factor model with noise variances between 0.3 and 2."""
    rng = np.random.default_rng(0)
    loadings = rng.standard_normal((l, d))
    factors = rng.standard_normal((n, l))
    noise = rng.standard_normal((n, d)) * np.sqrt(rng.uniform(0.3, 2.0, d))
    return factors @ loadings + noise + rng.standard_normal(d)


def log_likelihood(rows: np.ndarray, covariance: np.ndarray) -> float:
    """Summed over rows, in nats, at the rows' mean and a covariance."""
    away = rows - rows.mean(0)
    second = away.T @ away / len(rows)
    trace = np.trace(np.linalg.solve(covariance, second))
    log_determinant = np.linalg.slogdet(covariance)[1]
    d = rows.shape[1]
    return float(-0.5 * len(rows) * (d * np.log(2 * np.pi) + log_determinant + trace))


def estimator(peer: str, l: int, method: str, tolerance: float) -> Any:
    """A fresh estimator."""
    if peer == "ours":
        from minorant.estimators import FactorAnalysis

        return FactorAnalysis(l, tol=tolerance)
    from sklearn.decomposition import FactorAnalysis

    options = {"svd_method": method, "tol": tolerance, "max_iter": 5000, "random_state": 0}
    return FactorAnalysis(l, **options)


def main() -> None:
    """Measure and print."""
    peer, (n, d, l), method = sys.argv[1], map(int, sys.argv[2:5]), sys.argv[5]
    rows, tolerance = simulated(n, d, l), float(sys.argv[6])
    warnings.simplefilter("ignore")
    # Only ours compiles for the shape; to import and to start threads a few rows will do.
    estimator(peer, l, method, tolerance).fit(rows if peer == "ours" else rows[:1000])
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < LIMIT:
        began = time.perf_counter()
        model = estimator(peer, l, method, tolerance).fit(rows)
        seconds.append(time.perf_counter() - began)
    found = {
        "seconds": seconds,
        "log_likelihood": log_likelihood(rows, model.get_covariance()),
        "steps": model.n_iter_,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
