"""Bounds in print, on the same data with the same constants, exceeded by summing out what is local.

Published: the highest of all runs in Agrawal, Sheldon & Domke (2020), "Advances in black-box VI"
(their repository's table of final metrics), on models of the BUGS examples as Stan states them:
terms without unknowns are dropped.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

import minorant
from minorant import unknowns

# Bock & Lieberman (1970), table 1: how often each pattern of five answers, 00000 to 11111.
PATTERNS = np.array(list(np.ndindex(2, 2, 2, 2, 2)), float)
COUNTS = np.diff(
    [0, 3, 9, 11, 22, 23, 24, 27, 31, 32, 40, 40, 56, 56, 59, 61, 76, 86, 115, 129, 210, 213, 241]
    + [256, 336, 352, 408, 429, 602, 613, 674, 702, 1000]
)
NODES = np.arange(-8.0, 8.1, 0.25)
LSAT, ENDO = -1557.34, -118.84


def _lsat(alpha, beta):
    """The ability of each of 1000 persons integrated out, pattern by pattern."""
    logits = beta * NODES - alpha[:, None]
    rows = PATTERNS @ logits - jax.nn.softplus(logits).sum(0) - 0.5 * NODES**2
    prior = -0.5 * (alpha**2).sum() / 1e4 - 0.5 * beta**2 / 1e4
    return prior + COUNTS @ (jax.nn.logsumexp(rows, axis=1) + np.log(0.25))


def _slow_lsat(alpha: np.ndarray, beta: float) -> float:
    """The same by adaptive integration."""
    total = -0.5 * ((alpha**2).sum() + beta**2) / 1e4
    for pattern, count in zip(PATTERNS, COUNTS, strict=True):

        def likelihood(theta, signs=2 * pattern - 1):
            return np.exp(-0.5 * theta**2) * special.expit(signs * (beta * theta - alpha)).prod()

        total += count * np.log(integrate.quad(likelihood, -12, 12, epsabs=0, epsrel=1e-10)[0])
    return total


@pytest.fixture(scope="module")
def lsat():
    target = minorant.Target(_lsat, alpha=unknowns.real(5), beta=unknowns.positive())
    return minorant.fit(target, posterior="full-rank")


def test_lsat_density_is_that_of_adaptive_integration(float64):
    rng = np.random.default_rng(1)
    alpha, beta = rng.normal(-1.5, 0.5, 5), rng.uniform(0.5, 1.0)
    np.testing.assert_allclose(_lsat(jnp.asarray(alpha), beta), _slow_lsat(alpha, beta), rtol=1e-10)


def _importance_sampled_lsat() -> tuple[float, float]:
    """Its log evidence from NumPy and SciPy alone: Student draws around the mode."""

    def log_density(points):
        logits = np.exp(points[:, 5, None, None]) * NODES - points[:, :5, None]
        rows = PATTERNS @ logits - np.logaddexp(0, logits).sum(1)[:, None] - 0.5 * NODES**2
        sums = COUNTS @ special.logsumexp(rows, axis=2).T + 1000 * np.log(0.25)
        squares = (points[:, :5] ** 2).sum(1) + np.exp(2 * points[:, 5])
        return sums - 0.5 * squares / 1e4 + points[:, 5]

    mode = optimize.minimize(lambda point: -log_density(point[None])[0], np.zeros(6)).x
    h = 1e-2 * np.eye(6)
    corners = [[log_density((mode + i + j)[None])[0] for j in h] for i in h]
    corners = np.array(corners) - log_density(mode + h)[:, None] - log_density(mode + h)
    curvature = -(corners + log_density(mode[None])) / 1e-4
    proposal = stats.multivariate_t(mode, np.linalg.inv(curvature), df=10, seed=2)
    draws = proposal.rvs(2000)
    log_weights = np.concatenate([log_density(part) for part in np.split(draws, 10)])
    log_weights -= proposal.logpdf(draws)
    weights = np.exp(log_weights - log_weights.max())
    error = weights.std() / weights.mean() / np.sqrt(len(weights))
    return float(np.log(weights.mean()) + log_weights.max()), float(error)


def test_lsat_bound_is_above_the_published_one_and_below_the_evidence(lsat):
    evidence, error = _importance_sampled_lsat()
    assert error < 0.05
    assert LSAT < lsat.bound.value < evidence + 4 * error
    assert abs(lsat.evidence().estimate - evidence) < 4 * np.hypot(
        error, lsat.evidence().standard_error
    )


def test_endo_bound_is_that_of_the_closed_form_and_far_above_the_published_one():
    """Case-control pairs, 43 and 7 of which differ in exposure (Breslow & Day, 1980, page 165).

    The 183 strata's Poisson means are integrated out, their normal priors as flat as they are.
    """

    def log_density(beta):
        exposed, exposed_control = 43 * beta, 50 * jax.nn.softplus(beta)
        return exposed - exposed_control - 133 * np.log(2.0)

    fit = minorant.fit(minorant.Target(log_density, beta=unknowns.real()), posterior="full-rank")
    exact = special.betaln(43, 7) - 133 * np.log(2.0)
    assert ENDO + 6 < fit.bound.value < exact + 4 * fit.bound.standard_error
    assert abs(fit.evidence().estimate - exact) < 4 * fit.evidence().standard_error
