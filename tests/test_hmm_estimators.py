"""`GaussianHMM`, `PoissonHMM`, `CategoricalHMM`: hmmlearn's names, and its numbers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from minorant import datasets
from minorant.estimators import CategoricalHMM, GaussianHMM, PoissonHMM
from minorant.models import LeftRight

TRANSITION = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]])
INITIAL = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 5.0]])
LENGTHS = [60, 1, 39]
SHAPES = {"full": np.stack([np.eye(2)] * 3), "diag": np.ones((3, 2))}
STEP = ("startprob_", "transmat_")


def assigned(model, **more):
    model.startprob_, model.transmat_ = INITIAL, TRANSITION
    for name, value in more.items():
        setattr(model, name, value)
    return model


def gaussian(kind: str, **options) -> GaussianHMM:
    model = GaussianHMM(3, kind, **options)
    return assigned(model, means_=MEANS, covars_=SHAPES[kind])


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return gaussian("full").sample(100, random_state=1)[0]


def one_step(model, X, lengths=LENGTHS):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # neither library calls one step converged
        return model.set_params(n_iter=1).fit(X, lengths)


@pytest.mark.parametrize("kind", SHAPES)
def test_gaussian_answers_are_hmmlearn_s(kind, rows):
    hmm = pytest.importorskip("hmmlearn.hmm")
    theirs = hmm.GaussianHMM(3, kind, init_params="", tol=0, covars_prior=0.3, covars_weight=4.0)
    assigned(theirs, means_=MEANS, covars_=SHAPES[kind])
    prior = 0.3 if kind == "diag" else np.full((2, 2), 0.3)  # theirs adds it so
    ours = gaussian(kind, init_params="", covars_prior=prior, covars_weight=4.0, min_covar=1e-12)
    assert_allclose(ours.score(rows, LENGTHS), theirs.score(rows, LENGTHS), rtol=1e-10)
    for own, other in zip(ours.score_samples(rows), theirs.score_samples(rows), strict=True):
        assert_allclose(own, other, rtol=1e-8, atol=1e-12)
    for algorithm in ("viterbi", "map"):
        own, other = (m.decode(rows, LENGTHS, algorithm=algorithm) for m in (ours, theirs))
        assert_allclose(own[0], other[0], rtol=1e-10)
        assert_array_equal(own[1], other[1])
    assert_array_equal(ours.predict(rows, LENGTHS), theirs.predict(rows, LENGTHS))
    assert_allclose(ours.aic(rows, LENGTHS), theirs.aic(rows, LENGTHS), rtol=1e-10)
    assert_allclose(ours.bic(rows, LENGTHS), theirs.bic(rows, LENGTHS), rtol=1e-10)
    assert_allclose(ours.get_stationary_distribution(), theirs.get_stationary_distribution())
    one_step(ours, rows)
    one_step(theirs, rows)
    for name in (*STEP, "means_", "covars_"):
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-13)


def test_a_prior_on_the_means_is_hmmlearn_s(rows):
    hmm = pytest.importorskip("hmmlearn.hmm")
    options = {"means_prior": 1.0, "means_weight": 8.0, "covars_prior": 0.3, "covars_weight": 4.0}
    theirs = hmm.GaussianHMM(3, "diag", init_params="", tol=0, **options)
    ours = gaussian("diag", init_params="", min_covar=1e-12, **options)
    one_step(ours, rows)
    one_step(assigned(theirs, means_=MEANS, covars_=SHAPES["diag"]), rows)
    assert_allclose(ours.means_, theirs.means_, rtol=1e-5)
    assert_allclose(ours.covars_, theirs.covars_, rtol=1e-5)


def test_poisson_answers_are_hmmlearn_s():
    hmm = pytest.importorskip("hmmlearn.hmm")
    counts = datasets.load("earthquakes")["count"][:, None].astype(int)
    models = [
        assigned(kind(3, init_params="", tol=tol), lambdas_=np.array([[12.0], [20.0], [30.0]]))
        for kind, tol in ((PoissonHMM, 1e-7), (hmm.PoissonHMM, 0))
    ]
    ours, theirs = models
    assert_allclose(ours.score(counts), theirs.score(counts), rtol=1e-10)
    assert_array_equal(ours.predict(counts), theirs.predict(counts))
    for model in models:
        one_step(model, counts, None)
    for name in (*STEP, "lambdas_"):
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-13)


def test_categorical_answers_are_hmmlearn_s():
    hmm = pytest.importorskip("hmmlearn.hmm")
    rng = np.random.default_rng(2)
    codes, shares = rng.integers(0, 4, (100, 1)), rng.dirichlet(np.ones(4), size=3)
    priors = {"emissionprob_prior": 1.5, "startprob_prior": 2.0, "transmat_prior": 1.2}
    ours = CategoricalHMM(3, n_features=4, init_params="", **priors)
    theirs = hmm.CategoricalHMM(3, n_features=4, init_params="", tol=0, **priors)
    for model in (ours, theirs):
        assigned(model, emissionprob_=shares)
    assert_allclose(ours.score(codes, LENGTHS), theirs.score(codes, LENGTHS), rtol=1e-10)
    one_step(ours, codes)
    one_step(theirs, codes)
    for name in (*STEP, "emissionprob_"):
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-13)


def test_steps_left_out_are_missing_steps(rows):
    model = gaussian("diag")
    times = np.arange(100) + np.where(np.arange(100) > 30, 5, 0)
    spaced = np.insert(rows, [31] * 5, np.nan, axis=0)
    assert_allclose(model.score(rows, times=times), model.score(spaced), rtol=1e-12)


@pytest.fixture(scope="module")
def fitted(rows) -> GaussianHMM:
    return GaussianHMM(3, random_state=0, n_init=4).fit(rows, LENGTHS)


def test_a_fit_from_scratch_beats_its_truth(rows, fitted):
    assert fitted.monitor_.converged
    assert fitted.monitor_.iter <= fitted.n_iter
    assert_allclose(fitted.monitor_.history[-1], fitted.score(rows, LENGTHS), rtol=1e-9)
    assert fitted.score(rows, LENGTHS) > gaussian("diag").score(rows, LENGTHS)
    assert fitted.covars_.shape == (3, 2, 2)
    assert fitted.n_features_in_ == 2


def test_answers_that_hmmlearn_has_not(rows, fitted):
    gaps = rows.copy()
    gaps[5], gaps[20, 0] = np.nan, np.nan
    chances = fitted.filter(gaps, LENGTHS)
    assert_allclose(chances.sum(1), 1.0)
    assert_allclose(chances[59], fitted.predict_proba(gaps, LENGTHS)[59])  # a last row
    filled = fitted.impute(gaps, LENGTHS)
    assert np.isfinite(filled).all()
    assert_array_equal(filled[~np.isnan(gaps)], gaps[~np.isnan(gaps)])
    ahead = fitted.forecast(rows, 4, LENGTHS)
    assert ahead.mean.shape == (3, 4, 2)
    assert_allclose(ahead.states.sum(-1), 1.0)
    groups = np.repeat(["a", "b", "c"], LENGTHS)
    assert_allclose(fitted.score(rows, groups=groups), fitted.score(rows, LENGTHS))


def test_weights_of_sequences_count_as_copies(rows):
    model = gaussian("diag", init_params="")
    weights = np.repeat([2.0, 1.0, 0.0], LENGTHS)
    copied = np.concatenate([rows[:60], rows[:60], rows[60:61]])
    one = one_step(clone_of(model), rows)
    weighted = clone_of(model).set_params(n_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weighted.fit(rows, LENGTHS, sample_weight=weights)
    two = one_step(clone_of(model), copied, [60, 60, 1])
    assert_allclose(weighted.means_, two.means_, rtol=1e-9)
    assert_allclose(weighted.transmat_, two.transmat_, rtol=1e-9)
    assert np.abs(one.transmat_ - two.transmat_).max() > 1e-4


def clone_of(model):
    return assigned(clone(model), means_=MEANS, covars_=SHAPES[model.covariance_type])


def test_params_and_init_params_hold_and_start(rows):
    model = gaussian("diag", params="mc", init_params="", n_iter=30)
    model.fit(rows, LENGTHS)
    assert_array_equal(model.transmat_, TRANSITION)
    assert_array_equal(model.startprob_, INITIAL)
    assert np.abs(model.means_ - MEANS).max() > 1e-3
    with pytest.raises(ValueError, match="params leaves out 'm'"):
        GaussianHMM(3, params="stc").fit(rows)


def test_rows_that_no_reachable_state_allows_are_named(rows):
    model = gaussian("diag", init_params="")
    model.transmat_ = np.eye(3)
    labels = np.full(100, -1)
    labels[[10, 20]] = 0, 1
    with pytest.warns(UserWarning, match="Row 20 .* has probability zero in every state"):
        model.fit(rows, labels=labels)


def test_parameters_assigned_by_hand_count(rows, fitted):
    before = fitted.score(rows)
    other = clone(fitted).fit(rows, LENGTHS)
    other.means_ = other.means_ + 1.0
    assert other.score(rows) < before - 1.0
    X, states = other.sample(50, random_state=3, currstate=2)
    assert X.shape == (50, 2)
    assert states[0] == 2
    again = other.sample(50, random_state=3, currstate=2)
    assert_array_equal(X, again[0])
    with pytest.raises(ValueError, match="covars_ of type 'diag' must have shape"):
        other.covars_ = np.ones((2, 2))


def test_left_right_by_an_option(rows):
    model = GaussianHMM(3, structure=LeftRight(), n_init=2, random_state=0, n_iter=50, tol=1e-3)
    model.fit(rows)
    assert_array_equal(model.transmat_[np.tri(3, k=-1) > 0], 0.0)
    assert_array_equal(model.startprob_, [1.0, 0.0, 0.0])


def test_parameters_of_the_constructor(fitted):
    assert clone(fitted).get_params() == fitted.get_params()
    assert repr(
        GaussianHMM(2, "full")
    ) == "GaussianHMM(covariance_type='full', n_components=2)" or (
        repr(GaussianHMM(2, "full")).startswith("GaussianHMM(n_components=2")
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_components": 0}, "'n_components' parameter of GaussianHMM"),
        ({"covariance_type": "round"}, "'covariance_type' parameter"),
        ({"algorithm": "best"}, "'algorithm' parameter"),
        ({"transmat_prior": 0.5}, "transmat_prior must be at least 1"),
        ({"startprob_prior": [2.0, 2.0]}, "startprob_prior must be a number or have shape"),
        ({"structure": 3}, "'structure' parameter"),
    ],
)
def test_bad_options_are_refused_with_a_sentence(options, sentence, rows):
    with pytest.raises(ValueError, match=sentence):
        GaussianHMM(**{"n_components": 3, **options}).fit(rows)


@pytest.mark.parametrize(
    ("lengths", "sentence"),
    [
        ([50, 0, 50], r"lengths\[1\] is 0"),
        ([50, 49], "lengths add up to 99"),
        ([50.5, 49.5], "whole numbers"),
    ],
)
def test_bad_lengths_are_refused_with_a_sentence(lengths, sentence, rows):
    with pytest.raises(ValueError, match=sentence):
        GaussianHMM(3).fit(rows, lengths)


def test_what_is_not_fitted_says_so(rows):
    with pytest.raises(ValueError, match="not fitted"):
        GaussianHMM(3).score(rows)
    with pytest.raises(ValueError, match="algorithm must be"):
        gaussian("diag").decode(rows, algorithm="best")
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        gaussian("diag").sample(0)
