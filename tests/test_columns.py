"""`minorant.data.columns`: kinds inferred, categories to codes and back, errors that name."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from minorant.data.columns import Columns, infer, read

TABLE = {
    "truth": [True, False, None, True],
    "binary": [0, 1, 1, None],
    "text": ["b", "a", None, "b"],
    "poisson": [2, 3, 3, 2],
    "wide": [0, 9, 1, 25],
    "number": [0.5, None, -1.0, 2.5],
    "large": [100, 205, 310, 400],
}
KINDS = ("bernoulli", "bernoulli", "categorical", "poisson", "negative-binomial", "gaussian")
CODES = [
    [1, 0, 1, 2, 0, 0.5, 100],
    [0, 1, 0, 3, 9, np.nan, 205],
    [np.nan, 1, np.nan, 3, 1, -1, 310],
    [1, np.nan, 1, 2, 25, 2.5, 400],
]
MAKERS = {"dict": dict, "pandas": pd.DataFrame, "polars": pl.DataFrame, "arrow": pa.table}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_inferred_and_encoded(make):
    columns = infer(make(TABLE))
    assert columns.names == tuple(TABLE)
    assert columns.components == (*KINDS, "gaussian")
    assert columns.categories == {"truth": (False, True), "binary": (0, 1), "text": ("a", "b")}
    assert np.array_equal(columns.encode(make(TABLE)), CODES, equal_nan=True)


def test_codes_that_recur_are_categories():
    assert infer({"year": [2007, 2008, 2009] * 5}).components == ("categorical",)
    assert infer({"year": [2007, 2008, 2009] * 4}).components == ("gaussian",)
    assert infer({"side": [-1, 1] * 5}).categories == {"side": (-1, 1)}


def test_rows_of_no_weight_are_not_looked_at():
    table = {"a": [1, 2, 90, 2], "b": ["x", "y", "z", "x"]}
    columns = infer(table, weights=np.array([1.0, 1.0, 0.0, 2.0]))
    assert columns.components == ("poisson", "categorical")
    assert columns.categories == {"b": ("x", "y")}
    assert np.isnan(columns.encode(table, unknown="missing")[2, 1])


def test_back_again():
    columns = infer(TABLE)
    decoded = columns.decode(np.array(CODES)[[0, 1]])
    assert decoded["text"].tolist() == ["b", "a"]
    assert decoded["truth"].tolist() == [True, False]
    assert decoded["poisson"].dtype == np.int64
    assert np.array_equal(columns.encode(decoded), np.array(CODES)[[0, 1]], equal_nan=True)
    assert columns.decode(np.array(CODES))["text"].tolist() == ["b", "a", None, "b"]


def test_json_keeps_everything():
    columns = infer(TABLE, {"number": "student-t", "large": "categorical"})
    back = Columns.from_json(json.loads(json.dumps(columns.to_json())))
    assert back == columns
    assert [type(label) for label in back.categories["truth"]] == [bool, bool]


def test_overrides_by_name_and_position():
    assert infer(np.ones((3, 2)), {1: "gamma"}).components == ("bernoulli", "gamma")
    assert infer({"a": [1.0, 2.0]}, {"a": "exponential"}).components == ("exponential",)


BAD = {
    "unknown column": (lambda: infer(TABLE, {"height": "gamma"}), "names the column 'height'"),
    "unknown component": (lambda: infer(TABLE, {"text": "zipf"}), r"components\['text'\] must be"),
    "three values": (lambda: infer({"a": [1, 2, 3]}, {"a": "bernoulli"}), "has 3 different values"),
    "category": (
        lambda: infer(TABLE).encode(TABLE | {"text": ["a", "c", None, "b"]}),
        "Column 'text' holds 'c' in row 1, which is none of its known categories 'a', 'b'. Recode",
    ),
    "missing": (lambda: infer(TABLE).encode({"text": ["a"]}), r"lacks \['truth', 'binary'"),
    "extra": (lambda: infer({"a": [1]}).encode({"a": [1], "b": [1]}), r"has \['b'\] too many"),
    "order": (
        lambda: infer({"a": [1], "b": [1]}).encode({"b": [1], "a": [1]}),
        "columns in another order",
    ),
    "text for numbers": (
        lambda: infer({"a": [0.5, 2.5]}).encode({"a": [0.5, "high"]}),
        "Column 'a' is described as gaussian but holds 'high' in row 1",
    ),
    "dates": (lambda: read(pd.DataFrame({"a": pd.to_datetime(["2020-01-01"])})), "holds dates"),
    "vector": (lambda: read(np.ones(3)), "must be a table"),
}


@pytest.mark.parametrize(("call", "match"), BAD.values(), ids=BAD)
def test_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="Column 'a' holds {} in row 1: argument must be a string"):
        infer({"a": [1, {}]})
