"""Latent trait models against textbook formulae, SciPy's integrals, and the gradient."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth_quadrature as truth
from helpers import assert_never_decreases, quick_jit, rounding, rows_of
from trait_scenes import CURVE, KINDS, PATTERN, lsat, simulated, slow_log_joint

import minorant
from minorant._parameters import from_vector, to_vector
from minorant._types import Rows
from minorant.models import (
    GeneralizedPartialCredit,
    GradedResponse,
    ItemPrior,
    LatentTrait,
    PartialCredit,
    ThreeParameter,
    TwoParameter,
)
from minorant.models._trait_scale import default_rule
from minorant.posteriors import Adaptive, Grid
from minorant.solvers import QuasiNewton


def mixed_model(rule, n_groups=1):
    mean = np.array([[0.0], [0.7]])[:n_groups]
    covariance = np.array([[[1.3]], [[0.6]]])[:n_groups]
    return LatentTrait(tuple(KINDS.values()), mean, covariance, n_groups=n_groups, rule=rule)


def mixed_answers(n=8):
    rng = np.random.default_rng(4)
    tops = [2, 2, 2, 4, 3, 3]
    answers = np.stack([rng.integers(0, top, n) for top in tops], axis=1).astype(float)
    answers[rng.random(answers.shape) < 0.25] = np.nan
    answers[0] = np.nan
    return answers


@pytest.mark.parametrize("kind", KINDS)
def test_curves_and_information_are_the_textbook_s(kind, float64):
    item = KINDS[kind]
    traits = np.linspace(-6, 6, 13)[:, None]
    logs = item.log_probability(jnp.asarray(traits))
    information = item.information(jnp.asarray(traits))
    step = 1e-5
    for j, s in itertools.product(range(logs.shape[1]), range(len(traits))):
        low = {"guessing": item.guessing[j]} if kind == "three" else {}
        own = {"slope": np.asarray(item.slopes)[j], "intercepts": item.intercepts[j], **low}
        chance, above, below = (
            truth.category_probabilities(CURVE.get(kind, kind), traits[s] + move, own)
            for move in (0.0, step, -step)
        )
        np.testing.assert_allclose(np.exp(logs[s, j]), chance, rtol=1e-9)
        slow = (((above - below) / (2 * step)) ** 2 / chance).sum()
        np.testing.assert_allclose(information[s, j, 0, 0], slow, rtol=1e-5)


@pytest.mark.parametrize("rule", [Grid(121, 8.0), Adaptive(41)])
def test_evidence_and_posterior_against_scipy(rule, float64):
    """Every structure at once, missing answers, two groups, and a person who answered nothing."""
    model, answers = mixed_model(rule, 2), mixed_answers()
    group = np.arange(len(answers)) % 2
    rows = dataclasses.replace(rows_of(answers, float), inputs=group[:, None].astype(float))
    found = quick_jit(lambda m, r: m.log_evidence(r, m.prepare()))(model, rows)
    posterior = quick_jit(lambda m, r: m.posterior(r, m.prepare()))(model, rows)
    np.testing.assert_allclose(found[0], 0.0, atol=1e-9)
    for i in range(len(answers)):
        slow = slow_log_joint(model, answers[i], group[i])
        centre = np.asarray(posterior.mean[i])
        total, mean, covariance = truth.fine_grid(slow, centre, 10.0, 301)
        np.testing.assert_allclose(found[i], total, atol=1e-8)
        np.testing.assert_allclose(found[i], truth.log_integral(slow, centre[0]), atol=1e-8)
        np.testing.assert_allclose(posterior.mean[i], mean, atol=1e-6)
        np.testing.assert_allclose(posterior.covariance[i], covariance, atol=1e-6)


def test_the_joint_is_the_slow_one(float64):
    model, answers = mixed_model(Grid(61)), mixed_answers()
    latents = np.random.default_rng(0).normal(size=(len(answers), 1))
    fast = model.log_joint(rows_of(answers, float), jnp.asarray(latents))
    slow = [slow_log_joint(model, x, 0)(z) for x, z in zip(answers, latents, strict=True)]
    np.testing.assert_allclose(fast, slow, rtol=1e-10)


MIXED = [GeneralizedPartialCredit()] * 2 + [PartialCredit()] * 2 + [GradedResponse()] * 2

TEMPLATES = {
    "two": (LatentTrait(TwoParameter(), rule=Adaptive(15)), 3),
    "three": (LatentTrait(ThreeParameter(prior=ItemPrior((1.0, 0.5), (0.0, 2.0), (5.0, 17.0)))), 3),
    "mixed": (LatentTrait(MIXED, n_groups=2), 6),
    "two traits": (LatentTrait(GradedResponse(), n_traits=2, pattern=PATTERN), 6),
}


@quick_jit
def objective_slope(model, rows):
    def objective(vector):
        at = from_vector(model, vector)
        return (rows.weight * at.log_evidence(rows, at.prepare())).sum() + at.log_prior()

    return jax.value_and_grad(objective)(to_vector(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_climb_ends_at_a_maximum_and_never_falls(name, float64):
    """The gradient of the evidence, which EM never computes, is zero where EM ends."""
    template, d = TEMPLATES[name]
    answers = simulated()[:, :d]
    answers = answers[~np.isnan(answers).all(1)]
    weights = 1.0 + np.arange(len(answers)) % 3
    inputs = (np.arange(len(answers)) % 2)[:, None].astype(float)
    inputs = inputs if template.n_groups > 1 else None
    fit = minorant.fit(template, answers, weights=weights, inputs=inputs, tolerance=1e-10)
    assert fit.outcome.ok, fit.outcome
    slack = rounding(fit.trace.objective, weights.sum(), float) * 1e4
    assert_never_decreases(fit.trace.objective, slack)
    rows = rows_of(answers, float, weights)
    rows = dataclasses.replace(rows, inputs=inputs)
    value, slope = objective_slope(fit.model, rows)
    np.testing.assert_allclose(value, fit.objective, rtol=1e-10)
    assert np.abs(slope).max() < 3e-3 * np.sqrt(weights.sum()), slope


def test_quasi_newton_climbs_to_the_same_place(float64):
    answers, persons = lsat()
    template = LatentTrait(TwoParameter())
    other = minorant.fit(template, answers, weights=persons, solver=QuasiNewton(1e-11))
    em = minorant.fit(template, answers, weights=persons, tolerance=1e-11)
    np.testing.assert_allclose(other.bound, em.bound, atol=1e-5)


def test_what_is_fixed_is_held(float64):
    answers, persons = lsat()
    items = TwoParameter(np.full((5, 1), 0.8), np.ones((5, 1)))
    start = LatentTrait(items, np.zeros((1, 1)), np.ones((1, 1, 1)))
    found = minorant.fit(
        start, answers, weights=persons, fixed=lambda m: m.items[0].slopes, tolerance=1e-10
    )
    np.testing.assert_array_equal(found.model.items[0].slopes, 0.8)
    assert found.outcome.ok
    rows = rows_of(answers, float, persons)
    slope = objective_slope(found.model, rows)[1]
    np.testing.assert_allclose(slope[5:10], 0.0, atol=2e-2)  # slopes come first, then intercepts


def test_traits_are_turned_to_positive_sums_of_slopes(float64):
    """Both groups' traits with the items; not where structure or prior says which way is up."""
    slopes = np.array([[1.0, 0.5], [0.8, -1.0], [0.3, -1.2]])
    items = (TwoParameter(slopes, np.array([[0.1], [0.2], [-0.3]])),)
    mean, spread = np.array([[0.0, 0.0], [0.4, 0.7]]), np.array([[1.0, 0.3], [0.3, 1.0]])
    model = LatentTrait(items, mean, np.stack([spread, 2 * spread]), n_traits=2, n_groups=2)
    found = model.oriented()
    sign = np.array([1.0, -1.0])
    np.testing.assert_array_equal(found.items[0].slopes, slopes * sign)
    rng = np.random.default_rng(0)
    z, group = rng.normal(size=(6, 2)), np.repeat([0.0, 1.0], 3)[:, None]
    answers = rng.integers(0, 2, (6, 3)).astype(float)
    rows = Rows(answers, np.ones(6), inputs=group)
    before, after = model.log_joint(rows, z), found.log_joint(rows, z * sign)
    np.testing.assert_allclose(after, before, rtol=1e-12)
    tilted = (TwoParameter(slopes, items[0].intercepts, ItemPrior(slope=(1.0, 0.5))),)
    kept = dataclasses.replace(model, items=tilted).oriented()
    np.testing.assert_array_equal(kept.items[0].slopes, slopes)


def test_many_items_sharpen_posteriors_and_the_rule_follows(float64):
    """100 sharp items: a grid of 15 nodes is off by nats, a person's own 15 nodes are not."""
    rng = np.random.default_rng(1)
    slopes, cuts = np.full((100, 1), 2.5), rng.normal(size=(100, 1))
    model = LatentTrait(
        TwoParameter(slopes, cuts), np.zeros((1, 1)), np.ones((1, 1, 1)), rule=Adaptive(15)
    )
    _, answers = model.sample(jax.random.key(0), 40)
    rows = rows_of(np.asarray(answers), float)

    def evidence(rule):
        at = dataclasses.replace(model, rule=rule)
        return np.asarray(quick_jit(lambda m, r: m.log_evidence(r, m.prepare()))(at, rows))

    slow = [slow_log_joint(model, x, 0) for x in np.asarray(answers)[:2]]
    exact = [truth.fine_grid(one, np.zeros(1), 6.0, 1201)[0] for one in slow]
    adaptive, coarse = evidence(Adaptive(15)), evidence(Grid(15))
    np.testing.assert_allclose(adaptive[:2], exact, atol=1e-6)
    assert np.abs(coarse - adaptive).max() > 0.1
    rule = default_rule(1, 100)
    assert rule.points > default_rule(1, 20).points == 61
    np.testing.assert_allclose(evidence(rule), adaptive, atol=2e-2)
    np.testing.assert_allclose(evidence(rule.refined()), evidence(Adaptive(60)), atol=1e-6)
    assert isinstance(default_rule(3, 60), Adaptive)


def test_many_nodes_are_taken_in_parts(float64, monkeypatch):
    model, answers = mixed_model(Grid(61)), mixed_answers(30)
    rows = rows_of(answers, float, 1.0 + np.arange(30) % 2)
    whole = model.expectation(rows, model.prepare())
    from minorant.models import latent_trait

    monkeypatch.setattr(latent_trait, "_AT_ONCE", 61 * 7)
    parts = model.expectation(rows, model.prepare())
    for one, other in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    evidence = model.log_evidence(rows, model.prepare())
    np.testing.assert_allclose(whole.bound, (rows.weight * evidence).sum())


def test_an_item_that_parts_persons_without_error_is_named():
    items = TwoParameter(np.array([[1.0], [40.0]]), np.zeros((2, 1)))
    model = LatentTrait(items, np.zeros((1, 1)), np.ones((1, 1, 1)))
    (sentence,) = model.irregular(("a", "b"))
    assert "'b' has a slope of 40" in sentence
    assert "Heywood" in sentence


def test_single_precision_climbs_too(float32):
    answers, persons = lsat()
    fit = minorant.fit(LatentTrait(TwoParameter()), answers.astype(np.float32), weights=persons)
    assert fit.outcome.ok
    np.testing.assert_allclose(fit.bound, -2466.653, rtol=1e-5)
    assert isinstance(fit.standardised.items[0].slopes, np.ndarray)
