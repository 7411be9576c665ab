"""Ways to a Gaussian on the eight real posteriors: how far below the best bound, and how soon.

Each fit in its own process, nothing compiled before. Pathfinder and batch-and-match against the
natural-gradient climb, and both kinds of independent unknowns, on the posteriors of
`benchmarks.posteriors`.
"""

from __future__ import annotations

from typing import Any

from benchmarks import measure, options
from benchmarks.posterior_models import TARGETS
from benchmarks.posteriors import FOLDER
from benchmarks.report import Section, save

FAMILIES = ("full-rank", "batch-and-match", "pathfinder", "mean-field", "exponential-family")
NOTE = (
    "Nats that the bound lies below the highest of the row (its standard error is 0.001 to 0.07), "
    "and the seconds of the whole process, imports and compiling included."
)


def main(argv: list[str] | None = None) -> None:
    """Measure, print and save."""
    chosen = options.parsed(argv, __doc__)
    if not FOLDER.is_dir():
        print(f"families: skipped, there are no reference posteriors in {FOLDER}")
        return
    names = list(TARGETS)[:1] if chosen.quick else list(TARGETS)
    rows = [_row(name, chosen.wait) for name in names]
    section = Section("families", "Ways to a Gaussian on real posteriors", NOTE, rows)
    save(section, chosen.quick)


def _row(name: str, wait: float) -> dict[str, Any]:
    path = FOLDER / f"{name}.json"
    found = {
        family: measure.module(
            "peers.posterior_family", path, name, family, wait=wait, MINORANT_CACHE="off"
        )
        for family in FAMILIES
    }
    best = max(one["bound"] for one in found.values())
    row: dict[str, Any] = {"posterior": name}
    for family, one in found.items():
        row[family] = best - one["bound"]
        row[f"{family} s"] = one["wall"]
    return row


if __name__ == "__main__":
    main()
