"""Models as targets: evidence and posteriors against closed forms, enumeration and BUGS."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import minorant
from minorant.checking import POINTS, looked_at
from minorant.components import Gaussian, Poisson
from minorant.models import FactorAnalysis, HiddenMarkov, LeftRight, MixedModel, Mixture
from minorant.models.target import log_densities
from minorant.targets import bayes

SIX = np.array([[-1.2], [0.3], [0.1], [2.2], [1.9], [3.5]])
# Crowder (1978), "Beta-binomial anova for proportions", table 3: seeds that germinated, of how
# many, on 21 plates of two kinds of seed and two extracts.
GERMINATED = [10, 23, 23, 26, 17, 5, 53, 55, 32, 46, 10, 8, 10, 8, 23, 0, 3, 22, 15, 32, 3]
SEEDS = [39, 62, 81, 51, 39, 6, 74, 72, 51, 79, 13, 16, 30, 28, 45, 4, 12, 41, 30, 51, 7]
KIND = np.repeat([0.0, 1.0], [11, 10])
EXTRACT = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1.0])


class NormalPrior:
    """What ``prior=`` takes: anything with ``log_prob``."""

    def __init__(self, mean, deviation):
        self.mean, self.deviation = mean, deviation

    def log_prob(self, value):
        return jax.scipy.stats.norm.logpdf(value, self.mean, self.deviation)


# The mean of normal rows, with a normal prior


@pytest.fixture(scope="module")
def normal_mean():
    model = Mixture(Gaussian(covariance=np.array([[[2.0]]])), n_components=1)
    prior = {"component.mean": NormalPrior(1.0, 3.0)}
    target = bayes(model, SIX, fixed=lambda m: m.component.covariance, prior=prior)
    return minorant.fit(target, posterior="full-rank")


def test_the_evidence_of_a_normal_mean_is_the_closed_form(normal_mean):
    covariance = 2.0 * np.eye(6) + 9.0
    exact = stats.multivariate_normal(np.ones(6), covariance).logpdf(SIX[:, 0])
    assert normal_mean.target.size == 1
    assert float(normal_mean.bound.value) == pytest.approx(exact, abs=1e-7)


def test_the_posterior_of_a_normal_mean_is_the_closed_form(normal_mean):
    precision = 1 / 9.0 + 6 / 2.0
    mean = (1 / 9.0 + SIX.sum() / 2.0) / precision
    row = normal_mean.summary()["component.mean[0, 0]"]
    assert abs(row.mean - mean) < 5 * row.mean_error
    assert row.sd == pytest.approx(precision**-0.5, rel=0.05)


# Mixtures, their labels enumerated


def labelled(means, variances, log_weights):
    """``log p(x, z)`` for all 2^6 labels."""
    every = np.array(list(itertools.product([0, 1], repeat=6)))
    scores = stats.norm.logpdf(SIX, means, np.sqrt(variances)) + log_weights
    return every, np.take_along_axis(scores[None], every[:, :, None], 2)[:, :, 0].sum(1)


def test_a_mixture_sums_its_labels_out():
    """The joint of all parameters at several points: labels enumerated, and the Jacobian."""
    target = bayes(Mixture(Gaussian(), n_components=2), SIX, random_state=1)
    points = np.random.default_rng(0).normal(0, 0.5, (POINTS, target.size))
    found = looked_at(target, points)[0]
    with jax.enable_x64(True):
        for point, log_p in zip(points[:3], found, strict=False):
            values = jax.device_get(target.values(point))
            log_jacobian = float(target.free(values)[1])
            means, variances = values["component.mean"][:, 0], values["component.covariance"]
            joint = labelled(means, variances[:, 0, 0], np.log(values["weights"]))[1]
            assert log_p == pytest.approx(special.logsumexp(joint) + log_jacobian, abs=1e-9)


def test_the_evidence_of_mixing_weights_is_a_sum_over_labels():
    """A flat prior on (w, 1 - w): every labelling has weight B(1 + n_1, 1 + n_2)."""
    means, variances = np.array([0.0, 2.0]), np.array([1.0, 0.5])
    component = Gaussian(mean=means[:, None], covariance=variances[:, None, None])
    model = Mixture(component, n_components=2)
    fixed = lambda m: (m.component.mean, m.component.covariance)  # noqa: E731
    target = bayes(model, SIX, fixed=fixed)
    every, joint = labelled(means, variances, 0.0)
    ones = every.sum(1)
    exact = special.logsumexp(joint + special.betaln(1 + ones, 7 - ones))
    grid = np.linspace(-40, 40, 100 * POINTS).reshape(-1, POINTS, 1)
    density = np.exp(np.concatenate([looked_at(target, part)[0] for part in grid]))
    assert target.names == ("weights",)
    assert np.log(np.trapezoid(density, grid.ravel())) == pytest.approx(exact, abs=1e-9)


# Random effects: seeds


def seeds_prior(model):
    """Coefficients N(0, 10^2); the precision Gamma(0.01, 0.01), as a density of the variance."""
    variance = model.covariance[0, 0]
    log_p = jax.scipy.stats.norm.logpdf(model.coefficients, 0.0, 10.0).sum()
    gamma = jax.scipy.stats.gamma.logpdf(1 / variance, 0.01, scale=100.0)
    return log_p + gamma - 2 * jnp.log(variance)


@pytest.fixture(scope="module")
def seeds():
    rows = np.column_stack([GERMINATED, np.subtract(SEEDS, GERMINATED)]).astype(float)
    inputs = np.column_stack([KIND, EXTRACT, KIND * EXTRACT])
    model = MixedModel("binomial")
    target = bayes(model, rows, groups=np.arange(21), inputs=inputs, prior=seeds_prior)
    return minorant.fit(target, posterior="full-rank")


def test_the_evidence_of_seeds_is_that_of_a_long_importance_sampler(seeds):
    """-73.4081 (se 0.0017): 200,000 Student-t draws, 61 fixed Gauss-Hermite nodes an effect.

    The model is that of Geffner & Domke (2023), "Langevin diffusion variational inference", with 26
    unknowns, where the best published lower bound is -73.6 (table 2).
    """
    estimate = seeds.rung.evidence
    error = np.hypot(float(estimate.standard_error), 0.0017)
    assert seeds.target.size == 5
    assert abs(float(estimate.value) + 73.4081) < 3.5 * error
    assert float(seeds.bound.value) > -73.6
    with pytest.raises(TypeError, match="depend on their groups or inputs"):
        seeds.predict(n=3)


def test_the_posterior_of_seeds_is_that_of_bugs(seeds):
    """JAGS' classic-bugs, volume 1, seeds/bench-test5.R: mean, sd and standard error of the mean.

    There the deviation is uniform on (0, 10) and coefficients N(0, 10^6). Draws are Student-t
    around the fit, weighed by the target's density with that prior in place of its own.
    """
    published = {
        "alpha0": (-0.5523, 0.2141, 0.0047),
        "alpha1": (0.0730, 0.3428, 0.0074),
        "alpha2": (1.3722, 0.3071, 0.0068),
        "alpha12": (-0.8496, 0.4829, 0.0106),
        "sigma": (0.3492, 0.1545, 0.0034),
    }
    member, target = seeds.posterior.member, seeds.target
    law = stats.multivariate_t(member.mean, member.factor @ member.factor.T, df=4, seed=5)
    points = law.rvs(20_000)
    with jax.enable_x64(True):
        log_p, values = jax.device_get(
            jax.jit(lambda u: (log_densities(target, u), jax.vmap(target.values)(u)))(points)
        )
    sigma = np.sqrt(values["covariance"][:, 0, 0])
    columns = np.column_stack([values["coefficients"], sigma])
    log_ours = stats.norm.logpdf(columns[:, :4], 0, 10).sum(1)
    log_ours += stats.gamma.logpdf(sigma**-2, 0.01, scale=100.0) - 4 * np.log(sigma)
    log_theirs = stats.norm.logpdf(columns[:, :4], 0, 1000).sum(1) - np.log(2 * sigma)
    log_weight = log_p - law.logpdf(points) + np.where(sigma < 10, log_theirs - log_ours, -np.inf)
    weight = special.softmax(log_weight)
    means = weight @ columns
    deviations = np.sqrt(weight @ (columns - means) ** 2)
    errors = np.sqrt((weight**2) @ (columns - means) ** 2)
    for j, (mean, deviation, error) in enumerate(published.values()):
        assert abs(means[j] - mean) < 3.5 * np.hypot(errors[j], error)
        assert deviations[j] == pytest.approx(deviation, rel=0.05)


# What a target is made of


def left_right():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 1)) + np.tile(np.repeat([0.0, 3.0, 6.0], [5, 7, 8]), 3)[:, None]
    model = HiddenMarkov(Poisson(), n_components=3, structure=LeftRight())
    return model, np.round(np.abs(rows)), {"groups": np.repeat([0, 1, 2], 20)}


def factors():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(40, 1)) * [1.0, 2.0, -1.0] + rng.normal(size=(40, 3))
    rows[3, 0] = np.nan
    return FactorAnalysis(1), rows, {"weights": rng.uniform(0.5, 1.5, 40)}


@pytest.mark.parametrize("make", [left_right, factors])
def test_at_the_start_the_density_is_that_of_the_fit(make):
    model, rows, keywords = make()
    target = bayes(model, rows, **keywords)
    fit = minorant.fit(model, rows, **keywords)
    points = np.random.default_rng(2).normal(0, 0.2, (POINTS, target.size))
    points[0], step = 0.0, 1e-5
    points[2] = points[1] + step * points[3]
    log_p, gradients = looked_at(target, points)
    with jax.enable_x64(True):
        values = jax.device_get(target.values(points[1]))
        back = target.free(values)[0]
        start, log_jacobian = target.free(jax.device_get(target.values(points[0])))
    assert log_p[0] - float(log_jacobian) == pytest.approx(fit.bound, abs=2e-2)
    assert (log_p[2] - log_p[1]) / step == pytest.approx(gradients[1] @ points[3], rel=1e-3)
    np.testing.assert_allclose(back, points[1], atol=1e-9)
    np.testing.assert_allclose(start, 0.0, atol=1e-9)


def test_a_target_of_many_blocks_sums_them_all():
    rows = np.random.default_rng(3).poisson(4.0, (600_000, 1)).astype(float)
    target = bayes(Mixture(Poisson(), n_components=1), rows)
    assert target.source.segments[0].capacity() > 1
    log_p, gradients = looked_at(target, np.zeros((POINTS, 1)))
    rate = rows.mean()
    exact = stats.poisson.logpmf(rows, rate).sum()
    log_scale = float(np.log(target.scale[0]))
    assert log_p[0] - np.log(rate) - log_scale == pytest.approx(exact, rel=1e-10)
    assert gradients[0, 0] == pytest.approx(target.scale[0], rel=1e-6)  # that of log(rate) + ...


def test_targets_of_other_data_share_their_programs():
    model = Mixture(Poisson(), n_components=1)
    one, other = (bayes(model, np.full((5, 1), value)) for value in (3.0, 7.0))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    changed = dataclasses.replace(one, source=other.source)
    before, after = (looked_at(target, np.zeros((POINTS, 1)))[0][0] for target in (one, changed))
    assert before != after


def test_a_draw_makes_a_model(normal_mean):
    draws = normal_mean.sample(3)
    model = normal_mean.target.model({name: draw[0] for name, draw in draws.items()})
    assert model.component.mean.tolist() == draws["component.mean"][0].tolist()
    assert model.component.covariance.tolist() == [[[2.0]]]


ONE = Mixture(Poisson(), n_components=1)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"prior": {"rate": NormalPrior(0, 1)}}, ValueError, "'rate', .* learned: component.rate"),
        ({"prior": {"component.rate": 3.0}}, TypeError, "distribution with log_prob.* got float"),
        ({"prior": 3.0}, TypeError, "a function of the model .* got float"),
        (
            {"prior": lambda m: m.component.rate},
            ValueError,
            r"one number; it returned shape \(1, 1",
        ),
        ({"weights": [1.0, 2.0]}, ValueError, "weights must have one number per row"),
    ],
)
def test_bad_input_is_named(options, error, sentence):
    with pytest.raises(error, match=sentence):
        bayes(ONE, SIX.round().clip(0), **options)


def test_a_model_without_anything_to_learn_is_named():
    model = Mixture(Poisson(rate=np.array([[2.0]])), n_components=1)
    with pytest.raises(ValueError, match="nothing to learn"):
        bayes(model, SIX.round().clip(0), fixed=lambda m: m.component.rate)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "component.mean is missing"),
        ({"component.mean": np.zeros(2)}, r"component.mean must have shape \(1, 1\); got \(2,\)"),
        ({"component.mean": np.full((1, 1), np.nan)}, "not strictly inside"),
    ],
)
def test_values_that_cannot_be_are_named(normal_mean, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        normal_mean.target.free(values)


def test_a_model_that_has_a_posterior_of_its_parameters_is_refused():
    from minorant.components import BayesianGaussian
    from minorant.models import BayesianMixture

    model = BayesianMixture(BayesianGaussian(), n_components=2)
    with pytest.raises(TypeError, match="already"):
        minorant.bayes(model, np.zeros((5, 1)))
