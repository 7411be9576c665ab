"""The factor analyser as a component: the mixture of factor analysers."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import truth
import truth_factor
from helpers import assert_never_decreases, quick_jit, rounding, rows_of

import minorant
from minorant import Mixture
from minorant.components import Diagonal, FactorAnalyser, Gaussian, Spherical
from minorant.components import factor_analyser as module
from minorant.models import PPCA, FactorAnalysis
from minorant.result import Outcome


def groups(n=240, d=6, l=1, k=2, seed=0):
    """Rows of k groups, each with its own factors, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(k), n // k)
    loadings = rng.normal(size=(k, d, l))
    centres = 2.5 * rng.normal(size=(k, d))
    factors = np.einsum("ndl,nl->nd", loadings[labels], rng.normal(size=(n, l)))
    return centres[labels] + factors + 0.5 * rng.normal(size=(n, d)), labels


def component(noise, k=3, d=4, l=2, seed=0):
    """A component with all parameters."""
    rng = np.random.default_rng(seed)
    variance = rng.uniform(0.3, 1.0, (k, d) if isinstance(noise, Diagonal) else k)
    mean, loadings = rng.normal(size=(k, d)), rng.normal(size=(k, d, l))
    return FactorAnalyser(l, noise, mean, loadings, variance, np.full(d, 1e-6))


@quick_jit
def answers(part, rows, labels, key):
    """Densities, conditional means and draws."""
    prepared = part.prepare()
    return (
        part.log_prob(rows, prepared),
        part.conditional_mean(rows, prepared),
        part.conditional_sample(key, rows, labels, prepared),
    )


@pytest.mark.parametrize("noise", [Diagonal(), Spherical()])
def test_densities_and_conditionals_are_the_dense_normals(noise, float64):
    part = component(noise)
    values = truth_factor.patterns(np.random.default_rng(1).normal(size=4))
    labels = np.arange(len(values)) % 3
    found = answers(part, rows_of(values, float64), labels, jax.random.key(0))
    for j in range(3):
        matrix = truth_factor.covariance_of(part, j)
        for i, x in enumerate(values):
            expected = truth.normal_log_density(x, part.mean[j], matrix)
            assert float(found[0][j, i]) == pytest.approx(expected, abs=1e-10)
            filled, _ = truth.conditional_normal(x, part.mean[j], matrix)
            np.testing.assert_allclose(found[1][j, i], filled, atol=1e-10)
    seen = ~np.isnan(values)
    np.testing.assert_array_equal(np.asarray(found[2])[seen], values[seen])


def test_draws_of_missing_cells_have_the_dense_conditionals_moments(float64):
    part, n = component(Diagonal()), 8000
    x = np.array([0.5, np.nan, -1.0, np.nan])
    rows = rows_of(np.tile(x, (n, 1)), float64)
    drawn = np.asarray(answers(part, rows, np.ones(n, int), jax.random.key(1))[2])[:, [1, 3]]
    filled, spread = truth.conditional_normal(x, part.mean[1], truth_factor.covariance_of(part, 1))
    spread = spread[np.ix_([1, 3], [1, 3])]
    error = np.sqrt(np.diag(spread) / n)
    assert np.all(np.abs(drawn.mean(0) - filled[[1, 3]]) < 5 * error)
    scale = np.sqrt(np.outer(np.diag(spread), np.diag(spread)))
    assert np.all(np.abs(np.cov(drawn.T) - spread) < 5 * np.sqrt(2 / n) * scale)


@quick_jit
def stepped(model, rows, fixed):
    """The bound, and the step with something fixed."""
    found = model.expectation(rows, model.prepare())
    return found.bound, model.maximise(found.statistics, fixed)


@pytest.mark.parametrize("noise", [Diagonal(), Spherical()])
@pytest.mark.parametrize("held", ["mean", "loadings", "noise_variance"])
def test_what_is_fixed_stays_and_the_rest_climbs(noise, held, float64):
    part = component(noise)
    model = at = Mixture(part, np.array([0.2, 0.3, 0.5]), n_components=3)
    values = truth_factor.holed(truth_factor.simulated(40, seed=9))
    flags = {name: np.zeros(3, bool) for name in ("mean", "loadings", "noise_variance")}
    flags[held] = np.array([True, False, True])
    own = FactorAnalyser(2, noise, **flags, floor=np.zeros(4, bool))
    fixed = Mixture(own, np.asarray(False), n_components=3)
    climb, rows = [], rows_of(values, float64)
    for _ in range(4):
        bound, after = stepped(at, rows, fixed)
        climb.append(float(bound))
        at = after
    assert_never_decreases(climb, rounding(climb, 40, float64))
    assert climb[-1] > climb[0] + 1.0
    before, now = (np.asarray(getattr(m.component, held)) for m in (model, at))
    np.testing.assert_array_equal(now[[0, 2]], before[[0, 2]])
    assert np.abs(now[1] - before[1]).max() > 1e-3


@pytest.mark.parametrize("sketch", [True, False])
def test_parts_start_at_their_means_and_leading_directions(sketch, monkeypatch, float64):
    if sketch:
        monkeypatch.setattr(module, "_SPARE", 0)  # fewer directions than columns
    values, labels = groups(n=400, d=8)
    chances = (labels == np.arange(2)[:, None]).astype(float)
    part = FactorAnalyser(1, floor=np.full(8, 1e-6))
    begun = quick_jit(lambda part: part.maximise(part.statistics(rows, chances, None), None))
    rows = rows_of(values, float64)
    found = begun(part)
    for j in range(2):
        own = values[labels == j]
        np.testing.assert_allclose(found.mean[j], own.mean(0), atol=1e-10)
        vectors = np.linalg.eigh(np.cov(own.T, bias=True))[1]
        direction = np.asarray(found.loadings[j, :, 0])
        cosine = abs(direction @ vectors[:, -1]) / np.linalg.norm(direction)
        assert cosine > (0.9 if sketch else 0.99)
        total = (np.asarray(found.loadings[j]) ** 2).sum(1) + np.asarray(found.noise_variance[j])
        np.testing.assert_allclose(total, own.var(0), rtol=0.06)


@pytest.mark.parametrize(("noise", "model"), [(Diagonal(), FactorAnalysis), (Spherical(), PPCA)])
def test_one_component_is_factor_analysis(noise, model, float64):
    values = truth_factor.simulated(150, d=5, l=1)
    alone = minorant.fit(model(1), values)
    mixture = Mixture(FactorAnalyser(1, noise), n_components=1)
    fit = minorant.fit(mixture, values, tolerance=1e-10, starts=minorant.Starts(n=1, n_climbed=1))
    assert fit.bound == pytest.approx(alone.bound, abs=1e-5)
    turned = fit.model.component.canonical()
    np.testing.assert_allclose(turned.loadings[0], alone.model.loadings, atol=1e-2)
    assert fit.n_parameters == alone.n_parameters


@pytest.fixture(scope="module")
def mixed():
    """Rows of two groups with gaps, their labels, and a fit."""
    values, labels = groups()
    holed = truth_factor.holed(values, 0.1)
    with jax.enable_x64(True):
        model = Mixture(FactorAnalyser(1), n_components=2)
        return holed, labels, minorant.fit(model, holed, starts=minorant.Starts(n=4))


def test_a_mixture_finds_its_groups_through_gaps(mixed, float64):
    values, labels, fit = mixed
    found = fit.labels(values)
    assert max((found == labels).mean(), (found != labels).mean()) > 0.95
    expected = truth.log_evidence(truth.log_joint(fit.model, values, truth_factor.log_prob)).sum()
    assert fit.bound == pytest.approx(expected, rel=1e-10)
    assert_never_decreases(fit.trace.bound, rounding(fit.trace.bound, len(values), float64))
    assert fit.n_parameters == 1 + 2 * (6 + 6 + 6)


def test_sampled_rows_have_the_components_covariances(mixed, float64):
    _, _, fit = mixed
    rows, labels = fit.sample(20_000)
    for j in range(2):
        own, expected = rows[labels == j], truth_factor.covariance_of(fit.model.component, j)
        variances = np.diag(expected)
        error = np.sqrt((np.outer(variances, variances) + expected**2) / len(own))
        assert np.all(np.abs(np.cov(own.T) - expected) < 5 * error)


@pytest.mark.slow
def test_hundreds_of_columns_are_no_matter(float64):
    values, labels = groups(n=300, d=300, l=2)
    model = Mixture(FactorAnalyser(2), n_components=2)
    fit = minorant.fit(model, values, starts=minorant.Starts(n=2, n_climbed=1))
    assert fit.outcome.ok
    found = fit.labels(values)
    assert max((found == labels).mean(), (found != labels).mean()) == 1.0
    without_factors = minorant.fit(
        Mixture(Gaussian(Diagonal()), n_components=2), values, starts=minorant.Starts(n=2)
    )
    assert fit.bound > without_factors.bound + 1000.0


def test_a_component_on_few_rows_is_named(float64):
    values = np.concatenate(
        [groups(n=80)[0], np.tile([40.0, 41.0, 42.0, 43.0, 44.0, 45.0], (3, 1))]
    )
    model = Mixture(FactorAnalyser(1), n_components=2)
    labels = np.r_[np.zeros(80, int), np.ones(3, int)]
    fit = minorant.fit(model, values, labels=labels, starts=minorant.Starts(n=1))
    assert np.isfinite(fit.bound)
    assert fit.outcome is Outcome.DEGENERATE
    assert "floor" in str(fit.degenerate[0])


def test_directions_on_the_floor_are_those_no_factor_spans():
    part = component(Diagonal(), k=2)
    assert np.all(part.collapsed() == 0)
    variance = np.array(part.noise_variance)
    variance[0, :3] = 1e-6  # three columns on the floor, two factors through them: one is left
    low = FactorAnalyser(2, Diagonal(), part.mean, part.loadings, variance, part.floor)
    np.testing.assert_array_equal(low.collapsed(), [1.0, 0.0])


def test_the_canonical_rotation_is_the_same_density(float64):
    part = component(Diagonal())
    turned = part.canonical()
    for j in range(3):
        dense = truth_factor.covariance_of(part, j)
        np.testing.assert_allclose(truth_factor.covariance_of(turned, j), dense, atol=1e-12)
        inner = turned.loadings[j].T / turned.noise_variance[j] @ turned.loadings[j]
        np.testing.assert_allclose(inner[0, 1], 0.0, atol=1e-12)
        assert inner[0, 0] > inner[1, 1]
        assert np.all(turned.loadings[j].sum(0) > 0)


def test_as_many_factors_as_columns_are_refused(float64):
    with pytest.raises(ValueError, match="n_factors=6 must be below the number of columns, 6"):
        minorant.fit(Mixture(FactorAnalyser(6), n_components=2), groups()[0])
    with pytest.raises(ValueError, match="n_factors must be an integer of at least 1; got 0"):
        FactorAnalyser(0)
