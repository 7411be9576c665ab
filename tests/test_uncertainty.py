"""Standard errors against closed forms, a slow Hessian in natural parameters, and each other."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

import minorant
from minorant._parameters import Positive, Simplex, from_vector
from minorant._types import Rows
from minorant.components import Diagonal, Gaussian, Poisson
from minorant.evidence.uncertainty import _constants, _each_direction
from minorant.models._curves import Masked
from minorant.models._trait_scale import Covariances
from minorant.models.transitions import AllowedSimplex, LeftRight


@pytest.fixture(autouse=True, scope="module")
def wide():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def normal():
    rows = np.random.default_rng(0).normal([1.0, -40.0], [2.0, 0.1], (60, 2))
    rows[:, 1] += 0.03 * rows[:, 0]
    return rows, minorant.fit(minorant.Mixture(Gaussian(), n_components=1), rows)


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(1)
    rows = np.r_[rng.poisson(2, 150), rng.poisson(9, 100)][:, None].astype(float)
    model = minorant.Mixture(Poisson(), n_components=2)
    return rows, minorant.fit(model, rows, tolerance=1e-12)


def test_a_normal_has_the_textbook_errors(normal):
    rows, fit = normal
    errors = fit.standard_errors(rows).model.component
    covariance = np.cov(rows.T, bias=True)
    spread = np.diag(covariance)
    np.testing.assert_allclose(errors.mean[0], np.sqrt(spread / 60), rtol=1e-6)
    expected = np.sqrt((covariance**2 + np.outer(spread, spread)) / 60)
    np.testing.assert_allclose(errors.covariance[0], expected, rtol=1e-6)


def test_the_sandwich_of_a_normal_variance_uses_fourth_moments(normal):
    rows, fit = normal
    errors = fit.standard_errors(rows, robust=True)
    centred = rows - rows.mean(0)
    variance = (centred**4).mean(0) - (centred**2).mean(0) ** 2
    found = np.diagonal(errors.model.component.covariance[0])
    np.testing.assert_allclose(found, np.sqrt(variance / 60), rtol=1e-6)
    assert errors.robust


def by_hand(point, rows):
    """Log likelihood of two Poissons in natural parameters (weight of the first, two rates)."""
    weight, first, second = point
    x = rows[:, 0]
    chances = weight * stats.poisson.pmf(x, first) + (1 - weight) * stats.poisson.pmf(x, second)
    return np.log(chances).sum()


def slow_hessian(function, point, step=1e-4):
    p = len(point)
    hessian = np.empty((p, p))
    for i, j in np.ndindex(p, p):
        a, b = np.eye(p)[i] * step, np.eye(p)[j] * step
        hessian[i, j] = (
            function(point + a + b) - function(point + a - b)
            - function(point - a + b) + function(point - a - b)
        ) / (4 * step**2)  # fmt: skip
    return hessian


def test_a_mixture_agrees_with_a_slow_hessian(counts):
    rows, fit = counts
    rates = fit.model.component.rate[:, 0]
    point = np.array([fit.model.weights[0], *rates])
    information = -slow_hessian(lambda at: by_hand(at, rows), point)
    expected = np.sqrt(np.diag(np.linalg.inv(information)))
    errors = fit.standard_errors(rows)
    found = [errors.model.weights[0], *errors.model.component.rate[:, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert errors.sentence == "Every parameter is identified."


def test_an_integer_weight_is_that_many_rows(counts):
    rows, fit = counts
    values, weights = np.unique(rows, axis=0, return_counts=True)
    for robust in (False, True):
        plain = fit.standard_errors(rows, robust=robust)
        merged = fit.standard_errors(values, weights=weights, robust=robust)
        for one, other in zip(plain.table(), merged.table(), strict=True):
            np.testing.assert_allclose(one.standard_error, other.standard_error, rtol=1e-8)


def test_units_carry_over(normal):
    rows, fit = normal
    moved = minorant.fit(minorant.Mixture(Gaussian(), n_components=1), rows * 1e3 + 7)
    ours = fit.standard_errors(rows).model.component
    theirs = moved.standard_errors(rows * 1e3 + 7).model.component
    np.testing.assert_allclose(theirs.mean, 1e3 * ours.mean, rtol=1e-6)
    np.testing.assert_allclose(theirs.covariance, 1e6 * ours.covariance, rtol=1e-6)


def test_a_fixed_parameter_has_no_error_and_helps_the_others(counts):
    rows, fit = counts
    held = minorant.fit(fit.model, rows, fixed=lambda m: m.weights, tolerance=1e-12)
    errors = held.standard_errors(rows)
    np.testing.assert_array_equal(errors.model.weights, 0.0)
    free = fit.standard_errors(rows).model.component.rate
    assert np.all(errors.model.component.rate < free)
    assert {entry.name.split("[")[0] for entry in errors.table()} == {"component.rate"}


def test_what_is_not_identified_says_so():
    rows = np.random.default_rng(2).normal(size=(40, 1))
    twice = minorant.Mixture(
        Gaussian(Diagonal(), np.zeros((2, 1)), np.ones((2, 1))), np.full(2, 0.5), n_components=2
    )
    fit = minorant.fit(twice, rows)
    errors = fit.standard_errors(rows)
    assert np.isnan(errors.model.weights).all()
    assert "not identified" in errors.sentence


def test_a_point_that_is_no_maximum_is_named(counts):
    rows, fit = counts
    elsewhere = dataclasses.replace(fit.model, weights=np.array([0.5, 0.5]))
    component = dataclasses.replace(elsewhere.component, rate=np.array([[4.6], [4.8]]))
    elsewhere = dataclasses.replace(elsewhere, component=component)
    short = minorant.fit(elsewhere, rows, max_steps=1)
    assert "no maximum" in short.standard_errors(rows).sentence


def test_the_table_reads(counts):
    rows, fit = counts
    first = fit.standard_errors(rows).table()[0]
    assert first.name == "component.rate[0, 0]"
    low, high = first.limits
    np.testing.assert_allclose((high - low) / 2 / first.standard_error, stats.norm.ppf(0.975))
    assert first.name in str(fit.standard_errors(rows))


@pytest.mark.parametrize(
    ("constraint", "value", "expected"),
    [
        (AllowedSimplex(((True, True), (False, True))), np.eye(2), [[0, 0], [1, 1]]),
        (Masked(np.array([[1.0], [0.0]])), np.zeros((2, 1)), [[0], [1]]),
        (Covariances("correlation"), np.eye(2)[None], [[[1, 0], [0, 1]]]),
        (Covariances("fixed"), np.eye(2)[None], np.ones((1, 2, 2))),
        (Simplex(), np.ones((2, 1)), np.ones((2, 1))),
        (None, np.ones(3), np.ones(3)),
        (Positive(), np.ones(3), np.zeros(3)),
    ],
)
def test_what_the_structure_fixes_is_no_parameter(constraint, value, expected):
    np.testing.assert_array_equal(_constants(constraint, value.shape), np.array(expected, bool))


def test_moves_that_are_not_allowed_are_neither_listed_nor_at_an_edge():
    chain = minorant.HiddenMarkov(
        Poisson(np.array([[2.0], [9.0]])),
        np.array([1.0, 0.0]),
        np.array([[0.8, 0.2], [0.0, 1.0]]),
        n_components=2,
        structure=LeftRight(),
    )
    rows = np.repeat([[2.0], [3.0], [1.0], [8.0], [10.0], [9.0]], 4, axis=0)
    groups = np.repeat([0, 1], 12)
    rows = np.r_[rows[::2], rows[1::2]]
    fit = minorant.fit(chain, rows, groups=groups, max_steps=50)
    errors = fit.standard_errors(rows, groups=groups)
    listed = {entry.name for entry in errors.table()}
    assert {name for name in listed if "rate" not in name} == {
        "transition[0, 0]",
        "transition[0, 1]",
    }
    assert "edge" not in errors.sentence
    # Twelve moves left state 0, two of them for state 1; they are all but seen: a binomial error.
    chance = fit.model.transition[0, 1]
    np.testing.assert_allclose(
        errors.model.transition[0, 1], np.sqrt(chance * (1 - chance) / 12), rtol=0.05
    )


@pytest.mark.parametrize("p", [1, 8, 11, 16])
def test_directions_taken_a_few_at_a_time_are_all_of_them(p):
    matrix = np.random.default_rng(0).normal(size=(3, p))
    found = jax.jit(lambda at: _each_direction(lambda unit: matrix @ unit, at))(np.zeros(p))
    np.testing.assert_allclose(found, matrix.T, rtol=1e-12)


def test_scores_that_tie_but_for_rounding_have_a_gradient():
    """Code that is not optimised computes a score twice, and neither is then the largest."""
    component = Gaussian(Diagonal(), np.zeros((2, 1)), np.ones((2, 1)), floor=np.full(1, 1e-6))
    model = minorant.Mixture(component, np.full(2, 0.5), n_components=2)
    rows = Rows(np.random.default_rng(2).normal(size=(40, 1)), np.ones(40))

    def evidence(vector):
        found = from_vector(model, vector)
        return found.log_evidence(rows, found.prepare()).sum()

    point = np.r_[np.full(2, -4.4e-17), np.full(2, -2.2e-16), np.full(2, -np.log(2))]
    plain = {"xla_backend_optimization_level": 0}
    found = jax.jit(jax.grad(evidence), compiler_options=plain)(point)
    x = rows.values
    means = 0.5 * np.full(2, x.sum())
    spreads = 0.25 * np.full(2, (x**2 - 1).sum())
    np.testing.assert_allclose(found, np.r_[means, spreads, 0.0, 0.0], atol=1e-12)
