"""Peak memory above the data of a fit of 1,000,000 rows, 8 columns, 16 components."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import measure, options
from benchmarks.report import Section, save

SHAPE, SMALL_SHAPE = (1000000, 8, 16), (20000, 8, 4)
NOTE = (
    "MiB, median over processes; five steps. `added`: high-water mark after the fit less the one "
    "before it, when imports, a first small fit and the data were in memory. `process`: the whole "
    "process's high-water mark less the data. Equal start: all parameters given; default start: "
    "the estimator chooses."
)


def measured(peer: str, shape: tuple[int, ...], kind: str, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    found = [measure.module("peers.peak_memory", peer, *shape, kind) for _ in range(rounds)]
    return {
        "(n, d, K)": str(shape),
        "start": kind,
        "peer": peer,
        "data": found[0]["data"],
        "added": measure.summary([one["after"] - one["before"] for one in found]),
        "process": statistics.median(one["after"] - one["data"] for one in found),
        "others": max(one["others"] for one in found),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = options.parsed(argv, __doc__)
    shape = SMALL_SHAPE if chosen.quick else SHAPE
    section = Section("memory", "Peak memory above the data", NOTE)
    for kind in ("equal", "default"):
        ours, theirs = (
            measured(peer, shape, kind, 1 if chosen.quick else 2)
            for peer in ("minorant", "sklearn")
        )
        section.rows += [ours, theirs]
        share = ours["added"]["median"] / max(theirs["added"]["median"], 1.0)
        work = f"peak memory above the data, {shape}, {kind} start"
        section.target(work, "<= 1/3 of scikit-learn's", f"{share:.2f}", share <= 1 / 3)
    save(section, chosen.quick)


if __name__ == "__main__":
    main()
