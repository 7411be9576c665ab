"""One published target with defaults: ``-m benchmarks.peers.published_minorant NAME FORM``."""

from __future__ import annotations

import json
import sys

import minorant
from benchmarks.published_cases import target


def main() -> None:
    """Fit, and print what was reached."""
    fit = minorant.fit(target(*sys.argv[1:3]))
    rung = fit.rung
    found = {
        "p": fit.target.size,
        "family": rung.family,
        "bound": float(rung.bound.value),
        "se": float(rung.bound.standard_error),
        "log_evidence": float(rung.evidence.value),
        "k_hat": rung.reliability,
        "verdict": fit.outcome.name,
        "rungs": [[one.family, float(one.bound.value), one.seconds] for one in fit.rungs],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
