"""Bounds as stochastic objectives: values and gradients against closed forms and quadrature."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minorant import _config, bounds
from minorant.posteriors.members import FullRank, MeanField

CENTER = np.array([0.5, -1.0])
PRECISION = np.array([[2.0, 0.6], [0.6, 1.0]])
CONSTANT = 1.7  # the log evidence of the target
REPEATS, DRAWS, K = 4000, 8, 4


@pytest.fixture(autouse=True)
def _double():
    with _config.precision(np.dtype(np.float64)):
        yield


class Target(eqx.Module):
    """A Gaussian of known evidence; its centre is a parameter."""

    center: jax.Array

    def __call__(self, draws):
        away = draws - self.center
        p = draws.shape[1]
        precision = PRECISION[:p, :p]
        log_root = 0.5 * np.linalg.slogdet(precision)[1] - 0.5 * p * np.log(2 * np.pi)
        return CONSTANT + log_root - 0.5 * ((away @ precision) * away).sum(1)


def member(p=2):
    return MeanField(np.array([0.2, 0.3])[:p], np.log(np.array([0.9, 0.6])[:p]))


def noise_for(p=2, s=DRAWS, repeats=REPEATS):
    return np.random.default_rng(7).normal(size=(repeats, s, p))


def gradients(objective, p=2):
    """(value, gradient in q, gradient in the target) of every repeat."""

    def one(noise):
        parts = (member(p), Target(CENTER[:p]))
        return jax.value_and_grad(lambda both: objective(both[1], both[0], noise))(parts)

    value, (q, target) = jax.jit(jax.vmap(one))(noise_for(p))
    return np.asarray(value), np.concatenate([q.mean, q.log_scale], 1), np.asarray(target.center)


def agree(found, expected):
    """The mean of repeats against the truth, in its own standard errors."""
    error = found.std(0) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(0) - expected) < 4.5 * error + 1e-12), (found.mean(0), expected)


def closed_form():
    """The ELBO and its gradients in mean, log scale and centre."""
    q = member()
    away, scale = q.mean - CENTER, np.exp(q.log_scale)
    spread = np.diag(PRECISION) * scale**2
    divergence = away @ PRECISION @ away + spread.sum() - 2 - np.linalg.slogdet(PRECISION)[1]
    value = CONSTANT - 0.5 * divergence + q.log_scale.sum()
    return value, np.r_[-PRECISION @ away, 1 - spread], PRECISION @ away


@pytest.mark.parametrize("name", ["reparametrised_elbo", "path_elbo", "score_function_elbo"])
def test_gradients_of_the_elbo(name):
    value, of_member, of_target = gradients(getattr(bounds, name))
    for found, expected in zip((value, of_member, of_target), closed_form(), strict=True):
        agree(found, expected)


def by_quadrature(power, nodes=80):
    """The bound of two draws in one dimension and its gradient, by Gauss-Hermite."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    both = np.stack(np.meshgrid(points, points), -1).reshape(-1, 2, 1)

    def bound(q):
        def one(noise):
            draws, log_q = q.transform(noise)
            powers = power * (Target(CENTER[:1])(draws) - log_q)
            return (jax.nn.logsumexp(powers) - np.log(2)) / power

        return weights @ jax.vmap(one)(both)

    value, gradient = jax.jit(jax.value_and_grad(bound))(member(1))
    return float(value), np.r_[gradient.mean, gradient.log_scale]


@pytest.mark.parametrize(
    ("objective", "power"),
    [
        (lambda *a: bounds.importance_weighted(*a, k=2), 1.0),
        (lambda *a: bounds.doubly_reparametrised(*a, k=2), 1.0),
        (lambda *a: bounds.renyi(*a, k=2, alpha=0.4), 0.6),
    ],
    ids=["importance_weighted", "doubly_reparametrised", "renyi"],
)
def test_gradients_of_bounds_of_two_draws(objective, power):
    value, of_member, _ = gradients(objective, p=1)
    expected, gradient = by_quadrature(power)
    agree(value, expected)
    agree(of_member, gradient)


def test_the_target_gets_the_same_gradient_from_both_importance_bounds():
    plain = gradients(lambda *a: bounds.importance_weighted(*a, k=K))
    double = gradients(lambda *a: bounds.doubly_reparametrised(*a, k=K))
    np.testing.assert_allclose(plain[0], double[0], atol=1e-12)
    np.testing.assert_allclose(plain[2], double[2], atol=1e-12)
    agree(plain[1] - double[1], 0.0)


def test_one_draw_to_a_bound_is_the_elbo():
    plain, double = (
        gradients(lambda *a, f=f: f(*a, k=1))
        for f in (bounds.importance_weighted, bounds.doubly_reparametrised)
    )
    for found, name in ((plain, "reparametrised_elbo"), (double, "path_elbo")):
        for one, other in zip(found, gradients(getattr(bounds, name)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-12)


def test_more_draws_never_loosen_and_never_pass_the_evidence():
    noise = noise_for(repeats=3000)

    def values(k, alpha=0.0):
        one = lambda e: bounds.renyi(Target(CENTER), member(), e, k, alpha)  # noqa: E731
        return np.asarray(jax.jit(jax.vmap(one))(noise))

    ladder = [values(1), values(4, 0.5), values(4), values(8)]
    for looser, tighter in zip(ladder, ladder[1:], strict=False):
        gain = tighter - looser
        assert gain.mean() > 4.5 * gain.std() / np.sqrt(len(gain))
    error = ladder[-1].std() / np.sqrt(len(noise))
    assert ladder[-1].mean() < CONSTANT + 4.5 * error


@pytest.mark.parametrize(
    ("objective", "still"),
    [
        (bounds.path_elbo, True),
        (lambda *a: bounds.doubly_reparametrised(*a, k=K), True),
        (bounds.reparametrised_elbo, False),
    ],
    ids=["path", "doubly", "reparametrised"],
)
def test_path_gradients_have_no_noise_at_the_target(objective, still):
    exact = FullRank(CENTER, np.linalg.cholesky(np.linalg.inv(PRECISION)))
    noise = noise_for(repeats=1)[0]
    climb = jax.jit(jax.value_and_grad(lambda q: objective(Target(CENTER), q, noise)))
    value, gradient = climb(exact)
    assert value == pytest.approx(CONSTANT, abs=1e-12)
    size = max(np.abs(gradient.mean).max(), np.abs(np.tril(gradient.factor)).max())
    assert (size < 1e-12) == still


class Lossy(MeanField):
    """A member whose inverse pass has lost its digits."""

    def log_density(self, draws):
        return super().log_density(draws) - 1e6


@pytest.mark.parametrize("name", ["path_elbo", "score_function_elbo"])
def test_the_value_is_that_of_the_forward_pass(name):
    q, noise = member(), noise_for(repeats=1)[0]
    lossy = Lossy(q.mean, q.log_scale)
    objective = getattr(bounds, name)
    assert objective(Target(CENTER), lossy, noise) == pytest.approx(
        float(bounds.reparametrised_elbo(Target(CENTER), q, noise)), abs=1e-12
    )


def test_the_score_function_needs_no_derivative():
    """A target made of steps, whose expectation under q is a sum of normal probabilities."""

    def steps(draws):
        return -jnp.floor(jnp.abs(draws)).sum(1)

    grid = np.linspace(-12, 12, 200_001)
    width = grid[1] - grid[0]

    def expected(mean, log_scale):
        at = (grid - mean) / jnp.exp(log_scale)
        density = jnp.exp(-0.5 * at**2 - log_scale) / np.sqrt(2 * np.pi)
        return width * (density * -np.floor(np.abs(grid))).sum() + log_scale

    q = member(1)
    truth = jax.grad(expected, argnums=(0, 1))(q.mean[0], q.log_scale[0])
    one = jax.grad(lambda q, noise: bounds.score_function_elbo(steps, q, noise))
    found = jax.jit(jax.vmap(one, (None, 0)))(q, noise_for(1))
    agree(np.concatenate([found.mean, found.log_scale], 1), np.array(truth))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda q, e: bounds.importance_weighted(Target(CENTER), q, e, 3), "k must divide"),
        (lambda q, e: bounds.doubly_reparametrised(Target(CENTER), q, e, 0), "k must divide"),
        (lambda q, e: bounds.renyi(Target(CENTER), q, e, 4, 1.0), "alpha must be"),
        (lambda q, e: bounds.score_function_elbo(Target(CENTER), q, e[:1]), "at least 2 draws"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(member(), noise_for(repeats=1)[0])
