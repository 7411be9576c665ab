"""The scikit-learn contract, on small estimators built on `minorant.estimators._base`."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator
from sklearn.utils.validation import check_is_fitted
from toy_estimators import Complete, DiagonalGaussian, Whitener, Wrapper, fitted

from minorant.estimators.options import DEFAULTS

SOURCE = Path(importlib.util.find_spec("minorant.estimators._base").origin).parents[2]
TOYS = [DiagonalGaussian(), Whitener(), Complete()]


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(40, 3))


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


# scikit-learn's own checks


def all_checks():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not inherit from")
        return [pair for toy in TOYS for pair in estimator_checks_generator(toy)]


def name_of(part):
    check = getattr(part, "func", part)
    return getattr(check, "__name__", type(part).__name__)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("estimator", "check"), all_checks(), ids=name_of)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:.*does not inherit from:UserWarning")
@pytest.mark.parametrize("toy", TOYS, ids=repr)
def test_no_check_fails_or_is_expected_to(toy):
    results = check_estimator(toy, on_skip=None)
    assert len(results) > 40
    skipped = {one["check_name"] for one in results if one["status"] == "skipped"}
    assert {one["status"] for one in results} <= {"passed", "skipped"}
    assert skipped <= {"check_array_api_input"}


# Cold start


def run_fresh(code):
    line = f"import sys; sys.path[:0] = [{str(SOURCE)!r}, {str(Path(__file__).parent)!r}]\n"
    done = subprocess.run(
        [sys.executable, "-c", line + textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


TOY_SOURCE = """
import numpy as np
from minorant.estimators._base import Density, Transformer
class Toy(Transformer, Density):
    def __init__(self, n_components=1, *, tol=1e-3):
        self.n_components = n_components
        self.tol = tol
    def fit(self, X, y=None, sample_weight=None):
        X, weights = self._begin_fit(X, sample_weight)
        self.mean_ = np.average(X, axis=0, weights=weights)
        self._n_features_out = X.shape[1]
        return self
    def score_samples(self, X): return -((self._read(X) - self.mean_) ** 2).sum(axis=1)
    def predict(self, X): return np.zeros(len(self._read(X)), dtype=int)
    def transform(self, X): return self._read(X) - self.mean_
X = np.random.default_rng(0).normal(size=(20, 2))
"""


def test_arrays_cost_no_import():
    run_fresh(
        TOY_SOURCE
        + """
toy = Toy(2, tol=0.1).fit(X, sample_weight=np.ones(20))
toy.predict(X), toy.score(X), toy.fit_predict(X.tolist()), toy.fit_transform(X)
repr(toy), toy.get_params(), toy.set_params(tol=0.2)
import pickle; pickle.loads(pickle.dumps(toy.get_params()))
for name in ("sklearn", "pandas", "narwhals", "scipy"):
    assert name not in sys.modules, name
"""
    )


def test_tables_cost_narwhals_only():
    run_fresh(
        TOY_SOURCE
        + """
import polars as pl
frame = pl.DataFrame({"a": X[:, 0], "b": X[:, 1]})
toy = Toy().fit(frame)
toy.predict(frame)
assert list(toy.feature_names_in_) == ["a", "b"]
assert "sklearn" not in sys.modules
"""
    )


# Parameters, copies, pictures


def test_parameters_and_clone():
    toy = DiagonalGaussian(0.5, tol=1)
    assert toy.get_params() == {"random_state": None, "reg_covar": 0.5, "tol": 1}
    copy = clone(toy)
    assert copy.get_params() == toy.get_params()
    assert not hasattr(copy, "mean_")
    assert toy.set_params(tol=3) is toy
    assert toy.tol == 3
    with pytest.raises(ValueError, match="Invalid parameter 'nonsense' for estimator Diag"):
        toy.set_params(nonsense=1)


def test_nested_parameters():
    wrapper = Wrapper(DiagonalGaussian())
    assert wrapper.get_params()["inner__tol"] == DEFAULTS["tol"]
    assert wrapper.set_params(inner__tol=5).inner.tol == 5
    assert repr(wrapper) == "Wrapper(inner=DiagonalGaussian(tol=5))"


def test_repr_shows_what_differs():
    assert repr(DiagonalGaussian()) == "DiagonalGaussian()"
    assert repr(DiagonalGaussian(0.5)) == "DiagonalGaussian(reg_covar=0.5)"
    with sklearn.config_context(print_changed_only=False):
        assert repr(DiagonalGaussian()) == (
            "DiagonalGaussian(reg_covar=1e-06, tol=1e-07, random_state=None)"
        )
    long = repr(DiagonalGaussian(np.arange(1000.0), random_state="x" * 300))
    assert "..." in long
    assert max(map(len, long.splitlines())) < 160
    assert "DiagonalGaussian(tol=1)" in repr(make_pipeline(DiagonalGaussian(tol=1)))


def test_html(X):
    page = fitted(X, tol=0.5)._repr_html_()
    assert "DiagonalGaussian" in page
    assert "mean_" in page
    assert "tol" in page
    assert "text/html" in DiagonalGaussian()._repr_mimebundle_()
    assert "DiagonalGaussian" in make_pipeline(StandardScaler(), fitted(X))._repr_html_()
    with sklearn.config_context(display="text"):
        assert not hasattr(DiagonalGaussian(), "_repr_html_")


def test_pickle(X):
    toy = pickle.loads(pickle.dumps(Whitener().fit(X).set_output(transform="pandas")))
    assert np.array_equal(toy.transform(X), Whitener().fit(X).transform(X))
    assert isinstance(toy.transform(X), pd.DataFrame)


def test_tags():
    tags = DiagonalGaussian().__sklearn_tags__()
    assert tags.estimator_type == "density_estimator"
    assert tags.input_tags.allow_nan
    assert tags.transformer_tags is None
    assert tags.requires_fit
    assert not Complete().__sklearn_tags__().input_tags.allow_nan
    assert Whitener().__sklearn_tags__().transformer_tags.preserves_dtype == ["float64", "float32"]


# Meta-estimators


def test_pipeline_and_search(X):
    line = Pipeline([("scale", StandardScaler()), ("density", DiagonalGaussian())]).fit(X)
    assert line.predict(X).shape == (40,)
    assert np.isfinite(line.score(X))
    assert line.fit_predict(X).shape == (40,)
    search = GridSearchCV(line, {"density__reg_covar": [1e-6, 100.0]}, cv=3).fit(X)
    assert search.best_params_ == {"density__reg_covar": 1e-6}
    assert cross_val_score(DiagonalGaussian(), X, cv=4, n_jobs=2).shape == (4,)


def test_weights_are_routed(X, routing):
    toy = DiagonalGaussian().set_fit_request(sample_weight=True)
    toy.set_score_request(sample_weight="score_weight")
    assert toy.get_metadata_routing().fit.requests == {"sample_weight": True}
    assert clone(toy).get_metadata_routing().score.requests == {"sample_weight": "score_weight"}
    weights = np.tile([1.0, 0.0], 20)
    line = make_pipeline(toy).fit(X, sample_weight=weights)
    assert np.allclose(line[-1].mean_, X[::2].mean(axis=0))
    scores = cross_val_score(
        toy, X, cv=2, params={"sample_weight": weights, "score_weight": weights}
    )
    halves = X[:20:2], X[20::2]
    expected = [fitted(halves[1]).score(halves[0]), fitted(halves[0]).score(halves[1])]
    assert np.allclose(scores, expected)
    with pytest.raises(TypeError, match="Unexpected args"):
        toy.set_fit_request(nonsense=True)
    assert not hasattr(toy, "set_predict_request")


def test_requests_need_routing():
    with pytest.raises(RuntimeError, match="enable_metadata_routing"):
        DiagonalGaussian().set_fit_request(sample_weight=True)


def test_request_follows_the_signature(routing):
    class Plain(DiagonalGaussian):
        def fit(self, X, y=None):
            return super().fit(X)

    assert Plain().get_metadata_routing().fit.requests == {}
    with pytest.raises(TypeError):
        Plain().set_fit_request(sample_weight=True)


@pytest.mark.parametrize(
    ("container", "frame"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)]
)
def test_set_output(X, container, frame):
    toy = Whitener().set_output(transform=container).fit(X)
    moved = toy.transform(X)
    assert isinstance(moved, frame)
    assert isinstance(toy.fit_transform(X), frame)
    assert list(moved.columns) == ["whitener0", "whitener1", "whitener2"]
    assert isinstance(clone(toy).fit_transform(X), frame)
    with sklearn.config_context(transform_output=container):
        assert isinstance(Whitener().fit_transform(X), frame)
    assert isinstance(toy.set_output(transform="default").transform(X), np.ndarray)
    assert not hasattr(DiagonalGaussian(), "set_output")


def test_feature_names_out(X):
    assert list(Whitener().fit(X).get_feature_names_out()) == [f"whitener{j}" for j in range(3)]
    with pytest.raises(NotFittedError):
        Whitener().get_feature_names_out()


# Fitted or not


def test_not_fitted(X):
    for call in ("predict", "score_samples", "score"):
        with pytest.raises(NotFittedError, match="This DiagonalGaussian instance is not fitted"):
            getattr(DiagonalGaussian(), call)(X)
    with pytest.raises(NotFittedError):
        check_is_fitted(DiagonalGaussian())
    check_is_fitted(fitted(X))


def test_a_fit_that_failed_does_not_count(X):
    toy = DiagonalGaussian()
    with pytest.raises(ValueError, match="sample_weight"):
        toy.fit(X, sample_weight=-np.ones(40))
    assert toy.n_features_in_ == 3
    assert not toy.__sklearn_is_fitted__()


def test_warning_category():
    with pytest.warns(ConvergenceWarning, match="200 steps"):
        DiagonalGaussian()._warn("Stopped after 200 steps: raise max_iter.")
