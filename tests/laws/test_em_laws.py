"""Laws of the climb: no EM step lowers the objective, each M-step is the maximiser it claims."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest
import truth
from cases import LIKELIHOODS, MODELS, SOLVERS, VIEWS, one_hot, random_probabilities
from helpers import (
    K,
    N,
    assert_never_decreases,
    assert_trees_equal,
    examine,
    expected,
    m_step,
    quick_jit,
    rounding,
    rows_of,
    scene,
    source_of,
    start_near,
    tolerance,
)

from minorant._parameters import leaf_constraints, to_vector
from minorant.solvers import Problem

GAUSSIANS = [name for name in LIKELIHOODS if name.startswith("gaussian")]
CLOSED = [name for name, case in MODELS.items() if case.component.closed]


def seeded_weights(n=N):
    return np.random.default_rng(5).integers(0, 4, size=n).astype(float)


@pytest.mark.parametrize(("name", "missing"), VIEWS)
def test_one_step_after_another_never_lowers_the_objective(name, missing, dtype):
    case = MODELS[name]
    shown = scene(case, missing=missing)
    rows = rows_of(shown.values, dtype, seeded_weights())
    model, climb = start_near(shown, dtype), []
    for _ in range(12):
        look = examine(model, rows)
        climb.append(float(look.objective))
        model = look.stepped
    assert_never_decreases(climb, rounding(climb, seeded_weights().sum(), dtype))
    assert climb[-1] > climb[0] + 1.0  # it went somewhere


@partial(quick_jit, static_argnames="length")
def solve(solver, problem, length=40):
    """States after each of ``length`` steps."""

    def step(state, _):
        state = solver.step(problem, state)
        return state, (state.bound, state.objective, state.code)

    state, path = jax.lax.scan(step, solver.init(problem), length=length)
    return state, path


def climb_by(solver, name, dtype):
    shown = scene(MODELS[name])
    start = start_near(shown, dtype)
    problem = Problem(start, source_of(shown.values, dtype, seeded_weights()))
    state, path = solve(SOLVERS[solver](), problem, length=40)
    end = SOLVERS[solver]().settled(problem, jax.tree.map(np.asarray, state))
    return shown, start, end, [np.asarray(part, dtype=float) for part in path]


WIDE = [("anderson", name) for name in LIKELIHOODS if not name.endswith("centred")]
WIDE += [("anderson", "gaussian-full-prior"), ("anderson", "gaussian-full-dirichlet")]
WIDE += [(solver, "gaussian-full") for solver in ("plain", "squarem")]
NARROW = [(solver, "gaussian-full") for solver in SOLVERS]
NARROW += [("anderson", "gaussian-diagonal"), ("anderson", "poisson")]
# Every pair is a program of its own: in float32 some of them stand for all.
STEPPED = [(*pair, "float64") for pair in WIDE] + [(*pair, "float32") for pair in NARROW]


@pytest.mark.parametrize(("solver", "name", "dtype"), STEPPED, indirect=["dtype"])
def test_solver_steps_never_lower_the_objective(solver, name, dtype):
    shown, start, end, (_, objective, code) = climb_by(solver, name, dtype)
    slack = rounding(objective, seeded_weights().sum(), dtype)
    assert_never_decreases(objective, slack)
    assert np.all(code <= 2), code  # running, converged or at the last digit; no failure
    rows = rows_of(shown.values, dtype, seeded_weights())
    plain, model = [], start
    for _ in range(5):
        look = examine(model, rows)
        plain.append(float(look.objective))
        model = look.stepped
    assert objective[0] == pytest.approx(plain[0], abs=slack)
    # Two programs computed these, and each may be off by the slack, to either side.
    assert float(examine(end, rows).objective) == pytest.approx(objective[-1], abs=2 * slack)
    assert objective[-1] >= plain[-1] - slack


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", GAUSSIANS)
def test_a_gaussian_step_is_the_one_written_row_by_row(name, missing, dtype):
    shown = scene(MODELS[name], missing=missing)
    stepped = examine(shown.cast(dtype), rows_of(shown.values, dtype, seeded_weights())).stepped
    expected_step = truth.gaussian_em_step(shown.model, shown.values, seeded_weights())
    found = (stepped.weights, stepped.component.mean, stepped.component.covariance)
    for one, other in zip(found, expected_step, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=10 * tolerance(dtype) * scale)


@pytest.mark.parametrize("name", GAUSSIANS)
def test_known_labels_give_the_maximum_likelihood_of_every_class(name, dtype):
    shown = scene(MODELS[name])
    labels = np.random.default_rng(2).integers(K, size=N)
    stepped = examine(shown.cast(dtype), rows_of(shown.values, dtype, labels=labels)).stepped
    groups = [shown.values[labels == j] for j in range(K)]
    scatters = np.stack([np.cov(g, rowvar=False, bias=True) * len(g) for g in groups])
    counts = np.array([len(g) for g in groups], dtype=float)
    spread = truth.pooled(shown.model.component.structure, scatters, counts)
    relative = 10 * tolerance(dtype)
    np.testing.assert_allclose(stepped.weights, counts / N, rtol=relative)
    means = np.stack([g.mean(0) for g in groups])
    np.testing.assert_allclose(stepped.component.mean, means, atol=relative * np.abs(means).max())
    np.testing.assert_allclose(
        stepped.component.covariance, spread, rtol=0, atol=relative * spread.max()
    )


# --- the M-step is the maximiser, given what is held ----------------------------------------


def masks(model):
    """(name, mask tree): nothing held, then each learned leaf, whole and for some components."""
    paths, structure = jax.tree_util.tree_flatten_with_path(model)
    blank = [np.zeros(leaf.shape[:1] if leaf.shape[:1] == (K,) else (), bool) for _, leaf in paths]
    yield "nothing", jax.tree.unflatten(structure, blank)
    for index, constraint in enumerate(leaf_constraints(model)):
        if constraint is None:
            continue
        name, some = jax.tree_util.keystr(paths[index][0]), blank[index].copy()
        choices = [np.ones_like(blank[index])]
        if some.shape:
            some[::2] = True
            choices.append(some)
        for held in choices:
            leaves = [held if i == index else empty for i, empty in enumerate(blank)]
            yield f"{name} {held}", jax.tree.unflatten(structure, leaves)


def held_entries(model, fixed):
    """For every learned leaf, which of its entries are held; and all of them in one vector."""
    per_leaf = []
    for leaf, mask, constraint in zip(
        jax.tree.leaves(model), jax.tree.leaves(fixed), leaf_constraints(model), strict=True
    ):
        shaped = mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim))
        per_leaf.append((constraint, np.broadcast_to(shaped, leaf.shape)))
    learned = [held.ravel() for constraint, held in per_leaf if constraint is not None]
    return [held for _, held in per_leaf], np.concatenate(learned)


def weights_share_what_is_left(model, statistics_count, extra, held):
    """Free weights in proportion to their counts, all weights summing to one."""
    ratio = (statistics_count + extra) / np.asarray(model.weights, dtype=float)
    free = ratio[~held]
    np.testing.assert_allclose(free, free.mean() if free.size else free, rtol=1e-9)
    np.testing.assert_allclose(np.sum(model.weights), 1.0, rtol=1e-12)


@pytest.mark.parametrize("name", CLOSED)
def test_the_m_step_is_the_maximiser_given_what_is_held(name, float64):
    shown = scene(MODELS[name])
    model, rows = shown.cast(float64), rows_of(shown.values, float64, seeded_weights())
    q = random_probabilities(np.random.default_rng(4), K, N)
    count = (q * seeded_weights()).sum(1)
    extra = 0.0 if model.prior is None else float(model.prior.concentration) - 1.0
    for label, fixed in masks(model):
        new = m_step(model, rows, np.log(q), fixed)
        per_leaf, flat = held_entries(model, fixed)
        before, after = jax.tree.leaves(model), jax.tree.leaves(new)
        for old, fresh, held in zip(before, after, per_leaf, strict=True):
            np.testing.assert_array_equal(np.asarray(fresh)[held], old[held], err_msg=label)
        weights_share_what_is_left(new, count, extra, np.asarray(fixed.weights))
        assert_conditional_maximum(new, rows, q, flat, label)


def assert_conditional_maximum(new, rows, q, held, label):
    """No slope where free, and no higher value nearby."""
    vector = np.asarray(to_vector(new))
    held = held.copy()
    start = weights_position(new)
    held[start : start + K] = True  # the weights have their own test: they share one constraint
    top, slope = expected(new, vector, rows, q)
    free_slope = np.abs(np.asarray(slope))[~held]
    assert np.all(free_slope <= 1e-9 * (N + abs(float(top)))), (label, free_slope.max())
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 0.1, 0.5):
        away = vector + np.where(held, 0.0, size * rng.normal(size=len(vector)))
        assert float(expected(new, away, rows, q)[0]) <= float(top) + 1e-9, (label, size)


def weights_position(model):
    """Where the weights begin in the flat vector."""
    start = 0
    for (path, leaf), constraint in zip(
        jax.tree_util.tree_flatten_with_path(model)[0], leaf_constraints(model), strict=True
    ):
        if jax.tree_util.keystr(path) == ".weights":
            return start
        start += leaf.size if constraint is not None else 0
    raise AssertionError("a mixture has weights")


@pytest.mark.parametrize("name", LIKELIHOODS)  # a prior has its own say about an empty component
def test_a_component_without_rows_keeps_its_parameters(name, dtype):
    shown = scene(MODELS[name])
    model = shown.cast(dtype)
    q = one_hot(np.random.default_rng(3), K - 1, N)
    q = np.concatenate([q, np.zeros((1, N))]).astype(dtype)
    with np.errstate(divide="ignore"):
        new = m_step(model, rows_of(shown.values, dtype), np.log(q), None)
    assert float(new.weights[-1]) == 0.0
    for old, fresh in zip(
        jax.tree.leaves(model.component), jax.tree.leaves(new.component), strict=True
    ):
        assert np.all(np.isfinite(fresh))
        if old.shape[:1] == (K,):
            assert_trees_equal(np.asarray(fresh)[-1], old[-1])
