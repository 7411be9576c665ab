"""Quasi-Newton on the evidence: the optimum EM finds, by another road, and never downhill."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from helpers import assert_never_decreases

import minorant
from minorant.components import Bernoulli, Gaussian
from minorant.components.priors import Dirichlet
from minorant.solvers import QuasiNewton


@pytest.fixture(autouse=True, scope="module")
def wide():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(0, 1, (80, 2)), rng.normal([3, 1], [1.0, 0.5], (60, 2))])


@pytest.fixture(scope="module")
def both(rows):
    model = minorant.Mixture(Gaussian(), n_components=2)
    em = minorant.fit(model, rows, tolerance=1e-12)
    return em, minorant.fit(model, rows, solver=QuasiNewton(1e-10))


def test_it_reaches_the_optimum_of_em(both):
    em, newton = both
    assert newton.outcome.ok
    np.testing.assert_allclose(newton.bound, em.bound, rtol=1e-9)
    order = np.argsort(em.model.component.mean[:, 0]), np.argsort(newton.model.component.mean[:, 0])
    means = em.model.component.mean[order[0]], newton.model.component.mean[order[1]]
    np.testing.assert_allclose(*means, atol=1e-4)
    assert "quasi-Newton" in newton.explanation


def test_it_never_goes_down(both):
    assert_never_decreases(both[1].trace.objective, 0.0)


def test_it_stops_where_em_stopped(both, rows):
    em, _ = both
    again = minorant.fit(em.model, rows, solver=QuasiNewton(1e-8))
    assert again.acceleration.steps <= 5
    np.testing.assert_allclose(again.bound, em.bound, rtol=1e-10)


def test_what_is_fixed_stays(both, rows):
    em, _ = both
    start = jax.tree.map(np.array, em.model)
    held = minorant.fit(start, rows + 0.3, fixed=lambda m: m.component.mean, solver=QuasiNewton())
    np.testing.assert_allclose(held.model.component.mean, em.model.component.mean, rtol=1e-12)
    assert held.outcome.ok


def test_a_prior_is_climbed_too():
    rows = np.array([[1.0], [1.0], [0.0], [1.0]])
    model = minorant.Mixture(Bernoulli(), n_components=2, prior=Dirichlet(3.0))
    em = minorant.fit(model, rows, tolerance=1e-12)
    newton = minorant.fit(em.model, rows, solver=QuasiNewton(1e-10))
    np.testing.assert_allclose(newton.objective, em.objective, rtol=1e-9)


def test_a_step_limit_can_be_resumed(both, rows):
    model = minorant.Mixture(Gaussian(), n_components=2)
    short = minorant.fit(model, rows, solver=QuasiNewton(1e-10), max_steps=4)
    assert short.outcome is minorant.Outcome.STEP_LIMIT
    on = minorant.resume(short, rows, solver=QuasiNewton(1e-10))
    np.testing.assert_allclose(on.bound, both[1].bound, rtol=1e-8)


def test_em_is_refused_where_there_is_no_m_step(rows):
    with pytest.raises(TypeError, match="exact model"):
        minorant.fit(None, rows, solver=QuasiNewton())
