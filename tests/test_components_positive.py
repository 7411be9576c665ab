"""Exponential, gamma and log-normal components against SciPy."""

from __future__ import annotations

import component_truth as twin
import jax
import numpy as np
import pytest
from scipy import integrate, optimize, stats

import minorant
from minorant._parameters import fixed_mask
from minorant._types import Affine
from minorant.components import (
    Diagonal,
    Exponential,
    Full,
    Gamma,
    GammaPrior,
    Gaussian,
    LogNormal,
)
from minorant.components.gamma import inverse_digamma, profile_shape
from minorant.models import Mixture

K, N, D = 2, 40, 3
CENTRED = Diagonal(centred=True)

MAKE = {
    "exponential": lambda rng: Exponential(rng.gamma(2.0, 1.0, (K, D)), np.full(D, 1e-10)),
    "gamma": lambda rng: Gamma(rng.gamma(2.0, 2.0, (K, D)), rng.gamma(2.0, 1.0, (K, D))),
    "log_normal": lambda rng: LogNormal(
        Gaussian(CENTRED, rng.normal(size=(K, D)), rng.gamma(2, 0.2, (K, D)), np.full(D, 1e-6))
    ),
}
NAMES = tuple(MAKE)

log_prob = jax.jit(lambda c, rows: c.log_prob(rows, c.prepare()))
sums = jax.jit(lambda c, rows, r: c.statistics(rows, r, c.prepare()))
maximise = jax.jit(lambda c, s, fixed=None: c.maximise(s, fixed))
pytestmark = pytest.mark.usefixtures("float64")


def setting(name, seed=0):
    rng = np.random.default_rng(seed)
    component = MAKE[name](rng)
    values = rng.gamma(2.0, 1.5, (N, D))
    return component, values, rng.dirichlet(np.ones(K), N).T * rng.uniform(0.5, 2.0, N)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("missing", [False, True])
def test_log_prob_is_scipys(name, missing):
    component, values, _ = setting(name)
    if missing:
        values = twin.with_gaps(np.random.default_rng(1), values)
    expected = twin.log_prob(getattr(twin, name), component, values)
    np.testing.assert_allclose(log_prob(component, twin.rows_of(values)), expected, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_integrates_to_one(name):
    component, _, _ = setting(name)
    grid = np.linspace(-40.0, 6.0, 8001)
    values = np.full((len(grid), D), np.nan)
    values[:, 1] = np.exp(grid)
    density = np.exp(np.asarray(log_prob(component, twin.rows_of(values))) + grid)
    np.testing.assert_allclose(integrate.trapezoid(density, grid), 1.0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_statistics_of_parts_add_and_padding_drops_out(name):
    component, values, r = setting(name)
    values = twin.with_gaps(np.random.default_rng(2), values)
    whole = sums(component, twin.rows_of(values), r)
    parts = [sums(component, twin.rows_of(values[i::2]), r[:, i::2]) for i in (0, 1)]
    weight = np.r_[np.ones(N), np.zeros(4)]
    padded_rows = twin.rows_of(np.r_[values, np.zeros((4, D))], weight)
    padded = sums(component, padded_rows, np.c_[r, np.zeros((K, 4))])
    for one, a, b, c in zip(*map(jax.tree.leaves, (whole, *parts, padded)), strict=True):
        np.testing.assert_allclose(one, a + b, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(one, c, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_expected_log_prob_is_the_weighted_sum_up_to_a_constant(name):
    component, values, r = setting(name)
    other = maximise(component, sums(component, twin.rows_of(values), r))
    rows = twin.rows_of(values)
    before, after = sums(component, rows, r), sums(other, rows, r)
    gain = other.expected_log_prob(after) - component.expected_log_prob(before)
    truth = (r * (np.asarray(log_prob(other, rows)) - np.asarray(log_prob(component, rows)))).sum(1)
    np.testing.assert_allclose(gain, truth, rtol=1e-9)


def best_gamma(x, r, shape=None, rate=None):
    """(shape, rate) by a numerical search over what is not given."""

    def read(t):
        free = list(np.exp(t))
        return (shape or free.pop(0)), (rate or free.pop(0))

    def lost(t):
        a, b = read(t)
        return -(r * stats.gamma.logpdf(x, a, scale=1 / b)).sum()

    start = np.zeros((shape is None) + (rate is None))
    found = optimize.minimize(
        lost, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}
    )
    return read(found.x)


@pytest.mark.parametrize("held", [None, "shape", "rate"])
def test_gamma_maximiser_is_scipys(held):
    component, x, r = setting("gamma")
    fixed = None if held is None else fixed_mask(component, lambda c: getattr(c, held))
    new = maximise(component, sums(component, twin.rows_of(x), r), fixed)
    given = {} if held is None else {held: float(getattr(component, held)[1, 2])}
    shape, rate = best_gamma(x[:, 2], r[1], **given)
    np.testing.assert_allclose([new.shape[1, 2], new.rate[1, 2]], [shape, rate], rtol=1e-5)


def test_exponential_and_log_normal_maximisers_are_closed():
    component, x, r = setting("exponential")
    new = maximise(component, sums(component, twin.rows_of(x), r))
    np.testing.assert_allclose(new.rate, r.sum(1, keepdims=True) / (r @ x), rtol=1e-12)
    component = setting("log_normal")[0]
    new = maximise(component, sums(component, twin.rows_of(x), r))
    mean = (r @ np.log(x)) / r.sum(1, keepdims=True)
    square = (r @ np.log(x) ** 2) / r.sum(1, keepdims=True)
    np.testing.assert_allclose(new.logs.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(new.logs.covariance, square - mean**2, rtol=1e-9)


@pytest.mark.parametrize("value", [1e-4, 0.01, 0.3, 1.0, 7.0, 100.0, 1e5])
def test_roots_of_the_shape_equations(value):
    from scipy.special import digamma

    with jax.enable_x64(True):
        far = value > 1e3  # there log a - digamma(a) cancels in SciPy's arithmetic
        gap = 0.5 / value + 1 / (12 * value**2) if far else np.log(value) - digamma(value)
        np.testing.assert_allclose(profile_shape(np.asarray(gap)), value, rtol=1e-9)
        np.testing.assert_allclose(inverse_digamma(np.asarray(digamma(value))), value, rtol=1e-9)


def test_constant_column_stops_at_the_largest_shape():
    component, x, r = setting("gamma")
    x[:, 1] = 2.5
    new = maximise(component, sums(component, twin.rows_of(x), r))
    np.testing.assert_allclose(new.shape[:, 1], 1e6)
    np.testing.assert_allclose(new.cell_mean()[:, 1], 2.5)
    np.testing.assert_array_equal(new.collapsed(), [1.0, 1.0])
    assert np.all(np.isfinite(log_prob(new, twin.rows_of(x))))


def test_component_of_zeros_stops_at_the_floor():
    component, x, r = setting("exponential")
    x[:, 0] = 0.0
    new = maximise(component, sums(component, twin.rows_of(x), r))
    np.testing.assert_allclose(new.rate[:, 0], 1e10)
    np.testing.assert_array_equal(new.collapsed(), [1.0, 1.0])


@pytest.mark.parametrize("name", NAMES)
def test_empty_component_keeps_its_parameters(name):
    component, values, r = setting(name)
    r = r * np.array([[1.0], [0.0]])
    new = maximise(component, sums(component, twin.rows_of(values), r))
    for old, leaf in zip(jax.tree.leaves(component), jax.tree.leaves(new), strict=True):
        if np.ndim(old) == 2:
            np.testing.assert_allclose(leaf[1], old[1])
            assert np.abs(leaf[0] - old[0]).max() > 1e-6


def test_exponential_map_is_scipys_in_any_units():
    component, x, r = setting("exponential")
    prior = GammaPrior(np.asarray(3.0), np.asarray(20.0))
    with_prior = Exponential(component.rate, component.floor, prior)
    new = maximise(with_prior, sums(with_prior, twin.rows_of(x), r))
    best = optimize.minimize_scalar(
        lambda u: -(r[0] * stats.expon.logpdf(x[:, 0], scale=1 / u)).sum()
        - stats.gamma.logpdf(u, 3.0, scale=1 / 20.0),
        bounds=(1e-3, 20), method="bounded", options={"xatol": 1e-9},
    )  # fmt: skip
    np.testing.assert_allclose(new.rate[0, 0], best.x, rtol=1e-6)
    units = Affine(np.zeros(D), np.array([2.0, 0.1, 30.0]))
    moved = with_prior.rescaled(units)
    there = maximise(moved, sums(moved, twin.rows_of(x / units.scale), r))
    np.testing.assert_allclose(there.rescaled(units.inverse()).rate, new.rate, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_rescaling_shifts_by_the_jacobian(name):
    component, values, _ = setting(name)
    units = Affine(np.zeros(D), np.array([2.0, 1e-3, 500.0]))
    before = np.asarray(log_prob(component, twin.rows_of(values)))
    after = np.asarray(log_prob(component.rescaled(units), twin.rows_of(values / units.scale)))
    np.testing.assert_allclose(after, before + np.log(units.scale).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_components_moments(name):
    component, _, _ = setting(name)
    draws = np.asarray(component.sample(jax.random.key(0), np.ones(4000, dtype=np.int32)))
    rows = twin.rows_of(np.full((1, D), np.nan))
    mean = np.asarray(component.conditional_mean(rows, component.prepare()))[1, 0]
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * draws.std(0) / np.sqrt(len(draws)))


def test_full_log_normal_is_the_normal_of_logarithms():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(1, 2, 2)) + 2 * np.eye(2)
    covariance = root @ root.transpose(0, 2, 1)
    component = LogNormal(Gaussian(Full(), rng.normal(size=(1, 2)), covariance, np.full(2, 1e-6)))
    x = rng.gamma(2.0, 1.0, (5, 2))
    logs = stats.multivariate_normal.logpdf(np.log(x), component.logs.mean[0], covariance[0])
    expected = logs - np.log(x).sum(1)
    np.testing.assert_allclose(log_prob(component, twin.rows_of(x))[0], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("component", "bad"),
    [(Exponential(), -0.5), (Gamma(), 0.0), (Gamma(), -1.0), (LogNormal(), 0.0)],
)
def test_cells_outside_the_support_are_named(component, bad):
    values = np.array([[0.5, 1.0], [np.nan, bad]])
    with pytest.raises(ValueError, match=rf"'late'.*row 1 holds {bad}"):
        component.check(values, ("early", "late"))
    component.check(values[:1], ("early", "late"))


def test_exponential_takes_zeros():
    Exponential().check(np.zeros((2, 1)), ("waiting",))


TEMPLATES = {"exponential": Exponential(), "gamma": Gamma(), "log_normal": LogNormal()}


@pytest.fixture(scope="module", params=NAMES)
def fitted(request):
    rng = np.random.default_rng(8)
    labels = (rng.random(1500) < 0.4).astype(np.int32)
    mean = np.array([[2.0, 400.0], [30.0, 20.0]])[labels]
    rows = {
        "exponential": lambda: rng.exponential(mean),
        "gamma": lambda: rng.gamma(4.0, mean / 4.0),
        "log_normal": lambda: np.exp(rng.normal(np.log(mean), 0.4)),
    }[request.param]()
    with jax.enable_x64(True):
        fit = minorant.fit(Mixture(TEMPLATES[request.param], n_components=2), rows, progress=False)
    return rows, labels, fit


def test_fit_climbs_and_recovers(fitted):
    rows, labels, fit = fitted
    assert fit.outcome.ok, fit.outcome
    assert np.diff(fit.trace.objective).min() > -1e-7
    own = np.stack([rows[labels == j].mean(0) for j in range(2)])
    rows_missing = twin.rows_of(np.full((1, 2), np.nan))
    component = fit.model.component
    found = np.asarray(component.conditional_mean(rows_missing, component.prepare()))[:, 0]
    order = np.argsort(found[:, 0])
    np.testing.assert_allclose(found[order], own, rtol=0.2)
    np.testing.assert_allclose(fit.model.weights[order][1], labels.mean(), atol=0.08)
