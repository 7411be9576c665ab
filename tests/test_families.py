"""Families: each below the evidence, and where it says; users' own; linear response."""

from __future__ import annotations

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import stats as jstats
from jaxtyping import Array

import minorant
from minorant import bounds, unknowns
from minorant._config import precision
from minorant.models.target import AbstractTarget
from minorant.posteriors import AbstractMember
from minorant.solvers import linear_response, match, pathfinder, sample_average
from minorant.targets import Target

COVARIANCE = np.array([[4.0, 1.5, 0.3], [1.5, 1.0, 0.2], [0.3, 0.2, 0.5]])
PRECISION, MEAN = np.linalg.inv(COVARIANCE), np.array([3.0, -1.0, 0.5])
LOG_EVIDENCE = 0.7


def _normal(z):
    away = z - MEAN
    log_volume = np.linalg.slogdet(2 * np.pi * COVARIANCE)[1]
    return LOG_EVIDENCE - 0.5 * (away @ PRECISION @ away + log_volume)


@pytest.fixture(scope="module")
def gaussian():
    """A correlated normal times e^0.7; ``double`` is derived from it."""
    return Target(_normal, derived=lambda z: {"double": 2 * z[0] + z[1]}, z=unknowns.real(3))


@pytest.mark.parametrize("name", cases.FAMILIES)
def test_a_family_lies_below_the_evidence_and_goes_by_its_name(gaussian, name):
    posterior = cases.FAMILIES[name]
    fit = minorant.fit(gaussian, posterior=posterior)
    asked = posterior if isinstance(posterior, str) else posterior.name
    assert fit.rungs[-1].family == asked
    for rung in fit.rungs:
        value, error = rung.bound
        assert value < LOG_EVIDENCE + 4 * error + 1e-9
    independent = -0.5 * (np.log(np.diag(PRECISION)).sum() + np.linalg.slogdet(COVARIANCE)[1])
    limit = independent if asked in {"mean-field", "exponential-family"} else 0.0
    assert fit.bound.value > LOG_EVIDENCE + limit - 0.05


@pytest.fixture(scope="module")
def mean_field(gaussian):
    return minorant.fit(gaussian, posterior="mean-field")


def test_mean_field_is_too_narrow_and_linear_response_exact(mean_field):
    """Of a normal: q's deviations are one over the root of the precision's diagonal."""
    narrow = 1 / np.sqrt(np.diag(PRECISION))
    np.testing.assert_allclose(np.exp(mean_field.rung.member.log_scale), narrow, rtol=1e-5)
    found = mean_field.linear_response(("z",))
    assert found.names == ("z[0]", "z[1]", "z[2]")
    np.testing.assert_allclose(found.covariance, COVARIANCE, rtol=1e-6)


def test_linear_response_of_what_is_derived_is_in_the_summary(mean_field):
    weights = np.array([2.0, 1.0, 0.0])
    table = mean_field.summary()
    assert abs(table["double"].response_sd - np.sqrt(weights @ COVARIANCE @ weights)) < 1e-6
    assert "lr sd" in str(table)
    assert "linear response" in table.sentence


class Tilted(AbstractTarget):
    """A normal whose log deviation is normal too, tilted along x^2."""

    tilt: Array

    @property
    def size(self):
        return 2

    def log_density(self, free):
        x, log_sd = free
        both = jstats.norm.logpdf(x, 0.0, jnp.exp(log_sd)) + jstats.norm.logpdf(log_sd, 0.0, 0.2)
        return both + self.tilt * x**2

    def values(self, free):
        return {"square": free[:1] ** 2}

    def free(self, values):
        raise AssertionError(values)

    def initial(self):
        return None

    def work(self):
        return 1


def test_linear_response_of_a_bent_target_is_the_slope_of_its_means():
    """Against climbs of the target tilted by a little: the definition, on the same held draws."""
    with precision(np.dtype(float)):
        draws = np.asarray(sample_average.paired_draws(jax.random.key(0), 64, 2))
        climb = jax.jit(sample_average.climb_average)

        def fitted(tilt):
            average = sample_average.AverageBound(Tilted(np.asarray(tilt)), draws)
            start = np.array([0.3, 0.0, -1.0, -1.0])
            end, _ = climb(average, start, np.float64(1e-14), np.int32(50))
            return average, np.asarray(end.point)

        own = linear_response.covariance(*fitted(0.0), linear_response.Outputs(("square",)))
        step = 1e-3
        above, below = (fitted(tilt)[1] for tilt in (step, -step))
    # Held draws have exact second moments, so that the mean of x^2 is that of the member.
    square = [point[0] ** 2 + np.exp(2 * point[2]) for point in (above, below)]
    np.testing.assert_allclose(own, (square[0] - square[1]) / (2 * step), rtol=1e-4)


@jax.custom_vjp
def _hidden(z):
    """As a program that another language evaluates and differentiates."""
    return _normal(z)


_hidden.defvjp(
    lambda z: (_normal(z), jax.lax.stop_gradient(jax.grad(_normal)(z))), lambda s, c: (c * s,)
)


def test_without_second_derivatives_mean_fields_are_climbed_and_do_not_respond(mean_field):
    fit = minorant.fit(Target(_hidden, z=unknowns.real(3)), posterior="mean-field")
    assert "BFGS" in fit.rung.sentence
    # BFGS leaves about 1e-9 nats: a ten-thousandth of a deviation of 2.
    theirs = mean_field.rung.member
    np.testing.assert_allclose(fit.rung.member.mean, theirs.mean, atol=5e-4)
    np.testing.assert_allclose(fit.rung.member.log_scale, theirs.log_scale, atol=5e-4)
    assert "lr sd" not in str(fit.summary())


def test_only_mean_fields_respond(gaussian):
    fit = minorant.fit(gaussian, posterior="mode")
    with pytest.raises(ValueError, match="linear_response is of fits by posterior='mean-field'"):
        fit.linear_response()


class Skewed(AbstractMember):
    """A user's density: a sinh-stretched normal, coordinate by coordinate."""

    shift: Array
    log_scale: Array

    @property
    def size(self):
        return self.shift.shape[-1]

    def noise(self, key, s):
        return jax.random.normal(key, (s, self.size))

    def transform(self, noise):
        draws = self.shift + jnp.exp(self.log_scale) * jnp.sinh(noise)
        return draws, self._log(noise)

    def log_density(self, draws):
        return self._log(jnp.arcsinh((draws - self.shift) * jnp.exp(-self.log_scale)))

    def _log(self, noise):
        log_slope = self.log_scale + jnp.log(jnp.cosh(noise))
        return (jstats.norm.logpdf(noise) - log_slope).sum(-1)


class Lying(Skewed):
    """Its log density forgets the scale."""

    def log_density(self, draws):
        return super().log_density(draws) + self.log_scale.sum()


@pytest.fixture(scope="module")
def skewed():
    """A target that the user's density holds: shift (1, -2), scale (0.5, 3); evidence 0."""
    truth = Skewed(np.array([1.0, -2.0]), np.log([0.5, 3.0]))
    return Target(lambda z: truth.log_density(z[None])[0], z=unknowns.real(2))


def test_a_users_density_is_climbed_from_where_it_stands(skewed):
    start = Skewed(np.zeros(2, np.float32), np.zeros(2, np.float32))
    fit = minorant.fit(skewed, posterior=start)
    assert [rung.family for rung in fit.rungs] == ["given"]
    assert fit.outcome.name == "TIGHT"
    # The path derivative has no noise at the optimum, so that the climb ends on it.
    np.testing.assert_allclose(fit.rung.member.shift, [1.0, -2.0], atol=0.01)
    np.testing.assert_allclose(np.exp(fit.rung.member.log_scale), [0.5, 3.0], rtol=0.01)
    assert abs(fit.bound.value) < 1e-3


def test_other_bounds_are_climbed_and_said(skewed):
    """A normal cannot be the target: it becomes wider for the importance-weighted bound."""
    from minorant.posteriors.members import MeanField

    start = MeanField(np.array([1.0, -2.0]), np.log([0.5, 3.0]))
    elbo = minorant.fit(skewed, posterior=start)
    weighted = minorant.fit(skewed, posterior=start, bound=bounds.ImportanceWeighted(16))
    assert "importance-weighted bound of 16 draws" in weighted.rung.sentence
    assert (weighted.rung.member.log_scale > elbo.rung.member.log_scale).all()
    assert weighted.bound.value < elbo.bound.value
    # More draws to a bound never loosen it, on any density: here on the one of the ELBO.
    values = [_bound(skewed, elbo.rung.member, bounds.ImportanceWeighted(k)) for k in (1, 4, 16)]
    values.insert(1, _bound(skewed, elbo.rung.member, bounds.Renyi(0.5, k=4)))
    for (value, error), (better, its_error) in zip(values, values[1:], strict=False):
        assert better > value - 3 * np.hypot(error, its_error)
    assert values[-1][0] > values[0][0] + 3 * values[0][1]
    assert values[-1][0] < 3 * values[-1][1]


def _bound(target, member, bound):
    """A bound's mean over 32 batches of 256 draws, the same for all, and its standard error."""

    def of_batch(key):
        return bound.of_draws(jax.vmap(target.log_density), member, member.noise(key, 256))

    with precision(np.dtype(float)):
        keys = jax.random.split(jax.random.key(0), 32)
        values = np.asarray(jax.jit(lambda keys: jax.lax.map(of_batch, keys))(keys))
    return values.mean(), values.std() / np.sqrt(len(values))


@pytest.mark.parametrize(
    ("posterior", "options", "error", "words"),
    [
        (Skewed(np.zeros(3), np.zeros(3)), {}, ValueError, "over 3 numbers; the target has 2"),
        (Lying(np.zeros(2), np.ones(2)), {}, ValueError, "both must be the density"),
        (3, {}, TypeError, "posterior must be the name of a family"),
        ("full-rank", {"bound": bounds.Renyi()}, ValueError, "climbs the evidence lower bound"),
        ("flow", {"bound": "iw"}, TypeError, "bound must be an object of minorant.bounds"),
    ],
)
def test_what_cannot_be_climbed_is_named(skewed, posterior, options, error, words):
    with pytest.raises(error, match=words):
        minorant.fit(skewed, posterior=posterior, **options)


def test_batch_and_match_meets_a_normal_from_far_away(gaussian):
    """With a large rate one update solves for mean and covariance; the scores are exact."""
    with precision(np.dtype(float)):
        found = match.matched(
            gaussian, np.full(3, 20.0), np.eye(3), np.random.default_rng(0), 16, 1e-3, 60
        )
    np.testing.assert_allclose(found.mean, MEAN, atol=1e-6)
    np.testing.assert_allclose(found.covariance, COVARIANCE, atol=1e-6)
    assert found.over


def test_one_update_solves_its_quadratic():
    """Sigma U Sigma + Sigma = V, in the words of the publication, by plain products."""
    rng, rate = np.random.default_rng(1), 1.7
    draws, scores = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    mean, found = match.updated(MEAN, COVARIANCE, draws, scores, rate)
    share = rate / (1 + rate)
    slope, away = scores.mean(0), MEAN - draws.mean(0)
    u = rate * np.cov(scores.T, bias=True) + share * np.outer(slope, slope)
    v = COVARIANCE + rate * np.cov(draws.T, bias=True) + share * np.outer(away, away)
    np.testing.assert_allclose(found @ u @ found + found, v, atol=1e-10)
    expected = MEAN / (1 + rate) + share * (found @ slope + draws.mean(0))
    np.testing.assert_allclose(mean, expected, atol=1e-12)


def test_pathfinders_gaussians_are_blackjaxs(gaussian):
    """On one path: covariances by its factors, and the bound by its draws."""
    lbfgs = pytest.importorskip("blackjax.optimizers.lbfgs")
    with precision(np.dtype(float)):
        (path,) = pathfinder.paths(gaussian, np.array([[-4.0, 5.0, 2.0]]), 200)
        member = pathfinder.gaussians(path)[-1]
        moves, falls = np.diff(path.points, axis=0), -np.diff(path.gradients, axis=0)
        alpha = np.ones(3)
        for move, fall in zip(moves, falls, strict=True):
            alpha = np.asarray(lbfgs.lbfgs_recover_alpha(alpha, move, fall)[0])
        last = slice(max(0, len(moves) - 6), None)
        beta, gamma = lbfgs.lbfgs_inverse_hessian_factors(moves[last].T, falls[last].T, alpha)
        points, log_q = lbfgs.bfgs_sample(
            rng_key=jax.random.key(0), num_samples=4000, position=path.points[-1],
            grad_position=-path.gradients[-1], alpha=alpha, beta=beta, gamma=gamma,
        )  # fmt: skip
        theirs = np.asarray(jax.vmap(gaussian.log_density)(points) - log_q)
        ours = pathfinder.bounds(
            gaussian, [member], np.random.default_rng(0).normal(size=(4000, 3))
        )
        beta, gamma = np.asarray(beta), np.asarray(gamma)
    covariance = np.diag(alpha) + beta @ gamma @ beta.T
    scaled = np.exp(member.log_scale)[:, None] * member.directions
    own = (
        np.diag(np.exp(2 * member.log_scale))
        + scaled @ np.diag(np.expm1(2 * member.log_stretch)) @ scaled.T
    )
    np.testing.assert_allclose(own, covariance, rtol=1e-6, atol=1e-9)
    assert abs(theirs.mean() - ours[0]) < 5 * theirs.std() / np.sqrt(4000) + 1e-6
