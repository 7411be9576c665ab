"""Products of exponential families: conjugate posteriors exactly, densities and draws by scipy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import stats as jstats
from scipy import special, stats

import minorant
from minorant import families, unknowns
from minorant._config import precision
from minorant.posteriors._gamma_quantile import log_gamma_quantile
from minorant.posteriors.factors import Beta, Dirichlet, Exponential, Gamma, Normal

COUNTS = np.array([[3.0, 5.0], [2.0, 0.0], [4.0, 1.0]])
HEADS, TOSSES, SEEN, WAITS = 7.0, 10.0, np.array([4.0, 0.0, 9.0]), np.array([0.3, 1.9, 0.7, 2.2])
PRIOR = np.array([0.5, 1.0, 2.0])
Z = np.linspace(-6.0, 6.0, 25)


def _log_joint(rate, share, weights, mean, decay, wait):
    """Conjugate pairs side by side; ``share`` is between 2 and 5, uniformly."""
    total = jstats.gamma.logpdf(rate, 2.0).sum() + jstats.poisson.logpmf(COUNTS, rate).sum()
    chance = (share - 2.0) / 3.0
    total += HEADS * jnp.log(chance) + (TOSSES - HEADS) * jnp.log1p(-chance) - np.log(3.0)
    total += jstats.dirichlet.logpdf(weights, PRIOR) + (SEEN * jnp.log(weights)).sum()
    total += jstats.norm.logpdf(mean) + jstats.norm.logpdf(1.5, mean, 0.5)
    total += -decay - 4.0 * decay
    return total + jstats.gamma.logpdf(wait, 2.0) + (jnp.log(wait) - wait * WAITS).sum()


def _log_evidence() -> float:
    """The pairs' evidences in closed form, one after the other."""
    a, b, n = 2.0 + COUNTS.sum(0), 1.0 + len(COUNTS), len(WAITS)
    total = (special.gammaln(a) - a * np.log(b)).sum() - special.gammaln(COUNTS + 1).sum()
    total += special.betaln(HEADS + 1, TOSSES - HEADS + 1)
    after = PRIOR + SEEN
    total += special.gammaln(after).sum() - special.gammaln(after.sum())
    total -= special.gammaln(PRIOR).sum() - special.gammaln(PRIOR.sum())
    total += stats.norm.logpdf(1.5, 0.0, np.sqrt(1.25)) - np.log(5.0)
    return total + special.gammaln(2.0 + n) - (2.0 + n) * np.log(1.0 + WAITS.sum())


@pytest.fixture(scope="module")
def conjugate():
    target = minorant.Target(
        _log_joint,
        rate=unknowns.positive(2),
        share=unknowns.interval(2.0, 5.0),
        weights=unknowns.simplex(3),
        mean=unknowns.real(),
        decay=unknowns.positive(),
        wait=unknowns.positive(),
    )
    return minorant.fit(target, posterior=families.ExponentialFamily({"decay": "exponential"}))


def test_a_conjugate_posterior_is_met_exactly(conjugate):
    """Every weight is the evidence: the bound has no gap and no Monte Carlo error."""
    assert conjugate.outcome.name == "TIGHT"
    assert abs(float(conjugate.bound.value) - _log_evidence()) < 1e-6
    assert float(conjugate.bound.standard_error) < 1e-6


def test_parameters_are_those_of_the_posterior(conjugate):
    rate, share, weights, mean, decay, wait = conjugate.posterior.member.factors
    np.testing.assert_allclose(rate.natural, [[11.0, 4.0], [8.0, 4.0]], rtol=1e-6)
    np.testing.assert_allclose(share.natural, [[8.0, 4.0]], rtol=1e-6)
    np.testing.assert_allclose(weights.natural, [PRIOR + SEEN], rtol=1e-6)
    np.testing.assert_allclose(mean.natural, [[6.0, 5.0]], rtol=1e-6)
    np.testing.assert_allclose(decay.natural, [[5.0]], rtol=1e-6)
    np.testing.assert_allclose(wait.natural, [[6.0, 1.0 + WAITS.sum()]], rtol=1e-6)


def test_draws_follow_the_exact_posterior(conjugate):
    draws = conjugate.sample(2000, corrected=False)
    assert stats.kstest((draws["share"] - 2.0) / 3.0, stats.beta(8.0, 4.0).cdf).pvalue > 1e-3
    assert stats.kstest(draws["rate"][:, 1], stats.gamma(8.0, scale=0.25).cdf).pvalue > 1e-3
    assert stats.kstest(draws["decay"], stats.expon(scale=0.2).cdf).pvalue > 1e-3
    after = PRIOR + SEEN
    for j, a in enumerate(after):
        exact = stats.beta(a, after.sum() - a)
        assert stats.kstest(draws["weights"][:, j], exact.cdf).pvalue > 1e-3


def test_the_bound_is_what_its_closed_entropy_says(conjugate):
    """E[log p] by draws plus the entropy in closed form, against the bound."""
    with precision(np.dtype(float)):
        entropy = float(conjugate.posterior.member.entropy())
    draws = conjugate.posterior.draws
    with precision(np.dtype(float)):
        log_q = np.asarray(conjugate.posterior.member.log_density(draws.points))
    assert abs(-log_q.mean() - entropy) < 4 * log_q.std() / np.sqrt(len(log_q))


def test_where_nothing_is_conjugate_the_best_log_normal_is_the_best_gaussian():
    """In one dimension, logarithms normal: the family of the full-rank climb."""
    target = minorant.Target(
        lambda scale: jstats.norm.logpdf(WAITS, 0.0, scale).sum() - scale,
        scale=unknowns.positive(),
    )
    own = minorant.fit(target, posterior=families.ExponentialFamily({"scale": "log-normal"}))
    full = minorant.fit(target, posterior="full-rank")
    errors = float(own.bound.standard_error) + float(full.bound.standard_error)
    assert abs(own.bound.value - full.bound.value) < 4 * errors + 1e-3


@pytest.mark.parametrize("shape", [0.05, 0.7, 3.0, 5e3])
def test_gamma_quantiles_and_their_slopes(shape):
    """Values by scipy's inverses, from the nearer tail; slopes by differences of values."""
    with precision(np.dtype(float)):
        a, h = np.full(Z.shape, shape), 1e-5 * shape
        v, slopes = jax.jvp(lambda a: log_gamma_quantile(Z, a), (a,), (np.ones_like(a),))
        above, below = log_gamma_quantile(Z, a + h), log_gamma_quantile(Z, a - h)
        by_noise = jax.jvp(lambda z: log_gamma_quantile(z, a), (Z,), (np.ones_like(Z),))[1]
        right, left = log_gamma_quantile(Z + 1e-5, a), log_gamma_quantile(Z - 1e-5, a)
        found = v, slopes, above, below, by_noise, right, left
        v, slopes, above, below, by_noise, right, left = map(np.asarray, found)
    lower = special.gammaincinv(shape, stats.norm.cdf(Z))
    exact = np.where(Z < 0, lower, special.gammainccinv(shape, stats.norm.sf(Z)))
    seen = exact > 1e-280
    assert seen.sum() > 12
    np.testing.assert_allclose(v[seen], np.log(exact[seen]), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(slopes, (above - below) / (2 * h), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(by_noise, (right - left) / 2e-5, rtol=1e-4)


U = np.random.default_rng(0).normal(size=(7, 1, 1))
X = 1 / (1 + np.exp(-U[:, 0, 0]))
DENSITIES = {
    "gamma": (Gamma(np.array([[2.5, 3.0]])), stats.gamma(2.5, scale=1 / 3.0), np.exp),
    "exponential": (Exponential(np.array([[0.7]])), stats.expon(scale=1 / 0.7), np.exp),
    "log-normal": (Normal(np.array([[2.0, 4.0]])), stats.lognorm(0.5, scale=np.exp(0.5)), np.exp),
    "beta": (Beta(np.array([[0.6, 2.0]])), stats.beta(0.6, 2.0), special.expit),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_are_scipys_with_the_jacobian(name):
    """Of u: the density of the value times its slope in u; entropies by quadrature."""
    factor, exact, value = DENSITIES[name]
    u = np.linspace(-40.0, 12.0, 40001)
    with precision(np.dtype(float)):
        found = np.asarray(factor.log_density(U))
        grid = np.asarray(factor.log_density(u[:, None, None]))
        entropy = float(factor.entropy())
    flat = U[:, 0, 0]
    slope = np.log((value(flat + 1e-6) - value(flat - 1e-6)) / 2e-6)
    np.testing.assert_allclose(found, exact.logpdf(value(flat)) + slope, atol=1e-7)
    assert abs(entropy + np.trapezoid(np.exp(grid) * grid, u)) < 1e-6


def test_a_dirichlet_in_log_ratios_integrates_to_one():
    factor = Dirichlet(np.array([[1.5, 2.0, 0.8]]))
    axis = np.linspace(-18.0, 18.0, 361)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 1, 2)
    with precision(np.dtype(float)):
        log_q, entropy = np.asarray(factor.log_density(grid)), float(factor.entropy())
    area = (axis[1] - axis[0]) ** 2
    assert abs(np.exp(log_q).sum() * area - 1) < 1e-5
    assert abs(entropy + (np.exp(log_q) * log_q).sum() * area) < 1e-4


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"rate": "beta"}, "Beta is for interval, and rate is positive"),
        ({"rate": "cauchy"}, r"factors\['rate'\] must be one of"),
        ({"scale": "gamma"}, "factors names scale, which the target does not have"),
    ],
)
def test_factors_that_do_not_fit_are_named(factors, words):
    target = minorant.Target(lambda rate: -rate, rate=unknowns.positive())
    with pytest.raises(ValueError, match=words):
        minorant.fit(target, posterior=families.ExponentialFamily(factors))
