"""Plain EM steps of a Gaussian HMM here: ``python -m benchmarks.peers.hmm_minorant n length k d``.

The block of steps that every climb is made of is called as the climb calls it, without
acceleration.
"""

from __future__ import annotations

import json
import sys
import time

import jax
import numpy as np

from benchmarks.peers.hmm_data import Start, simulated
from minorant import _config, climbing
from minorant.components import Full, Gaussian
from minorant.data.tables import as_table
from minorant.models import HiddenMarkov
from minorant.preparation import prepare
from minorant.solvers import EM, Plain, Problem

STEPS = 12


def model_at(start: Start) -> HiddenMarkov:
    """The model at the start that all peers share."""
    component = Gaussian(Full(), start.means, start.covariances, floor=1e-12)
    return HiddenMarkov(component, start.initial, start.transition, n_components=len(start.initial))


def main() -> None:
    """Measure and print."""
    start = simulated(*map(int, sys.argv[1:5]))
    _config.enable_compilation_cache()
    groups = np.repeat(np.arange(len(start.lengths)), start.lengths)
    with _config.precision(np.float64):
        prepared = prepare(model_at(start), *as_table(start.rows, None, None, groups))
        problem, solver = Problem(prepared.template, prepared.source, None), EM(Plain(), 0.0)
        stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None], prepared.template)
        state, limit = climbing._begin(solver, problem, stacked), np.asarray(STEPS, np.int32)
        advance, seconds = climbing.advancing(problem, 1), []
        for _ in range(6):
            began = time.perf_counter()
            end = jax.block_until_ready(advance(solver, problem, state, limit))
            seconds.append((time.perf_counter() - began) / int(end.n_steps[0]))
    jacobian = float(np.log(prepared.units.scale).sum()) * len(start.rows)
    found = {
        "seconds": seconds[1:],
        "steps": int(end.n_steps[0]),
        "log_likelihood": float(end.bound[0]) - jacobian,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
