"""The command line on rows that are read part by part: as on the same rows in one file."""

import os

import numpy as np
import pytest

import minorant
from minorant.cli import main
from minorant.data.files import read_table, write_table

N = 2600  # the smallest part has 1024 rows
SMALL = ["--memory", "1kB"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One file, the same rows in a folder of three, and fits of both."""
    place = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(N, 2)) + 4.0 * rng.integers(2, size=(N, 1))
    rows[::10, 0] = rows[5::10, 1] = np.nan
    columns = dict(zip("ab", rows.T, strict=True)) | {"n": rng.integers(0, 3, N)}
    columns["kind"] = np.array(["x", "y", None], dtype=object)[rng.integers(0, 3, N)]
    columns["note"] = np.array([f"row {i}" for i in range(N)], dtype=object)
    write_table(place / "one.parquet", columns)
    (place / "rows").mkdir()
    for part, index in enumerate(np.array_split(np.arange(N), [900, 1000])):
        write_table(place / "rows" / f"{part}.parquet", {k: v[index] for k, v in columns.items()})
    words = ["--model=gaussian-mixture", "-k2", "--weights-column=n", "--drop=note", "--drop=kind",
             "--starts=1"]  # fmt: skip
    for table, out in (("one.parquet", "ONE"), ("rows", "PARTS")):
        options = [*words, "--out", str(place / out), "--quiet"]
        assert main(["fit", str(place / table), *options]) == 0
    return place


def asked(folder, out, *words):
    """The table that a command wrote."""
    assert main([*map(str, words), "--out", str(folder / out), "--overwrite"]) == 0
    return read_table(folder / out)


def assert_same(found, expected, tolerance=1e-9):
    assert found.schema == expected.schema
    for name in expected.column_names:
        cells, known = found[name], expected[name]
        if str(known.type) == "double":
            np.testing.assert_allclose(
                cells.to_numpy(), known.to_numpy(), rtol=tolerance, atol=1e-9
            )
        else:
            assert cells.to_pylist() == known.to_pylist()


def test_a_folder_is_fitted_as_one_file(folder):
    one, parts = (minorant.load(folder / name) for name in ("ONE", "PARTS"))
    np.testing.assert_allclose(parts.bound, one.bound, rtol=1e-10)
    assert parts.names == ("a", "b")


def test_scores_are_written_part_by_part(folder, capsys):
    fit, pattern = folder / "ONE", folder / "rows" / "*.parquet"
    known = asked(folder, "one-scores.parquet", "score", fit, folder / "one.parquet")
    capsys.readouterr()
    assert_same(asked(folder, "scores.parquet", "score", fit, pattern, *SMALL), known)
    total = float(capsys.readouterr().out.split()[3])
    np.testing.assert_allclose(total, known["log_density"].to_numpy().sum(), rtol=1e-12)
    assert main(["score", str(fit), str(pattern), "--weights-column", "n"]) == 0
    weighted = float(capsys.readouterr().out.split()[3])
    np.testing.assert_allclose(weighted, minorant.load(fit).bound, rtol=1e-10)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_cells_are_filled_part_by_part(folder, ending):
    fit, one = folder / "ONE", folder / "one.parquet"
    known = asked(folder, "one-filled.parquet", "impute", fit, one)
    assert known["a"].null_count == 0
    found = asked(folder, f"filled.{ending}", "impute", fit, folder / "rows", *SMALL)
    assert_same(found, known)


def test_a_part_that_fails_leaves_nothing_behind(folder, capsys):
    broken = folder / "broken"
    broken.mkdir()
    write_table(broken / "0.parquet", {"a": np.zeros(1500), "b": np.ones(1500)})
    write_table(broken / "1.parquet", {"a": np.zeros(5)})
    before = set(os.listdir(folder))
    out = folder / "never.parquet"
    assert main(["score", str(folder / "ONE"), str(broken), "--out", str(out), *SMALL]) == 2
    assert "has no column 'b'" in capsys.readouterr().err
    assert set(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("model", "drop"), [("mixture", ["note", "a", "b"]), ("latent-class", ["note", "a", "b"])]
)
def test_types_and_categories_are_those_of_one_file(folder, model, drop):
    words = [f"--model={model}", "-k2", "--starts=1", "--tolerance=1e-4", "--quiet"]
    words += [f"--drop={name}" for name in drop]
    for table, out in (("one.parquet", "ONE-K"), ("rows", "PARTS-K")):
        command = ["fit", str(folder / table), *words, "--out", str(folder / f"{out}{model}")]
        assert main(command) == 0
    one, parts = (minorant.load(folder / f"{name}{model}") for name in ("ONE-K", "PARTS-K"))
    np.testing.assert_allclose(parts.bound, one.bound, rtol=1e-9)
    ask = ("score", folder / f"PARTS-K{model}")
    known = asked(folder, "known.parquet", *ask, folder / "one.parquet")
    assert_same(asked(folder, "found.parquet", *ask, folder / "rows", *SMALL), known)


REFUSED = {
    "text": ("fit rows --model gaussian-mixture -k 2 --out F", "leave it out (--drop)"),
    "a flow": ("fit rows --model flow-density --drop note --out F", "needs the whole table"),
    "notes": ("fit rows --model mixture -k 2 --out F", "too many to be categories"),
    "one sequence": (
        "fit rows --model state-space -l 1 --drop note --drop kind --out F",
        "--group",
    ),
    "no column": ("fit rows --model gaussian-mixture -k 2 --drop x --out F", "no column 'x'"),
    "no size": (
        "fit rows --model ppca -l 1 --drop note --drop kind --memory lots --out F",
        "--memory must",
    ),
    "standard input": ("fit - --model gaussian-mixture -k 2 --memory 1GB --out F", "read once"),
    "text output": ("score ONE rows --out s.csv", "part by part"),
    "output among rows": ("score ONE rows --out rows/s.parquet", "read as a part"),
    "text input": ("score ONE notes.csv --memory 1GB", "turn it into Parquet"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_one_sentence(name, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "notes.csv").write_text("a,b\n1,2\n")
    line, words = REFUSED[name]
    assert main(line.split()) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert not os.path.exists("F")
