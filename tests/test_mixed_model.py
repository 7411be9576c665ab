"""Mixed models against closed forms, SciPy's integrals, statsmodels and published estimates."""

from __future__ import annotations

import math
import warnings

import jax
import numpy as np
import pytest
import truth_quadrature as truth
from scipy import stats
from sklearn.base import clone

import minorant
from minorant.estimators import MixedModel as Mixed
from minorant.models import MixedModel
from minorant.posteriors import Adaptive

SIGMA = np.array([[0.8, 0.2], [0.2, 0.3]])


def table(family, seed=0, n_groups=6):
    """Outcomes of groups of 1 to 5 rows, out of order, one outcome missing."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), 1 + np.arange(n_groups) % 5)
    x = rng.normal(size=len(groups))
    effects = rng.multivariate_normal(np.zeros(2), SIGMA, n_groups)[groups]
    eta = 0.3 + 0.5 * x + effects[:, 0] + effects[:, 1] * x
    if family == "normal":
        y = (eta + 0.6 * rng.normal(size=len(x)))[:, None]
    elif family == "poisson":
        y = rng.poisson(np.exp(eta))[:, None].astype(float)
    else:
        trials = 1 if family == "bernoulli" else 7
        y = rng.binomial(trials, 1 / (1 + np.exp(-eta))).astype(float)
        y = y[:, None] if family == "bernoulli" else np.stack([y, trials - y], axis=1)
    y[2] = np.nan
    order = rng.permutation(len(x))
    return y[order], x[order, None], groups[order]


def scored(model, y, inputs, groups):
    """``log p`` of the table at the model's parameters."""
    fit = minorant.fit(model, y, inputs=inputs, groups=groups, max_steps=1)
    fit = fit._replace(model=model, standardised=model)
    return fit, fit.log_evidence(y, inputs=inputs, groups=groups)


def slow_log_outcome(family, y, eta):
    if family == "poisson":
        return y[0] * eta - math.exp(eta) - math.lgamma(y[0] + 1)
    chance, trials = 1 / (1 + math.exp(-eta)), 1 if family == "bernoulli" else int(y.sum())
    ways = math.comb(trials, int(y[0]))
    return math.log(ways * chance ** y[0] * (1 - chance) ** (trials - y[0]))


@pytest.mark.parametrize("family", ["bernoulli", "binomial", "poisson"])
def test_evidence_and_effects_against_fine_grids(family, float64):
    y, x, groups = table(family, n_groups=4)
    model = MixedModel(
        family, (0, 1), np.array([0.3, 0.5]), SIGMA, np.asarray(0.6), rule=Adaptive(20)
    )
    fit, found = scored(model, y, x, groups)
    posterior = fit.posterior(y, inputs=x, groups=groups)
    for g in np.unique(groups):
        own = np.flatnonzero(groups == g)

        def log_joint(u, own=own):
            rows = [i for i in own if not np.isnan(y[i, 0])]
            eta = {i: 0.3 + 0.5 * x[i, 0] + u[0] + u[1] * x[i, 0] for i in rows}
            outcome = sum(slow_log_outcome(family, y[i], eta[i]) for i in rows)
            return outcome + truth.log_prior(u, np.zeros(2), SIGMA)

        total, mean, covariance = truth.fine_grid(log_joint, np.zeros(2), 5.5, 45)
        np.testing.assert_allclose(found[own].sum(), total, atol=1e-6)
        np.testing.assert_allclose(posterior.mean[own[0]], mean, atol=1e-5)
        np.testing.assert_allclose(posterior.covariance[own[-1]], covariance, atol=1e-5)


def test_normal_outcomes_have_a_closed_form(float64):
    y, x, groups = table("normal")
    model = MixedModel(
        "normal", (0, 1), np.array([0.3, 0.5]), SIGMA, np.asarray(0.6), rule=Adaptive(1)
    )
    fit, found = scored(model, y, x, groups)
    posterior = fit.posterior(y, inputs=x, groups=groups)
    for g in np.unique(groups):
        own = np.flatnonzero((groups == g) & ~np.isnan(y[:, 0]))
        z = np.column_stack([np.ones(len(own)), x[own]])
        marginal = z @ SIGMA @ z.T + 0.36 * np.eye(len(own))
        away = y[own, 0] - z @ [0.3, 0.5]
        expected = stats.multivariate_normal(np.zeros(len(own)), marginal).logpdf(away)
        np.testing.assert_allclose(found[groups == g].sum(), expected, rtol=1e-10)
        gain = SIGMA @ z.T @ np.linalg.inv(marginal)
        np.testing.assert_allclose(posterior.mean[own[0]], gain @ away, rtol=1e-8, atol=1e-10)
        spread = SIGMA - gain @ z @ SIGMA
        np.testing.assert_allclose(posterior.covariance[own[0]], spread, rtol=1e-8, atol=1e-10)


# Crowder (1978), "Beta-binomial Anova for proportions", table 3: germinated, sown, seed, extract.
SEEDS = np.array([
    [10, 39, 0, 0], [23, 62, 0, 0], [23, 81, 0, 0], [26, 51, 0, 0], [17, 39, 0, 0], [5, 6, 0, 1],
    [53, 74, 0, 1], [55, 72, 0, 1], [32, 51, 0, 1], [46, 79, 0, 1], [10, 13, 0, 1], [8, 16, 1, 0],
    [10, 30, 1, 0], [8, 28, 1, 0], [23, 45, 1, 0], [0, 4, 1, 0], [3, 12, 1, 1], [22, 41, 1, 1],
    [15, 30, 1, 1], [32, 51, 1, 1], [3, 7, 1, 1],
])  # fmt: skip


# Lesnoff, Laval, Bonnet et al. (2004), "Within-herd spread of contagious bovine pleuropneumonia in
# Ethiopian highlands", as lme4's cbpp: herd, period, new cases, size of the herd.
CATTLE = np.array([
    [1, 1, 2, 14], [1, 2, 3, 12], [1, 3, 4, 9], [1, 4, 0, 5], [2, 1, 3, 22], [2, 2, 1, 18],
    [2, 3, 1, 21], [3, 1, 8, 22], [3, 2, 2, 16], [3, 3, 0, 16], [3, 4, 2, 20], [4, 1, 2, 10],
    [4, 2, 0, 10], [4, 3, 2, 9], [4, 4, 0, 6], [5, 1, 5, 18], [5, 2, 0, 25], [5, 3, 0, 24],
    [5, 4, 1, 4], [6, 1, 3, 17], [6, 2, 0, 17], [6, 3, 0, 18], [6, 4, 1, 20], [7, 1, 8, 16],
    [7, 2, 1, 10], [7, 3, 3, 9], [7, 4, 0, 5], [8, 1, 12, 34], [9, 1, 2, 9], [9, 2, 0, 6],
    [9, 3, 0, 8], [9, 4, 0, 6], [10, 1, 1, 22], [10, 2, 1, 22], [10, 3, 0, 18], [10, 4, 2, 22],
    [11, 1, 0, 25], [11, 2, 5, 27], [11, 3, 3, 22], [11, 4, 1, 22], [12, 1, 2, 10], [12, 2, 1, 8],
    [12, 3, 0, 6], [12, 4, 0, 5], [13, 1, 1, 21], [13, 2, 2, 24], [13, 3, 0, 19], [13, 4, 0, 23],
    [14, 1, 11, 19], [14, 2, 0, 2], [14, 3, 0, 3], [14, 4, 0, 2], [15, 1, 1, 19], [15, 2, 1, 15],
    [15, 3, 1, 15], [15, 4, 0, 15],
])  # fmt: skip


@pytest.mark.parametrize(
    ("points", "expected", "within"),
    [
        (1, [-1.39853505, -0.99233471, -1.12867541, -1.58037390], 4e-5),
        (25, [-1.39922533, -0.99140729, -1.12782185, -1.57946627], 1e-5),
    ],
)
def test_cattle_disease_as_in_lme4(points, expected, within):
    """lme4's own test (tests/glmer-1.R): Laplace to its 4e-5 relative, 25 nodes to 1e-5.

    The deviance with 25 nodes, 100.010030538022, is twice the shortfall of log p(y) from the model
    with a chance for every row.
    """
    herd, period, cases, size = CATTLE.T
    X = np.stack([period == p for p in (2, 3, 4)], axis=1).astype(float)
    y = np.column_stack([cases, size - cases]).astype(float)
    options = {"points": points, "standard_errors": False, "tol": 1e-12}
    found = Mixed("binomial", **options).fit(X, y, groups=herd)
    estimates = np.r_[found.intercept_, found.coef_]
    np.testing.assert_allclose(estimates, expected, rtol=within)
    if points == 25:
        saturated = stats.binom.logpmf(cases, size, cases / size).sum()
        deviance = 2.0 * (saturated - found.fit_.bound)
        np.testing.assert_allclose(deviance, 100.010030538022, rtol=1e-8)


@pytest.fixture(scope="module")
def seeds():
    germinated, sown, seed, extract = SEEDS.T.astype(float)
    X = np.column_stack([seed, extract, seed * extract])
    y = np.column_stack([germinated, sown - germinated])
    return X, y, Mixed("binomial", tol=1e-11).fit(X, y, groups=np.arange(21))


def test_seeds_as_published(seeds):
    """Breslow & Clayton (1993), table 4, maximum likelihood by numerical integration.

    All nine printed numbers agree to their 3 decimals, but the interaction, -0.8105, printed -0.811
    (5e-4 of rounding apart).
    """
    _, _, model = seeds
    fixed = model.fixed_effects_
    printed = [-0.548, 0.097, 1.337, -0.811]
    np.testing.assert_allclose(fixed.estimate, printed, atol=6e-4)
    np.testing.assert_allclose(fixed.standard_error, [0.167, 0.278, 0.237, 0.385], atol=6e-4)
    np.testing.assert_allclose(model.random_deviations_, [0.236], atol=5e-4)
    assert model.quadrature_error_ < 1e-9


def test_what_predicts_and_what_is_said(seeds):
    X, y, model = seeds
    alone = model.predict(X)
    np.testing.assert_allclose(np.log(alone / (1 - alone)), model.intercept_ + X @ model.coef_)
    known = model.predict(X, groups=np.arange(21))
    shift = np.log(known / (1 - known)) - np.log(alone / (1 - alone))
    np.testing.assert_allclose(shift, model.group_effects_[:, 0])
    np.testing.assert_allclose(model.predict(X, groups=np.full(21, 99)), alone)
    text = model.summary()
    assert "groups 21 of 1 to 1 rows" in text
    assert "(Intercept)" in text
    assert "0.23624" in text
    assert clone(model).get_params() == model.get_params()
    del y


def test_laplace_and_separate_trials_are_the_same_model(seeds, float64):
    """Seeds one by one, as 0/1 outcomes of a plate: log p differs by the binomial coefficients."""
    X, y, model = seeds
    plates = np.repeat(np.arange(21), SEEDS[:, 1])
    one = np.concatenate([np.repeat([1.0, 0.0], pair.astype(int)) for pair in y])
    other = Mixed("bernoulli", standard_errors=False, tol=1e-10).fit(X[plates], one, groups=plates)
    np.testing.assert_allclose(other.coef_, model.coef_, atol=1e-4)
    coefficients = stats.binom(y.sum(1), 0.5).logpmf(y[:, 0]) - y.sum(1) * math.log(0.5)
    np.testing.assert_allclose(other.fit_.bound + coefficients.sum(), model.fit_.bound, atol=1e-6)


def sleep_like(seed=1):
    """Groups of 3 to 8 rows, an intercept and a slope that vary and correlate."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(30), rng.integers(3, 9, 30))
    x = 10 + 5 * rng.normal(size=len(groups))
    effects = rng.multivariate_normal([0, 0], [[4, 0.3], [0.3, 0.09]], 30)[groups]
    y = 50 + 2 * x + effects[:, 0] + effects[:, 1] * x + 1.5 * rng.normal(size=len(x))
    return x[:, None], y, groups


def test_against_statsmodels():
    """Random intercept and slope by maximum likelihood: everything to 5 digits or more."""
    peer = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    X, y, groups = sleep_like()
    design = np.column_stack([np.ones(len(y)), X])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer.MixedLM(y, design, groups, exog_re=design).fit(reml=False, method=["lbfgs"])
    model = Mixed(random_slopes=[0], tol=1e-11).fit(X, y, groups=groups)
    np.testing.assert_allclose(model.fit_.bound, theirs.llf, atol=1e-6)
    np.testing.assert_allclose(model.fixed_effects_.estimate, theirs.fe_params, rtol=1e-5)
    np.testing.assert_allclose(model.fixed_effects_.standard_error, theirs.bse_fe, rtol=1e-4)
    np.testing.assert_allclose(model.random_covariance_, theirs.cov_re, rtol=1e-3)
    np.testing.assert_allclose(model.deviation_**2, theirs.scale, rtol=1e-4)
    effects = np.array([theirs.random_effects[g] for g in range(30)])
    np.testing.assert_allclose(model.group_effects_, effects, atol=2e-3)


def test_units_order_and_copies_of_groups_do_not_matter(float64):
    y, x, groups = table("poisson", 3, 60)
    # The nodes turn with the inputs: enough of them that this does not show.
    template = MixedModel("poisson", (0, 1), rule=Adaptive(17))
    plain = minorant.fit(template, y, inputs=x, groups=groups, tolerance=1e-10)
    assert plain.outcome.ok
    order = np.random.default_rng(0).permutation(len(y))
    far = 1e4 * x[order] + 3e5
    moved = minorant.fit(template, y[order], inputs=far, groups=groups[order], tolerance=1e-10)
    np.testing.assert_allclose(moved.bound, plain.bound, rtol=1e-7)
    np.testing.assert_allclose(
        1e4 * moved.model.coefficients[1], plain.model.coefficients[1], rtol=1e-2
    )
    twice = np.concatenate([groups, groups + 100])
    copied = minorant.fit(
        template, np.tile(y, (2, 1)), inputs=np.tile(x, (2, 1)), groups=twice, tolerance=1e-10
    )
    weights = np.full(len(y), 2.0)
    weighed = minorant.fit(template, y, inputs=x, groups=groups, weights=weights, tolerance=1e-10)
    np.testing.assert_allclose(copied.bound, weighed.bound, rtol=1e-9)
    np.testing.assert_allclose(weighed.bound, 2 * plain.bound, rtol=1e-7)


def test_an_offset_enters_with_coefficient_one():
    y, x, groups = table("poisson", 5, 20)
    there = ~np.isnan(y[:, 0])
    y, x, groups = y[there, 0], x[there], groups[there]
    quick = {"standard_errors": False, "tol": 1e-10}
    plain = Mixed("poisson", **quick).fit(x, y, groups=groups)
    shifted = Mixed("poisson", **quick).fit(x, y, groups=groups, offset=np.full(len(y), 2.0))
    np.testing.assert_allclose(shifted.intercept_, plain.intercept_ - 2.0, atol=1e-5)
    np.testing.assert_allclose(shifted.fit_.bound, plain.fit_.bound, rtol=1e-9)
    np.testing.assert_allclose(
        shifted.predict(x, groups, offset=np.full(len(y), 2.0)), plain.predict(x, groups), rtol=1e-4
    )


def test_groups_that_do_not_differ_are_named(float64):
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(10), 4)
    y = np.tile([-1.0, 1.0, -1.0, 1.0], 10)[:, None] + 1e-3 * rng.normal(size=(40, 1))
    fit = minorant.fit(MixedModel(), y, groups=groups)
    assert fit.outcome.ok or fit.outcome.name == "DEGENERATE"
    (sentence,) = fit.model.irregular(fit.names)
    assert "singular fit" in sentence
    expected = stats.norm(y.mean(), y.std()).logpdf(y).sum()
    np.testing.assert_allclose(fit.bound, expected, atol=1e-3)


@pytest.mark.parametrize("family", ["normal", "bernoulli", "binomial", "poisson"])
def test_draws_have_the_model_s_moments(family, float64):
    model = MixedModel(family, (0,), np.array([0.4]), np.array([[0.25]]), np.asarray(0.6))
    effects, outcomes = (np.asarray(part) for part in model.sample(jax.random.key(1), 20_000))
    error = np.sqrt(0.25 / len(effects))
    assert abs(effects.mean()) < 4.5 * error
    eta = 0.4 + effects[:, 0]
    mean = {"normal": eta, "poisson": np.exp(eta)}.get(family, 1 / (1 + np.exp(-eta)))
    away = outcomes[:, 0] - mean
    assert abs(away.mean()) < 4.5 * away.std() / np.sqrt(len(away))
    np.testing.assert_allclose(effects.std(), 0.5, atol=0.02)


def test_bad_input(float64):
    X, y, groups = sleep_like()
    with pytest.raises(ValueError, match="groups must name the group of every row"):
        Mixed().fit(X, y)
    with pytest.raises(ValueError, match="y must have one number per row"):
        Mixed().fit(X, y[:5], groups=groups)
    with pytest.raises(ValueError, match="random_slopes names 'x', which is no column"):
        Mixed(random_slopes=["x"]).fit(X, y, groups=groups)
    with pytest.raises(ValueError, match="1 to 3 effects may vary between groups; got 0"):
        Mixed(random_intercept=False).fit(X, y, groups=groups)
    with pytest.raises(ValueError, match="Column 2 of the design .* is a linear combination"):
        Mixed().fit(np.column_stack([X, 2 * X + 1]), y, groups=groups)
    with pytest.raises(ValueError, match="must hold counts 0, 1, 2, ... for the poisson family"):
        Mixed("poisson").fit(X, -y, groups=groups)
    with pytest.raises(ValueError, match="must hold 0 or 1 for the bernoulli family"):
        Mixed("bernoulli").fit(X, np.full(len(y), 2), groups=groups)
    with pytest.raises(ValueError, match="'family' parameter of MixedModel must be a str among"):
        Mixed("gamma").fit(X, y, groups=groups)
    with pytest.raises(ValueError, match="family must be one of"):
        MixedModel("gamma")
    with pytest.raises(ValueError, match="the number of random effects must be 1, 2 or 3"):
        MixedModel("normal", (0, 1, 2, 3))
    with pytest.raises(ValueError, match="random must name different design columns"):
        MixedModel("normal", (0, 0))
    with pytest.raises(ValueError, match="random names design column 4"):
        minorant.fit(MixedModel("normal", (4,)), y[:, None], inputs=X, groups=groups)
    with pytest.raises(ValueError, match="must have two columns, successes and failures"):
        minorant.fit(MixedModel("binomial"), np.round(y[:, None]), groups=groups)
