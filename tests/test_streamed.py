"""Rows in chunks: the same problem, the same starts and the same climb as in memory."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from helpers import assert_trees_close, with_gaps

import minorant
from minorant._types import Affine
from minorant.components import Bernoulli, Blocks, Full, Gaussian, Poisson
from minorant.data import Part, arrange, engines
from minorant.data.arrays import Table
from minorant.data.in_chunks import ArrayChunks
from minorant.data.read_ahead import ahead
from minorant.data.scratch import Scratch
from minorant.data.streamed import StreamedSource
from minorant.models import PPCA, FactorAnalysis, LatentTrait, Mixture, StateSpace
from minorant.models.items import TwoParameter
from minorant.solvers.starts import Starts

pytestmark = pytest.mark.usefixtures("float64")
N, CHUNK = 2500, 400


class Case(NamedTuple):
    """What is fitted: a model, its rows, and what else there is of each row."""

    model: Any
    rows: np.ndarray
    sides: dict[str, np.ndarray] = {}
    steps: int = 8
    starts: Starts | None = None


def clusters(rng, gaps=0.0):
    """Three clusters in three columns."""
    rows = rng.normal(size=(N, 3)) + 3.0 * rng.integers(3, size=(N, 1)) * [1.0, -0.5, 0.3]
    return with_gaps(rng, rows, gaps) if gaps else rows


def mixed(rng):
    """Counts and answers that depend on a class."""
    label = rng.integers(2, size=N)
    counts = rng.poisson(np.array([2.0, 7.0])[label, None], (N, 1))
    return np.column_stack([counts, rng.random((N, 2)) < np.array([0.2, 0.7])[label, None]])


def sequences(rng, length=25):
    """Ragged sequences end to end, and which each row belongs to."""
    lengths = rng.integers(length // 2, length, size=N)
    groups = np.repeat(np.arange(N), lengths)[:N]
    return clusters(rng)[:, :2].cumsum(0) % 7.0, groups


def answers(rng):
    """Answers of persons to four items."""
    ability = rng.normal(size=(N, 1))
    return (rng.random((N, 4)) < 1 / (1 + np.exp(-(ability - [0.0, 0.5, -0.5, 1.0])))).astype(float)


def make(name: str) -> Case:
    """The case of this name."""
    rng = np.random.default_rng(4)
    if name == "gaussians":
        sides = {"weights": rng.integers(0, 3, N).astype(float), "labels": np.full(N, -1)}
        sides["labels"][:30] = rng.integers(3, size=30)
        return Case(Mixture(Gaussian(Full()), n_components=3), clusters(rng, 0.1), sides)
    if name == "blocks":
        block = Blocks([Poisson(), Bernoulli()], [[0], [1, 2]])
        return Case(Mixture(block, n_components=2), mixed(rng))
    if name == "chain":
        rows, groups = sequences(rng)
        model = minorant.HiddenMarkov(Gaussian(), n_components=2)
        return Case(model, rows, {"groups": groups}, 4, Starts(2))
    if name == "state space":
        rows, groups = sequences(rng)
        return Case(StateSpace(n_states=1), rows, {"groups": groups}, 5)
    if name == "factors":
        return Case(FactorAnalysis(n_factors=1), clusters(rng), {}, 3)
    if name == "factors with gaps":
        return Case(PPCA(n_factors=1), clusters(rng, 0.1))
    return Case(LatentTrait(TwoParameter()), answers(rng), {}, 5)


CASES = ["gaussians", "blocks", "chain", "state space", "factors", "factors with gaps", "answers"]


@pytest.mark.parametrize("name", CASES)
def test_a_fit_on_chunks_is_the_fit_in_memory(name):
    case = make(name)
    rows = ArrayChunks(case.rows, **case.sides, chunk_rows=CHUNK)
    assert sum(1 for _ in rows.read()) > 4
    options = {"max_steps": case.steps, "starts": case.starts}
    held = minorant.fit(case.model, case.rows, **case.sides, **options)
    passed = minorant.fit(case.model, rows, **options)
    np.testing.assert_allclose(passed.trace.bound, held.trace.bound, rtol=1e-10)
    np.testing.assert_allclose(passed.bound, held.bound, rtol=1e-10)
    assert_trees_close(passed.model, held.model, 1e-7)
    assert (passed.outcome, passed.n_rows) == (held.outcome, held.n_rows)
    assert passed.explanation == held.explanation


def mean_and_square(scale, rows):
    """A sum that depends on the parameters, the weights and the missing cells."""
    values = (
        jax.numpy.where(rows.observed, rows.values, 0.0)
        if rows.observed is not None
        else (rows.values)
    )
    return {"mean": scale * rows.weight @ values, "square": rows.weight @ values**2}


UNITS = Affine.identity(2)


def streamed(rows, memory=1 << 30, on_disk=True):
    """Rows as a source of chunks, in their own units."""
    units, dtype = Affine.identity(rows.shape[1]), np.dtype(float)

    def cut(table: Table):
        return arrange(table, units, dtype, True)

    scratch = Scratch(memory, on_disk)
    chunks = ArrayChunks(rows, chunk_rows=CHUNK)
    return StreamedSource(np.asarray(float(len(rows))), rows.shape, chunks, cut, scratch)


ROWS = clusters(np.random.default_rng(7), 0.05)


def test_a_pass_is_the_sum_in_memory_wherever_blocks_are_kept():
    truth = {"mean": 2.0 * np.nansum(ROWS, 0), "square": np.nansum(ROWS**2, 0)}
    found = []
    for source in (streamed(ROWS), streamed(ROWS, 60_000), streamed(ROWS, 0, on_disk=False)):
        passes = [source.fold(mean_and_square, 2.0) for _ in range(3)]
        found += passes
        assert_trees_close(passes[0], truth, 1e-12)
    kept = streamed(ROWS, 60_000)
    kept.fold(mean_and_square, 2.0)
    assert kept.scratch.holds_all()
    assert kept.scratch.bytes_on_disk() > 0
    for other in found[1:]:  # to the last bit
        jax.tree.map(np.testing.assert_array_equal, other, found[0])


@pytest.mark.parametrize("chunks", [1, 3, 7])
def test_a_pass_taken_up_ends_as_if_never_left(chunks):
    source = streamed(ROWS)
    *parts, whole = source.sums(mean_and_square, 2.0)
    assert len(parts) == whole.chunks == 7
    begun = Part(chunks, jax.tree.leaves(parts[chunks - 1].sums))
    *_, again = streamed(ROWS).sums(mean_and_square, 2.0, begun)
    jax.tree.map(np.testing.assert_array_equal, again.sums, whole.sums)


def test_float32_chunks_are_added_in_double(float32):
    rng = np.random.default_rng(3)
    rows = rng.integers(4000, 8000, (50_000, 2)).astype(np.float32)  # exact within a chunk
    source = streamed(rows)
    source = dataclasses.replace(source, arrange=lambda t: arrange(t, UNITS, float32, True))
    found = np.asarray(source.fold(lambda _, block: block.weight @ block.values, None))
    exact = rows.astype(float).sum(0)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, exact.astype(np.float32))
    plain = np.float32(0.0)
    for chunk in rows.reshape(-1, CHUNK, 2):
        plain = plain + chunk.sum(0, dtype=np.float32)
    assert (plain != found).any()  # sums in float32 would not pass


def test_rows_come_back_chunk_after_chunk_in_order():
    rows = ROWS.copy()
    rows[:, 0] = np.arange(N)
    found = [answer for _, answer in streamed(rows).by_row(lambda _, r: r.values[:, 0], None)]
    np.testing.assert_array_equal(np.concatenate(found), np.arange(N))


def test_what_the_reader_raises_is_raised_where_rows_are_asked_for():
    def items():
        yield 1
        raise OSError("The disk is gone.")

    taken = ahead(items())
    assert next(taken) == 1
    with pytest.raises(OSError, match=r"^The disk is gone\.$"):
        next(taken)


def test_the_reader_stops_when_nobody_takes():
    made = []

    def items():
        for number in range(1000):
            made.append(number)
            yield number

    taken = ahead(items())
    next(taken)
    taken.close()
    assert len(made) < 5


class Interrupted(ArrayChunks):
    """Chunks whose reader is interrupted in the middle of the second step of a climb."""

    reads = 0

    def read(self, first=0):
        self.reads += 1
        for chunk, table in enumerate(super().read(first)):
            if self.reads == 3 and chunk == 2:
                raise KeyboardInterrupt
            yield table


def test_an_interrupt_in_a_pass_keeps_the_climb_so_far(monkeypatch):
    monkeypatch.setattr(engines, "Scratch", lambda _: Scratch(0, on_disk=False))
    component = Gaussian(
        mean=np.outer([0.0, 3.0], [1.0, -0.5, 0.3]), covariance=np.stack([np.eye(3)] * 2)
    )
    start = Mixture(component, np.array([0.3, 0.7]), n_components=2)
    answer = minorant.fit(start, Interrupted(ROWS, chunk_rows=CHUNK))
    assert answer.outcome is minorant.Outcome.INTERRUPTED
    assert answer.acceleration.steps == 1
    for name in ("mean", "covariance"):
        found = getattr(answer.model.component, name)
        np.testing.assert_allclose(found, getattr(component, name), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(answer.model.weights, start.weights, rtol=1e-12)


@pytest.mark.parametrize(
    ("model", "sides", "said"),
    [
        (minorant.HiddenMarkov(Gaussian(), n_components=2), {}, "groups="),
        (Mixture(Gaussian(), n_components=2), {"labels": np.arange(N) % 3}, "labels must be below"),
        (Mixture(Poisson(), n_components=2), {}, "Column"),
    ],
)
def test_chunks_that_a_model_cannot_describe_are_refused(model, sides, said):
    with pytest.raises(ValueError, match=said):
        minorant.fit(model, ArrayChunks(ROWS, **sides, chunk_rows=CHUNK))


def test_sides_of_chunks_are_named_where_they_are_opened():
    with pytest.raises(ValueError, match=r"minorant\.chunks"):
        minorant.fit(Mixture(Gaussian(), n_components=2), ArrayChunks(ROWS), weights=np.ones(N))
