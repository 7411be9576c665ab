"""Fits of girth: ``python -m benchmarks.peers.trait_girth n d rounds``, with Python that has it."""

from __future__ import annotations

import json
import sys
import time

import girth

from benchmarks.peers.trait_data import log_likelihood, simulated


def main() -> None:
    """Measure and print."""
    n, d, rounds = map(int, sys.argv[1:4])
    answers, seconds = simulated(n, d), []
    table = answers.T.astype(int)
    for _ in range(rounds + 1):
        began = time.perf_counter()
        found = girth.twopl_mml(table)
        seconds.append(time.perf_counter() - began)
    slopes, difficulties = found["Discrimination"], found["Difficulty"]
    reached = log_likelihood(answers, slopes, -slopes * difficulties)
    print(json.dumps({
        "first": seconds[0], "seconds": seconds[1:], "steps": None, "log_likelihood": reached
    }))  # fmt: skip


if __name__ == "__main__":
    main()
