"""Certificates, one part to a process: ``-m benchmarks.peers.certificate_minorant PART [N]``."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import jax

import minorant
from benchmarks.certificate_cases import Sequences, cases, forward, sequences, traps
from benchmarks.published_cases import target
from minorant.components import Gaussian
from minorant.evidence import certified
from minorant.models import HiddenMarkov


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
    rows, sequential = [], int(n) // 5
    for case in cases(int(n) - sequential):
        fit = minorant.fit(case.target, posterior=case.family)
        evidence = fit.evidence()
        rows.append(_told(evidence) | {"kind": case.kind, "log_z": case.log_z})
    return {"rows": [*rows, *map(_sequential, sequences(sequential))]}


def _sequential(case: Sequences) -> dict[str, Any]:
    """Equality is claimed; the truth is another algorithm's."""
    with jax.enable_x64(True):
        model = HiddenMarkov(Gaussian(), n_components=case.k)
        fit = minorant.fit(model, case.rows, groups=case.groups, progress=False)
    began = time.perf_counter()
    evidence = fit.evidence(case.rows, groups=case.groups)
    return {
        "kind": case.kind,
        "log_z": forward(fit.model, case.rows, case.groups),
        "lower": float(evidence.lower),
        "estimate": float(evidence.estimate),
        "upper": float(evidence.upper),
        "hard": float(evidence.lower),
        "trusted": True,
        "verdict": evidence.verdict,
        "took": time.perf_counter() - began,
    }


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
