"""What estimators are given: rows, names, weights, labels and options, read or refused."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError
from toy_estimators import DiagonalGaussian, Whitener, Wrapper, fitted

from minorant.estimators._validation import as_labels, as_matrix, as_weights
from minorant.estimators.options import OPTIONS, Choice, Interval


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(40, 3))


# Rows


def test_dtype_rule(X):
    assert as_matrix(Wrapper(), X.astype(np.float32), reset=True).dtype == np.float32
    for kind in (np.float16, np.int8, np.uint64, bool, np.longdouble, ">f8", object):
        assert as_matrix(Wrapper(), X.astype(kind), reset=True).dtype == np.float64
    assert as_matrix(Wrapper(), [[1, 2], [3, 4]], reset=True).dtype == np.float64
    assert as_matrix(Wrapper(), X.astype(">f4"), reset=True).dtype == np.dtype("=f4")
    assert np.shares_memory(as_matrix(Wrapper(), X, reset=True), X)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_tables(make):
    frame = make({"a": [1, None, 3], "b": [0.5, None, 2.0], "c": [True, False, None]})
    toy = Wrapper()
    matrix = as_matrix(toy, frame, reset=True)
    expected = [[1, 0.5, 1], [np.nan, np.nan, 0], [3, 2, np.nan]]
    assert np.array_equal(matrix, expected, equal_nan=True)
    assert list(toy.feature_names_in_) == ["a", "b", "c"]
    assert toy.n_features_in_ == 3
    single = make({"a": np.zeros(3, np.float32), "b": np.ones(3, np.float32)})
    assert as_matrix(toy, single, reset=True).dtype == np.float32


def test_arrow_stream():
    class Stream:
        def __init__(self, table):
            self.table = table

        def __arrow_c_stream__(self, requested_schema=None):
            return self.table.__arrow_c_stream__(requested_schema)

    matrix = as_matrix(Wrapper(), Stream(pa.table({"a": [1.0, None]})), reset=True)
    assert np.array_equal(matrix, [[1], [np.nan]], equal_nan=True)


def test_every_way_to_say_missing():
    expected = [[1, np.nan], [np.nan, 2]]
    nullable = pd.DataFrame(
        {"a": pd.array([1, None], "Int64"), "b": pd.array([None, 2], "Float32")}
    )
    objects = pd.DataFrame({"a": [1, None], "b": [pd.NA, 2]}, dtype=object)
    masked = np.ma.masked_array([[1, 7], [7, 2]], mask=[[0, 1], [1, 0]])
    lists = [[[1, None], [None, 2]], [[1, pd.NA], [np.nan, 2]]]
    for given in (nullable, objects, masked, *lists, np.array(lists[1], dtype=object)):
        assert np.array_equal(as_matrix(Wrapper(), given, reset=True), expected, equal_nan=True)
    empty = pl.DataFrame({"a": [1.0, 2.0], "b": [None, None]})
    assert np.isnan(as_matrix(Wrapper(), empty, reset=True)[:, 1]).all()


BAD = {
    "sparse": (sparse.csr_array(np.eye(3)), TypeError, "Sparse data was passed"),
    "complex": (np.ones((3, 2)) + 1j, ValueError, "Complex data not supported"),
    "vector": ([1.0, 2.0], ValueError, r"Expected 2D array, got 1D.*\n.*\nReshape your data"),
    "scalar": (3.0, ValueError, "got scalar array"),
    "cube": (np.ones((2, 2, 2)), ValueError, "Found array with dim 3, while dim <= 2 is required"),
    "ragged": ([[1, 2], [3]], ValueError, "X is ragged.*None where one is missing"),
    "no rows": (np.ones((0, 3)), ValueError, r"0 sample\(s\) \(shape=\(0, 3\)\) while a minimum"),
    "no columns": (np.ones((3, 0)), ValueError, r"0 feature\(s\) \(shape=\(3, 0\)\) while a min"),
    "empty table": (pl.DataFrame(), ValueError, r"0 sample\(s\)"),
    "infinity": ([[1, 2], [3, -np.inf]], ValueError, "infinity: column 1 of X, row 1, holds -inf"),
    "text": ([[1, 2], [3, "four"]], ValueError, "column 1 of X, row 1, holds 'four': could not"),
    "texts": (np.array([["1", "2"]]), ValueError, "column 0 of X, row 0, holds '1'"),
    "object": ([[1, {}], [3, 4]], TypeError, "argument must be a string or a real number"),
    "dates": (np.array([["2020-01-01"]], "M8[D]"), ValueError, "datetime64.*Wrapper takes numbers"),
    "series": (pd.Series([1.0, 2.0]), ValueError, "Pass a DataFrame containing a single row"),
    "lazy": (pl.LazyFrame({"a": [1.0]}), TypeError, r"\.collect\(\)"),
    "huge": ([[10**400, 1]], ValueError, "column 0 of X, row 0"),
}


@pytest.mark.parametrize(("given", "kind", "match"), BAD.values(), ids=BAD)
def test_refused(given, kind, match):
    with pytest.raises(kind, match=match):
        as_matrix(Wrapper(), given, reset=True)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_refused_columns_are_named(make):
    town = make({"age": [1.0, 2.0], "city": [None, "Paris"]})
    with pytest.raises(
        ValueError, match=r"Column 'city' \(index 1\) of X holds .*'Paris'.*drop it"
    ):
        as_matrix(Wrapper(), town, reset=True)
    endless = make({"age": [1.0, 2.0], "income": [1.0, np.inf]})
    with pytest.raises(ValueError, match=r"column 'income' \(index 1\) of X, row 1, holds inf"):
        as_matrix(Wrapper(), endless, reset=True)


def test_refused_object_column_is_named():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": pd.Series([1, {}], dtype=object)})
    with pytest.raises(TypeError, match=r"column 'b' \(index 1\) of X, row 1, holds {}"):
        as_matrix(Wrapper(), frame, reset=True)


def test_nan_refused_where_the_model_needs_all():
    with pytest.raises(ValueError, match="contains NaN: column 1 of X, row 0"):
        as_matrix(Wrapper(), [[1, np.nan]], reset=True, allow_nan=False)
    with pytest.raises(ValueError, match=r"1 sample\(s\).*minimum of 2"):
        as_matrix(Wrapper(), [[1, 2]], reset=True, min_rows=2)


def test_a_refused_refit_forgets_nothing(X):
    frame = pd.DataFrame(X, columns=list("abc"))
    toy = fitted(frame)
    with pytest.raises(ValueError, match="infinity"):
        toy.fit([[np.inf]])
    assert toy.n_features_in_ == 3
    assert toy.predict(frame).shape == (40,)


# Names


def sentence_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call()
        except (ValueError, TypeError) as error:
            return type(error), str(error)
    return caught[0].category, str(caught[0].message)


NAMES = {
    "order": lambda frame: frame[["b", "a", "c"]],
    "other": lambda frame: frame.rename(columns={"a": "z"}),
    "fewer": lambda frame: frame[["a", "b"]],
    "none": lambda frame: frame.to_numpy(),
}


@pytest.mark.parametrize("change", NAMES.values(), ids=NAMES)
def test_names_differ_in_scikit_learns_words(X, change):
    frame = pd.DataFrame(X, columns=list("abc"))
    theirs = StandardScaler().fit(frame)
    ours = Whitener().fit(frame)
    category, sentence = sentence_of(lambda: theirs.transform(change(frame)))
    expected = category, sentence.replace("StandardScaler", "Whitener")
    assert sentence_of(lambda: ours.transform(change(frame))) == expected


def test_names_only_later(X):
    with pytest.warns(UserWarning, match="X has feature names, but DiagonalGaussian was fitted w"):
        fitted(X).predict(pd.DataFrame(X, columns=list("abc")))


def test_names_that_are_not_all_strings(X):
    toy = fitted(pd.DataFrame(X))
    assert not hasattr(toy, "feature_names_in_")
    with pytest.raises(TypeError, match="Feature names are only supported if all"):
        toy.fit(pd.DataFrame(X, columns=["a", 1, 2]))
    assert not hasattr(fitted(pd.DataFrame(X, columns=list("abc"))).fit(X), "feature_names_in_")


@pytest.mark.parametrize(
    "make", [pl.from_numpy, lambda X, schema: pa.table(dict(zip(schema, X.T, strict=True)))]
)
def test_names_of_other_tables(X, make):
    toy = fitted(make(X, schema=["a", "b", "c"]))
    with pytest.raises(ValueError, match="same order as they were in fit"):
        toy.predict(make(X, schema=["b", "a", "c"]))
    assert toy.predict(pd.DataFrame(X, columns=list("abc"))).shape == (40,)


def test_width(X):
    with pytest.raises(ValueError, match="X has 2 features, but DiagonalGaussian is expecting 3 f"):
        fitted(X).predict(X[:, :2])


# Weights and labels


def test_weights():
    assert as_weights(None, 3) is None
    assert np.array_equal(as_weights(2, 3), [2, 2, 2])
    assert as_weights([1, 2, 0], 3, np.float32).dtype == np.float32
    for given in (pd.Series([1, 2]), pl.Series([1, 2]), pa.array([1, 2]), (1, 2)):
        assert np.array_equal(as_weights(given, 2), [1, 2])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ([1, -2, 1], "sample_weight holds -2.0 at row 1: .*Give a row"),
        ([1, 1, np.nan], "sample_weight holds nan at row 2"),
        ([1, None, 1], "sample_weight holds nan at row 1"),
        ([1, np.inf, 1], "sample_weight holds inf at row 1"),
        ([1, 1], "sample_weight has 2 values, but X has 3 rows: pass one value per row"),
        (np.ones((3, 2)), "sample_weight must be a 1D array or a number"),
        ([0, 0, 0], "zero in every row: Sample weights must contain at least one non-zero number"),
        (0, "zero in every row"),
        (-1.0, "sample_weight holds -1.0 at row 0"),
        (["a", 1, 1], "sample_weight, row 0, holds 'a'"),
    ],
)
def test_weights_refused(given, match):
    with pytest.raises(ValueError, match=match):
        as_weights(given, 3)


def test_score_leaves_out_rows_of_no_weight(X):
    toy = fitted(X)
    toy.score_samples = lambda rows: np.where(np.isnan(rows[:, 0]), -np.inf, rows.sum(axis=1))
    X[0] = np.nan
    weights = np.r_[0, np.ones(39)]
    assert toy.score(X, sample_weight=weights) == pytest.approx(toy.score(X[1:]))


def test_labels():
    assert as_labels(None, 3, 2) is None
    assert as_labels([0, None, 1], 3, 2).tolist() == [0, -1, 1]
    assert as_labels(np.array([np.nan, -1, 1]), 3, 2).tolist() == [-1, -1, 1]
    for wrong, row in (([0, 2, 0], 1), ([0.5, 0, 0], 0), ([0, 0, -2], 2)):
        with pytest.raises(ValueError, match=f"y holds .* at row {row}: a label must be"):
            as_labels(wrong, 3, 2)
    with pytest.raises(ValueError, match="y has 2 values, but X has 3 rows"):
        as_labels([0, 1], 3, 2)


# Options


def test_the_sentence():
    with pytest.raises(InvalidParameterError) as caught:
        DiagonalGaussian(tol=-1).fit([[1.0]])
    assert str(caught.value) == (
        "The 'tol' parameter of DiagonalGaussian must be a float in [0, inf). Got -1 instead."
    )


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_option(option):
    assert option.complaint(option.default, "Toy") is None
    assert option.sentence.endswith(".")
    assert option.range
    shape = rf"The '{option.name}' parameter of Toy must be .* Got .* instead\."
    outside = [type("BadType", (), {})()]
    for one in option.constraints:
        if isinstance(one, Interval):
            outside += [one.low - 1, float("nan")]
        elif isinstance(one, Choice):
            assert option.choices == one.values
            outside += ["no such word"]
    for value in outside:
        with pytest.raises(AssertionError, match=shape):
            raise AssertionError(option.complaint(value, "Toy"))


def test_constraints():
    assert str(Interval(int, 1)) == "an int in [1, inf)"
    assert str(Interval(float, 0, closed="neither")) == "a float in (0, inf)"
    assert str(Choice(("a", "b"))) == "a str among {'a', 'b'}"
    assert Interval(int, 1).accepts(np.int32(1))
    assert not Interval(int, 1).accepts(1.0)
    assert Interval(float, 0).accepts(0)
    assert not Interval(float, 0).accepts(True)
    assert Interval(float, 0, 1, "both").accepts(1)
    assert not Interval(float, 0, 1).accepts(1)
    assert OPTIONS["weight_concentration"].range == "a float in [1, inf), an array-like or None"


def test_the_same_names_as_scikit_learn():
    from sklearn.mixture import GaussianMixture

    theirs = GaussianMixture().get_params()
    assert theirs.keys() <= OPTIONS.keys()
    chosen_anew = {"tol", "reg_covar", "max_iter", "n_init", "init_params"}
    kept = theirs.keys() - chosen_anew
    assert {name: OPTIONS[name].default for name in kept} == {name: theirs[name] for name in kept}
    assert all(OPTIONS[name].complaint(theirs[name], "Toy") is None for name in theirs)
