"""Kalman smoother and EM step, T = 100,000, 8 states, 4 columns, float64: ours and dynamax.

Each in its own process, in turn, several rounds; the median over rounds of each process's fastest
call. `smooth`: means and covariances of every step, written out. `em_step`: log-likelihood,
statistics and new parameters. `densities`: log p(x_t given the rows before). `gradient`: the
evidence and its derivative, and the same by differentiating the filter. Both smooth the same rows
under the same parameters, and the log-likelihood must agree. Rows with a missing cell (which
dynamax does not take) are ours alone.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks import measure, options
from benchmarks.report import Section, save

SHAPE, QUICK = (100_000, 8, 4), (5_000, 4, 2)
TARGET = 3.0
NOTE = (
    "Milliseconds a call: median (min-max) over rounds of each process's fastest call. `gaps`: the "
    "share of rows that miss a cell. `arithmetic`: the time over that of the settled recursion's "
    "own products at 10 Gflop/s, `4 l (l + d)` a row. `others`: most cores that other processes "
    "used in a round."
)
FLOPS = 1e10


def measured(shape: tuple[int, ...], chosen: argparse.Namespace) -> dict[str, list[Any]]:
    """All rounds of all cases."""
    cases = {
        "ours": ("kalman_minorant", 0.0),
        "dynamax": ("kalman_dynamax", 0.0),
        "ours, few gaps": ("kalman_minorant", 1e-4),
        "ours, gaps everywhere": ("kalman_minorant", 0.5),
    }
    found: dict[str, list[Any]] = {}
    for _ in range(1 if chosen.quick else chosen.rounds):
        for name, (module, gaps) in cases.items():
            one = measure.module(f"peers.{module}", *shape, gaps, wait=chosen.wait)
            found.setdefault(name, []).append(one | {"gaps": gaps})
    return found


def rows(shape: tuple[int, ...], found: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The table's rows."""
    n, l, d = shape
    least = n * 4.0 * l * (l + d) / FLOPS
    table = []
    for work in ("smooth", "em_step", "densities", "gradient", "gradient of the filter"):
        fastest = {
            name: [min(one[work]) for one in each]
            for name, each in found.items()
            if work in each[0]
        }
        ours = statistics.median(fastest["ours"])
        table += [
            {
                "work": work,
                "peer": name,
                "gaps": found[name][0]["gaps"],
                "ms": measure.summary([1e3 * value for value in values]),
                "ratio": statistics.median(values) / ours,
                "arithmetic": statistics.median(values) / least,
                "log-likelihood": f"{found[name][0]['log_likelihood']:.6f}",
                "others": max(one["others"] for one in found[name]),
            }
            for name, values in fastest.items()
        ]
    return table


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = options.parsed(argv, __doc__)
    shape = QUICK if chosen.quick else SHAPE
    section = Section("kalman", "Kalman smoother and EM step, float64", NOTE)
    found = measured(shape, chosen)
    section.rows = rows(shape, found)
    section.samples = [{"shape": shape, "peer": p, "rounds": each} for p, each in found.items()]
    theirs = next(r for r in section.rows if (r["work"], r["peer"]) == ("smooth", "dynamax"))
    others = max(row["others"] for row in section.rows)
    work = f"Kalman smoother against dynamax, T = {shape[0]}, {shape[1]} states"
    ratio = theirs["ratio"]
    section.target(work, f">= {TARGET:g}x", f"{ratio:.1f}x", ratio >= TARGET, others)
    save(section, chosen.quick)


if __name__ == "__main__":
    main()
