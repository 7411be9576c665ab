"""Tables in files: what comes back is what went in, and what is refused leaves nothing behind."""

import csv
import io
import os
import stat
import sys
import types

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from minorant import datasets
from minorant.data import files
from minorant.data.files import read_table, write_table

ENDINGS = sorted(files.FORMATS)


@pytest.fixture
def columns():
    """Numbers of every size, whole numbers, text that needs quotes, and missing cells."""
    rng = np.random.default_rng(0)
    wide = rng.normal(size=2000) * 10.0 ** rng.integers(-300, 300, 2000)
    wide[::7] = np.nan
    words = np.resize(np.array(["a", "b,c", 'say "d"', "e\tf", "g\nh", None], dtype=object), 2000)
    return {"wide": wide, "count": np.arange(2000), "a word, or two": words}


def as_read(table):
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read_to_the_last_bit(tmp_path, columns, ending):
    path = tmp_path / f"rows{ending}"
    write_table(path, columns)
    found = as_read(read_table(path))
    assert list(found) == list(columns)
    np.testing.assert_array_equal(found["wide"], columns["wide"])
    np.testing.assert_array_equal(found["count"], columns["count"])
    assert found["a word, or two"].tolist() == columns["a word, or two"].tolist()
    assert os.listdir(tmp_path) == [path.name]


def test_python_reads_the_same_csv(tmp_path, columns):
    write_table(tmp_path / "rows.csv", columns)
    with (tmp_path / "rows.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == list(columns)
    wide, _, words = zip(*rows, strict=True)
    np.testing.assert_array_equal([float(cell or "nan") for cell in wide], columns["wide"])
    assert [cell or None for cell in words] == columns["a word, or two"].tolist()


@pytest.mark.parametrize("name", datasets.names())
def test_the_shipped_tables_read_as_pandas_reads_them(tmp_path, name):
    frame = pd.DataFrame(datasets.load(name))
    for ending, write in ((".csv", frame.to_csv), (".parquet", frame.to_parquet)):
        write(tmp_path / f"rows{ending}", index=False)
        table = read_table(tmp_path / f"rows{ending}").to_pandas()
        pd.testing.assert_frame_equal(table, frame, check_dtype=False)


def test_the_index_that_pandas_stores_is_no_column(tmp_path):
    frame = pd.DataFrame({"x": [1.0, 2.0]}, index=["first", "second"])
    frame.to_parquet(tmp_path / "rows.parquet")
    assert read_table(tmp_path / "rows.parquet").column_names == ["x"]


def test_an_arrow_stream_reads_like_an_arrow_file(tmp_path):
    table = pa.table({"x": [1.0, 2.0]})
    with pa.ipc.new_stream(tmp_path / "rows.arrow", table.schema) as writer:
        writer.write_table(table)
    assert read_table(tmp_path / "rows.arrow").equals(table)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ("1\n2\n", [1, 2]),
        ("1\n2.5\n", [1.0, 2.5]),
        (" 1\n2 \n", [1, 2]),
        ("1\nNA\n", [1, None]),
        (" NA\n3\n", [None, 3]),
        ("NaN\nnull\nNone\nN/A\n4\n", [None, None, None, None, 4]),
        ("NA\nNA\n", [None, None]),
        ("1\nx\n", ["1", "x"]),
        ("1e3\n-inf\n", [1000.0, -np.inf]),
        ('"1,5"\n2\n', ["1,5", "2"]),
        ("1\r\n2\r\n", [1, 2]),
        ("1\r2\r", [1, 2]),
        ("1\n2", [1, 2]),
        ("1\n\n\n2\n", [1, 2]),
    ],
)
def test_cells_of_a_column(tmp_path, cells, expected):
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbf" + f"x\n{cells}".encode())
    table = read_table(tmp_path / "rows.csv")
    assert table.to_pydict() == {"x": expected}


def test_a_column_is_typed_by_all_its_cells_not_by_the_first(tmp_path):
    cells = [str(i) for i in range(200_000)] + ["last"]
    (tmp_path / "rows.csv").write_text("x\n" + "\n".join(cells) + "\n")
    assert read_table(tmp_path / "rows.csv")["x"].to_pylist() == cells


def test_standard_input_and_output(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"x,y\n1,a\n")))
    table = read_table("-")
    assert table.to_pydict() == {"x": [1], "y": ["a"]}
    write_table("-", table)
    assert capsys.readouterr().out == "x,y\n1,a\n"


def test_dictionary_coded_text_is_written_as_text(tmp_path):
    write_table(tmp_path / "rows.csv", pa.table({"x": pa.array(["a", "b"]).dictionary_encode()}))
    assert (tmp_path / "rows.csv").read_text() == "x\na\nb\n"


# --- refusals ------------------------------------------------------------------------------------

BAD_CSV = {
    "nothing": (b"", "is empty"),
    "blank lines": (b"\n\n", "is empty"),
    "a header alone": (b"a,b\n", "has a header and no rows"),
    "a header without a line end": (b"a,b", "has a header and no rows"),
    "a long row": (b"a,b\n1,2\n\n1,2,3\n", "has 3 cells in line 4 and 2 in its header"),
    "a short row": (b'a,b\n"1\n2",2\n1\n', "has 1 cells in line 4 and 2 in its header"),
    "two columns of a name": (b"a,b,a\n1,2,3\n", "more than one column named 'a'"),
    "no header": (b"3.6,79\n1.8,54\n", "has no header: its first line holds only numbers"),
    "semicolons": (b"a;b\n1;2\n", "separates its columns by ';'"),
    "an open quotation": (b'a,b\n"1,2\n3,4\n', "a quotation mark that is never closed"),
    "another encoding": ("a\n1\nä\n".encode("latin-1"), "line 3 holds the byte 0xe4"),
    "a zip archive": (b"PK\x03\x04\x14\x00\x06\x00", "holds bytes that are no text"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_what_is_no_csv_is_refused_in_a_sentence(tmp_path, case):
    content, expected = BAD_CSV[case]
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(ValueError, match="rows.csv") as refusal:
        read_table(tmp_path / "rows.csv")
    assert expected in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"PAR1", b"ARROW1", b"\0" * 100])
def test_what_is_no_parquet_or_arrow_is_refused(tmp_path, ending, content):
    (tmp_path / f"rows{ending}").write_bytes(content)
    with pytest.raises(ValueError, match="is not a readable"):
        read_table(tmp_path / f"rows{ending}")


def test_a_truncated_parquet_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pa.table({"x": np.arange(1000)}), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a readable Parquet table"):
        read_table(path)


@pytest.mark.parametrize("table", [pa.table({}), pa.table({"x": pa.array([], pa.float64())})])
def test_an_empty_binary_table_is_refused(tmp_path, table):
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="no columns|no rows"):
        read_table(tmp_path / "rows.parquet")


@pytest.mark.parametrize("name", ["rows.xlsx", "rows", ".csv", "rows.csv.gz"])
def test_an_unknown_ending_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"\.csv, \.tsv, \.parquet"):
        read_table(name)


def test_files_that_cannot_be_opened(tmp_path, monkeypatch):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.csv' is a directory"):
        read_table(tmp_path / "folder.csv")
    with pytest.raises(FileNotFoundError, match=r"none\.csv' does not exist"):
        read_table(tmp_path / "none.csv")

    def forbidden(path):  # a mode would not stop root
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", forbidden)
    with pytest.raises(PermissionError, match=r"x\.csv' may not be read by this user"):
        read_table(tmp_path / "x.csv")


def test_an_output_that_exists_is_kept_unless_asked(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="exists: give another name"):
        write_table(path, {"x": [1.0]})
    assert path.read_text() == "precious"
    path.chmod(0o640)
    write_table(path, {"x": [1.0]}, overwrite=True)
    assert path.read_text() == "x\n1\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_outputs_that_cannot_be(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(IsADirectoryError):
        write_table(tmp_path / "folder.csv", {"x": [1]}, overwrite=True)
    with pytest.raises(FileNotFoundError, match="does not exist: create it first"):
        write_table(tmp_path / "none" / "rows.csv", {"x": [1]})


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".arrow"])
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, ending):
    def full(handle):
        raise OSError(28, "No space left on device")

    (tmp_path / f"old{ending}").write_text("precious")
    monkeypatch.setattr(os, "fsync", full)
    for name in ("new", "old"):
        with pytest.raises(OSError, match="the disk is full") as refusal:
            write_table(tmp_path / f"{name}{ending}", {"x": [1.0]}, overwrite=True)
        assert f"{name}{ending}" in str(refusal.value)
    assert os.listdir(tmp_path) == [f"old{ending}"]
    assert (tmp_path / f"old{ending}").read_text() == "precious"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".arrow"])
def test_a_full_device(tmp_path, ending):
    (tmp_path / f"rows{ending}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="the disk is full"):
        write_table(tmp_path / f"rows{ending}", {"x": np.arange(100_000.0)}, overwrite=True)
