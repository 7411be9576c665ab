"""Predictive draws: in expectation, shape for shape, and into ArviZ's groups."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.scipy import stats as jstats
from scipy import stats

import minorant
from minorant import unknowns
from minorant.components import Bernoulli

dist = pytest.importorskip("numpyro.distributions")
ROWS = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])


@pytest.fixture(scope="module")
def tosses():
    """Two chances with uniform priors: the posterior is beta too."""
    prior = {"component.probability": dist.Beta(1.0, 1.0)}
    target = minorant.bayes(minorant.Mixture(Bernoulli(), n_components=1), ROWS, prior=prior)
    return minorant.fit(target, posterior="exponential-family")


def test_replicated_rows_are_beta_binomial(tosses):
    rows = tosses.predict(n=1000)
    assert rows.shape == (1000, 4, 2)
    heads = ROWS.sum(0)
    for column in range(2):
        exact = stats.betabinom(4, 1 + heads[column], 5 - heads[column])
        found = np.bincount(rows[:, :, column].sum(1).astype(int), minlength=5)
        assert stats.chisquare(found, 1000 * exact.pmf(np.arange(5))).pvalue > 1e-3


def test_prior_draws_and_what_they_predict(tosses):
    """Under a uniform chance every number of heads is as likely."""
    prior = tosses.target.sample_prior(1000)
    assert prior["component.probability"].shape == (1000, 1, 2)
    assert stats.kstest(prior["component.probability"].ravel(), stats.uniform.cdf).pvalue > 1e-3
    found = np.bincount(tosses.predict(draws=prior)[:, :, 0].sum(1).astype(int), minlength=5)
    assert stats.chisquare(found).pvalue > 1e-3


@pytest.fixture(scope="module")
def normal():
    target = minorant.Target(
        lambda mean: jstats.norm.logpdf(mean, 1.0, 0.5).sum(),
        derived=lambda mean: {"total": mean.sum()},
        mean=unknowns.real(2),
    )
    return minorant.fit(target, posterior="full-rank")


def test_a_function_takes_the_values_it_names(normal):
    """Derived values too; noise is its own for every draw."""

    def rows(key, mean, total):
        return {"x": mean + 2.0 * jax.random.normal(key, (3, 2)), "total": total}

    found = normal.predict(rows, n=1000)
    drawn = normal.sample(1000)
    np.testing.assert_allclose(found["total"], drawn["total"], rtol=1e-12)
    away = (found["x"] - drawn["mean"][:, None]) / 2.0
    assert stats.kstest(away[:, 0, 0], stats.norm.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(away[:, 0, 0], away[:, 1, 1])[0, 1]) < 4 / np.sqrt(1000)


def test_arviz_has_the_groups_asked_for(tosses, normal):
    pytest.importorskip("arviz_base")
    tree = tosses.to_arviz(1000, predictive=True, prior=True)
    assert tree["posterior_predictive"]["x"].shape == (1, 1000, 4, 2)
    assert tree["prior"]["component.probability"].shape == (1, 1000, 1, 2)
    assert tree["prior_predictive"]["x"].shape == (1, 1000, 4, 2)
    own = normal.to_arviz(20, predictive=lambda key, mean: mean)
    assert set(own.children) == {"posterior", "posterior_predictive"}


def test_what_cannot_be_predicted_is_named(normal, tosses):
    with pytest.raises(TypeError, match="does not say how data are drawn"):
        normal.predict()
    with pytest.raises(ValueError, match="takes sd, which the draws do not have"):
        normal.predict(lambda key, mean, sd: mean)
    with pytest.raises(TypeError, match="which part of it is the prior"):
        normal.to_arviz(5, prior=True)
    flat = minorant.bayes(minorant.Mixture(Bernoulli(), n_components=1), ROWS)
    with pytest.raises(ValueError, match=r"The prior of component.probability is no distribution"):
        flat.sample_prior(3)
