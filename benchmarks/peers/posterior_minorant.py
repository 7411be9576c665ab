"""One posterior with defaults: ``python -m benchmarks.peers.posterior_minorant file name``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import minorant
from benchmarks.posterior_models import TARGETS


def main() -> None:
    """Fit and print the largest errors."""
    given = json.loads(Path(sys.argv[1]).read_text())
    fit = minorant.fit(TARGETS[sys.argv[2]](given["data"]))
    table = fit.summary()
    mean = sd = 0.0
    for name, known in given["reference"].items():
        row = table[_zero_based(name)]
        mean = max(mean, abs(row.mean - known["mean"]) / known["sd"])
        sd = max(sd, abs(row.sd / known["sd"] - 1.0))
    rung = fit.rung
    found = {
        "mean": mean,
        "sd": sd,
        "bound": float(fit.bound.value),
        "log_evidence": float(rung.evidence.value),
        "k_hat": rung.reliability,
        "family": rung.family,
        "fit_seconds": fit.seconds,
        "verdict": fit.outcome.name,
    }
    print(json.dumps(found))


def _zero_based(name: str) -> str:
    if "[" not in name:
        return name
    stem, index = name[:-1].split("[")
    return f"{stem}[{int(index) - 1}]"


if __name__ == "__main__":
    main()
