"""An encoder climbed on rows out of memory, against closed forms and the same fit in memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from scipy import stats

import minorant
from minorant import batches
from minorant.data.in_chunks import ArrayChunks
from minorant.encoding import encodable, started
from minorant.models import PPCA
from minorant.solvers import Ascent

dist = pytest.importorskip("numpyro.distributions")
D, N = 3, 3600
RNG = np.random.default_rng(0)
LOADINGS = np.array([[1.5, -1.0, 0.8]]).T
ROWS = RNG.normal(size=(N, 1)) @ LOADINGS.T + 0.7 * RNG.normal(size=(N, D)) + 2.0
ROWS = ROWS[np.argsort(ROWS[:, 0])]  # as a file is that is sorted by what matters
WEIGHTS = np.where(np.arange(N) % 9, 0.5 + np.arange(N) % 3, 0.0)
SMALL = minorant.Encoder(width=8, depth=1, batch=8)
SHORT = Ascent(accuracy=1e-2)
POOL = 800  # rows that a block of 100 steps on batches of 8 takes


class Factor(minorant.Model):
    """Probabilistic principal components: a linear encoder is exact here."""

    loadings: Array
    offset: Array
    scale: Array = minorant.positive()

    def prior(self):
        return dist.Normal(jnp.zeros(1), 1.0).to_event(1)

    def likelihood(self, z):
        return dist.Normal(self.loadings @ z + self.offset, self.scale).to_event(1)

    def log_prior(self):
        return -0.5 * jnp.sum(self.loadings**2)


START = Factor(0.5 * np.ones((D, 1)), np.zeros(D), np.ones(()))


def exact_evidence(model, rows, weights=None):
    """``sum_i w_i log p(x_i)``, missing cells left out."""
    covariance = model.loadings @ model.loadings.T + model.scale**2 * np.eye(D)
    total = 0.0
    for pattern in np.unique(np.isnan(rows), axis=0):
        chosen, seen = (np.isnan(rows) == pattern).all(1), ~pattern
        law = stats.multivariate_normal(model.offset[seen], covariance[seen][:, seen])
        share = np.ones(chosen.sum()) if weights is None else weights[chosen]
        total += share @ np.atleast_1d(law.logpdf(rows[chosen][:, seen]))
    return total


def in_chunks(rows=ROWS, weights=None):
    return ArrayChunks(rows, weights=weights, chunk_rows=500)


@pytest.fixture
def small_sections(monkeypatch):
    """Sections of about 1600 rows, two parts of a block's rows each."""
    row = D * 8 + 8
    monkeypatch.setattr(batches, "_SECTION_BYTES", 2 * POOL * row)


@pytest.fixture(scope="module")
def sorted_fit():
    """The fit of sorted rows, from sections that hold half of them."""
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patched:
        patched.setattr(batches, "_SECTION_BYTES", 2 * POOL * (D * 8 + 8))
        yield minorant.fit(START, in_chunks(), posterior=SMALL)


def supplied(rows, weights, encoder=SMALL, seed=0):
    prepared = encodable(START, in_chunks(rows, weights), (None,) * 4, elbo(encoder), None)
    return batches.batches_of(started(prepared, None, seed), seed)


def elbo(encoder):
    return minorant.encoding.asked_family(START, encoder, None)


# --- batches -------------------------------------------------------------------------------------


def test_blocks_of_steps_have_every_row_once_in_a_turn(small_sections, float64):
    found = supplied(ROWS, None)
    blocks = [found.supply(100 * block) for block in range(6)]
    parts = [block.rows.values[np.diff(block.cumulative, prepend=0.0) > 0] for block in blocks]
    assert max(map(len, parts)) <= found.supply(0).rows.values.shape[0]
    together = np.concatenate(parts)
    assert np.array_equal(np.sort(together[:, 0]), np.sort(ROWS[:, 0]))
    # Each is drawn evenly along the sorted rows: its mean is near that of all.
    error = ROWS[:, 0].std() / np.sqrt(len(parts[0]))
    assert all(abs(part[:, 0].mean() - ROWS[:, 0].mean()) < 0.5 * error for part in parts)
    again = found.supply(600)
    assert not np.array_equal(again.rows.values, blocks[0].rows.values)


def test_what_blocks_are_worth_is_on_average_all_rows(small_sections, float64):
    """By enumeration: every block of a turn, with the chance that a row had to be in it."""
    weights = WEIGHTS * np.exp(2.0 * RNG.normal(size=N))
    found = supplied(ROWS, weights)
    blocks = [found.supply(100 * block) for block in range(4)]
    shares = [np.diff(block.cumulative, prepend=0.0) for block in blocks]
    counts = np.array([(share > 0).sum() for share in shares]).reshape(2, 2)  # sections, parts
    assert counts.sum() == (weights > 0).sum()
    chances = (counts / counts.sum(1, keepdims=True) / 2).ravel()
    assert not np.allclose([share.sum() for share in shares], 1.0, rtol=1e-2)
    for function in (np.ones_like, np.square, np.sin):
        each = [s @ function(b.rows.values[:, 0]) for s, b in zip(shares, blocks, strict=True)]
        wanted = weights @ function(ROWS[:, 0]) / weights.sum()
        np.testing.assert_allclose(chances @ each, wanted, rtol=1e-12)
    for bound in (blocks[0], found.exam):  # what the prior of parameters is divided by
        assert float(bound.total_weight) == pytest.approx(weights.sum())


def test_held_out_rows_judge_and_are_not_climbed_on(small_sections, float64):
    encoder = minorant.Encoder(width=8, depth=1, batch=8, held_out=0.25)
    found = supplied(ROWS, None, encoder)
    judging = set(found.exam.rows.values[:, 0].tolist())
    assert len(judging) == N // 4
    climbed = {
        value
        for block in range(6)
        for value in found.supply(100 * block).rows.values[:, 0].tolist()
    }
    assert climbed == set(ROWS[:, 0].tolist()) - judging


def test_few_rows_are_those_of_the_fit_in_memory(float64):
    """One section and one part: the same rows with the same chances, to the last bit."""
    rows, weights = ROWS[::4].copy(), WEIGHTS[::4]
    rows[3, 1] = rows[500, 0] = np.nan
    found = supplied(rows, weights)
    prepared = encodable(START, rows, (weights, None, None, None), elbo(SMALL), None)
    memory = batches.batches_of(started(prepared, None, 0), 0)
    for one, other in [(found.supply(700), memory.climbed), (found.exam, memory.exam)]:
        for kept, wanted in [
            (one.cumulative, other.cumulative),
            (one.total_weight, other.total_weight),
            (one.rows.observed, other.rows.observed),
            (one.rows.values[one.rows.observed], other.rows.values[other.rows.observed]),
        ]:
            assert np.array_equal(kept, wanted)


# --- fits ----------------------------------------------------------------------------------------


def test_the_bound_reaches_the_highest_evidence_though_rows_are_sorted(sorted_fit):
    """0.001 nats per row are allowed, as for rows in memory; the prior costs less than that."""
    with jax.enable_x64(True):
        highest = minorant.fit(PPCA(1), ROWS).bound
    assert sorted_fit.outcome.ok
    exact = exact_evidence(sorted_fit.model, ROWS)
    assert highest - 0.001 * N - 2.0 < sorted_fit.bound < exact + 0.3
    assert exact < highest + 1e-6
    assert "dealt at random from the chunks" in sorted_fit.explanation
    assert sorted_fit.n_parameters == 7


def test_answers_on_chunks(sorted_fit):
    with jax.enable_x64(True):
        assert sorted_fit.log_evidence(in_chunks()).sum() == pytest.approx(sorted_fit.bound)
        mean = sorted_fit.posterior(in_chunks()).mean
        np.testing.assert_allclose(mean, sorted_fit.posterior(ROWS).mean, atol=1e-12)
        with pytest.raises(ValueError, match="This question needs the rows in memory"):
            sorted_fit.evidence(in_chunks())
        further = minorant.resume(sorted_fit, in_chunks(), solver=SHORT, max_steps=600)
    assert abs(further.bound - sorted_fit.bound) < 0.002 * N


def test_the_fit_in_memory_is_the_same(float64):
    """Where all rows fit into one section: they differ by how sums of columns are rounded."""
    rows = ROWS[::6]  # as many as a part of the sections above, so that programs are shared
    memory = minorant.fit(START, rows, posterior=SMALL, solver=SHORT)
    chunked = minorant.fit(START, in_chunks(rows), posterior=SMALL, solver=SHORT)
    assert chunked.acceleration.steps == memory.acceleration.steps
    np.testing.assert_allclose(chunked.model.loadings, memory.model.loadings, rtol=1e-6)
    # Other blocks of rows, other draws: each bound is an average over 64 of them.
    assert abs(chunked.bound - memory.bound) < 0.3


def test_weights_and_missing_cells_have_their_say(small_sections, float64):
    """A row of weight 0 says nothing; twice the weight of all rows is twice the bound."""
    rows, weights = ROWS.copy(), np.ones(N)
    rows[np.random.default_rng(2).random(rows.shape) < 0.2] = np.nan
    rows[np.isnan(rows).all(1), 0] = 2.0
    rows[::9], weights[::9] = 50.0, 0.0
    chunks = in_chunks(rows, 2 * weights)
    fit = minorant.fit(START, chunks, posterior=SMALL, solver=SHORT)
    exact = exact_evidence(fit.model, rows[weights > 0], 2 * weights[weights > 0])
    assert fit.model.family.network.gaps
    assert fit.n_rows == 2 * weights.sum()
    assert exact - 0.05 * fit.n_rows < fit.bound < exact + 0.5
    assert np.all(np.abs(fit.model.offset - ROWS.mean(0)) < 0.2)


def test_each_rows_own_gaussian_climbs_on_chunks_too(float64):
    """It is exact here, whatever the parameters."""
    rows, own = ROWS[::12], minorant.posteriors.PerRow(draws=8)
    fit = minorant.fit(START, ArrayChunks(rows, chunk_rows=150), posterior=own, max_steps=3)
    assert fit.bound == pytest.approx(exact_evidence(fit.model, rows), abs=1e-6)
    assert fit.bound > exact_evidence(START, rows) + 1.0


# --- refusals ------------------------------------------------------------------------------------


def test_what_cannot_be_asked_for(sorted_fit, float64):
    chunks = in_chunks()
    with pytest.raises(ValueError, match="name them in minorant.chunks"):
        minorant.fit(START, chunks, posterior=SMALL, weights=WEIGHTS)
    other = ArrayChunks(ROWS[:, :2], chunk_rows=500)
    model = Factor(np.ones((2, 1)), np.zeros(2), np.ones(()))
    with pytest.raises(ValueError, match="takes 3 columns"):
        minorant.fit(model, other, posterior=sorted_fit.model.family)
    chunks.engine = object()
    with pytest.raises(ValueError, match="rows that this process reads: leave dask="):
        minorant.fit(START, chunks, posterior=SMALL)
