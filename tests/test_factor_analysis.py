"""Factor analysis and PPCA against dense joint normals, scikit-learn and a published table."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import jax
import numpy as np
import pytest
import truth
import truth_factor
from helpers import assert_never_decreases, quick_jit, rounding, rows_of, tolerance
from scipy import optimize
from truth_factor import holed, simulated

from minorant._parameters import count_parameters, from_vector, to_vector
from minorant._types import Rows
from minorant.components import Diagonal, Spherical, low_rank
from minorant.models import FactorAnalysis, profile_likelihood
from minorant.posteriors import Gaussian
from minorant.preparation import cast

D, L = 4, 2
NOISES = {"diagonal": Diagonal(), "spherical": Spherical()}


def model_of(noise="diagonal", seed=0, d=D, l=L):
    """A model with all parameters."""
    rng = np.random.default_rng(seed)
    variance = rng.uniform(0.3, 1.0, d) if noise == "diagonal" else np.asarray(0.6)
    mean, loadings = rng.normal(size=d), rng.normal(size=(d, l))
    return FactorAnalysis(l, NOISES[noise], mean, loadings, variance, np.full(d, 1e-6))


def dense(model):
    """The dense joint normal of factors and rows."""
    return truth_factor.joint(model.mean, model.loadings, model.noise_variance)


@quick_jit
def look(model, rows):
    """Posterior, evidence, bound, statistics and the step that follows."""
    prepared = model.prepare()
    posterior = model.posterior(rows, prepared)
    found = model.expectation(rows, prepared)
    return (
        posterior.by_row(),
        model.log_evidence(rows, prepared),
        found.bound,
        found.statistics,
        model.statistics(rows, posterior, prepared),
        model.maximise(found.statistics),
    )


@cache
def every_pattern():
    """One row with every set of cells missing."""
    return truth_factor.patterns(np.random.default_rng(5).normal(size=D) + 1.0)


# --- the posterior and the evidence -----------------------------------------------------------


@pytest.mark.parametrize("noise", NOISES)
def test_every_pattern_of_gaps_has_the_dense_normals_posterior(noise, dtype):
    model, values = model_of(noise), every_pattern()
    (mean, covariance), log_evidence, *_ = look(cast(model, dtype), rows_of(values, dtype))
    joint, slack = dense(model), 10 * tolerance(dtype)
    for i, x in enumerate(values):
        full_mean, full_covariance = truth_factor.conditional(joint, L, x)
        np.testing.assert_allclose(mean[i], full_mean[:L], atol=slack)
        np.testing.assert_allclose(covariance[i], full_covariance[:L, :L], atol=slack)
        expected = truth.normal_log_density(x, *truth_factor.marginal(joint, L))
        assert float(log_evidence[i]) == pytest.approx(expected, abs=10 * slack)


def test_one_pattern_for_the_block_is_the_same(float64):
    model, filled = model_of(), simulated(24)
    pattern, weight = np.array([True, False, True, True]), np.linspace(0.0, 2.0, 24)
    apart = rows_of(np.where(pattern, filled, np.nan), float64, weight)
    shared = Rows(np.where(pattern, filled, 0.0), weight, pattern[None])
    one, other = look(model, apart), look(model, shared)
    for a, b in zip(jax.tree.leaves(one[:-1]), jax.tree.leaves(other[:-1]), strict=True):
        np.testing.assert_allclose(np.broadcast_to(b, np.shape(a)), a, rtol=1e-10, atol=1e-10)


def test_joint_minus_posterior_is_the_evidence_at_any_factors(float64):
    model, values = model_of(), every_pattern()
    rows = rows_of(values, float64)
    (mean, covariance), log_evidence, *_ = look(model, rows)
    latents = np.random.default_rng(0).normal(size=(len(values), L))
    posterior = Gaussian(np.asarray(mean), np.asarray(covariance))
    gap = np.asarray(model.log_joint(rows, latents)) - posterior.log_density(latents)
    np.testing.assert_allclose(gap, log_evidence, atol=1e-10)
    np.testing.assert_allclose(posterior.standard_deviation[0] ** 2, np.diag(covariance[0]))


def test_draws_of_a_posterior_have_its_moments(float64):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(2, 2))
    n = 20_000
    q = Gaussian(np.tile([1.0, -2.0], (n, 1)), (root @ root.T)[None])
    draws = np.asarray(q.sample(jax.random.key(0)))
    error = np.sqrt(np.diag(root @ root.T) / n)
    assert np.all(np.abs(draws.mean(0) - [1.0, -2.0]) < 5 * error)
    np.testing.assert_allclose(np.cov(draws.T), root @ root.T, rtol=0.06, atol=0.03)


# --- the step ---------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", NOISES)
def test_completed_moments_are_those_of_rows_completed_one_by_one(noise, float64):
    model, values = model_of(noise), holed(simulated(24))
    weight = np.random.default_rng(1).integers(0, 4, 24).astype(float)
    *_, statistics, again, _ = look(model, rows_of(values, float64, weight))
    mean, covariance = truth_factor.em_step(dense(model), L, values, weight)
    shift = np.asarray(statistics.first) / statistics.count
    np.testing.assert_allclose(model.mean + shift, mean, rtol=1e-10)
    found = np.asarray(statistics.second) / statistics.count - np.outer(shift, shift)
    np.testing.assert_allclose(found, covariance, atol=1e-10)
    for one, other in zip(statistics, again, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


class Steps(NamedTuple):
    """Sums over factors, as the climb takes them with many columns, and the steps they lead to."""

    sums: low_rank.Sums
    from_moments: low_rank.Sums
    plain: low_rank.Parameters
    expanded: low_rank.Parameters


@quick_jit
def steps_over_factors(model, rows):
    """What many columns are climbed by; ``plain`` holds nothing, but forbids the expansion."""
    prepared, old = model.prepare(), model._parameters()
    sums = low_rank.sums(rows, rows.weight[None], low_rank.latent(rows, prepared))
    away = rows.values - model.mean
    weighted = rows.weight @ away
    moments = low_rank.from_moments(
        prepared, rows.weight.sum()[None], weighted[None], ((away.T * rows.weight) @ away)[None]
    )
    nothing = low_rank.Held(np.zeros((1, D), bool), np.zeros((1, D, L), bool))
    plain, expanded = (low_rank.regressed(old, sums, held) for held in (nothing, None))
    return Steps(sums, moments, plain, expanded)


def test_the_step_over_factors_is_rubin_and_thayers(float64):
    model, values = model_of(), holed(simulated(24))
    weight = np.random.default_rng(1).integers(1, 4, 24).astype(float)
    found = steps_over_factors(model, rows_of(values, float64, weight))
    expected = truth_factor.rubin_thayer(dense(model), L, values, weight)
    for one, other in zip(found.plain, expected, strict=True):
        np.testing.assert_allclose(one[0], other, atol=1e-9)


def test_the_expanded_step_never_climbs_less(float64):
    values = holed(simulated(24))
    weight = np.random.default_rng(1).integers(1, 4, 24).astype(float)
    rows = rows_of(values, float64, weight)
    for seed in range(4):
        model = model_of(seed=seed)
        found, reached = steps_over_factors(model, rows), []
        for new in (model._parameters(), found.plain, found.expanded):
            joint = truth_factor.joint(*(np.asarray(leaf[0]) for leaf in new))
            mean, covariance = truth_factor.marginal(joint, L)
            reached.append(truth_factor.log_likelihood(mean, covariance, values, weight))
        assert_never_decreases(reached, 1e-9)
        assert reached[2] > reached[1] + 1e-3  # here it climbs more


def test_moments_of_complete_rows_give_the_sums_over_their_factors(float64):
    rows = rows_of(simulated(24), float64, np.random.default_rng(1).uniform(0.0, 3.0, 24))
    found = steps_over_factors(model_of(), rows)
    for one, other in zip(found.from_moments, found.sums, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


@quick_jit
def stepped(model, rows, fixed):
    """The step with something fixed."""
    return model.maximise(model.expectation(rows, model.prepare()).statistics, fixed)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("held", ["mean", "loadings", "noise_variance", "some loadings"])
def test_what_is_fixed_stays_and_the_rest_climbs(noise, held, float64):
    model, values = model_of(noise), holed(simulated(30))
    flags = {name: np.asarray(False) for name in ("mean", "loadings", "noise_variance", "floor")}
    mask = np.random.default_rng(0).random((D, L)) < 0.4 if "some" in held else np.asarray(True)
    flags[held.removeprefix("some ")] = mask
    fixed = FactorAnalysis(L, NOISES[noise], **flags)
    rows, climb, at = rows_of(values, float64), [], model
    for _ in range(4):
        climb.append(float(look(at, rows)[2]))
        at = stepped(at, rows, fixed)
    assert_never_decreases(climb, rounding(climb, 30, float64))
    assert climb[-1] > climb[0] + 1.0
    name = held.removeprefix("some ")
    before, after = (np.asarray(getattr(m, name)) for m in (model, at))
    wide = np.broadcast_to(mask, before.shape)
    np.testing.assert_array_equal(after[wide], before[wide])
    assert wide.all() or np.abs(after - before)[~wide].min() > 1e-6


# --- the profile likelihood -------------------------------------------------------------------


def random_covariance(d=7, n=40, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 2)) @ rng.normal(size=(2, d)) + rng.normal(size=(n, d))
    return np.cov(rows.T, bias=True)


@quick_jit
def profile_derivatives(covariance, point):
    """The value by its own gradient and Hessian, and by autodiff of it."""
    eigen = profile_likelihood._eigen(covariance, point, 3)

    def value(u):
        return profile_likelihood._value(u, profile_likelihood._eigen(covariance, u, 3))

    return *profile_likelihood._derivatives(eigen, 3), jax.grad(value)(point)


def test_derivatives_of_the_profile_likelihood_are_those_of_differences(float64):
    covariance = random_covariance()
    point = np.log(np.diag(covariance) * np.linspace(0.1, 0.6, 7))
    gradient, curvature, scores, slope = profile_derivatives(covariance, point)
    np.testing.assert_allclose(gradient, slope, atol=1e-10)
    numeric = [
        (
            profile_derivatives(covariance, point + h)[3]
            - profile_derivatives(covariance, point - h)[3]
        )
        for h in 1e-5 * np.eye(7)
    ]
    np.testing.assert_allclose(curvature, np.stack(numeric) / 2e-5, atol=1e-7)
    assert np.linalg.eigvalsh(scores).min() >= -1e-12


def test_the_profile_maximum_is_where_the_dense_likelihood_is_level(float64):
    covariance, l = random_covariance(), 2
    floor = np.full(7, 1e-6)
    found = profile_likelihood.diagonal(covariance, np.diag(covariance) / 2, floor, l)

    def deviance(vector):
        loadings, variance = vector[:14].reshape(7, 2), np.exp(vector[14:])
        fitted = loadings @ loadings.T + np.diag(variance)
        return np.linalg.slogdet(fitted)[1] + np.trace(np.linalg.solve(fitted, covariance))

    at = np.r_[np.asarray(found.loadings).ravel(), np.log(found.variance)]
    slope = optimize.approx_fprime(at, deviance, 1e-6)
    assert np.abs(slope).max() < 1e-4
    best = optimize.minimize(deviance, at + 0.1, method="BFGS", options={"gtol": 1e-7})
    assert deviance(at) <= best.fun + 1e-9
    inner = np.asarray(found.loadings.T / found.variance @ found.loadings)
    np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-10)
    assert np.all(np.diff(np.diag(inner)) < 0)
    assert np.all(np.asarray(found.loadings).sum(0) > 0)


# --- as parameters -----------------------------------------------------------------------------


def test_second_derivatives_of_the_evidence_are_finite(float64):
    model, values = model_of(), every_pattern()
    rows = rows_of(values, float64)

    @quick_jit
    def derivatives(vector):
        def total(vector):
            at = from_vector(model, vector)
            return at.log_evidence(rows, at.prepare()).sum()

        return jax.grad(total)(vector), jax.jacfwd(jax.grad(total))(vector)

    point = np.asarray(to_vector(model))
    along = np.random.default_rng(0).normal(size=len(point))
    hessian = derivatives(point)[1]
    assert np.all(np.isfinite(hessian))
    before, after = (derivatives(point + h * along)[0] for h in (-1e-5, 1e-5))
    np.testing.assert_allclose(hessian @ along, (after - before) / 2e-5, rtol=1e-5, atol=1e-5)


def test_rotations_are_not_counted_as_parameters(float64):
    assert count_parameters(model_of()) == D + D + (D * L - 1)
    assert count_parameters(model_of("spherical")) == D + 1 + (D * L - 1)
