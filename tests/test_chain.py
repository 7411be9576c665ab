"""The chain posterior against enumeration of all paths and against slow loops."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth_chain as slow
from helpers import quick_jit

from minorant._types import Groups
from minorant.posteriors import _chain_products as products
from minorant.posteriors import _lanes, chain

F64, F32 = 1e-10, 2e-5


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def groups_of(start: np.ndarray, length: int | None = None) -> Groups:
    index = np.cumsum(start).astype(np.int32) - 1
    return Groups(start, index, int(start.sum()), length)


def problem(rng, k: int, lengths, zeros: bool = False, spread: float = 2.0):
    """Initial, transition, scores and starts; with zeros: left-right."""
    initial, transition = rng.dirichlet(np.ones(k)), rng.dirichlet(np.ones(k), size=k)
    if zeros:
        initial = np.eye(k)[0]
        transition = np.triu(transition) * (np.tri(k, k=1) > 0)
        transition /= transition.sum(1, keepdims=True)
    n = int(np.sum(lengths))
    start = np.zeros(n, dtype=bool)
    start[np.cumsum([0, *lengths[:-1]])] = True
    return initial, transition, spread * rng.normal(size=(k, n)), start


def log_evidence(initial, transition, scores, start, length=None):
    groups = Groups(start, jnp.cumsum(start) - 1, len(start), length)
    plan = _lanes.cut(len(start), groups)
    lanes = chain.to_lanes(scores, plan)
    first = _lanes.starts(groups, plan)
    one = jnp.ones(first.shape)
    found = chain.log_evidence(plan, initial, transition, lanes, first, one)
    return _lanes.from_lanes(found, plan)


@functools.partial(quick_jit, static_argnames="length")
def answers(initial, transition, scores, start, weight, length=None):
    """The posterior, the evidence row by row, and the most probable path."""
    groups = Groups(start, jnp.cumsum(start) - 1, len(start), length)
    q = chain.chain_posterior(initial, transition, scores, weight, groups)
    return q, log_evidence(initial, transition, scores, start, length), q.path()


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("lengths", [[1], [6], [1, 3, 5, 1]])
def test_small_chains_equal_enumeration(lengths, zeros):
    rng = np.random.default_rng(len(lengths))
    initial, transition, scores, start = problem(rng, 3, lengths, zeros)
    weight = np.repeat(rng.uniform(0.5, 2.0, len(lengths)), lengths)
    q, evidence, path = answers(initial, transition, scores, start, weight)
    pairs, first = np.zeros((3, 3)), np.zeros(3)
    for rows in slow.sequences(start):
        one, two, total = slow.marginals(initial, transition, scores[:, rows])
        np.testing.assert_allclose(q.probability[:, rows], one, atol=F64)
        np.testing.assert_allclose(evidence[rows].sum(), total, rtol=F64)
        assert tuple(np.asarray(path)[rows]) == slow.best_path(initial, transition, scores[:, rows])
        pairs, first = pairs + weight[rows[0]] * two, first + weight[rows[0]] * one[:, 0]
    np.testing.assert_allclose(q.pairs, pairs, atol=F64)
    np.testing.assert_allclose(q.first, first, atol=F64)


LONG = {
    "one long": ([5000], None),
    "ragged": ([1, 2, 700, 1, 3000, 40, 2000], None),
    "side by side": ([50] * 70, 50),
}


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("name", LONG)
def test_lanes_equal_one_loop_over_all_rows(name, zeros):
    lengths, length = LONG[name]
    rng = np.random.default_rng(3)
    initial, transition, scores, start = problem(rng, 3, lengths, zeros, spread=1.0)
    weight = np.repeat(rng.uniform(0.5, 2.0, len(lengths)), lengths)
    q, evidence, path = answers(initial, transition, scores, start, weight, length)
    marginal, first, pairs, scale = slow.smoother(initial, transition, scores, start, weight)
    np.testing.assert_allclose(q.probability, marginal, atol=F64)
    np.testing.assert_allclose(q.first, first, rtol=F64)
    np.testing.assert_allclose(q.pairs, pairs, rtol=F64, atol=F64)
    np.testing.assert_allclose(evidence, scale, rtol=1e-9, atol=1e-9)
    for rows in slow.sequences(start):
        own, best = slow.viterbi(initial, transition, scores[:, rows])
        joint = slow.log_joint(initial, transition, scores[:, rows], np.asarray(path)[rows])
        np.testing.assert_allclose(joint, best, rtol=F64)
        np.testing.assert_array_equal(path[rows], own)


def test_bounded_products_fall_back_on_logarithms():
    """Rows that the only reachable state finds all but impossible: products are zero, logs not."""
    rng = np.random.default_rng(5)
    initial, transition, scores, start = problem(rng, 3, [400, 300], zeros=True)
    scores[2, [1, 401]] += 5000.0  # where the last state cannot be reached yet
    scores[0, [1, 2, 402]] += 1000.0
    scores[1, 300:] += 2000.0 * (rng.random(400) < 0.5)  # the last state is never left
    weight = np.ones(700)
    q, evidence, _ = answers(initial, transition, scores, start, weight)
    marginal, first, pairs, scale = slow.smoother(initial, transition, scores, start, weight)
    np.testing.assert_allclose(q.probability, marginal, atol=F64)
    np.testing.assert_allclose(q.pairs, pairs, atol=F64)
    np.testing.assert_allclose(q.first, first, atol=F64)
    np.testing.assert_allclose(evidence, scale, rtol=F64, atol=1e-9)


def test_a_row_that_no_reachable_state_allows_has_no_evidence_and_makes_no_nan():
    scores = np.array([[0.0, -np.inf, 0.0, 0.0], [-np.inf, 0.0, 0.0, 0.0]])
    start = np.array([True, False, False, True])
    stuck = np.eye(2)
    q, evidence, _ = answers(np.array([0.5, 0.5]), stuck, scores, start, np.ones(4))
    assert evidence[1] == -np.inf
    np.testing.assert_allclose(evidence[3], 0.0, atol=F64)
    assert not np.isnan(q.probability).any()
    nothing = np.where(np.arange(4) == 2, -np.inf, 0.0) + np.zeros((2, 4))
    _, evidence, _ = answers(np.array([0.5, 0.5]), np.full((2, 2), 0.5), nothing, start, np.ones(4))
    np.testing.assert_array_equal(np.isfinite(evidence), [True, True, False, True])


@pytest.mark.parametrize("lengths", [[600], [1, 3, 200, 2]])
def test_derivatives_equal_finite_differences_also_where_transitions_are_zero(lengths):
    rng = np.random.default_rng(6)
    initial, transition, scores, start = problem(rng, 3, lengths, zeros=True, spread=1.0)
    shape = scores.shape

    def total(point):
        moved = transition * jnp.exp(point[:9].reshape(3, 3))
        moved = moved / moved.sum(1, keepdims=True)
        tilt = point[9:12, None] * jnp.sin(jnp.arange(shape[1]))
        return log_evidence(initial, moved, scores + tilt, start).sum()

    def slow_total(point):
        moved = transition * np.exp(point[:9].reshape(3, 3))
        moved = moved / moved.sum(1, keepdims=True)
        tilt = point[9:12, None] * np.sin(np.arange(shape[1]))
        return slow.log_filter(initial, moved, scores + tilt, start)[1].sum()

    point, way = np.zeros(12), rng.normal(size=12)
    h = 1e-3
    values = [slow_total(point + s * h * way) for s in (-2, -1, 0, 1, 2)]
    first = np.dot(values, [1, -8, 0, 8, -1]) / (12 * h)
    second = np.dot(values, [-1, 16, -30, 16, -1]) / (12 * h * h)
    gradient = jax.grad(total)
    slope, curve = quick_jit(lambda p: jax.jvp(gradient, (p,), (way,)))(point)
    assert np.isfinite(slope).all()
    assert np.isfinite(curve).all()
    np.testing.assert_allclose(slope @ way, first, rtol=1e-7)
    np.testing.assert_allclose(curve @ way, second, rtol=1e-5)


def test_drawn_paths_have_the_posterior_s_frequencies():
    rng = np.random.default_rng(7)
    initial, transition, scores, start = problem(rng, 2, [3, 2])
    q = answers(initial, transition, scores, start, np.ones(5))[0]
    draws = 6_000
    keys = jax.random.split(jax.random.key(1), draws)
    paths = np.asarray(quick_jit(jax.vmap(q.sample))(keys))
    for rows in slow.sequences(start):
        every, chances, _ = slow.paths(initial, transition, scores[:, rows])
        code = paths[:, rows] @ 2 ** np.arange(len(rows))[::-1]
        found = np.bincount(code, minlength=len(every)) / draws
        error = np.sqrt(chances * (1 - chances) / draws)
        assert (np.abs(found - chances) <= 4.5 * error).all()
    density = np.asarray(quick_jit(lambda path: q.log_density(path))(paths[0]))
    for rows in slow.sequences(start):
        every, chances, _ = slow.paths(initial, transition, scores[:, rows])
        place = every.index(tuple(paths[0][rows]))
        np.testing.assert_allclose(density[rows].sum(), np.log(chances[place]), rtol=F64)


def test_long_chains_are_drawn_alike_in_lanes():
    """Pairs of neighbours in drawn paths against the pair sums, over lanes that are joined."""
    rng = np.random.default_rng(8)
    initial, transition, scores, start = problem(rng, 3, [900], spread=0.7)
    q = answers(initial, transition, scores, start, np.ones(900))[0]
    paths = np.asarray(quick_jit(jax.vmap(q.sample))(jax.random.split(jax.random.key(2), 100)))
    counts = np.zeros((100, 3, 3))
    for draw, path in enumerate(paths):
        np.add.at(counts[draw], (path[:-1], path[1:]), 1.0)
    error = counts.std(0) / np.sqrt(100)
    assert (np.abs(counts.mean(0) - q.pairs) <= 4.5 * error).all()


@pytest.mark.slow
def test_a_million_steps_in_float32_equal_float64():
    rng = np.random.default_rng(9)
    initial, transition, scores, start = problem(rng, 3, [1_000_000], spread=1.0)
    weight = np.ones(1_000_000)
    wide, evidence, _ = answers(initial, transition, scores, start, weight)
    with jax.enable_x64(False):
        narrow, low, _ = answers(
            *(np.float32(part) for part in (initial, transition, scores)),
            start,
            np.float32(weight),
        )
    assert narrow.probability.dtype == np.float32
    np.testing.assert_allclose(narrow.probability, wide.probability, atol=F32)
    np.testing.assert_allclose(narrow.pairs, wide.pairs, rtol=F32)
    np.testing.assert_allclose(np.asarray(low, float).sum(), evidence.sum(), rtol=1e-6)


def test_operators_say_how_every_lane_begins():
    """Against one loop over all rows, for a chain that forgets nothing: it only cycles."""
    rng = np.random.default_rng(11)
    cycle, start = np.roll(np.eye(3), 1, axis=1), np.zeros(640, dtype=bool)
    start[[0, 300]] = True
    scores = 0.1 * rng.normal(size=(3, 640))
    plan = _lanes.cut(640, groups_of(start))
    assert plan.lanes > 4
    shape = (plan.steps, plan.lanes)
    likelihood = np.exp(np.asarray(chain.to_lanes(scores, plan)))
    seen = products.Evidence(likelihood, _lanes.starts(groups_of(start), plan), np.ones(shape))
    states = products.Chain(np.full(3, 1 / 3), cycle)
    before = np.asarray(products._states_between(states, seen, np.asarray(True)))
    after = np.asarray(products._messages_between(states, seen, np.asarray(True)))
    filtered, _ = slow.log_filter(states.initial, cycle, scores, start)
    marginal = slow.smoother(states.initial, cycle, scores, start, np.ones(640))[0]
    ends = np.arange(1, plan.lanes) * plan.steps - 1
    np.testing.assert_allclose(before[:, 1:], np.exp(filtered[:, ends]), rtol=1e-9)
    joint = np.exp(filtered[:, ends]) * after[:, :-1]
    np.testing.assert_allclose(joint / joint.sum(0), marginal[:, ends], rtol=1e-9)
    found = quick_jit(products.smooth, static_argnums=2)(states, seen, True)
    probability = _lanes.from_lanes(found.probability, plan)
    np.testing.assert_allclose(probability, marginal, atol=F64)
