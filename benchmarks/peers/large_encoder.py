"""An encoder climbed on rows in memory or in a Parquet folder, for a set number of steps.

python -m benchmarks.peers.large_encoder memory|FOLDER n d k steps [memory budget]
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import minorant
from benchmarks import large_files
from minorant.solvers import Ascent

LATENTS = 2


class Factor(minorant.Model):
    """Probabilistic principal components."""

    loadings: Any
    offset: Any
    scale: Any = minorant.positive()

    def prior(self) -> Any:
        """Standard normal."""
        return dist.Normal(jnp.zeros(LATENTS), 1.0).to_event(1)

    def likelihood(self, z: Any) -> Any:
        """Normal around a plane."""
        return dist.Normal(self.loadings @ z + self.offset, self.scale).to_event(1)


def main() -> None:
    """Climb and print one line."""
    where, n, d, k, steps = sys.argv[1], *map(int, sys.argv[2:6])
    budget = sys.argv[6] if len(sys.argv) > 6 else None
    jax.config.update("jax_enable_x64", True)
    data: Any = large_files.rows(n, d, k) if where == "memory" else None
    data = minorant.chunks(where, memory=budget) if data is None else data
    rng = np.random.default_rng(0)
    start = Factor(0.5 * rng.normal(size=(d, LATENTS)), np.zeros(d), np.ones(()))
    began, ends = time.perf_counter(), []
    fit = minorant.fit(
        start,
        data,
        posterior=minorant.Encoder(width=32),
        solver=Ascent(accuracy=1e-9, max_steps=steps),
        callbacks=(lambda progress: ends.append(time.perf_counter()),),
    )
    print(
        json.dumps(
            {
                "block": statistics.median(np.diff(ends).tolist()),
                "before": ends[0] - began,
                "after": time.perf_counter() - ends[-1],
                "bound": fit.bound / n,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
