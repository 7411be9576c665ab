"""EM steps of scikit-learn: ``python -m benchmarks.peers.sklearn_steps n d k steps``.

A step is timed from the end of one M-step to the end of the next, inside one fit. After ``steps``
rounds ``lower_bound_`` is the log density at the E-step of the last round, as ours is.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from benchmarks.data import Start, simulated


class Stamped(GaussianMixture):
    """Notes when each M-step ended."""

    def _m_step(self, *arguments: Any, **keywords: Any) -> None:
        super()._m_step(*arguments, **keywords)
        self.stamps.append(time.perf_counter())


def fitted(start: Start, steps: int) -> Stamped:
    """One fit from the common start; no ridge on covariances."""
    model = Stamped(
        len(start.weights),
        tol=0.0,
        max_iter=steps,
        reg_covar=0.0,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=np.linalg.inv(start.covariances),
    )
    model.stamps = []
    return model.fit(start.rows)


def main() -> None:
    """Measure and print."""
    n, d, k, steps = map(int, sys.argv[1:5])
    start = simulated(n, d, k)
    warnings.simplefilter("ignore", ConvergenceWarning)
    began = time.perf_counter()
    model = fitted(start, steps)
    found = {
        "seconds": np.diff(model.stamps).tolist(),
        "steps": model.n_iter_,
        "log_density": float(model.lower_bound_),
        "fit": time.perf_counter() - began,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
