"""Complete rows compressed: the same evidence from 2d rows as from n."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from minorant._types import Affine
from minorant.data import arrange_compressed
from minorant.data.arrays import Table
from minorant.data.moments import same_moments

RNG = np.random.default_rng(0)
ROWS = RNG.normal([5.0, -2.0, 100.0], [1.0, 3.0, 0.1], (200, 3)) @ (np.eye(3) + 0.2)
WEIGHTS = RNG.integers(1, 4, 200).astype(float)
UNITS = Affine(ROWS.mean(0), ROWS.std(0))


def evidence(values, weights, mean, covariance):
    return weights @ stats.multivariate_normal(mean, covariance).logpdf(values)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_any_normal_gives_both_the_same_evidence(weights):
    source, _ = arrange_compressed(Table(ROWS, weights), UNITS, np.dtype(float), True)
    rows = source.segments[0].rows
    assert rows.weight[0].size < 20
    plain = np.ones(200) if weights is None else weights
    np.testing.assert_allclose(float(source.total_weight), plain.sum())
    for seed in range(5):
        rng = np.random.default_rng(seed)
        root = rng.normal(size=(3, 3))
        normal = rng.normal(size=3), root @ root.T + 0.1 * np.eye(3)
        slow = evidence(UNITS.apply(ROWS), plain, *normal)
        np.testing.assert_allclose(evidence(rows.values[0], rows.weight[0], *normal), slow)


def test_rows_with_missing_cells_stay_as_they_are():
    rows = ROWS.copy()
    rows[::5, 1] = np.nan
    source, _ = arrange_compressed(Table(rows, WEIGHTS), UNITS, np.dtype(float), False)
    segment = source.segments[0].rows
    kept = (~segment.observed).any(-1) & (segment.weight > 0)
    assert kept.sum() == 40
    np.testing.assert_allclose(segment.weight.sum(), WEIGHTS.sum())


def test_a_singular_covariance_is_no_obstacle():
    direction = np.array([1.0, 2.0])
    rows = same_moments(np.zeros(2), np.outer(direction, direction))
    np.testing.assert_allclose(rows.T @ rows / 4, np.outer(direction, direction), atol=1e-12)


def test_few_rows_are_left_alone():
    source, _ = arrange_compressed(Table(ROWS[:5]), UNITS, np.dtype(float), False)
    np.testing.assert_allclose(source.segments[0].rows.values[0][:5], UNITS.apply(ROWS[:5]))
