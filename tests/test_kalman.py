"""The Kalman kernels: settled gains against the full recursion, float32, draws, singular noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth_kalman as truth
from helpers import quick_jit

from minorant.posteriors import GaussianChain
from minorant.posteriors._kalman_filter import Chain, Observed, filtered
from minorant.posteriors._kalman_lanes import smoothed_in_lanes
from minorant.posteriors._kalman_steady import CHUNK, smoothed_long
from minorant.posteriors.kalman import smoothed

L, D = 3, 2


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


def chain_of(law, dtype=np.float64):
    """The states' prior."""
    return Chain(*(np.asarray(part, dtype) for part in (law.m, law.P, law.A, law.Q)))


def whitened(law, x, start, weight, gappy):
    """What the kernels see: every array a leaf, ``factor`` made inside."""
    root = np.sqrt(np.diag(law.R))
    mask = ~np.isnan(x)
    value = np.where(mask, (x - law.c) / root, 0.0)
    W = law.C / root[:, None]
    return {
        "start": start, "weight": weight, "offset": law.b, "value": value,
        "pattern": mask if gappy else None, "complete": mask.all(1) if gappy else None, "W": W,
    }  # fmt: skip


def observed_of(parts):
    """The record, its factor closed over W."""
    W = jnp.asarray(parts["W"])
    names = ("start", "weight", "offset", "value", "pattern")

    def factor(mask):
        return W if mask is None else jnp.where(mask[:, None], W, 0.0)

    return Observed(*(parts[name] for name in names), factor, parts["complete"])


def collect(pattern, weight, covariance):
    """Sums of the kind that a model asks for."""
    return () if pattern is None else jnp.einsum("n,nd,nij->dij", weight, pattern, covariance)


@quick_jit
def both(chain, parts):
    """The full recursion and the long form, sums and rows."""
    observed = observed_of(parts)
    return [
        [form(chain, observed, collect, record) for record in (False, True)]
        for form in (smoothed, smoothed_long)
    ]


def scene(seed, starts, gappy, law=None):
    """A series of nine chunks and a bit, with groups and gaps where a chunk can see them."""
    rng = np.random.default_rng(seed)
    n = 9 * CHUNK + 17
    law = truth.random_law(rng, L, D) if law is None else law
    start = np.isin(np.arange(n), starts)
    x = truth.simulated(rng, law, start, np.zeros((n, 0)))[1]
    if gappy:
        x[5 * CHUNK + 5, 1] = np.nan
        x[8 * CHUNK : 8 * CHUNK + 3] = np.nan
    weight = np.where(np.cumsum(start) == 1, 1.0, 2.5)
    return law, whitened(law, x, start, weight, gappy)


def still():
    """A law whose gains never settle: a constant state with no noise of its own."""
    law = truth.random_law(np.random.default_rng(5), L, D)
    return law._replace(A=np.eye(L), Q=np.zeros((L, L)), b=np.zeros(L))


@pytest.mark.parametrize(
    ("starts", "gappy", "law"),
    [([0], False, None), ([0, CHUNK + 3, CHUNK + 5], True, None), ([0], False, still())],
    ids=["complete", "groups-and-gaps", "never-settles"],
)
def test_settled_gains_give_the_full_recursion_to_rounding(starts, gappy, law):
    law, parts = scene(1, starts, gappy, law)
    (full, rows), (fast, fast_rows) = both(chain_of(law), parts)
    n = len(parts["start"])
    np.testing.assert_allclose(fast.mean, full.mean, atol=1e-11)
    np.testing.assert_allclose(fast.log_term, full.log_term, atol=1e-11)
    for name in ("all", "first", "before", "cross", "moved"):
        found, wanted = getattr(fast.sums, name), getattr(full.sums, name)
        np.testing.assert_allclose(found, wanted, atol=1e-12 * n, err_msg=name)
    if gappy:
        found = fast.sums.extra + fast.sums.mass * fast.sums.settled
        np.testing.assert_allclose(found, full.sums.extra, atol=1e-12 * n)
    for found, wanted in zip(fast_rows.covariances, rows.covariances, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)
    skipped = float(fast.sums.mass)
    assert skipped == 0.0 if law.Q.max() == 0.0 else skipped > 0.0


def in_lanes(chain, parts):
    """The full recursion and lanes; rows where lanes cannot be, else sums."""
    observed, everywhere = observed_of(parts), jnp.asarray(True)
    return [
        (
            smoothed(chain, observed, collect, r),
            *smoothed_in_lanes(chain, observed, everywhere, collect, r),
        )
        for r in (False, True)
    ]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_lanes_are_the_full_recursion_where_gaps_are_everywhere(dtype):
    """Groups that end inside lanes, and rows without a cell."""
    rng = np.random.default_rng(8)
    law = truth.random_law(rng, L, D)
    start = np.isin(np.arange(1024), [0, 300, 301, 512])
    x = truth.simulated(rng, law, start, np.zeros((1024, 0)))[1]
    x[rng.random(x.shape) < 0.3] = np.nan
    x[500:503] = np.nan
    weight = np.where(np.cumsum(start) == 1, 1.0, 2.5)
    parts = whitened(law, x, start, weight, True)
    parts = {k: v.astype(dtype) if v.dtype == float else v for k, v in parts.items()}
    with jax.enable_x64(dtype == np.float64):
        found = jax.jit(in_lanes)(chain_of(law, dtype), parts)
    atol = 1e-11 if dtype == np.float64 else 1e-3
    for full, lanes, settled in found:
        assert bool(settled)
        for one, other in zip(jax.tree.leaves(lanes), jax.tree.leaves(full), strict=True):
            np.testing.assert_allclose(one, other, atol=atol * max(1.0, np.abs(other).max()))


def test_a_chain_that_remembers_is_not_left_to_lanes():
    law, n = still(), 1600
    start = np.arange(n) == 0
    x = truth.simulated(np.random.default_rng(9), law, start, np.zeros((n, 0)))[1]
    x[::7] = np.nan
    parts = whitened(law, x, start, np.ones(n), True)
    assert not any(bool(settled) for _, _, settled in quick_jit(in_lanes)(chain_of(law), parts))
    (full, _), (long, _) = both(chain_of(law), parts)
    np.testing.assert_allclose(long.mean, full.mean, atol=1e-11)


def test_singular_noise_and_a_known_first_state_equal_the_dense_density():
    rng = np.random.default_rng(2)
    law = truth.random_law(rng, L, D)
    law = law._replace(
        A=np.array([[0.5, 0.2, 0.1], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        Q=np.diag([1.0, 0.0, 0.0]),
        P=np.zeros((L, L)),
    )
    start = np.isin(np.arange(9), [0, 5])
    x = truth.simulated(rng, law, start, np.zeros((9, 0)))[1]
    x[3] = np.nan
    exact = truth.dense(law, x, start, np.zeros((9, 0)))
    parts = whitened(law, x, start, np.ones(9), True)
    found = smoothed(chain_of(law), observed_of(parts), record=True)
    t = np.arange(9)
    np.testing.assert_allclose(found.mean, exact.mean, atol=1e-12)
    np.testing.assert_allclose(found.covariances[0], exact.covariance[t, :, t], atol=1e-12)


def test_float32_keeps_its_digits_where_noise_is_small():
    rng = np.random.default_rng(3)
    law = truth.random_law(rng, L, D)
    law = law._replace(R=1e-6 * np.eye(D), P=1e4 * np.eye(L), b=np.zeros(L), c=np.zeros(D))
    n = 300
    start = np.arange(n) == 0
    x = truth.simulated(rng, law, start, np.zeros((n, 0)))[1]
    parts = whitened(law, x, start, np.ones(n), False)
    exact = smoothed(chain_of(law), observed_of(parts), record=True)
    single = {k: v.astype(np.float32) if k in ("weight", "offset", "value", "W") else v
              for k, v in parts.items()}  # fmt: skip
    with jax.enable_x64(False):
        found = smoothed(chain_of(law, np.float32), observed_of(single), record=True)
    # Each covariance about as well as its own numbers can be written, entry by entry.
    scale = np.sqrt(np.einsum("nii->ni", exact.covariances[0]))
    away = np.abs(np.asarray(found.covariances[0], float) - exact.covariances[0])
    assert np.max(away / (scale[:, :, None] * scale[:, None, :])) < 2e-2
    values = np.linalg.eigvalsh(np.asarray(found.covariances[0], float))
    assert values.min() > 0
    assert np.max(np.abs(found.mean - exact.mean) / np.abs(exact.mean).max()) < 1e-4


def test_draws_have_the_posterior_s_moments_and_density():
    rng = np.random.default_rng(4)
    law = truth.random_law(rng, 2, D)
    n, draws = 6, 20_000
    start = np.isin(np.arange(n), [0, 4])
    x = truth.simulated(rng, law, start, np.zeros((n, 0)))[1]
    x[2] = np.nan
    exact = truth.dense(law, x, start, np.zeros((n, 0)))
    found = smoothed(
        chain_of(law), observed_of(whitened(law, x, start, np.ones(n), True)), record=True
    )
    kept = found.covariances
    q = GaussianChain(found.mean, kept.covariance, kept.transition, kept.root)
    paths = jax.vmap(q.sample)(jax.random.split(jax.random.key(0), draws)).reshape(draws, -1)
    flat = exact.covariance.reshape(2 * n, 2 * n)
    error = np.sqrt(np.diag(flat) / draws)
    assert np.max(np.abs(paths.mean(0) - exact.mean.ravel()) / error) < 4.5
    spread = np.sqrt((np.outer(np.diag(flat), np.diag(flat)) + flat**2) / draws)
    assert np.max(np.abs(np.cov(paths.T) - flat) / spread) < 4.5
    away = np.asarray(paths[0]) - exact.mean.ravel()
    wanted = -0.5 * (away @ np.linalg.solve(flat, away) + np.linalg.slogdet(2 * np.pi * flat)[1])
    assert float(q.log_density(paths[0].reshape(n, 2)).sum()) == pytest.approx(wanted, abs=1e-9)


def test_filter_equals_dynamax():
    dynamax = pytest.importorskip("dynamax.linear_gaussian_ssm")
    rng = np.random.default_rng(6)
    law = truth.random_law(rng, L, D)
    start = np.arange(40) == 0
    x = truth.simulated(rng, law, start, np.zeros((40, 0)))[1]
    parts = whitened(law, x, start, np.ones(40), False)
    model = dynamax.LinearGaussianSSM(L, D, has_dynamics_bias=True, has_emissions_bias=True)
    params, _ = model.initialize(
        jax.random.PRNGKey(0), law.m, law.P, law.A, law.b, None, law.Q, law.C, law.c, None, law.R
    )
    theirs = dynamax.lgssm_smoother(params, jax.numpy.asarray(x))
    mine = filtered(chain_of(law), observed_of(parts))
    np.testing.assert_allclose(mine.mean, theirs.filtered_means, atol=1e-9)
    np.testing.assert_allclose(mine.covariance, theirs.filtered_covariances, atol=1e-9)
    found = smoothed(chain_of(law), observed_of(parts), record=True)
    np.testing.assert_allclose(found.mean, theirs.smoothed_means, atol=1e-8)
    np.testing.assert_allclose(found.covariances[0], theirs.smoothed_covariances, atol=1e-8)
