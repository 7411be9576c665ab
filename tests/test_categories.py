"""Columns of text and categories in chunks: the kinds, codes and answers of a table in memory."""

import math

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import minorant
from minorant.components import Categorical
from minorant.data import coding
from minorant.data.cells import EVERY, Codes
from minorant.data.columns import infer
from minorant.data.dataset import ParquetChunks
from minorant.data.in_batches import BatchChunks
from minorant.data.open_chunks import uncoded
from minorant.estimators import LatentClassAnalysis, MixtureModel
from minorant.models import Mixture
from minorant.solvers.starts import Starts

pytestmark = pytest.mark.usefixtures("float64")
N, CHUNK = 480, 160
KINDS = {"colour": "categorical", "left": "bernoulli", "size": "categorical", "n": "poisson"}
KINDS |= {"x": "gaussian"}


def make_columns():
    """Two classes that differ in all columns; every chunk misses the same cells."""
    rng = np.random.default_rng(1)
    label = rng.integers(2, size=N)
    colour = np.array(["red", "blue", "green", "Blue"], dtype=object)
    found = {
        "colour": colour[np.where(label, rng.integers(0, 2, N), rng.integers(1, 4, N))],
        "left": rng.random(N) < np.array([0.2, 0.8])[label],
        "size": np.array([10, -2, 30])[rng.integers(0, 3, N)],
        "n": rng.binomial(12, np.array([0.45, 0.55])[label]),
        "x": rng.normal(3.0 * label, 1.0),
    }
    found["colour"][::10] = None
    return found | {"w": rng.integers(1, 4, N).astype(float)}


COLUMNS = make_columns()
NAMES = [name for name in COLUMNS if name != "w"]


def table_of(part=slice(None), coded=False):
    cells = {name: pa.array(values[part], from_pandas=True) for name, values in COLUMNS.items()}
    if coded:  # as words of a dictionary, in the order of appearance
        cells["colour"] = cells["colour"].dictionary_encode()
    return pa.table(cells)


TABLE = table_of().select(NAMES)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three files, one of which keeps text as a dictionary."""
    place = tmp_path_factory.mktemp("categories") / "rows"
    place.mkdir()
    for index, (start, stop) in enumerate([(0, 200), (200, 201), (201, N)]):
        part = table_of(slice(start, stop), coded=index == 2)
        pq.write_table(part, place / f"{index}.parquet", 57)
    return place


def several(files, **roles):
    """The files in several chunks, text among the columns."""
    roles = {"columns": NAMES, "categories": EVERY, **roles}
    return ParquetChunks(files, chunk_rows=CHUNK, **roles)


# --- kinds and codes -----------------------------------------------------------------------------


def random_table(rng, n=60):
    """Columns of every kind, at the edges between them."""
    kinds = {
        "text": rng.choice(["b", "a", "c c", ""], n).astype(object),
        "truth": rng.random(n) < 0.5,
        "binary": rng.integers(0, 2, n),
        "codes": rng.integers(100, 100 + rng.integers(2, 16), n),
        "counts": rng.poisson(rng.uniform(1, 40), n),
        "wide": rng.negative_binomial(2, 0.1, n),
        "below": rng.integers(-3, 3, n),
        "number": rng.normal(size=n),
        "whole": rng.normal(size=n).round() * 1e15,
        "none": np.full(n, np.nan),
    }
    for name, cells in kinds.items():
        gaps = rng.random(n) < rng.choice([0.0, 0.3])
        if gaps.any():
            kinds[name] = np.where(gaps, None, cells.astype(object))
    return kinds


@pytest.mark.parametrize("seed", range(12))
def test_kinds_and_labels_are_those_of_the_table_in_memory(seed):
    rng = np.random.default_rng(seed)
    table = random_table(rng)
    weights = rng.integers(0, 2, 60).astype(float) if seed % 2 else None
    overrides = {"codes": "categorical", "text": "categorical"} if seed % 3 else {}
    cuts = np.sort(rng.integers(0, 61, 4))
    batches = [
        {name: pa.array(cells[a:b], from_pandas=True) for name, cells in table.items()}
        | ({} if weights is None else {"w": weights[a:b]})
        for a, b in zip([0, *cuts], [*cuts, 60], strict=True)
    ]
    whole = {name: pa.array(cells, from_pandas=True).type for name, cells in table.items()}
    batches = [pa.table(batch).cast(schema_of(whole, batch)) for batch in batches]
    given = None if weights is None else "w"
    chunks = BatchChunks(batches, weights=given, categories=EVERY)
    assert coding.infer_chunks(chunks, overrides) == infer(pa.table(table_as(table, whole)),
                                                           overrides, weights)  # fmt: skip


def schema_of(types, batch):
    return pa.schema([(name, types.get(name, pa.float64())) for name in batch])


def table_as(table, types):
    return {name: pa.array(cells, types[name], from_pandas=True) for name, cells in table.items()}


def test_codes_are_those_of_the_table_in_memory(files):
    columns = coding.infer_chunks(several(files))
    assert columns == infer(TABLE)
    assert dict(zip(columns.names, columns.components, strict=True)) == KINDS
    assert columns.categories["colour"] == ("Blue", "blue", "green", "red")
    found = several(files).coded(coding.codes_of(columns, "error"))
    values = np.concatenate([table.values for table in found.read()])
    np.testing.assert_array_equal(values, columns.encode(TABLE))


@pytest.mark.parametrize("kind", ["pandas", "coded", "polars", "batches"])
def test_tables_and_batches_of_every_kind(kind):
    given = {
        "pandas": TABLE.to_pandas,
        "coded": lambda: TABLE.to_pandas().astype({"colour": pd.CategoricalDtype()}),
        "polars": lambda: pl.from_arrow(TABLE),
        "batches": lambda: [TABLE.slice(0, 100), TABLE.slice(100)],
    }[kind]()
    chunks = uncoded(given, dict.fromkeys(["columns", "weights"]), {}, EVERY)
    columns = coding.infer_chunks(chunks)
    assert columns == infer(TABLE)
    [found] = chunks.coded(coding.codes_of(columns, "error")).read()
    np.testing.assert_array_equal(found.values, columns.encode(TABLE))


def test_categories_are_found_or_given(files):
    found = minorant.chunks(files, columns=["colour", "size"], categories=["colour", "size"])
    assert found.form.codes.labels == (
        ("colour", ("Blue", "blue", "green", "red")), ("size", (-2, 10, 30)),
    )  # fmt: skip
    order = {"size": [10, 30, -2], "colour": ["green", "red", "blue", "Blue"]}
    [given] = minorant.chunks(files, columns=list(order), categories=order).read()
    for name, codes in zip(order, given.values.T, strict=True):
        there = ~np.isnan(codes)
        cells = np.array(order[name], dtype=object)[codes[there].astype(int)]
        np.testing.assert_array_equal(cells, COLUMNS[name][there])
    assert there.sum() == N - 48


def test_a_component_of_codes_learns_from_them(files):
    names = ["colour", "size"]
    [rows] = minorant.chunks(files, columns=names, categories=names).read()
    np.testing.assert_array_equal(rows.values[:, 1], np.searchsorted([-2, 10, 30], COLUMNS["size"]))
    chunks = several(files, columns=names).coded(
        Codes((("colour", ("Blue", "blue", "green", "red")), ("size", (-2, 10, 30))))
    )
    model = Mixture(Categorical(), n_components=2)
    passed = minorant.fit(model, chunks, max_steps=3, starts=Starts(1))
    held = minorant.fit(model, np.ascontiguousarray(rows.values), max_steps=3, starts=Starts(1))
    np.testing.assert_allclose(passed.trace.bound, held.trace.bound, rtol=1e-10)


# --- estimators ----------------------------------------------------------------------------------

OPTIONS = {"random_state": 0, "n_init": 1, "tol": 1e-4}


@pytest.fixture(scope="module")
def mixed():
    with minorant._config.precision(np.dtype(float)):
        return MixtureModel(2, **OPTIONS).fit(TABLE)


def same(one, other, tolerance=1e-8):
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_a_mixture_of_files_is_that_of_the_table(files, mixed):
    passed = MixtureModel(2, **OPTIONS).fit(several(files))
    assert passed.columns_ == mixed.columns_
    assert passed.feature_names_in_.tolist() == NAMES
    for kind, learned in mixed.parameters_.items():
        assert passed.parameters_[kind].pop("columns") == learned["columns"]
        for name, value in passed.parameters_[kind].items():
            same(value, learned[name])
    same(passed.score_samples(files), mixed.score_samples(TABLE))
    same(passed.score(files), mixed.score(TABLE), 1e-10)
    np.testing.assert_array_equal(passed.predict(files), mixed.predict(TABLE))
    filled = passed.impute(files)
    expected = mixed.impute(TABLE)
    assert filled["colour"].tolist() == expected["colour"].to_pylist()
    assert set(passed.sample(3)[0]) == set(NAMES)


@pytest.mark.parametrize("weighted", [False, True])
def test_classes_of_files_are_those_of_the_table(files, weighted):
    names, given = ["colour", "left", "size"], {"sample_weight": "w"} if weighted else {}
    held = LatentClassAnalysis(2, **OPTIONS).fit(
        TABLE.select(names), **({"sample_weight": COLUMNS["w"]} if weighted else {})
    )
    roles = {"columns": names, "weights": "w" if weighted else None}
    passed = LatentClassAnalysis(2, **OPTIONS).fit(several(files, **roles))
    assert passed.class_profiles_[:2] == held.class_profiles_[:2]
    same(passed.class_profiles_.probability, held.class_profiles_.probability)
    same(passed.entropy_r2_, held.entropy_r2_)
    assert passed.goodness_of_fit_ is held.goodness_of_fit_ is None  # cells are missing
    same(passed.score(files, **given), held.score(TABLE.select(names), sample_weight=COLUMNS["w"]
                                                  if weighted else None), 1e-10)  # fmt: skip


def test_all_patterns_are_counted_through_the_chunks(files):
    names = ["left", "size"]
    held = LatentClassAnalysis(1, **OPTIONS).fit(TABLE.select(names))
    passed = LatentClassAnalysis(1, **OPTIONS).fit(several(files, columns=names))
    same(passed.goodness_of_fit_.g_squared, held.goodness_of_fit_.g_squared)
    assert passed.goodness_of_fit_[1:] == held.goodness_of_fit_[1:] == (2, 6, 6)


def test_a_category_that_fit_did_not_see(files, mixed, tmp_path):
    strange = TABLE.slice(0, 20).set_column(0, "colour", pa.array(["red"] * 15 + ["pink"] * 5))
    pq.write_table(strange, tmp_path / "new.parquet")
    with pytest.raises(ValueError, match=r"'colour' holds 'pink' in row 15 of the file.*'Blue'"):
        mixed.predict(tmp_path / "new.parquet")
    lenient = MixtureModel(2, handle_unknown="missing", **OPTIONS).fit(TABLE)
    same(lenient.score_samples(tmp_path / "new.parquet"), lenient.score_samples(strange))


def test_labels_of_rows_without_weight_are_not_looked_at(tmp_path):
    weights = np.where(COLUMNS["colour"] == "red", 0.0, 1.0)
    table = TABLE.select(["colour", "x"]).append_column("w", pa.array(weights))
    pq.write_table(table, tmp_path / "rows.parquet")
    estimator = MixtureModel(1)
    [rows] = estimator._chunks(tmp_path / "rows.parquet", True, sample_weight="w").read()
    assert estimator._columns.categories["colour"] == ("Blue", "blue", "green")
    gone = np.isnan(rows.values[:, 0])
    np.testing.assert_array_equal(gone, [word in (None, "red") for word in COLUMNS["colour"]])


# --- refusals ------------------------------------------------------------------------------------

REFUSED = {
    "text without categories": (
        lambda rows: minorant.chunks(rows), "'colour' of the file .* holds text, not numbers"
    ),
    "no such column": (
        lambda rows: minorant.chunks(rows, categories=["hue"]), "names the column 'hue'"
    ),
    "another label": (
        lambda rows: next(minorant.chunks(rows, columns="size", categories={"size": [10]}).read()),
        r"'size' holds (-2|30) in row \d+ .* categories 10",
    ),
    "text that is to be a number": (
        lambda rows: MixtureModel(2, components={"colour": "gamma"}).fit(rows),
        "'colour' is described as gamma but holds 'Blue'",
    ),
    "categories of chunks": (
        lambda rows: minorant.chunks(several(rows), categories=["colour"]), "when chunks are made"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_as_categories_is_refused(name, files):
    ask, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        ask(files)


def test_too_many_labels_and_infinite_cells_are_refused(files, monkeypatch):
    monkeypatch.setattr(coding, "_MOST_LABELS", 3)
    with pytest.raises(ValueError, match="'colour' has more than 3 different values"):
        minorant.chunks(files, columns="colour", categories="colour")
    rows = [{"x": np.array([0.0, 1.0])}, {"x": np.array([0.5, -math.inf])}]
    with pytest.raises(ValueError, match=r"'x' holds -inf in row 3 \(row 1 of batch 1\)"):
        coding.infer_chunks(BatchChunks(rows))
