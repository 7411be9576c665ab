"""The linear Gaussian state space model against one dense normal density, and its EM steps."""

import functools

import jax
import numpy as np
import pytest
import truth_kalman as truth
from helpers import assert_never_decreases, quick_jit, rounding
from scipy.optimize import minimize

import minorant
from minorant import datasets
from minorant._parameters import Hold, from_vector, to_vector
from minorant._types import Affine, Groups, Rows
from minorant.components import Diagonal, Full
from minorant.models import StateSpace
from minorant.models._state_space_shapes import canonical_rotation, rotated
from minorant.models._state_space_step import Held, Regression, regressed
from minorant.preparation import cast
from minorant.solvers import EM, Plain

L, D = 3, 2
START = np.array([1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0], bool)  # lengths 6, 1, 7
N = len(START)


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


def model_of(law, full):
    """The model with the law's parameters, nothing held."""
    floor = {"floor": np.full(len(law.C), 1e-9), "state_floor": np.full(len(law.A), 1e-9)}
    return StateSpace(
        law.A, law.B, law.b, law.Q, law.C, law.D, law.c, law.R if full else np.diag(law.R), law.m,
        law.P, observation_structure=Full() if full else Diagonal(), held=(), **floor,
    )  # fmt: skip


def gaps(rng, kind, x):
    """The table with cells, or whole steps, missing."""
    x = x.copy()
    if kind in ("cells", "both"):
        x[rng.random(x.shape) < 0.3] = np.nan
    if kind in ("steps", "both"):
        x[[0, 3, 9, 13]] = np.nan
    return x


def rows_of(x, start, inputs=None, weight=None, length=None):
    """A block; ``length`` where its groups lie side by side."""
    seen = ~np.isnan(x)
    index = (np.cumsum(start) - 1).astype(np.int32)
    groups = Groups(start, index, int(start.sum()) + 1, length)
    return Rows(
        np.where(seen, x, 0.0),
        np.ones(len(x)) if weight is None else weight,
        None if seen.all() else seen,
        groups=groups,
        inputs=None if inputs is None or not inputs.shape[1] else inputs,
    )


@functools.cache
def scene(kind, full, m=0, l=L, d=D):
    """A law, its model, a table and inputs."""
    rng = np.random.default_rng(l + 10 * d)
    law = truth.random_law(rng, l, d, m, full)
    inputs = rng.normal(size=(N, m))
    _, x = truth.simulated(rng, law, START, inputs)
    return law, model_of(law, full), gaps(rng, kind, x), inputs


@quick_jit
def look(model, rows):
    """Posterior, evidence, expectation and the step after it."""
    prepared = model.prepare()
    q = model.posterior(rows, prepared)
    expectation = model.expectation(rows, prepared)
    other = model.statistics(rows, q, prepared)
    return (
        (q, q.lag_one),
        model.log_evidence(rows, prepared),
        expectation,
        other,
        model.maximise(expectation.statistics),
    )


CASES = [
    ("complete", False, 0),
    ("complete", True, 2),
    ("both", False, 2),
    ("both", True, 0),
]


@pytest.mark.parametrize(("kind", "full", "m"), CASES)
def test_everything_equals_the_dense_normal_density(kind, full, m):
    law, model, x, inputs = scene(kind, full, m)
    weight = np.where(np.cumsum(START) == 2, 3.0, 1.0)
    (q, lag_one), log_p, expectation, other, stepped = look(
        model, rows_of(x, START, inputs, weight)
    )
    exact = truth.dense(law, x, START, inputs)
    t = np.arange(N)
    np.testing.assert_allclose(q.mean, exact.mean, atol=1e-11)
    np.testing.assert_allclose(q.covariance, exact.covariance[t, :, t], atol=1e-12)
    inside = t[1:][~START[1:]]
    np.testing.assert_allclose(
        np.asarray(lag_one)[inside], exact.covariance[inside, :, inside - 1], atol=1e-12
    )
    np.testing.assert_allclose(
        log_p, truth.sequential_log_evidence(law, x, START, inputs), atol=1e-10
    )
    assert float(expectation.bound) == pytest.approx(float(weight @ log_p), abs=1e-10)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), expectation.statistics, other
    )
    wanted = truth.em_step(law, x, START, inputs, weight)
    for name, value in zip(truth.Law._fields, wanted, strict=True):
        found = np.asarray(getattr(stepped, FIELDS[name]))
        value = np.diag(value) if found.ndim < value.ndim else value
        np.testing.assert_allclose(found, value, atol=1e-9, err_msg=name)


FIELDS = {
    "A": "transition", "B": "transition_inputs", "b": "transition_offset",
    "Q": "transition_covariance", "C": "observation", "D": "observation_inputs",
    "c": "observation_offset", "R": "observation_covariance", "m": "initial_mean",
    "P": "initial_covariance",
}  # fmt: skip


@pytest.mark.slow
def test_sequences_side_by_side_equal_sequences_end_to_end():
    rng = np.random.default_rng(1)
    law = truth.random_law(rng, L, D, full=True)
    model = model_of(law, True)
    length, count = 5, 4
    start = np.arange(length * count) % length == 0
    x = gaps(rng, "cells", truth.simulated(rng, law, start, np.zeros((len(start), 0)))[1])
    start[[8, 9]] = True  # a shorter sequence and its padding
    weight = np.where(np.isin(np.arange(len(start)), [8, 9]), 0.0, 1.0)
    abreast = look(model, rows_of(x, start, None, weight, length))
    apart = look(model, rows_of(x, start, None, weight))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), abreast[:4], apart[:4])


@pytest.mark.slow
def test_the_evidence_has_two_derivatives():
    _, model, x, inputs = scene("both", True, 2)
    rows = rows_of(x, START, inputs)

    @quick_jit
    def derivatives(point):
        def value(v):
            at = from_vector(model, v)
            return at.log_evidence(rows, at.prepare()).sum()

        # forward over reverse, one direction at a time
        gradient = jax.grad(value)
        return gradient(point), jax.vmap(lambda e: jax.jvp(gradient, (point,), (e,))[1])(axes)

    point = np.asarray(to_vector(model))
    axes = np.eye(len(point))[::5]
    _, second = derivatives(point)
    step = 1e-5
    for axis, column in zip(axes, second, strict=True):
        ahead, back = (derivatives(point + s * step * axis)[0] for s in (1, -1))
        np.testing.assert_allclose(column, (ahead - back) / (2 * step), rtol=1e-5, atol=1e-4)


def test_units_change_nothing_but_the_jacobian():
    _, model, x, inputs = scene("both", True, 2)
    units = Affine(np.array([3.0, -40.0]), np.array([0.1, 25.0]))
    _, here, *_ = look(model, rows_of(x, START, inputs))
    _, there, *_ = look(model.rescaled(units), rows_of(units.apply(x), START, inputs))
    jacobian = ~np.isnan(x) @ np.log(units.scale)
    np.testing.assert_allclose(np.asarray(there) - jacobian, here, atol=1e-9)


@pytest.mark.parametrize("diagonal", [True, False])
def test_entries_that_are_held_leave_the_best_of_the_others(diagonal):
    rng = np.random.default_rng(2)
    p, q, n = 3, 2, 12.0
    root = rng.normal(size=(40, p + q))
    moments = root.T @ root
    sums = Regression(
        np.array([n]), moments[p:, p:], moments[:p, p:], moments[:p, :p][None]
    )  # fmt: skip
    noise = truth.spread(rng, q)
    noise = np.diag(noise) if diagonal else noise
    held = rng.random((q, p)) < 0.4
    change, new = regressed(sums, noise, Held(held, None))
    precision = np.linalg.inv(np.diag(noise) if diagonal else noise)

    def scatter(free):
        theta = np.zeros((q, p))
        theta[~held] = free
        back = theta @ moments[:p, p:]
        return moments[p:, p:] - back - back.T + theta @ moments[:p, :p] @ theta.T

    best = minimize(
        lambda free: np.sum(precision * scatter(free)), np.zeros((~held).sum()), tol=1e-12
    )
    np.testing.assert_allclose(np.asarray(change)[~held], best.x, atol=1e-5)
    assert np.all(np.asarray(change)[held] == 0.0)
    wanted = scatter(np.asarray(change)[~held]) / n
    np.testing.assert_allclose(new, np.diag(wanted) if diagonal else wanted, atol=1e-12)


def test_plain_steps_climb_and_hold_what_is_held():
    law, model, x, _ = scene("both", False, 0)
    mask = np.array([[True, False, True], [False, True, False], [True, True, False]])
    fit = minorant.fit(
        model, x, groups=np.cumsum(START), solver=EM(Plain(), 1e-9), max_steps=60,
        fixed=lambda m: (Hold(m.transition, mask), m.initial_covariance),
    )  # fmt: skip
    assert_never_decreases(fit.trace.bound, rounding(fit.trace.bound, N, np.float64))
    assert fit.trace.bound[-1] > fit.trace.bound[0] + 1.0
    np.testing.assert_array_equal(fit.model.transition[mask], law.A[mask])
    assert np.all(fit.model.transition[~mask] != law.A[~mask])
    np.testing.assert_array_equal(fit.model.initial_covariance, law.P)


NILE = dict(
    transition=[[1.0]], observation=[[1.0]], observation_offset=[0.0], initial_mean=[0.0],
    initial_covariance=[[1e7]],
    held=("transition", "transition_offset", "observation", "observation_offset", "initial_mean",
          "initial_covariance"),
)  # fmt: skip


@pytest.fixture(scope="module")
def nile():
    """The local level model of the Nile, as Durbin & Koopman begin it."""
    rows = datasets.load("nile")["volume"][:, None]
    with jax.enable_x64(True):
        return minorant.fit(StateSpace(**NILE), rows, tolerance=1e-11), rows


def test_the_nile_as_published(nile):
    """Durbin & Koopman (2012), section 2.10.3 and table 2.1: 15099, 1469.1; log L_d = -632.54.

    Theirs are for a diffuse first level, these for a variance of 1e7: the first four digits of the
    irregular and three of the level agree, the likelihood to all digits printed.
    """
    fit, rows = nile
    assert fit.outcome.ok
    assert float(fit.model.observation_covariance[0]) == pytest.approx(15099, abs=1.0)
    assert float(fit.model.transition_covariance[0, 0]) == pytest.approx(1469.1, abs=1.0)
    assert fit.log_evidence(rows)[1:].sum() == pytest.approx(-632.54, abs=0.005)


def test_the_nile_as_statsmodels_has_it(nile):
    unobserved = pytest.importorskip("statsmodels.tsa.statespace.structural")
    fit, rows = nile
    level = unobserved.UnobservedComponents(rows, "llevel", loglikelihood_burn=0)
    level.ssm.initialize_known([0.0], [[1e7]])
    noise = [
        float(fit.model.observation_covariance[0]),
        float(fit.model.transition_covariance[0, 0]),
    ]
    theirs = level.smooth(noise)
    assert fit.bound == pytest.approx(theirs.llf, abs=1e-8)
    assert fit.bound >= level.fit(noise, disp=False).llf - 1e-6
    q = fit.posterior(rows)
    np.testing.assert_allclose(q.mean[:, 0], theirs.smoothed_state[0], rtol=1e-9)
    np.testing.assert_allclose(q.covariance[:, 0, 0], theirs.smoothed_state_cov[0, 0], rtol=1e-8)


def test_free_states_are_told_apart_up_to_a_rotation():
    law, _, x, _ = scene("both", False, 0)
    fit = minorant.fit(StateSpace(n_states=2), x, groups=np.cumsum(START), max_steps=30)
    # A 4 + C 4 - 1 rotation, c 2, R 2, m 2
    assert fit.n_parameters == 13
    np.testing.assert_array_equal(fit.model.transition_covariance, np.eye(2))
    turned = fit.model.canonical()
    C, R = turned.observation, turned.observation_covariance
    inner = C.T @ (C / R[:, None])
    assert abs(inner[0, 1]) < 1e-8 * inner[0, 0]
    assert inner[0, 0] > inner[1, 1]
    one, other = (
        look(model, rows_of(x, START))[1] for model in (fit.model, rotated(
            fit.model, canonical_rotation(fit.model)))
    )  # fmt: skip
    np.testing.assert_allclose(one, other, atol=1e-9)


HARD = {
    "sequences of one row": (np.random.default_rng(0).normal(size=(12, 2)), np.arange(12), 1),
    "more states than columns": (np.random.default_rng(1).normal(size=(40, 1)), None, 3),
    "a constant column": (np.c_[np.arange(30.0) % 7, np.ones(30)], None, 1),
    "a column hardly seen": (
        np.where(np.arange(60).reshape(30, 2) % 2 * (np.arange(30)[:, None] > 1) == 1, np.nan, 1.0)
        * np.arange(60).reshape(30, 2) ** 0.5, None, 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "dtype"), [*zip(HARD, 2 * [np.float64, np.float32], strict=True)])
def test_hard_tables_start_and_climb(name, dtype):
    x, groups, l = HARD[name]
    fit = minorant.fit(StateSpace(n_states=l), x.astype(dtype), groups=groups, max_steps=8)
    assert np.all(np.isfinite(fit.trace.bound))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(fit.model))
    eps = np.finfo(dtype).eps
    assert np.all(np.diff(fit.trace.bound) >= -1e3 * eps * len(x) * x.shape[1])


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="observation has shape .*transition says the states"):
        StateSpace(transition=np.eye(2), observation=np.ones((3, 1)))
    with pytest.raises(ValueError, match="n_states must be"):
        StateSpace()
    with pytest.raises(ValueError, match="held takes the names"):
        StateSpace(n_states=1, held=("speed",))
    with pytest.raises(ValueError, match="are for 3 columns, but the table has 2"):
        minorant.fit(StateSpace(observation=np.ones((3, 1))), np.ones((5, 2)))
    with pytest.raises(ValueError, match="held names transition, so its value must be given"):
        minorant.fit(StateSpace(n_states=1, held=("transition",)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="n_inputs=1; got 0"):
        minorant.fit(StateSpace(n_states=1, n_inputs=1), np.arange(10.0).reshape(5, 2))


def test_float32_agrees_where_noise_is_small():
    rng = np.random.default_rng(3)
    law = truth.random_law(rng, L, D)._replace(R=1e-5 * np.eye(D), P=100.0 * np.eye(L))
    start = np.arange(200) == 0
    x = truth.simulated(rng, law, start, np.zeros((200, 0)))[1]
    model, rows = model_of(law, False), rows_of(x, start)
    (q, _), log_p, expectation, *_ = look(model, rows)
    with jax.enable_x64(False):
        single = jax.tree.map(lambda leaf: leaf.astype(np.float32), (model, rows.values))
        low = Rows(single[1], np.ones(200, np.float32), None, groups=rows.groups)
        (q32, _), log_p32, expectation32, *_ = look(cast(model, np.float32), low)
    away = np.abs(np.asarray(q32.mean, float) - q.mean)
    assert np.max(away / np.sqrt(np.einsum("nii->ni", q.covariance))) < 0.01
    assert abs(float(np.sum(log_p32)) - float(np.sum(log_p))) < 0.02
    assert abs(float(expectation32.bound) - float(expectation.bound)) < 0.1
