"""The logistic regressions of the section ``bound_time``, as plain functions."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np


def logistic(p: int) -> tuple[np.ndarray, np.ndarray]:
    """Covariates (n, p) and outcomes (n,), n the larger of 500 and p."""
    rng = np.random.default_rng(p)
    n = max(500, p)
    X = 2.0 * rng.normal(size=(n, p)) / np.sqrt(p)
    y = rng.random(n) < 1.0 / (1.0 + np.exp(-X @ rng.normal(size=p)))
    return X, y.astype(float)


def log_density(p: int) -> Callable:
    """``log p(y, beta)``, every constant kept."""
    X, y = logistic(p)

    def density(beta):
        reach = X @ beta
        prior = -0.5 * (beta**2).sum() - 0.5 * p * np.log(2.0 * np.pi)
        return (y * reach - jnp.logaddexp(0.0, reach)).sum() + prior

    return density
