"""Any prior on any component: the MAP of direct maximisation, monotone, in the data's units."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_never_decreases, rounding
from scipy import optimize, stats

import minorant
from minorant.components import (
    Diagonal,
    Full,
    Gaussian,
    InverseWishart,
    LogDensity,
    StudentT,
    autodiff,
)
from minorant.solvers import EM, Plain


def log_prior(component):
    """Means near 3 in the data's units, log variances near 1."""
    spread = jnp.log(component.covariance) - 1.0
    return -0.5 * ((component.mean - 3.0) ** 2 / 0.04).sum() - 0.5 * (spread**2 / 0.25).sum()


def table(n=60):
    rng = np.random.default_rng(0)
    return np.array([10.0, -2.0]) + rng.normal(size=(n, 2)) * np.array([3.0, 0.5])


def test_the_map_of_one_component_is_scipys():
    data = table()
    with jax.enable_x64(True):
        prior = LogDensity(log_prior)
        component = Gaussian(Diagonal(), np.zeros((1, 2)), np.ones((1, 2)), prior=prior)
        model = minorant.Mixture(component, np.ones(1), n_components=1)
        fit = minorant.fit(model, data, tolerance=1e-10)

    def minus(v):
        density = stats.norm(v[:2], np.exp(v[2:] / 2)).logpdf(data).sum()
        prior = -0.5 * ((v[:2] - 3) ** 2 / 0.04).sum() - 0.5 * ((v[2:] - 1) ** 2 / 0.25).sum()
        return -density - prior

    best = optimize.minimize(minus, np.r_[data.mean(0), np.log(data.var(0))], tol=1e-12)
    assert fit.outcome.ok
    assert fit.objective == pytest.approx(-best.fun, rel=1e-9)
    np.testing.assert_allclose(fit.model.component.mean[0], best.x[:2], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("structure", [Full(), Full(centred=True)], ids=["product", "centred"])
def test_a_conjugate_prior_written_as_a_function_gives_the_same_map(structure):
    data = np.concatenate([table(40), table(30) + 25.0])
    conjugate = InverseWishart(np.diag([4.0, 1.0]), np.array(6.0))
    prior = LogDensity(lambda c: conjugate.log_density(c.covariance, False))
    begin = dict(
        mean=np.array([[9.0, -3.0], [34.0, 22.0]]), covariance=np.stack([5.0 * np.eye(2)] * 2)
    )
    with jax.enable_x64(True):
        fits = []
        for own in (conjugate, prior):
            component = Gaussian(structure, prior=own, **begin)
            model = minorant.Mixture(component, np.array([0.5, 0.5]), n_components=2)
            fits.append(minorant.fit(model, data, solver=EM(Plain(), tolerance=1e-10)))
    for fit in fits:
        assert_never_decreases(fit.trace.objective, rounding(fit.trace.objective, 70, float))
    np.testing.assert_allclose(
        fits[1].model.component.covariance, fits[0].model.component.covariance, rtol=1e-4
    )


def begun_at_ten(prior):
    """A Student-t that starts at 10 degrees of freedom."""
    return StudentT(Diagonal(), np.zeros((1, 2)), np.ones((1, 2)), np.array([10.0]), prior=prior)


@pytest.mark.slow
def test_a_prior_on_degrees_of_freedom():
    data = table(80)

    def near_five(component):
        return -50.0 * ((jnp.log(component.degrees) - np.log(5.0)) ** 2).sum()

    with jax.enable_x64(True):
        fit, free = (
            minorant.fit(minorant.Mixture(begun_at_ten(prior), np.ones(1), n_components=1), data)
            for prior in (LogDensity(near_five), None)
        )
    assert_never_decreases(fit.trace.objective, rounding(fit.trace.objective, 80, float))
    degrees, unshrunk = (
        float(fit.model.component.degrees[0]),
        float(free.model.component.degrees[0]),
    )
    assert abs(np.log(degrees / 5)) < 0.5 < abs(np.log(unshrunk / 5))


@pytest.mark.parametrize("p", [3, 80], ids=["newton", "quasi-newton"])
def test_maximum_finds_the_top_and_never_goes_below_its_start(p):
    with jax.enable_x64(True):
        target = jnp.linspace(-1.0, 2.0, p)

        def function(x):
            away = x - target
            return -jnp.log1p(away**2).sum() - 0.1 * (away[1:] * away[:-1]).sum() ** 2

        climb = eqx.filter_jit(lambda x: autodiff.maximum(function, x))
        found = climb(target + 0.4)
        far = climb(target + 30.0)
        risen = float(function(far) - function(target + 30.0))
    np.testing.assert_allclose(found, target, atol=1e-5)
    assert risen >= 0
