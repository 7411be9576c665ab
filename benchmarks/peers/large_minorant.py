"""Steps of a Gaussian mixture by minorant, on rows in memory or in a Parquet folder.

python -m benchmarks.peers.large_minorant memory|FOLDER n d k steps [memory budget]
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from typing import Any

import jax
import numpy as np

import minorant
from benchmarks import large_files
from minorant.components import Full, Gaussian


def start(d: int, k: int) -> Any:
    """Near the truth, so that every step is an ordinary one."""
    means = large_files.centres(d, k) + 0.1
    gaussian = Gaussian(Full(), mean=means, covariance=np.tile(np.eye(d), (k, 1, 1)))
    return minorant.Mixture(gaussian, weights=np.full(k, 1 / k), n_components=k)


def main() -> None:
    """Climb and print one line."""
    where, n, d, k, steps = sys.argv[1], *map(int, sys.argv[2:6])
    budget = sys.argv[6] if len(sys.argv) > 6 else None
    jax.config.update("jax_enable_x64", True)
    data: Any = large_files.rows(n, d, k) if where == "memory" else None
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    data = minorant.chunks(where, memory=budget) if data is None else data
    ends = [time.perf_counter()]

    def note(progress: Any) -> None:
        ends.append(time.perf_counter())
        seen.append(progress.steps)

    seen: list[int] = [0]
    solver = minorant.EM(minorant.solvers.Plain(), tolerance=0.0)
    fit = minorant.fit(start(d, k), data, solver=solver, max_steps=steps, callbacks=(note,))
    whole = time.perf_counter() - ends[0]
    steps_apart = np.diff(seen)
    seconds = (np.diff(ends) / np.maximum(steps_apart, 1))[1:].tolist()  # the first: compiling
    print(
        json.dumps(
            {
                "step": statistics.median(seconds or [whole / fit.acceleration.steps]),
                "whole": whole,
                "steps": fit.acceleration.steps,
                "bound": fit.bound / n,
                "before": held,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
