"""Published bounds reproduced: the same targets, the same constants, `minorant.fit` as it stands.

Each in its own process, nothing compiled before. The data of two targets are in this repository;
the others are read from checkouts of two public repositories in the folder that
`MINORANT_PUBLISHED` names (`README.md` has the layout), and left out where there are none; the
whole takes an hour, and `--only NAME ...` measures those targets alone.
"""

from __future__ import annotations

from typing import Any

from benchmarks import measure, options
from benchmarks.published_cases import BEST, forms, there
from benchmarks.published_data import FOLDER
from benchmarks.report import Section, save

NEAR, SECONDS, ENOUGH = 0.1, 120.0, 6
QUICK = ("brownian", "seeds")
NOTE = (
    "`published`: the best bound in print, in nats; `form`: joint, every unknown kept as there, "
    "or summed, what belongs to one row, group or pattern integrated out of the same density; "
    "`bound`: ours, on fresh draws, with its standard error; `above`: ours less the published one; "
    "`log p(x)`: the importance-weighted estimate, with k-hat; `seconds`: the whole process."
)


def main(argv: list[str] | None = None) -> None:
    """Measure, print and save."""
    chosen = options.parsed(argv, __doc__)
    asked = QUICK if chosen.quick else chosen.only or BEST
    names = [name for name in asked if there(name)]
    absent = len(asked) - len(names)
    if absent and not chosen.quick:
        print(f"published: the data of {absent} targets are not in {FOLDER}; they are left out")
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for name in names:
        for form in forms(name):
            row = _row(name, form, chosen.wait)
            samples.append(dict(row))
            rows.append({key: value for key, value in row.items() if key != "rungs"})
        section = Section("published", "Published bounds", NOTE, rows, samples=samples)
        _judge(section, rows)
        save(section, chosen.quick)  # after every target: the section is long


def _row(name: str, form: str, wait: float) -> dict[str, Any]:
    found = measure.module("peers.published_minorant", name, form, wait=wait, MINORANT_CACHE="off")
    return {
        "target": name,
        "form": form,
        "p": found["p"],
        "published": f"{BEST[name]:.2f}",
        "bound": f"{found['bound']:.3f} ± {found['se']:.3f}",
        "above": round(found["bound"] - BEST[name], 3),
        "log p(x)": f"{found['log_evidence']:.3f}",
        "k-hat": found["k_hat"],
        "family": found["family"],
        "verdict": found["verdict"],
        "seconds": found["wall"],
        "others": found["others"],
        "rungs": found["rungs"],
    }


def _judge(section: Section, rows: list[dict[str, Any]]) -> None:
    """A target counts where either form is near the published bound in time."""
    near = {row["target"] for row in rows if row["above"] >= -NEAR and row["seconds"] <= SECONDS}
    all_of_them = {row["target"] for row in rows}
    above = {row["target"] for row in rows if row["above"] > NEAR}
    section.target(
        f"published bounds within {NEAR} nat in at most {SECONDS:g} s",
        f"{ENOUGH} of {len(all_of_them)}",
        f"{len(near)} of {len(all_of_them)}, {len(above)} of them exceeded by more than {NEAR}",
        len(near) >= min(ENOUGH, len(all_of_them)),
        max(row["others"] for row in rows),
    )


if __name__ == "__main__":
    main()
