"""Answers that every item response peer shares, and the log-likelihood that judges them. NumPy."""

from __future__ import annotations

import numpy as np

_BLOCK = 500


def simulated(n: int, d: int, seed: int = 0) -> np.ndarray:
    """0/1 answers (n, d) of a two-parameter logistic model."""
    rng = np.random.default_rng(seed)
    slopes, difficulties = rng.lognormal(0.1, 0.3, d), rng.normal(size=d)
    reach = slopes * (rng.normal(size=(n, 1)) - difficulties)
    return (rng.random((n, d)) < 1.0 / (1.0 + np.exp(-reach))).astype(float)


def log_likelihood(answers: np.ndarray, slopes: np.ndarray, intercepts: np.ndarray) -> float:
    """The marginal log-likelihood under a standard normal trait: 241 equal steps on [-8, 8]."""
    nodes = np.linspace(-8.0, 8.0, 241)
    reach = nodes[:, None] * slopes + intercepts
    right, wrong = -np.logaddexp(0.0, -reach), -np.logaddexp(0.0, reach)
    prior = -0.5 * nodes**2 - 0.5 * np.log(2.0 * np.pi) + np.log(nodes[1] - nodes[0])
    total = 0.0
    for start in range(0, len(answers), _BLOCK):
        block = answers[start : start + _BLOCK]
        scores = block @ (right - wrong).T + wrong.sum(1) + prior
        top = scores.max(1)
        total += float((top + np.log(np.exp(scores - top[:, None]).sum(1))).sum())
    return total
