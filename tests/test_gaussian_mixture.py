"""`GaussianMixture` against scikit-learn's, and what scikit-learn's cannot do."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import stats
from sklearn import datasets, mixture
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

from minorant.datasets import load
from minorant.estimators import GaussianMixture

KINDS = ("full", "tied", "diag", "spherical")
ATTRIBUTES = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
IRIS = datasets.load_iris().data
FAITHFUL = np.column_stack(list(load("old_faithful").values()))


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    """Our fit of iris, and scikit-learn's estimator with the same parameters."""
    ours = GaussianMixture(3, covariance_type=request.param, random_state=0).fit(IRIS)
    theirs = mixture.GaussianMixture(3, covariance_type=request.param, random_state=0).fit(IRIS)
    reached = theirs.score(IRIS)
    for name in ATTRIBUTES:
        assert getattr(ours, name).shape == getattr(theirs, name).shape, name
        setattr(theirs, name, getattr(ours, name))
    return ours, theirs, reached


@pytest.fixture(scope="module")
def faithful():
    return GaussianMixture(2, random_state=0).fit(FAITHFUL)


# The same meanings


def test_predictions_are_those_of_scikit_learn_at_our_parameters(pair):
    ours, theirs, _ = pair
    assert np.allclose(ours.score_samples(IRIS), theirs.score_samples(IRIS), rtol=1e-9)
    assert np.allclose(ours.predict_proba(IRIS), theirs.predict_proba(IRIS), atol=1e-9)
    assert np.array_equal(ours.predict(IRIS), theirs.predict(IRIS))
    for question in ("score", "bic", "aic"):
        mine, yours = (getattr(one, question)(IRIS) for one in (ours, theirs))
        assert mine == pytest.approx(yours, rel=1e-10), question


def test_the_optimum_is_at_least_as_good(pair):
    ours, _, reached = pair
    assert ours.score(IRIS) >= reached - 1e-7


def test_the_lower_bound_is_the_mean_log_likelihood(pair):
    ours, _, _ = pair
    assert ours.lower_bound_ == pytest.approx(ours.score(IRIS), rel=1e-10)
    assert ours.lower_bounds_[-1] == pytest.approx(ours.lower_bound_, rel=1e-10)
    assert len(ours.lower_bounds_) == ours.n_iter_
    assert ours.converged_ is True


def test_precisions_invert_covariances(pair):
    ours, _, _ = pair
    if ours.covariance_type in ("diag", "spherical"):
        assert np.allclose(ours.precisions_ * ours.covariances_, 1.0)
    else:
        assert np.allclose(ours.precisions_ @ ours.covariances_, np.eye(4), atol=1e-9)


def test_one_step_is_scikit_learns_step():
    start = {
        "weights_init": [0.3, 0.7],
        "means_init": [[2.0, 55.0], [4.0, 80.0]],
        "precisions_init": [np.diag([4.0, 0.02]), np.diag([5.0, 0.03])],
    }
    theirs = mixture.GaussianMixture(2, max_iter=1, reg_covar=0, **start)
    with pytest.warns(ConvergenceWarning):
        theirs.fit(FAITHFUL)
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        before = GaussianMixture(2, max_iter=0, **start).fit(FAITHFUL)
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        after = GaussianMixture(2, max_iter=2, **start).fit(FAITHFUL)
    assert before.n_iter_ == 0
    assert not before.converged_
    assert np.allclose(before.means_, start["means_init"], rtol=1e-12)
    assert np.allclose(before.precisions_, start["precisions_init"], rtol=1e-12)
    for name in ATTRIBUTES:
        assert np.allclose(getattr(after, name), getattr(theirs, name), rtol=1e-9), name


@pytest.mark.parametrize("k", [1, 3])
def test_sample_is_grouped_by_component(k):
    kept = GaussianMixture(k, random_state=3).fit(FAITHFUL)
    rows, labels = kept.sample(4000)
    assert rows.shape == (4000, 2)
    assert np.array_equal(labels, np.sort(labels))
    again, _ = kept.sample(4000)
    assert np.array_equal(rows, again)
    for j in range(k):
        mine = rows[labels == j]
        spread = np.sqrt(np.diagonal(kept.covariances_[j]) / len(mine))
        assert np.all(np.abs(mine.mean(0) - kept.means_[j]) < 5 * spread)
    share = np.bincount(labels, minlength=k) / 4000
    assert np.all(np.abs(share - kept.weights_) < 5 / np.sqrt(4 * 4000))
    with pytest.raises(ValueError, match="Invalid value for 'n_samples': 0"):
        kept.sample(0)


def digits():
    return PCA(8, random_state=0).fit_transform(datasets.load_digits().data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "k", "seeds"),
    [(datasets.load_wine().data, 3, 1), (FAITHFUL, 2, 1), (digits(), 10, 5)],
    ids=["wine", "faithful", "digits"],
)
def test_default_settings_reach_at_least_scikit_learns_optimum(table, k, seeds):
    """On digits there are many optima: there the mean over seeds is compared."""
    fits = [GaussianMixture(k, random_state=seed).fit(table) for seed in range(seeds)]
    theirs = [mixture.GaussianMixture(k, random_state=seed).fit(table) for seed in range(seeds)]
    assert all(one.converged_ for one in fits)
    reached, rival = (np.mean([one.score(table) for one in all_]) for all_ in (fits, theirs))
    assert reached >= rival - 1e-6
    ours = fits[0]
    polished = mixture.GaussianMixture(
        k, tol=1e-12, max_iter=5000, reg_covar=0, weights_init=ours.weights_,
        means_init=ours.means_, precisions_init=ours.precisions_,
    ).fit(table)  # fmt: skip
    assert ours.score(table) >= polished.score(table) - 1e-6  # within 1e-6 nats per row of the top


# What is ours


def test_reg_covar_is_a_floor():
    rows = np.r_[FAITHFUL, np.repeat([[10.0, 10.0]], 30, axis=0)]
    floored = GaussianMixture(3, reg_covar=0.05, random_state=0).fit(rows)
    lowest = np.linalg.eigvalsh(floored.covariances_)[:, 0]
    assert lowest.min() == pytest.approx(0.05, rel=1e-6)
    added = mixture.GaussianMixture(3, reg_covar=0.05, random_state=0, n_init=5).fit(rows)
    assert floored.score(rows) >= added.score(rows)


def test_integer_weights_are_copies():
    weights = np.random.default_rng(1).integers(0, 4, len(FAITHFUL))
    copies = FAITHFUL.repeat(weights, axis=0)
    start = {"means_init": [[2.0, 55.0], [4.0, 80.0]], "tol": 1e-10}
    weighted = GaussianMixture(2, **start).fit(FAITHFUL, sample_weight=weights)
    copied = GaussianMixture(2, **start).fit(copies)
    for name in (*ATTRIBUTES, "lower_bound_"):
        assert np.allclose(getattr(weighted, name), getattr(copied, name), rtol=1e-5), name
    for question in ("score", "bic", "aic"):
        mine = getattr(weighted, question)(FAITHFUL, sample_weight=weights)
        assert mine == pytest.approx(getattr(weighted, question)(copies), rel=1e-10), question


def test_one_component_with_gaps_is_regression(faithful):
    rows = FAITHFUL.copy()
    one = GaussianMixture().fit(rows)
    mean, covariance = rows.mean(0), np.cov(rows.T, bias=True)
    assert np.allclose(one.means_[0], mean, rtol=1e-9)
    assert np.allclose(one.covariances_[0], covariance, rtol=1e-9)
    rows[0, 1] = np.nan
    slope = covariance[0, 1] / covariance[0, 0]
    filled = one.impute(rows)
    assert filled[0, 1] == pytest.approx(mean[1] + slope * (rows[0, 0] - mean[0]), rel=1e-9)
    assert np.array_equal(filled[1:], rows[1:])
    marginal = stats.norm(mean[0], np.sqrt(covariance[0, 0])).logpdf(rows[0, 0])
    assert one.score_samples(rows[:1])[0] == pytest.approx(marginal, rel=1e-9)
    assert faithful.score_samples([[np.nan, np.nan]])[0] == pytest.approx(0.0, abs=1e-15)


def test_fit_with_gaps(faithful):
    rows = FAITHFUL.copy()
    hidden = np.random.default_rng(0).random(rows.shape) < 0.2
    hidden[hidden.all(1)] = False
    rows[hidden] = np.nan
    gaps = GaussianMixture(2, random_state=0).fit(pd.DataFrame(rows, columns=["a", "b"]))
    assert gaps.fit_.names == ("a", "b")
    order = np.argsort(gaps.means_[:, 0])
    reference = faithful.means_[np.argsort(faithful.means_[:, 0])]
    assert np.all(np.abs(gaps.means_[order] - reference) < 0.1 * FAITHFUL.std(0))


def test_known_labels_name_the_components(faithful):
    for flip in (0, 1):
        labels = np.full(len(FAITHFUL), -1)
        labels[np.argmin(FAITHFUL[:, 0])], labels[np.argmax(FAITHFUL[:, 0])] = flip, 1 - flip
        named = GaussianMixture(2, random_state=0).fit(FAITHFUL, labels=labels)
        assert np.argmin(named.means_[:, 0]) == flip
        assert np.allclose(np.sort(named.weights_), np.sort(faithful.weights_), atol=1e-4)
    with pytest.raises(ValueError, match="labels holds 2 at row 0"):
        GaussianMixture(2).fit(FAITHFUL, labels=np.full(len(FAITHFUL), 2))


def test_fixed_parameters_stay():
    means = np.array([[2.0, 55.0], [4.0, 80.0]])
    held = GaussianMixture(2, means_init=means, fixed={"means": True}).fit(FAITHFUL)
    assert np.allclose(held.means_, means, rtol=1e-12)
    first = GaussianMixture(2, means_init=means, fixed={"means": [True, False]}).fit(FAITHFUL)
    assert np.allclose(first.means_[0], means[0], rtol=1e-12)
    assert not np.allclose(first.means_[1], means[1], rtol=1e-3)
    assert held.score(FAITHFUL) < first.score(FAITHFUL)
    assert held.fit_.n_parameters == 7
    assert first.fit_.n_parameters == 9
    with pytest.raises(ValueError, match="fixed holds the weights, so weights_init must be given"):
        GaussianMixture(2, fixed={"weights": True}).fit(FAITHFUL)
    with pytest.raises(ValueError, match="fixed takes the names weights, means, covariances; got"):
        GaussianMixture(2, fixed={"mean": True}).fit(FAITHFUL)


def test_priors_pull():
    free = GaussianMixture(2, random_state=0).fit(FAITHFUL)
    even = GaussianMixture(2, weight_concentration=1e6, random_state=0).fit(FAITHFUL)
    assert np.allclose(even.weights_, 0.5, atol=1e-3)
    with pytest.warns(ConvergenceWarning, match="is empty"):  # so wide that one takes all rows
        wide = GaussianMixture(2, covariance_prior=[100.0, 1e5], random_state=0).fit(FAITHFUL)
    assert np.all(np.linalg.eigvalsh(wide.covariances_ - free.covariances_.max(0)) > 0)


def test_evidence_is_an_equality(faithful):
    exact = faithful.evidence(FAITHFUL)
    assert exact.gap == 0.0
    assert exact.estimate / len(FAITHFUL) == pytest.approx(faithful.lower_bound_, rel=1e-10)
    half = faithful.evidence(FAITHFUL, np.full((len(FAITHFUL), 2), 0.5))
    assert half.lower + half.gap == pytest.approx(exact.estimate, rel=1e-10)


def test_warm_start_goes_on(faithful):
    warm = GaussianMixture(2, warm_start=True, random_state=0, max_iter=3)
    with pytest.warns(ConvergenceWarning):
        first = warm.fit(FAITHFUL).lower_bound_
    warm.set_params(max_iter=500).fit(FAITHFUL)
    assert warm.lower_bounds_[0] == pytest.approx(first, rel=1e-10)
    assert warm.lower_bound_ == pytest.approx(faithful.lower_bound_, abs=1e-6)
    warm.set_params(n_components=1).fit(FAITHFUL)
    assert warm.means_.shape == (1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_assigned_by_hand_are_followed(kind, faithful):
    known = mixture.GaussianMixture(2, covariance_type=kind, random_state=0).fit(FAITHFUL)
    made = GaussianMixture(2, covariance_type=kind)
    with pytest.raises(NotFittedError):
        made.predict(FAITHFUL)
    for name in ATTRIBUTES:
        setattr(made, name, getattr(known, name))
    assert np.allclose(made.score_samples(FAITHFUL), known.score_samples(FAITHFUL), rtol=1e-9)
    assert made.bic(FAITHFUL) == pytest.approx(known.bic(FAITHFUL), rel=1e-10)
    assert made.sample(10)[0].shape == (10, 2)


def test_parameters_changed_in_place_are_followed(faithful):
    changed = pickle.loads(pickle.dumps(faithful))
    assert np.array_equal(changed.predict_proba(FAITHFUL), faithful.predict_proba(FAITHFUL))
    changed.means_ += 1.0
    moved = faithful.score_samples(FAITHFUL - 1.0)
    assert np.allclose(changed.score_samples(FAITHFUL), moved, rtol=1e-9)


def test_random_state_kinds(faithful):
    legacy = [GaussianMixture(2, random_state=np.random.RandomState(4)) for _ in range(2)]
    modern = [GaussianMixture(2, random_state=np.random.default_rng(4)) for _ in range(2)]
    for one, other in (legacy, modern):
        assert np.array_equal(one.fit(FAITHFUL).means_, other.fit(FAITHFUL).means_)
    fresh = GaussianMixture(2, n_init=3, init_params="k-means++").fit(FAITHFUL)
    assert fresh.lower_bound_ == pytest.approx(faithful.lower_bound_, abs=1e-6)


def test_acceleration_changes_the_road_not_the_end(faithful):
    plain = GaussianMixture(2, acceleration=None, random_state=0).fit(FAITHFUL)
    squared = GaussianMixture(2, acceleration="squarem", random_state=0).fit(FAITHFUL)
    for other in (plain, squared):
        assert other.lower_bound_ == pytest.approx(faithful.lower_bound_, abs=1e-6)
    assert plain.fit_.acceleration.kept == 0


BAD = {
    "kind": ({"covariance_type": "round"}, InvalidParameterError, "'full', 'tied', 'diag'"),
    "zero": ({"n_components": 0}, InvalidParameterError, r"an int in \[1, inf\)"),
    "shape": ({"means_init": [[1.0, 2.0]]}, ValueError, r"means_init must have shape \(2, 2\)"),
    "sum": ({"weights_init": [0.5, 0.6]}, ValueError, "weights_init must .* sum to 1"),
    "definite": ({"precisions_init": [-np.eye(2)] * 2}, ValueError, "positive definite"),
    "prior": ({"covariance_prior": [1.0] * 3}, ValueError, "covariance_prior must be one"),
    "few": ({"n_components": 300}, ValueError, "300 components cannot be told apart by 272 rows"),
}


@pytest.mark.parametrize(("options", "kind", "match"), BAD.values(), ids=BAD)
def test_refused(options, kind, match):
    with pytest.raises(kind, match=match):
        GaussianMixture(**{"n_components": 2, **options}).fit(FAITHFUL)


# Types, names, imports


def test_single_precision_in_single_precision_out():
    rows = FAITHFUL.astype(np.float32)
    single = GaussianMixture(2, random_state=0).fit(rows)
    for name in ATTRIBUTES:
        assert getattr(single, name).dtype == np.float32, name
    assert single.predict_proba(rows).dtype == np.float32
    assert single.score_samples(rows).dtype == np.float32
    assert single.fit_.dtype == "float32"


def test_names_are_checked():
    frame = pl.DataFrame({"a": FAITHFUL[:, 0], "b": FAITHFUL[:, 1]})
    named = GaussianMixture().fit(frame)
    assert list(named.feature_names_in_) == ["a", "b"]
    with pytest.raises(ValueError, match="same order as they were in fit"):
        named.predict(frame[["b", "a"]])


def test_arrays_do_not_import_scikit_learn():
    code = """
import sys, numpy as np
from minorant.estimators import GaussianMixture
assert "jax" not in sys.modules
rows = np.random.default_rng(0).normal(size=(40, 2))
mixture = GaussianMixture(2, random_state=0, verbose=0).fit(rows)
mixture.predict(rows), mixture.score(rows), mixture.bic(rows), mixture.sample(3)
for name in ("sklearn", "pandas", "scipy.stats", "matplotlib"):
    assert name not in sys.modules, name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_summary_has_errors_and_limits():
    rows = np.random.default_rng(0).normal(5.0, 2.0, (50, 1))
    mixture = GaussianMixture(1, random_state=0).fit(rows)
    error = mixture.standard_errors(rows).model.component.mean[0, 0]
    np.testing.assert_allclose(error, rows.std() / np.sqrt(50), rtol=1e-5)
    assert "component.mean[0, 0]" in mixture.summary(rows)
