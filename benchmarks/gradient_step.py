"""Time of a gradient step on the bound against the same written by hand in JAX.

A logistic regression in float64, 64 draws, the path derivative, Adam; blocks of 100 steps inside
one compiled loop, ours and the other's in turn within one process. By hand: plain functions, no
check of what is finite, no averaged iterate, no clipping; a flow has as many layers of the same
width.
"""

from __future__ import annotations

from benchmarks import measure, options
from benchmarks.report import Section, save

CASES = ((10, "full-rank"), (100, "full-rank"), (10, "flow"), (100, "flow"))
TARGET = 1.1
NOTE = (
    "Seconds per step: median over `rounds` blocks, a process each; `first` is the first call, "
    "compiling included; `ratio` is ours over by hand."
)


def main(argv: list[str] | None = None) -> None:
    """Measure, print and save."""
    chosen = options.parsed(argv, __doc__)
    section = Section("gradient_step", "A gradient step on the bound", NOTE)
    rounds = 2 if chosen.quick else 3 * chosen.rounds
    for p, family in CASES[:1] if chosen.quick else CASES:
        found = measure.module("peers.gradient_steps", p, family, rounds, wait=chosen.wait)
        ratio = found["ours"] / found["hand"]
        section.rows.append({"unknowns": p, "family": family, **found, "ratio": ratio})
        section.target(
            f"time of a gradient step against hand-written JAX, {family}, {p} unknowns",
            f"{TARGET:g}x or less",
            f"{ratio:.2f}x",
            ratio <= TARGET,
            found["others"],
        )
    save(section, chosen.quick)


if __name__ == "__main__":
    main()
