"""What can be wrong with rows in chunks: each fault ends with one sentence."""

import os
import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minorant.data import stored
from minorant.data.dataset import ParquetChunks
from minorant.data.in_batches import BatchChunks
from minorant.data.in_chunks import ArrayChunks, FrameChunks
from minorant.data.open_chunks import chunks


def refusal(kind, call):
    """The sentence of what ``call`` raises: one, with an end."""
    with pytest.raises(kind) as caught:
        list(call().read())
    assert type(caught.value) is kind
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith((".", ")"))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return sentence


@pytest.fixture
def folder(tmp_path):
    """Three files of four rows."""
    for index in range(3):
        write(tmp_path / f"{index}.parquet", x=np.arange(4.0) + 4 * index, y=np.ones(4))
    return tmp_path


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


# --- files ---------------------------------------------------------------------------------------


def test_a_file_cut_short(folder):
    path = folder / "1.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    found = refusal(ValueError, lambda: chunks(folder))
    assert re.match(rf"The file '{path}' is not a readable Parquet table \(.*\): write", found)


def test_an_empty_file(folder):
    (folder / "1.parquet").write_bytes(b"")
    assert "1.parquet' is empty: write it again" in refusal(ValueError, lambda: chunks(folder))


def test_a_file_with_a_damaged_page(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"x": np.random.default_rng(0).normal(size=1000)})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[100:3000] = bytes(2900)
    path.write_bytes(content)
    assert "is not a readable Parquet table" in refusal(ValueError, lambda: chunks(path))


def test_arrow_files_of_the_wrong_kind(tmp_path):
    path, table = tmp_path / "rows.arrow", pa.table({"x": [1.0]})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    assert "not a readable Arrow table (a stream" in refusal(ValueError, lambda: chunks(path))
    path.write_bytes(b"ARROW1" + bytes(50))
    assert "not a readable Arrow table" in refusal(ValueError, lambda: chunks(path))


def test_a_file_that_lacks_a_column(folder):
    path = write(folder / "1.parquet", x=np.ones(2))
    found = refusal(ValueError, lambda: chunks(folder))
    assert f"The file '{path}' has no column 'y', which '{folder}/0.parquet' has" in found
    assert "leave the file out" in found
    assert chunks(folder, columns=["x"]).n_rows == 10


def test_a_file_with_one_column_more(folder):
    path = write(folder / "1.parquet", x=np.ones(2), y=np.ones(2), z=np.ones(2))
    found = refusal(ValueError, lambda: chunks(folder))
    assert f"The file '{path}' has a column 'z' that '{folder}/0.parquet' does not have" in found
    assert chunks(folder, columns=["x", "y"]).n_rows == 10


def test_a_file_with_a_column_of_another_type(folder):
    path = write(folder / "1.parquet", x=np.ones(1), y=["b"])
    found = refusal(ValueError, lambda: chunks(folder))
    assert f"Column 'y' holds text in the file '{path}', but numbers in" in found


def test_groups_that_change_their_type(folder):
    write(folder / "1.parquet", x=np.ones(1), y=[7])
    found = refusal(ValueError, lambda: chunks(folder, groups="y"))
    assert "Column 'y' holds whole numbers in the file" in found
    batches = [{"x": np.ones(1), "g": np.array([1])}, {"x": np.ones(1), "g": np.array(["a"])}]
    found = refusal(ValueError, lambda: BatchChunks(batches, groups="g"))
    assert "g is int64 at first and large_string from row 1 (row 0 of batch 1)" in found


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (pa.array(["a", "b"]), "text"),
        (pa.array(["a", "b"]).dictionary_encode(), "text"),
        (pa.array([1, 2], pa.timestamp("us")), "dates or times"),
        (pa.array([[1.0], [2.0]]), "cells of type list"),
    ],
)
def test_columns_that_are_not_of_numbers(cells, kind, tmp_path):
    table = pa.table({"x": [1.0, 2.0], "other": cells})
    pq.write_table(table, tmp_path / "rows.parquet")
    for data, name in ((tmp_path, f"the file '{tmp_path}/rows.parquet'"), (table, "the table")):
        found = refusal(ValueError, lambda data=data: chunks(data))
        assert f"Column 'other' of {name} holds {kind}, not numbers: leave it out with" in found
        found = refusal(ValueError, lambda data=data: chunks(data, labels="other"))
        assert f"holds {kind}, but labels must be numbers" in found
        assert chunks(data, columns=["x"]).names == ("x",)


def test_two_columns_of_one_name(tmp_path):
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["x", "x"])
    pq.write_table(table, tmp_path / "rows.parquet")
    found = refusal(ValueError, lambda: chunks(tmp_path))
    assert "rows.parquet' has more than one column named 'x'" in found
    frame = pd.DataFrame(np.ones((2, 2)), columns=["x", "x"])
    for data in (table, frame):
        found = refusal(ValueError, lambda data=data: chunks(data))
        assert "more than one column" in found


def test_places_without_rows(tmp_path):
    empty = write(tmp_path / "0.parquet", x=np.empty(0))
    assert "has a header and no rows" in refusal(ValueError, lambda: chunks(empty))
    write(tmp_path / "1.parquet", x=np.empty(0))
    assert "None of the 2 files" in refusal(ValueError, lambda: chunks(tmp_path))
    write(tmp_path / "2.parquet", x=np.ones(3))
    assert [len(part.values) for part in chunks(tmp_path).read()] == [3]
    for data in (np.empty((0, 2)), np.empty((2, 0)), pd.DataFrame({"x": []})):
        assert "got shape (" in refusal(ValueError, lambda data=data: chunks(data))
    assert "no rows" in refusal(ValueError, lambda: BatchChunks([np.empty((0, 2))]))


def test_places_without_files(tmp_path):
    missing = str(tmp_path / "rows.parquet")
    assert f"'{missing}' does not exist" in refusal(FileNotFoundError, lambda: chunks(missing))
    pattern = str(tmp_path / "*.parquet")
    assert f"No file matches '{pattern}'" in refusal(FileNotFoundError, lambda: chunks(pattern))
    assert "holds no Parquet or Arrow file" in refusal(FileNotFoundError, lambda: chunks(tmp_path))
    assert "list of files is empty" in refusal(ValueError, lambda: chunks([]))


def test_a_file_that_is_named_twice(folder):
    paths = [folder / "0.parquet", str(folder) + "/./0.parquet"]
    assert "is given twice" in refusal(ValueError, lambda: chunks(paths))


def test_files_of_other_formats(tmp_path):
    (tmp_path / "rows.csv").write_text("x,y\n1,2\n")
    (tmp_path / "rows.tsv").write_text("x\ty\n1\t2\n")
    for place in (tmp_path, tmp_path / "rows.tsv", str(tmp_path / "*.csv")):
        found = refusal(ValueError, lambda place=place: chunks(place))
        assert "sv' is text" in found
        code = re.search("once, with (.*) after (.*);", found)
        exec(f"{code[2]}\n{code[1]}", {"pyarrow": pa})
        assert chunks(tmp_path / "rows.parquet").names == ("x", "y")
        (tmp_path / "rows.parquet").unlink()
    (tmp_path / "rows.xlsx").write_text("x")
    assert "has the ending '.xlsx'" in refusal(ValueError, lambda: chunks(tmp_path / "rows.xlsx"))
    assert "is an address" in refusal(ValueError, lambda: chunks("s3://bucket/rows.parquet"))


def test_a_delta_table(folder):
    (folder / "_delta_log").mkdir()
    assert "is a Delta table" in refusal(ValueError, lambda: chunks(folder))


def test_record_batches_that_are_too_long(tmp_path):
    table = pa.table({"x": np.ones(1000)})
    with pa.ipc.new_file(tmp_path / "rows.arrow", table.schema) as writer:
        writer.write_table(table)
    found = refusal(ValueError, lambda: chunks(tmp_path, memory="8 kB"))
    assert "has a record batch of 1000 rows, about 8000 bytes" in found
    assert chunks(tmp_path, memory="16 kB").n_rows == 1000


# --- what happens while files are read -----------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("fault", ["rewritten", "cut", "gone"])
def test_files_that_change_while_they_are_read(folder, index, begun, fault, monkeypatch):
    monkeypatch.setattr(stored, "BATCH_ROWS", 2)
    found = chunks(folder)
    steps = ParquetChunks(folder, chunk_rows=2).read()
    for _ in range(2 * index + begun):
        next(steps)
    path = folder / f"{index}.parquet"
    if fault == "gone":
        path.unlink()
        kind, sentence = FileNotFoundError, "has gone since it was first read: put it back"
    elif fault == "cut":
        os.truncate(path, 200)
        kind, sentence = OSError, r"was changed since it was first read \(it had \d+ bytes, now 200"
    else:
        write(path, x=np.ones(900), y=np.ones(900))
        kind, sentence = OSError, "was changed since it was first read"
    for rest in (lambda: list(steps), lambda: list(found.read())):
        with pytest.raises(kind, match=f"The file '{path}' {sentence}"):
            rest()


def test_a_memory_map_whose_file_changes(tmp_path):
    np.save(tmp_path / "rows.npy", np.ones((4, 2)))
    found = ArrayChunks(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    assert len(list(found.read())) == 1
    os.utime(tmp_path / "rows.npy", (0, 0))
    with pytest.raises(OSError, match=r"rows.npy' was changed since it was first read"):
        list(found.read())


# --- cells ---------------------------------------------------------------------------------------


def test_cells_that_cannot_be_used(folder):
    path = write(folder / "1.parquet", x=[1.0, np.inf, 2.0, 3.0], y=np.ones(4))
    found = refusal(ValueError, lambda: chunks(folder))
    assert f"Column 'x' holds inf in row 5 (row 1 of the file '{path}'): infinities" in found
    write(path, x=[1.0, None, 2.0, np.nan], y=[1.0, 2.0, 3.0, None])
    found = refusal(ValueError, lambda: chunks(folder))
    assert f"Row 7 (row 3 of the file '{path}') has no observed cell" in found
    assert len(list(chunks(folder, empty_rows=True).read())) == 1
    assert len(list(chunks(folder).with_empty_rows().read())) == 1
    found = refusal(ValueError, lambda: chunks(path))
    assert f"Row 3 of the file '{path}' has no observed cell" in found


X = np.arange(6.0)[:, None]


@pytest.mark.parametrize(
    ("role", "cells", "sentence"),
    [
        ("weights", [1, 1, 1, -1.0, 1, 1], "not negative; row 3 has -1.0"),
        ("weights", [1, 1, 1, np.nan, 1, 1], "not negative; row 3 has nan"),
        ("weights", np.zeros(6), "weights are all zero"),
        ("labels", [0, 1, 0, 1.5, 0, -1], "labels must be whole numbers .*; row 3 has 1.5"),
        ("labels", [0, 1, 0, np.inf, 0, -1], "row 3 has inf"),
        ("inputs", [1, 1, 1, np.nan, 1, 1], "holds nan in row 3: what is conditioned on"),
        ("groups", [1, 1, 2, np.nan, 2, 2], "groups must name .*; row 3 has none"),
        ("groups", [1, 1, 2, 1, 3, 3], "g 1 begins in row 0 and again in row 3: sort"),
    ],
)
def test_what_is_beside_the_values(role, cells, sentence, tmp_path):
    cells = np.asarray(cells)
    table = pa.table({"x": X[:, 0], "g": pa.array(cells, from_pandas=True)})
    path = write(tmp_path / "rows.parquet", x=X[:, 0], g=cells)
    of_file = re.sub(r"row (\d)", lambda row: f"{row[0]} of the file '{path}'", sentence)
    of_array = sentence.replace("g 1", "groups 1")
    for rows in (2, 100):
        found = refusal(ValueError, lambda n=rows: ArrayChunks(X, chunk_rows=n, **{role: cells}))
        assert re.search(of_array, found)
        found = refusal(ValueError, lambda n=rows: FrameChunks(table, chunk_rows=n, **{role: "g"}))
        assert re.search(sentence, found)
        found = refusal(ValueError, lambda n=rows: ParquetChunks(path, chunk_rows=n, **{role: "g"}))
        assert re.search(of_file, found)


def test_weights_that_differ_inside_a_group():
    weights, groups = [1, 1, 2, 2, 3, 2.0], [0, 0, 1, 1, 2, 2]
    found = refusal(ValueError, lambda: ArrayChunks(X, weights=weights, groups=groups))
    assert "row 5 has 2.0, its group began with 3.0" in found


def test_groups_that_come_again_are_found_among_many():
    groups = np.arange(5000)
    groups[4000] = 17
    for first in (0, 2):
        found = ArrayChunks(np.ones((5000, 1)), groups=groups, chunk_rows=1000)
        with pytest.raises(ValueError, match="groups 17 begins in row 17 and again in row 4000"):
            list(found.read(first))
        assert found.count() is None


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roles", "sentence"),
    [
        ({"columns": ["x", "q"]}, "columns names the column 'q', which the table does not have"),
        ({"weights": "q"}, "weights names the column 'q', which .* its columns are 'x', 'y'"),
        ({"columns": ["x", "x"]}, "The column 'x' is named in columns twice"),
        ({"columns": ["x", "y"], "inputs": "y"}, "'y' is named in inputs and in columns"),
        ({"weights": "x", "labels": "y"}, "leaves no column to describe"),
        ({"weights": np.ones(2)}, "weights must be the name of a column .*; got a ndarray"),
        ({"chunk_rows": 0}, "chunk_rows must be at least 1; got 0"),
        ({"columns": []}, "leaves no column to describe"),
    ],
)
def test_roles_that_make_no_sense(roles, sentence):
    table = pa.table({"x": [1.0, 2.0], "y": [1.0, 2.0]})
    assert re.search(sentence, refusal(ValueError, lambda: FrameChunks(table, **roles)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights": np.ones(5)}, r"weights must have one entry per row, shape \(6,\); got \(5,\)"),
        ({"inputs": np.ones((5, 2))}, "inputs must have one row per row of data, 6; got 5"),
        ({"weights": "w"}, "weights must be an array of one entry per row; got the name 'w'"),
        ({"labels": ["a"] * 6}, "labels must be numbers"),
        ({"columns": ["x"]}, "columns must be left out with an array"),
        ({"memory": "lots"}, "memory must be a size"),
    ],
)
def test_arguments_beside_arrays(options, sentence):
    assert re.search(sentence, refusal(ValueError, lambda: chunks(X, **options)))


def test_arrays_that_are_no_tables_of_numbers():
    assert "got shape (3,)" in refusal(ValueError, lambda: chunks(np.ones(3)))
    found = refusal(ValueError, lambda: chunks(np.array([["a"]])))
    assert "data must hold numbers to be read in chunks; got an array of <U1" in found
    given = ArrayChunks(X)
    assert "settled when chunks are made" in refusal(ValueError, lambda: chunks(given, weights="w"))


def test_what_can_be_gone_through_only_once():
    for once in ((X for _ in range(2)), pa.RecordBatchReader.from_batches(SCHEMA, [])):
        found = refusal(TypeError, lambda once=once: chunks(once))
        assert "is used up after one pass over it, and a fit takes many: give a function" in found
    batches = iter([X, X])
    assert "no rows" in refusal(ValueError, lambda: chunks(lambda: iter([])))
    found = chunks(lambda: batches)
    with pytest.raises(ValueError, match="12 rows|6 rows|no rows"):
        [list(found.read()) for _ in range(2)]


SCHEMA = pa.schema([("x", pa.float64())])


def test_batches_of_another_number_of_rows_in_a_later_pass():
    lengths = iter([3, 3, 2])
    found = chunks(lambda: [X] * next(lengths))
    assert sum(len(part.values) for part in found.read()) == 18
    with pytest.raises(ValueError, match="had 18 rows in the first pass and 12 in a later one"):
        list(found.read())


@pytest.mark.parametrize(
    ("batches", "kind", "sentence"),
    [
        ([{"x": [1.0], "y": [2.0]}, {"x": [1.0]}], ValueError, "'y' is in the first .* batch 1"),
        ([{"x": [1.0]}, {"x": [1.0], "y": [2.0]}], ValueError, "'y' is in batch 1 but not in"),
        ([{"x": [1.0]}, {"x": ["a"]}], ValueError, "'x' of batch 1 holds text, not numbers"),
        ([{"x": [1.0], "y": [1.0, 2.0]}], ValueError, "of one length; got shapes"),
        ([{"x": [1.0, "a", None]}], ValueError, "holds text|several kinds"),
        ([np.ones(3)], ValueError, r"A batch must be a table of rows and columns; got shape \(3,"),
        ([3], TypeError, "data must be a pandas, polars or Arrow table here; got a int"),
        (lambda: 3, TypeError, "the function returned a int"),
        (3, TypeError, "data must be a path, an array, .*; got a int"),
        ({"x": [1.0]}, TypeError, "got a dict"),
        (pl.LazyFrame({"x": [1.0]}), ValueError, "write it to a file once .*sink_parquet"),
        ([{"x": [np.inf, 1.0]}], ValueError, r"holds inf in row 0 \(row 0 of batch 0\)"),
    ],
)
def test_batches_that_make_no_sense(batches, kind, sentence):
    assert re.search(sentence, refusal(kind, lambda: chunks(batches)))
