"""Fits of scikit-learn: ``... benchmarks.peers.optimum_sklearn NAME first last tol n_init``."""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from benchmarks.data import is_sound, log_density_per_row, named


def fitted(rows: np.ndarray, k: int, seed: int, **settings: Any) -> dict[str, Any]:
    """One fit: seconds, log density per row, and whether the optimum is sound."""
    began = time.perf_counter()
    model = GaussianMixture(k, random_state=seed, max_iter=20000, **settings).fit(rows)
    seconds = time.perf_counter() - began
    found = model.weights_, model.means_, model.covariances_
    return {
        "seconds": seconds,
        "log_density": log_density_per_row(rows, *found),
        "sound": is_sound(rows, model.weights_, model.covariances_),
        "steps": model.n_iter_,
    }


def main() -> None:
    """Measure and print."""
    rows, k = named(sys.argv[1])
    first, last, tol, n_init = int(sys.argv[2]), int(sys.argv[3]), *map(float, sys.argv[4:6])
    warnings.simplefilter("ignore", ConvergenceWarning)
    GaussianMixture(k, max_iter=2, tol=1.0, random_state=0).fit(rows)  # loads what a fit needs
    settings = {"tol": tol, "n_init": int(n_init)}
    fits = [fitted(rows, k, seed, **settings) for seed in range(first, last)]
    print(json.dumps({"fits": fits}))


if __name__ == "__main__":
    main()
