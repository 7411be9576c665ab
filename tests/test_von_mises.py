"""The von Mises component against SciPy and direct maximisation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_never_decreases, rounding, rows_of
from scipy import optimize, special, stats

import minorant
from minorant.components import VonMises
from minorant.components.von_mises import draw_angles, matched_concentration
from minorant.solvers import EM, Anderson, Plain

DIRECTION = np.array([[0.5, -3.0], [2.5, 1.0]])
KAPPA = np.array([[2.0, 0.1], [30.0, 8.0]])


def simulated(n=300, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    return rng.vonmises(DIRECTION[labels], KAPPA[labels])


def test_log_prob_is_scipys_and_missing_cells_drop_out():
    values = simulated(6)
    values[0, 1] = np.nan
    values[1] = np.nan
    with jax.enable_x64(True):
        c = VonMises(DIRECTION, KAPPA)
        found = np.asarray(c.log_prob(rows_of(values, float), c.prepare()))
    for j in range(2):
        cells = stats.vonmises(KAPPA[j], DIRECTION[j]).logpdf(values)
        np.testing.assert_allclose(found[j], np.nansum(cells, axis=1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kappa", [1e3, 1e6])
def test_large_concentrations_keep_their_digits(kappa):
    x = np.array([[0.3 + 2.0 / np.sqrt(kappa)]])
    with jax.enable_x64(True):
        c = VonMises(np.array([[0.3]]), np.array([[kappa]]))
        found = float(c.log_prob(rows_of(x, float), c.prepare())[0, 0])
    expected = -2 * kappa * np.sin((x[0, 0] - 0.3) / 2) ** 2 - np.log(
        2 * np.pi * special.i0e(kappa)
    )
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_concentration_matches_the_resultant():
    kappa = np.array([0.01, 0.5, 3.0, 49.0, 51.0, 800.0, 1e5])
    with jax.enable_x64(True):
        length = special.i1e(kappa) / special.i0e(kappa)
        found = np.asarray(matched_concentration(jnp.asarray(length)))
    np.testing.assert_allclose(found, kappa, rtol=1e-8)


def test_the_m_step_maximises():
    data = simulated(50)
    r = np.random.default_rng(3).dirichlet([1, 1], size=50).T
    with jax.enable_x64(True):
        c = VonMises(DIRECTION, KAPPA).configured(None, 2)
        sums = eqx.filter_jit(c.statistics)(rows_of(data, float), r, None)
        new = eqx.filter_jit(c.maximise)(sums, None)
        value = np.asarray(new.expected_log_prob(sums))
    for j in range(2):
        own = stats.vonmises(np.asarray(new.concentration)[j], np.asarray(new.direction)[j])
        assert value[j] == pytest.approx(r[j] @ own.logpdf(data).sum(1), rel=1e-9)

        def minus(v, j=j):
            return -(r[j] @ stats.vonmises(np.exp(v[2:]), v[:2]).logpdf(data).sum(1))

        start = np.concatenate([new.direction[j], np.log(new.concentration[j])])
        assert minus(start) <= optimize.minimize(minus, start).fun + 1e-8


@pytest.mark.parametrize("rule", [Plain(), Anderson()], ids=["plain", "anderson"])
def test_the_climb_never_falls_and_finds_the_truth(rule):
    data = simulated(400)
    data[::7, 0] = np.nan
    with jax.enable_x64(True):
        model = minorant.Mixture(
            VonMises(DIRECTION + 0.3, KAPPA * 0 + 2.0), np.full(2, 0.5), n_components=2
        )
        fit = minorant.fit(model, data, solver=EM(rule))
    assert fit.outcome.ok
    assert_never_decreases(fit.trace.objective, rounding(fit.trace.objective, len(data), float))
    away = np.abs(fit.model.component.direction - DIRECTION)[KAPPA > 1]
    assert np.all(away < 5.0 / np.sqrt(150 * 1.0))
    assert np.all(np.abs(fit.model.component.direction) <= np.pi)


def test_tied_angles_stop_at_the_cap():
    with jax.enable_x64(True):
        c = VonMises(np.zeros((1, 1)), np.ones((1, 1)), cap=np.array(500.0))
        sums = c.statistics(rows_of(np.full((4, 1), 0.7), float), np.ones((1, 4)), None)
        new = eqx.filter_jit(c.maximise)(sums, None)
    np.testing.assert_allclose(new.concentration, 500.0, rtol=1e-12)
    np.testing.assert_array_equal(new.collapsed(), [1.0])


def test_draws_have_the_right_moments():
    n = 20000
    with jax.enable_x64(True):
        key = jax.random.key(0)
        angles = np.asarray(jax.jit(draw_angles)(key, jnp.full(n, 2.0), jnp.full(n, 3.0)))
    for function, expected in ((np.cos, special.i1(3.0) / special.i0(3.0)), (np.sin, 0.0)):
        drawn = function(angles - 2.0)
        assert abs(drawn.mean() - expected) < 4.5 * drawn.std() / np.sqrt(n)


def test_degrees_are_refused():
    with pytest.raises(ValueError, match="radians"):
        VonMises().check(np.array([[720.0]]), ("heading",))
