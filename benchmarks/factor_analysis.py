"""Factor analysis of complete rows, float64, to the same log-likelihood: ours and scikit-learn.

Every setting of scikit-learn (SVD method, threads) runs in a process of its own, at the loosest
tolerance whose log-likelihood is no more than 1e-8 (relative) below ours. The fastest of these, and
the fastest with its exact SVD, are what ours is compared with; further rounds repeat the first.
"""

from __future__ import annotations

import os
import statistics
from typing import Any, NamedTuple

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


class Setting(NamedTuple):
    """How scikit-learn is run."""

    method: str
    threads: int
    tolerance: float

    def name(self) -> str:
        """What the table calls it."""
        return f"scikit-learn {self.method}, tol {self.tolerance:g}, {self.threads} threads"


Round = dict[str, Any]


def ours(shape: tuple[int, ...], wait: float) -> Round:
    """One round of ours."""
    return measure.module("peers.factor_fits", "ours", *shape, "-", 1e-7, wait=wait)


def theirs(setting: Setting, shape: tuple[int, ...], wait: float) -> Round:
    """One round of scikit-learn."""
    arguments = ("sklearn", *shape, setting.method, setting.tolerance)
    threads = setting.threads
    return measure.module("peers.factor_fits", *arguments, threads=threads, wait=wait)


def first_round(
    shape: tuple[int, ...], wait: float, goal: float
) -> dict[Setting, tuple[Round, bool]]:
    """Every method and number of threads, tolerances from the loosest until one will do."""
    found = {}
    for method in ("randomized", "lapack"):
        for threads in sorted({1, os.cpu_count() or 1}):
            for tolerance in TOLERANCES:
                setting = Setting(method, threads, tolerance)
                one = theirs(setting, shape, wait)
                reached = goal - one["log_likelihood"] <= REACHED * abs(goal)
                found[setting] = one, reached
                if reached:
                    break
    return found


def fastest(found: dict[Setting, tuple[Round, bool]]) -> dict[str, Setting]:
    """Of the settings that reached the goal: any, and with an exact SVD."""
    took = {
        setting: statistics.median(one["seconds"])
        for setting, (one, reached) in found.items()
        if reached
    }
    exact = [setting for setting in took if setting.method == "lapack"]
    chosen = {"any SVD": list(took), "its exact SVD": exact}
    return {what: min(each, key=took.__getitem__) for what, each in chosen.items() if each}


def row(peer: str, rounds: list[Round], mine: list[Round]) -> dict[str, Any]:
    """One line of the table."""
    best = mine[0]["log_likelihood"]
    medians = [statistics.median(one["seconds"]) for one in rounds]
    base = statistics.median(statistics.median(one["seconds"]) for one in mine)
    return {
        "peer": peer,
        "seconds": measure.summary(medians),
        "ratio": statistics.median(medians) / base,
        "below": f"{(best - rounds[0]['log_likelihood']) / abs(best):.1e}",
        "steps": rounds[0]["steps"],
        "others": max(one["others"] for one in rounds),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = options.parsed(argv, __doc__)
    shape = SMALL if chosen.quick else SHAPE
    section = Section("factor_analysis", f"Factor analysis, (n, d, l) = {shape}, float64", NOTE)
    mine = [ours(shape, chosen.wait)]
    found = first_round(shape, chosen.wait, mine[0]["log_likelihood"])
    rounds = {setting: [one] for setting, (one, _) in found.items()}
    best = fastest(found)
    for _ in range(0 if chosen.quick else chosen.rounds - 1):
        mine.append(ours(shape, chosen.wait))
        if "any SVD" in best:
            rounds[best["any SVD"]].append(theirs(best["any SVD"], shape, chosen.wait))
    peers = {"ours": mine} | {setting.name(): each for setting, each in rounds.items()}
    section.rows = [row(peer, each, mine) for peer, each in peers.items()]
    section.samples = [{"peer": peer, "rounds": each} for peer, each in peers.items()]
    others = max(line["others"] for line in section.rows)
    for what, setting in best.items():
        ratio = row("", rounds[setting], mine)["ratio"]
        work = f"factor analysis {shape} against scikit-learn with {what}, equal log-likelihood"
        section.target(work, f">= {TARGET}x", f"{ratio:.1f}x", ratio >= TARGET, others)
    save(section, chosen.quick)


if __name__ == "__main__":
    main()
