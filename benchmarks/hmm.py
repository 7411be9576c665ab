"""One EM step of a Gaussian hidden Markov model, full covariance, float64: ours against hmmlearn.

Each peer in its own process, all peers in turn, several rounds; the median over rounds of each
process's median step. All begin at the same parameters and take the same number of steps; the
log-likelihood at the last E-step must agree to 1e-8 of itself. ``bare products`` is the arithmetic
of a step without the order of its rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from typing import Any

from benchmarks import measure, options
from benchmarks.report import Section, save

SHAPES = {(100_000, 100_000, 8, 4): 3.0, (100_000, 100, 8, 4): 4.0}
SMALL = {(5_000, 5_000, 3, 2): 0.0, (5_000, 50, 3, 2): 0.0}
AGREE = 1e-8
NOTE = (
    "Milliseconds per step: median (min-max) over rounds of each process's median step; emissions "
    "and M-step included. `ratio`: peer / ours. `others`: most cores that other processes used in "
    "a round."
)


def runners() -> dict[str, tuple[str, ...]]:
    """How each peer is started."""
    found: dict[str, tuple[str, ...]] = {"ours": ("hmm_minorant",)}
    if importlib.util.find_spec("hmmlearn") is not None:
        found["hmmlearn, scaling"] = ("hmm_hmmlearn", "scaling")
        found["hmmlearn, log"] = ("hmm_hmmlearn", "log")
    return found | {"bare products": ("hmm_products",)}


def measured(shape: tuple[int, ...], chosen: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """All rounds of all peers at one shape."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(1 if chosen.quick else chosen.rounds):
        for peer, (name, *more) in runners().items():
            one = measure.module(f"peers.{name}", *shape, *more, wait=chosen.wait)
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
            "(n, length, K, d)": str(shape),
            "peer": peer,
            "ms per step": measure.summary([1e3 * value for value in medians[peer]]),
            "ratio": statistics.median(medians[peer]) / ours,
            "steps": each[0]["steps"],
            "log-likelihood": each[0]["log_likelihood"],
            "others": max(one["others"] for one in each),
        }
        for peer, each in found.items()
    ]


def agree(table: list[dict[str, Any]]) -> None:
    """Raise unless all peers climbed to the same log-likelihood.

    Raises:
        RuntimeError: two peers differ, so that their times may not be compared.
    """
    values = [row["log-likelihood"] for row in table if row["log-likelihood"] is not None]
    if max(values) - min(values) > AGREE * abs(values[0]):
        raise RuntimeError(f"The peers' log-likelihoods differ: {values}.")


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = options.parsed(argv, __doc__)
    section = Section("hmm", "One EM step of a hidden Markov model, float64", NOTE)
    for shape, least in (SMALL if chosen.quick else SHAPES).items():
        found = measured(shape, chosen)
        table = rows(shape, found)
        agree(table)
        section.rows += table
        section.samples += [
            {"shape": shape, "peer": p, "rounds": each} for p, each in found.items()
        ]
        rival = [row for row in table if row["peer"] == "hmmlearn, scaling"]
        if rival and least:
            work = f"one EM step against hmmlearn's scaling, {shape}"
            others = max(row["others"] for row in table)
            ratio = rival[0]["ratio"]
            section.target(work, f">= {least:g}x", f"{ratio:.1f}x", ratio >= least, others)
        save(section, chosen.quick)


if __name__ == "__main__":
    main()
