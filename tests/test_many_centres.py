"""Where climbs with many components start: k-means on a sample, a few rows at a time."""

from __future__ import annotations

import numpy as np

from minorant.solvers import many_centres

K, N = 7, 300
RNG = np.random.default_rng(5)
MEANS = 1.5 * RNG.normal(size=(K, 2))
LABELS = RNG.integers(0, K, N)
ROWS = MEANS[LABELS] + RNG.normal(size=(N, 2))
WEIGHTS = RNG.integers(0, 4, N).astype(float)


def test_centres_are_looked_for_a_few_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(many_centres, "_SCORES", 50)
    far = ((ROWS[:, None] - MEANS) ** 2).sum(2)
    np.testing.assert_array_equal(many_centres.nearest_centre(ROWS, MEANS), far.argmin(1))


def test_means_are_weighted_and_centres_without_rows_stay():
    found = many_centres._means(ROWS, WEIGHTS, LABELS, np.full((K + 1, 2), 7.0))
    one = np.average(ROWS[LABELS == 2], axis=0, weights=WEIGHTS[LABELS == 2])
    np.testing.assert_allclose(found[2], one)
    np.testing.assert_array_equal(found[K], [7.0, 7.0])


def test_a_partition_is_by_the_nearest_mean():
    groups = np.repeat(np.arange(4), 30)
    rows = 50.0 * np.eye(4)[groups] + RNG.normal(size=(120, 4))
    weights = RNG.integers(1, 4, 120).astype(float)
    labels = many_centres.partition(np.random.default_rng(0), rows, weights, 4)
    held = np.unique(labels)
    means = [np.average(rows[labels == k], axis=0, weights=weights[labels == k]) for k in held]
    far = ((rows[:, None] - np.stack(means)) ** 2).sum(2)
    assert len(held) > 1
    np.testing.assert_array_equal(labels, held[far.argmin(1)])
