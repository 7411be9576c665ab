"""`FactorAnalysis` and `PPCA` as scikit-learn's users meet them."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import truth_factor
from sklearn import decomposition
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator
from truth_factor import holed, simulated

from minorant.estimators import PPCA, FactorAnalysis

BOTH = [FactorAnalysis, PPCA]


def name_of(part):
    check = getattr(part, "func", part)
    return getattr(check, "__name__", type(part).__name__)


# PPCA shares all but options, model and transform with FactorAnalysis: these see a difference.
_OWN = ("transformer", "weight", "dict_unchanged", "methods", "dtypes", "set_params", "nan_inf")


def all_checks():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not inherit from")
        own = list(estimator_checks_generator(PPCA()))
        own = [pair for pair in own if any(word in name_of(pair[1]) for word in _OWN)]
        return [*estimator_checks_generator(FactorAnalysis()), *own]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("estimator", "check"), all_checks(), ids=name_of)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def values():
    return simulated(200, d=6)


@pytest.fixture(scope="module")
def fitted(values):
    return FactorAnalysis(2).fit(values)


@pytest.fixture(scope="module")
def principal(values):
    return PPCA(2).fit(values)


def signed(peer, ours):
    """The peer's columns with the signs of ours."""
    return peer * np.sign((peer * ours).sum(0))


def test_everything_is_scikit_learns_factor_analysis(values, fitted):
    peer = decomposition.FactorAnalysis(2, svd_method="lapack", tol=1e-12, max_iter=20_000)
    peer.fit(values)
    np.testing.assert_allclose(fitted.mean_, peer.mean_, atol=1e-10)
    np.testing.assert_allclose(fitted.noise_variance_, peer.noise_variance_, rtol=1e-4)
    ours = fitted.components_.T
    np.testing.assert_allclose(ours, signed(peer.components_.T, ours), atol=1e-4)
    scores = fitted.transform(values)
    np.testing.assert_allclose(scores, signed(peer.transform(values), scores), atol=1e-4)
    np.testing.assert_allclose(fitted.get_covariance(), peer.get_covariance(), atol=1e-4)
    np.testing.assert_allclose(fitted.get_precision(), peer.get_precision(), atol=1e-4)
    np.testing.assert_allclose(fitted.score_samples(values), peer.score_samples(values), atol=1e-4)
    assert fitted.score(values) == pytest.approx(peer.score(values), abs=1e-9)
    assert fitted.loglike_[-1] == pytest.approx(peer.loglike_[-1], abs=1e-6)
    names = fitted.get_feature_names_out().tolist()
    assert names == peer.get_feature_names_out().tolist() == ["factoranalysis0", "factoranalysis1"]
    assert set(peer.get_params()) | {"n_init"} == set(fitted.get_params())


def test_a_precision_is_the_inverse_of_the_covariance(fitted, principal):
    for model in (fitted, principal):
        product = model.get_precision() @ model.get_covariance()
        np.testing.assert_allclose(product, np.eye(6), atol=1e-10)


@pytest.mark.parametrize("rotation", ["varimax", "quartimax"])
def test_rotations_are_scikit_learns(values, rotation):
    ours = FactorAnalysis(2, rotation=rotation).fit(values)
    peer = decomposition.FactorAnalysis(
        2, rotation=rotation, svd_method="lapack", tol=1e-12, max_iter=20_000
    ).fit(values)
    same = np.abs(ours.components_ @ np.linalg.pinv(peer.components_))
    np.testing.assert_allclose(same.max(1), 1.0, atol=1e-3)  # up to order and sign
    np.testing.assert_allclose(same.min(1), 0.0, atol=2e-3)


def test_oblique_factors_and_their_scores_fit_together(values, fitted):
    turned = FactorAnalysis(2, rotation="oblimin").fit(values)
    common = turned.components_.T @ turned.factor_correlation_ @ turned.components_
    np.testing.assert_allclose(common, fitted.components_.T @ fitted.components_, atol=1e-6)
    found = turned.scores(values)
    np.testing.assert_allclose(found.mean, turned.transform(values), atol=1e-12)
    np.testing.assert_allclose(
        found.mean @ turned.components_, fitted.transform(values) @ fitted.components_, atol=1e-6
    )
    spread = np.cov(found.mean.T, bias=True) + found.covariance.mean(0)
    np.testing.assert_allclose(spread, turned.factor_correlation_, atol=1e-6)
    assert found.standard_deviation.shape == (200, 2)


def test_everything_is_scikit_learns_pca(values, principal):
    peer, n = decomposition.PCA(2).fit(values), len(values)
    share = (n - 1) / n  # its variances have divisor n - 1
    ours = principal.components_.T
    np.testing.assert_allclose(ours, signed(peer.components_.T, ours), atol=1e-8)
    np.testing.assert_allclose(principal.explained_variance_, share * peer.explained_variance_)
    ratio = principal.explained_variance_ratio_
    np.testing.assert_allclose(ratio, peer.explained_variance_ratio_, atol=1e-10)
    np.testing.assert_allclose(principal.noise_variance_, share * peer.noise_variance_)
    np.testing.assert_allclose(principal.get_covariance(), share * peer.get_covariance())
    coordinates = principal.transform(values)
    np.testing.assert_allclose(coordinates, signed(peer.transform(values), coordinates), atol=1e-8)
    back = principal.inverse_transform(coordinates)
    np.testing.assert_allclose(back, peer.inverse_transform(peer.transform(values)), atol=1e-8)
    assert principal.score(values) >= peer.score(values)  # ours is the maximum
    found = principal.scores(values)
    np.testing.assert_allclose(found.mean.mean(0), 0.0, atol=1e-8)


@pytest.mark.parametrize("kind", BOTH)
def test_gaps_weights_and_frames(kind, values):
    table = holed(values, 0.1)
    frame = pd.DataFrame(table, columns=list("abcdef"))
    weights = np.random.default_rng(0).integers(0, 3, 200).astype(float)
    model = kind(2).fit(frame, sample_weight=weights)
    again = kind(2).fit(np.repeat(table, weights.astype(int), axis=0))
    assert model.feature_names_in_.tolist() == list("abcdef")
    np.testing.assert_allclose(model.get_covariance(), again.get_covariance(), atol=2e-3)
    assert model.score(frame, sample_weight=weights) == pytest.approx(
        again.score(np.repeat(table, weights.astype(int), axis=0)), abs=1e-6
    )
    filled = model.impute(frame)
    assert np.array_equal(filled[~np.isnan(table)], table[~np.isnan(table)])
    error, spread = (filled - values)[np.isnan(table)], values.std()
    assert np.sqrt((error**2).mean()) < spread
    assert model.transform(frame).shape == (200, 2)
    covariance = model.scores(frame).covariance
    gaps = np.isnan(table).sum(1)
    trace = np.trace(covariance, axis1=1, axis2=2)
    assert trace[gaps > 0].mean() > trace[gaps == 0].mean()  # less seen, less known
    assert model.sample(5).shape == (5, 6)


def test_communalities_are_shares_of_variance(values, fitted):
    variance = values.var(0)
    expected = 1.0 - fitted.noise_variance_ / variance
    np.testing.assert_allclose(fitted.communalities_, expected, atol=1e-6)


@pytest.mark.parametrize("kind", BOTH)
def test_copies_pipelines_and_searches(kind, values):
    model = kind(1).fit(values)
    back = pickle.loads(pickle.dumps(model))
    assert np.array_equal(back.transform(values), model.transform(values))
    assert np.array_equal(clone(model).fit(values).components_, model.components_)
    line = make_pipeline(StandardScaler(), kind(1)).set_output(transform="pandas")
    assert list(line.fit_transform(values)) == [f"{kind.__name__.lower()}0"]
    assert np.all(np.isfinite(cross_val_score(kind(1), values, cv=2)))


def test_float32_stays_float32(values):
    model = FactorAnalysis(2).fit(values.astype(np.float32))
    assert model.components_.dtype == model.transform(values.astype(np.float32)).dtype == np.float32


def test_a_start_for_the_noise_leads_to_the_same_maximum(values, fitted):
    model = FactorAnalysis(2, noise_variance_init=np.full(6, 0.3)).fit(values)
    np.testing.assert_allclose(model.noise_variance_, fitted.noise_variance_, rtol=1e-4)


def test_a_heywood_case_is_told(values):
    table = np.c_[values, values[:, 0]]
    assert any("Heywood" in said for said in FactorAnalysis(2).fit(table).irregular_)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 7}, "n_factors=7 is more than the 6 columns"),
        ({"rotation": "promax"}, "'rotation' parameter of FactorAnalysis must be"),
        ({"noise_variance_init": [1.0, 2.0]}, "noise_variance_init must hold 6 finite numbers"),
        ({"noise_variance_init": [1.0, 2, 3, 4, 5, -1]}, "noise_variance_init must hold 6 finite"),
        ({"tol": -1.0}, "'tol' parameter of FactorAnalysis must be"),
    ],
)
def test_bad_input_is_named(values, options, message):
    with pytest.raises(ValueError, match=message):
        FactorAnalysis(**options).fit(values)


def test_published_uniquenesses_through_the_estimator():
    rows = truth_factor.rows_with_moments(
        np.random.default_rng(0), truth_factor.ABILITY_ROWS, np.zeros(6), truth_factor.ABILITY
    )
    uniquenesses = 1.0 - FactorAnalysis(2).fit(rows).communalities_
    np.testing.assert_array_equal(np.round(uniquenesses, 3), truth_factor.ABILITY_UNIQUENESSES)
