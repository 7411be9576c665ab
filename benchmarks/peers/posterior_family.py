"""One family on one posterior: ``python -m benchmarks.peers.posterior_family file name family``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import minorant
from benchmarks.posterior_models import TARGETS


def main() -> None:
    """Fit, and print the bound of the family's own rung."""
    data = json.loads(Path(sys.argv[1]).read_text())["data"]
    fit = minorant.fit(TARGETS[sys.argv[2]](data), posterior=sys.argv[3])
    print(json.dumps({"bound": float(fit.rungs[-1].bound.value)}))


if __name__ == "__main__":
    main()
