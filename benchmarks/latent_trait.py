"""A two-parameter logistic model, float64: seconds to the maximum, ours against girth.

Each peer in its own process, all peers in turn, several rounds; the median over rounds of each
process's median fit, warm. Each fit starts as its library does and ends by its library's rule; the
log-likelihood that it reached is computed for all by one NumPy function, and a peer is beaten
only if ours is at least as high.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from typing import Any

from benchmarks import measure, options
from benchmarks.report import Section, save

SHAPES = {(5_000, 50): 10.0, (1_000, 20): 0.0}
SMALL = {(300, 8): 0.0}
FITS = 5
NOTE = (
    "Seconds of a warm fit: median (min-max) over rounds of each process's median of five. "
    "`first`: the first fit of the process, with a warm compilation cache where there is one. "
    "`log-likelihood`: as one NumPy function computes it. `ratio`: peer / ours. `others`: most "
    "cores that other processes used in a round."
)


def runners(peer_python: str | None) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """How each peer is started: module with arguments, and options of the process."""
    found: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "ours": (("trait_minorant", 1e-7), {}),
    }
    if peer_python or importlib.util.find_spec("girth") is not None:
        found["girth, twopl_mml"] = (("trait_girth",), {"python": peer_python})
    return found


def measured(shape: tuple[int, ...], chosen: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """All rounds of all peers at one shape."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(1 if chosen.quick else chosen.rounds):
        for peer, ((name, *more), how) in runners(chosen.peer_python).items():
            arguments = (*shape, FITS, *more)
            one = measure.module(f"peers.{name}", *arguments, wait=chosen.wait, **how)
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
            "(persons, items)": str(shape),
            "peer": peer,
            "seconds": measure.summary(medians[peer]),
            "ratio": statistics.median(medians[peer]) / ours,
            "steps": each[0]["steps"],
            "first": statistics.median(one["first"] for one in each),
            "log-likelihood": each[0]["log_likelihood"],
            "others": max(one["others"] for one in each),
        }
        for peer, each in found.items()
    ]


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = options.parsed(argv, __doc__)
    section = Section("latent_trait", "A two-parameter logistic model to its maximum", NOTE)
    for shape, least in (SMALL if chosen.quick else SHAPES).items():
        found = measured(shape, chosen)
        table = rows(shape, found)
        section.rows += table
        section.samples += [
            {"shape": shape, "peer": p, "rounds": each} for p, each in found.items()
        ]
        rivals = [row for row in table if row["peer"] != "ours"]
        if rivals and least:
            best = min(rivals, key=lambda row: row["ratio"])
            as_high = table[0]["log-likelihood"] >= best["log-likelihood"]
            work = f"2PL to the maximum against girth, {shape}"
            others = max(row["others"] for row in table)
            met = as_high and best["ratio"] >= least
            section.target(work, f">= {least:g}x", f"{best['ratio']:.1f}x", met, others)
        save(section, chosen.quick)
    if not any("girth" in row["peer"] for row in section.rows):
        print("girth skipped: install it, or name a Python that has it by --peer-python")


if __name__ == "__main__":
    main()
