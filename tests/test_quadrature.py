"""Quadrature rules against closed forms, SciPy's integrals and fine grids."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth_quadrature as truth
from helpers import quick_jit

from minorant.posteriors import Adaptive, Grid, Quadrature
from minorant.posteriors._small_matrices import backward, cholesky, forward, log_normal
from minorant.posteriors.quadrature import check_dimensions, hermite
from minorant.posteriors.quadrature import integrate as integrate_eagerly

integrate = quick_jit(integrate_eagerly, static_argnums=(0, 3))

SIGMA = np.array([[1.3, 0.4, -0.2], [0.4, 0.8, 0.1], [-0.2, 0.1, 1.1]])


def counts(parameters, z):
    """Normal prior, Poisson counts: ``log N(z; 0, S) + y (a + b'z) - exp(a + b'z)``."""
    y, a, b, sigma = parameters
    rate = a + z @ b
    return log_normal(z, sigma) + y * rate - jnp.exp(rate)


def counts_slow(y, a, b, sigma):
    def log_density(z):
        rate = a + z @ b
        return truth.log_prior(z, np.zeros(len(b)), sigma) + y * rate - np.exp(rate)

    return log_density


def parameters_of(l):
    y = np.array([0.0, 3.0, 40.0])
    return y, np.asarray(0.7), np.array([0.9, -0.6, 0.5])[:l], SIGMA[:l, :l]


@pytest.mark.parametrize("l", [1, 2, 3])
def test_hermite_is_exact_for_polynomials(l):
    nodes, log_weights = hermite(6, l)
    weights = np.exp(log_weights)
    moments = [1, 0, 1, 0, 3, 0, 15, 0, 105, 0, 945, 0]  # (p - 1)!! for even p
    for p, moment in enumerate(moments):
        np.testing.assert_allclose(
            weights @ nodes[:, l - 1] ** p, moment, atol=1e-9 * max(moment, 1)
        )
    np.testing.assert_allclose(weights @ np.prod(nodes**2, axis=1), 1.0)


@pytest.mark.parametrize("l", [1, 2, 3])
def test_small_matrices_agree_with_numpy(l, float64):
    rng = np.random.default_rng(l)
    root = rng.normal(size=(5, l, l))
    matrices = root @ root.transpose(0, 2, 1) + np.eye(l)
    vector = rng.normal(size=(5, l))
    factor = cholesky(jnp.asarray(matrices), 0.0)
    np.testing.assert_allclose(factor, np.linalg.cholesky(matrices), rtol=1e-12, atol=1e-14)
    expected = np.linalg.solve(np.linalg.cholesky(matrices), vector[..., None])[..., 0]
    np.testing.assert_allclose(forward(factor, vector), expected, rtol=1e-10)
    transposed = np.linalg.cholesky(matrices).transpose(0, 2, 1)
    expected = np.linalg.solve(transposed, vector[..., None])[..., 0]
    np.testing.assert_allclose(backward(factor, vector), expected, rtol=1e-10)


@pytest.mark.parametrize("points", [1, 4])
def test_normal_integrands_are_integrated_exactly(points, float64):
    """A normal density times a normal likelihood: any number of nodes gives the closed form."""
    rng = np.random.default_rng(0)
    y, loading = rng.normal(size=(4, 3)), rng.normal(size=(3, 2))
    sigma = SIGMA[:2, :2]

    def log_joint(parameters, z):
        loading, sigma = parameters
        return log_normal(z, sigma) - 0.5 * ((y - z @ loading.T) ** 2 + np.log(2 * np.pi)).sum(1)

    found = integrate(log_joint, (loading, sigma), jnp.zeros((4, 2)), Adaptive(points))
    marginal = loading @ sigma @ loading.T + np.eye(3)
    expected = [truth.log_prior(row, np.zeros(3), marginal) for row in y]
    np.testing.assert_allclose(found.log_evidence, expected, rtol=1e-12)
    precision = np.linalg.inv(sigma) + loading.T @ loading
    mean = np.linalg.solve(precision, loading.T @ y.T).T
    np.testing.assert_allclose(found.mode, mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.posterior.mean, mean, rtol=1e-10, atol=1e-12)
    if points > 1:
        covariance = np.broadcast_to(np.linalg.inv(precision), (4, 2, 2))
        np.testing.assert_allclose(found.posterior.covariance, covariance, rtol=1e-10)


@pytest.mark.parametrize(("l", "points", "reach", "fine"), [(1, 30, 8.0, 401), (2, 24, 7.0, 91)])
def test_integrals_against_fine_grids(l, points, reach, fine, float64):
    y, a, b, sigma = parameters_of(l)
    found = integrate(counts, (y, a, b, sigma), jnp.zeros((3, l)), Adaptive(points))
    for i, count in enumerate(y):
        slow = counts_slow(count, a, b, sigma)
        centre = np.asarray(found.mode[i])
        total, mean, covariance = truth.fine_grid(slow, centre, reach, fine)
        np.testing.assert_allclose(found.log_evidence[i], total, atol=2e-9)
        np.testing.assert_allclose(found.posterior.mean[i], mean, atol=1e-7)
        np.testing.assert_allclose(found.posterior.covariance[i], covariance, atol=1e-6)


def test_integrals_against_scipy(float64):
    parameters = parameters_of(1)
    found = integrate(counts, parameters, jnp.zeros((3, 1)), Adaptive(40))
    for i, y in enumerate(parameters[0]):
        slow = counts_slow(y, *parameters[1:])
        expected = truth.log_integral(slow, float(found.mode[i, 0]))
        np.testing.assert_allclose(found.log_evidence[i], expected, atol=1e-10)


def test_doubling_the_rule_tells_the_error(float64):
    """The change under doubling is the error of the smaller rule to within a part of it."""
    parameters = parameters_of(2)
    start = jnp.zeros((3, 2))
    exact = integrate(counts, parameters, start, Adaptive(40)).log_evidence
    rule = Adaptive(6)
    found = integrate(counts, parameters, start, rule).log_evidence
    refined = integrate(counts, parameters, start, rule.refined()).log_evidence
    error = np.asarray(found - exact)
    assert np.abs(error).max() > 1e-6  # there is an error to be told
    np.testing.assert_allclose(found - refined, error, rtol=0.25, atol=1e-9)


def test_a_grid_is_a_trapezoidal_rule():
    nodes, log_volume = Grid(61).nodes(2)
    density = np.exp(-0.5 * (nodes**2).sum(1)) / (2 * np.pi)
    np.testing.assert_allclose(density.sum() * np.exp(log_volume), 1.0, atol=1e-8)
    refined = Grid(57).refined()
    assert refined.points == 129  # half the step, over a wider range
    assert refined.width == 8.0


@pytest.mark.parametrize("points", [1, 5])
def test_derivatives_are_those_of_the_number_returned(points, float64):
    """Gradient and Hessian against central differences, for Laplace's rule too."""
    y = np.array([0.0, 3.0, 40.0])

    def total(theta):
        sigma = jnp.exp(theta[2])[None, None]
        found = integrate_eagerly(
            counts, (y, theta[0], theta[1:2], sigma), jnp.zeros((3, 1)), Adaptive(points)
        )
        return found.log_evidence.sum()

    value, gradient = quick_jit(total), quick_jit(jax.grad(total))
    hessian = quick_jit(jax.hessian(total))
    theta, step = np.array([0.7, 0.9, 0.2]), 1e-4
    moves = step * np.eye(3)
    differences = [(value(theta + m) - value(theta - m)) / (2 * step) for m in moves]
    np.testing.assert_allclose(gradient(theta), differences, rtol=1e-6, atol=1e-6)
    second = [(gradient(theta + m) - gradient(theta - m)) / (2 * step) for m in moves]
    np.testing.assert_allclose(hessian(theta), second, rtol=1e-5, atol=1e-5)


def test_the_search_for_modes_survives_a_far_start_and_a_flat_tail(float64):
    """A Student-like likelihood is convex in its tails, where plain Newton steps run away."""

    def log_joint(parameters, z):
        return -0.5 * (z[:, 0] / 50.0) ** 2 - 2.0 * jnp.log1p((z[:, 0] - parameters) ** 2)

    at = np.array([3.0, -4.0])
    found = integrate(log_joint, at, jnp.full((2, 1), 30.0), Adaptive(1))
    np.testing.assert_allclose(found.mode[:, 0], at, atol=1e-2)
    rate = integrate(
        counts, (np.array([5.0]), 0.0, np.ones(1), np.eye(1)), jnp.full((1, 1), 40.0), Adaptive(1)
    )
    assert np.isfinite(float(rate.log_evidence[0]))
    np.testing.assert_allclose(5.0 - np.exp(rate.mode[0, 0]) - rate.mode[0, 0], 0.0, atol=1e-9)


def test_single_precision_agrees_with_double(dtype):
    parameters = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), parameters_of(2))
    found = integrate(counts, parameters, jnp.zeros((3, 2), dtype), Adaptive(9))
    assert found.log_evidence.dtype == dtype
    expected = [
        truth.fine_grid(counts_slow(y, *parameters_of(2)[1:]), np.asarray(m, float), 7.0, 71)[0]
        for y, m in zip(parameters_of(2)[0], found.mode, strict=True)
    ]
    np.testing.assert_allclose(found.log_evidence, expected, atol=2e-4)


@pytest.fixture(scope="module")
def smoothed():
    rng = np.random.default_rng(3)
    nodes = rng.normal(size=(2, 40, 2))
    masses = rng.dirichlet(np.ones(40), size=2)
    return Quadrature(nodes, np.log(masses))


def test_moments_are_those_of_the_masses(smoothed):
    for i in range(2):
        mass = smoothed.probability[i]
        np.testing.assert_allclose(smoothed.mean[i], mass @ smoothed.nodes[i])
        expected = np.cov(smoothed.nodes[i].T, aweights=mass, ddof=0)
        np.testing.assert_allclose(smoothed.covariance[i], expected)


def test_draws_have_the_density_and_the_moments(smoothed, float64):
    draws = np.asarray(
        quick_jit(jax.vmap(smoothed.sample))(jax.random.split(jax.random.key(0), 20_000))
    )
    for i in range(2):
        spread = np.asarray(smoothed.covariance[i])
        error = np.sqrt(np.diag(spread) / len(draws))
        assert np.all(np.abs(draws[:, i].mean(0) - smoothed.mean[i]) < 4.5 * error)
        np.testing.assert_allclose(np.cov(draws[:, i].T), spread, atol=0.06 * np.diag(spread).max())
    line = np.linspace(-7, 7, 141)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 1, 2)
    latents = np.broadcast_to(grid, (len(grid), 2, 2))
    density = np.exp(np.asarray(quick_jit(jax.vmap(smoothed.log_density))(latents)))
    np.testing.assert_allclose(density.sum(0) * (line[1] - line[0]) ** 2, 1.0, atol=1e-6)
    # E_q[log q] by draws and by the grid: the same q is drawn from and scored.
    scored = np.asarray(quick_jit(jax.vmap(smoothed.log_density))(draws))
    entropy = (density * np.log(density)).sum(0) * (line[1] - line[0]) ** 2
    error = scored.std(0) / np.sqrt(len(scored))
    assert np.all(np.abs(scored.mean(0) - entropy) < 4.5 * error)


def test_rows_survive_the_way_through_a_table(smoothed):
    again = Quadrature.from_rows(smoothed.by_row())
    np.testing.assert_array_equal(again.mean, smoothed.mean)


@pytest.mark.parametrize("bad", [0, -1, 2.0])
def test_a_rule_needs_nodes(bad):
    with pytest.raises(ValueError, match="points must be an integer"):
        Adaptive(bad)
    with pytest.raises(ValueError, match="points must be an integer of at least 2"):
        Grid(bad)
    with pytest.raises(ValueError, match="must be 1, 2 or 3"):
        check_dimensions(4, "n_traits")
