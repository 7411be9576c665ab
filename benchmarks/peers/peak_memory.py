"""Peak memory of one fit: ``... benchmarks.peers.peak_memory PEER n d k START``.

PEER is ``minorant`` or ``sklearn``; START is ``equal`` (parameters given) or ``default``. Five
steps. The process's high-water mark is read after the imports and a fit of a few rows, with the
data in memory, and again after the fit.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import Start, simulated

MIB = 1 << 20
_UNIT = 1 if sys.platform == "darwin" else 1 << 10


def peak() -> float:
    """The process's high-water mark in MiB; Linux's own, which a parent does not hand down."""
    status = Path("/proc/self/status")
    if status.exists():
        marks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return float(marks[0].split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / MIB


def settings(start: Start, kind: str) -> dict[str, Any]:
    """Initial parameters, or none."""
    if kind == "default":
        return {}
    precisions = np.linalg.inv(start.covariances)
    return {
        "weights_init": start.weights,
        "means_init": start.means,
        "precisions_init": precisions,
    }


def main() -> None:
    """Measure and print."""
    peer, (n, d, k), kind = sys.argv[1], map(int, sys.argv[2:5]), sys.argv[5]
    estimator = importlib.import_module(
        {"minorant": "minorant.estimators", "sklearn": "sklearn.mixture"}[peer]
    ).GaussianMixture
    warnings.simplefilter("ignore")
    start = simulated(n, d, k)
    estimator(k, max_iter=2, **settings(start, kind)).fit(start.rows[:500])
    before = peak()
    estimator(k, max_iter=5, **settings(start, kind)).fit(start.rows)
    after = peak()
    print(json.dumps({"before": before, "after": after, "data": start.rows.nbytes / MIB}))


if __name__ == "__main__":
    main()
