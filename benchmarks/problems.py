"""Ten mixture problems, real and simulated, on which rules of acceleration are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import minorant
from minorant import components as c


class Problem(NamedTuple):
    """A model without parameters, its table, and weights."""

    name: str
    model: Any
    table: np.ndarray
    weights: np.ndarray | None = None


def old_faithful() -> np.ndarray:
    """272 eruptions: duration and waiting time, minutes."""
    table = minorant.datasets.load("old_faithful")
    return np.stack([table["eruptions"], table["waiting"]], axis=1)


def principal(table: np.ndarray, d: int) -> np.ndarray:
    """The first d principal coordinates."""
    centred = table - table.mean(0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:d].T


def overlapping(n: int, d: int, k: int, apart: float, seed: int) -> np.ndarray:
    """k spherical normals whose means are ``apart`` standard deviations from the origin."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(k, d))
    means *= apart / np.linalg.norm(means, axis=1, keepdims=True)
    return means[rng.integers(0, k, n)] + rng.normal(size=(n, d))


def heavy_tails(seed: int) -> np.ndarray:
    """Two bivariate t densities with 3 degrees of freedom."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_t(3, size=(800, 2))
    rows[400:] += 3.0
    return rows


def death_notices() -> tuple[np.ndarray, np.ndarray]:
    """Hasselblad (1969): days with 0 to 9 death notices of women over 80 in a newspaper."""
    days = np.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1], dtype=float)
    return np.arange(10.0)[:, None], days


def with_holes(table: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The table with a share of its cells missing at random, no row empty."""
    rng = np.random.default_rng(seed)
    holes = rng.random(table.shape) < share
    holes[holes.all(1)] = False
    return np.where(holes, np.nan, table)


def carcinoma() -> np.ndarray:
    """118 slides judged by seven pathologists."""
    return np.stack(list(minorant.datasets.load("carcinoma").values()), axis=1).astype(float)


def problems() -> list[Problem]:
    """The ten."""
    from sklearn import datasets

    def mixture(component: Any, k: int) -> Any:
        return minorant.Mixture(component, n_components=k)

    notices, days = death_notices()
    digits = principal(datasets.load_digits().data, 10)
    cancer = principal(datasets.load_breast_cancer().data ** (1 / 3), 5)
    faces: list[Callable[[], Problem]] = [
        lambda: Problem("old faithful, full, k=3", mixture(c.Gaussian(), 3), old_faithful()),
        lambda: Problem("iris, full, k=3", mixture(c.Gaussian(), 3), datasets.load_iris().data),
        lambda: Problem(
            "wine, diagonal, k=4", mixture(c.Gaussian(c.Diagonal()), 4), datasets.load_wine().data
        ),
        lambda: Problem("digits, 10 axes, tied, k=10", mixture(c.Gaussian(c.Tied()), 10), digits),
        lambda: Problem("breast cancer, 5 axes, full, k=4", mixture(c.Gaussian(), 4), cancer),
        lambda: Problem(
            "simulated overlap, d=2, k=3", mixture(c.Gaussian(), 3), overlapping(2000, 2, 3, 1.5, 0)
        ),
        lambda: Problem(
            "simulated overlap, d=5, k=5", mixture(c.Gaussian(), 5), overlapping(5000, 5, 5, 2.5, 1)
        ),
        lambda: Problem("Student t, k=2", mixture(c.StudentT(), 2), heavy_tails(2)),
        lambda: Problem("death notices, Poisson, k=2", mixture(c.Poisson(), 2), notices, days),
        lambda: Problem(
            "old faithful, 20% missing, k=2",
            mixture(c.Gaussian(), 2),
            with_holes(old_faithful(), 0.2, 3),
        ),
    ]
    return [make() for make in faces]
