"""Our ladder on a logistic regression: ``python -m benchmarks.peers.bound_minorant p``."""

from __future__ import annotations

import time

_BEGAN = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402

import minorant  # noqa: E402
from benchmarks.bound_targets import log_density  # noqa: E402
from minorant import unknowns  # noqa: E402


def main() -> None:
    """Fit and print when each rung was reached, the process's start being 0."""
    p = int(sys.argv[1])
    target = minorant.Target(log_density(p), beta=unknowns.real(p))
    before = time.perf_counter() - _BEGAN
    fit = minorant.fit(target)
    rungs, passed = [], before + fit.seconds - sum(rung.seconds for rung in fit.rungs)
    for rung in fit.rungs:
        passed += rung.seconds
        bound, evidence = float(rung.bound.value), float(rung.evidence.value)
        rungs.append(
            {"family": rung.family, "bound": bound, "evidence": evidence, "seconds": passed}
        )
    print(json.dumps({"rungs": rungs}))


if __name__ == "__main__":
    main()
