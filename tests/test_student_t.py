"""The Student-t component against SciPy, numerical integration and direct maximisation."""

import equinox as eqx
import jax
import numpy as np
import pytest
import truth
from helpers import assert_never_decreases, rounding, rows_of
from scipy import integrate, optimize, special, stats

import minorant
from minorant.components import Diagonal, Full, Spherical, StudentT, Tied
from minorant.components.student_t import (
    digamma_gap,
    inverse_digamma_gap,
    log_gamma_ratio,
    stirling,
)
from minorant.solvers import EM, Anderson

MEAN = np.array([[0.0, 1.0], [3.0, -1.0]])
SCALE = np.array([[[1.0, 0.6], [0.6, 2.0]], [[0.5, -0.1], [-0.1, 0.4]]])
DEGREES = np.array([3.5, 12.0])
STORED = {
    Full(): SCALE,
    Tied(): SCALE[0],
    Diagonal(): SCALE[:, [0, 1], [0, 1]],
    Spherical(): np.array([1.0, 0.5]),
}


def component(structure=Full(), **keywords):  # noqa: B008
    return StudentT(structure, MEAN, STORED[structure], DEGREES, np.full(2, 1e-9), **keywords)


def simulated(n=400, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    draws = [
        stats.multivariate_t(m, s, v) for m, s, v in zip(MEAN * 2, SCALE, (3.0, 6.0), strict=True)
    ]
    return np.stack([draws[z].rvs(random_state=rng) for z in labels])


@pytest.mark.parametrize("structure", STORED, ids=lambda s: type(s).__name__)
def test_log_prob_is_scipys(structure):
    values = np.random.default_rng(1).normal(size=(5, 2)) * 3
    with jax.enable_x64(True):
        c = component(structure)
        rows = rows_of(values, float)
        found = jax.jit(lambda c: c.log_prob(rows, c.prepare()))(c)
    matrices = [truth.covariance_matrix(structure, STORED[structure], j, 2) for j in range(2)]
    expected = [
        stats.multivariate_t(m, s, v).logpdf(values)
        for m, s, v in zip(MEAN, matrices, DEGREES, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_missing_cells_are_integrated_out():
    with jax.enable_x64(True):
        c = component()
        rows = rows_of(np.array([[0.3, np.nan], [np.nan, np.nan]]), float)
        found = np.asarray(jax.jit(lambda c: c.log_prob(rows, c.prepare()))(c))
    for j in range(2):
        density = stats.multivariate_t(MEAN[j], SCALE[j], DEGREES[j])
        total, _ = integrate.quad(lambda y, p=density: p.pdf([0.3, y]), -np.inf, np.inf)
        assert found[j, 0] == pytest.approx(np.log(total), rel=1e-8)
    np.testing.assert_array_equal(found[:, 1], 0.0)


def test_special_functions():
    y = np.array([0.05, 0.7, 4.0, 9.99, 10.01, 60.0])
    with jax.enable_x64(True):
        gap, far = np.split(np.asarray(jax.jit(digamma_gap)(np.r_[y, 1e5, 1e6])), [len(y)])
        ratio = jax.jit(log_gamma_ratio)(y, 1.5)
        back = jax.jit(inverse_digamma_gap)(gap)
        series = jax.jit(stirling)(np.array([1e5]))
    np.testing.assert_allclose(gap, np.log(y) - special.digamma(y), rtol=1e-12)
    expected = special.gammaln(y + 1.5) - special.gammaln(y) - 1.5 * np.log(y)
    np.testing.assert_allclose(ratio, expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(back, y, rtol=1e-9)
    np.testing.assert_allclose(far, [0.5e-5 + 1e-10 / 12, 0.5e-6 + 1e-12 / 12], rtol=1e-13)
    np.testing.assert_allclose(series, 1e-5 / 12, rtol=1e-9)


@pytest.fixture(scope="module")
def fitted():
    data = simulated()
    with jax.enable_x64(True):
        model = minorant.Mixture(component(), np.array([0.5, 0.5]), n_components=2)
        solver = EM(Anderson(), tolerance=1e-10)
        return data, minorant.fit(model, data, solver=solver, max_steps=500)


def test_the_climb_never_falls(fitted):
    data, found = fitted
    trace = found.trace.objective
    assert_never_decreases(trace, rounding(trace, len(data), float))
    assert found.outcome.ok


def negative_log_likelihood(vector, data):
    """Minus the mean log density of a two-component mixture, by SciPy alone."""
    weight = special.expit(vector[0])
    total = []
    for part, share in ((vector[1:7], weight), (vector[7:13], 1 - weight)):
        root = np.array([[np.exp(part[2]), 0.0], [part[3], np.exp(part[4])]])
        density = stats.multivariate_t(part[:2], root @ root.T, np.exp(part[5]))
        total.append(np.log(share) + density.logpdf(data))
    return -np.logaddexp(*total).mean()


def as_vector(model):
    parts = [[special.logit(float(model.weights[0]))]]
    c = model.component
    for m, s, v in zip(c.mean, c.scale, c.degrees, strict=True):
        root = np.linalg.cholesky(s)
        parts.append([*m, np.log(root[0, 0]), root[1, 0], np.log(root[1, 1]), np.log(v)])
    return np.concatenate(parts)


def test_the_optimum_is_one(fitted):
    data, found = fitted
    start = as_vector(found.model)
    value = negative_log_likelihood(start, data)
    assert value == pytest.approx(-found.bound / len(data), rel=1e-12)
    better = optimize.minimize(negative_log_likelihood, start, (data,), options={"maxiter": 5})
    assert value - better.fun < 1e-7


def test_the_degrees_solve_their_equation():
    data = simulated(60)
    r = np.random.default_rng(2).dirichlet([1, 1], size=60).T
    with jax.enable_x64(True):
        c = component()
        sums = eqx.filter_jit(c.statistics)(rows_of(data, float), r, c.prepare())
        new = eqx.filter_jit(c.maximise)(sums, None)
    for j in range(2):
        away = data - MEAN[j]
        distance = np.einsum("ni,ij,nj->n", away, np.linalg.inv(SCALE[j]), away)
        u = (DEGREES[j] + 2) / (DEGREES[j] + distance)
        log_u = special.digamma((DEGREES[j] + 2) / 2) - np.log((DEGREES[j] + distance) / 2)
        tail = float(r[j] @ (log_u - u)) / r[j].sum()

        def expected(nu, tail=tail):
            return nu / 2 * np.log(nu / 2) - special.gammaln(nu / 2) + nu / 2 * tail

        best = optimize.minimize_scalar(lambda v: -expected(np.exp(v)), bounds=(-3, 6))
        assert expected(float(new.degrees[j])) >= -best.fun - 1e-12
        mean = (r[j] * u) @ data / (r[j] @ u)
        np.testing.assert_allclose(new.mean[j], mean, rtol=1e-10)


def test_constant_degrees_stay_and_do_not_count():
    data = simulated(80)
    template = StudentT(Spherical(), degrees=[4.0, 5.0], learn_degrees=False)
    with jax.enable_x64(True):
        fit = minorant.fit(minorant.Mixture(template, n_components=2), data, max_steps=5)
    np.testing.assert_array_equal(fit.model.component.degrees, [4.0, 5.0])
    assert fit.n_parameters == 1 + 4 + 2


@pytest.mark.parametrize("keywords", [{"learn_degrees": False}, {"degrees": [0.0, 3.0]}])
def test_impossible_degrees_are_named(keywords):
    with pytest.raises(ValueError, match="degrees"):
        StudentT(**keywords)
