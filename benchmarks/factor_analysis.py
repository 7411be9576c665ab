"""Factor analysis of complete rows, float64, to the same log-likelihood: ours and scikit-learn.

Every setting of scikit-learn (SVD method, threads, tolerance) runs in a process of its own; those
that end more than 1e-8 (relative) below the best log-likelihood of all have not reached it. The
fastest setting that has, and the fastest with its exact SVD, are what ours is compared with.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any

from benchmarks import measure, options
from benchmarks.report import Section, save

SHAPE, SMALL = (50_000, 100, 10), (2_000, 20, 3)
TOLERANCES = (1e-2, 1e-5, 1e-8)
REACHED, TARGET = 1e-8, 30
NOTE = (
    "Seconds of the whole call of `fit` on rows in memory, moments included, warm: median "
    "(min-max) over rounds of each process's median. `below`: how far the log-likelihood is below "
    "the best, relative. `ratio`: peer / ours. `others`: most cores that other processes used in a "
    "round."
)


def runners() -> dict[str, dict[str, Any]]:
    """How each peer is started."""
    every = os.cpu_count() or 1
    found: dict[str, dict[str, Any]] = {"ours": {"arguments": ("ours",), "more": ("-", 1e-7)}}
    for method in ("lapack", "randomized"):
        for tolerance in TOLERANCES:
            for threads in (1, every):
                name = f"scikit-learn {method}, tol {tolerance:g}, {threads} threads"
                found[name] = {
                    "arguments": ("sklearn",),
                    "more": (method, tolerance),
                    "threads": threads,
                }
    return found


def measured(shape: tuple[int, ...], chosen: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """All rounds of all peers."""
    found: dict[str, list[dict[str, Any]]] = {}
    for turn in range(1 if chosen.quick else chosen.rounds):
        for peer, how in runners().items():
            if turn and peer != "ours" and not _matters(found[peer]):
                continue
            arguments = (*how["arguments"], *shape, *how["more"])
            threads = how.get("threads")
            one = measure.module("peers.factor_fits", *arguments, threads=threads, wait=chosen.wait)
            found.setdefault(peer, []).append(one)
    return found


def _matters(rounds: list[dict[str, Any]]) -> bool:
    """Whether another round is worth it: long fits vary little."""
    return statistics.median(rounds[0]["seconds"]) < 10.0


def rows(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The table's rows."""
    medians = {
        peer: [statistics.median(one["seconds"]) for one in each] for peer, each in found.items()
    }
    best = max(one["log_likelihood"] for each in found.values() for one in each)
    ours = statistics.median(medians["ours"])
    return [
        {
            "peer": peer,
            "seconds": measure.summary(medians[peer]),
            "ratio": statistics.median(medians[peer]) / ours,
            "below": f"{(best - each[0]['log_likelihood']) / abs(best):.1e}",
            "steps": each[0]["steps"],
            "others": max(one["others"] for one in each),
        }
        for peer, each in found.items()
    ]


def ratios(table: list[dict[str, Any]]) -> dict[str, float]:
    """Of the fastest settings that reach the log-likelihood: any, and with an exact SVD."""
    reached = [row for row in table if row["peer"] != "ours" and float(row["below"]) <= REACHED]
    exact = [row for row in reached if "lapack" in row["peer"]]
    return {
        "any SVD": min((row["ratio"] for row in reached), default=float("inf")),
        "its exact SVD": min((row["ratio"] for row in exact), default=float("inf")),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = options.parsed(argv, __doc__)
    shape = SMALL if chosen.quick else SHAPE
    section = Section("factor_analysis", f"Factor analysis, (n, d, l) = {shape}, float64", NOTE)
    found = measured(shape, chosen)
    section.rows = rows(found)
    section.samples = [{"peer": peer, "rounds": each} for peer, each in found.items()]
    others = max(row["others"] for row in section.rows)
    for name, ratio in ratios(section.rows).items():
        work = f"factor analysis {shape} against scikit-learn with {name}, equal log-likelihood"
        section.target(work, f">= {TARGET}x", f"{ratio:.1f}x", ratio >= TARGET, others)
    save(section, chosen.quick)


if __name__ == "__main__":
    main()
