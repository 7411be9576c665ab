"""The best Gaussian: exact where the target is one, and where its optimum has a closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import stats as jstats

from minorant import unknowns
from minorant._config import precision
from minorant.solvers.mode import climb_to_modes
from minorant.solvers.natural import climb_gaussian, draws_for, matched_draws
from minorant.targets import Target

COVARIANCE = np.array([[4.0, 1.5, 0.0], [1.5, 1.0, 0.2], [0.0, 0.2, 0.5]])
MEAN = np.array([10.0, -3.0, 0.5])


def _climb(target, start, chunks=1, tolerance=1e-10):
    run = jax.jit(climb_gaussian)
    with precision(np.dtype(float)):
        factor = 0.1 * np.eye(target.size)
        numbers = (np.int32(chunks), np.float64(tolerance), np.int32(200))
        return jax.device_get(run(target, start, factor, jax.random.key(0), *numbers))


def _gaussian(z):
    away = jnp.linalg.solve(np.linalg.cholesky(COVARIANCE), z - MEAN)
    return jstats.norm.logpdf(away).sum() + 2.5


def test_a_gaussian_target_is_met_exactly_bound_and_all():
    """The target is a normalised Gaussian times e^2.5, so its log evidence is 2.5."""
    target = Target(_gaussian, z=unknowns.real(3))
    found = _climb(target, np.zeros(3))
    np.testing.assert_allclose(found.mean, MEAN, rtol=1e-7)
    np.testing.assert_allclose(found.factor @ found.factor.T, COVARIANCE, atol=1e-7)
    # The density is not normalised by the determinant above: subtract its log.
    log_evidence = 2.5 + 0.5 * np.log(np.linalg.det(COVARIANCE))
    np.testing.assert_allclose(found.moments.bound, log_evidence, atol=1e-8)


@pytest.mark.parametrize(("shape", "rate"), [(1.5, 0.2), (20.0, 3.0)])
def test_the_optimum_for_a_log_gamma_is_the_closed_one(shape, rate):
    r"""E[a z - b e^z] + log s is highest at s^2 = 1/a, m = log(a/b) - 1/(2a)."""
    target = Target(lambda z: shape * z - rate * jnp.exp(z), z=unknowns.real())
    found = _climb(target, np.zeros(1), chunks=256)
    # Draws are 256 * 64; the error of m is the Monte Carlo error of E[e^z] in units of s.
    error = 4.0 / np.sqrt(256 * 64) / shape
    assert abs(found.mean[0] - (np.log(shape / rate) - 0.5 / shape)) < error
    assert abs(found.factor[0, 0] ** 2 * shape - 1) < 4.0 * np.sqrt(6.0 / (256 * 64))


def test_the_bound_only_rises_and_a_target_that_is_not_finite_is_stepped_back_from():
    """Beyond 1 the density is NaN: the climb stays inside."""
    target = Target(
        lambda z: jnp.where(z < 1.0, jnp.log(jnp.where(z < 1.0, 1.0 - z, -1.0)) - z**2, jnp.nan),
        z=unknowns.real(),
    )
    found = _climb(target, np.zeros(1), tolerance=1e-3)
    assert np.isfinite(found.moments.bound)
    assert found.mean[0] < 1.0


def test_matched_draws_have_the_moments_of_a_standard_normal():
    with precision(np.dtype(float)):
        draws = np.asarray(matched_draws(jax.random.key(1), draws_for(5), 5))
    np.testing.assert_allclose(draws.mean(0), 0.0, atol=1e-14)
    np.testing.assert_allclose(draws.T @ draws / len(draws), np.eye(5), atol=1e-12)


def test_modes_are_found_from_far_away_and_a_lost_start_stays():
    """Rosenbrock's valley, whose maximum is at (1, 1); and a start where nothing is finite."""

    def valley(z):
        inside = jnp.where(z[0] > -50, 0.0, jnp.nan)
        return -((1 - z[0]) ** 2) - 100 * (z[1] - z[0] ** 2) ** 2 + inside

    target = Target(valley, z=unknowns.real(2))
    starts = np.array([[-1.2, 1.0], [3.0, -4.0], [-100.0, 0.0]])
    with precision(np.dtype(float)):
        points, values, done = jax.device_get(jax.jit(climb_to_modes)(target, starts, 1000))
    np.testing.assert_allclose(points[:2], 1.0, atol=1e-4)
    assert done.tolist() == [True, True, False]
    assert not np.isfinite(values[2])
