"""`FlowDensity`: known densities, weights that mean copies, and scikit-learn's contract."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.utils.estimator_checks import estimator_checks_generator
from truth_flow import banana, banana_rows

from minorant.estimators import FlowDensity, _flow_fit

# What the contract asks is the same for any depth and width: small flows compile and climb faster.
SMALL = FlowDensity(coupling="affine", n_layers=2, hidden_size=8, random_state=0)


def all_checks():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not inherit from")
        return list(estimator_checks_generator(clone(SMALL).set_params(max_iter=500)))


def name_of(part):
    check = getattr(part, "func", part)
    return getattr(check, "__name__", type(part).__name__)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("estimator", "check"), all_checks(), ids=name_of)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def rows():
    return banana_rows(np.random.default_rng(0), 3000) * [1.0, 100.0]


@pytest.fixture(scope="module")
def fitted(rows):
    return FlowDensity(coupling="affine", random_state=0).fit(rows)


def shortfall(flow, fresh, log_density):
    """By how much the flow's mean log density falls short of the truth, and the standard error."""
    difference = log_density - flow.score_samples(fresh)
    return difference.mean(), difference.std() / np.sqrt(len(fresh))


def test_it_finds_a_bent_density(rows, fitted):
    fresh = banana_rows(np.random.default_rng(1), 20_000)
    truth = banana(fresh) - np.log(100.0)
    fresh = fresh * [1.0, 100.0]
    short, error = shortfall(fitted, fresh, truth)
    assert fitted.converged_
    assert -4 * error < short < 0.06 + 4 * error  # nats per row: what 3000 rows leave open
    assert fitted.score(fresh) > GaussianMixture(1).fit(rows).score(fresh) + 0.9


def test_what_is_said_of_the_rows_held_out(fitted):
    expected = banana(banana_rows(np.random.default_rng(2), 20_000)).mean() - np.log(100.0)
    score = fitted.validation_score_
    assert abs(score.value - expected) < 4 * score.standard_error + 0.06
    assert 0.02 < score.standard_error < 0.2
    assert np.all(np.diff(fitted.validation_curve_) >= 0)
    assert fitted.validation_curve_[-1] == pytest.approx(score.value, abs=1e-9)


def test_its_draws_have_its_density(fitted):
    draws = fitted.sample(4000)
    assert draws.shape == (4000, 2)
    away = draws[:, 1] / 100.0 - draws[:, 0] ** 2
    assert abs(draws[:, 0].mean()) < 0.15
    assert 0.4 < away.std() < 0.7
    # E log q(x) under its own draws is what it scores on the data, whose density it has.
    assert fitted.score(draws) == pytest.approx(fitted.validation_score_.value, abs=0.25)


def test_it_integrates_to_one(fitted):
    x, y = np.linspace(-7, 7, 500), np.linspace(-2000, 6000, 2000)
    grid = np.stack([part.ravel() for part in np.meshgrid(x, y)], axis=1)
    cell = (x[1] - x[0]) * (y[1] - y[0])
    assert np.exp(fitted.score_samples(grid)).sum() * cell == pytest.approx(1.0, abs=1e-3)


def test_a_gaussian_stays_one():
    rng = np.random.default_rng(3)
    factor = np.array([[2.0, 0, 0], [1.0, 1.0, 0], [-0.5, 0.3, 0.2]])
    truth = stats.multivariate_normal(np.ones(3), factor @ factor.T)
    flow = FlowDensity(coupling="affine", random_state=1).fit(truth.rvs(2000, random_state=rng))
    fresh = truth.rvs(20_000, random_state=rng)
    short, error = shortfall(flow, fresh, truth.logpdf(fresh))
    assert -4 * error < short < 0.01 + 4 * error


@pytest.fixture(scope="module")
def two_bumps():
    """One column, two modes and heavy tails: (draw, log density)."""
    parts = stats.t(4, -4.0, 0.5), stats.t(4, 3.0, 1.0)

    def draw(rng, n):
        first = rng.random(n) < 0.3
        both = [part.rvs(n, random_state=rng) for part in parts]
        return np.where(first, *both)[:, None]

    def log_density(values):
        return np.log(0.3 * parts[0].pdf(values[:, 0]) + 0.7 * parts[1].pdf(values[:, 0]))

    return draw, log_density


@pytest.mark.parametrize("tails", ["normal", "student"])
def test_one_column(two_bumps, tails):
    draw, log_density = two_bumps
    rng = np.random.default_rng(4)
    rows, fresh = draw(rng, 3000), draw(rng, 20_000)
    flow = FlowDensity(n_layers=2, tails=tails, random_state=0).fit(rows)
    short, error = shortfall(flow, fresh, log_density(fresh))
    assert -4 * error < short < 0.04 + 4 * error
    assert flow.score(fresh) > GaussianMixture(1).fit(rows).score(fresh) + 0.3


def test_weights_mean_copies_and_order_does_not_matter(rows):
    rng = np.random.default_rng(5)
    some, weights = rows[:60], rng.integers(0, 3, 60)
    weighted = clone(SMALL).fit(some, sample_weight=weights)
    copies = np.repeat(some, weights, axis=0)[rng.permutation(weights.sum())]
    copied = clone(SMALL).fit(copies)
    np.testing.assert_allclose(weighted.score_samples(some), copied.score_samples(some), rtol=1e-9)
    plain = clone(SMALL).fit(some)
    assert np.abs(plain.score_samples(some) - weighted.score_samples(some)).max() > 0.01


def test_no_copy_is_on_both_sides():
    rng = np.random.default_rng(6)
    rows = np.repeat(rng.normal(size=(50, 2)), 3, axis=0)
    table = _flow_fit.merged(rows, None, 1)
    assert len(table.rows) == 50
    assert np.all(table.weights == 3)
    train, held = _flow_fit.split(table, 0.2)
    assert held.weights.sum() == 30
    assert len(np.unique(np.r_[train.rows, held.rows], axis=0)) == 50
    other = _flow_fit.merged(rows, None, 2)
    assert not np.array_equal(other.rows, table.rows)


def test_batches_draw_rows_by_their_weights(float64):
    import jax

    weights = np.array([1.0, 0.0, 5.0, 2.0])
    seen = np.zeros(4)

    class Tally:
        def log_density(self, rows):
            np.add.at(seen, np.asarray(rows)[:, 0].astype(int), 1)
            return rows[:, 0]

    table = _flow_fit.Weighted(np.arange(4.0)[:, None], weights)
    batch = _flow_fit._likelihood(table, 2)
    for seed in range(300):
        batch(Tally(), jax.random.key(seed))
    assert seen.sum() == 600
    share = weights / weights.sum()
    assert np.all(np.abs(seen / 600 - share) <= 4.5 * np.sqrt(share * (1 - share) / 600))


def test_it_is_kept_and_copied(fitted, rows):
    back = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(back.score_samples(rows[:50]), fitted.score_samples(rows[:50]))
    assert not hasattr(clone(fitted), "flow_")


def test_single_precision_stays_single(rows):
    single = clone(SMALL).fit(rows[:200].astype(np.float32))
    assert single.sample(3).dtype == np.float32
    scores = single.score_samples(rows[:5].astype(np.float32))
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


def test_a_limit_on_steps_is_told(rows):
    with pytest.warns(ConvergenceWarning, match="raise max_iter, or loosen tol"):
        flow = clone(SMALL).set_params(max_iter=100).fit(rows[:200])
    assert not flow.converged_
    assert flow.n_iter_ == 100


def with_cell(rows, value):
    changed = rows[:40].copy()
    changed[7, 1] = value
    return changed


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (lambda rows: with_cell(rows, np.nan), "NaN: column 1 of X, row 7"),
        (lambda rows: with_cell(rows, np.inf), "infinity: column 1 of X, row 7"),
        (lambda rows: np.c_[rows[:40], np.full(40, 3.5)], "constant in column 2.*3.5"),
        (lambda rows: pd.DataFrame({"a": rows[:9, 0], "b": 1.0}), "constant in column 'b'"),
        (lambda rows: np.repeat(rows[:2], 10, axis=0), "2 different rows.*at least 3"),
    ],
)
def test_tables_that_cannot_be_used(rows, table, words):
    with pytest.raises(ValueError, match=words):
        clone(SMALL).fit(table(rows))


def test_calls_that_cannot_be_answered(fitted):
    with pytest.raises(NotFittedError):
        FlowDensity().sample()
    with pytest.raises(ValueError, match="n_samples must be at least 1; got 0"):
        fitted.sample(0)
    with pytest.raises(ValueError, match="'coupling' parameter of FlowDensity must be"):
        FlowDensity(coupling="planar").fit(np.zeros((9, 2)))
