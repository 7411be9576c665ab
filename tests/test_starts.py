"""Starts: seeds by the distribution they claim, k-means against a slow twin, weights as copies."""

from __future__ import annotations

import numpy as np
import pytest

from minorant import Mixture
from minorant.components import FactorAnalyser, Gaussian
from minorant.solvers import starts
from minorant.solvers.starts import Starts


@pytest.fixture
def points():
    return np.random.default_rng(3).normal(size=(40, 2))


def slow_lloyd(points, weights, centres):
    """k-means step by step, one set of centres."""
    for _ in range(starts._LLOYD_STEPS):
        labels = ((points[:, None] - centres) ** 2).sum(2).argmin(1)
        for k in range(len(centres)):
            if weights[labels == k].sum() > 0:
                centres[k] = np.average(points[labels == k], axis=0, weights=weights[labels == k])
    return ((points[:, None] - centres) ** 2).sum(2).argmin(1)


def test_lloyd_is_the_slow_one_for_every_set_of_centres(points):
    weights = np.random.default_rng(0).uniform(0.5, 2.0, 40)
    centres = np.stack([points[[0, 1, 2]], points[[5, 9, 20]]])
    fast = starts.lloyd(points, weights, centres.copy())
    for labels, own in zip(fast, centres, strict=True):
        np.testing.assert_array_equal(labels, slow_lloyd(points, weights, own.copy()))


def test_seeds_are_drawn_in_proportion_to_weighted_squared_distance():
    points, weights = np.array([[0.0], [1.0], [3.0]]), np.array([1e12, 1.0, 2.0])
    drawn = starts.seeds(np.random.default_rng(0), points, weights, 2, 20000, uniform=0.0)
    assert np.all(drawn[:, 0] == 0.0)
    share = (drawn[:, 1, 0] == 3.0).mean()
    expected = 18.0 / 19.0
    assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / 20000)


@pytest.mark.parametrize("kind", ["lloyd", "seeded", "scattered"])
def test_a_row_of_weight_three_is_three_copies(points, kind):
    weights = np.random.default_rng(1).integers(1, 4, 40)
    plan = Starts(n=6, kinds=(kind,))
    copied = np.repeat(points, weights, axis=0)
    one = starts.partitions(np.random.default_rng(7), points, weights.astype(float), 3, plan)
    two = starts.partitions(np.random.default_rng(7), copied, np.ones(len(copied)), 3, plan)
    np.testing.assert_array_equal(np.repeat(one, weights, axis=1), two)


def test_kinds_are_cycled_and_every_label_is_a_component(points):
    plan = Starts(n=5, kinds=("lloyd", "random"))
    labels = starts.partitions(np.random.default_rng(0), points, np.ones(40), 4, plan)
    assert labels.shape == (5, 40)
    assert set(np.unique(labels)) <= set(range(4))


def test_duplicated_rows_leave_seeds_finite():
    points = np.zeros((10, 2))
    assert np.all(starts.seeds(np.random.default_rng(0), points, np.ones(10), 3, 4, 0.0) == 0.0)


def test_a_subsample_leaves_out_rows_of_no_weight():
    weights = np.r_[np.zeros(50), np.ones(50)]
    index = starts.subsample(np.random.default_rng(0), 100, 20, weights)
    assert len(index) == 20
    assert index.min() >= 50
    assert np.all(np.diff(index) > 0)


def test_short_climbs_see_as_many_rows_as_a_step_can_hold():
    """A factor analyser forms few numbers of a row, a full covariance all products of its cells."""
    narrow, wide = FactorAnalyser(n_factors=3).numbers_per_row(500), Gaussian().numbers_per_row(500)
    assert (narrow, wide) == (500 * 5 + 9, 500 * 503 // 2 + 1)
    assert starts.subsample_size(2000, wide, 3) == 150
    assert starts.subsample_size(2000, narrow, 3) == 2000
    mixed = Mixture(FactorAnalyser(n_factors=3), n_components=3)
    assert mixed.numbers_per_row(500) == narrow
