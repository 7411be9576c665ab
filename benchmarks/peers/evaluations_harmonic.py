"""The learned harmonic mean: ``-m benchmarks.peers.evaluations_harmonic CASE S``.

Draws come from emcee, whose every density is counted: walkers that start at the prior, half of the
steps thrown away. A rational quadratic spline flow is trained on half of the chains; its error and
log Z come from the others, as in the package's tutorials. Stops after S seconds.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import sys

import numpy as np

from benchmarks.evaluations_cases import log_joint, nested
from benchmarks.peers.evaluations_nested import Counted, Late, limited

_WALKERS, _STEPS, _EPOCHS = 80, 3000, 5


def main() -> None:
    """Sample, learn, print."""
    case, seconds = sys.argv[1], float(sys.argv[2])
    counted = Counted(lambda x: log_joint(case, x))
    found = {"log_z": None, "error": None, "ended": False}
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(Late):
        limited(seconds)
        value, error = _learned(*_drawn(case, counted))
        found = {"log_z": value, "error": error, "ended": True}
    version = importlib.metadata.version("harmonic")
    print(json.dumps(found | {"calls": counted.calls, "version": version}))


def _drawn(case: str, density: Counted) -> tuple[np.ndarray, np.ndarray]:
    """Chains (walkers, steps, p) after burn-in, and their log densities."""
    import emcee

    problem, rng = nested(case), np.random.default_rng(0)
    start = np.array([problem.transform(u) for u in rng.uniform(size=(_WALKERS, problem.size))])
    np.random.seed(0)  # noqa: NPY002 (what emcee draws with)
    sampler = emcee.EnsembleSampler(_WALKERS, problem.size, density)
    sampler.run_mcmc(start, _STEPS)
    kept = {"discard": _STEPS // 2}
    draws = np.swapaxes(sampler.get_chain(**kept), 0, 1)
    return draws, sampler.get_log_prob(**kept).T


def _learned(draws: np.ndarray, log_density: np.ndarray) -> tuple[float, float]:
    """Its own estimate of log Z and of its error."""
    import harmonic

    chains = harmonic.Chains(draws.shape[2])
    chains.add_chains_3d(np.ascontiguousarray(draws), np.ascontiguousarray(log_density))
    train, infer = harmonic.utils.split_data(chains, training_proportion=0.5)
    flow = harmonic.model.RQSplineModel(draws.shape[2], standardize=True, temperature=0.8)
    flow.fit(train.samples, epochs=_EPOCHS, verbose=False)
    evidence = harmonic.Evidence(infer.nchains, flow)
    evidence.add_chains(infer)
    log_inverse = float(evidence.ln_evidence_inv)
    below, above = evidence.compute_ln_inv_evidence_errors()
    return -log_inverse, float(max(abs(below), abs(above)))


if __name__ == "__main__":
    main()
