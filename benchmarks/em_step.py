"""One EM step, full covariance, float64: ours, scikit-learn, pomegranate and hand-written JAX.

Each peer in its own process, all peers in turn, several rounds (pomegranate: one); the median over
rounds of each process's median step. scikit-learn and pomegranate run with one thread and with all,
and the better median counts. All begin at the same parameters and take the same number of steps;
the log density at the last E-step must agree.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any

from benchmarks import measure, options
from benchmarks.data import SHAPES, SMALL
from benchmarks.report import Section, save

STEPS = {(1000, 4, 3): 100, (20000, 16, 8): 30}
TARGETS = dict(zip(SHAPES, (6, 8, 11, 18), strict=True))
NOTE = (
    "Milliseconds per step: median (min-max) over rounds of each process's median step. `fit`: "
    "seconds of the whole call that takes these steps, warm. `log density`: per row at the last "
    "E-step. `ratio`: peer / ours. `others`: most cores that other processes used in a round."
)


def runners(peer_python: str | None) -> dict[str, dict[str, Any]]:
    """How each peer is started."""
    every = os.cpu_count()
    found = {
        "ours": {"name": "minorant_steps"},
        "scikit-learn, 1 thread": {"name": "sklearn_steps", "threads": 1},
        f"scikit-learn, {every} threads": {"name": "sklearn_steps", "threads": every},
        "hand-written JAX": {"name": "hand_jax"},
    }
    if peer_python:
        pomegranate = {"name": "pomegranate_steps", "python": peer_python}
        found["pomegranate, 1 thread"] = pomegranate | {"threads": 1}
        found[f"pomegranate, {every} threads"] = pomegranate | {"threads": every}
    return found


def measured(shape: tuple[int, ...], chosen: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """All rounds of all peers at one shape."""
    steps = STEPS.get(shape, 5)
    found: dict[str, list[dict[str, Any]]] = {}
    for turn in range(1 if chosen.quick else chosen.rounds):
        for peer, how in runners(chosen.peer_python).items():
            if turn and peer.startswith("pomegranate"):
                continue
            options = {"wait": chosen.wait} | how
            one = measure.module(f"peers.{options.pop('name')}", *shape, steps, **options)
            found.setdefault(peer, []).append(one)
    return found


def rows(shape: tuple[int, ...], found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The table's rows at one shape."""
    medians = {
        peer: [statistics.median(one["seconds"]) for one in each] for peer, each in found.items()
    }
    ours = statistics.median(medians["ours"])
    return [
        {
            "(n, d, K)": str(shape),
            "peer": peer,
            "ms per step": measure.summary([1e3 * value for value in medians[peer]]),
            "ratio": statistics.median(medians[peer]) / ours,
            "steps": each[0]["steps"],
            "fit": statistics.median(one["fit"] for one in each),
            "log density": f"{each[0]['log_density']:.12f}",
            "others": max(one["others"] for one in each),
        }
        for peer, each in found.items()
    ]


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = options.parsed(argv, __doc__)
    section = Section("em_step", "One EM step, full covariance, float64", NOTE)
    for shape in SMALL if chosen.quick else SHAPES:
        found = measured(shape, chosen)
        table = rows(shape, found)
        section.rows += table
        section.samples += [
            {"shape": shape, "peer": p, "rounds": each} for p, each in found.items()
        ]
        if shape in TARGETS:
            ratio = min(row["ratio"] for row in table if row["peer"].startswith("scikit-learn"))
            least = TARGETS[shape]
            work = f"one EM step against scikit-learn, {shape}"
            others = max(
                row["others"] for row in table if row["peer"].startswith(("ours", "scikit"))
            )
            section.target(work, f">= {least}x", f"{ratio:.1f}x", ratio >= least, others)
        save(section, chosen.quick)
    if not chosen.peer_python:
        print("pomegranate skipped: no --peer-python (see benchmarks/README.md)")


if __name__ == "__main__":
    main()
