"""Complete rows compressed: the same evidence from 2d rows as from n."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from minorant._types import Affine
from minorant.data import arrange_compressed, complete_moments, summarise, summary
from minorant.data.arrays import Table
from minorant.data.moments import same_moments

RNG = np.random.default_rng(0)
ROWS = RNG.normal([5.0, -2.0, 100.0], [1.0, 3.0, 0.1], (200, 3)) @ (np.eye(3) + 0.2)
WEIGHTS = RNG.integers(1, 4, 200).astype(float)
UNITS = Affine(ROWS.mean(0), ROWS.std(0))


NAMES = ("a", "b", "c")


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


@pytest.fixture
def short_blocks(monkeypatch):
    """Blocks of ten rows of three columns, a last one that is shorter, long rows of two."""
    monkeypatch.setattr(summary, "_BLOCK_CELLS", 30)
    monkeypatch.setattr(summary, "_LONG_ROW", 6)


@pytest.mark.parametrize("weights", [None, WEIGHTS[:187]])
@pytest.mark.usefixtures("short_blocks")
def test_moments_joined_over_blocks_are_those_of_all_rows(weights):
    rows = ROWS[:187]
    found = complete_moments(Table(rows, weights))
    mean, covariance = found.moments.in_units(UNITS)
    scaled = UNITS.apply(rows)
    np.testing.assert_allclose(mean, np.average(scaled, axis=0, weights=weights), atol=1e-14)
    expected = np.cov(scaled.T, aweights=weights, bias=True)
    np.testing.assert_allclose(covariance, expected, rtol=1e-13, atol=1e-14)
    look, alone = (summarise(rows, weights, NAMES, known) for known in (found.columns(), None))
    for one in (look, alone):
        np.testing.assert_allclose(one.variance, np.diag(covariance) * UNITS.scale**2)
        np.testing.assert_array_equal(one.minimum, rows.min(0))
        np.testing.assert_array_equal(one.maximum, rows.max(0))


@pytest.mark.usefixtures("short_blocks")
def test_rows_far_from_zero_and_from_each_other_lose_no_digits():
    """Mean 1e6, standard deviation 1, and the first rows a thousand deviations off."""
    near = RNG.normal(size=(400, 3))
    near[:20] += 1000.0
    rows = near + 1e6  # rounds by 1e-10: what the rows then hold is exact again
    exact = (rows - 1e6).astype(np.longdouble)
    exact = np.asarray((exact - exact.mean(0)).T @ (exact - exact.mean(0)) / 400, dtype=float)
    _, covariance = complete_moments(Table(rows)).moments.in_units(Affine.identity(3))
    np.testing.assert_allclose(covariance, exact, rtol=1e-12, atol=1e-12 * np.diag(exact).max())


@pytest.mark.usefixtures("short_blocks")
def test_incomplete_rows_are_left_out_of_the_moments_and_the_range_skips_their_gaps():
    rows = ROWS.copy()
    rows[3:28:4, 1] = rows[90, 0] = np.nan
    found = complete_moments(Table(rows, WEIGHTS))
    complete = ~np.isnan(rows).any(1)
    np.testing.assert_array_equal(found.rows, complete)
    assert found.columns() is None
    expected = np.cov(rows[complete].T, aweights=WEIGHTS[complete], bias=True)
    np.testing.assert_allclose(found.moments.in_units(Affine.identity(3))[1], expected)
    look = summarise(rows, WEIGHTS, NAMES)
    np.testing.assert_array_equal(look.minimum, np.nanmin(rows, 0))
    np.testing.assert_array_equal(look.maximum, np.nanmax(rows, 0))


@pytest.mark.parametrize("size", [1e-170, 1e160])
def test_squares_that_a_float_cannot_hold_are_formed_in_other_units(size):
    scaled = np.array([1.0, size, 1.0])
    with pytest.raises(ValueError, match="'b' has a variance that a float64 cannot hold"):
        summarise(ROWS * scaled, None, NAMES, complete_moments(Table(ROWS * scaled)).columns())
    units = Affine(UNITS.shift * scaled, UNITS.scale * scaled)
    both = [
        arrange_compressed(Table(rows), own, np.dtype(float), False)[0].segments[0].rows.values
        for rows, own in ((ROWS, UNITS), (ROWS * scaled, units))
    ]
    plain, extreme = (np.cov(values[0][:6].T, bias=True) for values in both)
    np.testing.assert_allclose(extreme, plain, rtol=1e-9, atol=1e-12)
