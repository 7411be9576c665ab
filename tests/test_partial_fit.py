"""`partial_fit` of estimators: exact for factors, online EM for mixtures."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from minorant.estimators import (
    PPCA,
    FactorAnalysis,
    GaussianMixture,
    LatentClassAnalysis,
    MixtureModel,
)

N = 600


@pytest.fixture(scope="module")
def factors():
    rng = np.random.default_rng(0)
    rows = 2.0 * rng.normal(size=(N, 2)) @ rng.normal(size=(2, 5)) + rng.normal(size=(N, 5)) + 30.0
    return rows, rng.integers(0, 3, N).astype(float)


def in_batches(model, rows, weights, sizes):
    for part in np.split(np.arange(N), np.cumsum(sizes)[:-1]):
        model.partial_fit(rows[part], sample_weight=None if weights is None else weights[part])
    return model


@pytest.mark.parametrize("kind", [FactorAnalysis, PPCA])
@pytest.mark.parametrize("gaps", [False, True])
def test_factors_of_a_stream_are_those_of_fit(kind, gaps, factors):
    rows, weights = factors[0].copy(), factors[1]
    if gaps:
        rows[::11, 1] = np.nan
    whole = kind(2, tol=1e-13).fit(rows, sample_weight=weights)
    sizes = (300, 300) if gaps else (100, 37, 250, 213)
    stream = in_batches(kind(2, tol=1e-13), rows, weights, sizes)
    expected = whole.get_covariance()
    close = 1e-8 if gaps else 1e-10  # with gaps EM ends within its tolerance of the maximum
    np.testing.assert_allclose(stream.get_covariance(), expected, rtol=0, atol=close * 30)
    np.testing.assert_allclose(stream.mean_, whole.mean_, rtol=1e-10)
    assert stream.fit_.bound == pytest.approx(whole.fit_.bound, rel=1e-10)
    assert stream.bic() == pytest.approx(whole.bic(), rel=1e-10)


def test_a_constant_column_is_still_called_constant(factors):
    rows = factors[0].copy()
    rows[:, 2] = 0.1
    whole = FactorAnalysis(1).fit(rows)
    stream = in_batches(FactorAnalysis(1), rows, None, (300, 300))
    assert any("column 2" in sentence for sentence in whole.irregular_)
    assert [s[:30] for s in stream.irregular_] == [s[:30] for s in whole.irregular_]


def test_factors_go_on_after_fit(factors):
    """The fitted covariance stands for the rows: twice the same rows, about the same covariance."""
    rows, _ = factors
    model = FactorAnalysis(2).fit(rows)
    before = model.get_covariance()
    model.partial_fit(rows)
    assert model.fit_.n_rows == 2 * N
    np.testing.assert_allclose(model.get_covariance(), before, atol=0.05 * before.max())
    model.fit(rows)
    np.testing.assert_array_equal(model.get_covariance(), before)  # fit begins anew


def test_squares_that_overflow_are_refused(factors):
    with pytest.raises(ValueError, match="divide the column by its typical size"):
        FactorAnalysis(1).partial_fit(1e160 * factors[0])


@pytest.fixture(scope="module")
def clusters():
    rng = np.random.default_rng(1)
    return rng.normal(size=(4000, 2)) + 5.0 * rng.integers(0, 2, (4000, 1))


def test_a_mixture_of_a_stream(clusters):
    model = GaussianMixture(2, random_state=0)
    for rows in np.split(clusters, 4):
        model.partial_fit(rows)
    whole = GaussianMixture(2, random_state=0).fit(clusters)
    order, other = np.argsort(model.means_[:, 0]), np.argsort(whole.means_[:, 0])
    np.testing.assert_allclose(model.means_[order], whole.means_[other], atol=0.15)
    assert model.n_iter_ == 4
    assert model.n_features_in_ == 2
    assert model.lower_bound_ == pytest.approx(model.score(clusters), abs=0.1)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        copy.partial_fit(clusters[:1000]).means_, model.partial_fit(clusters[:1000]).means_
    )
    model.fit(clusters)  # begins anew
    np.testing.assert_array_equal(model.means_, whole.means_)


def test_a_mixture_goes_on_after_fit(clusters):
    model = GaussianMixture(2, random_state=0).fit(clusters)
    before = model.means_
    model.partial_fit(clusters[:1000])
    np.testing.assert_allclose(model.means_, before, atol=0.2)
    assert model.fit_.n_rows == 5000


def test_tables_of_mixed_kinds_and_classes(clusters):
    rng = np.random.default_rng(2)
    high = clusters[:, 0] > 2.5
    kind = np.where(rng.random(4000) < np.where(high, 0.9, 0.1), "a", "b")
    table = MixtureModel(2, random_state=0)
    answers = (rng.random((4000, 4)) < np.where(high, 0.8, 0.2)[:, None]).astype(float)
    classes = LatentClassAnalysis(2, random_state=0)
    for part in np.split(np.arange(4000), 2):
        table.partial_fit({"x": clusters[part, 0], "kind": kind[part]})
        classes.partial_fit(answers[part])
    shares = np.sort(table.parameters_["categorical"]["probabilities"][:, 0])
    np.testing.assert_allclose(shares, [0.1, 0.9], atol=0.06)
    np.testing.assert_allclose(np.sort(classes.weights_), [0.5, 0.5], atol=0.1)
    assert classes.goodness_of_fit_ is None
    with pytest.raises(ValueError, match="'c'"):
        table.partial_fit({"x": [0.0], "kind": ["c"]})
    with pytest.raises(ValueError, match="4 features as input"):
        classes.partial_fit(answers[:, :3])
