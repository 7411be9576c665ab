"""Steps on parts of the rows: free energy, fixed points, bounds, weights and gaps, refusals."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from cases import MODELS
from helpers import (
    N,
    assert_never_decreases,
    examine,
    quick_jit,
    rounding,
    rows_of,
    scene,
    start_near,
)

import minorant
from minorant import stepwise
from minorant._config import precision
from minorant.components import Diagonal, Gaussian, LogNormal
from minorant.data.in_chunks import ArrayChunks
from minorant.models import Mixture
from minorant.solvers import EM, Incremental, OnlineEM, Plain
from minorant.solvers.starts import Starts
from minorant.stepwise import in_product_form, joins, wide

ROWS, K = 24_000, 3
CLOSE = EM(tolerance=1e-11)
MODEL = Mixture(Gaussian(Diagonal()), n_components=K)
STARTS = Starts(n=2, n_climbed=1)


# --- statistics of parts, gathered at different parameters -----------------------------------


@quick_jit
def _expected(model, statistics):
    """The expected log joint at the model's own parameters, the log prior, and the M-step."""
    inner = model.component.expected_log_prob(statistics.component).sum()
    inner = inner + (statistics.count * jax.numpy.log(model.weights)).sum()
    return inner, model.log_prior(), model.maximise(statistics)


def seen(model, rows):
    """A part's statistics, and the entropy of its posterior (up to a constant)."""
    look = examine(model, rows)
    return wide(look.statistics), float(look.bound) - float(_expected(model, look.statistics)[0])


JOINED = [name for name, case in MODELS.items() if joins(scene(case).model)]
TRIED = [name for name in JOINED if not name.endswith("prior") or "full" in name]


@pytest.mark.parametrize("name", TRIED)
def test_incremental_em_never_lowers_the_free_energy(name, float64):
    """``F = sum_c [bound_c - Q(s_c)] + Q(S)``, every term at the parameters it was gathered at."""
    shown = scene(MODELS[name])
    model = start_near(shown, float64)
    weights = [np.where(np.arange(N) % 3 == c, 1.0 + c, 0.0) for c in range(3)]
    parts = [rows_of(shown.values, float64, weight) for weight in weights]
    kept = [seen(model, rows) for rows in parts]
    energies = []
    for turn in range(6):
        kept[turn % 3] = seen(model, parts[turn % 3])
        total = jax.tree.map(lambda *leaves: sum(leaves), *[sums for sums, _ in kept])
        entropy = sum(own for _, own in kept)
        inner, prior, moved = _expected(model, total)
        energies.append(entropy + float(inner) + float(prior))
        inner, prior, _ = _expected(moved, total)
        energies.append(entropy + float(inner) + float(prior))
        model = moved
    assert_never_decreases(energies, 100 * rounding(energies, N, float64))
    assert energies[-1] > energies[0]


def test_statistics_about_a_components_own_mean_are_not_joined(float64):
    centred = scene(MODELS["gaussian-full-centred"]).model
    assert not joins(centred)
    assert joins(in_product_form(centred))
    assert not {"custom", "factor-analyser"} & set(JOINED)
    assert {"gaussian-full", "student-t-full", "blocks"} <= set(JOINED)


# --- fits ------------------------------------------------------------------------------------


class Killed(BaseException):
    """What ends a process without a word: nothing is flushed."""


class Fatal:
    """A function that fails at some call."""

    def __init__(self, function, at=None, error=Killed):
        self.function, self.at, self.error, self.calls = function, at, error, 0

    def __call__(self, *given):
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.function(*given)


def moves(monkeypatch, at=None, error=Killed):
    """Count the M-steps on parts from here on, and fail at one."""
    counted = Fatal(MOVED, at, error)
    monkeypatch.setattr(stepwise, "moved", counted)
    return counted


MOVED = stepwise.moved


@pytest.fixture(scope="module")
def table():
    """Three clusters, sorted: the last part holds nothing but the last of them."""
    rng = np.random.default_rng(3)
    means = np.array([[0.0, 0.0], [3.0, 0.5], [0.5, 3.5]])
    return means[np.sort(rng.integers(0, K, ROWS))] + rng.normal(size=(ROWS, 2))


def fitted(table, solver, **options):
    with precision(np.float64):
        return minorant.fit(MODEL, table, solver=solver, starts=STARTS, progress=False, **options)


@pytest.fixture(scope="module")
def by_em(table):
    return fitted(table, CLOSE)


SOLVERS = {
    "incremental": Incremental(CLOSE, sweeps=3, parts=6),
    "online": OnlineEM(CLOSE, batch=1000),
    "anchored": OnlineEM(CLOSE, batch=1000, variance_reduced="anchor"),
}


@pytest.fixture(scope="module")
def unbroken(table):
    """Rows, the fit of them and its M-steps on parts, each made when it is first asked for."""
    made = {}

    def of(name, in_chunks):
        if (name, in_chunks) not in made:
            rows = ArrayChunks(table, chunk_rows=4096) if in_chunks else table
            with pytest.MonkeyPatch.context() as patched:
                counted = moves(patched)
                made[name, in_chunks] = rows, fitted(rows, SOLVERS[name]), counted.calls
        return made[name, in_chunks]

    return of


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_the_answer_is_that_of_full_passes(name, in_chunks, unbroken, table, by_em):
    _, answer, _ = unbroken(name, in_chunks)
    assert answer.outcome.ok
    assert answer.bound / ROWS == pytest.approx(by_em.bound / ROWS, abs=1e-8)
    if not in_chunks:
        assert answer.bound == pytest.approx(answer.log_evidence(table).sum(), rel=1e-12)


def test_sweeps_gain_more_than_as_many_full_passes(table):
    plain = fitted(table, EM(Plain(), 1e-11), max_steps=8).trace.bound
    swept = fitted(
        table, Incremental(EM(Plain(), 1e-11), sweeps=3, parts=6), max_steps=8
    ).trace.bound
    assert swept[0] > plain[4]  # three sweeps and one pass against five passes


def test_one_full_pass_says_the_bound_where_online_em_has_come_to(table, by_em):
    answer = fitted(table, OnlineEM(CLOSE, batch=1000, finish="bound"))
    assert answer.outcome is minorant.Outcome.STEP_LIMIT
    assert len(answer.trace.bound) == 1
    assert "one full pass" in answer.explanation
    assert answer.bound == pytest.approx(answer.log_evidence(table).sum(), rel=1e-12)
    assert by_em.bound - 1e-3 * ROWS < answer.bound < by_em.bound
    with precision(np.float64):
        further = minorant.resume(answer, table, solver=CLOSE)
    assert further.bound / ROWS == pytest.approx(by_em.bound / ROWS, abs=1e-8)


@pytest.mark.parametrize("name", ["incremental", "online"])
def test_weights_gaps_and_labels_count(name, table):
    rng = np.random.default_rng(4)
    values = table.copy()
    values[::5, 1] = np.nan
    sides = {
        "weights": rng.integers(0, 3, ROWS).astype(float),
        "labels": np.where(rng.random(ROWS) < 0.01, np.arange(ROWS) * K // ROWS, -1),
    }
    full = fitted(values, CLOSE, **sides)
    answer = fitted(values, SOLVERS[name], **sides)
    assert answer.bound / full.n_rows == pytest.approx(full.bound / full.n_rows, abs=1e-8)


def test_what_is_fixed_stays(table, by_em):
    held = MODEL.component, by_em.model.weights
    model = Mixture(held[0], np.array([0.2, 0.3, 0.5]), n_components=K)
    answer = minorant.fit(
        model,
        table.astype(np.float32),
        fixed=lambda m: m.weights,
        solver=SOLVERS["incremental"],
        starts=STARTS,
        progress=False,
    )
    np.testing.assert_allclose(answer.model.weights, [0.2, 0.3, 0.5], rtol=1e-6)
    assert answer.dtype == "float32"


def test_a_given_start_is_moved_from(table, by_em):
    with precision(np.float64):
        answer = minorant.fit(by_em.model, table, solver=SOLVERS["incremental"], progress=False)
    assert answer.trace.bound[0] >= by_em.bound - 1e-9 * abs(by_em.bound)
    assert answer.bound / ROWS == pytest.approx(by_em.bound / ROWS, abs=1e-9)


def test_an_interrupt_in_the_sweeps_keeps_what_there_is(table, monkeypatch):
    moves(monkeypatch, 9, KeyboardInterrupt)  # in the second sweep
    answer = fitted(table, SOLVERS["incremental"])
    assert answer.outcome is minorant.Outcome.INTERRUPTED
    assert np.isfinite(answer.bound)


# --- checkpoints -----------------------------------------------------------------------------


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_steps_that_were_killed_go_on_to_the_last_bit(
    name, in_chunks, unbroken, monkeypatch, tmp_path
):
    rows, whole, calls = unbroken(name, in_chunks)
    options = {"checkpoint": minorant.Checkpoint(tmp_path / "climb", seconds=0)}
    taken = 0
    for at in (3, 5, calls):
        part = moves(monkeypatch, at - taken)
        with pytest.raises(Killed):
            fitted(rows, SOLVERS[name], **options)
        taken += part.calls - 1
    rest = moves(monkeypatch)
    again = fitted(rows, SOLVERS[name], **options)
    assert (taken, rest.calls) == (calls - 1, 1)  # no step was made twice
    jax.tree.map(np.testing.assert_array_equal, again.state, whole.state)
    np.testing.assert_array_equal(again.trace.bound, whole.trace.bound)


def test_interrupted_steps_from_a_given_start_go_on(table, by_em, monkeypatch, tmp_path):
    def climbed(**options):
        with precision(np.float64):
            solver = SOLVERS["incremental"]
            return minorant.fit(by_em.model, table, solver=solver, progress=False, **options)

    place = {"checkpoint": minorant.Checkpoint(tmp_path / "climb")}
    unbroken = climbed()
    for at in (1, 3):  # after the first sweep, which looks at all parts before it moves
        moves(monkeypatch, at, KeyboardInterrupt)
        assert climbed(**place).outcome is minorant.Outcome.INTERRUPTED
    moves(monkeypatch)
    again = climbed(**place)
    jax.tree.map(np.testing.assert_array_equal, again.state, unbroken.state)


# --- refusals --------------------------------------------------------------------------------


def test_components_that_do_not_add_up_climb_by_full_passes_alone(table):
    model = Mixture(LogNormal(), n_components=2)
    answer = minorant.fit(
        model, np.exp(0.3 * table[:4000]), solver=SOLVERS["incremental"], starts=STARTS
    )
    assert "No steps on parts of the rows: statistics do not add up" in answer.starts
    assert answer.outcome.ok


def test_one_sentence_for_each_bad_option():
    for make, words in [
        (lambda: Incremental(sweeps=0), "at least 1 sweep over at least 2 parts"),
        (lambda: OnlineEM(batch=0), "batch and passes must be at least 1"),
        (lambda: OnlineEM(exponent=0.5), "exponent must be above 0.5"),
        (lambda: OnlineEM(variance_reduced="yes"), "variance_reduced must be one of"),
        (lambda: OnlineEM(finish="never"), "finish must be one of"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()


def test_few_rows_are_a_single_part(table):
    few = table[::12]
    answers = [fitted(few, solver) for solver in (CLOSE, SOLVERS["incremental"])]
    assert answers[1].bound / len(few) == pytest.approx(answers[0].bound / len(few), abs=1e-8)
    assert "No steps" not in answers[1].starts


def test_a_model_without_an_m_step_is_refused(table):
    with pytest.raises(TypeError, match="no closed M-step"):
        minorant.fit(minorant.models.MixedModel("poisson"), table, solver=Incremental())
