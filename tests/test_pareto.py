"""k-hat and smoothed weights, against another library and against tails of known shape."""

from __future__ import annotations

import numpy as np
import pytest

from minorant._pareto import averaged, smoothed


def test_smoothing_and_shape_are_those_of_another_library():
    arviz = pytest.importorskip("arviz_stats.base")
    rng = np.random.default_rng(0)
    # Of 3600 draws both take the 180 largest; elsewhere one rounds their number up, one down.
    for spread in (0.3, 1.0, 2.5):
        log_weights = spread * rng.standard_t(5, size=3600)
        ours, shape = smoothed(log_weights)
        # It takes log likelihoods, whose negatives are the log weights.
        theirs, their_shape = arviz.array_stats.psislw(-log_weights)
        np.testing.assert_allclose(shape, their_shape, rtol=1e-8)
        normalised = ours - np.logaddexp.reduce(ours)
        np.testing.assert_allclose(normalised, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [0.2, 0.6, 0.9])
def test_the_shape_of_a_pareto_tail_is_found(shape):
    rng = np.random.default_rng(1)
    found = [smoothed(shape * rng.exponential(size=20_000))[1] for _ in range(40)]
    # Fitted to the 3 sqrt(s) largest, each estimate has a standard error of about (1 + k)/sqrt(m).
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - shape) < 4 * error + 10 * abs(0.5 - shape) / (3 * np.sqrt(20_000))


def test_few_draws_have_no_shape_and_broken_weights_the_worst():
    assert np.isnan(smoothed(np.zeros(10))[1])
    assert smoothed(np.array([0.0] * 50 + [np.nan]))[1] == np.inf
    assert smoothed(np.zeros(100))[1] == -np.inf


def test_smoothed_weights_keep_their_order_and_never_pass_the_largest():
    log_weights = np.random.default_rng(2).normal(size=1000) * 3
    ours, _ = smoothed(log_weights)
    assert (np.diff(ours[np.argsort(log_weights)]) >= 0).all()
    assert ours.max() <= log_weights.max()


def test_the_mean_and_spread_of_weights_are_those_of_their_exponentials():
    log_weights = np.random.default_rng(3).normal(size=(2, 50)) - np.array([[0.0], [5000.0]])
    mean, spread = averaged(log_weights)
    weights = np.exp(log_weights + np.array([[0.0], [5000.0]]))
    np.testing.assert_allclose(mean, np.log(weights.mean(1)) - [0.0, 5000.0])
    np.testing.assert_allclose(spread, weights.std(1) / weights.mean(1))
    assert averaged(np.full(30, -np.inf)) == (-np.inf, 0.0)
