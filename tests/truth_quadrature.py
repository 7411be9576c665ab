"""Integrals over one to three latents, slowly: SciPy's adaptive rules and sums over fine grids."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import integrate

LogDensity = Callable[[np.ndarray], float]


def log_integral(log_density: LogDensity, centre: float, reach: float = 12.0) -> float:
    """``log`` of the integral over a line by SciPy's adaptive Gauss-Kronrod rule."""
    peak = max(log_density(np.array([centre + step])) for step in np.linspace(-reach, reach, 201))

    def scaled(z: float) -> float:
        return math.exp(log_density(np.array([z])) - peak)

    cuts = np.linspace(centre - reach, centre + reach, 9)
    parts = [
        integrate.quad(scaled, a, b, epsabs=1e-14, epsrel=1e-13)[0]
        for a, b in itertools.pairwise(cuts)
    ]
    return peak + math.log(sum(parts))


def fine_grid(
    log_density: LogDensity, centre: np.ndarray, reach: float, points: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """Log integral, mean and covariance by a sum over equally spaced points around ``centre``."""
    line = np.linspace(-reach, reach, points)
    nodes = np.array(list(itertools.product(line, repeat=len(centre)))) + centre
    logs = np.array([log_density(z) for z in nodes])
    mass = np.exp(logs - logs.max())
    total = logs.max() + math.log(mass.sum() * (line[1] - line[0]) ** len(centre))
    mass /= mass.sum()
    mean = mass @ nodes
    return total, mean, (nodes - mean).T @ ((nodes - mean) * mass[:, None])


def log_prior(z: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    """The normal prior of the latents."""
    away = z - mean
    volume = math.log(np.linalg.det(2 * math.pi * covariance))
    return float(-0.5 * (away @ np.linalg.inv(covariance) @ away + volume))


def category_probabilities(kind: str, z: np.ndarray, item: dict[str, Any]) -> np.ndarray:
    """The probability of every answer, from the textbook formula of each item structure."""
    slope, intercepts = np.atleast_1d(item["slope"]), np.atleast_1d(item["intercepts"])
    reach = float(slope @ z)
    if kind == "three":
        low = item["guessing"]
        correct = low + (1 - low) / (1 + math.exp(-(reach + intercepts[0])))
        return np.array([1 - correct, correct])
    if kind == "graded":
        above = [1.0, *(1 / (1 + np.exp(-(reach + intercepts)))), 0.0]
        return -np.diff(above)
    steps = np.exp([c * reach + d for c, d in enumerate([0.0, *intercepts])])
    return steps / steps.sum()


def log_answers(
    answers: np.ndarray, z: np.ndarray, items: list[tuple[str, dict[str, Any]]]
) -> float:
    """``log p(answers | z)``; NaN where an item was not answered."""
    pairs = zip(answers, items, strict=True)
    return sum(
        math.log(category_probabilities(kind, z, item)[int(answer)])
        for answer, (kind, item) in pairs
        if not np.isnan(answer)
    )
