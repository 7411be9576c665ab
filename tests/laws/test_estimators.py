"""Laws of every estimator: scikit-learn's checks, copies, searches, routing, weights, precision."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from minorant.estimators import (
    BayesianGaussianMixture,
    GaussianMixture,
    LatentClassAnalysis,
    MixtureModel,
)

# LatentClassAnalysis refuses categories that `fit` did not see, which one check asks for.
ESTIMATORS = {
    "GaussianMixture": GaussianMixture(),
    "BayesianGaussianMixture": BayesianGaussianMixture(),
    "MixtureModel": MixtureModel(),
    "LatentClassAnalysis": LatentClassAnalysis(handle_unknown="missing"),
}


def rows_for(name):
    """Two groups: numbers, and for latent classes whole numbers."""
    rng = np.random.default_rng(2)
    group = np.repeat([0.0, 1.0], 40)[:, None]
    if name == "LatentClassAnalysis":
        return (rng.random((80, 3)) < 0.15 + 0.7 * group).astype(float)
    return rng.normal(4.0 * group, 1.0, size=(80, 2))


@pytest.fixture(scope="module", params=ESTIMATORS)
def case(request):
    rows = rows_for(request.param)
    estimator = clone(ESTIMATORS[request.param]).set_params(n_components=2, random_state=0)
    return request.param, estimator.fit(rows), rows


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def all_checks():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not inherit from")
        return [
            pair for one in ESTIMATORS.values() for pair in estimator_checks_generator(clone(one))
        ]


def name_of(part):
    check = getattr(part, "func", part)
    return getattr(check, "__name__", type(part).__name__)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("estimator", "check"), all_checks(), ids=name_of)
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_clones_and_pickles(case):
    _, fitted, rows = case
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "fit_")
    back = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(back.score_samples(rows), fitted.score_samples(rows))
    assert np.array_equal(copy.fit(rows).predict_proba(rows), fitted.predict_proba(rows))


def test_search_and_pipeline(case):
    name, fitted, rows = case
    shuffled = rows[np.random.default_rng(0).permutation(len(rows))]
    search = GridSearchCV(clone(fitted), {"n_components": [1, 2]}, cv=2).fit(shuffled)
    assert search.best_params_ == {"n_components": 2}
    if name == "GaussianMixture":
        line = make_pipeline(StandardScaler(), clone(fitted)).fit(rows)
        scaled = np.log(rows.std(0)).sum()
        assert line.score(rows) == pytest.approx(fitted.score(rows) + scaled, abs=1e-6)
        assert line.fit_predict(rows).shape == (80,)


def test_weights_are_routed(case, routing):
    name, fitted, rows = case
    asking = clone(fitted).set_params(n_components=1).set_fit_request(sample_weight=True)
    asking.set_score_request(sample_weight=True)
    weights = np.tile([1.0, 0.0], 40)
    scores = cross_val_score(asking, rows, cv=2, params={"sample_weight": weights})
    halves = rows[:40:2], rows[40::2]
    alone = clone(fitted).set_params(n_components=1)
    expected = [alone.fit(halves[1]).score(halves[0]), alone.fit(halves[0]).score(halves[1])]
    assert np.allclose(scores, expected, rtol=1e-7), name


def test_integer_weights_are_copies(case):
    _, fitted, rows = case
    weights = np.random.default_rng(3).integers(0, 3, len(rows))
    copies = rows.repeat(weights, axis=0)
    offered = [name for name in ("score", "bic", "aic") if hasattr(fitted, name)]
    for question in offered:
        weighted = getattr(fitted, question)(rows, sample_weight=weights)
        assert weighted == pytest.approx(getattr(fitted, question)(copies), rel=1e-10), question
    one = clone(fitted).set_params(n_components=1)
    mine = one.fit(rows, sample_weight=weights).score_samples(rows)
    assert np.allclose(mine, one.fit(copies).score_samples(rows), rtol=1e-7)


def test_single_precision_stays(case):
    _, fitted, rows = case
    single = clone(fitted).fit(rows.astype(np.float32))
    assert single.weights_.dtype == np.float32
    assert single.predict_proba(rows.astype(np.float32)).dtype == np.float32
    assert single.score(rows) == pytest.approx(fitted.score(rows), rel=1e-3)


def test_weights_labels_and_y(case):
    _, fitted, rows = case
    ignored = clone(fitted).fit(rows, np.zeros(len(rows)))
    assert np.array_equal(ignored.weights_, fitted.weights_)
    labels = np.r_[1, np.full(len(rows) - 2, -1), 0]
    named = clone(fitted).fit(rows, labels=labels)
    assert named.predict(rows[:20]).mean() > 0.5
    flipped = clone(fitted).fit(rows, labels=np.where(labels < 0, -1, 1 - labels))
    assert flipped.predict(rows[:20]).mean() < 0.5
