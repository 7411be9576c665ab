"""Short chains say which summaries of q are off, with known answers."""

import numpy as np
import pytest
from jax.scipy import stats

import minorant
from minorant import unknowns
from minorant.evidence import calibration
from minorant.posteriors.members import FullRank
from minorant.target_fit import TargetPosterior

SCALE = np.array([1.0, 2.0, 0.5])


class Given:
    """A fit of no more than a target and a q."""

    def __init__(self, target, member):
        self.target = target
        self.posterior = TargetPosterior(target, member, None, np.dtype(float))


@pytest.fixture(scope="module")
def target():
    def log_density(x):
        return stats.norm.logpdf(x, 1.0, SCALE).sum()

    return minorant.Target(log_density, x=unknowns.real(3))


def test_a_q_that_is_the_posterior_is_not_moved(target):
    found = calibration(Given(target, FullRank(np.ones(3), np.diag(SCALE))))
    assert [row.name for row in found.rows] == ["x[0]", "x[1]", "x[2]"]
    assert not any(row.is_off for row in found.rows)
    assert all(abs(row.shift.value) < 4.5 * row.shift.standard_error for row in found.rows)
    assert "No mean or standard deviation" in found.sentence


def test_a_mean_and_a_spread_that_are_off_are_named_with_their_size(target):
    member = FullRank(np.array([1.0, 2.0, 1.0]), np.diag(SCALE * [1.0, 1.0, 0.6]))
    found = calibration(Given(target, member))
    assert not found["x[0]"].is_off
    second, third = found["x[1]"], found["x[2]"]
    assert second.is_off
    # Off by one half of a standard deviation, and by a factor of 0.6.
    assert abs(second.shift.value + 0.5) < 5 * second.shift.standard_error + 0.05
    assert third.is_off
    assert abs(third.log_ratio.value + np.log(0.6)) < 5 * third.log_ratio.standard_error + 0.05
    assert "mean of x[1] too high by 0." in found.sentence
    assert "sd of x[2] too small by " in found.sentence
    assert str(found).count(" *") == 2


def test_false_alarms_are_rare(target):
    fit = Given(target, FullRank(np.ones(3), np.diag(SCALE)))
    found = [row for seed in range(12) for row in calibration(fit, seed).rows]
    z = [row.shift.value / row.shift.standard_error for row in found]
    assert 0.6 < np.std(z) < 1.5
    assert sum(row.is_off for row in found) <= 1
