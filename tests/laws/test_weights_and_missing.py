"""Laws of weights and gaps: an integer weight is that many copies; a gap is integrated out."""

from __future__ import annotations

import numpy as np
import pytest
import truth
from cases import MODELS, VIEWS
from helpers import N, assert_trees_close, examine, rows_of, scene, tolerance, with_gaps
from scipy import optimize

import minorant
from minorant._types import Affine
from minorant.components import Gaussian
from minorant.components.priors import InverseWishart


def copies_and_weights(values, seed=3):
    """Rows with weights 0 to 3, and the same rows copied, with filling of weight 0 up to N."""
    weight = np.random.default_rng(seed).integers(0, 4, size=len(values)).astype(float)
    weight[np.cumsum(weight) > N] = 0.0
    copies = np.repeat(values, weight.astype(int), axis=0)
    filling = N - len(copies)
    ones = np.r_[np.ones(len(copies)), np.zeros(filling)]
    return weight, np.concatenate([copies, values[:filling]]), ones


@pytest.mark.parametrize(("name", "missing"), VIEWS)
def test_an_integer_weight_is_that_many_copies(name, missing, dtype):
    case = MODELS[name]
    shown = scene(case, missing=missing)
    weight, copies, ones = copies_and_weights(shown.values)
    if missing and not np.isnan(copies).any():
        pytest.fail("the copies lost their gaps")
    model = shown.cast(dtype)
    weighted = examine(model, rows_of(shown.values, dtype, weight))
    copied = examine(model, rows_of(copies, dtype, ones))
    assert_trees_close(weighted.bound, copied.bound, tolerance(dtype))
    assert_trees_close(weighted.objective, copied.objective, tolerance(dtype))
    assert_trees_close(weighted.statistics, copied.statistics, tolerance(dtype))
    assert_trees_close(weighted.stepped, copied.stepped, 10 * tolerance(dtype))


@pytest.mark.parametrize("name", MODELS)
def test_a_row_of_weight_zero_may_hold_anything(name, dtype):
    shown = scene(MODELS[name])
    weight = np.r_[np.ones(N - 5), np.zeros(5)]
    other = shown.values.copy()
    other[-5:] = shown.values[:5]
    model = shown.cast(dtype)
    one = examine(model, rows_of(shown.values, dtype, weight))
    two = examine(model, rows_of(other, dtype, weight))
    assert_trees_close(one.statistics, two.statistics, tolerance(dtype))
    assert float(one.bound) == pytest.approx(float(two.bound), rel=tolerance(dtype))


def two_groups(n=90, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [3.5, 1.0]])
    return centres[rng.integers(2, size=n)] + rng.normal(size=(n, 2))


@pytest.mark.parametrize("prior", [None, InverseWishart()])
def test_a_fit_with_integer_weights_is_the_fit_of_the_copies(prior, float64):
    values = two_groups()
    weight = np.random.default_rng(1).integers(0, 4, size=len(values)).astype(float)
    model = minorant.Mixture(Gaussian(prior=prior), n_components=2)
    one = minorant.fit(model, values, weights=weight, tolerance=1e-11, random_state=4)
    copies = np.repeat(values, weight.astype(int), axis=0)
    two = minorant.fit(model, copies, tolerance=1e-11, random_state=4)
    assert one.n_rows == two.n_rows == weight.sum()
    for field in ("bound", "objective", "bic", "aic"):
        assert getattr(one, field) == pytest.approx(getattr(two, field), abs=1e-7 * len(copies))
    assert one.n_parameters == two.n_parameters
    order = [np.argsort(fit.model.component.mean[:, 0]) for fit in (one, two)]
    for leaf in ("mean", "covariance"):
        first, second = (
            getattr(fit.model.component, leaf)[index]
            for fit, index in zip((one, two), order, strict=True)
        )
        np.testing.assert_allclose(first, second, atol=1e-4)


def test_the_first_step_from_given_parameters_is_the_same_to_the_last_digits(float64):
    values = two_groups()
    weight = np.random.default_rng(1).integers(0, 4, size=len(values)).astype(float)
    start = minorant.Mixture(
        Gaussian(mean=np.array([[0.0, 1.0], [2.0, 0.0]]), covariance=np.stack([np.eye(2)] * 2)),
        np.array([0.4, 0.6]),
        n_components=2,
    )
    fits = [
        minorant.fit(start, rows, weights=w, max_steps=2)
        for rows, w in ((values, weight), (np.repeat(values, weight.astype(int), axis=0), None))
    ]
    np.testing.assert_allclose(fits[0].trace.bound, fits[1].trace.bound, rtol=1e-12)
    expected = truth.log_joint(start, values, gaussian_log_prob)
    first = (weight * truth.log_evidence(expected)).sum()
    assert fits[0].trace.bound[0] == pytest.approx(first, rel=1e-12)


def gaussian_log_prob(component, j, x):
    return truth.normal_log_density(x, component.mean[j], component.covariance[j])


# --- gaps -------------------------------------------------------------------------------------


def unpacked(vector, d):
    """Mean and covariance from a mean and a log-Cholesky factor."""
    factor = np.zeros((d, d))
    factor[np.tril_indices(d)] = vector[d:]
    np.fill_diagonal(factor, np.exp(np.diag(factor)))
    return vector[:d], factor @ factor.T


def test_one_normal_with_gaps_reaches_the_optimum_of_the_observed_likelihood(float64):
    rng = np.random.default_rng(2)
    root = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.5, 0.5, 0.7]])
    complete = rng.normal(size=(40, 3)) @ root.T + np.array([1.0, -2.0, 0.5])
    values = with_gaps(rng, complete)
    fit = minorant.fit(minorant.Mixture(Gaussian(), n_components=1), values, tolerance=1e-12)

    def negative(vector):
        mean, covariance = unpacked(vector, 3)
        return -sum(truth.normal_log_density(x, mean, covariance) for x in values)

    start = np.r_[np.nanmean(values, axis=0), np.zeros(6)]
    best = optimize.minimize(negative, start, method="BFGS", options={"gtol": 1e-5})
    mean, covariance = unpacked(best.x, 3)
    assert fit.bound == pytest.approx(-best.fun, abs=1e-6)
    np.testing.assert_allclose(fit.model.component.mean[0], mean, atol=1e-4)
    np.testing.assert_allclose(fit.model.component.covariance[0], covariance, atol=1e-4)


def test_a_mixture_with_gaps_ends_where_the_observed_likelihood_is_level(float64):
    values = with_gaps(np.random.default_rng(5), two_groups(60), share=0.2)
    model = minorant.Mixture(Gaussian(), n_components=2)
    fit = minorant.fit(model, values, tolerance=1e-12)
    expected = truth.log_evidence(truth.log_joint(fit.model, values, gaussian_log_prob)).sum()
    assert fit.bound == pytest.approx(expected, rel=1e-10)

    def total(means):
        moved = fit.model.__class__(
            Gaussian(mean=means.reshape(2, 2), covariance=fit.model.component.covariance),
            fit.model.weights,
            n_components=2,
        )
        return truth.log_evidence(truth.log_joint(moved, values, gaussian_log_prob)).sum()

    at = fit.model.component.mean.ravel()
    slope = optimize.approx_fprime(at, total, 1e-6)
    assert np.all(np.abs(slope) < 1e-2), slope


@pytest.mark.parametrize("name", [name for name, c in MODELS.items() if c.component.missing])
def test_a_column_never_seen_in_a_row_leaves_its_density_alone(name, float64):
    """Log density of a row with one gap = that of the row in a table without the column."""
    shown = scene(MODELS[name])
    values = shown.values.copy()
    values[:, 1] = np.nan
    look = examine(shown.cast(float64), rows_of(values, float64))
    scores = truth.log_joint(shown.model, values, shown.case.component.log_prob)
    np.testing.assert_allclose(look.log_joint, scores, rtol=1e-9)


def test_units_do_not_disturb_gaps():
    units = Affine(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    moved = units.apply(np.array([[np.nan, 2.0]]))
    assert np.isnan(moved[0, 0])
    assert moved[0, 1] == 0.0
