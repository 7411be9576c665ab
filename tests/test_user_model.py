"""A user's model against enumeration, SciPy's integrals and the library's own models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth_quadrature as truth
from jaxtyping import Array
from scipy import stats
from scipy.special import logsumexp

import minorant
from minorant.models import LatentTrait, TwoParameter
from minorant.posteriors import Adaptive, Categorical
from minorant.solvers import QuasiNewton

dist = pytest.importorskip("numpyro.distributions")


class Items(minorant.Model):
    """The two-parameter logistic model, as a user writes it."""

    slopes: Array
    intercepts: Array

    def prior(self):
        return dist.Normal(0.0, 1.0)

    def likelihood(self, z):
        return dist.Bernoulli(logits=self.slopes * z + self.intercepts).to_event(1)


class Counts(minorant.Model):
    """Two factors behind counts."""

    loadings: Array
    offset: Array

    def prior(self):
        return dist.Normal(jnp.zeros(2), 1.0).to_event(1)

    def likelihood(self, z):
        return dist.Poisson(jnp.exp(self.loadings @ z + self.offset)).to_event(1)


class Classes(minorant.Model):
    """Two classes of log-normal columns: a finite latent, and a support that excludes 0."""

    share: Array = minorant.simplex()
    location: Array
    spread: Array = minorant.positive()

    def prior(self):
        return dist.Categorical(probs=self.share)

    def likelihood(self, z):
        return dist.LogNormal(self.location[z], self.spread).to_event(1)


class Joined(minorant.Model):
    """Columns that depend on each other given z."""

    location: Array

    def prior(self):
        return dist.Normal(0.0, 1.0)

    def likelihood(self, z):
        return dist.MultivariateNormal(self.location + z, jnp.eye(2))


ITEMS = Items(np.array([1.0, 0.7, 1.4]), np.array([0.5, -0.3, 0.1]))
COUNTS = Counts(np.array([[0.6, 0.2], [-0.3, 0.7], [0.4, 0.4]]), np.array([0.2, 0.5, 0.1]))
CLASSES = Classes(np.array([0.4, 0.6]), np.array([[0.0, 1.0], [2.0, -1.0]]), np.array([0.5, 0.8]))


def answers(n=200):
    rng = np.random.default_rng(0)
    reach = rng.normal(size=(n, 1)) * ITEMS.slopes + ITEMS.intercepts
    rows = (reach + rng.logistic(size=(n, 3)) > 0).astype(float)
    rows[rng.random((n, 3)) < 0.1] = np.nan
    return rows[~np.isnan(rows).all(1)]


def scored(model, rows):
    fit = minorant.fit(model, rows, max_steps=1)
    return fit._replace(model=model, standardised=model)


def test_a_normal_latent_is_integrated_out(float64):
    rng = np.random.default_rng(1)
    rows = rng.poisson(2.0, size=(6, 3)).astype(float)
    rows[2, 1] = np.nan
    fit = scored(COUNTS, rows)
    found, posterior = fit.log_evidence(rows), fit.posterior(rows)
    for i in range(6):

        def log_joint(z, x=rows[i]):
            rates = np.exp(COUNTS.loadings @ z + COUNTS.offset)
            cells = (
                x * np.log(rates)
                - rates
                - np.array([np.log(np.arange(1, c + 1)).sum() if c == c else 0.0 for c in x])
            )
            return np.nansum(cells) + truth.log_prior(z, np.zeros(2), np.eye(2))

        total, mean, covariance = truth.fine_grid(log_joint, np.zeros(2), 6.0, 49)
        np.testing.assert_allclose(found[i], total, atol=1e-5)
        np.testing.assert_allclose(posterior.mean[i], mean, atol=1e-4)
        np.testing.assert_allclose(posterior.covariance[i], covariance, atol=1e-4)


def test_a_finite_latent_is_summed_out(float64):
    """Against enumeration, with a missing cell, and with padding rows of 0 outside the support."""
    rng = np.random.default_rng(2)
    rows = np.exp(rng.normal(size=(13, 2)))
    rows[3, 0] = np.nan
    fit = scored(CLASSES, rows)
    posterior = fit.posterior(rows)
    scores = np.log(CLASSES.share) + np.stack(
        [
            np.nansum(stats.lognorm(CLASSES.spread, scale=np.exp(m)).logpdf(rows), axis=1)
            for m in CLASSES.location
        ],
        axis=1,
    )
    np.testing.assert_allclose(fit.log_evidence(rows), logsumexp(scores, axis=1), rtol=1e-10)
    assert isinstance(posterior, Categorical)
    chance = np.exp(scores - logsumexp(scores, axis=1, keepdims=True))
    np.testing.assert_allclose(posterior.probability.T, chance, rtol=1e-9)


@pytest.mark.slow
def test_it_climbs_where_the_library_s_own_models_do(float64):
    """The same two-parameter model, written by a user and by the library."""
    rows = answers()
    own = minorant.fit(ITEMS, rows, tolerance=1e-10)
    theirs = minorant.fit(
        LatentTrait(TwoParameter(), rule=Adaptive(15)),
        rows,
        tolerance=1e-10,
        solver=QuasiNewton(1e-10),
    )
    assert own.outcome.ok
    np.testing.assert_allclose(own.bound, theirs.bound, atol=1e-5)
    np.testing.assert_allclose(own.model.slopes, theirs.model.items[0].slopes[:, 0], atol=1e-2)
    assert "15 Gauss-Hermite nodes" in own.explanation
    assert own.model.refined().points == 30


def test_a_finite_latent_climbs_with_gaps_and_padding(float64):
    rng = np.random.default_rng(3)
    z = rng.random(150) < 0.6
    rows = np.exp(CLASSES.location[z.astype(int)] + CLASSES.spread * rng.normal(size=(150, 2)))
    rows[rng.random(150) < 0.1, 0] = np.nan
    fit = minorant.fit(CLASSES, rows)
    assert fit.outcome.ok
    assert fit.bound > scored(CLASSES, rows).log_evidence(rows).sum()
    np.testing.assert_allclose(fit.model.share.sum(), 1.0)
    assert "summed out exactly" in fit.explanation
    labels = fit.labels(rows)
    assert np.mean(labels == z) > 0.9


def test_draws_come_from_the_model(float64):
    latents, rows = COUNTS.sample(jax.random.key(0), 4000)
    rates = np.exp(np.asarray(latents) @ COUNTS.loadings.T + COUNTS.offset)
    away = np.asarray(rows) - rates
    assert np.all(np.abs(away.mean(0)) < 4.5 * away.std(0) / np.sqrt(4000))
    assert np.all(np.abs(np.asarray(latents).mean(0)) < 4.5 / np.sqrt(4000))


class Apart(Counts):
    def prior(self):
        return dist.Normal(jnp.zeros(2), 1.0)


class Endless(Items):
    def prior(self):
        return dist.Poisson(2.0)


class Nothing(Items):
    def prior(self):
        return 3.0


class Loose(Items):
    def likelihood(self, z):
        return dist.Bernoulli(logits=self.slopes * z + self.intercepts)


class Wider(Counts):
    def prior(self):
        return dist.Normal(jnp.zeros(3), 1.0).to_event(1)


class Asking(Items):
    def likelihood(self, z):
        slopes = self.slopes if z > 0 else -self.slopes
        return dist.Bernoulli(logits=slopes * z + self.intercepts).to_event(1)


class Hosted(Items):
    def prior(self):
        return dist.Normal(float(self.slopes[0]), 1.0)


class Negative(Items):
    def likelihood(self, z):
        return dist.Normal(self.slopes * z, self.intercepts).to_event(1)


@pytest.mark.parametrize(
    ("model", "kind", "sentence"),
    [
        (
            Wider(np.zeros((3, 2)), np.zeros(3)),
            ValueError,
            "for the z of shape \\(3,\\) that prior",
        ),
        (Asking(ITEMS.slopes, ITEMS.intercepts), ValueError, "use jnp.where or jax.lax.cond"),
        (
            Hosted(ITEMS.slopes, ITEMS.intercepts),
            ValueError,
            "prior\\(\\) is computed .* jax.numpy",
        ),
        (Negative(ITEMS.slopes, -np.ones(3)), ValueError, "invalid scale parameter"),
        (Items(ITEMS.slopes, None), TypeError, "Items.intercepts must be numbers to start from"),
        (Endless(ITEMS.slopes, ITEMS.intercepts), TypeError, "discrete without end"),
        (Apart(np.zeros((3, 2)), np.zeros(3)), TypeError, "say with .to_event"),
        (Nothing(ITEMS.slopes, ITEMS.intercepts), TypeError, "numpyro.distributions, an optional"),
        (Loose(ITEMS.slopes, ITEMS.intercepts), ValueError, "Use .to_event\\(1\\)"),
        (Joined(np.zeros(2)), ValueError, "distribution over the 3 columns"),
    ],
)
def test_models_that_cannot_be_fitted(model, kind, sentence, float64):
    with pytest.raises(kind, match=sentence):
        minorant.fit(model, np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]))


def test_no_encoder_for_what_is_summed(float64):
    with pytest.raises(ValueError, match="summed out exactly, which no encoder betters"):
        minorant.fit(CLASSES, np.ones((3, 2)), posterior="encoder")


def test_rows_that_cannot_be_described(float64):
    with pytest.raises(ValueError, match="'column 0' must be in the support of LogNormal"):
        minorant.fit(CLASSES, np.array([[-1.0, 1.0], [1.0, 2.0]]))
    rows = np.array([[0.3, 1.0], [1.0, np.nan], [0.2, 0.4]])
    with pytest.raises(ValueError, match="make the columns independent given z"):
        minorant.fit(Joined(np.zeros(2)), rows)
    fit = minorant.fit(Joined(np.zeros(2)), rows[[0, 2]])
    marginal = stats.multivariate_normal(np.full(2, 0.0), np.eye(2) + 1.0)
    at_zero = scored(Joined(np.zeros(2)), rows[[0, 2]]).log_evidence(rows[[0, 2]])
    np.testing.assert_allclose(at_zero, marginal.logpdf(rows[[0, 2]]), rtol=1e-9)
    np.testing.assert_allclose(fit.model.location, rows[[0, 2]].mean(0), atol=1e-3)
