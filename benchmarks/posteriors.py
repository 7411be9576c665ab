"""Eight real posteriors with reference answers: means, standard deviations and verdicts.

Each in its own process, nothing compiled before, defaults throughout: `minorant.fit(target)`. The
data and reference draws of posteriordb are not part of this repository: the section reads them from
`../shared/posteriors`, or from the folder that `MINORANT_POSTERIORS` names, and says so when there
is none. An error is told in reference standard deviations (means) and as a ratio (sds).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks import measure, options
from benchmarks.posterior_models import TARGETS
from benchmarks.report import Section, save

FOLDER = Path(os.environ.get("MINORANT_POSTERIORS", "../shared/posteriors"))
MEAN, SD, SECONDS, ENOUGH = 0.1, 0.1, 60.0, 7
NOTE = (
    "`mean`: the largest error of a mean, in reference standard deviations; `sd`: the largest "
    "relative error of a standard deviation; `seconds`: wall time of the whole process, imports "
    "and compiling included; `verdict`: what the fit says of itself."
)


def main(argv: list[str] | None = None) -> None:
    """Measure, print and save."""
    chosen = options.parsed(argv, __doc__)
    if not FOLDER.is_dir():
        print(f"posteriors: skipped, there are no reference posteriors in {FOLDER}")
        return
    names = list(TARGETS)[:1] if chosen.quick else list(TARGETS)
    rows: list[dict[str, Any]] = []
    for name in names:
        path = FOLDER / f"{name}.json"
        found = measure.module(
            "peers.posterior_minorant", path, name, wait=chosen.wait, MINORANT_CACHE="off"
        )
        rows.append({"posterior": name, "seconds": found.pop("wall")} | found)
    section = Section("posteriors", "Real posteriors with reference answers", NOTE, rows)
    good = [row for row in rows if row["mean"] <= MEAN and row["sd"] <= SD]
    slowest = max(row["seconds"] for row in rows)
    section.target(
        "means within 0.1 sd and sds within 10%, at most 60 s each",
        f"{ENOUGH} of {len(rows)}",
        f"{len(good)} of {len(rows)}, the slowest {slowest:.0f} s",
        len(good) >= min(ENOUGH, len(rows)) and slowest <= SECONDS,
        max(row["others"] for row in rows),
    )
    save(section, chosen.quick)


if __name__ == "__main__":
    main()
