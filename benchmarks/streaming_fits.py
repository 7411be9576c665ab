"""Which steps come first: passes and seconds to within 1e-2 and 1e-4 nats per row of the optimum.

Every solver begins where the same start has come to on the same sample. A pass looks at every row
once; sweeps of incremental EM and passes of online EM count as one each, of the anchored kind as
three. Seconds are of a whole fit that stops there, starts included, programs compiled before. The
optimum is the highest bound that any solver ends at from that start. "gap at first": nats per row
that the first full pass after the steps on parts finds missing. scikit-learn has no mixture that
learns by parts. Run by ``python -m benchmarks.streaming_fits [rows]``; the table goes to
``benchmarks/results/streaming_fits.md``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import minorant
from benchmarks.problems import overlapping
from minorant import _config
from minorant.components import Diagonal, Gaussian
from minorant.solvers import EM, Incremental, OnlineEM, Plain
from minorant.solvers.starts import Starts

NEAR, CLOSE = 1e-2, 1e-4
BASE = EM(tolerance=1e-9)
SOLVERS: dict[str, tuple[Any, int]] = {
    "EM, accelerated": (BASE, 0),
    "EM, plain": (EM(Plain(), 1e-9), 0),
    "incremental, 2 sweeps": (Incremental(BASE, sweeps=2), 2),
    "incremental, 4 sweeps": (Incremental(BASE, sweeps=4), 4),
    "incremental, 8 sweeps": (Incremental(BASE, sweeps=8), 8),
    "online, 1 pass": (OnlineEM(BASE), 1),
    "online, 1 pass, last": (OnlineEM(BASE, averaging=False), 1),
    "online, 2 passes": (OnlineEM(BASE, passes=2), 2),
    "online, anchored, 1 pass": (OnlineEM(BASE, variance_reduced="anchor"), 3),
}


def problems(n: int) -> dict[str, tuple[Any, np.ndarray]]:
    """Models without parameters and their tables."""
    apart, close = overlapping(n, 8, 16, 4.0, seed=1), overlapping(n, 8, 16, 2.5, seed=2)
    diagonal = overlapping(n, 4, 8, 2.0, seed=3)
    return {
        "d = 8, K = 16, apart": (minorant.Mixture(Gaussian(), n_components=16), apart),
        "d = 8, K = 16, overlapping": (minorant.Mixture(Gaussian(), n_components=16), close),
        "d = 4, K = 8, diagonal, overlapping": (
            minorant.Mixture(Gaussian(Diagonal()), n_components=8),
            diagonal,
        ),
    }


def climbed(model: Any, table: np.ndarray, solver: Any, max_steps: int) -> tuple[Any, float]:
    """A fit from one start, and its seconds."""
    began = time.perf_counter()
    answer = minorant.fit(
        model,
        table,
        solver=solver,
        starts=Starts(n=1, n_climbed=1),
        max_steps=max_steps,
        progress=False,
    )
    return answer, time.perf_counter() - began


def passes(left: np.ndarray, close: float, before: int) -> str:
    """Passes until no more than this is left to gain; those before the first full pass count."""
    reached = left <= close
    return str(before + int(np.argmax(reached)) + 1) if reached.any() else "not reached"


def lines_of(name: str, model: Any, table: np.ndarray, limit: int) -> list[str]:
    """One line for every solver."""
    n = len(table)
    found = {key: climbed(model, table, solver, limit)[0] for key, (solver, _) in SOLVERS.items()}
    best = max(answer.bound for answer in found.values())
    lines = []
    for key, (solver, before) in SOLVERS.items():
        left = (best - found[key].trace.bound) / n
        cells = [f"{left[0]:.1e}", passes(left, NEAR, before), passes(left, CLOSE, before), ""]
        if (left <= CLOSE).any():
            steps = int(np.argmax(left <= CLOSE)) + 1
            seconds = [climbed(model, table, solver, steps)[1] for _ in range(3)]
            cells[-1] = f"{np.median(seconds):.2f}"
        lines.append(f"| {name} | {key} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure, print, write."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    lines = [
        f"# Passes to {NEAR:g} and {CLOSE:g} nats per row of the optimum, {n:,} rows",
        "",
        f"| problem | solver | gap at first | passes to {NEAR:g} | to {CLOSE:g} | seconds |",
        "|---|---|---|---|---|---|",
    ]
    with _config.precision(np.float64):
        for name, (model, table) in problems(n).items():
            lines += lines_of(name, model, table, limit=400)
            print("\n".join(lines), flush=True)
    path = Path(__file__).parent / "results" / "streaming_fits.md"
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
