"""Sequences and the start that every hidden Markov peer shares. NumPy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

STICKY = 0.8


class Start(NamedTuple):
    """Rows of all sequences, their lengths, and the parameters that every peer begins from."""

    rows: np.ndarray
    lengths: list[int]
    initial: np.ndarray
    transition: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def simulated(n: int, length: int, k: int, d: int) -> Start:
    """n rows of k states, normal emissions about 2 standard deviations apart, states that stay."""
    rng = np.random.default_rng(0)
    transition = rng.dirichlet(np.ones(k), size=k) * (1 - STICKY) + STICKY * np.eye(k)
    means = 1.2 * rng.standard_normal((k, d))
    reached, uniform = transition.cumsum(1), rng.random(n)
    states = np.zeros(n, dtype=int)
    for t in range(1, n):
        states[t] = min(np.searchsorted(reached[states[t - 1]], uniform[t]), k - 1)
    rows = means[states] + rng.standard_normal((n, d))
    even = np.full((k, k), 1.0 / k)
    start = means + 0.3 * rng.standard_normal((k, d))
    covariances = np.repeat(np.eye(d)[None], k, axis=0)
    lengths = [length] * (n // length)
    return Start(rows, lengths, even[0], 0.5 * even + 0.5 * np.eye(k), start, covariances)
