"""A user's component: equal to closed forms, monotone, traced once, clear about what it lacks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_never_decreases, rounding, rows_of
from jaxtyping import Array

import minorant
from minorant.components import Blocks, Diagonal, Gaussian, Poisson
from minorant.solvers import EM, Anderson, Plain

TRACES = []


class Normal(minorant.Component):
    """Independent normal columns."""

    location: Array = minorant.real()
    scale: Array = minorant.positive()

    def log_prob(self, x):
        TRACES.append(x.shape)
        return jax.scipy.stats.norm.logpdf(x, self.location, self.scale).sum()

    def log_prob_observed(self, x, observed):
        cells = jax.scipy.stats.norm.logpdf(x, self.location, self.scale)
        return jnp.where(observed, cells, 0.0).sum()

    def sample(self, key):
        return self.location + self.scale * jax.random.normal(key, self.location.shape)


class Laplace(minorant.Component):
    """Independent Laplace columns: a kink at the location."""

    location: Array = minorant.real()
    scale: Array = minorant.positive()

    def log_prob(self, x):
        return -(jnp.abs(x - self.location) / self.scale + jnp.log(2.0 * self.scale)).sum()


class Wide(minorant.Component):
    """Two numbers for one row: not a log density."""

    location: Array = minorant.real()

    def log_prob(self, x):
        return x - self.location


def normal_table(n=250, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.integers(2, size=n)
    return rng.normal(size=(n, 2)) * np.where(z, 2.0, 1.0)[:, None] + 4.0 * z[:, None]


def start():
    return Normal(np.zeros(2), np.ones(2))


@pytest.fixture(scope="module")
def fits():
    data = normal_table()
    with jax.enable_x64(True):
        model = minorant.Mixture(start(), n_components=2)
        own = minorant.fit(model, data, solver=EM(Anderson(), tolerance=1e-9))
        builtin = minorant.fit(
            minorant.Mixture(Gaussian(Diagonal()), n_components=2), data, tolerance=1e-9
        )
    return data, own, builtin


@pytest.mark.slow
def test_a_users_normal_reaches_the_built_in_optimum(fits):
    data, fit, builtin = fits
    assert fit.outcome.ok
    assert abs(fit.bound - builtin.bound) < 1e-6 * len(data)
    assert fit.n_parameters == builtin.n_parameters
    assert_never_decreases(fit.trace.objective, rounding(fit.trace.objective, len(data), float))


def laplace_em(data, weights, location, scale, steps):
    """EM with weighted medians and mean absolute deviations: the closed M-step."""
    for _ in range(steps):
        log = -(
            np.abs(data[None] - location[:, None]) / scale[:, None] + np.log(2 * scale[:, None])
        )
        log = log.sum(2) + np.log(weights)[:, None]
        total = np.logaddexp.reduce(log, axis=0)
        r = np.exp(log - total)
        weights = r.mean(1)
        location = np.array([[weighted_median(x, w) for x in data.T] for w in r])
        away = np.abs(data[None] - location[:, None])
        scale = (r[:, :, None] * away).sum(1) / r.sum(1)[:, None]
    return total.sum()


def weighted_median(x, w):
    order = np.argsort(x)
    return x[order][np.searchsorted(np.cumsum(w[order]), 0.5 * w.sum())]


def test_a_kinked_density_climbs_to_the_closed_form():
    rng = np.random.default_rng(4)
    z = rng.integers(2, size=200)
    location = np.array([[0.0, 0.0], [6.0, -3.0]])
    data = rng.laplace(location[z], 1.0)
    with jax.enable_x64(True):
        begin = [Laplace(m, np.full(2, 2.0)) for m in location + 0.5]
        model = minorant.Mixture(minorant.stacked(begin), np.array([0.5, 0.5]), n_components=2)
        fit = minorant.fit(model, data, solver=EM(Plain()))
    assert_never_decreases(fit.trace.objective, rounding(fit.trace.objective, len(data), float))
    closed = laplace_em(data, np.full(2, 0.5), location + 0.5, np.full((2, 2), 2.0), 100)
    # At a kink the slope jumps by 1 / scale and the steps are about scale / n_k long: within
    # 1 / n_k nats of the top for each of the four locations the climb may stand still.
    assert -1e-6 < closed - fit.bound < 4 / 80


def test_a_step_from_far_away_is_shortened_not_failed():
    data = normal_table(100)
    with jax.enable_x64(True):
        begin = minorant.stacked([Normal(np.full(2, m), np.full(2, 50.0)) for m in (-30.0, 40.0)])
        model = minorant.Mixture(begin, np.array([0.5, 0.5]), n_components=2)
        fit = minorant.fit(model, data, solver=EM(Plain()))
    assert fit.outcome.ok
    assert fit.acceleration.refused > 0
    assert_never_decreases(fit.trace.objective, rounding(fit.trace.objective, len(data), float))


@pytest.mark.slow
def test_missing_cells_and_weights_and_parts():
    data = np.column_stack([normal_table(), np.random.default_rng(5).poisson(3.0, 250)])
    data[::4, 0] = np.nan
    weights = np.tile([1.0, 2.0], 125)
    with jax.enable_x64(True):
        bounds = []
        for part in (start(), Gaussian(Diagonal())):
            blocks = Blocks((part, Poisson()), ((0, 1), (2,)))
            model = minorant.Mixture(blocks, n_components=2)
            bounds.append(minorant.fit(model, data, weights=weights, tolerance=1e-9).bound)
    assert abs(bounds[0] - bounds[1]) < 1e-6 * weights.sum()


def test_traced_once_for_each_shape():
    with jax.enable_x64(True):
        c = minorant.stacked([Normal(np.zeros(7), np.ones(7))] * 2)
        rows = rows_of(np.random.default_rng(0).normal(size=(9, 7)), float)
        score = jax.jit(lambda c, rows: c.log_prob(rows, c.prepare()))
        sums = jax.jit(lambda c, rows: c.statistics(rows, jnp.full((2, 9), 0.5), c.prepare()))
        TRACES.clear()
        for _ in range(2):
            c = jax.jit(lambda c, s: c.maximise(s, None))(c, sums(c, rows))
            score(c, rows)
    assert TRACES == [(7,)]


def test_statistics_add_over_blocks_and_padding_adds_nothing():
    data = normal_table(12)
    with jax.enable_x64(True):
        c = minorant.stacked([start(), Normal(np.ones(2), np.full(2, 2.0))])
        r = np.random.default_rng(1).dirichlet([1, 1], size=12).T
        sums = jax.jit(lambda rows, r: c.statistics(rows, r, c.prepare()))
        whole = sums(rows_of(data, float, np.ones(12)), r)
        parts = []
        for index in (slice(0, 5), slice(5, 12)):
            padding = 12 - len(data[index])
            padded = np.concatenate([data[index], np.zeros((padding, 2))])
            weight = np.r_[np.ones(12 - padding), np.zeros(padding)]
            kept = np.concatenate([r[:, index], np.zeros((2, padding))], axis=1)
            parts.append(sums(rows_of(padded, float, weight), kept))
    for total, a, b in zip(whole, *parts, strict=True):
        np.testing.assert_allclose(total, a + b, rtol=1e-10, atol=1e-12)


def test_fixed_leaves_stay():
    data = normal_table(100)
    with jax.enable_x64(True):
        begin = minorant.stacked([start(), Normal(np.full(2, 4.0), np.full(2, 1.5))])
        model = minorant.Mixture(begin, np.array([0.5, 0.5]), n_components=2)
        fit = minorant.fit(model, data, fixed=lambda m: m.component.parameters.scale)
        builtin = Gaussian(Diagonal(), begin.parameters.location, begin.parameters.scale**2)
        model = minorant.Mixture(builtin, np.array([0.5, 0.5]), n_components=2)
        other = minorant.fit(model, data, fixed=lambda m: m.component.covariance)
    np.testing.assert_allclose(fit.model.component.parameters.scale, begin.parameters.scale)
    assert abs(fit.bound - other.bound) < 1e-6 * len(data)


def test_what_a_class_lacks_is_said():
    data = normal_table(20)
    data[3, 1] = np.nan
    laplace = Laplace(np.zeros(2), np.ones(2))
    with pytest.raises(ValueError, match="log_prob_observed"):
        minorant.fit(minorant.Mixture(laplace, n_components=2), data)
    with pytest.raises(ValueError, match="sample"):
        minorant.stacked([laplace]).sample(jax.random.key(0), np.zeros(2, int))
    with pytest.raises(ValueError, match="one number for one row"):
        minorant.fit(minorant.Mixture(Wide(np.zeros(2)), n_components=2), normal_table(20))
    model = minorant.Mixture(minorant.stacked([laplace] * 2), np.ones(3) / 3, n_components=3)
    with pytest.raises(ValueError, match="begin with 3"):
        minorant.fit(model, normal_table(20))
