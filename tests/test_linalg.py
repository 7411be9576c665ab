"""Small numerics against their slow twins in ``truth.py``."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import truth

from minorant import _linalg


def spd(rng, d, count):
    root = rng.normal(size=(count, d, d))
    return root @ root.transpose(0, 2, 1) / d + 0.1 * np.eye(d)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 7])
def test_packing_holds_every_distinct_entry_once(d, rng, float64):
    matrices = spd(rng, d, 3)
    packed = np.asarray(_linalg.vech(matrices))
    assert packed.shape == (3, d * (d + 1) // 2)
    np.testing.assert_array_equal(_linalg.unvech(packed, d), matrices)
    for matrix, entries in zip(matrices, packed, strict=True):
        np.testing.assert_array_equal(np.sort(entries), np.sort(truth.vech(matrix)))


@pytest.mark.parametrize("d", [1, 2, 3, 4, 7])
def test_quadratic_features_are_the_row_and_its_packed_square(d, rng, dtype):
    values = rng.normal(size=(5, d)).astype(dtype)
    features = np.asarray(jax.jit(_linalg.quadratic_features)(values))
    packed = np.asarray(_linalg.vech(values[:, :, None] * values[:, None, :]))
    for row, found, products in zip(values, features, packed, strict=True):
        np.testing.assert_array_equal(found[:d], row)
        np.testing.assert_allclose(found[d:], products, rtol=1e-6)
        expected = truth.quadratic_features(row)
        np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-6)


@pytest.mark.parametrize("d", [1, 3])
def test_the_floor_raises_what_lies_below_it(d, rng, dtype):
    matrices = spd(rng, d, 4)
    matrices[0] = 1e-3 * np.ones((d, d))  # singular but for d = 1
    floor = np.full(d, 0.2) * np.arange(1, d + 1)
    found = np.asarray(jax.jit(_linalg.floored)(matrices.astype(dtype), floor.astype(dtype)))
    relative = 1e-10 if dtype == np.float64 else 1e-5
    for matrix, raised in zip(matrices, found, strict=True):
        np.testing.assert_allclose(raised, truth.floored(matrix, floor), rtol=0, atol=relative)
        assert np.linalg.eigvalsh(raised - np.diag(floor)).min() >= -relative


def test_what_lies_above_the_floor_is_untouched(rng, float64):
    matrices = spd(rng, 3, 4) + np.eye(3)
    found = jax.jit(_linalg.floored)(matrices, np.full(3, 0.5))
    np.testing.assert_array_equal(found, matrices)


def test_the_floored_matrix_is_the_constrained_maximiser(rng, float64):
    """No other matrix above the floor has a higher expected log density."""
    scatter, floor = spd(rng, 3, 1)[0] * 0.3, np.full(3, 0.2)
    best = np.asarray(jax.jit(_linalg.floored)(scatter[None], floor))[0]

    def value(matrix):
        return -np.linalg.slogdet(matrix)[1] - np.trace(np.linalg.solve(matrix, scatter))

    assert np.linalg.eigvalsh(scatter).min() < 0.2  # the floor binds
    for size in (1e-3, 1e-2, 0.1):
        for _ in range(50):
            root = rng.normal(size=(3, 3))
            other = best + size * (root + root.T)
            other = truth.floored(other, floor)
            assert value(other) <= value(best) + 1e-12


def test_vmap_of_the_floor_is_the_floor_of_each(rng, float64):
    lanes = np.stack([spd(rng, 3, 2), spd(rng, 3, 2) * 0.01])
    floors = np.stack([np.full(3, 0.05), np.full(3, 0.1)])
    together = jax.jit(jax.vmap(_linalg.floored))(lanes, floors)
    shared = jax.jit(jax.vmap(_linalg.floored, in_axes=(0, None)))(lanes, floors[0])
    for lane in range(2):
        for j in range(2):
            expected = truth.floored(lanes[lane, j], floors[lane])
            np.testing.assert_allclose(together[lane, j], expected, atol=1e-12)
            expected = truth.floored(lanes[lane, j], floors[0])
            np.testing.assert_allclose(shared[lane, j], expected, atol=1e-12)


def test_inverse_and_determinant_from_a_factor(rng, float64):
    matrices = spd(rng, 4, 3)
    factor = np.linalg.cholesky(matrices)
    inverse = _linalg.inverse_from_cholesky(factor)
    np.testing.assert_allclose(inverse, np.linalg.inv(matrices), rtol=1e-9)
    log_determinant = _linalg.log_determinant_from_cholesky(factor)
    np.testing.assert_allclose(log_determinant, np.linalg.slogdet(matrices)[1], rtol=1e-12)
