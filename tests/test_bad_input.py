"""Bad input: one table of cases, each refused in one sentence by Python and by the command line.

A case is a table of columns and what is asked of it. In Python the estimator raises; the command
line prints the sentence, returns 2, and leaves the directory as it was.
"""

import json
import os
import re
import shutil
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest

from minorant.cli import main
from minorant.data.files import write_table

INF, NAN = np.inf, np.nan
GAUSSIAN, CLASSES = "gaussian-mixture", "latent-class"


class Case(NamedTuple):
    """Columns of a table, options, and what the sentence must say (a pattern) in either face."""

    columns: dict[str, list]
    says: str
    components: int = 2
    model: str = GAUSSIAN
    weights: list | None = None
    labels: list | None = None
    python_says: str | None = None


def rows(**changes: list) -> dict[str, list]:
    return {"x": [0.0, 1.0, 2.0, 10.0, 11.0, 12.0], "y": [1.0, 0.0, 1.0, 5.0, 6.0, 5.0]} | changes


CASES = {
    "a column of text": Case({"x": ["a", "b", "c"]}, r"'x'.*(text|String|'a')"),
    "text beside numbers": Case(rows(y=["u", *"vwxyz"]), r"'y'.*('u'|String)"),
    "infinity": Case(rows(y=[1, 0, INF, 5, 6, 5]), r"'y'.*inf"),
    "minus infinity": Case(rows(y=[1, 0, 1, -INF, 6, 5]), r"'y'.*-inf"),
    "a column all missing": Case(rows(y=[NAN] * 6), r"'y' has no observed value.*Drop it"),
    "a row all missing": Case(
        rows(x=[0, NAN, 2, 9, 8, 9.0], y=[1, NAN, 1, 5, 6, 5]), r"Row 1 has no observed cell.*drop"
    ),
    "fewer rows than components": Case(
        {"x": [1.0, 2.0, 3.0]}, r"4 components.*3 rows", components=4
    ),
    "K = 0": Case(rows(), r"\b0\b", components=0),
    "K = -3": Case(rows(), r"-3", components=-3),
    "a negative weight": Case(rows(), r"-1.0.*row 2|row 2.*-1.0", weights=[1, 1, -1, 1, 1, 1]),
    "an infinite weight": Case(rows(), r"inf.*row 2|row 2.*inf", weights=[1, 1, INF, 1, 1, 1]),
    "a missing weight": Case(rows(), r"nan.*row 2|row 2.*nan", weights=[1, 1, NAN, 1, 1, 1]),
    "all-zero weights": Case(rows(), r"zero.*(must count|alike)", weights=[0.0] * 6),
    "a label too large": Case(rows(), r"labels.*row 1|row 1.*labels", labels=[0, 2, -1, -1, -1, 1]),
    "a label below -1": Case(rows(), r"labels.*-5", labels=[0, -5, -1, -1, -1, 1]),
    "half a label": Case(rows(), r"labels.*0\.5", labels=[0, 0.5, -1, -1, -1, 1]),
    "a variance beyond float64": Case(
        {"x": [-1e200, 1e200, 3e200]}, r"'x' has a variance.*[Dd]ivide", components=1
    ),
    "infinity among categories": Case(
        {"x": [0, 1, 1, 0, 1, 0], "y": [1.0, 2, INF, 2, 1, 2]}, r"'y'.*inf", model=CLASSES
    ),
}  # fmt: skip


def sentence_of(text: str, pattern: str) -> None:
    """One clear sentence or two: no traceback, a remedy's full stop, what and where."""
    assert re.search(pattern, text), text
    assert text.strip().endswith("."), text
    assert "Traceback" not in text
    assert "minorant itself" not in text


def fitted(case: Case, columns: Any) -> Any:
    from minorant import estimators

    name = {GAUSSIAN: "GaussianMixture", CLASSES: "LatentClassAnalysis"}[case.model]
    estimator = getattr(estimators, name)(case.components, random_state=0)
    return estimator.fit(columns, sample_weight=case.weights, labels=case.labels)


@pytest.mark.parametrize("name", CASES)
def test_python_refuses_in_a_sentence(name):
    import pandas as pd

    case = CASES[name]
    with pytest.raises(ValueError, match=r"\.$") as refusal:
        fitted(case, pd.DataFrame(case.columns))
    sentence_of(str(refusal.value), case.python_says or case.says)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("name", CASES)
def test_the_command_line_refuses_in_a_sentence(tmp_path, capsys, name, ending):
    case = CASES[name]
    given = {"weights": case.weights, "labels": case.labels}
    extra = {f"the {key}": value for key, value in given.items() if value is not None}
    write_table(tmp_path / f"rows{ending}", case.columns | extra)
    words = ["fit", str(tmp_path / f"rows{ending}"), "--model", case.model]
    words += [f"--components={case.components}", "--out", str(tmp_path / "FIT")]
    words += [word for key in given if given[key] for word in (f"--{key}-column", f"the {key}")]
    before = sorted(os.listdir(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(words) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1
    sentence_of(found.err, case.says)
    assert sorted(os.listdir(tmp_path)) == before


# --- a saved fit and what is asked of it ---------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with a table and two fits."""
    place = tmp_path_factory.mktemp("fits")
    write_table(place / "rows.csv", rows())
    write_table(place / "answers.csv", {"a": list("ppqqpq"), "b": [1, 1, 2, 2, 1, 2]})
    for table, model, out in (("rows", GAUSSIAN, "FIT"), ("answers", CLASSES, "CLASSES")):
        words = ["fit", str(place / f"{table}.csv"), "--model", model, "-k", "1"]
        assert main([*words, "--out", str(place / out), "--quiet"]) == 0
    return place


@pytest.fixture
def copy(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path


def refused(capsys, place, *words: str) -> str:
    """The sentence of a command that must be refused and leave the directory as it was."""
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    capsys.readouterr()
    assert main(words) == 2
    found = capsys.readouterr()
    assert found.out == ""
    sentence_of(found.err, "")
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    return found.err


QUESTIONS = {
    "a column is missing": ("FIT", {"x": [1.0]}, "no column 'y', which the fit needs"),
    "another table": ("FIT", {"a": [1.0], "b": [2.0]}, "no column 'x'.*it has 'a', 'b'"),
    "text for a number": ("FIT", {"x": ["u"], "y": [1.0]}, "'x' holds text .'u' in row 0"),
    "infinity": ("FIT", {"x": [1.0, INF], "y": [1.0, 2.0]}, "'x' holds inf in row 1"),
    "an unknown category": ("CLASSES", {"a": ["p", "z"], "b": [1, 2]}, "'a' holds 'z' in row 1"),
    "an unknown number": ("CLASSES", {"a": ["p"], "b": [7]}, "'b' holds 7.* in row 0"),
    "text for a number's category": ("CLASSES", {"a": ["p"], "b": ["?"]}, r"'b' holds '\?'"),
}


@pytest.mark.parametrize("question", ["score", "impute"])
@pytest.mark.parametrize("ending", [".csv", ".arrow"])
@pytest.mark.parametrize("name", QUESTIONS)
def test_rows_that_the_fit_cannot_describe(copy, capsys, name, ending, question):
    fit, columns, says = QUESTIONS[name]
    table = copy / f"new{ending}"
    write_table(table, columns)
    words = [question, str(copy / fit), str(table), "--out", str(copy / "out.csv")]
    assert re.search(says, refused(capsys, copy, *words))


def test_columns_are_found_by_name_whatever_their_order(copy, capsys):
    table = rows()
    write_table(copy / "turned.csv", {"other": list("abcdef"), "y": table["y"], "x": table["x"]})
    answers = []
    for name in ("rows", "turned"):
        capsys.readouterr()
        assert main(["score", str(copy / "FIT"), str(copy / f"{name}.csv"), "--out", "-"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def from_the_future(path):
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"version": 99}))


DAMAGE = {
    "cut short": ("fit.json", truncate, "fit.json is damaged"),
    "arrays cut short": ("arrays.safetensors", truncate, "arrays.safetensors is damaged"),
    "no arrays": ("arrays.safetensors", os.unlink, "has lost its arrays.safetensors"),
    "no description": ("fit.json", os.unlink, "is not a saved fit"),
    "a later version": ("fit.json", from_the_future, "format 99.*upgrade minorant"),
    "another program's": ("fit.json", lambda p: p.write_text("{}"), "not written by minorant"),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("question", ["score", "show", "sample", "impute"])
def test_a_damaged_fit(copy, capsys, name, question):
    file, damage, says = DAMAGE[name]
    damage(copy / "FIT" / file)
    rest = {"score": [str(copy / "rows.csv")], "sample": ["-n", "3"], "show": []}
    words = [question, str(copy / "FIT"), *rest.get(question, [str(copy / "rows.csv")])]
    assert re.search(says, refused(capsys, copy, *words))


def test_a_fit_that_is_not_there_or_is_a_file(copy, capsys):
    assert "There is no" in refused(capsys, copy, "show", str(copy / "NONE"))
    assert "is a file" in refused(capsys, copy, "show", str(copy / "rows.csv"))


FILES = {
    "not there": ("none.csv", None, "does not exist"),
    "a directory": ("FIT", None, "holds no Parquet or Arrow file"),
    "a directory named like a table": ("folder.csv", "folder", "holds no Parquet or Arrow file"),
    "no table": ("rows.parquet", b"x,y\n1,2\n", "is not a readable Parquet table"),
    "empty": ("empty.csv", b"", "is empty"),
    "no rows": ("header.csv", b"x,y\n", "has a header and no rows"),
    "ragged": ("ragged.csv", b"x,y\n1,2\n3\n", "1 cells in line 3"),
    "not text": ("bytes.csv", b"x,y\n1,\xff\n", "line 2 holds the byte 0xff"),
    "an unknown ending": ("rows.xlsx", b"PK", "the ending '.xlsx'"),
    "two columns of one name": ("twice.csv", b"x,x\n1,2\n", "more than one column named 'x'"),
}


@pytest.mark.parametrize("command", ["fit", "score", "impute"])
@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_tables(copy, capsys, name, command):
    file, content, says = FILES[name]
    if content == "folder":
        (copy / file).mkdir()
    elif content is not None:
        (copy / file).write_bytes(content)
    words = {
        "fit": ["fit", str(copy / file), "--model", GAUSSIAN, "-k1", "--out", str(copy / "NEW")],
        "score": ["score", str(copy / "FIT"), str(copy / file), "--out", str(copy / "new.csv")],
        "impute": ["impute", str(copy / "FIT"), str(copy / file), "--out", str(copy / "new.csv")],
    }[command]
    assert re.search(says, refused(capsys, copy, *words))


def test_a_file_that_may_not_be_read(copy, capsys, monkeypatch):
    def forbidden(path):  # a mode would not stop root
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", forbidden)
    words = ["fit", str(copy / "rows.csv"), "--model", GAUSSIAN, "-k1", "--out", str(copy / "NEW")]
    assert "may not be read by this user" in refused(capsys, copy, *words)


# --- outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("target", ["folder", "rows.csv"])
def test_an_output_directory_that_exists_and_is_no_fit(copy, capsys, target, overwrite):
    (copy / "folder").mkdir()
    (copy / "folder" / "thesis.txt").write_text("precious")
    words = ["fit", str(copy / "rows.csv"), "--model", GAUSSIAN, "-k1", "--out", str(copy / target)]
    sentence = refused(capsys, copy, *words, *overwrite)
    assert re.search("exists|holds more than a saved fit", sentence)


def test_a_fit_that_exists_is_replaced_only_when_asked(copy, capsys):
    words = ["fit", str(copy / "rows.csv"), "--model", GAUSSIAN, "-k1", "--out", str(copy / "FIT")]
    assert "--overwrite" in refused(capsys, copy, *words)
    before = (copy / "FIT" / "fit.json").stat().st_ino
    assert main([*words, "--overwrite"]) == 0
    assert (copy / "FIT" / "fit.json").stat().st_ino != before


@pytest.mark.parametrize("command", ["score", "sample", "impute"])
def test_a_table_that_exists_is_kept(copy, capsys, command):
    (copy / "out.csv").write_text("precious")
    rest = ["-n", "2"] if command == "sample" else [str(copy / "rows.csv")]
    words = [command, str(copy / "FIT"), *rest, "--out", str(copy / "out.csv")]
    assert "exists" in refused(capsys, copy, *words)


@pytest.mark.parametrize("command", ["score", "impute"])
def test_the_input_is_never_the_output(copy, capsys, command):
    table = str(copy / "rows.csv")
    words = [command, str(copy / "FIT"), table, "--out", table, "--overwrite"]
    assert "is the table itself" in refused(capsys, copy, *words)


def test_a_full_disk_leaves_nothing_half_written(copy, capsys, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    table, fit = str(copy / "rows.csv"), str(copy / "FIT")
    commands = [
        ["fit", table, "--model", GAUSSIAN, "-k1", "--out", str(copy / "NEW")],
        ["fit", table, "--model", GAUSSIAN, "-k1", "--out", fit, "--overwrite"],
        ["score", fit, table, "--out", str(copy / "new.csv")],
        ["sample", fit, "-n", "2", "--out", str(copy / "new.parquet")],
        ["impute", fit, table, "--out", str(copy / "new.arrow")],
    ]
    for words in commands:
        assert re.search("space|full", refused(capsys, copy, *words))


OPTIONS = {
    "--components": ("0", "an int in [1, inf)"),
    "--tolerance": ("-1", "a float in [0, inf)"),
    "--max-steps": ("-1", "an int in [0, inf)"),
    "--starts": ("many", "an int in [1, inf) or auto"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_out_of_range(copy, capsys, name):
    value, says = OPTIONS[name]
    words = ["fit", str(copy / "rows.csv"), "--model", GAUSSIAN, "--out", str(copy / "NEW")]
    words += [] if name == "--components" else ["-k2"]
    sentence = refused(capsys, copy, *words, f"{name}={value}")
    assert f"{name} must be {says}; got {value}" in sentence
