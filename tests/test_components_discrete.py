"""Bernoulli, Categorical, Poisson and negative binomial components against SciPy."""

from __future__ import annotations

import component_truth as twin
import jax
import numpy as np
import pytest
import truth
from scipy import optimize, stats

import minorant
from minorant._parameters import fixed_mask
from minorant.components import (
    Bernoulli,
    BetaPrior,
    Categorical,
    Dirichlet,
    GammaPrior,
    LogDensity,
    NegativeBinomial,
    Poisson,
)
from minorant.models import Mixture

K, N = 2, 40
SIZES = (2, 3, 4)


def probabilities(rng):
    return np.concatenate([rng.dirichlet(np.ones(m), size=K) for m in SIZES], axis=1)


def draw_categories(rng, component, n):
    parts = np.split(component.probabilities[0], np.cumsum(SIZES)[:-1])
    return np.stack([rng.choice(len(p), n, p=p) for p in parts], 1).astype(float)


MAKE = {
    "bernoulli": lambda rng: Bernoulli(rng.uniform(0.1, 0.9, (K, 3))),
    "categorical": lambda rng: Categorical(SIZES, probabilities(rng)),
    "poisson": lambda rng: Poisson(rng.gamma(2.0, 3.0, (K, 3))),
    "negative_binomial": lambda rng: NegativeBinomial(
        rng.gamma(2.0, 5.0, (K, 3)), rng.gamma(3.0, 2.0, (K, 3)), np.full(3, 1e6), n_tabulated=16
    ),
}
DRAW = {
    "bernoulli": lambda rng, c, n: (rng.random((n, 3)) < c.probability[0]).astype(float),
    "categorical": draw_categories,
    "poisson": lambda rng, c, n: rng.poisson(c.rate[0], (n, 3)).astype(float),
    "negative_binomial": lambda rng, c, n: rng.negative_binomial(
        c.size[0], c.size[0] / (c.size[0] + c.mean[0]), (n, 3)
    ).astype(float),
}
NAMES = tuple(MAKE)

log_prob = jax.jit(lambda c, rows: c.log_prob(rows, c.prepare()))
sums = jax.jit(lambda c, rows, r: c.statistics(rows, r, c.prepare()))
maximise = jax.jit(lambda c, s, fixed=None: c.maximise(s, fixed))
pytestmark = pytest.mark.usefixtures("float64")


def setting(name, seed=0, n=N):
    rng = np.random.default_rng(seed)
    component = MAKE[name](rng)
    values = DRAW[name](rng, component, n)
    return component, values, rng.dirichlet(np.ones(K), n).T * rng.uniform(0.5, 2.0, n)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("missing", [False, True])
def test_log_prob_is_scipys(name, missing):
    component, values, _ = setting(name)
    if missing:
        values = twin.with_gaps(np.random.default_rng(1), values)
    expected = twin.log_prob(getattr(twin, name), component, values)
    np.testing.assert_allclose(log_prob(component, twin.rows_of(values)), expected, atol=1e-10)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_large_counts_are_scipys(name):
    component, _, _ = setting(name)
    values = np.array([[0.0, 17, 255], [256, 1000, 3], [1e4, 300, 1]])
    expected = twin.log_prob(getattr(twin, name), component, values)
    np.testing.assert_allclose(log_prob(component, twin.rows_of(values)), expected, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_sums_to_one_over_the_support(name):
    component, _, _ = setting(name)
    width = {"bernoulli": 2, "categorical": 4}.get(name, 400)
    values = np.full((width, 3), np.nan)
    values[:, 2] = np.arange(width)
    total = np.exp(np.asarray(log_prob(component, twin.rows_of(values)))).sum(1)
    np.testing.assert_allclose(total, 1.0, atol=1e-9)


def test_unknown_category_has_no_density():
    component, _, _ = setting("categorical")
    assert np.all(np.isneginf(log_prob(component, twin.rows_of(np.array([[2.0, 0, 0]])))))


@pytest.mark.parametrize("name", NAMES)
def test_statistics_of_parts_add(name):
    component, values, r = setting(name)
    values = twin.with_gaps(np.random.default_rng(2), values)
    whole = sums(component, twin.rows_of(values), r)
    parts = [sums(component, twin.rows_of(values[i::2]), r[:, i::2]) for i in (0, 1)]
    for all_rows, *some in zip(*map(jax.tree.leaves, (whole, *parts)), strict=True):
        np.testing.assert_allclose(all_rows, sum(some), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_expected_log_prob_is_the_weighted_sum_up_to_a_constant(name):
    component, values, r = setting(name)
    other = setting(name, seed=5)[0]
    rows, shorter = twin.rows_of(values), np.minimum(values, 16)
    rows = twin.rows_of(shorter) if name == "negative_binomial" else rows
    statistics = sums(component, rows, r)
    gain = other.expected_log_prob(statistics) - component.expected_log_prob(statistics)
    truth = (r * (np.asarray(log_prob(other, rows)) - np.asarray(log_prob(component, rows)))).sum(1)
    np.testing.assert_allclose(gain, truth, rtol=1e-9)


def test_bernoulli_maximiser_is_scipys():
    _, x, r = setting("bernoulli")
    ones = (r @ x) / r.sum(1, keepdims=True)
    new = maximise(Bernoulli(), sums(setting("bernoulli")[0], twin.rows_of(x), r))
    np.testing.assert_allclose(new.probability, ones, rtol=1e-12)
    for j, column in ((0, 0), (1, 2)):
        best = optimize.minimize_scalar(
            lambda u, w=r[j], y=x[:, column]: -(w * stats.bernoulli.logpmf(y, u)).sum(),
            bounds=(0.01, 0.99),
            method="bounded",
            options={"xatol": 1e-9},
        )
        np.testing.assert_allclose(new.probability[j, column], best.x, atol=1e-6)


def test_categorical_shares_are_weighted_counts():
    component, x, r = setting("categorical")
    new = maximise(component, sums(component, twin.rows_of(x), r))
    start = 0
    for column, m in enumerate(SIZES):
        counts = np.stack([(r * (x[:, column] == code)).sum(1) for code in range(m)], 1)
        shares = counts / counts.sum(1, keepdims=True)
        np.testing.assert_allclose(new.probabilities[:, start : start + m], shares, atol=1e-9)
        start += m


def best_size(x, r, mean):
    def lost(t):
        s = np.exp(t)
        return -(r * stats.nbinom.logpmf(x, s, s / (s + mean))).sum()

    found = optimize.minimize_scalar(
        lost, bounds=(-5, 12), method="bounded", options={"xatol": 1e-9}
    )
    return np.exp(found.x)


@pytest.mark.parametrize("length", [64, 1024])
def test_negative_binomial_size_is_scipys(length):
    rng = np.random.default_rng(3)
    x = rng.negative_binomial(2.5, 2.5 / (2.5 + 12.0), (300, 1)).astype(float)
    r = rng.dirichlet(np.ones(K), 300).T
    component = NegativeBinomial(
        np.ones((K, 1)), np.ones((K, 1)), np.array([1e6]), n_tabulated=length
    )
    new = maximise(component, sums(component, twin.rows_of(x), r))
    for j in range(K):
        mean = (r[j] @ x[:, 0]) / r[j].sum()
        np.testing.assert_allclose(new.mean[j, 0], mean, rtol=1e-12)
        np.testing.assert_allclose(new.size[j, 0], best_size(x[:, 0], r[j], mean), rtol=1e-5)


def test_negative_binomial_tangent_climbs_to_the_same_size():
    rng = np.random.default_rng(4)
    x = rng.negative_binomial(3.0, 3.0 / 203.0, (200, 1)).astype(float)
    r, rows = np.ones((1, 200)), twin.rows_of(x)
    component = NegativeBinomial(
        np.array([[100.0]]), np.array([[0.5]]), np.array([1e6]), n_tabulated=16
    )
    climb = [np.asarray(log_prob(component, rows)).sum()]
    for _ in range(25):
        component = maximise(component, sums(component, rows, r))
        climb.append(np.asarray(log_prob(component, rows)).sum())
    assert np.diff(climb).min() > -1e-9
    np.testing.assert_allclose(component.size[0, 0], best_size(x[:, 0], r[0], x.mean()), rtol=1e-4)


@pytest.mark.parametrize("value", ["constant", "zero", "poisson"])
def test_negative_binomial_without_overdispersion_is_poisson(value):
    x = {"constant": np.full(50, 4.0), "zero": np.zeros(50), "poisson": np.repeat([4.0, 5, 6], 20)}
    x = x[value][:, None]
    component = NegativeBinomial(
        np.array([[3.0]]), np.array([[2.0]]), np.array([1e6]), n_tabulated=16
    )
    r = np.ones((1, len(x)))
    new = maximise(component, sums(component, twin.rows_of(x), r))
    got = np.asarray(log_prob(new, twin.rows_of(x))).sum()
    limit = stats.poisson.logpmf(x, max(x.mean(), 1e-10)).sum()
    np.testing.assert_allclose(got, limit, atol=1e-3)
    if value != "zero":
        np.testing.assert_allclose(new.size, 1e6, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_empty_component_keeps_its_parameters(name):
    component, values, r = setting(name)
    r = r * np.array([[1.0], [0.0]])
    new = maximise(component, sums(component, twin.rows_of(values), r))
    for old, leaf in zip(jax.tree.leaves(component), jax.tree.leaves(new), strict=True):
        assert np.all(np.isfinite(leaf))
        if np.ndim(old) == 2:
            np.testing.assert_allclose(leaf[1], old[1])
            assert np.abs(leaf[0] - old[0]).max() > 1e-6


@pytest.mark.parametrize("mean", [2000.0, 5000.0])
def test_negative_binomial_counts_in_the_thousands_have_an_answer(mean, dtype):
    rng = np.random.default_rng(0)
    means = np.array([mean, 1.6 * mean])[rng.integers(2, size=500)]
    x = rng.negative_binomial(50.0, 50.0 / (50.0 + means))[:, None].astype(dtype)
    fit = minorant.fit(minorant.Mixture(NegativeBinomial(), n_components=2), x)
    assert fit.outcome.ok, fit.outcome
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, float), fit.model)
    scores = truth.log_joint(wide, x.astype(float), twin.negative_binomial)
    allowed = 1e-10 if dtype == np.float64 else 2e-5
    assert fit.bound == pytest.approx(truth.log_evidence(scores).sum(), rel=allowed)


@pytest.mark.parametrize("held", ["mean", "size"])
def test_negative_binomial_held_parameter_conditions_the_other(held):
    component, values, r = setting("negative_binomial")
    fixed = fixed_mask(component, lambda c: getattr(c, held))
    values = np.minimum(values, 16)
    new = maximise(component, sums(component, twin.rows_of(values), r), fixed)
    np.testing.assert_array_equal(getattr(new, held), getattr(component, held))
    if held == "mean":
        expected = best_size(values[:, 1], r[0], component.mean[0, 1])
        np.testing.assert_allclose(new.size[0, 1], min(expected, 1e6), rtol=1e-4)
    else:
        np.testing.assert_allclose(new.mean, (r @ values) / r.sum(1, keepdims=True), rtol=1e-12)


PRIORS = {
    "bernoulli": (BetaPrior(np.asarray(3.0), np.asarray(2.0)), "probability", (0.01, 0.99)),
    "poisson": (GammaPrior(np.asarray(3.0), np.asarray(0.7)), "rate", (0.01, 60.0)),
}


def log_prior_density(name, u):
    if name == "bernoulli":
        return stats.beta.logpdf(u, 3.0, 2.0)
    return stats.gamma.logpdf(u, 3.0, scale=1 / 0.7)


@pytest.mark.parametrize("name", PRIORS)
def test_map_is_scipys(name):
    prior, leaf, bounds = PRIORS[name]
    component, x, r = setting(name)
    cell = stats.bernoulli.logpmf if name == "bernoulli" else stats.poisson.logpmf
    with_prior = type(component)(getattr(component, leaf), prior=prior)
    new = maximise(with_prior, sums(component, twin.rows_of(x), r))
    best = optimize.minimize_scalar(
        lambda u: -(r[1] * cell(x[:, 1], u)).sum() - log_prior_density(name, u),
        bounds=bounds, method="bounded", options={"xatol": 1e-9},
    )  # fmt: skip
    np.testing.assert_allclose(getattr(new, leaf)[1, 1], best.x, rtol=1e-5)
    change = float(new.log_prior() - with_prior.log_prior())
    before, after = (
        log_prior_density(name, np.asarray(getattr(c, leaf))).sum() for c in (with_prior, new)
    )
    np.testing.assert_allclose(change, after - before, rtol=1e-9)


def test_dirichlet_adds_counts():
    component, x, r = setting("categorical")
    with_prior = Categorical(SIZES, component.probabilities, Dirichlet(np.asarray(2.5)))
    new = maximise(with_prior, sums(component, twin.rows_of(x), r))
    counts = np.stack([(r * (x[:, 1] == code)).sum(1) for code in range(3)], 1) + 1.5
    np.testing.assert_allclose(new.probabilities[:, 2:5], counts / counts.sum(1, keepdims=True))


def test_any_prior_moves_the_m_step():
    component, x, r = setting("poisson")
    prior = LogDensity(lambda c: -0.5 * 50.0 * (jax.numpy.log(c.rate) ** 2).sum())
    new = maximise(Poisson(component.rate, prior=prior), sums(component, twin.rows_of(x), r))
    best = optimize.minimize_scalar(
        lambda t: -(r[0] * stats.poisson.logpmf(x[:, 0], np.exp(t))).sum() + 25.0 * t**2,
        bounds=(-4, 4), method="bounded", options={"xatol": 1e-10},
    )  # fmt: skip
    np.testing.assert_allclose(np.log(new.rate[0, 0]), best.x, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_components_moments(name):
    component, _, _ = setting(name)
    draws = np.asarray(component.sample(jax.random.key(0), np.ones(4000, dtype=np.int32)))
    error = draws.std(0) / np.sqrt(len(draws))
    assert np.all(np.abs(draws.mean(0) - np.asarray(component.cell_mean())[1]) < 5 * error)


@pytest.mark.parametrize("name", NAMES)
def test_missing_cells_are_filled_by_the_component(name):
    component, values, _ = setting(name)
    gaps = twin.with_gaps(np.random.default_rng(7), values)
    rows, labels = twin.rows_of(gaps), np.zeros(N, dtype=np.int32)
    mean = np.asarray(component.conditional_mean(rows, None))
    drawn = np.asarray(component.conditional_sample(jax.random.key(1), rows, labels, None))
    seen = ~np.isnan(gaps)
    np.testing.assert_array_equal(drawn[seen], values[seen])
    np.testing.assert_array_equal(mean[0][seen], values[seen])
    expected = np.broadcast_to(np.asarray(component.cell_mean())[1], values.shape)[~seen]
    np.testing.assert_allclose(mean[1][~seen], expected)
    component.check(drawn, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("component", "bad"),
    [
        (Bernoulli(), 0.5),
        (Categorical((2, 2)), 2.0),
        (Categorical(), 1.5),
        (Poisson(), -1.0),
        (Poisson(), 0.5),
        (NegativeBinomial(), 2.5),
    ],
)
def test_cells_outside_the_support_are_named(component, bad):
    values = np.array([[0.0, 1.0], [np.nan, bad]])
    with pytest.raises(ValueError, match=rf"'late'.*row 1 holds {bad}"):
        component.check(values, ("early", "late"))
    component.check(values[:1], ("early", "late"))


@pytest.mark.parametrize("name", ["bernoulli", "poisson"])
def test_floor_keeps_logarithms_finite(name):
    component, values, r = setting(name)
    new = maximise(component, sums(component, twin.rows_of(np.zeros_like(values)), r))
    assert np.all(np.isfinite(log_prob(new, twin.rows_of(values))))


TEMPLATES = {
    "bernoulli": Bernoulli(), "categorical": Categorical(), "poisson": Poisson(),
    "negative_binomial": NegativeBinomial(),
}  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def fitted(request):
    name, rng = request.param, np.random.default_rng(8)
    with jax.enable_x64(True):
        truth = {
            "bernoulli": Bernoulli(np.array([[0.1, 0.8, 0.9, 0.2], [0.8, 0.1, 0.2, 0.9]])),
            # Three columns: two classes of two columns of 2 and 3 kinds have seven free
            # parameters and the table five, so that no weight is better than another.
            "categorical": Categorical((2, 3, 2), np.array([[0.9, 0.1, 0.7, 0.2, 0.1, 0.8, 0.2],
                                                            [0.1, 0.9, 0.1, 0.1, 0.8, 0.3, 0.7]])),
            "poisson": Poisson(np.array([[2.0, 20.0], [12.0, 6.0]])),
            "negative_binomial": NegativeBinomial(np.array([[4.0, 60.0], [50.0, 8.0]]),
                                                  np.array([[3.0, 5.0], [4.0, 8.0]])),
        }[name]  # fmt: skip
        labels = (rng.random(1500) < 0.4).astype(np.int32)
        rows = np.asarray(truth.sample(jax.random.key(9), labels), dtype=float)
        fit = minorant.fit(Mixture(TEMPLATES[name], n_components=2), rows, progress=False)
    return truth, labels, fit


def test_fit_climbs_and_recovers(fitted):
    truth, labels, fit = fitted
    assert fit.outcome.ok, fit.outcome
    assert np.diff(fit.trace.objective).min() > -1e-7
    mean, found = np.asarray(truth.cell_mean()), np.asarray(fit.model.component.cell_mean())
    order = [0, 1] if np.abs(found - mean).sum() < np.abs(found[::-1] - mean).sum() else [1, 0]
    np.testing.assert_allclose(found[order], mean, rtol=0.2, atol=0.15)
    np.testing.assert_allclose(fit.model.weights[order][1], labels.mean(), atol=0.08)


def test_classes_that_no_table_tells_apart_still_reach_its_exact_optimum():
    """Two classes of a 2 x 3 table fit it exactly: the optimum is the saturated one."""
    rng = np.random.default_rng(8)
    table = rng.multinomial(1500, [0.25, 0.1, 0.15, 0.05, 0.15, 0.3])
    rows = np.array([(i, j) for i in range(2) for j in range(3)], float).repeat(table, axis=0)
    with jax.enable_x64(True):
        fit = minorant.fit(Mixture(Categorical(), n_components=2), rows, progress=False)
    saturated = (table * np.log(table / table.sum())).sum()
    np.testing.assert_allclose(fit.trace.objective[-1], saturated, rtol=0, atol=1500 * 1e-6)
