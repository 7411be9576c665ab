"""Fits of this library: ``python -m benchmarks.peers.trait_minorant n d rounds [tolerance]``."""

from __future__ import annotations

import json
import sys
import time

import jax
import numpy as np

import minorant
from benchmarks.peers.trait_data import log_likelihood, simulated
from minorant.models import LatentTrait, TwoParameter


def main() -> None:
    """Measure and print: the first fit compiles, or reads what was compiled before."""
    n, d, rounds = map(int, sys.argv[1:4])
    tolerance = float(sys.argv[4]) if len(sys.argv) > 4 else 1e-7
    answers, seconds = simulated(n, d), []
    with jax.enable_x64(True):
        for _ in range(rounds + 1):
            began = time.perf_counter()
            fit = minorant.fit(
                LatentTrait(TwoParameter()), answers, tolerance=tolerance, progress=False
            )
            seconds.append(time.perf_counter() - began)
    items = fit.model.items[0]
    found = {
        "first": seconds[0],
        "seconds": seconds[1:],
        "steps": fit.acceleration.steps,
        "log_likelihood": log_likelihood(
            answers, np.asarray(items.slopes)[:, 0], np.asarray(items.intercepts)[:, 0]
        ),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
