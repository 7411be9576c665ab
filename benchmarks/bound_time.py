"""Bound against wall time: ours, NumPyro's guides and BlackJAX, targets of 10, 100, 1000 unknowns.

Logistic regressions with normal priors, the same density for all, in float64. Each method runs in a
process of its own, compiling included, and writes its bound on the way; every bound is judged on
20,000 fresh draws by the same code. A rival runs Adam at three step sizes; what counts is the best
bound that it reaches at all, and the first time it is within 0.1 nat of it; for us the time of the
first rung that is within 0.1 nat of that same bound. What a rival reports of more than 100 nats
above log p(x) is no bound, but overflow, and left out. A rival has 45 s, a third for each step
size.
"""

from __future__ import annotations

from typing import Any

from benchmarks import measure, options
from benchmarks.report import Section, save

SIZES, QUICK = (10, 100, 1000), (5,)
NEAR, TARGET, SECONDS = 0.1, 10.0, 45
ABSURD = 100.0  # nats above log p(x): no bound, but a climb that has overflowed
RIVALS = ("mean_field", "full_rank", "flow", "pathfinder")
NOTE = (
    "`reached`: the rival's best bound at any of its step sizes, in nats; `rival s`: when it was "
    "first within 0.1 nat of it, imports and compiling included; `ours`: the bound of our first "
    "rung that is as high, less 0.1, and `ours s` when it was there; `ratio`: their quotient."
)


def main(argv: list[str] | None = None) -> None:
    """Measure, print and save."""
    chosen = options.parsed(argv, __doc__)
    rows: list[dict[str, Any]] = []
    for p in QUICK if chosen.quick else SIZES:
        ours = measure.module("peers.bound_minorant", p, wait=chosen.wait, MINORANT_CACHE="off")
        for rival in RIVALS:
            if rival == "flow" and p > 100:
                continue
            limit = 20 if chosen.quick else SECONDS
            theirs = measure.module("peers.bound_rivals", p, rival, limit, wait=chosen.wait)
            rows.append(_row(p, rival, ours, theirs))
            _kept(rows, chosen.quick)


def _kept(rows: list[dict[str, Any]], quick: bool) -> None:
    """What is known so far, saved: the section is long."""
    section = Section("bound_time", "Bound reached against wall time", NOTE, rows)
    for row in rows:
        if row["ratio"] is not None:
            section.target(
                f"time to within {NEAR} nat of {row['rival']}'s best bound, {row['unknowns']} "
                "unknowns",
                f"{TARGET:g}x less",
                f"{row['ratio']:.1f}x less",
                row["ratio"] >= TARGET,
                row["others"],
            )
    save(section, quick)


def _row(p: int, rival: str, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """One line: both ends and the quotient of the times."""
    highest = max(rung["evidence"] for rung in ours["rungs"]) + ABSURD
    points = [point for run in theirs["runs"] for point in run if point["bound"] < highest]
    if not points:
        return {"unknowns": p, "rival": rival, "ratio": None, "others": theirs["others"]}
    best = max(point["bound"] for point in points)
    when = min(point["seconds"] for point in points if point["bound"] >= best - NEAR)
    high = [rung for rung in ours["rungs"] if rung["bound"] >= best - NEAR]
    first = min(high, key=lambda rung: rung["seconds"]) if high else None
    return {
        "unknowns": p,
        "rival": rival,
        "reached": best,
        "rival s": when,
        "ours": first and first["bound"],
        "ours s": first and first["seconds"],
        "ratio": when / first["seconds"] if first else None,
        "others": max(ours["others"], theirs["others"]),
    }


if __name__ == "__main__":
    main()
