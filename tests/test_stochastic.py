"""Stochastic ascent: step sizes found, answers repeated, bad steps undone, every end named."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minorant import _config
from minorant.result import Outcome
from minorant.solvers import Ascent
from minorant.solvers._adam import BLOCK, Pace, begun, integer, parted, step_block

TOP = np.array([3.0, -1.0, 0.5])


@pytest.fixture(autouse=True)
def _double():
    with _config.precision(np.dtype(np.float64)):
        yield


class Hill(eqx.Module):
    """A quadratic hill seen through noise; its own gradient's noise stays at the top."""

    top: Any
    curvature: Any
    noise: float = eqx.field(static=True, default=1.0)

    def __call__(self, point, key):
        slope = self.noise * jax.random.normal(key, point.shape)
        return self.height(point) + jnp.sqrt(self.curvature) @ (slope * (point - self.top))

    def height(self, point):
        return -0.5 * jnp.sum(self.curvature * (point - self.top) ** 2)


def hill(scale=1.0, noise=1.0):
    return Hill(TOP, scale * np.array([0.2, 1.0, 5.0]), noise)


@pytest.fixture(scope="module")
def found():
    with _config.precision(np.dtype(np.float64)):
        return Ascent(accuracy=0.01).climb(hill(), np.zeros(3), jax.random.key(0))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_it_reaches_the_top_whatever_the_units(scale):
    case = Hill(TOP / np.sqrt(scale), hill(scale).curvature)
    answer = Ascent(accuracy=0.01).climb(case, np.zeros(3), jax.random.key(0))
    assert answer.outcome is Outcome.CONVERGED, answer.sentence
    assert case.height(answer.parameters) > -0.02
    assert case.height(np.zeros(3)) < -2


def test_the_answer_is_one_of_fresh_draws(found):
    assert abs(found.value.value - hill().height(found.parameters)) < 5 * found.value.standard_error
    assert 0 < found.value.standard_error < 0.1
    assert found.trace[-1] > found.trace[0] - 1
    assert BLOCK * len(found.trace) <= found.steps


def test_the_same_seed_gives_the_same_answer(found):
    again = Ascent(accuracy=0.01).climb(hill(), np.zeros(3), jax.random.key(0))
    assert np.array_equal(again.parameters, found.parameters)
    assert again.steps == found.steps
    other = Ascent(accuracy=0.01).climb(hill(), np.zeros(3), jax.random.key(1))
    assert not np.array_equal(other.parameters, found.parameters)


def test_it_is_never_worse_than_its_start():
    answer = Ascent(accuracy=0.01).climb(hill(noise=3.0), TOP, jax.random.key(0))
    assert hill().height(answer.parameters) > -0.05
    assert answer.outcome is Outcome.CONVERGED


def test_blocks_are_adams_steps():
    """Against the algorithm written out in NumPy, without clipping or undoing to do."""
    case, point, size, n = hill(noise=0.3), np.zeros(3), 0.05, 30
    arrays, fixed = parted((case, None))
    key = jax.random.key(5)
    pace = Pace(key, integer(7), integer(n), np.asarray(size))
    state, values = step_block(fixed, arrays, begun(point), pace)
    gradient = jax.jit(jax.grad(lambda at, key: case(at, key)))
    first, second, average = np.zeros(3), np.zeros(3), point
    for t in range(n):
        g = np.asarray(gradient(point, jax.random.fold_in(key, 7 + t)))
        average = average + 4 / (t + 4) * (point - average)
        first, second = 0.9 * first + 0.1 * g, 0.99 * second + 0.01 * g**2
        step = first / (1 - 0.9 ** (t + 1)) / (np.sqrt(second / (1 - 0.99 ** (t + 1))) + 1e-8)
        point = point + size * step
    np.testing.assert_allclose(state.point, point, atol=1e-9)
    np.testing.assert_allclose(state.average, average, atol=1e-9)
    assert np.isfinite(values[:n]).all()
    assert np.isnan(values[n:]).all()
    assert int(state.refused) == 0


def cliff(point, key):
    """A hill whose top is a short step from where nothing is defined."""
    height = -((point - 1.0) ** 2) + 0.1 * jax.random.normal(key) * (point - 1.0)
    return jnp.where(point < 1.05, height, jnp.nan)


def test_steps_that_are_not_finite_are_undone():
    answer = Ascent(accuracy=1e-3).climb(cliff, np.asarray(-2.0), jax.random.key(0))
    assert answer.n_refused > 0
    assert answer.outcome is Outcome.CONVERGED, answer.sentence
    assert float(answer.parameters) == pytest.approx(1.0, abs=0.1)


def test_a_start_that_is_not_finite_is_named():
    answer = Ascent().climb(cliff, np.asarray(2.0), jax.random.key(0))
    assert answer.outcome is Outcome.NON_FINITE
    assert "not finite at the start" in answer.sentence
    assert answer.steps == 0


def test_it_gives_up_where_hardly_any_step_is_finite():
    def rarely(point, key):
        return jnp.where(jax.random.uniform(key) < 0.3, -(point**2), jnp.inf)

    answer = Ascent().climb(rarely, np.asarray(1.0), jax.random.key(0))
    assert answer.outcome is Outcome.NON_FINITE
    assert np.isfinite(answer.parameters)
    assert "undone" in answer.sentence or "start" in answer.sentence


def test_budgets_end_it():
    far = Ascent(accuracy=1e-6, max_steps=730).climb(hill(), np.zeros(3), jax.random.key(0))
    assert far.outcome is Outcome.STEP_LIMIT
    assert far.steps == 730
    assert "max_steps" in far.sentence
    short = Ascent(seconds=1e-3).climb(hill(), np.zeros(3), jax.random.key(0))
    assert short.outcome is Outcome.STEP_LIMIT
    assert "time limit" in short.sentence
    assert short.steps < 200


def test_a_judge_chooses_and_stops():
    """An objective without a top, and a judge that has one."""

    def objective(point, key):
        return point + 0.1 * jax.random.normal(key) * point

    answer = Ascent(accuracy=1e-3).climb(
        objective, np.asarray(0.0), jax.random.key(0), judge=lambda at: -((at - 4.0) ** 2)
    )
    assert answer.outcome is Outcome.CONVERGED
    assert float(answer.parameters) == pytest.approx(4.0, abs=1.0)  # it looks once in a block
    assert answer.value.value == pytest.approx(-((float(answer.parameters) - 4.0) ** 2))
    assert answer.value.standard_error == 0
    assert np.all(np.diff(answer.trace) >= 0)


def test_all_but_float_arrays_stay(found):
    start = {"at": np.zeros(3), "count": np.arange(2), "name": "hill", "none": None}

    def objective(tree, key):
        return hill()(tree["at"], key) + 0.0 * tree["count"].sum()

    answer = Ascent(accuracy=0.01).climb(objective, start, jax.random.key(0))
    assert answer.parameters["name"] == "hill"
    assert np.array_equal(answer.parameters["count"], [0, 1])
    np.testing.assert_allclose(answer.parameters["at"], found.parameters, atol=1e-8)


class Counted(eqx.Module):
    """An objective that holds data and counts how often it is traced."""

    data: Any
    seen: Any = eqx.field(static=True)

    def __call__(self, point, key):
        self.seen.append(1)
        return -jnp.mean((self.data - point) ** 2) + 0.01 * jax.random.normal(key)


class Seen(list):
    """A list that is compared by identity, as what is static must be."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other


def test_other_data_need_no_compiling():
    seen = Seen()
    for shift in (0.0, 2.0):
        case = Counted(np.arange(4.0) + shift, seen)
        answer = Ascent().climb(case, np.asarray(0.0), jax.random.key(0))
        assert float(answer.parameters) == pytest.approx(1.5 + shift, abs=0.15)
        first = len(seen) if shift == 0 else first  # noqa: F821
    assert len(seen) == first > 0


def test_watching_may_end_it():
    looks = []

    def watch(steps, value):
        looks.append((steps, value))
        return len(looks) < 2

    answer = Ascent().climb(hill(), np.zeros(3), jax.random.key(0), watch=watch)
    assert answer.outcome is Outcome.INTERRUPTED
    assert len(looks) == 2
    assert answer.steps == looks[-1][0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Ascent(accuracy=0.0), "accuracy must be above 0"),
        (lambda: Ascent(max_steps=0), "max_steps"),
        (lambda: Ascent(seconds=-1.0), "seconds"),
        (lambda: Ascent(step_sizes=(0.1, 0.2)), "decreasing"),
        (lambda: Ascent().climb(hill(), {"a": 1}, jax.random.key(0)), "no array of floats"),
        (
            lambda: Ascent().climb(lambda at, key: at, np.zeros(2), jax.random.key(0)),
            r"must return one number.*shape \(2,\)",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
