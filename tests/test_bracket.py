"""Limits, bridge, R-hat and schedules against closed forms and simulated repetitions."""

import numpy as np
import pytest
from scipy import special, stats

from minorant.evidence.bracket import (
    bridged,
    grouped,
    groups_for,
    hard_limit,
    nested_rhat,
    weighed,
)
from minorant.evidence.modes import unexplained
from minorant.evidence.narrowing import unseen
from minorant.evidence.schedule import Plan, conditional_size, next_power, resampled


def test_the_hard_limit_takes_off_three_over_n():
    limit = hard_limit(np.full(50, 2.0))
    assert limit == pytest.approx(2.0 - np.log(20.0) / 50)
    assert hard_limit(np.full(50, 2.0), 0.99) < limit


@pytest.mark.parametrize("spread", [0.3, 1.5, 4.0])
def test_the_hard_limit_is_exceeded_in_at_most_one_of_twenty(spread):
    """Log-normal weights of mean one, from nearly equal to hopeless: log Z is 0."""
    rng = np.random.default_rng(0)
    log_weights = rng.normal(-0.5 * spread**2, spread, size=(4000, 256))
    groups = groups_for(256, np.expm1(min(spread**2, 50.0)))
    limits = np.array([hard_limit(grouped(one, groups)) for one in log_weights])
    exceeded = (limits > 0).mean()
    assert exceeded < 0.05
    # One that holds always would be of no use.
    assert np.median(limits) > -0.5 * spread**2 - 0.05


def test_two_point_weights_come_close_to_the_hard_limit():
    """Markov is sharp where Z-hat is either 0 or large: one run in twenty says twenty times Z."""
    rng = np.random.default_rng(1)
    with np.errstate(divide="ignore"):
        log_estimates = np.log(20.0 * (rng.uniform(size=20000) < 0.05))
    limits = np.array([hard_limit(np.array([one]), 0.949) for one in log_estimates])
    assert 0.04 < (limits > 0).mean() < 0.06


def test_groups_are_log_means():
    log_weights = np.log(np.arange(1.0, 9.0))
    np.testing.assert_allclose(np.exp(grouped(log_weights, 4)), [1.5, 3.5, 5.5, 7.5])


def test_the_bridge_of_normals_is_unbiased_and_knows_its_error():
    """q and p normal with log Z = 1.3; the error's size is checked over repetitions."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(400):
        q, p = rng.normal(size=200), 0.8 + 0.7 * rng.normal(size=100)

        def log_ratio(x):
            return 1.3 + stats.norm.logpdf(x, 0.8, 0.7) - stats.norm.logpdf(x)

        found.append(bridged(log_ratio(q), log_ratio(p)))
    z = np.array([(one.value - 1.3) / one.standard_error for one in found])
    assert abs(z.mean()) < 0.25
    assert 0.85 < z.std() < 1.15


def test_the_bridge_of_constant_weights_is_exact():
    one = bridged(np.full(10, 2.5), np.full(7, 2.5))
    assert one.value == pytest.approx(2.5, abs=1e-9)
    assert one.standard_error == pytest.approx(0.0, abs=1e-9)


def test_nothing_is_unseen_where_weights_are_alike():
    assert unseen(np.full(500, 3.0)) == 0.0


@pytest.mark.parametrize("shape", [0.3, 0.6])
def test_what_is_unseen_of_a_pareto_tail(shape):
    """The mean beyond the point of probability 1/s is closed; the largest draw stands for it."""
    rng, s = np.random.default_rng(6), 2000
    draws = stats.genpareto.rvs(shape, size=(300, s), random_state=rng)
    found = np.median([unseen(np.log(weights)) for weights in draws])
    top = stats.genpareto.isf(1.0 / s, shape)
    beyond = (top + (1.0 + shape * top) / (1.0 - shape)) / s * (1.0 - shape)
    assert 0.8 < found / beyond < 1.3


def test_one_chain_in_the_other_mode_does_not_hide_it():
    own, far = np.zeros((4, 128)), np.zeros(128)
    own[2:, 5] = far[:20] = 50.0
    np.testing.assert_array_equal(unexplained(own, far), far > 0)
    # As many of both kinds are a tail that both visit.
    own[:, :20] = 50.0
    assert not unexplained(own, far).any()
    assert not unexplained(np.zeros((4, 128)), np.eye(128)[0] * 50.0).any()


def test_zero_weights_count():
    log_weights = np.array([0.0, -np.inf, 0.0, -np.inf])
    assert weighed(log_weights).log_mean.value == pytest.approx(np.log(0.5))


def test_r_hat_is_one_for_draws_of_one_density_and_above_where_starts_matter():
    rng = np.random.default_rng(3)
    own, far = rng.normal(size=(2, 6, 128, 2))
    assert nested_rhat([own, far]).max() < 1.02
    shifted = far + np.array([0.0, 1.0])
    first, second = nested_rhat([own, shifted])
    assert first < 1.02
    assert second > 1.1
    # Ranks: a coordinate without a mean does not hide or fake anything.
    assert nested_rhat([np.tan(own), np.tan(far)]).max() < 1.02


def test_the_conditional_size_is_that_of_kong():
    log_weights = np.log([1.0, 2.0, 3.0, 0.0 + 1e-300])
    weights = np.exp(log_weights)
    expected = weights.sum() ** 2 / (4 * (weights**2).sum())
    assert conditional_size(log_weights) == pytest.approx(expected)


def test_the_next_power_keeps_nine_tenths():
    ratios = np.random.default_rng(4).normal(0.0, 3.0, size=2000)
    power = next_power(ratios, 1.0)
    assert power < 0.3
    assert conditional_size(power * ratios) == pytest.approx(0.9, abs=1e-3)
    assert next_power(0.01 * ratios, 0.5) == 0.5


def test_resampling_is_in_proportion():
    rng = np.random.default_rng(5)
    log_weights = np.log(np.arange(1.0, 101.0))
    counts = np.bincount(resampled(log_weights, rng), minlength=100)
    expected = 100 * special.softmax(log_weights)
    assert (np.abs(counts - expected) < 1.0).all()


def test_a_refined_plan_holds_the_old_temperatures():
    plan = Plan(np.array([0.0, 0.1, 0.4, 1.0]), np.array([0.9, 0.8, 0.7, 0.6]), 0.6)
    fine = plan.refined(2)
    np.testing.assert_allclose(fine.inverse[::2], plan.inverse)
    assert fine.variance == pytest.approx(0.3)
    ahead, back = fine.forward(), fine.reverse()
    t = fine.size
    np.testing.assert_allclose(back.weight[:t], ahead.weight[:t][::-1])
    # A kernel at each inner temperature, in the opposite order, with the same step.
    np.testing.assert_allclose(back.inverse[: t - 1], ahead.inverse[: t - 1][::-1])
    np.testing.assert_allclose(back.length[: t - 1], ahead.length[: t - 1][::-1])
