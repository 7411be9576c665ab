"""Vectors of finite latents: enumerated where few, bounded by an encoder where many."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from scipy import stats
from scipy.special import expit, logsumexp

import minorant
from minorant.posteriors import Product
from minorant.solvers import Ascent

dist = pytest.importorskip("numpyro.distributions")


class Causes(minorant.Model):
    """Independent causes behind yes-or-no columns."""

    weights: Array
    offset: Array
    chance: Array = minorant.unit_interval()

    def prior(self):
        return dist.Bernoulli(self.chance).to_event(1)

    def likelihood(self, z):
        return dist.Bernoulli(logits=z @ self.weights + self.offset).to_event(1)


class Grades(minorant.Model):
    """Two latents with three levels each behind normal columns."""

    level: Array
    share: Array = minorant.simplex()

    def prior(self):
        return dist.Categorical(probs=self.share).to_event(1)

    def likelihood(self, z):
        return dist.Normal(self.level[0, z[0]] + self.level[1, z[1]], 0.5).to_event(1)


RNG = np.random.default_rng(0)
CAUSES = Causes(2.5 * RNG.normal(size=(3, 6)), -np.ones(6), np.array([0.4, 0.5, 0.2]))
GRADES = Grades(RNG.normal(size=(2, 3, 2)), np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]))


def yes_or_no(n=120):
    causes = RNG.random((n, 3)) < CAUSES.chance
    rows = (RNG.random((n, 6)) < expit(causes @ CAUSES.weights + CAUSES.offset)).astype(float)
    rows[RNG.random(rows.shape) < 0.05] = np.nan
    rows[np.isnan(rows).all(1), 0] = 1.0
    return rows


ROWS = yes_or_no()


def scores_of_causes(model, rows):
    """``log p(x, z)`` by hand: (n, 8) and the states in order."""
    states = np.array(list(itertools.product([0, 1], repeat=3)))
    prior = stats.bernoulli.logpmf(states, model.chance).sum(1)
    chance = expit(states @ model.weights + model.offset)
    seen = np.nan_to_num(rows)[:, None]
    cells = np.where(np.isnan(rows)[:, None], 0.0, stats.bernoulli.logpmf(seen, chance))
    return prior + cells.sum(-1), states


def at(model, fit):
    return fit._replace(model=model, standardised=model)


@pytest.fixture(scope="module")
def summed():
    with jax.enable_x64(True):
        yield minorant.fit(CAUSES, ROWS, max_steps=30)


def test_a_vector_of_few_states_is_summed_out(summed, float64):
    """Against enumeration by hand, missing cells included, at parameters that are known."""
    fit = at(CAUSES, summed)
    scores, states = scores_of_causes(CAUSES, ROWS)
    np.testing.assert_allclose(fit.log_evidence(ROWS), logsumexp(scores, axis=1), rtol=1e-10)
    chance = np.exp(scores - logsumexp(scores, axis=1, keepdims=True))
    np.testing.assert_allclose(fit.posterior(ROWS).probability.T, chance, atol=1e-12)
    np.testing.assert_array_equal(CAUSES.states(), states)
    assert summed.bound > fit.log_evidence(ROWS).sum()
    assert "summed out exactly" in summed.explanation
    assert summed.evidence(ROWS).gap == 0.0


def test_levels_and_many_states_are_visited_alike(float64, monkeypatch):
    """Categories; and one state at a time, as where there are hundreds, gives the same."""
    rows = RNG.normal(size=(7, 2))
    fit = at(GRADES, minorant.fit(GRADES, rows, max_steps=1))
    scores = [
        np.log(GRADES.share[0, a] * GRADES.share[1, b])
        + stats.norm(GRADES.level[0, a] + GRADES.level[1, b], 0.5).logpdf(rows).sum(1)
        for a, b in itertools.product(range(3), repeat=2)
    ]
    np.testing.assert_allclose(fit.log_evidence(rows), logsumexp(scores, axis=0), rtol=1e-10)
    monkeypatch.setattr("minorant.models._latents._AT_ONCE", 2)
    one_by_one = jax.jit(lambda model, rows: model.log_evidence(rows, None))
    found = one_by_one(GRADES, minorant._types.Rows(rows, np.ones(7)))
    np.testing.assert_allclose(found, logsumexp(scores, axis=0), rtol=1e-10)


@pytest.fixture(scope="module")
def encoded():
    with jax.enable_x64(True):
        encoder = minorant.Encoder(width=16, depth=1)
        yield minorant.fit(CAUSES, ROWS, posterior=encoder, solver=Ascent(accuracy=1e-3))


def test_an_encoder_bounds_what_jumps(encoded, summed, float64):
    """Against enumeration at the parameters that it found."""
    exact = logsumexp(scores_of_causes(encoded.model, ROWS)[0], axis=1)
    evidence = encoded.evidence(ROWS)
    assert encoded.outcome.ok
    assert evidence.lower < exact.sum() + 4 * evidence.standard_error
    assert abs(evidence.estimate - exact.sum()) < 4 * evidence.standard_error + 0.01
    assert exact.sum() - evidence.lower < 0.1 * len(ROWS)
    assert summed.bound > exact.sum() > summed.bound - 0.2 * len(ROWS)
    assert evidence.split is None


def test_its_q_is_near_the_marginals(encoded, float64):
    scores, states = scores_of_causes(encoded.model, ROWS)
    chance = np.exp(scores - logsumexp(scores, axis=1, keepdims=True))
    q = encoded.posterior(ROWS)
    assert isinstance(q, Product)
    assert np.abs(q.mean - chance @ states).mean() < 0.08
    np.testing.assert_allclose(q.probability.sum(-1), 1.0)
    with pytest.raises(TypeError, match="refine= is for continuous latents"):
        encoded.posterior(ROWS, refine=True)
    with pytest.raises(TypeError, match="upper= is for continuous latents"):
        encoded.evidence(ROWS, upper=True)


def test_what_is_said_where_states_are_too_many(float64):
    wide = Causes(np.zeros((13, 6)), np.zeros(6), np.full(13, 0.5))
    with pytest.raises(TypeError, match=r'takes 8192. Give minorant.fit posterior="encoder"'):
        minorant.fit(wide, ROWS)
    bound = minorant.bounds.ImportanceWeighted(4)
    with pytest.raises(TypeError, match="needs a latent that is continuous"):
        minorant.fit(CAUSES, ROWS, posterior="encoder", bound=bound)
    with pytest.raises(TypeError, match="finitely many values"):
        wide.states()
    assert jnp.shape(wide.chance) == (13,)
