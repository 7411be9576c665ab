"""Trust-region Newton against scipy's, and conjugate gradients against a solve."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from minorant._config import precision
from minorant.solvers.newton import climb_newton, conjugate_gradients

RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(6, 6))
MATRIX = ROOT @ ROOT.T + 0.1 * np.eye(6)
RIGHT = RNG.normal(size=6)


def _valley(x):
    """Rosenbrock's, in pairs, upside down; it curves upwards where x^2 is small."""
    a, b = x[::2], x[1::2]
    return -((1 - a) ** 2 + 100 * (b - a**2) ** 2).sum()


@pytest.mark.parametrize("units", [1.0, 0.1])
def test_the_end_is_that_of_scipys(units):
    start = np.array([-1.2, 1.0, 0.3, -2.0])
    with precision(np.dtype(float)):
        climb = jax.jit(
            lambda x: climb_newton(_valley, lambda x: units * jnp.ones_like(x), x, 1e-12, 200)
        )
        found = jax.device_get(climb(start))
        slope = jax.jit(jax.value_and_grad(_valley))

        def down(x):
            value, gradient = slope(x)
            return -float(value), -np.asarray(gradient)

        theirs = optimize.minimize(down, start, jac=True, method="BFGS").x
    np.testing.assert_allclose(found.point, theirs, atol=1e-4)
    np.testing.assert_allclose(found.point, 1.0, atol=1e-6)
    assert found.left <= 1e-12


def test_a_function_that_is_not_finite_somewhere_is_stepped_back_from():
    """x - e^(x + 1): beyond 0.5 it is NaN; its highest point, -1, is before that."""

    def bent(x):
        inside = jnp.where(x[0] < 0.5, 0.0, jnp.nan)
        return x[0] - jnp.exp(x[0] + 1.0) + inside

    with precision(np.dtype(float)):
        climb = jax.jit(lambda x: climb_newton(bent, jnp.ones_like, x, 1e-14, 100))
        found = jax.device_get(climb(np.array([-9.0])))
    np.testing.assert_allclose(found.point, -1.0, atol=1e-6)


def test_conjugate_gradients_solve_or_stop_at_the_edge():
    with precision(np.dtype(float)):
        whole = conjugate_gradients(lambda x: MATRIX @ x, RIGHT)
        edge = conjugate_gradients(lambda x: MATRIX @ x, RIGHT, radius=0.2)
        bent = conjugate_gradients(lambda x: -x, RIGHT, radius=0.2)
    exact = np.linalg.solve(MATRIX, RIGHT)
    np.testing.assert_allclose(whole.point, exact, rtol=1e-6)
    np.testing.assert_allclose(whole.gain, 0.5 * RIGHT @ exact, rtol=1e-6)
    assert bool(whole.inside)
    assert whole.count <= len(RIGHT) + 2  # as many as dimensions, but for rounding
    for stopped in (edge, bent):
        np.testing.assert_allclose(np.linalg.norm(stopped.point), 0.2)
        assert not bool(stopped.inside)
    # Where it curves the other way the steepest direction leads out.
    np.testing.assert_allclose(bent.point, 0.2 * RIGHT / np.linalg.norm(RIGHT))
