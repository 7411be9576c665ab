"""Structures of transitions in whole fits, what is fixed or known, and models that cannot be."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from truth_chain import INITIAL, TRANSITION, simulate

import minorant
from minorant import evidence
from minorant._parameters import count_parameters, fixed_mask, from_vector, to_vector
from minorant._types import Rows
from minorant.components import Blocks, Diagonal, Gaussian, Poisson
from minorant.models import Allowed, HiddenMarkov, LeftRight, TiedRows
from minorant.models.transitions import AllowedSimplex
from minorant.posteriors._chain_logs import log_sum
from minorant.posteriors.chain import relative_likelihood

pytestmark = pytest.mark.usefixtures("float64")


def climbed(model, values, labels=None, fixed=None, steps: int = 30):
    """Plain EM steps from where the model stands; no fit, which takes longer to compile."""
    known = None if labels is None else labels.astype(np.int32)
    rows = Rows(values, np.ones(len(values)), labels=known)
    held = None if fixed is None else fixed_mask(model, fixed)

    @quick_jit
    def climb(model):
        def step(_, at):
            return at.maximise(at.expectation(rows, at.prepare()).statistics, held)

        return jax.lax.fori_loop(0, steps, step, jax.tree.map(jnp.asarray, model))

    return jax.tree.map(np.asarray, climb(model))


def far_apart(**options):
    component = Gaussian(
        Diagonal(), np.array([[0.0], [4.0], [8.0]]), np.ones((3, 1)), np.full(1, 1e-6)
    )
    return HiddenMarkov(component, INITIAL, n_components=3, **options)


def test_left_right_chains_keep_their_zeros_and_their_order():
    rng = np.random.default_rng(6)
    values = np.concatenate([np.repeat([0.0, 5.0, 1.0], rng.integers(3, 9, 3)) for _ in range(20)])
    ends = np.flatnonzero(np.diff(values, prepend=1.0) == -1.0)
    start = np.isin(np.arange(len(values)), ends)
    groups = np.cumsum(start)
    values = values[:, None] + 0.5 * rng.normal(size=(len(values), 1))
    model = HiddenMarkov(Gaussian(Diagonal()), structure=LeftRight(), n_components=3)
    fit = minorant.fit(model, values, groups=groups, progress=False, tolerance=1e-5)
    assert fit.outcome.ok
    transition = fit.model.transition
    assert (transition[~LeftRight().allowed(3)] == 0.0).all()
    np.testing.assert_array_equal(fit.model.initial, [1.0, 0.0, 0.0])
    np.testing.assert_allclose(fit.model.component.mean[:, 0], [0.0, 5.0, 1.0], atol=0.3)
    assert fit.n_parameters == 2 + 6


def test_zeros_given_in_the_transition_stay_zero_without_nan():
    rng = np.random.default_rng(7)
    _, values = simulate(rng, 300)
    cycle = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]])
    fit = minorant.fit(far_apart(transition=cycle), values[:, None], progress=False, tolerance=1e-5)
    assert fit.outcome.ok
    assert (fit.model.transition[cycle == 0] == 0.0).all()
    assert np.isfinite(fit.model.transition).all()
    marked = far_apart(transition=cycle, structure=Allowed(cycle))
    assert count_parameters(marked) == count_parameters(fit.model) - 3
    vector = to_vector(marked)
    np.testing.assert_array_equal(from_vector(marked, vector).transition[cycle == 0], 0.0)


def test_tied_rows_are_one_row():
    rng = np.random.default_rng(8)
    _, values = simulate(rng, 200)
    model = far_apart(transition=np.full((3, 3), 1 / 3), structure=TiedRows((0, 1, 1)))
    found = climbed(model, values[:, None])
    np.testing.assert_allclose(found.transition[1], found.transition[2], rtol=1e-12)
    assert np.abs(found.transition[0] - found.transition[1]).max() > 0.1
    assert count_parameters(found) == 2 + 4 + 6


def test_fixed_entries_of_the_transition_are_held():
    rng = np.random.default_rng(9)
    _, values = simulate(rng, 200)
    model = far_apart(transition=TRANSITION)
    found = climbed(
        model,
        values[:, None],
        fixed=lambda m: (minorant.Hold(m.transition, np.eye(3, dtype=bool)), m.initial),
    )
    np.testing.assert_allclose(np.diag(found.transition), np.diag(TRANSITION), rtol=1e-12)
    np.testing.assert_array_equal(found.initial, INITIAL)
    np.testing.assert_allclose(found.transition.sum(1), 1.0, rtol=1e-12)
    assert np.abs(found.transition - TRANSITION).max() > 0.01


def test_known_states_are_obeyed():
    rng = np.random.default_rng(10)
    states, values = simulate(rng, 120, means=(0.0, 0.5, 1.0))
    known = np.where(rng.random(120) < 0.5, states, -1)
    model = climbed(far_apart(transition=TRANSITION), values[:, None], labels=known, steps=5)
    rows = Rows(values[:, None], np.ones(120), labels=known.astype(np.int32))
    q = quick_jit(lambda rows: model.posterior(rows, model.prepare()))(rows)
    held = known >= 0
    assert (np.asarray(q.probability)[known[held], np.flatnonzero(held)] > 1 - 1e-12).all()


def test_a_state_that_is_never_visited_keeps_its_row_and_is_named():
    values = np.r_[np.zeros(30), np.full(30, 5.0)][:, None] + np.resize([0.1, -0.1], 60)[:, None]
    component = Gaussian(Diagonal(), np.array([[0.0], [5.0], [900.0]]), np.full((3, 1), 0.5))
    model = HiddenMarkov(component, INITIAL, TRANSITION, n_components=3)
    fit = minorant.fit(model, values, progress=False, fixed=lambda m: m.component.covariance)
    np.testing.assert_allclose(fit.model.transition[2], TRANSITION[2], rtol=1e-9)
    assert fit.outcome.name == "DEGENERATE"
    assert [(d.component, d.kind) for d in fit.degenerate] == [(2, "is empty")]


def test_blocks_of_columns_as_emissions():
    rng = np.random.default_rng(11)
    states, values = simulate(rng, 300)
    table = np.c_[values, rng.poisson(np.array([2.0, 8.0, 20.0])[states])]
    parts = Blocks((Gaussian(Diagonal()), Poisson()), ((0,), (1,)))
    fit = minorant.fit(HiddenMarkov(parts, n_components=3), table, progress=False, tolerance=1e-5)
    assert fit.outcome.ok
    found = np.sort(np.asarray(fit.model.component.parts[1].rate)[:, 0])
    np.testing.assert_allclose(found, [2, 8, 20], rtol=0.15)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"transition": [[1.0, 0.0], [0.0, 0.0]]}, "transition row 1 is all zero"),
        ({"transition": [[1.0, 0.2], [0.5, 0.5]]}, "transition row 0 must be probabilities"),
        ({"initial": [0.5, 0.6]}, "initial must be probabilities that sum to 1"),
        ({"initial": [1.0]}, "initial must have shape"),
        ({"initial": [0.5, 0.5], "structure": LeftRight()}, "does not allow"),
        ({"structure": Allowed([[1]])}, "moves is for 1 states"),
        ({"n_components": 0}, "n_components must be an integer of at least 1"),
    ],
)
def test_bad_models_are_refused_with_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        HiddenMarkov(Gaussian(), **{"n_components": 2, **options})


def test_structures_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="allows nothing out of state 1"):
        Allowed([[1, 1], [0, 0]])
    with pytest.raises(ValueError, match="jump must be at least 1"):
        LeftRight(0)


def test_the_states_are_drawn_over_the_series():
    values = np.tile(np.r_[np.zeros(6), np.full(6, 9.0)], 3) + np.resize([0.1, -0.1], 36)
    component = Gaussian(Diagonal(), np.array([[0.0], [9.0]]), np.ones((2, 1)))
    model = HiddenMarkov(component, [0.5, 0.5], [[0.8, 0.2], [0.2, 0.8]], n_components=2)
    fit = minorant.fit(model, values[:, None], progress=False)
    above, below = minorant.plots.states(fit, values[:, None], steps=3, times=np.arange(1990, 2026))
    np.testing.assert_array_equal(above.lines[0].get_ydata(), values)
    assert len(above.patches) == 6
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["state 0", "state 1"]
    assert above.get_xlim()[1] > 2027.5
    np.testing.assert_allclose(sum(line.get_ydata() for line in below.lines[1:3]), 1.0)
    with pytest.raises(ValueError, match="column must be between 0 and 0"):
        minorant.plots.states(fit, values[:, None], column=1)
    with pytest.raises(ValueError, match="times must have one number for each of 36 rows"):
        minorant.plots.states(fit, values[:, None], times=[1.0])


def test_a_climb_on_rows_that_cannot_be_ends_with_a_sentence_that_names_the_first():
    stuck = far_apart(transition=np.eye(3))
    values, groups = np.zeros((10, 1)), np.repeat(["a", "b"], [4, 6])
    labels = np.full(10, -1)
    labels[[4, 6]] = 0, 1
    said = r"Row 6 \(step 2 of its sequence, from 0\) has probability zero in every state"
    with pytest.raises(minorant.FitError, match=said) as raised:
        minorant.fit(stuck, values, groups=groups, labels=labels, throw=True)
    fit = raised.value.fit
    assert fit.outcome.name == "NON_FINITE"
    assert [(d.component, d.rows) for d in fit.degenerate] == [(-1, (6,))]
    assert re.match(said, evidence.impossible(fit, values, groups, labels))


def test_rows_of_equal_coordinates_have_the_softmax_s_derivatives():
    """Where the largest is tied, and where moves are not allowed: ``diag(p) - p p'``."""
    allowed = ((True, True, False), (True, True, True), (False, True, False))
    structure = AllowedSimplex(allowed)

    @quick_jit
    def derivatives(free):
        bend = jax.jacfwd(jax.jacrev(structure.value))(free)
        return structure.value(free), jax.jacrev(structure.value)(free), bend

    p, slope, bend = (np.asarray(leaf) for leaf in derivatives(np.zeros((3, 3))))
    np.testing.assert_allclose(p, np.array(allowed) / np.sum(allowed, 1, keepdims=True))
    first = np.einsum("ia,ab->iab", p, np.eye(3)) - p[:, :, None] * p[:, None]
    d = np.eye(3)
    second = np.einsum("iac,ab->iabc", first, d) - np.einsum("iac,ib->iabc", first, p)
    second -= np.einsum("ia,ibc->iabc", p, first)
    for i in range(3):
        np.testing.assert_allclose(slope[i, :, i], first[i], atol=1e-15)
        np.testing.assert_allclose(bend[i, :, i, :, i], second[i], atol=1e-15)
        assert np.delete(slope[i], i, axis=1).max(initial=0.0) == 0.0


def test_rows_that_states_tell_alike_share_the_derivative():
    """Ties of the largest score, a state that is impossible, a row that no state allows."""
    never = -np.inf
    scores = np.array([[0.0, never, never], [0.0, 1.0, never]])

    @quick_jit
    def slopes(scores):
        def total(scores):
            return log_sum(scores, 0).sum()

        def shifted(scores):
            likelihood, top = relative_likelihood(scores)
            whole = likelihood.sum(0)
            safe = jnp.where(whole > 0, whole, 1.0)
            return jnp.where(whole > 0, jnp.log(safe) + top, 0.0).sum()

        return jax.grad(shifted)(scores), jax.grad(total)(scores[:, :2])

    expected = np.array([[0.5, 0.0, 0.0], [0.5, 1.0, 0.0]])
    by_parts, by_logs = slopes(scores)
    np.testing.assert_allclose(by_parts, expected, atol=1e-15)
    np.testing.assert_allclose(by_logs, expected[:, :2], atol=1e-15)
