"""Fits with default settings: ``... benchmarks.peers.optimum_minorant NAME seeds [starts]``.

The first fit of the process is timed apart: it compiles, or reads the compilation cache.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from benchmarks.data import is_sound, log_density_per_row, named
from minorant.estimators import GaussianMixture


def fitted(rows: np.ndarray, k: int, seed: int, **settings: Any) -> dict[str, Any]:
    """One fit: seconds, log density per row, and whether the optimum is sound."""
    began = time.perf_counter()
    model = GaussianMixture(k, random_state=seed, **settings).fit(rows)
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
    settings = {"n_init": int(sys.argv[3]), "tol": 1e-10} if len(sys.argv) > 3 else {}
    first = fitted(rows, k, 0, **settings)
    fits = [fitted(rows, k, seed, **settings) for seed in range(int(sys.argv[2]))]
    print(json.dumps({"first": first["seconds"], "fits": fits}))


if __name__ == "__main__":
    main()
