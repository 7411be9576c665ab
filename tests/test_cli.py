"""The command line end to end: files in, files out, exit codes, and the same bits as in Python."""

import io
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest

import minorant
from minorant import datasets, evidence
from minorant.cli import main
from minorant.data.files import read_table, write_table

COMMANDS = ["fit", "score", "sample", "impute", "show", "demo"]
FITS = {
    "gaussian": ("old_faithful", ["--model=gaussian-mixture", "-k2"]),
    "missing": ("air", ["--model=gaussian-mixture", "-k2", "--covariance=diagonal"]),
    "classes": ("carcinoma", ["--model=latent-class", "-k2"]),
    "mixed": ("penguins", ["--model=mixture", "-k3", "--drop=year"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The shipped tables as CSV and Parquet, and a fit of each kind."""
    place = tmp_path_factory.mktemp("cli")
    air = {name: datasets.load("airquality")[name] for name in ("ozone", "wind", "temperature")}
    for name in datasets.names():
        write_table(place / f"{name}.csv", datasets.load(name))
    write_table(place / "air.csv", air)
    for name in ("old_faithful", "air", "carcinoma", "penguins"):
        write_table(place / f"{name}.parquet", read_table(place / f"{name}.csv"))
    for out, (table, options) in FITS.items():
        words = ["fit", str(place / f"{table}.csv"), *options, "--out", str(place / out), "--quiet"]
        assert main(words) == 0
    return place


def ran(capsys, *words) -> str:
    """Standard output of a command that goes well."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def scores(capsys, tmp_path, fit, table) -> dict[str, np.ndarray]:
    out = tmp_path / "scores.parquet"
    ran(capsys, "score", fit, table, "--out", out, "--overwrite")
    found = read_table(out)
    return {name: found[name].to_numpy() for name in found.column_names}


def number(line: str) -> float:
    """The number in a line such as ``total log p(x)  -3.5 nats``."""
    return float(line.split()[3])


# --- the same numbers ----------------------------------------------------------------------------


def python_fit(name):
    """The estimator of the same options, fitted in Python, and its table."""
    import pandas as pd

    from minorant.estimators import GaussianMixture, LatentClassAnalysis, MixtureModel

    options = {"random_state": 0}
    table, estimator = {
        "gaussian": ("old_faithful", GaussianMixture(2, **options)),
        "classes": ("carcinoma", LatentClassAnalysis(2, **options)),
        "mixed": ("penguins", MixtureModel(3, **options)),
    }[name]
    columns = datasets.load(table)
    frame = pd.DataFrame(columns).drop(columns="year", errors="ignore")
    return estimator.fit(frame), frame


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("name", ["gaussian", "classes", "mixed"])
def test_the_same_bits_in_python_before_and_after_saving_and_here(
    folder, tmp_path, capsys, name, ending
):
    found = scores(capsys, tmp_path, folder / name, folder / f"{FITS[name][0]}{ending}")
    estimator, frame = python_fit(name)
    np.testing.assert_array_equal(found["log_density"], estimator.score_samples(frame))
    np.testing.assert_array_equal(found["component"], estimator.predict(frame))
    loaded = minorant.load(folder / name)
    if name == "gaussian":
        np.testing.assert_array_equal(found["log_density"], evidence.log_evidence(loaded, frame))
    assert loaded.bound == estimator.fit_.bound
    minorant.save(estimator.fit_, tmp_path / "again")
    assert minorant.load(tmp_path / "again").bound == loaded.bound


def test_csv_scores_keep_every_bit(folder, capsys, tmp_path):
    expected = scores(capsys, tmp_path, folder / "gaussian", folder / "old_faithful.csv")
    header, *lines = ran(
        capsys, "score", folder / "gaussian", folder / "old_faithful.csv", "--out", "-"
    ).splitlines()
    assert header == "log_density,component,responsibility_0,responsibility_1"
    cells = np.array([[float(cell) for cell in line.split(",")] for line in lines])
    np.testing.assert_array_equal(cells.T, list(expected.values()))


def test_total_and_mean_are_those_of_the_rows_and_of_the_fit(folder, capsys, tmp_path):
    found = scores(capsys, tmp_path, folder / "missing", folder / "air.csv")
    total, mean = ran(capsys, "score", folder / "missing", folder / "air.csv").splitlines()
    fit = minorant.load(folder / "missing")
    assert number(total) == pytest.approx(fit.bound, rel=1e-12)
    assert number(mean) == pytest.approx(found["log_density"].mean(), rel=1e-12)
    mass = found["responsibility_0"] + found["responsibility_1"]
    np.testing.assert_allclose(mass, 1.0, rtol=1e-12)


def test_whole_weights_count_as_copies(folder, capsys, tmp_path):
    table = datasets.load("carcinoma")
    rows = np.column_stack(list(table.values()))
    patterns, counts = np.unique(rows, axis=0, return_counts=True)
    write_table(tmp_path / "w.csv", dict(zip(table, patterns.T, strict=True)) | {"n": counts})
    words = ["--model=latent-class", "-k2", "--weights-column=n", "--out", tmp_path / "FIT"]
    ran(capsys, "fit", tmp_path / "w.csv", *words)
    weighted, copied = minorant.load(tmp_path / "FIT"), minorant.load(folder / "classes")
    assert weighted.bound == pytest.approx(copied.bound, rel=1e-9)
    totals = [
        ran(capsys, "score", tmp_path / "FIT", tmp_path / "w.csv", "--weights-column=n"),
        ran(capsys, "score", tmp_path / "FIT", folder / "carcinoma.csv"),
    ]
    numbers = [[number(line) for line in text.splitlines()] for text in totals]
    np.testing.assert_allclose(*numbers, rtol=1e-12)


def test_known_labels_are_kept(capsys, tmp_path):
    rows = np.r_[np.arange(10.0), 100.0 + np.arange(10.0)]
    write_table(tmp_path / "x.csv", {"x": rows, "known": [1] + [None] * 18 + [0]})
    words = ["--model=gaussian-mixture", "-k2", "--labels-column=known", "--out", tmp_path / "FIT"]
    ran(capsys, "fit", tmp_path / "x.csv", *words)
    found = scores(capsys, tmp_path, tmp_path / "FIT", tmp_path / "x.csv")
    assert found["component"].tolist() == [1] * 10 + [0] * 10


# --- sample and impute ---------------------------------------------------------------------------


def test_samples_have_the_columns_and_repeat_by_seed(folder, capsys):
    words = ["sample", folder / "mixed", "-n", "40", "--with-component"]
    first, again = ran(capsys, *words), ran(capsys, *words)
    other = ran(capsys, *words, "--seed", "1")
    assert first == again != other
    header, *lines = first.splitlines()
    assert header.split(",") == [n for n in datasets.load("penguins") if n != "year"] + [
        "component"
    ]
    assert len(lines) == 40
    assert {line.split(",")[0] for line in lines} <= {"Adelie", "Chinstrap", "Gentoo"}


@pytest.mark.parametrize("draw", [[], ["--draw"]])
@pytest.mark.parametrize("name", ["missing", "mixed"])
def test_imputing_fills_the_missing_cells_and_keeps_the_others(
    folder, capsys, tmp_path, name, draw
):
    table = folder / f"{FITS[name][0]}.parquet"
    out = tmp_path / "full.parquet"
    ran(capsys, "impute", folder / name, table, "--out", out, *draw)
    before, after = read_table(table), read_table(out)
    assert after.column_names == before.column_names
    for column in before.column_names:
        assert after[column].null_count == 0
        pairs = zip(before[column].to_pylist(), after[column].to_pylist(), strict=True)
        assert all(old == new for old, new in pairs if old is not None)
        if before[column].type == "string":
            assert set(after[column].to_pylist()) == set(before[column].to_pylist()) - {None}


def test_imputed_means_are_those_of_python(folder, capsys, tmp_path):
    ran(capsys, "impute", folder / "missing", folder / "air.csv", "--out", tmp_path / "full.arrow")
    fit = minorant.load(folder / "missing")
    values = np.column_stack([datasets.load("airquality")[name] for name in fit.names])
    found = read_table(tmp_path / "full.arrow")
    expected = evidence.impute(fit, values)
    np.testing.assert_array_equal(np.column_stack([found[n] for n in fit.names]), expected)


# --- pages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FITS)
def test_show_tells_outcome_evidence_parameters_and_optima(folder, capsys, name):
    fit = minorant.load(folder / name)
    page = ran(capsys, "show", folder / name)
    assert fit.outcome.value in page
    assert f"{fit.bound:.6f} <= log p(X) <= {fit.bound:.6f} nats (gap 0)" in page
    assert all(column in page for column in fit.names)
    assert f"{np.asarray(fit.model.weights)[0]:.6g}" in page
    assert ("Distinct optima" in page) == (len(fit.optima) > 1)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_stands_alone(capsys, command):
    page = ran(capsys, command, "--help")
    assert f"minorant {command}" in page.partition("Example")[2]
    assert "{" not in page.replace("{TABLE}", "").replace("{FIT}", "")


def test_help_tells_ranges_and_defaults_from_the_table_of_options(capsys):
    from minorant.data.columns import COMPONENTS
    from minorant.estimators.options import OPTIONS

    page = " ".join(ran(capsys, "fit", "--help").split()).replace("- ", "-")
    assert all(kind in page for kind in COMPONENTS)
    for name in ("tol", "max_iter", "n_init"):
        assert OPTIONS[name].sentence in page
        assert f"default: {OPTIONS[name].default}" in page


def test_the_first_page_lists_commands_and_exit_codes(capsys):
    page = ran(capsys, "--help")
    assert all(f"\n  {command} " in page for command in COMMANDS)
    assert all(f"\n    {code} " in page for code in (0, 1, 2, 3, 130))


# --- exit codes ----------------------------------------------------------------------------------


def test_no_convergence_is_3_and_the_fit_is_written(folder, capsys, tmp_path):
    table = str(folder / "old_faithful.csv")
    words = ["fit", table, "--model=gaussian-mixture", "-k3", "--max-steps=1"]
    assert main([*words, "--out", str(tmp_path / "FIT")]) == 3
    assert "step limit" in capsys.readouterr().out
    assert not minorant.load(tmp_path / "FIT").outcome.ok


def test_an_interrupt_in_the_climb_is_130_and_the_fit_is_written(
    folder, capsys, tmp_path, monkeypatch
):
    from minorant.estimators import GaussianMixture

    whole = GaussianMixture.fit

    def stopped(self, *arguments, **keywords):
        answer = whole(self, *arguments, **keywords)
        answer.fit_ = answer.fit_._replace(outcome=minorant.Outcome.INTERRUPTED)
        return answer

    monkeypatch.setattr(GaussianMixture, "fit", stopped)
    words = ["fit", str(folder / "old_faithful.csv"), "--model=gaussian-mixture", "-k2"]
    assert main([*words, "--out", str(tmp_path / "FIT")]) == 130
    assert minorant.load(tmp_path / "FIT").outcome is minorant.Outcome.INTERRUPTED


def raising(error):
    def raises(*arguments, **keywords):
        raise error

    return raises


def test_an_interrupt_before_there_is_a_fit_is_130(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("minorant.cli.work.read_table", raising(KeyboardInterrupt()))
    words = ["fit", str(folder / "old_faithful.csv"), "--model=gaussian-mixture", "-k2"]
    assert main([*words, "--out", str(tmp_path / "FIT")]) == 130
    assert os.listdir(tmp_path) == []


def test_an_error_of_our_own_is_1_and_shown_when_asked(folder, capsys, monkeypatch):
    monkeypatch.setattr("minorant.cli.show.lines", raising(KeyError("oops")))
    assert main(["show", str(folder / "gaussian")]) == 1
    assert "MINORANT_DEBUG=1" in capsys.readouterr().err
    monkeypatch.setenv("MINORANT_DEBUG", "1")
    with pytest.raises(KeyError, match="oops"):
        main(["show", str(folder / "gaussian")])


@pytest.mark.parametrize("words", [["fly"], ["fit"], ["sample", "FIT", "-n", "0"], ["show"]])
def test_usage_is_2(capsys, words):
    assert main(words) == 2
    assert "Error" in capsys.readouterr().err


def test_tables_through_pipes(folder, capsys, monkeypatch):
    content = (folder / "air.csv").read_bytes()
    expected = ran(capsys, "impute", folder / "missing", folder / "air.csv")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
    assert ran(capsys, "impute", folder / "missing", "-") == expected


# --- processes -----------------------------------------------------------------------------------


def process(*words):
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("page", [["--help"], ["fit", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(page):
    program = (
        "import sys; from minorant.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'jax', 'sklearn', 'pyarrow', 'matplotlib', 'rich', 'scipy', 'equinox'};"
        "sys.exit(code or ','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = process(sys.executable, "-c", program, *page)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_module_runs_as_a_program(folder):
    done = process(sys.executable, "-m", "minorant", "show", str(folder / "none"))
    assert done.returncode == 2
    assert done.stderr.startswith("minorant: There is no ")
    assert done.stdout == ""


def test_a_reader_that_goes_away_is_no_error(folder):
    program = f"{sys.executable} -m minorant sample {folder / 'gaussian'} -n 200000 | head -1"
    done = process("bash", "-c", f"set -o pipefail; {program}")
    assert done.stdout == "eruptions,waiting\n"
    assert done.stderr == ""


def test_a_fit_of_python_alone_answers_by_the_names_it_has(folder, capsys, tmp_path):
    fit = minorant.load(folder / "gaussian")
    minorant.save(fit, tmp_path / "FIT")
    words = ["score", tmp_path / "FIT", folder / "old_faithful.csv"]
    assert ran(capsys, *words) == ran(
        capsys, "score", folder / "gaussian", folder / "old_faithful.csv"
    )
    assert json.loads((tmp_path / "FIT" / "fit.json").read_text())["extra"] is None
