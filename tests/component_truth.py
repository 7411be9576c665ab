"""Slow and obvious twins of the components with independent columns: one cell at a time, by SciPy.

``LOG_PROB[name](component, j, x)`` is the log density of each cell of one row under component j.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from minorant._types import Rows
from minorant.components import (
    Bernoulli,
    Categorical,
    Diagonal,
    Exponential,
    Gamma,
    Gaussian,
    LogNormal,
    NegativeBinomial,
    Poisson,
    VonMises,
)


def bernoulli(component: Any, j: int, x: np.ndarray) -> np.ndarray:
    return stats.bernoulli.logpmf(x, component.probability[j])


def categorical(component: Any, j: int, x: np.ndarray) -> np.ndarray:
    parts = np.split(component.probabilities[j], np.cumsum(component.n_categories)[:-1])
    pairs = zip(parts, x, strict=True)
    return np.array([np.nan if np.isnan(c) else np.log(part[int(c)]) for part, c in pairs])


def poisson(component: Any, j: int, x: np.ndarray) -> np.ndarray:
    return stats.poisson.logpmf(x, component.rate[j])


def negative_binomial(component: Any, j: int, x: np.ndarray) -> np.ndarray:
    size, mean = component.size[j], component.mean[j]
    return stats.nbinom.logpmf(x, size, size / (size + mean))


def exponential(component: Any, j: int, x: np.ndarray) -> np.ndarray:
    return stats.expon.logpdf(x, scale=1.0 / component.rate[j])


def gamma(component: Any, j: int, x: np.ndarray) -> np.ndarray:
    return stats.gamma.logpdf(x, component.shape[j], scale=1.0 / component.rate[j])


def log_normal(component: Any, j: int, x: np.ndarray) -> np.ndarray:
    mean, sd = component.logs.mean[j], np.sqrt(component.logs.covariance[j])
    return stats.lognorm.logpdf(x, sd, scale=np.exp(mean))


def von_mises(component: Any, j: int, x: np.ndarray) -> np.ndarray:
    return stats.vonmises.logpdf(x, component.concentration[j], loc=component.direction[j])


def log_prob(cell: Any, component: Any, values: np.ndarray) -> np.ndarray:
    """(k, n): the sum over the observed (not NaN) cells of each row."""
    k = len(component.collapsed())
    table = [[np.nansum(cell(component, j, x)) for x in values] for j in range(k)]
    return np.asarray(table)


def rows_of(values: np.ndarray, weight: np.ndarray | None = None) -> Rows:
    """A block; NaN where a cell is missing."""
    observed = ~np.isnan(values)
    weight = np.ones(len(values)) if weight is None else weight
    return Rows(np.where(observed, values, 0.0), weight, None if observed.all() else observed)


def with_gaps(rng: np.random.Generator, values: np.ndarray, share: float = 0.3) -> np.ndarray:
    """The table with a share of its cells missing."""
    return np.where(rng.random(values.shape) < share, np.nan, values)


def make_categorical(rng: np.random.Generator, k: int, d: int) -> Categorical:
    sizes = tuple(2 + j % 3 for j in range(d))
    shares = [rng.dirichlet(np.full(m, 3.0), size=k) for m in sizes]
    return Categorical(sizes, np.concatenate(shares, axis=1))


def make_log_normal(rng: np.random.Generator, k: int, d: int) -> LogNormal:
    structure, floor = Diagonal(centred=True), np.full(d, 1e-6)
    spread = rng.uniform(0.1, 0.5, (k, d))
    return LogNormal(Gaussian(structure, rng.normal(size=(k, d)), spread, floor))


def simulate_categorical(
    rng: np.random.Generator, c: Categorical, labels: np.ndarray
) -> np.ndarray:
    cuts = np.cumsum(c.n_categories)[:-1]
    parts = [np.split(c.probabilities[z], cuts) for z in labels]
    return np.array([[rng.choice(len(p), p=p) for p in row] for row in parts], dtype=float)


# name -> (component class, maker (rng, k, d), simulator (rng, component, labels), units)
COLUMNS: dict[str, tuple[Any, Any, Any, str]] = {
    "bernoulli": (
        Bernoulli,
        lambda rng, k, d: Bernoulli(rng.uniform(0.1, 0.9, (k, d))),
        lambda rng, c, z: (rng.random(c.probability[z].shape) < c.probability[z]).astype(float),
        "none",
    ),
    "categorical": (Categorical, make_categorical, simulate_categorical, "none"),
    "poisson": (
        Poisson,
        lambda rng, k, d: Poisson(rng.gamma(2.0, 3.0, (k, d))),
        lambda rng, c, z: rng.poisson(c.rate[z]).astype(float),
        "none",
    ),
    "negative_binomial": (
        NegativeBinomial,
        lambda rng, k, d: NegativeBinomial(
            rng.gamma(2.0, 3.0, (k, d)), rng.uniform(1.0, 8.0, (k, d)), np.full(d, 1e6)
        ),
        lambda rng, c, z: rng.negative_binomial(
            c.size[z], c.size[z] / (c.size[z] + c.mean[z])
        ).astype(float),
        "none",
    ),
    "exponential": (
        Exponential,
        lambda rng, k, d: Exponential(rng.gamma(2.0, 1.0, (k, d)), np.full(d, 1e-10)),
        lambda rng, c, z: rng.exponential(1.0 / c.rate[z]),
        "scale",
    ),
    "gamma": (
        Gamma,
        lambda rng, k, d: Gamma(rng.uniform(0.5, 6.0, (k, d)), rng.gamma(2.0, 1.0, (k, d))),
        lambda rng, c, z: rng.gamma(c.shape[z], 1.0 / c.rate[z]),
        "scale",
    ),
    "log_normal": (
        LogNormal,
        make_log_normal,
        lambda rng, c, z: np.exp(rng.normal(c.logs.mean[z], np.sqrt(c.logs.covariance[z]))),
        "scale",
    ),
    "von_mises": (
        VonMises,
        lambda rng, k, d: VonMises(
            rng.uniform(-np.pi, np.pi, (k, d)), rng.gamma(2.0, 3.0, (k, d)), np.asarray(1e6)
        ),
        lambda rng, c, z: rng.vonmises(c.direction[z], c.concentration[z]),
        "none",
    ),
}
