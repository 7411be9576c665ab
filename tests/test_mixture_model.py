"""`MixtureModel`: columns of different kinds, in the tables that users have."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import special, stats

from minorant.estimators import GaussianMixture, MixtureModel

KINDS = ("gaussian", "gaussian", "categorical", "bernoulli", "poisson")
LABELS = np.array(["high", "low", "mid"])


def table():
    """Two groups of 60 rows that differ in every column, a few cells missing."""
    rng = np.random.default_rng(5)
    group = np.repeat([0, 1], 60)
    columns = {
        "x": rng.normal(4.0 * group, 1.0),
        "y": rng.normal(-3.0 * group, 0.5),
        "level": LABELS[np.where(rng.random(120) < 0.8, group, 2)].astype(object),
        "flag": (rng.random(120) < 0.2 + 0.6 * group).astype(object),
        "visits": rng.poisson(2.0 + 4.0 * group).astype(float),
    }
    for j, column in enumerate(columns.values()):
        column[3 * j] = None if column.dtype == object else np.nan
    return {name: column.tolist() for name, column in columns.items()}, group


@pytest.fixture(scope="module")
def fitted():
    data, group = table()
    model = MixtureModel(2, components={"visits": "poisson"}, random_state=0)
    return model.fit(pd.DataFrame(data)), data, group


def test_kinds_and_groups_are_found(fitted):
    model, data, group = fitted
    assert model.columns_.components == KINDS
    assert list(model.feature_names_in_) == list(data)
    found = model.predict(pd.DataFrame(data))
    assert max(np.mean(found == group), np.mean(found != group)) > 0.97
    assert model.parameters_["gaussian"]["columns"] == ["x", "y"]
    assert model.parameters_["gaussian"]["covariance"].shape == (2, 2, 2)
    assert model.parameters_["poisson"]["rate"].shape == (2, 1)


def test_density_is_the_product_of_the_columns(fitted):
    model, _, _ = fitted
    row = {"x": [1.0], "y": [-0.5], "level": ["mid"], "flag": [True], "visits": [3]}
    means, covariances = (model.parameters_["gaussian"][name] for name in ("mean", "covariance"))
    logs = [
        np.log(model.weights_[k])
        + stats.multivariate_normal(means[k], covariances[k]).logpdf([1.0, -0.5])
        + np.log(model.parameters_["categorical"]["probabilities"][k, 2])
        + np.log(model.parameters_["bernoulli"]["probability"][k, 0])
        + stats.poisson(model.parameters_["poisson"]["rate"][k, 0]).logpmf(3)
        for k in range(2)
    ]
    expected = special.logsumexp(logs)
    assert model.score_samples(pd.DataFrame(row))[0] == pytest.approx(expected, rel=1e-9)
    posterior = np.exp(np.array(logs) - expected)
    assert np.allclose(model.predict_proba(pd.DataFrame(row))[0], posterior, rtol=1e-9)


@pytest.mark.parametrize("make", [pl.DataFrame, pa.table])
def test_every_kind_of_table_gives_the_same(fitted, make):
    model, data, _ = fitted
    expected = model.score_samples(pd.DataFrame(data))
    assert np.array_equal(model.score_samples(make(data)), expected)
    assert isinstance(model.impute(make(data)), type(make(data)))


def test_imputed_cells_are_the_most_probable(fitted):
    model, data, group = fitted
    full = model.impute(pd.DataFrame(data))
    assert list(full.columns) == list(data)
    assert not full.isna().any().any()
    assert full["level"][6] == LABELS[group[6]]
    assert full["flag"][9] in (True, False)
    tried = pd.DataFrame(data).iloc[[6] * 3].assign(level=LABELS)
    assert full["level"][6] == LABELS[np.argmax(model.score_samples(tried))]
    known = ~pd.DataFrame(data)["x"].isna()
    assert np.array_equal(full["x"][known], pd.DataFrame(data)["x"][known])
    drawn = model.impute(pd.DataFrame(data), draw=True)
    assert set(drawn["level"]) <= set(LABELS)


def test_sample_comes_in_the_same_kind(fitted):
    model, data, _ = fitted
    rows, labels = model.sample(500)
    assert isinstance(rows, pd.DataFrame)
    assert set(rows["level"]) == set(LABELS)
    assert rows["visits"].dtype == np.int64
    assert np.array_equal(labels, np.sort(labels))
    rate = model.parameters_["poisson"]["rate"][labels, 0]
    assert abs(rows["visits"].mean() - rate.mean()) < 5 * np.sqrt(rate.mean() / 500)


def test_numbers_alone_are_a_gaussian_mixture():
    rows = np.random.default_rng(0).normal(size=(80, 2)) + np.repeat([[0.0], [6.0]], 40, axis=0)
    mixed = MixtureModel(2, random_state=0).fit(rows)
    pure = GaussianMixture(2, random_state=0).fit(rows)
    assert mixed.score(rows) == pytest.approx(pure.score(rows), abs=1e-7)
    assert isinstance(mixed.sample(3)[0], np.ndarray)


def test_text_in_an_array():
    rows = np.array([[1.5, "a"], [2.5, "b"], [None, "a"], [2.0, None]] * 5, dtype=object)
    model = MixtureModel(random_state=0).fit(rows)
    assert model.columns_.components == ("gaussian", "categorical")
    assert model.impute(rows)[3, 1] in ("a", "b")
    assert model.n_features_in_ == 2


def test_refusals_name_what_is_wrong(fitted):
    model, data, _ = fitted
    frame = pd.DataFrame(data)
    with pytest.raises(ValueError, match="Column 'level' holds 'odd' in row 0"):
        model.predict(frame.assign(level="odd"))
    lenient = MixtureModel(**model.get_params() | {"handle_unknown": "missing"})
    lenient.__dict__ |= {name: v for name, v in vars(model).items() if name not in vars(lenient)}
    expected = model.score_samples(frame.assign(level=None))
    assert np.array_equal(lenient.score_samples(frame.assign(level="odd")), expected)
    with pytest.raises(ValueError, match="same order as they were in fit"):
        model.predict(frame[list(data)[::-1]])
    with pytest.raises(ValueError, match="'visits'.*row 0"):
        model.predict(frame.assign(visits=-1.0))
    with pytest.raises(ValueError, match="components names the column 'z'"):
        MixtureModel(components={"z": "gamma"}).fit(frame)
