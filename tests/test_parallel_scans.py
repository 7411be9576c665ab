"""Recursions by parallel scans: equal to enumeration and a dense normal, to those step by step."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth_chain
import truth_kalman
from helpers import quick_jit
from test_chain import problem
from test_kalman import observed_of, whitened
from test_state_space import START, rows_of, scene

from minorant._types import Groups, Rows
from minorant.components import Gaussian
from minorant.components.scalar_covariance import Diagonal
from minorant.models import HiddenMarkov, TransitionLogits
from minorant.posteriors import ByDevice, ParallelScan, Sequential, _lanes, chain
from minorant.posteriors._kalman_filter import Chain
from minorant.posteriors._kalman_parallel import (
    filtered_in_parallel,
    smoothed_in_parallel,
    triangle,
)
from minorant.posteriors._scan import scanned

F64 = 1e-10
pytestmark = pytest.mark.usefixtures("float64")
SCAN = ParallelScan()


@quick_jit
def words(shifts):
    """Permutations multiplied up, from both ends; an associative product that does not commute."""

    def after(one, then):
        return jnp.take_along_axis(one, then, axis=1)

    return scanned(after, shifts), scanned(after, shifts, reverse=True)


@pytest.mark.parametrize("n", [1, 16, 75])
def test_products_of_all_before_and_all_after(n):
    shifts = np.random.default_rng(n).permuted(np.tile(np.arange(4), (n, 1)), axis=1)
    before, after = words(shifts)
    for t in range(n):
        wanted = functools.reduce(lambda a, b: a[b], shifts[: t + 1])
        np.testing.assert_array_equal(before[t], wanted)
        np.testing.assert_array_equal(after[t], functools.reduce(lambda a, b: a[b], shifts[t:]))


# The discrete chain

LENGTHS = {None: [1, 3, 6, 1, 33, 200], 61: [61] * 4}


@functools.partial(quick_jit, static_argnames="length")
def chain_answers(initial, transition, scores, start, weight, length=None):
    """The posterior, the evidence row by row, and its sum's derivatives."""
    index = jnp.cumsum(start) - 1
    groups = Groups(start, index, len(start), length)
    q = chain.chain_posterior(initial, transition, scores, weight, groups, SCAN)
    plan = _lanes.cut(len(start), groups, SCAN, 9)
    assert plan.parallel
    first = _lanes.starts(groups, plan)

    def evidence(moved, given):
        lanes = chain.to_lanes(given, plan)
        found = chain.log_evidence(plan, initial, moved, lanes, first, jnp.ones(first.shape))
        return _lanes.from_lanes(found, plan)

    def total(moved, given):
        found = evidence(moved, given)
        return jnp.where(found > -jnp.inf, found, 0.0).sum()

    return q, evidence(transition, scores), jax.grad(total, (0, 1))(transition, scores)


@pytest.mark.parametrize(
    ("length", "dtype", "zeros"),
    [(None, np.float64, False), (None, np.float32, True), (61, np.float64, True)],
)
def test_chains_equal_enumeration_and_a_loop_over_rows(length, dtype, zeros):
    """The derivatives by Fisher's identity; float32 to a few hundred of its epsilons."""
    rng, lengths = np.random.default_rng(3), LENGTHS[length]
    initial, transition, scores, start = problem(rng, 3, lengths, zeros, spread=1.0)
    weight = np.repeat(rng.uniform(0.5, 2.0, len(lengths)), lengths)
    wide = (initial, transition, scores, start, weight)
    with jax.enable_x64(dtype == np.float64):
        given = [part if part.dtype == bool else part.astype(dtype) for part in wide]
        q, evidence, (by_moves, by_scores) = chain_answers(*given, length)
    assert q.probability.dtype == dtype
    close = F64 if dtype == np.float64 else 3e-5
    marginal, first, pairs, scale = truth_chain.smoother(*wide)
    np.testing.assert_allclose(q.probability, marginal, atol=close)
    np.testing.assert_allclose(q.first, first, rtol=close)
    np.testing.assert_allclose(q.pairs, pairs, rtol=close, atol=close * pairs.sum())
    np.testing.assert_allclose(evidence, scale, rtol=close, atol=10 * close)
    np.testing.assert_allclose(by_scores, marginal, atol=close)
    alone = truth_chain.smoother(*wide[:4], np.ones(len(start)))[2]
    allowed = transition > 0
    slopes = np.where(allowed, by_moves, 0.0) * transition
    np.testing.assert_allclose(slopes, alone, atol=close * alone.sum())
    for rows in truth_chain.sequences(start):
        if len(rows) <= 6:
            one, _, total = truth_chain.marginals(initial, transition, scores[:, rows])
            np.testing.assert_allclose(q.probability[:, rows], one, atol=close)
            np.testing.assert_allclose(evidence[rows].sum(), total, atol=10 * close)


def test_a_row_that_no_reachable_state_allows_leaves_other_rows_alone():
    """Found by the scan, and its block done step by step; a row that no state allows is skipped."""
    rng = np.random.default_rng(4)
    initial, _, scores, start = problem(rng, 3, LENGTHS[None])
    scores[:, 50] = np.where(np.arange(3) == 1, 0.0, -np.inf)
    scores[:, 49] = np.where(np.arange(3) == 0, 0.0, -np.inf)  # and no state is ever left
    scores[:, 5] = -np.inf
    q, evidence, slopes = chain_answers(initial, np.eye(3), scores, start, np.ones(244))
    assert np.flatnonzero(np.isneginf(evidence)).tolist() == [5, 50]
    for leaf in (q.probability, q.pairs, *slopes):
        assert np.isfinite(leaf).all()
    skipped = scores.copy()
    skipped[:, [5, 50]] = 0.0
    marginal, _, _, scale = truth_chain.smoother(initial, np.eye(3), skipped, start, np.ones(244))
    away = np.delete(np.arange(244), np.r_[5, np.arange(44, 244)])
    np.testing.assert_allclose(q.probability[:, away], marginal[:, away], atol=F64)
    np.testing.assert_allclose(np.asarray(evidence)[away], scale[away], atol=F64)


def test_a_model_whose_moves_depend_on_inputs_is_the_same_either_way():
    """Missing cells and steps, ragged groups, weights, inputs; evidence and statistics."""
    rng = np.random.default_rng(4)
    start = np.isin(np.arange(30), [0, 7, 8])
    logits = rng.normal(size=(2, 2, 2)) * (1 - np.eye(2))[..., None]
    component = Gaussian(Diagonal(), np.array([[0.0], [2.0]]), np.ones((2, 1)))
    model = HiddenMarkov(
        component, np.array([0.3, 0.7]), TransitionLogits(1, logits), n_components=2
    )
    x = rng.normal(size=(30, 1)) + 1.0
    x[[3, 7, 20, 21]] = np.nan
    weight = np.where(start.cumsum() == 3, 2.5, 1.0)
    rows = rows_of(x, start, rng.normal(size=(30, 1)), weight)

    def answers(model: HiddenMarkov, rows: Rows):
        prepared = model.prepare()
        return model.expectation(rows, prepared), model.log_evidence(rows, prepared)

    found, known = (
        quick_jit(answers)(dataclasses.replace(model, recursion=how), rows)
        for how in (SCAN, Sequential())
    )
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(known), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


# The Gaussian chain


@quick_jit
def look(model, rows):
    """What is asked of a block."""
    prepared = model.prepare()
    expectation = model.expectation(rows, prepared)
    q = model.posterior(rows, prepared)
    stepped = model.maximise(expectation.statistics)
    return q, model.filtered(rows, prepared), model.log_evidence(rows, prepared), stepped


@pytest.mark.parametrize(("kind", "full", "m"), [("both", False, 2), ("both", True, 0)])
def test_state_space_equals_the_dense_normal_density(kind, full, m):
    """Missing cells and steps, ragged groups, weights, inputs; and the EM step."""
    law, model, x, inputs = scene(kind, full, m)
    weight = np.where(np.cumsum(START) == 2, 3.0, 1.0)
    model = dataclasses.replace(model, recursion=SCAN)
    q, filtered, log_p, stepped = look(model, rows_of(x, START, inputs, weight))
    exact, t = truth_kalman.dense(law, x, START, inputs), np.arange(len(x))
    np.testing.assert_allclose(q.mean, exact.mean, atol=1e-11)
    np.testing.assert_allclose(q.covariance, exact.covariance[t, :, t], atol=1e-12)
    inside = t[1:][~START[1:]]
    across = np.asarray(q.lag_one)[inside]
    np.testing.assert_allclose(across, exact.covariance[inside, :, inside - 1], atol=1e-12)
    by_row = truth_kalman.sequential_log_evidence(law, x, START, inputs)
    np.testing.assert_allclose(log_p, by_row, atol=1e-10)
    last = len(x) - 1
    np.testing.assert_allclose(filtered.mean[last], exact.mean[last], atol=1e-11)
    np.testing.assert_allclose(filtered.covariance[last], exact.covariance[last, :, last], atol=F64)
    wanted = truth_kalman.em_step(law, x, START, inputs, weight)
    np.testing.assert_allclose(stepped.transition, wanted.A, atol=1e-9)
    np.testing.assert_allclose(stepped.transition_covariance, wanted.Q, atol=1e-9)
    np.testing.assert_allclose(stepped.observation, wanted.C, atol=1e-9)


@quick_jit
def by_scans(prior, parts):
    """Filter and smoother."""
    observed = observed_of(parts)
    return filtered_in_parallel(prior, observed), smoothed_in_parallel(prior, observed)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_singular_noise_and_wide_first_states_lose_no_digits(dtype):
    """An autoregression in companion form, its first state known in part, noise small, gaps."""
    rng = np.random.default_rng(5)
    law = truth_kalman.random_law(rng, 3, 2)
    law = law._replace(
        A=np.array([[0.5, 0.2, 0.1], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        Q=np.diag([1.0, 0.0, 0.0]),
        P=np.diag([1e3, 1e3, 0.0]),
        R=1e-2 * np.eye(2),
    )
    start = np.isin(np.arange(50), [0, 20])
    x = truth_kalman.simulated(rng, law, start, np.zeros((50, 0)))[1]
    x[rng.random(x.shape) < 0.2] = np.nan
    exact = truth_kalman.dense(law, x, start, np.zeros((50, 0)))
    scale, t = np.abs(exact.mean).max(), np.arange(50)
    with jax.enable_x64(dtype == np.float64):
        parts = whitened(law, x, start, np.ones(50), True)
        parts = {k: v.astype(dtype) if v.dtype == float else v for k, v in parts.items()}
        prior = Chain(*(part.astype(dtype) for part in (law.m, law.P, law.A, law.Q)))
        up_to, found = by_scans(prior, parts)
    close = 1e-10 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(found.mean / scale, exact.mean / scale, atol=close)
    covariance = exact.covariance[t, :, t]
    np.testing.assert_allclose(found.sums.all, covariance.sum(0), atol=close * covariance.sum())
    seen = ~np.isnan(x)
    total = float(np.asarray(up_to.log_density, float).sum())
    total -= (seen @ (0.5 * np.log(2 * np.pi * np.diag(law.R)))).sum()
    np.testing.assert_allclose(total, exact.log_evidence, rtol=close)


def test_triangles_are_those_of_qr():
    arrays = np.random.default_rng(6).normal(size=(3, 7, 5))
    arrays[1, :, 2] = 0.0
    found = np.asarray(quick_jit(triangle, static_argnums=1)(arrays, 5))
    np.testing.assert_allclose(np.swapaxes(found, 1, 2) @ found,
                               np.swapaxes(arrays, 1, 2) @ arrays, atol=1e-13)  # fmt: skip
    assert np.abs(np.tril(found[:, :, :5], -1)).max() == 0.0


# Which is chosen


def test_scans_are_for_long_sequences_on_accelerators(monkeypatch):
    assert not ByDevice().is_parallel(10**6, 10**6)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert ByDevice().is_parallel(2048, 10**6)
    assert not ByDevice().is_parallel(2047, 10**6)
    assert not ByDevice().is_parallel(10**6, 10**9)  # memory
    assert not Sequential().is_parallel(10**6, 10**6)
