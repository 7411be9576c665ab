"""EM steps of pomegranate: ``python -m benchmarks.peers.pomegranate_steps n d k steps``.

Runs in an interpreter of its own (see ``README.md``); needs NumPy, torch and pomegranate only.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from pomegranate.distributions import Normal
from pomegranate.gmm import GeneralMixtureModel

from benchmarks.data import Start, simulated


def model_at(start: Start, steps: int) -> GeneralMixtureModel:
    """The mixture at the common start."""
    parts = [
        Normal(torch.tensor(mean), torch.tensor(covariance), covariance_type="full")
        for mean, covariance in zip(start.means, start.covariances, strict=True)
    ]
    return GeneralMixtureModel(parts, priors=torch.tensor(start.weights), max_iter=steps, tol=0)


def main() -> None:
    """Measure and print."""
    n, d, k, steps = map(int, sys.argv[1:5])
    torch.set_default_dtype(torch.float64)
    start = simulated(n, d, k)
    model, rows, seconds, total = model_at(start, steps), torch.from_numpy(start.rows), [], 0.0
    began = time.perf_counter()
    for _ in range(steps):
        before = time.perf_counter()
        total = float(model.summarize(rows))
        model.from_summaries()
        seconds.append(time.perf_counter() - before)
    whole = time.perf_counter() - began
    found = {"seconds": seconds[1:], "steps": steps, "log_density": total / n, "fit": whole}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
