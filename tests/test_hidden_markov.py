"""Hidden Markov models: evidence, M-step, structures, gaps, weights, and a published table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth
import truth_chain as slow
from helpers import assert_never_decreases, quick_jit
from truth_chain import INITIAL, TRANSITION, simulate

import minorant
from minorant import datasets, evidence
from minorant._types import Groups, Rows
from minorant.components import Diagonal, Full, Gaussian, Poisson
from minorant.components.priors import Dirichlet
from minorant.models import HiddenMarkov
from minorant.models.base import Expectation
from minorant.models.hidden_markov import ChainStatistics

pytestmark = pytest.mark.usefixtures("float64")


def gaussian_chain(rng: np.random.Generator, d: int = 2, **options) -> HiddenMarkov:
    root = rng.normal(size=(3, d, d))
    covariance = root @ root.transpose(0, 2, 1) / d + 0.5 * np.eye(d)
    component = Gaussian(Full(), 2.0 * rng.normal(size=(3, d)), covariance, np.full(d, 1e-6))
    return HiddenMarkov(component, INITIAL, TRANSITION, n_components=3, **options)


def grouped(values: np.ndarray, lengths, weight=None) -> Rows:
    index = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    start = np.diff(index, prepend=-1) > 0
    seen = ~np.isnan(values)
    weight = np.ones(len(values)) if weight is None else weight
    return Rows(
        np.where(seen, values, 0.0), weight, seen, groups=Groups(start, index, len(lengths))
    )


def true_scores(model: HiddenMarkov, values: np.ndarray) -> np.ndarray:
    component = model.component
    return np.array(
        [
            [
                truth.normal_log_density(x, component.mean[j], component.covariance[j])
                for x in values
            ]
            for j in range(model.n_components)
        ]
    )


def test_evidence_and_posterior_with_gaps_equal_enumeration():
    rng = np.random.default_rng(0)
    model = gaussian_chain(rng)
    values = 2.0 * rng.normal(size=(9, 2))
    values[[1, 4], 0] = np.nan
    values[[2, 6]] = np.nan  # whole steps
    lengths = [4, 1, 4]
    rows = grouped(values, lengths)
    prepared = model.prepare()
    found = quick_jit(lambda rows: model.log_evidence(rows, prepared))(rows)
    q = quick_jit(lambda rows: model.posterior(rows, prepared))(rows)
    scores = true_scores(model, values)
    for block in slow.sequences(rows.groups.start):
        one, _, total = slow.marginals(INITIAL, TRANSITION, scores[:, block])
        np.testing.assert_allclose(found[block].sum(), total, rtol=1e-10)
        np.testing.assert_allclose(q.probability[:, block], one, atol=1e-10)


def test_one_pass_equals_its_parts_and_weights_are_copies_of_sequences():
    rng = np.random.default_rng(1)
    model, values = gaussian_chain(rng), 2.0 * rng.normal(size=(12, 2))
    lengths, weights = [5, 3, 4], [2.0, 1.0, 3.0]
    rows = grouped(values, lengths, np.repeat(weights, lengths))
    parts = np.split(values, np.cumsum(lengths)[:-1])
    copies = [part for part, w in zip(parts, weights, strict=True) for _ in range(int(w))]
    copied = grouped(np.concatenate(copies), [len(part) for part in copies])

    def parted(rows):
        prepared = model.prepare()
        q = model.posterior(rows, prepared)
        bound = (rows.weight * model.log_evidence(rows, prepared)).sum()
        return Expectation(bound, model.statistics(rows, q, prepared))

    whole = quick_jit(lambda rows: model.expectation(rows, model.prepare()))
    one, two, three = whole(rows), quick_jit(parted)(rows), whole(copied)
    for other in (two, three):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), one, other)


def test_the_m_step_maximises_the_expected_log_joint():
    """Shares of expected counts, by brute force over random transitions."""
    rng = np.random.default_rng(2)
    pairs, first = rng.uniform(0.1, 3.0, (3, 3)), rng.uniform(0.1, 3.0, 3)
    model = HiddenMarkov(Poisson(np.ones((3, 1))), INITIAL, TRANSITION, n_components=3)
    rows = Rows(np.ones((3, 1)), np.ones(3))
    component = model.component.statistics(rows, np.eye(3), None)

    def value(initial, transition):
        return (first * np.log(initial)).sum() + (pairs * np.log(transition)).sum()

    new = model.maximise(ChainStatistics(first, pairs, component))
    best = value(np.asarray(new.initial), np.asarray(new.transition))
    for _ in range(500):
        assert best >= value(rng.dirichlet(50 * new.initial), rng.dirichlet(np.ones(3), size=3))
    near = np.array([rng.dirichlet(1e4 * row) for row in np.asarray(new.transition)])
    assert best >= value(np.asarray(new.initial), near)


def test_dirichlet_priors_add_to_the_counts():
    first, pairs = np.array([1.0, 2.0, 0.0]), np.arange(9.0).reshape(3, 3)
    concentration = 1.0 + np.eye(3)
    model = HiddenMarkov(
        Poisson(np.ones((3, 1))),
        INITIAL,
        TRANSITION,
        initial_prior=Dirichlet(np.asarray(2.0)),
        transition_prior=Dirichlet(concentration),
        n_components=3,
    )
    rows = Rows(np.ones((3, 1)), np.ones(3))
    component = model.component.statistics(rows, np.eye(3), None)
    new = model.maximise(ChainStatistics(first, pairs, component))
    np.testing.assert_allclose(new.initial, (first + 1.0) / 6.0)
    wanted = (pairs + np.eye(3)) / (pairs + np.eye(3)).sum(1, keepdims=True)
    np.testing.assert_allclose(new.transition, wanted)
    total = np.log(INITIAL).sum() + np.log(np.diag(TRANSITION)).sum()
    np.testing.assert_allclose(model.log_prior(), total)


# --- Zucchini & MacDonald's earthquakes -------------------------------------------------------

# Zucchini & MacDonald (2009), table 3.1 and section 3.2 (stationary), section 4.3 (by EM): rates,
# transition, minus log-likelihood, as printed.
STATIONARY = {
    2: ([15.472, 26.125], [[0.934, 0.066], [0.128, 0.872]], 342.3183),
    3: (
        [13.146, 19.721, 29.714],
        [[0.955, 0.024, 0.021], [0.050, 0.899, 0.051], [0.000, 0.197, 0.803]],
        329.4603,
    ),
}
FREE = {3: ([13.134, 19.713, 29.710], 328.5275)}


def earthquakes(k: int, stationary: bool):
    counts = datasets.load("earthquakes")["count"][:, None]
    model = HiddenMarkov(Poisson(), stationary=stationary, n_components=k)
    fit = minorant.fit(model, counts, tolerance=1e-13, progress=False)
    order = np.argsort(fit.model.component.rate[:, 0])
    return fit, fit.model.component.rate[order, 0], fit.model.transition[np.ix_(order, order)]


@pytest.mark.slow
@pytest.mark.parametrize("k", STATIONARY)
def test_published_estimates_of_the_earthquakes_stationary(k):
    fit, rates, transition = earthquakes(k, True)
    wanted_rates, wanted_transition, minus = STATIONARY[k]
    assert fit.outcome.ok
    np.testing.assert_allclose(rates, wanted_rates, atol=5.1e-4)
    np.testing.assert_allclose(transition, wanted_transition, atol=6e-4)
    np.testing.assert_allclose(-fit.bound, minus, atol=5.1e-5)
    assert fit.n_parameters == k + k * (k - 1)


@pytest.mark.slow
@pytest.mark.parametrize("k", FREE)
def test_published_estimates_of_the_earthquakes_by_em(k):
    fit, rates, _ = earthquakes(k, False)
    assert fit.outcome.ok
    np.testing.assert_allclose(rates, FREE[k][0], atol=5.1e-4)
    np.testing.assert_allclose(-fit.bound, FREE[k][1], atol=5.1e-5)
    np.testing.assert_allclose(fit.model.initial.max(), 1.0, atol=1e-6)


# --- whole fits -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sequences() -> tuple:
    """Three regimes, 40 sequences of unequal length, gaps, and the fit of them."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 40, size=40)
    lengths[:2] = 1
    parts = [simulate(rng, n) for n in lengths]
    states, values = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    values = values[:, None].copy()
    values[rng.random(len(values)) < 0.1] = np.nan
    groups = np.repeat([f"patient {i}" for i in range(40)], lengths)
    with jax.enable_x64(True):
        model = HiddenMarkov(Gaussian(Diagonal()), n_components=3)
        fit = minorant.fit(model, values, groups=groups, progress=False)
    return states, values, groups, fit


def test_a_fit_of_ragged_sequences_with_gaps_finds_the_regimes(sequences):
    states, values, groups, fit = sequences
    order = np.argsort(fit.model.component.mean[:, 0])
    np.testing.assert_allclose(fit.model.component.mean[order, 0], [0, 4, 8], atol=0.3)
    np.testing.assert_allclose(fit.model.transition[np.ix_(order, order)], TRANSITION, atol=0.12)
    place = np.argsort(order)
    assert np.mean(place[fit.labels(values, groups=groups)] == states) > 0.93
    np.testing.assert_allclose(fit.log_evidence(values, groups=groups).sum(), fit.bound)
    assert_never_decreases(fit.trace.objective, 1e-8 * abs(fit.bound))


def test_shuffled_sequences_give_the_same_answers(sequences):
    _, values, groups, fit = sequences
    order = np.argsort(
        np.random.default_rng(4).random(40)[np.unique(groups, return_inverse=True)[1]],
        kind="stable",
    )
    plain = np.asarray(fit.posterior(values, groups=groups).log_probability)
    moved = np.asarray(fit.posterior(values[order], groups=groups[order]).log_probability)
    np.testing.assert_allclose(np.exp(moved), np.exp(plain[:, order]), atol=1e-12)


def test_paths_filters_and_forecasts(sequences):
    _, values, groups, fit = sequences
    model = fit.model
    longest = groups == max(set(groups), key=list(groups).count)
    own = values[longest][:12]
    scores = true_scores(
        HiddenMarkov(
            Gaussian(Full(), model.component.mean, model.component.covariance[:, :, None]),
            n_components=3,
        ),
        own,
    )
    best, joint = slow.viterbi(model.initial, model.transition, scores)
    path = evidence.path(fit, own)
    np.testing.assert_array_equal(path, best)
    np.testing.assert_allclose(evidence.log_joint(fit, own, path).sum(), joint, rtol=1e-9)
    start = np.arange(len(own)) == 0
    filtered, _ = slow.log_filter(model.initial, model.transition, scores, start)
    np.testing.assert_allclose(evidence.filtered(fit, own).probability, np.exp(filtered), atol=1e-9)
    ahead = evidence.forecast(fit, own, steps=3, draws=4000)
    chances = np.exp(filtered[:, -1])
    for h in range(3):
        chances = chances @ model.transition
        np.testing.assert_allclose(ahead.states[h], chances, atol=1e-9)
        np.testing.assert_allclose(ahead.mean[h], chances @ model.component.mean, rtol=1e-8)
    assert (ahead.lower < ahead.mean).all()
    assert (ahead.mean < ahead.upper).all()


def test_a_missing_step_is_filled_from_its_neighbours(sequences):
    _, values, groups, fit = sequences
    filled = fit.impute(values, groups=groups)
    missing = np.isnan(values[:, 0])
    chances = fit.posterior(values, groups=groups).probability
    wanted = chances.T @ fit.model.component.mean
    np.testing.assert_allclose(filled[missing], wanted[missing], rtol=1e-6)


def test_standard_errors_are_those_of_the_evidence(sequences):
    _, values, groups, fit = sequences
    errors = fit.standard_errors(values, groups=groups)
    spread = np.asarray(errors.model.component.mean)[:, 0]
    held = np.exp(fit.posterior(values, groups=groups).log_probability)[:, ~np.isnan(values[:, 0])]
    rough = np.sqrt(fit.model.component.covariance[:, 0] / held.sum(1))
    assert (spread > 0.95 * rough).all()
    assert (spread < 1.5 * rough).all()


def test_draws_have_the_chain_s_frequencies():
    model = gaussian_chain(np.random.default_rng(12), d=1)
    draw = jax.jit(lambda model, key: model.sample(key, 20_000))
    states, rows = draw(model, jax.random.key(0))
    states = np.asarray(states)
    counts = np.zeros((3, 3))
    np.add.at(counts, (states[:-1], states[1:]), 1.0)
    error = np.sqrt(TRANSITION * (1 - TRANSITION) / counts.sum(1, keepdims=True))
    assert (np.abs(counts / counts.sum(1, keepdims=True) - TRANSITION) <= 4.5 * error).all()
    for j in range(3):
        own = np.asarray(rows)[states == j, 0]
        assert abs(own.mean() - model.component.mean[j, 0]) < 4.5 * own.std() / np.sqrt(len(own))
    assert jnp.ndim(rows) == 2
