"""The helper that judges every climb is itself judged: what falls must fail."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_never_decreases, rounding


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 1.0, 2.0],
        [5.0, 5.0],
        [-1e9, 0.0, 1e9],
        [0.0, -0.9e-3],  # within the slack
    ],
)
def test_accepts_what_climbs(values):
    assert_never_decreases(values, slack=1e-3)


@pytest.mark.parametrize(
    "values",
    [
        [2.0, 1.0, 0.0],  # falls throughout
        [0.0, 5.0, 4.0, 9.0],  # one fall among rises
        [0.0, 1.0, 2.0, 1.5],  # the last step only
        [1.0, 0.0, 3.0],  # the first step only
        [0.0, -1.1e-3],  # just more than the slack
        [1.0, np.nan, 2.0],
        [np.nan, np.nan],
        [-np.inf, 0.0],
        [0.0, np.inf],
        [1.0],  # nothing was compared
        [],
    ],
)
def test_rejects_what_falls(values):
    with pytest.raises(AssertionError):
        assert_never_decreases(values, slack=1e-3)


def test_rejects_many_small_falls_each_above_the_slack():
    with pytest.raises(AssertionError):
        assert_never_decreases(-1.01e-3 * np.arange(100), slack=1e-3)


def test_slack_follows_precision_and_magnitude():
    assert rounding([1e6], 10, np.float32) > 1e8 * rounding([1e6], 10, np.float64)
    assert rounding([1e6], 10, np.float64) == pytest.approx(1e-9 * 1.77, rel=0.01)
    assert rounding([-1e6], 0, np.float64) == rounding([1e6], 0, np.float64)
