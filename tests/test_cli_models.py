"""The command line on factors, sequences, items and groups, against the same in Python."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import minorant
from minorant import models
from minorant.cli import main
from minorant.components import Gaussian
from minorant.data.files import read_table, write_table
from minorant.estimators import StateSpace

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    factor = RNG.normal(size=(120, 1)) @ np.array([[1.0, 0.8, 0.6, 0.9]])
    tests = factor + 0.5 * RNG.normal(size=(120, 4))
    tests[3, 1] = np.nan
    write_table(str(path / "tests.csv"), dict(zip("abcd", tests.T, strict=True)))
    day = np.concatenate([np.delete(np.arange(40), [7, 8]), np.arange(25)])
    patient = np.repeat(["ann", "bob"], [38, 25])
    level = 3.0 * (day // 10 % 2) + 0.5 * RNG.normal(size=63)
    order = RNG.permutation(63)
    visits = {"patient": patient[order], "day": day[order], "x": level[order]}
    write_table(str(path / "visits.csv"), visits)
    ability = RNG.normal(size=(200, 1))
    answers = (RNG.normal(size=(200, 5)) < ability + [-1, -0.5, 0, 0.5, 1]).astype(int)
    write_table(str(path / "exam.csv"), {f"q{j}": answers[:, j] for j in range(5)})
    plate = np.repeat(np.arange(15), 8)
    dose = RNG.normal(size=120)
    count = RNG.poisson(np.exp(0.5 * dose + 0.4 * RNG.normal(size=15)[plate]))
    write_table(str(path / "plates.csv"), {"plate": plate, "dose": dose, "count": count})
    return path


def ran(folder, line, capsys):
    code = main([word.replace("@", f"{folder}/") for word in line.split()])
    return code, capsys.readouterr()


def fitted(folder, line, name, capsys):
    code, said = ran(folder, f"fit {line} --out @{name} --quiet --overwrite", capsys)
    assert code == 0, said.err
    return minorant.load(str(folder / name))


def columns(path):
    table = read_table(str(path))
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def test_factor_analysis(folder, capsys):
    fit = fitted(folder, "@tests.csv --model factor-analysis --factors 1", "fa", capsys)
    rows = np.stack(list(columns(folder / "tests.csv").values()), axis=1)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            fit.bound, minorant.fit(models.FactorAnalysis(1), rows).bound, rtol=1e-9
        )
    code, _ = ran(folder, "score @fa @tests.csv --out @fa.csv --overwrite", capsys)
    scores = columns(folder / "fa.csv")
    assert code == 0
    np.testing.assert_allclose(scores["log_density"], fit.log_evidence(rows), rtol=1e-9)
    np.testing.assert_allclose(scores["latent_0"], fit.posterior(rows).mean[:, 0], rtol=1e-9)
    ran(folder, "impute @fa @tests.csv --out @full.csv --overwrite", capsys)
    np.testing.assert_allclose(columns(folder / "full.csv")["b"][3], fit.impute(rows)[3, 1])


def test_sequences_are_ordered_by_time_and_gaps_are_steps(folder, capsys):
    line = "@visits.csv --model hidden-markov -k 2 --group patient --time day"
    fit = fitted(folder, line, "hmm", capsys)
    assert fit.n_rows == 65
    visits = columns(folder / "visits.csv")
    rows, groups = np.full((65, 1), np.nan), np.repeat([0, 1], [40, 25])
    at = visits["day"] + np.where(visits["patient"] == "bob", 40, 0)
    rows[at, 0] = visits["x"]
    with jax.enable_x64(True):
        model = models.HiddenMarkov(Gaussian(), n_components=2)
        expected = minorant.fit(model, rows, groups=groups)
    np.testing.assert_allclose(fit.bound, expected.bound, rtol=1e-7)
    ran(folder, "score @hmm @visits.csv --out @states.csv --overwrite", capsys)
    states = columns(folder / "states.csv")
    np.testing.assert_array_equal(states["component"], fit.labels(rows, groups=groups)[at])
    code, said = ran(folder, "show @hmm", capsys)
    assert code == 0
    assert "moves on to 1" in said.out


def test_moves_between_states_may_depend_on_a_column(folder, capsys):
    rng = np.random.default_rng(4)
    u = rng.normal(size=80)
    x = 5.0 * (np.cumsum(rng.random(80) < 1.0 / (1.0 + np.exp(1.0 - 2.0 * u))) % 2)
    x = x + rng.normal(size=80)
    lines = ["x,u", *(f"{a:.6f},{b:.6f}" for a, b in zip(x, u, strict=True))]
    (folder / "moved.csv").write_text("\n".join(lines))
    fit = fitted(folder, "@moved.csv --model hidden-markov -k 2 --input u", "moved", capsys)
    assert fit.names == ("x",)
    assert fit.model.transition.coefficients.shape == (2, 2, 2)
    code, _ = ran(folder, "score @moved @moved.csv --out @moves.csv --overwrite", capsys)
    assert code == 0
    found = columns(folder / "moves.csv")["log_density"].sum()
    assert found == pytest.approx(fit.bound, rel=1e-6)
    assert "moves on to 1 (inputs 0)" in ran(folder, "show @moved", capsys)[1].out


def test_state_space(folder, capsys):
    line = "@visits.csv --model state-space --factors 1 --group patient --time day"
    fit = fitted(folder, line, "ssm", capsys)
    code, _ = ran(folder, "score @ssm @visits.csv --out @level.csv --overwrite", capsys)
    assert code == 0
    assert columns(folder / "level.csv")["standard_error_0"].min() > 0
    assert "transition" in ran(folder, "show @ssm", capsys)[1].out
    assert fit.n_rows == 65
    assert "initial_covariance" not in fit.model.held  # learned from two sequences, as by
    visits = columns(folder / "visits.csv")  # the estimator
    order = np.lexsort((visits["day"], visits["patient"]))
    known = StateSpace(1).fit(
        visits["x"][order, None], groups=visits["patient"][order], times=visits["day"][order]
    )
    np.testing.assert_allclose(fit.bound, known.log_likelihood_, rtol=1e-6)
    np.testing.assert_allclose(fit.model.initial_covariance, known.initial_covariance_, rtol=0.05)


def test_latent_trait(folder, capsys):
    fit = fitted(folder, "@exam.csv --model latent-trait", "irt", capsys)
    answers = np.stack(list(columns(folder / "exam.csv").values()), axis=1).astype(float)
    with jax.enable_x64(True):
        expected = minorant.fit(models.LatentTrait(models.TwoParameter()), answers).bound
    np.testing.assert_allclose(fit.bound, expected, rtol=1e-8)
    code, _ = ran(folder, "score @irt @exam.csv --out @ability.csv --overwrite", capsys)
    assert code == 0
    ability = columns(folder / "ability.csv")["latent_0"]
    assert np.corrcoef(ability, answers.sum(1))[0, 1] > 0.9
    assert "estimate, not a" in ran(folder, "show @irt", capsys)[1].out


def test_mixed_model(folder, capsys):
    line = "@plates.csv --model mixed-model --response count --input dose --group plate"
    fit = fitted(folder, line + " --family poisson", "mixed", capsys)
    plates = columns(folder / "plates.csv")
    with jax.enable_x64(True):
        expected = minorant.fit(
            models.MixedModel("poisson"),
            plates["count"][:, None].astype(float),
            groups=plates["plate"],
            inputs=plates["dose"],
        )
    np.testing.assert_allclose(fit.bound, expected.bound, rtol=1e-8)


def test_factor_mixture(folder, capsys):
    line = "@tests.csv --model factor-mixture -k 1 --factors 1"
    fit = fitted(folder, line, "mfa", capsys)
    single = fitted(folder, "@tests.csv --model factor-analysis --factors 1", "fa", capsys)
    np.testing.assert_allclose(fit.bound, single.bound, rtol=1e-5)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("@tests.csv --model factor-analysis", "needs --factors"),
        ("@tests.csv --model factor-analysis --factors 4", "below the number of columns, 4"),
        ("@tests.csv --model factor-analysis --factors 1 -k 2", "--components is not for"),
        ("@tests.csv --model gaussian-mixture", "needs --components"),
        ("@tests.csv --model gaussian-mixture -k 2 --group a", "--group is not for"),
        ("@visits.csv --model hidden-markov -k 2 --group nobody", "no column 'nobody'"),
        ("@visits.csv --model hidden-markov -k 2 --time day", "twice in one sequence"),
        ("@visits.csv --model hidden-markov -k 2 --time x --starts 3", "--starts is not for"),
        ("@plates.csv --model mixed-model --response count", "needs --group"),
        (
            "@plates.csv --model mixed-model --response count --group plate --random dose",
            "must also be an --input",
        ),
        ("@exam.csv --model latent-trait --column q1=poisson", "--column is not for"),
    ],
)
def test_what_cannot_be_used_is_said(folder, line, said, capsys):
    code, answer = ran(folder, f"fit {line} --out @never --quiet", capsys)
    assert code == 2
    assert said in " ".join(answer.err.split())
    assert not (folder / "never").exists()


def test_flow_density(folder, capsys):
    """A climb cut short; scores and draws are those of the density that was saved."""
    rows = np.stack(list(columns(folder / "tests.csv").values())[::2], axis=1)
    write_table(str(folder / "whole.csv"), dict(zip("ac", rows.T, strict=True)))
    line = "fit @whole.csv --model flow-density --max-steps 150 --out @flow --quiet"
    code, said = ran(folder, line, capsys)
    assert code == 3
    assert "exact maximum likelihood of a flow" in said.out
    fit = minorant.load(str(folder / "flow"))
    assert ran(folder, "score @flow @whole.csv --out @scores.csv", capsys)[0] == 0
    scores = columns(folder / "scores.csv")["log_density"]
    np.testing.assert_allclose(scores, fit.model.log_density(rows), rtol=1e-5)
    np.testing.assert_allclose(scores.sum(), fit.bound, rtol=1e-9)
    assert ran(folder, "sample @flow -n 40 --out @drawn.csv", capsys)[0] == 0
    drawn = columns(folder / "drawn.csv")
    assert np.abs(drawn["a"].mean() - rows[:, 0].mean()) < 4.5 * rows[:, 0].std() / np.sqrt(40)
    assert "flow-density of the columns a, c" in ran(folder, "show @flow", capsys)[1].out
    for words, sentence in (
        ("impute @flow @whole.csv", "cannot fill missing cells"),
        ("sample @flow -n 2 --with-component", "it has no components"),
        ("fit @tests.csv --model flow-density --out @none", "'b' has no value in row 3"),
        ("fit @whole.csv --model flow-density -k 2 --out @none", "--components is not for"),
    ):
        code, said = ran(folder, words, capsys)
        assert code == 2
        assert sentence in said.err
    minorant.save(fit.model, folder / "density")
    again = minorant.load(folder / "density")
    np.testing.assert_array_equal(again.log_density(rows[:5]), fit.model.log_density(rows[:5]))
