"""Targets of 20 and 21 unknowns whose log p(x) is known, for nested samplers and for minorant.

Nested samplers are given a prior on the unit cube and a log likelihood; minorant the product of
both in its own coordinates. NumPy alone: peers run where JAX is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

SIZE, ROWS = 20, 40
NAMES = ("gaussian", "banana", "regression")
WIDE, NARROW = 5.0, 0.4


class Nested(NamedTuple):
    """What a nested sampler is given."""

    size: int
    transform: Callable[[np.ndarray], np.ndarray]
    log_likelihood: Callable[[np.ndarray], float]


def seen() -> np.ndarray:
    """What the Gaussian likelihood is centred at."""
    return np.linspace(-2.0, 2.0, SIZE)


def covariance() -> np.ndarray:
    """Of the Gaussian likelihood: every pair is correlated by 0.9."""
    return 0.1 * np.eye(SIZE) + 0.9


def table() -> tuple[np.ndarray, np.ndarray]:
    """Inputs and outcomes of the regression."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, SIZE))
    return X, X @ rng.normal(size=SIZE) + rng.normal(size=ROWS)


def log_z(name: str) -> float:
    """The truth, in closed form."""
    return {"gaussian": _gaussian_z, "banana": float, "regression": _regression_z}[name]()


def _gaussian_z() -> float:
    total = WIDE**2 * np.eye(SIZE) + covariance()
    square = seen() @ np.linalg.solve(total, seen())
    return float(-0.5 * (square + np.linalg.slogdet(2 * np.pi * total)[1]))


def _regression_z() -> float:
    """Normal and gamma are conjugate: the noise's precision has shape 2 and rate 2."""
    X, y = table()
    posterior = np.eye(SIZE) + X.T @ X
    mean = np.linalg.solve(posterior, X.T @ y)
    rate, shape = 2.0 + 0.5 * (y @ y - mean @ posterior @ mean), 2.0 + 0.5 * ROWS
    log = -0.5 * ROWS * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(posterior)[1]
    log += 2.0 * np.log(2.0) - special.gammaln(2.0) + special.gammaln(shape)
    return float(log - shape * np.log(rate))


def nested(name: str) -> Nested:
    """Prior and likelihood of that name."""
    return {"gaussian": _gaussian, "banana": _banana, "regression": _regression}[name]()


def log_joint(name: str, x: np.ndarray) -> float:
    """Prior times likelihood, for samplers that walk."""
    log_likelihood = nested(name).log_likelihood
    if name != "regression":
        square = (x**2).sum() / WIDE**2
        return log_likelihood(x) - 0.5 * square - 0.5 * SIZE * np.log(2 * np.pi * WIDE**2)
    if x[0] <= 0:
        return -np.inf
    prior = np.log(4.0) + np.log(x[0]) - 2.0 * x[0]
    prior += 0.5 * SIZE * np.log(x[0] / (2 * np.pi)) - 0.5 * x[0] * (x[1:] ** 2).sum()
    return float(log_likelihood(x) + prior)


def _normal_prior(cube: np.ndarray) -> np.ndarray:
    return WIDE * special.ndtri(cube)


def _gaussian() -> Nested:
    """A normal prior of standard deviation 5, a correlated normal likelihood."""
    inverse, centre = np.linalg.inv(covariance()), seen()
    constant = -0.5 * np.linalg.slogdet(2 * np.pi * covariance())[1]

    def log_likelihood(x: np.ndarray) -> float:
        return float(constant - 0.5 * (x - centre) @ inverse @ (x - centre))

    return Nested(SIZE, _normal_prior, log_likelihood)


def _banana() -> Nested:
    """Ten bananas; under a normal prior the likelihood is their density over the prior's."""
    half = SIZE // 2

    def log_likelihood(x: np.ndarray) -> float:
        a = x[:half]
        b = (x[half:] - a**2 + 1.0) / NARROW
        bent = -0.5 * (a @ a + b @ b) - half * np.log(NARROW)
        return float(bent + 0.5 * x @ x / WIDE**2 + SIZE * np.log(WIDE))

    return Nested(SIZE, _normal_prior, log_likelihood)


def _regression() -> Nested:
    """Coefficients and the noise's precision."""
    X, y = table()

    def transform(cube: np.ndarray) -> np.ndarray:
        precision = 0.5 * special.gammaincinv(2.0, cube[:1])
        return np.concatenate([precision, special.ndtri(cube[1:]) / np.sqrt(precision)])

    def log_likelihood(x: np.ndarray) -> float:
        away = y - X @ x[1:]
        return float(0.5 * (ROWS * np.log(x[0] / (2 * np.pi)) - x[0] * away @ away))

    return Nested(SIZE + 1, transform, log_likelihood)
