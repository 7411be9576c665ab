"""Laws of the bound: L(theta, q) <= log p(x), equality at the exact posterior, gap = KL."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truth
from cases import LIKELIHOODS, MODELS, POSTERIORS, VIEWS
from helpers import (
    K,
    N,
    bound_of,
    draw,
    examine,
    quick_jit,
    rounding,
    rows_of,
    scene,
    tolerance,
    true_scores,
)

from minorant._parameters import from_vector, to_vector
from minorant._types import Rows


def look_at(name, dtype, missing):
    """The scene of a model and one look at it."""
    case = MODELS[name]
    shown = scene(case, missing=missing)
    return shown, examine(shown.cast(dtype), rows_of(shown.values, dtype))


@pytest.mark.parametrize(("name", "missing"), VIEWS)
def test_log_joint_and_evidence_are_scipys(name, missing, dtype):
    shown, look = look_at(name, dtype, missing)
    expected = true_scores(MODELS[name], missing)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(look.log_joint, expected, rtol=0, atol=tolerance(dtype) * scale)
    evidence = truth.log_evidence(expected)
    np.testing.assert_allclose(look.log_evidence, evidence, rtol=0, atol=tolerance(dtype) * scale)
    np.testing.assert_allclose(
        look.bound, truth.compensated_sum(evidence), rtol=0, atol=tolerance(dtype) * scale * N
    )


@pytest.mark.parametrize(("name", "missing"), VIEWS)
def test_the_exact_posterior_touches_the_evidence(name, missing, dtype):
    _, look = look_at(name, dtype, missing)
    q = np.exp(np.asarray(look.log_posterior, dtype=float))
    slack = 1e-9 if dtype == np.float64 else rounding(look.log_joint, K, dtype)
    np.testing.assert_allclose(q.sum(0), 1.0, rtol=0, atol=slack)
    np.testing.assert_allclose(bound_of(look.log_joint, q), look.log_evidence, rtol=0, atol=slack)


@pytest.mark.parametrize("family", POSTERIORS)
@pytest.mark.parametrize("name", MODELS)
def test_any_other_q_stays_below_by_its_divergence(name, family, dtype):
    _, look = look_at(name, dtype, missing=False)
    q = POSTERIORS[family](np.random.default_rng(1), K, N)
    gap = np.asarray(look.log_evidence, dtype=float) - bound_of(look.log_joint, q)
    exact = np.exp(np.asarray(look.log_posterior, dtype=float))
    divergence = truth.divergence(q, exact)
    slack = rounding(look.log_joint, K, dtype)
    assert np.all(gap >= -slack)
    known = np.isfinite(divergence)  # a posterior below the smallest float has no divergence
    assert known.any()
    np.testing.assert_allclose(gap[known], divergence[known], rtol=tolerance(dtype), atol=slack)


@pytest.mark.parametrize("name", MODELS)
def test_log_evidence_is_the_sum_over_all_assignments(name, dtype):
    few = 5
    shown = scene(MODELS[name])
    weight = np.arange(N) < few
    look = examine(shown.cast(dtype), rows_of(shown.values, dtype, weight))
    expected = truth.log_evidence_by_enumeration(true_scores(MODELS[name])[:, :few])
    np.testing.assert_allclose(look.bound, expected, rtol=tolerance(dtype))


@quick_jit
def row_scores(model, values):
    """The gradient of log p(x) in free coordinates, row by row."""
    vector = to_vector(model)

    def log_evidence(vector, row):
        at = from_vector(model, vector)
        rows = Rows(row[None], jnp.ones(1, row.dtype))
        return at.log_evidence(rows, at.prepare())[0]

    return jax.vmap(jax.grad(log_evidence), in_axes=(None, 0))(vector, values)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_score_of_sampled_rows_averages_to_zero(name, float64):
    shown, n = scene(MODELS[name]), 4000
    model = shown.cast(float64)
    values = draw(model, jax.random.key(3), np.empty(n))
    scores = np.asarray(row_scores(model, values), dtype=float)
    mean, error = scores.mean(0), scores.std(0, ddof=1) / np.sqrt(n)
    moving = error > 0
    assert moving.sum() >= 2 * K  # some coordinate of every component is informed
    assert np.all(np.abs(mean[moving]) < 5 * error[moving]), (mean / error)[moving]
    assert np.all(mean[~moving] == 0)
