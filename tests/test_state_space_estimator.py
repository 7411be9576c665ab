"""The estimator `StateSpace`: sequences, times, inputs, forecasts, gaps, and what it refuses."""

import jax
import numpy as np
import pytest
import truth_kalman as truth
from sklearn.base import clone

from minorant import datasets
from minorant.estimators import StateSpace
from minorant.plots import series as draw_series

LEVEL = {"transition": [[1.0]], "observation": [[1.0]], "observation_offset": [0.0]}


def law_of(fitted):
    """The fitted parameters as the dense truth takes them."""
    parts = {name: np.asarray(getattr(fitted, f"{name}_"), float) for name in NAMES}
    parts["observation_covariance"] = np.diag(parts["observation_covariance"])
    return truth.Law(*(parts[name] for name in NAMES))


NAMES = (
    "transition", "transition_inputs", "transition_offset", "transition_covariance", "observation",
    "observation_inputs", "observation_offset", "observation_covariance", "initial_mean",
    "initial_covariance",
)  # fmt: skip


@pytest.fixture(scope="module")
def driven():
    """Two sequences with inputs and gaps, and a fit of a few steps (quick; any law will do)."""
    rng = np.random.default_rng(0)
    law = truth.random_law(rng, 2, 3, 1)
    start = np.isin(np.arange(20), [0, 12])
    inputs = rng.normal(size=(20, 1))
    x = truth.simulated(rng, law, start, inputs)[1]
    x[rng.random(x.shape) < 0.2] = np.nan
    x[7] = np.nan
    known = {"lengths": [12, 8], "inputs": inputs}
    with pytest.warns(match="step limit"):
        fitted = StateSpace(2, max_iter=3, random_state=0).fit(x, **known)
    return fitted, x, start, known


@pytest.mark.slow
def test_answers_equal_the_dense_normal_density(driven):
    fitted, x, start, known = driven
    law, inputs, t = law_of(fitted), known["inputs"], np.arange(20)
    exact = truth.dense(law, x, start, inputs)
    smooth = fitted.smooth(x, **known)
    np.testing.assert_allclose(smooth.mean, exact.mean, atol=1e-9)
    np.testing.assert_allclose(smooth.covariance, exact.covariance[t, :, t], atol=1e-9)
    np.testing.assert_allclose(
        fitted.score_samples(x, **known),
        truth.sequential_log_evidence(law, x, start, inputs),
        atol=1e-9,
    )
    filtered = fitted.filter(x, **known)
    so_far = truth.dense(law, x[:5], start[:5], inputs[:5])
    np.testing.assert_allclose(filtered.updated.mean[4], so_far.mean[4], atol=1e-9)
    np.testing.assert_allclose(
        filtered.updated.covariance[4], so_far.covariance[4, :, 4], atol=1e-9
    )
    filled = fitted.impute(x, **known)
    wanted = exact.mean @ law.C.T + inputs @ law.D.T + law.c
    np.testing.assert_allclose(filled, np.where(np.isnan(x), wanted, x), atol=1e-9)
    drawn = fitted.impute(x, draw=True, **known)
    assert np.array_equal(drawn[~np.isnan(x)], x[~np.isnan(x)])
    assert np.all(np.abs(drawn - filled)[np.isnan(x)] > 0)


def test_forecasts_are_the_density_of_the_rows_to_come(driven):
    fitted, x, start, known = driven
    law, h = law_of(fitted), 3
    ahead = np.random.default_rng(1).normal(size=(h, 1))
    forecast = fitted.forecast(x, h, ahead, **known)
    assert forecast.mean.shape == (2, h, 3)
    for which, rows in enumerate((slice(0, 12), slice(12, 20))):
        longer = np.concatenate([x[rows], np.full((h, 3), np.nan)])
        inputs = np.concatenate([known["inputs"][rows], ahead])
        exact = truth.dense(law, longer, np.arange(len(longer)) == 0, inputs)
        mean = exact.mean[-h:] @ law.C.T + ahead @ law.D.T + law.c
        np.testing.assert_allclose(forecast.mean[which], mean, atol=1e-9)
        last = exact.covariance[-1, :, -1]
        np.testing.assert_allclose(
            forecast.covariance[which, -1], law.C @ last @ law.C.T + law.R, atol=1e-9
        )
    low, high = forecast.interval(0.5)
    assert np.all(low < forecast.mean)
    assert np.all(high > forecast.mean)
    with pytest.raises(ValueError, match="future_inputs must be given"):
        fitted.forecast(x, h, **known)


def test_samples_follow_the_model(driven):
    fitted, *_ = driven
    inputs = np.ones((1000, 1))
    rows, states = fitted.sample(1000, inputs)
    assert np.array_equal(rows, fitted.sample(1000, inputs)[0])
    law = law_of(fitted)
    noise = rows - states @ law.C.T - inputs @ law.D.T - law.c
    away = states[1:] - states[:-1] @ law.A.T - inputs[1:] @ law.B.T - law.b
    for found, wanted in ((noise, law.R), (away, law.Q)):
        error = np.sqrt((np.outer(np.diag(wanted), np.diag(wanted)) + wanted**2) / len(found))
        assert np.max(np.abs(np.cov(found.T) - wanted) / error) < 4.5


@pytest.fixture(scope="module")
def nile():
    rows = datasets.load("nile")["volume"][:, None]
    return StateSpace(**LEVEL).fit(rows), rows


def test_times_that_leave_steps_out_equal_rows_of_nan(nile):
    fitted, rows = nile
    times = np.delete(np.arange(100), [10, 11, 50])
    gappy = rows.copy()
    gappy[[10, 11, 50]] = np.nan
    short = rows[times]
    kept = fitted.smooth(short, times=times + 1871)
    np.testing.assert_array_equal(kept.mean, fitted.smooth(gappy).mean[times])
    np.testing.assert_array_equal(
        fitted.score_samples(short, times=times), fitted.score_samples(gappy)[times]
    )
    groups = np.r_[np.repeat("b", 40), np.repeat("a", len(short) - 40)]
    apart = fitted.smooth(short, times=times, groups=groups)
    np.testing.assert_allclose(
        apart.mean[40:], fitted.smooth(gappy[times[40] :]).mean[times[40:] - times[40]], rtol=1e-12
    )


def test_what_is_given_is_held_and_nan_entries_are_learned():
    rows = datasets.load("nile")["volume"][:, None]
    model = StateSpace(
        transition=[[np.nan, np.nan], [1.0, 0.0]],
        observation=[[1.0, 0.0]],
        transition_covariance=[[np.nan, 0.0], [0.0, 0.0]],
        observation_covariance=[100.0],
    ).fit(rows)
    assert np.array_equal(model.transition_[1], [1.0, 0.0])
    assert np.array_equal(model.observation_, [[1.0, 0.0]])
    assert model.observation_covariance_[0] == pytest.approx(100.0, rel=1e-12)
    assert model.transition_covariance_[1] == 0.0
    arima = pytest.importorskip("statsmodels.tsa.arima.model")
    theirs = arima.ARIMA(rows, order=(2, 0, 0)).fit().params
    # Noise of 100 beside 20,000, and the first state's law, are what differs.
    np.testing.assert_allclose(model.transition_[0], theirs[1:3], atol=0.02)


@pytest.mark.slow
def test_standard_errors_and_copies(nile):
    fitted, rows = nile
    table = {one.name: one for one in fitted.standard_errors(rows).table()}
    assert 2000 < table["observation_covariance[0]"].standard_error < 4500
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "fit_")
    assert fitted.score(rows) == pytest.approx(fitted.log_likelihood_ / 100, rel=1e-12)


def test_several_sequences_teach_the_first_state_s_law():
    rng = np.random.default_rng(4)
    law = truth.random_law(rng, 1, 2)
    start = np.arange(300) % 5 == 0
    rows = truth.simulated(rng, law, start, np.zeros((300, 0)))[1]
    fitted = StateSpace(1, tol=1e-4).fit(rows.astype(np.float32), lengths=np.full(60, 5))
    assert "initial_covariance" not in fitted.fit_.model.held
    assert fitted.fit_.dtype == "float32"
    weights = np.repeat(np.r_[np.ones(59), 0.0], 5)
    one = StateSpace(1, max_iter=5, tol=0.0)
    with pytest.warns(match="step limit"):
        left_out = one.fit(rows, lengths=np.full(60, 5), sample_weight=weights)
    assert left_out.fit_.n_rows == 295


def test_what_cannot_be_used_is_said(nile):
    fitted, rows = nile
    for keywords, sentence in (
        ({"lengths": [50, 49]}, "lengths add up to 99, but X has 100 rows"),
        ({"lengths": [100, 0]}, r"lengths\[1\] is 0: a sequence has at least one row"),
        ({"lengths": [1.5, 98.5]}, "lengths must be whole numbers"),
        ({"lengths": [100], "groups": np.zeros(100)}, "Give lengths or groups, not both"),
        ({"times": np.r_[np.arange(99), 5]}, "row 99 has 5 after 98 in row 98"),
        ({"times": np.arange(100) / 2}, "times must be whole steps; row 1 has"),
        ({"times": np.arange(5)}, "times must have one entry per row, 100"),
        ({"times": 2 * np.arange(100), "inputs": np.ones((100, 1))}, "inputs are not known"),
        ({"inputs": np.ones((100, 1))}, "n_inputs=0; got 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            fitted.smooth(rows, **keywords)
    with pytest.raises(ValueError, match="n_steps must be at least 1"):
        fitted.forecast(rows, 0)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        fitted.forecast(rows, 1).interval(1.0)
    with pytest.raises(ValueError, match="off its diagonal"):
        StateSpace(2, transition_covariance=[[np.nan, 0.5], [0.5, 1.0]]).fit(rows)
    with pytest.raises(ValueError, match="'solver' parameter of StateSpace must be"):
        StateSpace(solver="newton").fit(rows)


def test_the_picture_shows_series_states_and_forecast(nile):
    fitted, rows = nile
    gappy = rows.copy()
    gappy[20:30] = np.nan
    axes = draw_series(fitted, gappy, n_steps=10)
    assert len(axes) == 1
    line, *_ = axes[0].get_lines()
    assert len(line.get_xdata()) == 100
    bands = [one for one in axes[0].collections if one.get_paths()]
    assert len(bands) >= 2
    assert axes[0].get_xlim()[1] >= 109
    with jax.enable_x64(True):
        two = draw_series(fitted.fit_, rows)
    assert len(two) == 1
