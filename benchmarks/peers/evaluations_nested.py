"""Nested sampling to its own stopping rule: ``-m benchmarks.peers.evaluations_nested NAME CASE S``.

NAME is "dynesty" or "nautilus", all options at their defaults but a limit of S seconds, and 500
live points for nautilus instead of 2000. Printed: its log Z, the error that it reports, how many
densities it evaluated, whether it came to its own end, and the package's version.
"""

from __future__ import annotations

import importlib.metadata
import json
import signal
import sys

import numpy as np

from benchmarks.evaluations_cases import Nested, nested


class Late(Exception):
    """The limit is reached."""


class Counted:
    """A log likelihood that counts its calls."""

    def __init__(self, function):
        self.function = function
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return self.function(x)


def limited(seconds):
    """From then on the process is late, whatever it is at (networks are trained between calls)."""

    def late(*_):
        raise Late

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def main() -> None:
    """One sampler on one case."""
    name, case, seconds = sys.argv[1:]
    run = {"dynesty": _dynesty, "nautilus": _nautilus}[name]
    problem = nested(case)
    counted = Counted(problem.log_likelihood)
    limited(float(seconds))
    try:
        value, error = run(problem._replace(log_likelihood=counted))
        ended = True
    except Late:
        value, error, ended = None, None, False
    package = {"nautilus": "nautilus-sampler"}.get(name, name)
    version = importlib.metadata.version(package)
    found = {
        "log_z": value,
        "error": error,
        "calls": counted.calls,
        "version": version,
        "ended": ended,
    }
    print(json.dumps(found))


def _dynesty(problem: Nested) -> tuple[float, float]:
    import dynesty

    sampler = dynesty.NestedSampler(
        problem.log_likelihood, problem.transform, problem.size, rstate=np.random.default_rng(0)
    )
    sampler.run_nested(print_progress=False)
    return float(sampler.results.logz[-1]), float(sampler.results.logzerr[-1])


def _nautilus(problem: Nested) -> tuple[float, float]:
    """Its error by the effective sample size, as its documentation has it."""
    from nautilus import Sampler

    sampler = Sampler(
        problem.transform, problem.log_likelihood, n_dim=problem.size, n_live=500,
        pass_dict=False, seed=0,
    )  # fmt: skip
    sampler.run(verbose=False)
    return float(sampler.log_z), float(sampler.n_eff**-0.5)


if __name__ == "__main__":
    main()
