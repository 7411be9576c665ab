"""Density evaluations for log p(x), against other estimates, to the accuracy that each reports.

dynesty runs with all options at their defaults, to its own end; nautilus with 500 live points and
harmonic on draws of emcee, both on one target and no longer than a limit, as their networks take
minutes. minorant is then asked for a bracket as wide as the 95% interval of the rival's reported
error. Counts depend on seeds alone, so that a busy machine does not matter, but for the limits.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from benchmarks import measure, options
from benchmarks.evaluations_cases import NAMES, log_z
from benchmarks.report import Section, save

SAMPLERS = {"dynesty": NAMES, "nautilus": NAMES[:1], "harmonic": NAMES[:1]}
LIMITS = {"dynesty": 240.0, "nautilus": 60.0, "harmonic": 90.0}
FEWER = 10.0
_GRADIENT = 3.0
NOTE = (
    "`values`: points at which the density alone was evaluated; `gradients`: points with its "
    "gradient; `density evaluations`: values + 3 x gradients (reverse mode costs two to three "
    "densities). `error`: estimate less truth; `reported`: the sampler's own standard error, for "
    "the certificate a quarter of the bracket's width, for the fit alone that of its importance "
    "weights (k-hat beside it; above 0.7 it cannot be relied on). `times fewer`: the sampler's "
    "evaluations over ours, at the accuracy that it reports."
)


def main(argv: list[str] | None = None) -> None:
    """Count, print and save."""
    chosen = options.parsed(argv, __doc__)
    python = chosen.peer_python or sys.executable
    section = Section("evaluations", "Density evaluations against nested sampling", NOTE)
    samplers = [name for name in SAMPLERS if _installed(name, python)]
    missing = [name for name in SAMPLERS if name not in samplers]
    if missing:
        section.note += f" Not installed beside --peer-python, left out: {', '.join(missing)}."
    for case in NAMES[:1] if chosen.quick else NAMES:
        for sampler in samplers:
            if case in SAMPLERS[sampler]:
                limit = 20.0 if chosen.quick else LIMITS[sampler]
                _compared(section, case, sampler, python, limit)
    save(section, chosen.quick)


def _installed(name: str, python: str) -> bool:
    """Whether that interpreter can import it."""
    done = subprocess.run([python, "-c", f"import {name}"], capture_output=True)
    return done.returncode == 0


def _compared(section: Section, case: str, sampler: str, python: str, limit: float) -> None:
    """One rival on one case; ours to its accuracy."""
    module = ("peers.evaluations_harmonic",)
    if sampler != "harmonic":
        module = ("peers.evaluations_nested", sampler)
    rival = measure.module(*module, case, limit, python=python, threads=1)
    truth = log_z(case)
    section.samples.append(rival | {"of": case, "by": sampler})
    if not rival["ended"]:
        row = {"of": case, "by": f"{sampler} {rival['version']}, stopped after {limit:g} s"}
        section.rows.append(row | _counts(rival["calls"], 0))
        return
    row = {"of": case, "by": f"{sampler} {rival['version']}", **_counts(rival["calls"], 0)}
    section.rows.append(row | {"error": rival["log_z"] - truth, "reported": rival["error"]})
    own = measure.module("peers.evaluations_minorant", case, 3.92 * rival["error"])
    section.samples.append(own | {"of": case, "by": "minorant"})
    section.rows.extend(_own(case, own, rival, truth))
    fewer, holds = section.rows[-1]["times fewer"], own["lower"] <= truth <= own["upper"]
    section.target(
        f"{case}: density evaluations of fit and certificate against {sampler}",
        f"{FEWER:g}x fewer",
        f"{fewer:.2g}x fewer" + ("" if holds else ", truth missed"),
        holds and fewer >= FEWER,
    )


def _own(
    case: str, own: dict[str, Any], rival: dict[str, Any], truth: float
) -> list[dict[str, Any]]:
    """The fit's importance weights, and the certificate."""
    alone = _counts(own["fit_values"], own["fit_gradients"])
    whole = _counts(own["values"], own["gradients"])
    rows = [
        {"of": case, "by": "minorant, fit alone", **alone, "error": own["alone"] - truth}
        | {"reported": own["alone_error"], "k-hat": own["alone_k_hat"]},
        {"of": case, "by": "minorant, fit and certificate", **whole}
        | {"error": own["estimate"] - truth, "reported": (own["upper"] - own["lower"]) / 4},
    ]
    return [row | {"times fewer": rival["calls"] / row["density evaluations"]} for row in rows]


def _counts(values: int, gradients: int) -> dict[str, Any]:
    total = values + _GRADIENT * gradients
    return {"values": values, "gradients": gradients, "density evaluations": total}


if __name__ == "__main__":
    main()
