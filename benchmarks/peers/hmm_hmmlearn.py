"""EM steps of hmmlearn: ``python -m benchmarks.peers.hmm_hmmlearn n length k d implementation``.

A step is timed from the end of one M-step to the end of the next, inside one fit. The last entry
of the monitor's history is the log-likelihood at the E-step of the last step, as ours is.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

import numpy as np
from hmmlearn.hmm import GaussianHMM

from benchmarks.peers.hmm_data import simulated
from benchmarks.peers.hmm_minorant import STEPS


class Stamped(GaussianHMM):
    """Notes when each M-step ended."""

    def _do_mstep(self, stats: Any) -> None:
        super()._do_mstep(stats)
        self.stamps.append(time.perf_counter())


def main() -> None:
    """Measure and print."""
    n, length, k, d = map(int, sys.argv[1:5])
    start = simulated(n, length, k, d)
    logging.getLogger("hmmlearn").setLevel(logging.ERROR)
    model = Stamped(
        k,
        "full",
        covars_prior=0.0,
        covars_weight=0.0,
        n_iter=STEPS,
        tol=-np.inf,
        init_params="",
        implementation=sys.argv[5],
    )
    model.startprob_, model.transmat_ = start.initial, start.transition
    model.means_, model.covars_ = start.means, start.covariances
    model.stamps = []
    model.fit(start.rows, start.lengths)
    found = {
        "seconds": np.diff(model.stamps).tolist(),
        "steps": model.monitor_.iter,
        "log_likelihood": float(model.monitor_.history[-1]),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
