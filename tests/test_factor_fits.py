"""Whole fits of factor models: closed forms, scikit-learn, a published table, bad input."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import truth_factor
from helpers import assert_never_decreases, rounding
from scipy import optimize
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as SklearnFactorAnalysis
from truth_factor import holed, simulated

import minorant
from minorant import plots
from minorant._types import Affine
from minorant.components import Gaussian
from minorant.models import PPCA, FactorAnalysis, factor_start
from minorant.plots._loadings import ordering, standardised


def dense(model):
    """The dense joint normal of factors and rows."""
    return truth_factor.joint(model.mean, model.loadings, model.noise_variance)


@pytest.fixture(scope="module")
def complete():
    """Complete rows, and a fit of two factors."""
    values = simulated(300, d=6)
    with jax.enable_x64(True):
        return values, minorant.fit(FactorAnalysis(2), values, tolerance=1e-11)


@pytest.fixture(scope="module")
def incomplete():
    """Rows with gaps, and a fit of one factor."""
    values = holed(simulated(80, d=4, l=1, seed=7))
    with jax.enable_x64(True):
        return values, minorant.fit(FactorAnalysis(1), values, tolerance=1e-12)


def test_complete_rows_end_where_scikit_learn_ends(complete, float64):
    values, fit = complete
    peer = SklearnFactorAnalysis(2, svd_method="lapack", tol=1e-12, max_iter=20_000).fit(values)
    assert fit.bound == pytest.approx(peer.score(values) * len(values), abs=1e-7)
    np.testing.assert_allclose(fit.model.covariance(), peer.get_covariance(), atol=1e-4)
    np.testing.assert_allclose(fit.log_evidence(values), peer.score_samples(values), atol=1e-4)
    scores = fit.posterior(values).mean
    turned = peer.transform(values)
    np.testing.assert_allclose(np.abs((scores * turned).sum(0)), (turned**2).sum(0), rtol=1e-3)
    assert fit.acceleration.steps <= 5  # the M-step is the maximum: nothing is left to iterate
    assert fit.outcome.ok
    assert fit.n_parameters == 6 + 6 + (12 - 1)


def test_complete_rows_have_the_closed_ppca(float64):
    values, n = simulated(200, d=5, seed=4), 200
    fit = minorant.fit(PPCA(2), values)
    eigen = np.linalg.eigvalsh(np.cov(values.T, bias=True))
    noise = eigen[:3].mean()
    assert float(fit.model.noise_variance) == pytest.approx(noise, rel=1e-10)
    log_determinant = np.log(eigen[3:]).sum() + 3 * np.log(noise)
    expected = -0.5 * n * (5 * np.log(2 * np.pi) + log_determinant + 5)
    assert fit.bound == pytest.approx(expected, rel=1e-12)
    peer = PCA(2).fit(values)  # its noise variance has divisor n - 1
    assert float(fit.model.noise_variance) == pytest.approx(peer.noise_variance_ * (n - 1) / n)
    axes = fit.model.loadings / np.linalg.norm(fit.model.loadings, axis=0)
    np.testing.assert_allclose(np.abs(axes.T @ peer.components_.T), np.eye(2), atol=1e-8)


@pytest.mark.parametrize(
    ("l", "uniquenesses", "chi_square"),
    [
        (1, truth_factor.ABILITY_UNIQUENESSES_ONE, truth_factor.ABILITY_CHI_SQUARE_ONE),
        (2, truth_factor.ABILITY_UNIQUENESSES, truth_factor.ABILITY_CHI_SQUARE),
    ],
)
def test_the_published_ability_solution(l, uniquenesses, chi_square, float64):
    n, covariance = truth_factor.ABILITY_ROWS, truth_factor.ABILITY
    rows = truth_factor.rows_with_moments(np.random.default_rng(0), n, np.zeros(6), covariance)
    fit = minorant.fit(FactorAnalysis(l), rows)
    np.testing.assert_array_equal(np.round(1 - fit.model.communalities(), 3), uniquenesses)
    found = truth_factor.chi_square(covariance, fit.model.covariance(), n, l)
    assert round(found, 2) == chi_square


def test_gaps_end_where_the_observed_likelihood_is_highest(incomplete, float64):
    values, fit = incomplete
    assert fit.bound == pytest.approx(
        truth_factor.log_likelihood(fit.model.mean, fit.model.covariance(), values), rel=1e-12
    )

    def negative(vector):
        mean, loadings, variance = vector[:4], vector[4:8, None], np.exp(vector[8:])
        covariance = loadings @ loadings.T + np.diag(variance)
        return -truth_factor.log_likelihood(mean, covariance, values)

    model = fit.model
    near = np.r_[model.mean, model.loadings[:, 0], np.log(model.noise_variance)]
    best = optimize.minimize(negative, near + 0.1, method="BFGS", options={"gtol": 1e-4})
    assert fit.bound == pytest.approx(-best.fun, abs=1e-6)
    np.testing.assert_allclose(fit.model.noise_variance, np.exp(best.x[8:]), rtol=1e-3)
    assert_never_decreases(fit.trace.bound, rounding(fit.trace.bound, 80, float64))


def test_ppca_with_gaps_ends_where_the_observed_likelihood_is_highest(float64):
    values = holed(simulated(60, d=4, l=1, seed=8))
    fit = minorant.fit(PPCA(1), values, tolerance=1e-12)

    def negative(vector):
        loadings = vector[4:8, None]
        covariance = loadings @ loadings.T + np.exp(vector[8]) * np.eye(4)
        return -truth_factor.log_likelihood(vector[:4], covariance, values)

    model = fit.model
    near = np.r_[model.mean, model.loadings[:, 0], np.log(model.noise_variance)]
    best = optimize.minimize(negative, near + 0.1, method="BFGS", options={"gtol": 1e-4})
    assert fit.bound == pytest.approx(-best.fun, abs=1e-6)


def test_missing_cells_are_filled_by_the_dense_conditional(incomplete, float64):
    values, fit = incomplete
    joint = dense(fit.model)
    expected = np.stack([truth_factor.conditional(joint, 1, x)[0][1:] for x in values])
    np.testing.assert_allclose(fit.impute(values), expected, atol=1e-8)
    draws = np.stack([fit.impute(values, draw=True, random_state=s) for s in range(200)])
    i, j = np.argwhere(np.isnan(values))[0]
    spread = truth_factor.conditional(joint, 1, values[i])[1][1 + j, 1 + j]
    away = draws[:, i, j].mean() - expected[i, j]
    assert abs(away) < 5 * np.sqrt(spread / 200)
    assert draws[:, i, j].var() == pytest.approx(spread, rel=5 * np.sqrt(2 / 200))
    assert np.array_equal(draws[0][~np.isnan(values)], values[~np.isnan(values)])


def test_integer_weights_are_copies(float64):
    values = holed(simulated(80, d=4, l=1))
    weight = np.random.default_rng(1).integers(0, 3, size=80).astype(float)
    one = minorant.fit(FactorAnalysis(1), values, weights=weight, tolerance=1e-12)
    copies = np.repeat(values, weight.astype(int), axis=0)
    two = minorant.fit(FactorAnalysis(1), copies, tolerance=1e-12)
    assert one.bound == pytest.approx(two.bound, rel=1e-9)
    np.testing.assert_allclose(one.model.loadings, two.model.loadings, atol=1e-4)


def test_a_change_of_units_changes_the_answer_by_the_units_alone(complete, float64):
    values, fit = complete
    rng = np.random.default_rng(2)
    units = Affine(rng.normal(size=6), np.exp(4 * rng.normal(size=6)))
    other = minorant.fit(FactorAnalysis(2), units.apply(values), tolerance=1e-11)
    assert other.bound - 300 * np.log(units.scale).sum() == pytest.approx(fit.bound, abs=1e-6)
    moved = fit.model.rescaled(units)
    np.testing.assert_allclose(other.model.loadings, moved.loadings, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(other.model.noise_variance, moved.noise_variance, rtol=1e-4)
    np.testing.assert_allclose(other.model.communalities(), fit.model.communalities(), atol=1e-5)


def test_sampled_rows_have_the_models_covariance(complete, float64):
    _, fit = complete
    latents, rows = fit.model.sample(jax.random.key(0), 40_000)
    expected = fit.model.covariance()
    found = np.cov(np.asarray(rows).T)
    variances = np.diag(expected)
    error = np.sqrt((np.outer(variances, variances) + expected**2) / 40_000)
    assert np.all(np.abs(found - expected) < 5 * error)
    assert np.abs(np.cov(np.asarray(latents).T) - np.eye(2)).max() < 0.05


def test_many_columns_are_climbed_by_steps_over_factors(monkeypatch, float64):
    values = simulated(150, d=5, l=1, seed=6)
    expected = minorant.fit(FactorAnalysis(1), values)
    monkeypatch.setattr(factor_start, "MOST_COLUMNS_BY_MOMENTS", 4)
    jax.clear_caches()  # the programs of the other way have the same shapes
    fit = minorant.fit(FactorAnalysis(1), values, tolerance=1e-10)
    jax.clear_caches()
    assert fit.acceleration.steps > 5
    assert fit.bound == pytest.approx(expected.bound, abs=1e-6)
    np.testing.assert_allclose(fit.model.loadings, expected.model.loadings, atol=1e-2)


def test_more_columns_than_rows_has_an_answer(float64):
    values = simulated(12, d=30, seed=2)
    fit = minorant.fit(FactorAnalysis(2), values)
    assert np.isfinite(fit.bound)
    assert fit.outcome.ok
    assert np.all(np.isfinite(fit.model.loadings))


def test_float32_rows_give_nearly_the_float64_answer(complete):
    values, fit = complete
    with jax.enable_x64(False):
        narrow = minorant.fit(FactorAnalysis(2), values.astype(np.float32))
    assert narrow.dtype == "float32"
    assert narrow.outcome.ok, narrow.outcome
    assert narrow.bound == pytest.approx(fit.bound, abs=1e-4 * len(values))


# --- bad input and degenerate answers ---------------------------------------------------------


def test_a_heywood_case_is_named(float64):
    values = simulated(100, d=6)
    values[:, 4] = values[:, 1] + 1e-7 * np.random.default_rng(0).normal(size=100)
    fit = minorant.fit(FactorAnalysis(2), values)
    said = " ".join(map(str, fit.degenerate))
    assert "Heywood case" in said
    assert "'column 1'" in said or "'column 4'" in said
    assert np.isfinite(fit.bound)


def test_a_constant_column_is_named(float64):
    values = simulated(100, d=6)
    values[:, 2] = 7.0
    fit = minorant.fit(FactorAnalysis(1), values)
    assert "'column 2' does not vary" in " ".join(map(str, fit.degenerate))
    np.testing.assert_allclose(fit.model.mean[2], 7.0)


def test_factors_beyond_the_ledermann_bound_are_named(float64):
    fit = minorant.fit(FactorAnalysis(3), simulated(100, d=4))
    assert "more than the Ledermann bound, 1" in " ".join(map(str, fit.degenerate))
    assert fit.outcome.ok


def test_more_factors_than_columns_are_refused(float64):
    with pytest.raises(ValueError, match=r"n_factors=5 is more than the 4 columns: give at most 1"):
        minorant.fit(FactorAnalysis(5), simulated(20, d=4))


@pytest.mark.parametrize("bad", [0, -1, 1.5, None])
def test_a_number_of_factors_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="n_factors must be an integer of at least 1"):
        FactorAnalysis(bad)


# --- the picture ------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", [None, "varimax", "oblimin"])
def test_the_picture_holds_loadings_and_communalities(complete, rotation):
    _, fit = complete
    matrix, shares = standardised(fit, rotation)
    np.testing.assert_allclose(shares.sum(1), fit.model.communalities(), atol=1e-6)
    above, bars = plots.loadings(fit, rotation)
    order = ordering(matrix)
    np.testing.assert_allclose(above.images[0].get_array(), matrix[order])
    assert [tick.get_text() for tick in above.get_yticklabels()] == [fit.names[j] for j in order]
    widths = np.array([bar.get_width() for bar in bars.patches]).reshape(shares.shape[1], -1).T
    np.testing.assert_allclose(widths, shares[order])
    assert f"{fit.model.communalities().mean():.0%}" in bars.get_title(loc="left")
    strongest = np.abs(matrix[order]).argmax(1)
    assert np.all(np.diff(strongest) >= 0)


def test_other_models_have_no_loadings_to_draw():
    fit = minorant.fit(minorant.Mixture(Gaussian(), n_components=1), np.arange(9.0)[:, None])
    with pytest.raises(TypeError, match="loadings draws factor models.*got Mixture"):
        plots.loadings(fit)
