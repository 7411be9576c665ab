"""An encoder climbed on rows in a Parquet folder, against the same rows in memory."""

from __future__ import annotations

from typing import Any

from benchmarks import large_files, measure, options
from benchmarks.report import Section, save

N, D, K, STEPS = 4 * 10**6, 8, 16, 3000
BUDGET = "1GB"
NOTE = (
    "A factor model with two latents and an encoder of two layers of 32 units, batches of 256, in "
    "float64. Milliseconds of a block of 100 steps (the judgement of 2048 rows included), median; "
    "seconds before the first (compiling, the race between step sizes, and of files the survey and "
    "the deal) and after the last (the bound of all rows); nats per row after as many steps; peak: "
    "the process's high-water mark, MiB."
)


def row(what: str, n: int, found: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    return {
        "rows": what,
        "n": f"{n:.0e}",
        "ms per block": 1e3 * found["block"],
        "s before": found["before"],
        "s after": found["after"],
        "nats per row": round(found["bound"], 5),
        "peak MiB": found["peak"],
        "others": found["others"],
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    chosen = options.parsed(argv, __doc__)
    n, steps = (100_000, 1000) if chosen.quick else (N, STEPS)
    section = Section("large_encoder", "An encoder on rows out of memory", NOTE)
    found = {}
    for where, budget in (("memory", ()), (str(large_files.parquet(n, D, K)), (BUDGET,))):
        name = "in memory" if where == "memory" else "Parquet"
        measured = measure.module(
            "peers.large_encoder", where, n, D, K, steps, *budget, wait=chosen.wait
        )
        found[name] = measured
        section.rows.append(row(name, n, measured))
    speed = found["in memory"]["block"] / found["Parquet"]["block"]
    section.target(
        f"steps of an encoder on a Parquet folder of {n:.0e} rows",
        "(none set)",
        f"{speed:.0%} of the speed in memory",
        True,
        max(one["others"] for one in found.values()),
    )
    save(section, chosen.quick)


if __name__ == "__main__":
    main()
