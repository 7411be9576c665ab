"""Laws of the objects: models are pytrees that survive every transformation unchanged."""

from __future__ import annotations

import pickle

import jax
import numpy as np
import pytest
from cases import LIKELIHOODS, MODELS, POSTERIORS, random_probabilities
from helpers import (
    K,
    Look,
    N,
    assert_trees_close,
    assert_trees_equal,
    examine,
    quick_jit,
    rows_of,
    scene,
    stacked,
    tolerance,
)

from minorant._parameters import count_parameters, from_vector, leaf_constraints, to_vector
from minorant.posteriors import Categorical


@pytest.mark.parametrize("name", MODELS)
def test_flattening_and_pickling_keep_every_bit(name, dtype):
    model = scene(MODELS[name]).cast(dtype)
    leaves, structure = jax.tree.flatten(model)
    assert_trees_equal(jax.tree.unflatten(structure, leaves), model)
    again = pickle.loads(pickle.dumps(model))
    assert_trees_equal(again, model)
    assert repr(again) == repr(model)
    assert {leaf.dtype for leaf in leaves} == {dtype}


@quick_jit
def there_and_back(model):
    """The free vector and the model read from it."""
    vector = to_vector(model)
    return vector, from_vector(model, vector)


@pytest.mark.parametrize("name", MODELS)
def test_the_free_vector_leads_back_to_the_model(name, dtype):
    model = scene(MODELS[name]).cast(dtype)
    vector, again = there_and_back(model)
    assert_trees_close(again, model, 10 * float(np.finfo(dtype).eps))
    learned = [c is not None for c in leaf_constraints(model)]
    sizes = [leaf.size for leaf in jax.tree.leaves(model)]
    assert vector.shape == (sum(s for s, is_ in zip(sizes, learned, strict=True) if is_),)
    held = [leaf for leaf, is_ in zip(jax.tree.leaves(again), learned, strict=True) if not is_]
    kept = [leaf for leaf, is_ in zip(jax.tree.leaves(model), learned, strict=True) if not is_]
    assert_trees_equal(held, kept)


@pytest.mark.parametrize("name", MODELS)
def test_any_free_vector_is_a_model(name, float64):
    model = scene(MODELS[name]).cast(float64)
    vector = there_and_back(model)[0]
    away = np.asarray(vector) + np.random.default_rng(0).normal(size=vector.shape)
    moved = quick_jit(from_vector)(model, away)
    np.testing.assert_allclose(np.sum(moved.weights), 1.0, rtol=1e-12)
    scores = examine(moved, rows_of(scene(MODELS[name]).values, float64)).log_joint
    assert np.all(np.isfinite(scores))


@pytest.mark.parametrize("name", ["gaussian-full", "gaussian-diagonal"])
def test_without_jit_the_numbers_are_the_same(name, dtype):
    shown = scene(LIKELIHOODS[name])
    model, rows = shown.cast(dtype), rows_of(shown.values, dtype)
    compiled = examine(model, rows)
    with jax.disable_jit():
        plain = examine(model, rows)
    assert_trees_close(plain._asdict(), compiled._asdict(), tolerance(dtype))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_vmap_over_models_gives_what_each_gives_alone(name, float64):
    shown = scene(MODELS[name])
    models = [scene(MODELS[name], seed=seed).cast(float64) for seed in (1, 2)]
    rows = rows_of(shown.values, float64)
    together = quick_jit(jax.vmap(examine.__wrapped__, in_axes=(0, None)))(stacked(*models), rows)
    for lane, model in enumerate(models):
        one = Look(*jax.tree.map(lambda leaf, i=lane: np.asarray(leaf)[i], tuple(together)))
        assert_trees_close(one._asdict(), examine(model, rows)._asdict(), 1e-11)


EXPECTED_COUNTS = {  # k = 4, d = 3: 3 free weights, 12 means, and the covariances
    "gaussian-full": 3 + 12 + 4 * 6,
    "gaussian-tied": 3 + 12 + 6,
    "gaussian-diagonal": 3 + 12 + 4 * 3,
    "gaussian-spherical": 3 + 12 + 4,
}


@pytest.mark.parametrize("name", EXPECTED_COUNTS)
def test_free_parameters_are_counted_as_by_hand(name, float64):
    model = scene(MODELS[name]).cast(float64)
    assert count_parameters(model) == EXPECTED_COUNTS[name]
    free = jax.tree.map(lambda leaf: np.asarray(False), model)
    held = jax.tree.unflatten(
        jax.tree.structure(model),
        [np.asarray(leaf is model.component.mean) for leaf in jax.tree.leaves(model)],
    )
    assert count_parameters(model, free) == EXPECTED_COUNTS[name]
    assert count_parameters(model, held) == EXPECTED_COUNTS[name] - 12


@pytest.mark.parametrize("family", POSTERIORS)
def test_a_posterior_is_what_it_was_made_of(family, dtype):
    chosen = POSTERIORS[family](np.random.default_rng(0), K, N)
    posterior = Categorical.from_probabilities(chosen.astype(dtype))
    np.testing.assert_allclose(posterior.probability, chosen, atol=tolerance(dtype))
    np.testing.assert_array_equal(posterior.mode(), chosen.astype(dtype).argmax(0))
    assert_trees_equal(pickle.loads(pickle.dumps(posterior)), posterior)


def test_entropy_and_draws_follow_the_probabilities(float64):
    chosen = random_probabilities(np.random.default_rng(0), K, 1)
    n = 20_000
    posterior = Categorical.from_probabilities(np.repeat(chosen, n, axis=1))
    draws = np.asarray(posterior.sample(jax.random.key(0)))
    share = np.bincount(draws, minlength=K) / n
    error = np.sqrt(chosen[:, 0] * (1 - chosen[:, 0]) / n)
    assert np.all(np.abs(share - chosen[:, 0]) < 5 * error)
    expected = -(chosen * np.log(chosen)).sum()
    np.testing.assert_allclose(posterior.entropy()[0], expected, rtol=1e-12)
    np.testing.assert_allclose(posterior.log_density(draws), np.log(chosen[draws, 0]), rtol=1e-12)


def test_zero_probabilities_have_no_entropy(dtype):
    certain = np.eye(K, dtype=dtype)
    posterior = Categorical.from_probabilities(certain)
    assert np.all(np.asarray(posterior.entropy()) == 0)
    assert np.all(np.asarray(posterior.probability) == certain)
