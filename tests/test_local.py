"""Each row's best Gaussian: exact where the posterior is one, a bound elsewhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from scipy import special, stats

import minorant
from minorant.posteriors import PerRow
from minorant.posteriors.local import best_gaussians

dist = pytest.importorskip("numpyro.distributions")

RNG = np.random.default_rng(0)
LOADINGS = RNG.normal(size=(6, 4))
NOISE = 0.7


class Factors(minorant.Model):
    """Factor analysis with four factors: the exact posterior is normal."""

    loadings: Array
    scale: Array = minorant.positive()

    def prior(self):
        return dist.Normal(jnp.zeros(4), 1.0).to_event(1)

    def likelihood(self, z):
        return dist.Normal(self.loadings @ z, self.scale).to_event(1)


class Rates(minorant.Model):
    """Counts with a gamma rate: the evidence is negative binomial."""

    shape: Array = minorant.positive()

    def prior(self):
        return dist.Gamma(self.shape, 2.0)

    def likelihood(self, z):
        return dist.Poisson(jnp.full(1, z)).to_event(1)


class Counts(minorant.Model):
    loadings: Array

    def prior(self):
        return dist.Normal(jnp.zeros(2), 1.0).to_event(1)

    def likelihood(self, z):
        return dist.Poisson(jnp.exp(self.loadings @ z + 0.5)).to_event(1)


@pytest.fixture(scope="module")
def factor_rows():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(40, 4)) @ LOADINGS.T + NOISE * rng.normal(size=(40, 6))
    rows[rng.random(rows.shape) < 0.15] = np.nan
    return rows


def test_where_the_posterior_is_normal_the_bound_is_the_evidence(factor_rows, float64):
    """Against the marginal normal of each row's observed cells."""
    model = Factors(LOADINGS, np.array(NOISE))
    fit = minorant.fit(model, factor_rows, max_steps=1)
    fit = fit._replace(model=model, standardised=model)
    covariance = LOADINGS @ LOADINGS.T + NOISE**2 * np.eye(6)
    evidence = fit.evidence(factor_rows)
    posterior = fit.posterior(factor_rows)
    for row, x in enumerate(factor_rows):
        seen = ~np.isnan(x)
        exact = stats.multivariate_normal(np.zeros(seen.sum()), covariance[seen][:, seen])
        assert abs(evidence.rows_lower[row] - exact.logpdf(x[seen])) < 1e-7
        gain = LOADINGS[seen].T @ np.linalg.inv(covariance[seen][:, seen])
        np.testing.assert_allclose(posterior.mean[row], gain @ x[seen], atol=1e-6)
        np.testing.assert_allclose(
            posterior.covariance[row], np.eye(4) - gain @ LOADINGS[seen], atol=1e-6
        )
    assert abs(evidence.gap) < 1e-6
    assert "tight" in evidence.verdict


def test_independent_latents_have_the_best_bound_of_their_kind(factor_rows, float64):
    """Of a normal posterior: its mean, and the precision's diagonal in place of the precision."""
    model = Factors(LOADINGS, np.array(NOISE)).bounded(PerRow("mean-field"))
    fit = minorant.fit(model, factor_rows[:9], max_steps=1)
    fit = fit._replace(model=model, standardised=model)
    found, posterior = fit.log_evidence(factor_rows[:9]), fit.posterior(factor_rows[:9])
    for row, x in enumerate(factor_rows[:9]):
        seen = ~np.isnan(x)
        covariance = LOADINGS[seen] @ LOADINGS[seen].T + NOISE**2 * np.eye(seen.sum())
        exact = stats.multivariate_normal(np.zeros(seen.sum()), covariance).logpdf(x[seen])
        precision = np.eye(4) + LOADINGS[seen].T @ LOADINGS[seen] / NOISE**2
        mean = np.linalg.solve(precision, LOADINGS[seen].T @ x[seen]) / NOISE**2
        lost = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
        np.testing.assert_allclose(posterior.mean[row], mean, atol=1e-6)
        np.testing.assert_allclose(
            posterior.covariance[row], np.diag(1 / np.diag(precision)), atol=1e-6
        )
        assert abs(exact - lost - found[row]) < 1e-6
    assert "mean-field" in fit.explanation
    with pytest.raises(TypeError, match="climbed a bound"):
        fit.standard_errors(factor_rows)


def test_the_derivative_is_that_of_the_bound(float64):
    """Against differences of the bound, which is a smooth function of the loadings."""
    model = Counts(LOADINGS[:3, :2])
    x = np.array([[1.0, 0.0, 3.0], [2.0, 2.0, 0.0]])

    def joint(loadings, z):
        rate = jnp.exp(z @ loadings.T + 0.5)
        cells = x * jnp.log(rate) - rate - special.gammaln(x + 1)
        return cells.sum(1) - 0.5 * (z**2).sum(1) - jnp.log(2 * jnp.pi)

    def bound(loadings):
        return best_gaussians(joint, loadings, jnp.zeros((2, 2)), 32).bound.sum()

    gradient = jax.grad(bound)(jnp.asarray(model.loadings))
    for index in ((0, 0), (2, 1)):
        step = np.zeros((3, 2))
        step[index] = 1e-4
        slope = (bound(model.loadings + step) - bound(model.loadings - step)) / 2e-4
        np.testing.assert_allclose(gradient[index], slope, rtol=1e-4)


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(3)
    return rng.poisson(np.exp(rng.normal(size=(60, 2)) @ LOADINGS[:3, :2].T + 0.5)).astype(float)


def test_the_bound_lies_below_the_integral_and_weights_close_the_gap(counts, float64):
    """Against quadrature of the same model."""
    start = Counts(0.1 * LOADINGS[:3, :2])
    integrated = minorant.fit(start, counts)
    bounded = minorant.fit(start, counts, posterior="full-rank")
    assert "full-rank Gaussian q" in bounded.explanation
    bounded = bounded._replace(
        model=integrated.model.bounded(), standardised=integrated.standardised.bounded()
    )
    exact = integrated.evidence(counts)
    found = bounded.evidence(counts)
    error = 5 * found.rows_gap.clip(1e-4) ** 0.5 / np.sqrt(1000)
    assert (found.rows_lower < exact.rows_estimate + error).all()
    assert found.lower < exact.estimate
    assert abs(found.estimate - exact.estimate) < 4 * found.standard_error + 0.01


def test_climbing_the_bound_ends_near_where_climbing_the_integral_does(counts, float64):
    start = Counts(0.1 * LOADINGS[:3, :2])
    integrated = minorant.fit(start, counts)
    bounded = minorant.fit(start, counts, posterior="full-rank")
    assert bounded.outcome.ok
    assert bounded.bound < integrated.bound + 1e-3
    at_bounded = integrated._replace(model=bounded.model, standardised=bounded.standardised)
    plain = Counts(np.asarray(at_bounded.model.loadings))
    at_bounded = at_bounded._replace(model=plain, standardised=plain)
    assert at_bounded.log_evidence(counts).sum() > integrated.bound - 0.5


def test_a_positive_latent_is_bounded_in_logarithms(float64):
    """Against the negative binomial distribution."""
    rows = np.random.default_rng(4).negative_binomial(3.0, 2.0 / 3.0, size=(50, 1)).astype(float)
    model = Rates(np.array(3.0))
    fit = minorant.fit(model, rows, max_steps=1)
    fit = fit._replace(model=model, standardised=model)
    exact = stats.nbinom(3.0, 2.0 / 3.0).logpmf(rows[:, 0])
    found = fit.evidence(rows)
    assert (found.rows_lower < exact + 1e-2).all()
    assert found.lower < exact.sum()
    assert abs(found.estimate - exact.sum()) < 4 * found.standard_error + 0.02


def test_a_posterior_that_a_model_cannot_have_is_refused(counts, float64):
    with pytest.raises(ValueError, match="no exact posterior"):
        minorant.fit(Factors(LOADINGS, np.array(1.0)), np.zeros((3, 6)), posterior="exact")
    mixture = minorant.Mixture(minorant.components.Poisson(), n_components=2)
    with pytest.raises(ValueError, match="its own posterior, and no other"):
        minorant.fit(mixture, counts, posterior="full-rank")
    with pytest.raises(ValueError, match="posterior must be one of"):
        minorant.fit(mixture, counts, posterior="flow")
