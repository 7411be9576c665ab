"""Plain EM steps of this library: ``python -m benchmarks.peers.minorant_steps n d k steps``.

The block of steps that every climb is made of is called as the climb calls it, without
acceleration. The floor on variances is so low that it never acts.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import jax
import numpy as np

import minorant
from benchmarks.data import Start, simulated
from minorant import _config, climbing
from minorant.components import Full, Gaussian
from minorant.data.tables import as_table
from minorant.preparation import Prepared, prepare
from minorant.solvers import EM, Plain, Problem


def model_at(start: Start) -> Any:
    """The mixture at the start that all peers share."""
    component = Gaussian(Full(), start.means, start.covariances, floor=1e-12)
    return minorant.Mixture(component, start.weights, n_components=len(start.weights))


class Steps:
    """A compiled block of plain EM steps, always from the same start."""

    def __init__(self, start: Start, steps: int) -> None:
        self.prepared: Prepared = prepare(model_at(start), *as_table(start.rows))
        self.problem = Problem(self.prepared.template, self.prepared.source, None)
        self.solver = EM(Plain(), 0.0)
        self.limit = np.asarray(steps, np.int32)
        stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None], self.prepared.template)
        self.state = climbing._begin(self.solver, self.problem, stacked)
        self.run()

    def run(self) -> float:
        """Seconds per step of one block."""
        began = time.perf_counter()
        self.end = climbing.advancing(self.problem, 1)(
            self.solver, self.problem, self.state, self.limit
        )
        jax.block_until_ready(self.end)
        return (time.perf_counter() - began) / int(self.end.n_steps[0])

    def log_density(self) -> float:
        """Per row, at the last E-step, in the data's units."""
        jacobian = float(np.log(self.prepared.units.scale).sum())
        return float(self.end.bound[0]) / float(self.prepared.source.total_weight) - jacobian


def whole_fit(start: Start, steps: int) -> float:
    """Seconds of one call of ``minorant.fit`` with that many steps, everything included."""
    began = time.perf_counter()
    solver = EM(Plain(), 0.0)
    minorant.fit(model_at(start), start.rows, solver=solver, max_steps=steps, progress=False)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    n, d, k, steps = map(int, sys.argv[1:5])
    start = simulated(n, d, k)
    _config.enable_compilation_cache()
    with _config.precision(np.float64):
        block = Steps(start, steps)
        seconds = [block.run() for _ in range(5)]
        whole_fit(start, steps)
        whole = min(whole_fit(start, steps) for _ in range(2))
    taken = int(block.end.n_steps[0])
    found = {"seconds": seconds, "steps": taken, "log_density": block.log_density(), "fit": whole}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
