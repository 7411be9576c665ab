"""Flows as members: their maps, inverses, densities and where they start."""

from __future__ import annotations

import equinox as eqx
import jax
import numpy as np
import pytest
import truth_flow
from scipy import stats

from minorant import _config
from minorant.posteriors import Flow, _spline

KINDS = ["affine", "spline"]
CASES = [(1, "spline", "normal"), (2, "affine", "student"), (3, "spline", "student")]
CASES += [(2, "spline", "normal"), (5, "affine", "normal")]


@pytest.fixture(autouse=True)
def _double():
    with _config.precision(np.dtype(np.float64)):
        yield


def factor_of(p, rng):
    return np.tril(0.4 * rng.normal(size=(p, p)), -1) + np.diag(rng.uniform(0.5, 2.0, p))


def started(p, kind="affine", tails="normal", layers=3):
    rng = np.random.default_rng(p)
    key = jax.random.key(p)
    return Flow.around(
        rng.normal(size=p), factor_of(p, rng), layers=layers, kind=kind, tails=tails, key=key
    )


def bent(p, kind="affine", tails="normal", size=0.3):
    """A flow whose parameters are all away from where they start."""
    rng = np.random.default_rng(p)
    flow = started(p, kind, tails)
    learned = lambda q: (q.shift, q.lower, q.log_diagonal, q.couplings)  # noqa: E731

    def moved(leaf):
        return leaf + size * rng.normal(size=leaf.shape)

    return eqx.tree_at(learned, flow, jax.tree.map(moved, learned(flow)))


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    """A bent flow, some draws of it, and what it says of them."""
    with _config.precision(np.dtype(np.float64)):
        flow = bent(*request.param)
        noise = flow.noise(jax.random.key(1), 40)
        draws, log_density = eqx.filter_jit(lambda q, e: q.transform(e))(flow, noise)
        return flow, noise, np.asarray(draws), np.asarray(log_density)


def test_the_density_of_draws_is_that_of_the_inverse_pass(case):
    flow, _, draws, log_density = case
    back = eqx.filter_jit(lambda q, z: q.log_density(z))(flow, draws)
    np.testing.assert_allclose(back, log_density, rtol=0, atol=1e-9)
    assert np.std(log_density) > 0.1


def test_couplings_go_back(case):
    flow, noise, _, _ = case
    values = np.asarray(noise[:, : flow.size]).T
    there, slope = eqx.filter_jit(lambda c, v: c.forward(v))(flow.couplings, values)
    back, same_slope = eqx.filter_jit(lambda c, v: c.inverse(v))(flow.couplings, there)
    np.testing.assert_allclose(back, values, atol=1e-10)
    np.testing.assert_allclose(same_slope, slope, atol=1e-10)
    assert np.abs(np.asarray(there) - values).max() > 0.1


def test_couplings_match_a_loop_over_coordinates(case):
    flow, noise, _, _ = case
    values = np.asarray(noise[:6, : flow.size]).T
    there = flow.couplings.forward(values)[0]
    expected = [truth_flow.coupled(flow.couplings, one) for one in values.T]
    np.testing.assert_allclose(np.asarray(there).T, expected, atol=1e-12)


def test_the_density_is_the_base_over_the_jacobian(case):
    flow, noise, _, log_density = case
    if flow.degrees is None:
        base, log_base = noise, stats.norm.logpdf(noise).sum(1)
    else:
        base = np.asarray(flow._base(noise.T)[0].T)
        log_base = stats.t.logpdf(base, np.asarray(flow.degrees)).sum(1)

    def one(value):
        inner = flow._lower() @ flow.couplings.forward(value[:, None])[0][:, 0]
        return flow.frame @ inner

    jacobian = jax.jit(jax.vmap(jax.jacrev(one)))(base[:6])
    expected = log_base[:6] - np.linalg.slogdet(np.asarray(jacobian))[1]
    np.testing.assert_allclose(log_density[:6], expected, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [1, 4])
def test_it_starts_as_the_gaussian(p, kind):
    flow = started(p, kind)
    rng = np.random.default_rng(p)
    mean, factor = rng.normal(size=p), factor_of(p, rng)
    draws, log_density = flow.transform(flow.noise(jax.random.key(0), 50))
    expected = stats.multivariate_normal(mean, factor @ factor.T).logpdf(np.asarray(draws))
    np.testing.assert_allclose(log_density, expected, atol=1e-10)
    np.testing.assert_allclose(flow.log_density(draws), expected, atol=1e-10)


def test_it_starts_with_the_students_covariance():
    flow = started(2, tails="student")
    scale = np.asarray(flow.frame @ flow.frame.T)
    np.testing.assert_allclose(flow.degrees, 30.0)
    rng = np.random.default_rng(2)
    factor = (rng.normal(size=2), factor_of(2, rng))[1]
    np.testing.assert_allclose(scale * 30 / 28, factor @ factor.T, atol=1e-12)


@pytest.mark.parametrize("degrees", [2.5, 6.0])
def test_two_normal_numbers_make_a_student(degrees):
    flow = started(2, tails="student")
    flow = eqx.tree_at(lambda q: q.log_excess, flow, np.full(2, np.log(degrees - 2)))
    base = np.asarray(flow._base(flow.noise(jax.random.key(3), 20_000).T)[0])
    for j in range(2):
        assert stats.kstest(base[j], stats.t(degrees).cdf).pvalue > 1e-3
    assert abs(stats.spearmanr(*base).statistic) < 4 / np.sqrt(20_000)


@pytest.mark.parametrize(("p", "kind"), [(1, "spline"), (2, "affine"), (2, "spline")])
def test_it_integrates_to_one(p, kind):
    flow = bent(p, kind, size=0.15)
    draws = np.asarray(flow.sample(jax.random.key(0), 500))
    middle, width = draws.mean(0), 7 * draws.std(0)
    m = 4001 if p == 1 else 801
    axes = [np.linspace(c - w, c + w, m) for c, w in zip(middle, width, strict=True)]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    log_density = eqx.filter_jit(lambda q, z: q.log_density(z))(flow, grid)
    assert np.exp(log_density).sum() * cell == pytest.approx(1.0, abs=1e-4)


def test_the_spline_matches_its_twin():
    rng = np.random.default_rng(0)
    values, raw = rng.normal(size=60) * 2.5, rng.normal(size=(_spline.SHAPES, 60))
    at = _spline.knots(raw)
    moved, log_slope = _spline.forward(values, at)
    expected = [truth_flow.spline(x, own) for x, own in zip(values, raw.T, strict=True)]
    np.testing.assert_allclose(moved, expected, atol=1e-12)
    ends = [
        np.array([truth_flow.spline(x + h, own) for x, own in zip(values, raw.T, strict=True)])
        for h in (-1e-6, 1e-6)
    ]
    numeric = np.log((ends[1] - ends[0]) / 2e-6)
    np.testing.assert_allclose(log_slope, numeric, atol=2e-4)
    back, same = _spline.inverse(moved, at)
    np.testing.assert_allclose(back, values, atol=1e-11)
    np.testing.assert_allclose(same, log_slope, atol=1e-9)


def test_constants_are_not_learned():
    flow = bent(2)
    noise = flow.noise(jax.random.key(0), 8)

    @jax.jit
    @jax.grad
    def gradient_of(q):
        return q.transform(noise)[0].sum() + q.log_density(noise).sum()

    gradient = gradient_of(flow)
    for name in ("center", "frame", "inverse_frame"):
        assert not np.any(getattr(gradient, name)), name
    assert np.all(gradient.shift != 0)
    assert np.all(gradient.couplings.weights.first != 0)


@pytest.mark.parametrize("p", [2, 3, 4, 9])
def test_every_coordinate_is_moved_and_depends_on_all(p):
    rng = np.random.default_rng(p)
    couplings = jax.tree.map(
        lambda leaf: leaf + 0.5 * rng.normal(size=leaf.shape), started(p, layers=6).couplings
    )
    forward = jax.jit(jax.jacrev(lambda v: couplings.forward(v[:, None])[0][:, 0]))
    assert np.all(np.abs(forward(np.full(p, 0.3))) > 1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "cubic"}, "kind must be 'affine' or 'spline'; got 'cubic'"),
        ({"tails": "cauchy"}, "tails must be"),
        ({"factor": -np.eye(2)}, "diagonal above 0"),
        ({"mean": np.array([0.0, np.nan])}, "must be finite"),
        ({"mean": np.zeros(3)}, r"shape \(p,\)"),
    ],
)
def test_what_cannot_be_is_refused(change, words):
    given = {"mean": np.zeros(2), "factor": np.eye(2), "key": jax.random.key(0)} | change
    with pytest.raises(ValueError, match=words):
        Flow.around(given.pop("mean"), given.pop("factor"), **given)


def test_single_precision_stays_single():
    with _config.precision(np.dtype(np.float32)):
        key = jax.random.key(0)
        flow = Flow.around(np.zeros(2, np.float32), np.eye(2, dtype=np.float32), layers=2, key=key)
        draws, log_density = flow.transform(flow.noise(key, 3))
        assert draws.dtype == log_density.dtype == flow.log_density(draws).dtype == np.float32
