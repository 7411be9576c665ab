"""Rotations: closed cases, brute force over angles, scikit-learn, and a published table."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import truth_factor
from sklearn.decomposition import _factor_analysis as sklearn_factor

import minorant
from minorant.models import FactorAnalysis
from minorant.models.rotation import METHODS, oblimin, quartimax, rotate, varimax

SIMPLE = np.array([[0.9, 0.0], [0.8, 0.0], [0.7, 0.0], [0.0, 0.7], [0.0, 0.6], [0.0, 0.5]])


def turned(angle):
    """A rotation in the plane."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def random_loadings(d=10, l=3, seed=0):
    return np.random.default_rng(seed).normal(size=(d, l))


def orthomax_value(loadings, gamma):
    """The criterion that varimax (gamma 1) and quartimax (gamma 0) maximise."""
    squares = loadings**2
    return (squares**2).sum() - gamma * (squares.sum(0) ** 2).sum() / len(loadings)


def oblimin_value(loadings, gamma=0.0):
    """The criterion that oblimin minimises, pair by pair."""
    squares, total = loadings**2, 0.0
    for a, b in itertools.combinations(range(loadings.shape[1]), 2):
        total += squares[:, a] @ squares[:, b]
        total -= gamma * squares[:, a].sum() * squares[:, b].sum() / len(loadings)
    return total


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normalise", [True, False])
def test_simple_structure_is_found_whatever_it_was_turned_by(method, normalise):
    for angle in (0.3, 1.2, 2.9):
        found = rotate(SIMPLE @ turned(angle), method, normalise)
        np.testing.assert_allclose(found.loadings, SIMPLE, atol=1e-6)
        np.testing.assert_allclose(found.correlation, np.eye(2), atol=1e-6)


def test_oblimin_finds_correlated_factors():
    correlation = np.array([[1.0, 0.4], [0.4, 1.0]])
    loadings = SIMPLE @ np.linalg.cholesky(correlation)
    found = oblimin(loadings)
    np.testing.assert_allclose(found.loadings, SIMPLE, atol=1e-6)
    np.testing.assert_allclose(found.correlation, correlation, atol=1e-6)
    np.testing.assert_allclose(found.structure(), SIMPLE @ correlation, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_rotation_leaves_the_covariance_alone(method):
    loadings = random_loadings()
    found = rotate(loadings, method)
    common = found.loadings @ found.correlation @ found.loadings.T
    np.testing.assert_allclose(common, loadings @ loadings.T, atol=1e-10)
    np.testing.assert_allclose(np.diag(found.correlation), 1.0, atol=1e-10)
    np.testing.assert_allclose(
        found.loadings, loadings @ np.linalg.inv(found.transform).T, atol=1e-10
    )
    if method != "oblimin":
        np.testing.assert_allclose(found.correlation, np.eye(3), atol=1e-10)
    assert np.all(found.loadings.sum(0) > 0)
    explained = (found.loadings * found.structure()).sum(0)
    assert np.all(np.diff(explained) <= 1e-12)


@pytest.mark.parametrize(("method", "gamma"), [("varimax", 1.0), ("quartimax", 0.0)])
def test_orthogonal_rotations_are_the_best_of_all_angles(method, gamma):
    loadings = random_loadings(7, 2, seed=3)
    every = [orthomax_value(loadings @ turned(a), gamma) for a in np.linspace(0, np.pi, 20_001)]
    found = orthomax_value(rotate(loadings, method, normalise=False).loadings, gamma)
    assert found == pytest.approx(max(every), rel=1e-7)
    assert found >= max(every)
    lengths = np.linalg.norm(loadings, axis=1, keepdims=True)
    unit = [orthomax_value(loadings / lengths @ turned(a), gamma) for a in np.linspace(0, 3.2, 999)]
    assert orthomax_value(rotate(loadings, method).loadings / lengths, gamma) >= max(unit)


@pytest.mark.parametrize("gamma", [0.0, -0.5])
def test_oblimin_is_the_best_of_all_pairs_of_axes(gamma):
    loadings = random_loadings(7, 2, seed=4)
    angles, best = np.linspace(0, np.pi, 181), np.inf
    for a, b in itertools.combinations(angles, 2):
        axes = np.array([[np.cos(a), np.cos(b)], [np.sin(a), np.sin(b)]])
        if abs(np.linalg.det(axes)) > 0.05:
            best = min(best, oblimin_value(loadings @ np.linalg.inv(axes).T, gamma))
    found = oblimin_value(oblimin(loadings, normalise=False, gamma=gamma).loadings, gamma)
    assert found <= best
    assert found == pytest.approx(best, abs=0.01 * abs(best))


@pytest.mark.parametrize(("method", "gamma"), [("varimax", 1.0), ("quartimax", 0.0)])
def test_no_worse_than_scikit_learn(method, gamma):
    for seed in range(5):
        loadings = random_loadings(seed=seed)
        peer = sklearn_factor._ortho_rotation(loadings, method=method, tol=1e-12, max_iter=2000)
        ours = orthomax_value(rotate(loadings, method, normalise=False).loadings, gamma)
        assert ours >= orthomax_value(peer.T, gamma) - 1e-9


def early_varimax(loadings, eps=1e-5):
    """Kaiser's varimax by repeated polar decompositions, stopped as R's ``varimax`` stops."""
    lengths = np.linalg.norm(loadings, axis=1, keepdims=True)
    unit, transform, before = loadings / lengths, np.eye(loadings.shape[1]), 0.0
    for _ in range(1000):
        rotated = unit @ transform
        target = rotated**3 - rotated * (rotated**2).mean(0)
        left, sizes, right = np.linalg.svd(unit.T @ target)
        transform = left @ right
        if sizes.sum() < before * (1 + eps):
            break
        before = sizes.sum()
    return loadings @ transform


def test_the_published_varimax_loadings(float64):
    covariance = truth_factor.ABILITY
    rows = truth_factor.rows_with_moments(
        np.random.default_rng(0), truth_factor.ABILITY_ROWS, np.zeros(6), covariance
    )
    model = minorant.fit(FactorAnalysis(2), rows).model
    loadings = model.loadings / np.sqrt(np.diag(covariance))[:, None]
    early = np.abs(early_varimax(loadings))
    early = early[:, np.argsort(-(early**2).sum(0))]
    np.testing.assert_array_equal(np.round(early, 3), truth_factor.ABILITY_VARIMAX)
    found = varimax(loadings)
    lengths = np.linalg.norm(loadings, axis=1, keepdims=True)
    reached, stopped = (orthomax_value(one / lengths, 1.0) for one in (found.loadings, early))
    assert reached > stopped  # R stops a little early
    np.testing.assert_allclose(found.loadings, truth_factor.ABILITY_VARIMAX, atol=4e-3)


def test_scores_turn_with_the_loadings(float64):
    rows = truth_factor.simulated(60, d=6)
    fit = minorant.fit(FactorAnalysis(2), rows)
    found = oblimin(fit.model.loadings)
    scores = fit.posterior(rows).mean
    fitted = scores @ fit.model.loadings.T
    np.testing.assert_allclose(scores @ found.transform @ found.loadings.T, fitted, atol=1e-8)


def test_one_factor_is_only_given_its_sign():
    found = quartimax(-np.ones((4, 1)))
    np.testing.assert_array_equal(found.loadings, np.ones((4, 1)))
    np.testing.assert_array_equal(found.transform, -np.ones((1, 1)))


@pytest.mark.parametrize(
    ("loadings", "options", "message"),
    [
        (np.ones((3, 2)), {"method": "promax"}, "method must be one of"),
        (np.ones(3), {}, "finite matrix"),
        (np.full((3, 2), np.nan), {}, "not finite"),
        (np.ones((3, 2)), {"method": "oblimin", "gamma": 0.5}, "gamma must be at most 0"),
    ],
)
def test_bad_input_is_named(loadings, options, message):
    with pytest.raises(ValueError, match=message):
        rotate(loadings, **options)
