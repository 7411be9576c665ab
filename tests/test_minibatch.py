"""Bounds on batches of rows: unbiased by enumeration, and row by row the bounds of one member."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from jaxtyping import Array
from scipy import integrate, stats
from scipy.special import logsumexp

import minorant
from minorant import bounds
from minorant._types import Rows
from minorant.bounds import AbstractBound, Elbo, ImportanceWeighted, Renyi
from minorant.posteriors.amortised import Network
from minorant.posteriors.in_rows import FiniteInRows, GaussianInRows
from minorant.posteriors.members import FullRank
from minorant.solvers.minibatch import RowBound

dist = pytest.importorskip("numpyro.distributions")


class Rates(minorant.Model):
    level: Array
    slope: Array = minorant.positive()

    def prior(self):
        return dist.Normal(jnp.zeros(1), 1.0).to_event(1)

    def likelihood(self, z):
        return dist.Poisson(jnp.exp(self.level + self.slope * z[0])).to_event(1)

    def log_prior(self):
        return -0.5 * self.level[0] ** 2


class AtTheMean(AbstractBound):
    """The log ratio at the mean of q: no noise, so that only the choice of rows is random."""

    @property
    def draws(self):
        return 1

    def of_draws(self, log_density, q, noise):
        latents, log_q = q.transform(0.0 * noise)
        return (log_density(latents) - log_q)[0]

    def sentence(self):
        return "log ratio"


COUNTS = np.array([[0.0, 2.0], [3.0, 1.0], [7.0, 5.0], [1.0, 0.0]])
WEIGHTS = np.array([1.0, 2.0, 0.5, 1.5])


def encoded(bound):
    """The model with an encoder that is neither fitted nor trivial."""
    rng = np.random.default_rng(3)
    network = Network(
        shift=np.array([2.0, 2.0]),
        scale=np.array([2.0, 2.0]),
        weights=(0.3 * rng.normal(size=(2, 3)), 0.3 * rng.normal(size=(3, 2))),
        offsets=(np.zeros(3), np.array([0.0, -0.7])),
        linear=np.full((2, 1), 0.4),
        gaps=False,
    )
    encoder = minorant.Encoder(network=network, bound=bound)
    return Rates(np.array([0.5, 0.3]), np.array(0.8)).bounded(encoder)


def objective(bound, batch, draws):
    cumulative = np.cumsum(WEIGHTS) / WEIGHTS.sum()
    rows = Rows(COUNTS, np.ones(4))
    total = np.asarray(WEIGHTS.sum())
    return RowBound(encoded(bound), rows, cumulative, total, None, bound, batch, draws)


def test_the_gradient_on_a_batch_is_unbiased(float64):
    """Every batch of two rows, with its chance: the overlap of rows and strata."""
    small = objective(AtTheMean(), 2, 1)
    key, edges = jax.random.key(0), np.r_[0.0, np.cumsum(WEIGHTS) / 5.0]
    strata = np.array([0.0, 0.5, 1.0])
    value_and_gradient = quick_jit(
        lambda point, index: jax.value_and_grad(
            lambda p: small.of_rows(p, small.taken(index), jnp.full(2, 0.5), key)
        )(point)
    )
    point = jax.tree.map(np.asarray, quick_jit(lambda: small.start())())
    index_of = quick_jit(lambda places: small.index(places))
    expected, total = None, 0.0
    for batch in itertools.product(range(4), repeat=2):
        overlap = [
            max(0.0, min(edges[row + 1], strata[b + 1]) - max(edges[row], strata[b]))
            for b, row in enumerate(batch)
        ]
        chance = float(np.prod(overlap)) * 4.0
        if chance == 0.0:
            continue
        inside = [
            max(edges[r], strata[b]) + 0.5 * o
            for b, (r, o) in enumerate(zip(batch, overlap, strict=True))
        ]
        places = 2.0 * (np.array(inside) - strata[:2])
        np.testing.assert_array_equal(index_of(places), batch)
        found = jax.device_get(value_and_gradient(point, np.array(batch)))
        part = jax.tree.map(lambda leaf, share=chance: share * leaf, found)
        expected = part if expected is None else jax.tree.map(np.add, expected, part)
        total += chance
    assert total == pytest.approx(1.0)
    whole = dataclasses.replace(small, batch=4)
    exact = quick_jit(lambda p: jax.value_and_grad(lambda p: whole(p, key))(p))(point)
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)

    def ratios():
        q = whole.template.in_rows(whole.rows)
        joint = whole.template.log_joint_of(whole.rows)
        return joint(q.mean[None])[0] - q.log_density(q.mean[None])[0]

    np.testing.assert_allclose(exact[0], (WEIGHTS @ quick_jit(ratios)() - 0.125) / 5.0, rtol=1e-12)


@pytest.mark.parametrize("batch", [2, 4])
def test_what_rows_are_worth_multiplies_their_bound_and_not_the_prior(batch, float64):
    whole = objective(AtTheMean(), batch, 1)
    half = dataclasses.replace(whole, cumulative=0.5 * whole.cumulative)
    point = jax.tree.map(np.asarray, quick_jit(lambda: whole.start())())
    found = quick_jit(lambda p: [one(p, jax.random.key(3)) for one in (whole, half)])(point)
    prior = -0.125 / 5.0
    assert float(found[1]) - prior == pytest.approx(0.5 * (float(found[0]) - prior), rel=1e-12)


def members(mean, factor):
    return [FullRank(m, f) for m, f in zip(mean, factor, strict=True)]


def log_density(z):
    """Of both rows alike: a skewed density in two dimensions."""
    return -jnp.exp(z[..., 0]) + z[..., 0] - 0.5 * (z[..., 1] - z[..., 0] ** 2) ** 2


@pytest.mark.parametrize(
    "bound", [Elbo(), ImportanceWeighted(4), Renyi(0.3, 4)], ids=lambda one: type(one).__name__
)
def test_row_by_row_it_is_the_bound_of_one_member(bound, float64):
    """Values and gradients of two rows, against the functions that are told of a single q."""
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(2, 2))
    factor = np.tril(rng.normal(size=(2, 2, 2)), -1) + np.diag([0.8, 0.5])
    noise = rng.normal(size=(8, 2, 2))

    def in_rows(parameters):
        return bound.of_draws(log_density, GaussianInRows(*parameters), noise).sum()

    def one_by_one(parameters):
        single = {
            Elbo: lambda q, e: bounds.path_elbo(log_density, q, e),
            ImportanceWeighted: lambda q, e: bounds.doubly_reparametrised(log_density, q, e, 4),
            Renyi: lambda q, e: bounds.renyi(log_density, q, e, 4, 0.3),
        }[type(bound)]
        return sum(single(q, noise[:, i]) for i, q in enumerate(members(*parameters)))

    parameters = (mean, factor)
    value, (by_mean, by_factor) = quick_jit(jax.value_and_grad(in_rows))(parameters)
    expected, (to_mean, to_factor) = quick_jit(jax.value_and_grad(one_by_one))(parameters)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(by_mean, to_mean, rtol=1e-9)
    np.testing.assert_allclose(np.tril(by_factor), np.tril(to_factor), rtol=1e-9)


def test_more_draws_never_loosen_and_none_passes_the_evidence(float64):
    """Against NumPy's bounds of the same draws, and SciPy's integral over the latent."""
    model, rows = encoded(Elbo()), Rows(COUNTS, np.ones(4))
    tried = [Elbo(), Renyi(0.5, 4), ImportanceWeighted(4), ImportanceWeighted(32)]

    @quick_jit
    def weighed():
        q, joint = model.in_rows(rows), model.log_joint_of(rows)
        noise = q.noise(jax.random.key(0), 3200)
        latents, log_q = q.transform(noise)
        return joint(latents) - log_q, [bound.of_draws(joint, q, noise) for bound in tried]

    weights, found = jax.device_get(weighed())
    by_hand = [
        weights.mean(0),
        2.0 * (logsumexp(0.5 * weights.reshape(-1, 4, 4), axis=1) - np.log(4)).mean(0),
        (logsumexp(weights.reshape(-1, 4, 4), axis=1) - np.log(4)).mean(0),
        (logsumexp(weights.reshape(-1, 32, 4), axis=1) - np.log(32)).mean(0),
    ]
    np.testing.assert_allclose(found, by_hand, rtol=1e-10)
    assert np.all(np.diff(found, axis=0) > 0)  # of the same draws, so without noise

    def density(z, row):
        rate = np.exp(model.level + model.slope * z)
        return np.exp(stats.poisson.logpmf(row, rate).sum() + stats.norm.logpdf(z))

    exact = [np.log(integrate.quad(density, -8, 8, args=(row,))[0]) for row in COUNTS]
    spread = (logsumexp(weights.reshape(-1, 32, 4), axis=1) - np.log(32)).std(0) / 10.0
    assert np.all(found[-1] < exact + 4 * spread)
    assert np.all(exact - found[-1] < 0.2)


def test_finite_coordinates_are_drawn_with_their_probability(float64):
    probability = np.array([[[0.2, 0.8], [0.5, 0.5]], [[0.9, 0.1], [0.3, 0.7]]])
    q = FiniteInRows(np.log(probability), np.array([0, 1]))
    drawn = quick_jit(lambda: q.transform(q.noise(jax.random.key(0), 4000)))
    draws, log_q = jax.device_get(drawn())
    error = np.sqrt(probability[..., 1] * probability[..., 0] / 4000)
    assert np.all(np.abs(draws.mean(0) - probability[..., 1]) < 4.5 * error)
    by_hand = np.where(draws == 1, probability[..., 1], probability[..., 0]).prod(-1)
    np.testing.assert_allclose(np.exp(log_q), by_hand, rtol=1e-12)
