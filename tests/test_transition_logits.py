"""Transitions by inputs: against enumeration, slow loops, a twin, and the truth of simulations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth_moves as slow
from helpers import assert_never_decreases, quick_jit
from scipy import optimize, stats
from truth_chain import INITIAL, TRANSITION, sequences

import minorant
from minorant import evidence
from minorant._types import Groups, Rows
from minorant.components import Diagonal, Gaussian, Poisson
from minorant.estimators import PoissonHMM
from minorant.models import Allowed, HiddenMarkov, LeftRight, TiedRows, TransitionLogits
from minorant.models.transition_logits import move_sums
from minorant.posteriors._moves import Moves

pytestmark = pytest.mark.usefixtures("float64")
MEANS = np.array([[-2.0], [0.0], [2.0]])


def model_of(coefficients, structure=None, initial=INITIAL, ridge=0.0) -> HiddenMarkov:
    component = Gaussian(Diagonal(), MEANS, np.ones((3, 1)), np.full(1, 1e-6))
    q = coefficients.shape[2] - 1
    logits = TransitionLogits(q, coefficients, ridge)
    options = {} if structure is None else {"structure": structure}
    return HiddenMarkov(component, initial, logits, n_components=3, **options)


def rows_of(values, inputs, lengths, length=None) -> Rows:
    index = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    start = np.diff(index, prepend=-1) > 0
    groups = Groups(start, index, len(lengths), length)
    return Rows(values, np.ones(len(values)), groups=groups, inputs=inputs)


def problem(lengths, seed=0, spread=1.0, structure=None, initial=INITIAL):
    """A model with any coefficients, its rows, and the truth's moves and scores."""
    rng, n = np.random.default_rng(seed), int(np.sum(lengths))
    coefficients = spread * rng.normal(size=(3, 3, 3))
    coefficients[np.arange(3), np.arange(3)] = 0.0
    allowed = None if structure is None else structure.allowed(3)
    if allowed is not None:
        coefficients = coefficients * allowed[..., None]
    inputs, values = rng.normal(size=(n, 2)), 2.0 * rng.normal(size=(n, 1))
    moves = slow.probabilities(coefficients, inputs, allowed)
    scores = stats.norm.logpdf(values[:, 0], MEANS)
    model = model_of(coefficients, structure, initial)
    return model, rows_of(values, inputs, lengths), moves, scores


@quick_jit
def answers(model, rows):
    prepared = model.prepare()
    q = model.posterior(rows, prepared)
    found = (q.probability, model.log_evidence(rows, prepared), q.path())
    expectation = model.expectation(rows, prepared)
    states = q.sample(jax.random.key(0))
    joint = model.log_joint(rows, states).sum() - q.log_density(states).sum()
    return found, expectation, model.statistics(rows, q, prepared), joint


@pytest.mark.parametrize("structure", [None, Allowed([[1, 1, 0], [0, 1, 1], [1, 0, 1]])])
def test_small_chains_equal_enumeration(structure):
    model, rows, moves, scores = problem([4, 1, 5], structure=structure)
    (probability, log_p, path), whole, parted, joint = answers(model, rows)
    pairs = np.zeros((10, 3, 3))
    for block in sequences(rows.groups.start):
        truth = slow.enumerated(INITIAL, moves[block], scores[:, block])
        np.testing.assert_allclose(probability[:, block], truth[0], atol=1e-10)
        np.testing.assert_allclose(log_p[block].sum(), truth[2], rtol=1e-10)
        assert tuple(np.asarray(path)[block]) == truth[3]
        pairs[block] = truth[1]
    np.testing.assert_allclose(whole.bound, log_p.sum(), rtol=1e-10)
    np.testing.assert_allclose(joint, whole.bound, rtol=1e-10)  # p(x, z) / q(z) = p(x)
    side = np.column_stack([np.ones(10), rows.inputs])
    rest = pairs - pairs.sum(2, keepdims=True) * moves
    for sums in (whole.statistics.pairs, parted.pairs):
        np.testing.assert_allclose(sums.pairs, pairs.sum(0), atol=1e-10)
        np.testing.assert_allclose(sums.slope, np.einsum("tij,tq->ijq", rest, side), atol=1e-10)


LONG = {"one": [3000], "ragged": [1, 700, 2, 1500, 40]}


@pytest.mark.parametrize(("name", "spread"), [("one", 1.0), ("ragged", 1.0), ("one", 6.0)])
def test_lanes_equal_one_loop_over_all_rows(name, spread):
    model, rows, moves, scores = problem(LONG[name], 1, spread)
    (probability, log_p, path), whole, _, joint = answers(model, rows)
    one, two, scale = slow.smoother(INITIAL, moves, scores, rows.groups.start)
    np.testing.assert_allclose(probability, one, atol=1e-9)
    np.testing.assert_allclose(log_p, scale, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(whole.statistics.pairs.pairs, two.sum(0), rtol=1e-8)
    np.testing.assert_allclose(joint, whole.bound, rtol=1e-9)
    for block in sequences(rows.groups.start):
        own = slow.viterbi(INITIAL, moves[block], scores[:, block])
        np.testing.assert_array_equal(np.asarray(path)[block], own)


def test_products_that_underflow_are_done_again_with_logarithms():
    structure = LeftRight()
    first = np.array([1.0, 0.0, 0.0])
    model, rows, moves, _ = problem([600], 2, structure=structure, initial=first)
    values = rows.values.copy()
    values[[1, 2, 3, 4, 300, 301], 0] = 400.0, -400.0, 400.0, -400.0, -400.0, 400.0
    rows = rows_of(values, rows.inputs, [600])
    scores = stats.norm.logpdf(values[:, 0], MEANS)
    (probability, log_p, _), whole, _, _ = answers(model, rows)
    one, two, scale = slow.smoother(first, moves, scores, rows.groups.start)
    np.testing.assert_allclose(probability, one, atol=1e-9)
    np.testing.assert_allclose(log_p, scale, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(whole.statistics.pairs.pairs, two.sum(0), atol=1e-8)


def test_without_slopes_it_is_the_chain_of_one_transition():
    _, rows, _, _ = problem([300, 200])
    odds = np.log(TRANSITION / np.diag(TRANSITION)[:, None])
    model = model_of(np.concatenate([odds[..., None], np.zeros((3, 3, 2))], 2))
    plain = HiddenMarkov(model.component, INITIAL, TRANSITION, n_components=3)
    whole = answers(model, rows)[1]
    bare = Rows(rows.values, rows.weight, groups=rows.groups)
    other = quick_jit(lambda rows: plain.expectation(rows, plain.prepare()))(bare)
    np.testing.assert_allclose(whole.bound, other.bound, rtol=1e-12)
    np.testing.assert_allclose(whole.statistics.pairs.pairs, other.statistics.pairs, rtol=1e-9)


# --- the M-step -------------------------------------------------------------------------------

# Mean and spread of the inputs, structure, ridge, size of the coefficients to start from.
SCENES = {
    "plain": (0.0, 1.0, None, 0.0, 0.0),
    "started far off": (0.0, 1.0, None, 0.0, 3.0),
    "far from centred": (300.0, 1.0, None, 0.0, 0.0),
    "wide": (0.0, 200.0, None, 0.0, 0.03),
    "ridge": (0.0, 1.0, None, 2.0, 0.0),
    "zeros": (1.0, 2.0, Allowed([[1, 1, 0], [1, 0, 1], [1, 1, 1]]), 0.1, 0.0),
    "tied": (0.5, 1.0, TiedRows((0, 1, 1)), 0.0, 0.0),
}


@quick_jit
def climbed(model, inputs, q, weight):
    """A hundred M-steps for the same expected moves, and the coefficients after each."""
    design = jnp.concatenate([jnp.ones((1, len(inputs))), inputs.T])
    before = jnp.log(jnp.roll(q, 1, axis=1))

    def step(logits, _):
        sums = move_sums(logits.moves(design, 3), before, q, weight, True)
        logits = logits.maximised(sums, None)
        return logits, logits.coefficients

    return jax.lax.scan(step, model.transition, None, length=100)[1]


@pytest.mark.parametrize("name", SCENES)
def test_m_steps_never_lower_and_end_at_the_maximum(name):
    centre, width, structure, ridge, size = SCENES[name]
    rng, n = np.random.default_rng(3), 80
    inputs = centre + width * rng.normal(size=(n, 2))
    q = rng.dirichlet(np.full(3, 0.2), size=n).T
    weight = np.r_[0.0, rng.uniform(0.2, 2.0, n - 1)]
    start = size * rng.normal(size=(3, 3, 3)) * (1.0 - np.eye(3))[..., None]
    model = model_of(start, structure, ridge=ridge)
    path = np.asarray(climbed(model, inputs, q, weight))
    pairs = np.roll(q, 1, axis=1).T[:, :, None] * q.T[:, None, :] * weight[:, None, None]
    allowed = model.structure.allowed(3)
    pairs = pairs * allowed
    own = np.unique(model.structure.tied(3))

    def value(coefficients):
        prior = -0.5 * ridge * (coefficients[own, :, 1:] ** 2).sum()
        return slow.expected_log_moves(coefficients, inputs, pairs, allowed) + prior

    values = [value(start)] + [value(c) for c in [*path[:10], *path[10::9]]]
    assert_never_decreases(values, 1e-9 * abs(values[0]))
    free = model.transition.learned(3)
    assert (path[-1][~free] == 0).all()
    if name not in ("far from centred", "wide"):  # these are on their way for longer
        assert_no_slope(value, path[-1], free, model.structure.tied(3))


def assert_no_slope(value, coefficients, free, tied):
    """No free coefficient, moved with what it is tied to, is worth moving."""
    for i, j in np.argwhere(free & (tied == np.arange(3))[:, None]):
        for a in range(3):
            step = np.zeros_like(coefficients)
            step[tied == i, j, a] = 1e-5
            slope = (value(coefficients + step) - value(coefficients - step)) / 2e-5
            assert abs(slope) < 1e-5, (i, j, a, slope)


# --- whole fits -------------------------------------------------------------------------------

TRUE = np.zeros((2, 2, 2))
TRUE[0, 1], TRUE[1, 0] = [-1.5, 1.2], [-1.0, -0.8]


@pytest.fixture(scope="module")
def season():
    """Two states of counts, moved by one input; 30 sequences of 60 steps, and the fit."""
    rng = np.random.default_rng(5)
    inputs = 20.0 + 5.0 * rng.normal(size=(1800, 1))
    groups = np.repeat(np.arange(30), 60)
    start = np.arange(1800) % 60 == 0
    states = slow.simulate(rng, TRUE, (inputs - 20.0) / 5.0, start)
    values = rng.poisson(np.array([2.0, 9.0])[states])[:, None].astype(float)
    values[rng.random(1800) < 0.05] = np.nan
    with jax.enable_x64(True):
        component = Poisson(np.array([[2.0], [9.0]]))
        model = HiddenMarkov(component, transition=TransitionLogits(1), n_components=2)
        fit = minorant.fit(model, values, groups=groups, inputs=inputs, tolerance=1e-10)
    return values, groups, inputs, fit


def test_a_fit_recovers_what_moved_the_states(season):
    values, groups, inputs, fit = season
    assert fit.outcome.ok
    assert_never_decreases(fit.trace.objective, 1e-9 * abs(fit.bound))
    assert fit.n_parameters == 1 + 4 + 2
    errors = fit.standard_errors(values, groups=groups, inputs=inputs)
    spread = errors.model.transition.coefficients
    wanted = TRUE.copy()
    wanted[..., 1] /= 5.0
    wanted[..., 0] -= 20.0 * wanted[..., 1]
    for i, j in ((0, 1), (1, 0)):
        away = (fit.model.transition.coefficients - wanted)[i, j] / spread[i, j]
        assert (np.abs(away) < 4.0).all(), away
        assert (spread[i, j] > 0).all()
    assert (spread[[0, 1], [0, 1]] == 0).all()
    assert errors.sentence == "Every parameter is identified."


def test_the_fit_is_the_maximum_that_a_slow_ascent_finds(season):
    values, groups, inputs, fit = season
    rows = groups < 4
    start = np.arange(rows.sum()) % 60 == 0
    side = (inputs[rows] - 20.0) / 5.0
    rate, seen = np.array([[2.0], [9.0]]), ~np.isnan(values[rows, 0])
    scores = np.where(seen, stats.poisson.logpmf(np.nan_to_num(values[rows, 0]), rate), 0.0)

    def negative(vector):
        coefficients = np.zeros((2, 2, 2))
        coefficients[0, 1], coefficients[1, 0] = vector[:2], vector[2:4]
        first = 1.0 / (1.0 + np.exp(-vector[4]))
        moves = slow.probabilities(coefficients, side)
        return -slow.smoother(np.array([first, 1 - first]), moves, scores, start)[2].sum()

    best = optimize.minimize(negative, np.zeros(5), method="BFGS", options={"gtol": 1e-4})
    model = HiddenMarkov(Poisson(rate), transition=TransitionLogits(1), n_components=2)
    own = minorant.fit(
        model,
        values[rows],
        groups=groups[rows],
        inputs=side,
        fixed=lambda m: m.component.rate,
        tolerance=1e-12,
    )
    assert own.bound == pytest.approx(-best.fun, abs=1e-5)
    np.testing.assert_allclose(own.model.transition.coefficients[0, 1], best.x[:2], atol=5e-3)
    np.testing.assert_allclose(own.model.transition.coefficients[1, 0], best.x[2:4], atol=5e-3)


def test_questions_about_rows_take_inputs(season, tmp_path):
    values, groups, inputs, fit = season
    rows = groups == 7
    own, side = values[rows], inputs[rows]
    moves = slow.probabilities(fit.model.transition.coefficients, side)
    np.testing.assert_allclose(fit.model.transition.probabilities(side), moves, rtol=1e-10)
    seen = ~np.isnan(own[:, 0])
    rates = fit.model.component.rate
    scores = np.where(seen, stats.poisson.logpmf(np.nan_to_num(own[:, 0]), rates), 0.0)
    start = np.arange(60) == 0
    one, _, scale = slow.smoother(fit.model.initial, moves, scores, start)
    found = fit.posterior(own, inputs=side).probability
    np.testing.assert_allclose(found, one, atol=1e-9)
    np.testing.assert_allclose(fit.log_evidence(own, inputs=side), scale, rtol=1e-8, atol=1e-9)
    path = evidence.path(fit, own, inputs=side)
    np.testing.assert_array_equal(path, slow.viterbi(fit.model.initial, moves, scores))
    joint = evidence.log_joint(fit, own, path, inputs=side).sum()
    assert joint == pytest.approx(slow.log_joint(fit.model.initial, moves, scores, path))
    future = np.array([[5.0], [20.0], [35.0]])
    ahead = evidence.forecast(fit, own, 3, inputs=side, future_inputs=future, draws=4000)
    chances = evidence.filtered(fit, own, inputs=side).probability[:, -1]
    for h, A in enumerate(slow.probabilities(fit.model.transition.coefficients, future)):
        chances = chances @ A
        np.testing.assert_allclose(ahead.states[h], chances, atol=1e-9)
    assert (ahead.lower <= ahead.mean).all()
    minorant.save(fit, tmp_path / "fit")
    again = minorant.load(tmp_path / "fit")
    np.testing.assert_array_equal(again.posterior(own, inputs=side).probability, found)


def test_draws_follow_the_inputs():
    logits = TransitionLogits(1, TRUE)
    model = HiddenMarkov(Poisson(np.array([[1.0], [9.0]])), [0.5, 0.5], logits, n_components=2)
    inputs = np.resize([-2.0, 0.0, 2.0], 30_000)[:, None]
    draw = jax.jit(lambda key: model.continued(key, 30_000, jnp.asarray([0.5, 0.5]), inputs)[0])
    states = np.asarray(draw(jax.random.key(1)))
    for u in (-2.0, 0.0, 2.0):
        A = slow.probabilities(TRUE, np.array([[u]]))[0]
        for i, j in ((0, 1), (1, 0)):
            here = np.flatnonzero((states[:-1] == i) & (inputs[1:, 0] == u)) + 1
            share = (states[here] == j).mean()
            error = np.sqrt(A[i, j] * (1 - A[i, j]) / len(here))
            assert abs(share - A[i, j]) < 4.5 * error


def test_what_cannot_be_is_refused(season):
    values, groups, inputs, fit = season
    with pytest.raises(ValueError, match="n_inputs=1; got 0"):
        fit.posterior(values, groups=groups)
    with pytest.raises(ValueError, match="n_inputs=0; got 1"):
        minorant.fit(HiddenMarkov(Poisson(), n_components=2), values, inputs=inputs)
    logits = TransitionLogits(1)
    with pytest.raises(ValueError, match="stationary needs one transition"):
        HiddenMarkov(Poisson(), transition=logits, stationary=True, n_components=2)
    with pytest.raises(ValueError, match=r"shape \(k, k, 3\) for 2 inputs"):
        TransitionLogits(2, np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="coefficients are of 2 states, not 3"):
        HiddenMarkov(Poisson(), transition=TransitionLogits(1, TRUE), n_components=3)
    with pytest.raises(ValueError, match=r"future_inputs must be finite, shape \(2, 1\)"):
        evidence.forecast(fit, values, 2, groups, inputs=inputs)
    assert isinstance(TransitionLogits(1, TRUE).moves(np.ones((2, 4)), 2), Moves)


def test_the_estimators_take_inputs(season):
    values, groups, inputs, fit = season
    rows = groups < 12
    X, u = np.nan_to_num(values[rows], nan=5.0), inputs[rows]
    start = PoissonHMM(2, n_init=1, random_state=0)
    model = start.fit(X, [60] * 12, inputs=u)
    assert model.transmat_coef_.shape == (2, 2, 2)
    wanted = slow.probabilities(model.transmat_coef_, u.mean(0, keepdims=True))[0]
    np.testing.assert_allclose(model.transmat_, wanted, rtol=1e-9)
    moves = slow.probabilities(model.transmat_coef_, u)
    scores = stats.poisson.logpmf(X[:, 0], model.lambdas_)
    first = np.arange(len(X)) % 60 == 0
    one, _, scale = slow.smoother(model.startprob_, moves, scores, first)
    assert model.score(X, [60] * 12, inputs=u) == pytest.approx(scale.sum(), rel=1e-8)
    np.testing.assert_allclose(model.predict_proba(X, [60] * 12, inputs=u), one.T, atol=1e-8)
    ahead = model.forecast(X, 2, [60] * 12, inputs=u, future_inputs=[[20.0], [25.0]])
    assert ahead.states.shape == (12, 2, 2)
    with pytest.raises(ValueError, match="n_inputs=1; got 0"):
        model.predict(X, [60] * 12)
    with pytest.raises(ValueError, match="transmat_ can be neither given nor held"):
        PoissonHMM(2, params="sl").fit(X, inputs=u)
