"""The certificate: width and time on published targets, coverage on simulated data, traps.

Published targets: Brownian motion with a missing middle and Seeds (data in this repository),
Ionosphere and Sonar (read from a checkout, see ``README.md``). Their log p(x): Kalman's filter
inside a two-dimensional grid; 21 adaptive quadratures inside a long annealed run of 5 unknowns;
long annealed runs, forwards and backwards, of a program of its own.
"""

from __future__ import annotations

from typing import Any

from benchmarks import measure, options
from benchmarks.published_cases import there
from benchmarks.report import Section, save

# log p(x), and by how much the reference itself may be off.
TRUTH = {
    "brownian": (1.18775, 0.0),
    "seeds": (-73.42, 0.01),
    "ionosphere": (-111.61, 0.02),
    "sonar": (-108.38, 0.02),
}
WIDTH, SECONDS, SETS = 0.1, 10.0, 200
NOTE = (
    "`lower`, `upper`: 95% limits of log p(x), in nats; `hard`: the limit that needs no finite "
    "variance; `seconds`: of `fit.evidence(seconds=10)`, compiling included, nothing cached; "
    "simulated data and traps: how many brackets hold the known value, and how many verdicts say "
    "that they cannot be trusted."
)


def main(argv: list[str] | None = None) -> None:
    """Measure, print and save."""
    chosen = options.parsed(argv, __doc__)
    section = Section("certificate", "The certificate", NOTE)
    names = ("brownian",) if chosen.quick else tuple(name for name in TRUTH if there(name))
    for name in names:
        _published(section, name, chosen.wait)
    covered = measure.module("peers.certificate_minorant", "covered", 8 if chosen.quick else SETS)
    _covered(section, covered["rows"])
    if not chosen.quick:
        _trapped(section, measure.module("peers.certificate_minorant", "traps")["rows"])
    save(section, chosen.quick)


def _published(section: Section, name: str, wait: float) -> None:
    found = measure.module("peers.certificate_minorant", name, wait=wait, MINORANT_CACHE="off")
    truth, slack = TRUTH[name]
    holds = found["lower"] - slack <= truth <= found["upper"] + slack
    width = found["upper"] - found["lower"]
    row = {"of": name, "truth": truth, "lower": found["lower"], "upper": found["upper"]}
    row |= {"width": width, "hard": found["hard"], "holds": holds, "R-hat": found["r_hat"]}
    section.rows.append(row | {"seconds": found["seconds"], "fit s": found["fit_seconds"]})
    section.samples.append(found | {"of": name})
    section.target(
        f"{name}: bracket at most {WIDTH} nat wide, holding the truth, in at most {SECONDS:g} s",
        f"{WIDTH} nat, {SECONDS:g} s",
        f"{width:.3f} nat, {found['seconds']:.1f} s" + ("" if holds else ", missed"),
        holds and width <= WIDTH and found["seconds"] <= SECONDS,
        found["others"],
    )


def _covered(section: Section, rows: list[dict[str, Any]]) -> None:
    """One line for each kind of data, and the shares over all."""
    for kind in dict.fromkeys(row["kind"] for row in rows):
        section.rows.append(_counted(kind, [row for row in rows if row["kind"] == kind]))
    section.samples.extend(rows)
    n, held = len(rows), sum(map(_holds, rows))
    above = sum(row["hard"] > row["log_z"] + _slack(row) for row in rows)
    section.target(
        f"95% limits that hold the truth, {n} simulated data sets",
        "95%",
        f"{held / n:.1%}",
        held >= 0.95 * n,
    )
    section.target(
        f"hard lower limit above the truth, {n} data sets", "at most 5%", f"{above / n:.1%}",
        above <= 0.05 * n,
    )  # fmt: skip


def _trapped(section: Section, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        section.rows.append(_counted(row["kind"], [row]))
    section.samples.extend(rows)
    silent = [row for row in rows if row["trusted"] and not _holds(row)]
    section.target("traps missed in silence", "none", str(len(silent)), not silent)


def _counted(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    widths = sorted(row["upper"] - row["lower"] for row in rows)
    found = {"of": kind, "width": widths[len(widths) // 2], "sets": len(rows)}
    doubted = sum(not row["trusted"] for row in rows)
    seconds = sum(row["took"] for row in rows) / len(rows)
    return found | {"held": sum(map(_holds, rows)), "doubted": doubted, "seconds": seconds}


def _holds(row: dict[str, Any]) -> bool:
    """To rounding: where q is the posterior the bracket has no width."""
    slack = _slack(row)
    return row["lower"] - slack <= row["log_z"] <= row["upper"] + slack


def _slack(row: dict[str, Any]) -> float:
    """What rounding may do."""
    return 1e-7 * (1.0 + abs(row["log_z"]))


if __name__ == "__main__":
    main()
