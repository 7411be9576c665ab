"""Certificates, one part to a process: ``-m benchmarks.peers.certificate_minorant PART [N]``."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import minorant
from benchmarks.certificate_cases import cases, traps
from benchmarks.published_cases import target
from minorant.evidence import certified


def main() -> None:
    """The published target of that name, ``covered N`` data sets, or the ``traps``."""
    part, *rest = sys.argv[1:]
    parts = {"covered": _covered, "traps": _trapped}
    found = parts[part](*rest) if part in parts else _published(part)
    print(json.dumps(found))


def _published(name: str) -> dict[str, Any]:
    began = time.perf_counter()
    fit = minorant.fit(target(name, "joint"), posterior="full-rank")
    fitted = time.perf_counter()
    evidence = fit.evidence(seconds=10.0)
    seconds = time.perf_counter() - fitted
    return _told(evidence) | {"fit_seconds": fitted - began, "seconds": seconds}


def _covered(n: str) -> dict[str, Any]:
    rows = []
    for case in cases(int(n)):
        fit = minorant.fit(case.target, posterior=case.family)
        evidence = fit.evidence()
        rows.append(_told(evidence) | {"kind": case.kind, "log_z": case.log_z})
    return {"rows": rows}


def _trapped() -> dict[str, Any]:
    rows = []
    for name, trap, q in traps():
        if q is None:
            evidence = minorant.fit(trap, posterior="full-rank").evidence()
        else:
            evidence = certified(trap, q)
        rows.append(_told(evidence) | {"kind": name, "log_z": 0.0})
    return {"rows": rows}


def _told(evidence: Any) -> dict[str, Any]:
    certificate = evidence.certificate
    return {
        "lower": float(evidence.lower),
        "estimate": float(evidence.estimate),
        "upper": float(evidence.upper),
        "hard": float(certificate.hard_limit),
        "k_hat": [float(k) for k in certificate.k_hat],
        "r_hat": float(certificate.r_hat),
        "missed": float(certificate.missed),
        "trusted": not evidence.verdict.startswith("Cannot"),
        "verdict": evidence.verdict,
        "took": certificate.seconds,
    }


if __name__ == "__main__":
    main()
