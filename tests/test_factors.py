"""Triangular factors of many matrices: LAPACK's numbers, derivatives, and under any vmap."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minorant import _factors


@pytest.fixture(autouse=True, scope="module")
def wide():
    with jax.enable_x64(True):
        yield


def matrices(shape, d, seed=0):
    root = np.random.default_rng(seed).normal(size=(*shape, d, d))
    return root @ np.swapaxes(root, -1, -2) + d * np.eye(d)


@pytest.mark.parametrize("d", [1, 3, 16, 17, 30])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_factor_and_inverse_are_lapacks(shape, d):
    given = matrices(shape, d)
    factor, inverse = jax.jit(_factors.factored)(given)
    np.testing.assert_allclose(factor, np.linalg.cholesky(given), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        inverse @ factor, np.broadcast_to(np.eye(d), given.shape), atol=1e-12
    )
    np.testing.assert_allclose(_factors.inverse_triangle(factor), inverse, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("d", [4, 20])
def test_vmap_gives_what_a_batch_gives(d):
    given = matrices((3, 2), d)
    nested = jax.jit(jax.vmap(jax.vmap(_factors.factored)))(given)
    outer = jax.jit(jax.vmap(_factors.factored))(given)
    for one, other in zip(nested, outer, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(outer[0], np.linalg.cholesky(given), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("d", [3, 18])
def test_solutions(d):
    given, right = matrices((4,), d), np.random.default_rng(1).normal(size=(4, d, 2))
    factor = _factors.cholesky(given)
    expected = np.linalg.solve(given, right)
    np.testing.assert_allclose(_factors.cho_solve(factor, right), expected, rtol=1e-10)
    half = _factors.solve_triangular(factor, right)
    upper = jnp.swapaxes(factor, -1, -2)
    np.testing.assert_allclose(_factors.solve_triangular(upper, half, lower=False), expected)
    column = _factors.cho_solve(factor, right[..., 0])
    np.testing.assert_allclose(column, expected[..., 0], rtol=1e-10)


def test_what_is_not_positive_definite_is_not_finite():
    given = np.stack([np.eye(3), -np.eye(3)])
    found = np.asarray(_factors.cholesky(given))
    assert np.isfinite(found[0]).all()
    assert not np.isfinite(found[1, -1]).any()


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("d", [3, 17])
def test_derivatives_are_those_of_finite_differences(batch, d):
    given = matrices(batch, d)
    weights = np.random.default_rng(2).normal(size=(2, *given.shape))

    def value(root):
        factor, inverse = _factors.factored(root @ jnp.swapaxes(root, -1, -2) + d * np.eye(d))
        triangle = _factors.inverse_triangle(factor)
        return (weights[0] * (factor + triangle) + weights[1] * inverse**2).sum()

    root = np.random.default_rng(3).normal(size=given.shape)
    direction = np.random.default_rng(4).normal(size=given.shape)
    ahead, behind = (value(root + s * direction) for s in (1e-5, -1e-5))
    slope = (jax.grad(value)(root) * direction).sum()
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-6)
    gradients = [jax.grad(value)(root + s * direction) for s in (1e-5, -1e-5)]
    curvature = jax.jvp(jax.grad(value), (root,), (direction,))[1]
    np.testing.assert_allclose(
        curvature, (gradients[0] - gradients[1]) / 2e-5, rtol=1e-4, atol=1e-6
    )


def test_eigenvalues_under_vmap():
    given = matrices((2, 3), 5)
    values, vectors = jax.vmap(_factors.eigh)(given)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(given), rtol=1e-10)
    again = (vectors * values[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    np.testing.assert_allclose(again, given, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("m", "n"), [(5, 3), (3, 5), (4, 4), (1, 1)])
def test_upper_triangles_under_vmap(m, n):
    rng = np.random.default_rng(7)
    arrays = rng.normal(size=(6, 2, m, n))
    arrays[0, 0, :, 0] = 0.0  # a column that needs no reflection
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(jax.vmap(_factors.upper_triangle)))(arrays)
        single = _factors.upper_triangle(arrays[1, 1])
    assert found.shape == (6, 2, min(m, n), n)
    squares = np.swapaxes(arrays, -1, -2) @ arrays
    np.testing.assert_allclose(np.swapaxes(found, -1, -2) @ found, squares, atol=1e-12)
    np.testing.assert_allclose(np.abs(found[1, 1]), np.abs(single), atol=1e-12)
    assert (np.tril(found, -1) == 0).all()
