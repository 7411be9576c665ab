"""Members of families: their densities against scipy, their draws against their densities."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from minorant._config import precision
from minorant.posteriors.members import Blend, FullRank, LowRank, MeanField

RNG = np.random.default_rng(0)
MEAN = RNG.normal(size=4)
FACTOR = np.tril(RNG.normal(size=(4, 4)), -1) + np.diag([0.5, 1.0, 2.0, 0.1])
LOG_SCALE = RNG.normal(size=4)
DIRECTIONS = RNG.normal(size=(4, 2))
SECOND = Blend.of([FullRank(MEAN, FACTOR), FullRank(MEAN + 3, 0.5 * FACTOR)], np.log([1.0, 3.0]))


def _normal(covariance):
    return stats.multivariate_normal(MEAN, covariance)


def _blend(points):
    one = _normal(FACTOR @ FACTOR.T).pdf(points)
    two = stats.multivariate_normal(MEAN + 3, 0.25 * FACTOR @ FACTOR.T).pdf(points)
    return np.log(0.25 * one + 0.75 * two)


SCALE = np.diag(np.exp(LOG_SCALE))
CASES = {
    "full-rank": (FullRank(MEAN, FACTOR), _normal(FACTOR @ FACTOR.T).logpdf),
    "mean-field": (MeanField(MEAN, LOG_SCALE), _normal(SCALE @ SCALE).logpdf),
    "low-rank": (
        LowRank(MEAN, LOG_SCALE, DIRECTIONS),
        _normal(SCALE @ (np.eye(4) + DIRECTIONS @ DIRECTIONS.T) @ SCALE).logpdf,
    ),
    "blend": (SECOND, _blend),
}


@pytest.mark.parametrize("name", CASES)
def test_log_densities_are_scipys(name):
    member, truth = CASES[name]
    points = MEAN + np.random.default_rng(1).normal(size=(50, 4)) @ FACTOR.T
    with precision(np.dtype(float)):
        ours = member.log_density(points)
    np.testing.assert_allclose(ours, truth(points), rtol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_draws_come_with_their_own_log_density(name):
    member, truth = CASES[name]
    with precision(np.dtype(float)):
        drawn = member.transform(member.noise(jax.random.key(0), 4000))
    draws, log_q = map(np.asarray, drawn)
    np.testing.assert_allclose(log_q, truth(draws), rtol=1e-8, atol=1e-8)
    # exp(log r - log q) averages to 1 for any normalised r: here a narrower normal.
    narrow = stats.multivariate_normal(MEAN, 0.5 * FACTOR @ FACTOR.T)
    ratio = np.exp(narrow.logpdf(draws) - log_q)
    if name in {"full-rank", "blend"}:
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(ratio))


def test_a_blend_shares_its_draws_out_by_weight():
    with precision(np.dtype(float)):
        draws = np.asarray(SECOND.sample(jax.random.key(3), 1000))
    near_second = np.linalg.norm(draws - MEAN - 3, axis=1) < np.linalg.norm(draws - MEAN, axis=1)
    assert abs(near_second.mean() - 0.75) < 0.05
