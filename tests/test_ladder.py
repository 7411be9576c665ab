"""The ladder on targets whose evidence and moments are known."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import stats as jstats
from scipy import integrate, special, stats

import minorant
from minorant import unknowns
from minorant.targets import Target

COUNTS = np.array([3.0, 5.0, 2.0, 7.0])


def _conjugate(rate):
    prior = jstats.gamma.logpdf(rate, 2.0, scale=1.0)
    return prior + jstats.poisson.logpmf(COUNTS, rate).sum()


def _log_evidence() -> float:
    """Of the gamma-Poisson pair, in closed form."""
    a, n = 2.0 + COUNTS.sum(), 1.0 + len(COUNTS)
    found = special.gammaln(a) - special.gammaln(2.0) - a * np.log(n)
    return float(found - special.gammaln(COUNTS + 1).sum())


@pytest.fixture(scope="module")
def conjugate():
    return minorant.fit(Target(_conjugate, rate=unknowns.positive()))


@pytest.fixture(scope="module")
def banana():
    """A normal bent along a parabola: normalised, so the log evidence is 0."""

    def log_density(x, y):
        return jstats.norm.logpdf(x) + jstats.norm.logpdf(y, x**2, 0.5)

    target = Target(log_density, x=unknowns.real(), y=unknowns.real())
    return minorant.fit(target, accuracy=0.02)


def test_evidence_is_bracketed_from_below_within_monte_carlo_error(conjugate):
    evidence = conjugate.evidence()
    assert conjugate.outcome.ok
    assert evidence.lower <= _log_evidence() + 4 * float(conjugate.bound.standard_error)
    assert abs(evidence.estimate - _log_evidence()) < 4 * evidence.standard_error + 1e-6


def test_summary_is_that_of_the_exact_posterior(conjugate):
    exact = stats.gamma(2.0 + COUNTS.sum(), scale=1 / (1.0 + len(COUNTS)))
    row = conjugate.summary()["rate"]
    assert abs(row.mean - exact.mean()) < 5 * row.mean_error
    n = len(conjugate.posterior.draws.points)
    assert abs(row.sd / exact.std() - 1) < 5 / np.sqrt(2 * n) * 1.5
    for level, found in ((0.05, row.q5), (0.5, row.q50), (0.95, row.q95)):
        error = np.sqrt(level * (1 - level) / n) / exact.pdf(exact.ppf(level))
        assert abs(found - exact.ppf(level)) < 5 * error


def test_draws_follow_the_exact_posterior(conjugate):
    draws = conjugate.sample(2000, random_state=3)["rate"]
    exact = stats.gamma(2.0 + COUNTS.sum(), scale=1 / (1.0 + len(COUNTS)))
    assert stats.kstest(draws, exact.cdf).pvalue > 1e-3


def test_log_density_is_that_of_the_unknown_itself(conjugate):
    """q is a density over the rate: it integrates to 1 over the rate."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    rates = 6.0 * (nodes + 1.0)
    heights = [np.exp(conjugate.posterior.log_density({"rate": rate})) for rate in rates]
    assert abs(6.0 * weights @ heights - 1) < 1e-3


def test_a_richer_family_is_never_worse_and_ends_near_the_evidence(banana):
    rungs = {rung.family: rung for rung in banana.rungs}
    assert set(rungs) == {"mode", "full-rank", "flow"}
    assert rungs["full-rank"].bound.value >= rungs["mode"].bound.value
    assert banana.bound.value == max(rung.bound.value for rung in banana.rungs)
    assert -0.05 < banana.bound.value < 4 * float(banana.bound.standard_error)
    assert rungs["full-rank"].gap > 0.02


def test_quantiles_of_the_banana_and_what_is_said_of_its_tails(banana):
    """y is a chi-square plus a normal: quantiles by simulation, a million draws."""
    rng = np.random.default_rng(0)
    exact = rng.normal(size=10**6) ** 2 + 0.5 * rng.normal(size=10**6)
    row = banana.summary()["y"]
    for level, found in ((0.05, row.q5), (0.5, row.q50)):
        assert abs((exact < found).mean() - level) < 5 * np.sqrt(level * (1 - level) / 8192)
    assert banana.rung.is_reliable or "tails" in banana.outcome.value


def test_modes_that_lie_apart_are_all_kept():
    """Three normalised bumps of weight 0.2, 0.3 and 0.5: evidence 0, means known."""
    centers, weights = np.array([[-8.0, 0.0], [0.0, 9.0], [9.0, -2.0]]), np.array([0.2, 0.3, 0.5])

    def log_density(z):
        bumps = jstats.norm.logpdf(z, centers, np.array([1.0, 0.5])).sum(1)
        return jnp.logaddexp.reduce(jnp.log(weights) + bumps)

    starts = {"z": np.zeros(2)}
    target = Target(log_density, z=unknowns.real(2), start=starts)
    spread = Target(lambda z: log_density(6 * z) + 2 * np.log(6), z=unknowns.real(2))
    fit = minorant.fit(spread)
    assert fit.rung.family == "mixture"
    assert abs(fit.bound.value) < 4 * float(fit.bound.standard_error) + 1e-3
    mean = 6 * fit.posterior.moments()["z"][0]
    np.testing.assert_allclose(mean, weights @ centers, atol=0.5)
    assert target.initial() is not None


def test_the_same_seed_gives_the_same_answer(conjugate):
    again = minorant.fit(conjugate.target)
    assert again.bound.value == conjugate.bound.value
    np.testing.assert_array_equal(again.sample(10)["rate"], conjugate.sample(10)["rate"])


def test_common_directions_take_up_dependence():
    """A normal with one common factor: low rank holds it exactly, independence cannot."""
    direction = np.linspace(-1.0, 2.0, 6)
    covariance = np.eye(6) + np.outer(direction, direction)
    precision, log_volume = np.linalg.inv(covariance), np.linalg.slogdet(2 * np.pi * covariance)[1]
    target = Target(lambda z: -0.5 * (z @ precision @ z + log_volume), z=unknowns.real(6))
    fit = minorant.fit(target, posterior="low-rank")
    independent, common = (float(rung.bound.value) for rung in fit.rungs)
    # KL of the best independent normal from the target, in closed form; the evidence is 0.
    exact = -0.5 * (np.log(np.diag(precision)).sum() + np.linalg.slogdet(covariance)[1])
    assert abs(independent - exact) < 0.05
    assert -0.02 < common < 4 * float(fit.bound.standard_error) + 1e-6


def test_a_family_may_be_asked_for():
    target = Target(_conjugate, rate=unknowns.positive())
    fit = minorant.fit(target, posterior="mean-field")
    full = minorant.fit(target, posterior="full-rank")
    assert [rung.family for rung in fit.rungs] == ["mean-field"]
    # In one dimension independent coordinates and a full covariance are one family.
    errors = float(fit.bound.standard_error) + float(full.bound.standard_error)
    assert abs(fit.bound.value - full.bound.value) < 4 * errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"posterior": "exact"}, "posterior must be one of"),
        ({"accuracy": 0.0}, "accuracy must be above 0"),
        ({"seconds": -1.0}, "seconds must be above 0"),
        ({"weights": np.ones(3)}, "weights is for models of rows"),
    ],
)
def test_options_that_cannot_be_used_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        minorant.fit(Target(_conjugate, rate=unknowns.positive()), **options)


def test_a_density_that_is_highest_in_a_spike_is_climbed_from_the_plain_start():
    """Where every place meets its datum and the noise is nil the density has no upper limit."""
    data = np.linspace(-2.0, 2.0, 20)

    def log_density(place, noise):
        prior = jstats.norm.logpdf(place).sum() - 0.5 * jnp.log(noise) ** 2 / 4 - jnp.log(noise)
        return prior + jstats.norm.logpdf(data, place, noise).sum()

    def summed(log_noise):
        spread = np.sqrt(1.0 + np.exp(2 * log_noise))
        return np.exp(stats.norm.logpdf(data, 0, spread).sum() - 0.5 * log_noise**2 / 4)

    target = Target(log_density, place=unknowns.real(20), noise=unknowns.positive())
    fit = minorant.fit(target, posterior="full-rank")
    exact = np.log(integrate.quad(summed, -12, 12, epsabs=0)[0])
    assert exact - 2.0 < fit.bound.value < exact
