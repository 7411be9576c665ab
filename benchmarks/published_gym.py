"""The four targets of the tables of Geffner & Domke (2023), every constant kept.

"Langevin diffusion variational inference", AISTATS 2023, tables 1 to 3. Brownian motion is
inference-gym's (Apache 2.0; its observations are those of its release 0.0.5), Seeds that of the
BUGS examples, volume 1 (Crowder, 1978, table 3), with the priors of the authors' repository; the
two logistic regressions read their inputs from a checkout of it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats

from benchmarks.published_sums import adaptive
from minorant import unknowns as u
from minorant.targets import Target

_NAN = float("nan")
# inference-gym 0.0.5, brownian_motion_missing_middle_observations.
BROWNIAN = np.array(
    [0.21592641, 0.118771404, -0.07945447, 0.037677474, -0.27885845, -0.1484156, -0.3250906]
    + [-0.22957903, -0.44110894, -0.09830782, *[_NAN] * 10, -0.8786016, -0.83736074, -0.7384849]
    + [-0.8939254, -0.7774566, -0.70238715, -0.87771565, -0.51853573, -0.6948214, -0.6202789]
)
# Crowder (1978): seeds that germinated of those on each plate, by type of seed and root extract.
GERMINATED = np.array(
    [10, 23, 23, 26, 17, 5, 53, 55, 32, 46, 10, 8, 10, 8, 23, 0, 3, 22, 15, 32, 3]
)
SOWN = np.array([39, 62, 81, 51, 39, 6, 74, 72, 51, 79, 13, 16, 30, 28, 45, 4, 12, 41, 30, 51, 7])
SEED = np.repeat([0.0, 1.0], [11, 10])
EXTRACT = np.repeat([0.0, 1.0, 0.0, 1.0], [5, 6, 5, 5])


def _scales(step, noise):
    """Both log-normal with log mean 0 and log sd 2."""
    logs = jnp.log(jnp.stack([step, noise]))
    return (stats.norm.logpdf(logs, 0, 2) - logs).sum()


def brownian() -> Target:
    seen = ~np.isnan(BROWNIAN)

    def log_density(step, noise, place):
        path = stats.norm.logpdf(place, jnp.concatenate([jnp.zeros(1), place[:-1]]), step).sum()
        data = stats.norm.logpdf(BROWNIAN[seen], place[seen], noise).sum()
        return _scales(step, noise) + path + data

    return Target(log_density, step=u.positive(), noise=u.positive(), place=u.real(30))


def brownian_summed() -> Target:
    """The path integrated out by Kalman's filter."""
    seen, y = ~np.isnan(BROWNIAN), np.nan_to_num(BROWNIAN)

    def log_density(step, noise):
        def filtered(state, now):
            (mean, variance), (value, is_seen) = state, now
            variance = variance + step**2
            total = variance + noise**2
            gain = jnp.where(is_seen, variance / total, 0.0)
            fit = jnp.where(is_seen, stats.norm.logpdf(value, mean, jnp.sqrt(total)), 0.0)
            return (mean + gain * (value - mean), (1 - gain) * variance), fit

        zero = jnp.zeros(())
        return _scales(step, noise) + jax.lax.scan(filtered, (zero, zero), (y, seen))[1].sum()

    return Target(log_density, step=u.positive(), noise=u.positive())


def _design() -> np.ndarray:
    return np.column_stack([np.ones(21), SEED, EXTRACT, SEED * EXTRACT])


def _log_coefficient() -> float:
    log_factorial = jax.scipy.special.gammaln
    n, y = SOWN + 1.0, GERMINATED + 1.0
    return float((log_factorial(n) - log_factorial(y) - log_factorial(n - y + 1.0)).sum())


def _tops(a, tau):
    return stats.norm.logpdf(a, 0, 10).sum() + stats.gamma.logpdf(tau, 0.01, scale=100.0)


def seeds() -> Target:
    X, constant = _design(), _log_coefficient()

    def log_density(a, tau, b):
        logits = X @ a + b
        prior = _tops(a, tau) + stats.norm.logpdf(b, 0, tau**-0.5).sum()
        rows = GERMINATED * logits - SOWN * jax.nn.softplus(logits)
        return prior + rows.sum() + constant

    return Target(log_density, a=u.real(4), tau=u.positive(), b=u.real(21))


def seeds_summed() -> Target:
    """Every plate's effect integrated out."""
    X, constant = _design(), _log_coefficient() - 21 * 0.5 * np.log(2 * np.pi)
    y, n = GERMINATED[:, None].astype(float), SOWN[:, None].astype(float)

    def log_density(a, tau):
        rows = adaptive(y, n, (X @ a)[:, None], tau**-0.5)
        return _tops(a, tau) + rows.sum() + constant

    return Target(log_density, a=u.real(4), tau=u.positive())


def logistic(inputs: np.ndarray, labels: np.ndarray) -> Target:
    """Inputs standardised, an intercept, standard normal weights; labels -1 and 1."""
    sd = inputs.std(0)
    X = (inputs - inputs.mean(0)) / np.where(sd == 0, 1.0, sd)
    X = labels[:, None] * np.column_stack([np.ones(len(X)), X])

    def log_density(w):
        return stats.norm.logpdf(w).sum() - jax.nn.softplus(-X @ w).sum()

    return Target(log_density, w=u.real(X.shape[1]))
