"""Our EM step against the two matrix products it cannot do without, float64, same process.

The products read one block's features again and again, from cache; a step must also build the
features, take exponentials and sum. ``share`` is the fastest blocked form's time / our step's time.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import measure, options
from benchmarks.data import SHAPES, SMALL
from benchmarks.report import Section, save

GOAL = (200000, 32, 32)
NOTE = (
    "Milliseconds: median (min-max) over processes of each one's median. `share`: its time / our "
    "step's time, so 0.7 means that our step runs at 70% of its speed. Blocks are the library's."
)


def rows(shape: tuple[int, ...], rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each form."""
    medians = {
        name: [statistics.median(one["seconds"][name]) for one in rounds]
        for name in rounds[0]["seconds"]
    }
    ours = medians["our step"]
    return [
        {
            "(n, d, K)": str(shape),
            "form": name,
            "ms": measure.summary([1e3 * value for value in values]),
            "share": measure.summary([a / b for a, b in zip(values, ours, strict=True)]),
            "others": max(one["others"] for one in rounds),
        }
        for name, values in medians.items()
    ]


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = options.parsed(argv, __doc__)
    section = Section("bare_products", "One EM step against its two bare matrix products", NOTE)
    for shape in SMALL if chosen.quick else SHAPES:
        times = 1 if chosen.quick else chosen.rounds
        rounds = [measure.module("peers.products", *shape, wait=chosen.wait) for _ in range(times)]
        table = rows(shape, rounds)
        section.rows += table
        section.samples.append({"shape": shape, "rounds": rounds})
        if shape == GOAL:
            blocked = min(r["share"]["median"] for r in table if r["form"].startswith("blocks"))
            whole = next(r["share"]["median"] for r in table if r["form"].startswith("all"))
            reached = f"{blocked:.0%} of the fastest in blocks, {whole:.0%} of all rows at once"
            work = f"one EM step against the two bare products, {shape}"
            section.target(work, ">= 70%", reached, blocked >= 0.7, table[0]["others"])
        save(section, chosen.quick)


if __name__ == "__main__":
    main()
