"""Posterior, log p(x), its decomposition, imputation and sampling, against slow truth."""

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.mixture import GaussianMixture as Peer

import minorant
from minorant import evidence
from minorant.components import Diagonal, Full, Gaussian
from minorant.posteriors import Categorical

UNITS = np.array([1000.0, 0.01, 1.0])


def table(n=120, seed=0):
    """Three columns of very different units, two groups that overlap."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 2, n)
    mix = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.2, -0.5, 0.7]])
    return (rng.normal(size=(n, 3)) @ mix.T + 1.5 * group[:, None]) * UNITS + 5 * UNITS


def with_holes(seed=3):
    """A pattern that repeats, rare ones, and a row with nothing observed in the middle."""
    values = table(40, seed)
    values[:12, 1] = np.nan
    values[20, 0] = np.nan
    values[25] = np.nan
    values[31, [0, 2]] = np.nan
    return values


def fitted(structure, dtype=float):
    """A wide fit needs JAX's switch on; outside this scope it is off."""
    model = minorant.Mixture(Gaussian(structure), n_components=2)
    with jax.enable_x64(dtype is float):
        return minorant.fit(model, table().astype(dtype), progress=False)


@pytest.fixture(scope="module")
def fit():
    return fitted(Full())


@pytest.fixture(scope="module")
def diagonal():
    return fitted(Diagonal())


@pytest.fixture(scope="module")
def narrow():
    return fitted(Full(), np.float32)


def log_joint_loop(fit, values):
    """log w_k p(x_observed | k) by scipy, in the data's units, one row at a time: (n, k)."""
    part = fit.model.component
    matrices = part.covariance
    if isinstance(part.structure, Diagonal):
        matrices = np.array([np.diag(v) for v in part.covariance])
    out = np.tile(np.log(fit.model.weights), (len(values), 1))
    for i, row in enumerate(values):
        seen = np.flatnonzero(~np.isnan(row))
        for k in range(len(part.mean)) if len(seen) else ():
            factor = np.linalg.cholesky(matrices[k][np.ix_(seen, seen)])
            inner = stats.Covariance.from_cholesky(factor)
            out[i, k] += stats.multivariate_normal(part.mean[k, seen], inner).logpdf(row[seen])
    return out


def log_sum(scores):
    top = scores.max(1)
    return np.log(np.exp(scores - top[:, None]).sum(1)) + top


@pytest.mark.parametrize("name", ["fit", "diagonal"])
@pytest.mark.parametrize("values", [table(50, 7), with_holes()], ids=["complete", "missing"])
def test_scores_equal_a_loop_over_rows(name, values, request):
    fit = request.getfixturevalue(name)
    assert not jax.config.jax_enable_x64
    scores = log_joint_loop(fit, values)
    found = evidence.log_evidence(fit, values)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, log_sum(scores), rtol=1e-11, atol=1e-11)
    q = evidence.posterior(fit, values)
    assert type(q.probability) is np.ndarray
    assert q.probability.dtype == np.float64
    expected = np.exp(scores - log_sum(scores)[:, None])
    np.testing.assert_allclose(q.probability.T, expected, atol=1e-11)
    np.testing.assert_array_equal(evidence.labels(fit, values), scores.argmax(1))


def test_scores_equal_another_library(fit):
    values = table(50, 8)
    peer = Peer(2)
    peer.means_, peer.weights_ = fit.model.component.mean, fit.model.weights
    peer.covariances_ = fit.model.component.covariance
    peer.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(peer.covariances_))
    np.testing.assert_allclose(fit.log_evidence(values), peer.score_samples(values), rtol=1e-10)


def test_the_scores_of_the_training_rows_add_up_to_the_bound(fit, narrow):
    np.testing.assert_allclose(fit.log_evidence(table()).sum(), fit.bound, rtol=1e-13)
    values = table().astype(np.float32)
    np.testing.assert_allclose(narrow.log_evidence(values).sum(), narrow.bound, rtol=1e-5)


def test_a_narrow_fit_scores_in_its_own_type_whatever_the_switch(narrow):
    with jax.enable_x64(True):
        wide = narrow.posterior(table(30, 2))
    np.testing.assert_array_equal(wide.probability, narrow.posterior(table(30, 2)).probability)
    assert wide.probability.dtype == np.float32


def test_a_row_without_observed_cells_has_the_prior(fit):
    values = np.full((2, 3), np.nan)
    np.testing.assert_allclose(fit.log_evidence(values), 0.0, atol=1e-14)
    np.testing.assert_allclose(fit.posterior(values).probability[:, 0], fit.model.weights)


def test_the_exact_posterior_leaves_no_gap(fit):
    values, weights = with_holes(), np.random.default_rng(0).integers(0, 4, 40).astype(float)
    found = fit.evidence(values, weights=weights)
    np.testing.assert_allclose(found.estimate, weights @ fit.log_evidence(values), rtol=1e-13)
    assert found.lower == found.estimate == found.upper
    assert found.gap == found.standard_error == 0.0
    assert not found.rows_gap.any()
    assert "equals log p(x)" in found.verdict


@pytest.mark.parametrize("values", [table(40, 7), with_holes()], ids=["complete", "missing"])
def test_any_q_splits_the_evidence_into_bound_and_gap(fit, values):
    rng = np.random.default_rng(5)
    q = rng.dirichlet([1.0, 1.0], 40)
    q[3] = [1.0, 0.0]
    weights = rng.integers(0, 4, 40).astype(float)
    scores = log_joint_loop(fit, values)
    log_r = scores - log_sum(scores)[:, None]
    log_q = np.log(np.where(q > 0, q, 1.0))
    kl, lower = (q * (log_q - log_r)).sum(1), (q * (scores - log_q)).sum(1)
    for given in (q, Categorical.from_probabilities(q.T)):
        found = fit.evidence(values, given, weights=weights)
        np.testing.assert_allclose(found.rows_gap, kl, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(found.rows_lower, lower, rtol=1e-10)
        np.testing.assert_allclose(found.lower + found.gap, found.estimate, rtol=1e-12)
        np.testing.assert_allclose(found.gap, weights @ kl, rtol=1e-9)
        assert found.lower < found.estimate == found.upper
        worst = int(np.argmax(weights * kl))
        assert f"worst rows (gap in nats): {worst} (" in found.verdict
        assert "fit.posterior(X)" in found.verdict


@pytest.mark.parametrize("name", ["fit", "narrow"])
def test_the_exact_posterior_handed_in_is_recognised(name, request):
    fit = request.getfixturevalue(name)
    values = with_holes()
    found = fit.evidence(values, fit.posterior(values))
    eps = np.finfo(fit.dtype).eps
    assert 0.0 <= found.gap < 100 * eps * 40
    assert "exact posterior to rounding" in found.verdict


def test_a_q_on_the_wrong_component_is_charged_the_distance(fit):
    values = table(10, 1)
    certain = np.tile([1.0, 0.0], (10, 1))
    found = fit.evidence(values, certain)
    np.testing.assert_allclose(found.rows_gap, -fit.posterior(values).log_probability[0], rtol=1e-8)


@pytest.mark.parametrize(
    ("q", "match"),
    [
        (np.full((10, 3), 1 / 3), r"shape \(10, 2\).*got \(10, 3\)"),
        (np.full((2, 10), 0.5), r"got \(2, 10\)"),
        (Categorical(np.zeros((2, 9))), r"got \(2, 9\)"),
        (np.full((10, 2), 0.4), r"sum to 1 in every row; row 0 holds \[0.4, 0.4\]"),
        (np.tile([1.5, -0.5], (10, 1)), "row 0 holds"),
        (np.full((10, 2), np.nan), "row 0 holds"),
        ("q", "Categorical or an .* array"),
    ],
)
def test_a_q_that_is_none_is_refused(fit, q, match):
    with pytest.raises(ValueError, match=match):
        fit.evidence(table(10), q)


def test_means_fill_missing_cells(fit):
    values = with_holes()
    filled = fit.impute(values)
    seen = ~np.isnan(values)
    np.testing.assert_array_equal(filled[seen], values[seen])
    r = fit.posterior(values).probability
    part = fit.model.component
    for i in np.flatnonzero(~seen.all(1)):
        o, m = np.flatnonzero(seen[i]), np.flatnonzero(~seen[i])
        expected = np.zeros(len(m))
        for k, (mean, matrix) in enumerate(zip(part.mean, part.covariance, strict=True)):
            slope = matrix[np.ix_(m, o)] @ np.linalg.pinv(matrix[np.ix_(o, o)], rcond=1e-300)
            expected += r[k, i] * (mean[m] + slope @ (values[i, o] - mean[o]))
        np.testing.assert_allclose(filled[i, m], expected, rtol=1e-8)


def test_draws_fill_missing_cells_with_the_right_mean(fit):
    row = table(1, 4)
    row[0, 1] = np.nan
    values = np.repeat(row, 4000, axis=0)
    drawn = fit.impute(values, draw=True, random_state=1)
    column = drawn[:, 1]
    error = column.std() / np.sqrt(len(column))
    assert abs(column.mean() - fit.impute(row)[0, 1]) < 4.5 * error
    assert len(np.unique(column)) == len(column)
    np.testing.assert_array_equal(drawn, fit.impute(values, draw=True, random_state=1))
    assert np.any(drawn != fit.impute(values, draw=True, random_state=2))


def test_a_complete_table_comes_back_as_it_is(fit):
    np.testing.assert_array_equal(fit.impute(table(5)), table(5))


def test_samples_have_the_moments_of_the_model(fit):
    rows, labels = fit.sample(20000, random_state=3)
    assert rows.shape == (20000, 3)
    share = labels.mean()
    weight = fit.model.weights[1]
    assert abs(share - weight) < 4.5 * np.sqrt(weight * (1 - weight) / 20000)
    for k in range(2):
        own = rows[labels == k]
        error = own.std(0) / np.sqrt(len(own))
        assert np.all(np.abs(own.mean(0) - fit.model.component.mean[k]) < 4.5 * error)
        ratio = np.cov(own.T) / fit.model.component.covariance[k]
        np.testing.assert_allclose(np.diag(ratio), 1.0, atol=4.5 * np.sqrt(2 / len(own)))


def test_seeds_decide_the_draws(fit):
    first, again = fit.sample(9, random_state=3)[0], fit.sample(9, random_state=3)[0]
    np.testing.assert_array_equal(first, again)
    other = fit.sample(9, random_state=np.random.default_rng(3))[0]
    legacy = fit.sample(9, random_state=np.random.RandomState(3))[0]
    fresh, fresher = fit.sample(9, random_state=None)[0], fit.sample(9, random_state=None)[0]
    drawn = np.stack([first, other, legacy, fresh, fresher])
    assert len(np.unique(drawn[:, 0, 0])) == 5


@pytest.mark.parametrize("n", [0, -1, 2.5, "three"])
def test_a_number_of_rows_that_is_none_is_refused(fit, n):
    with pytest.raises(ValueError, match="n must be a whole number of at least 1"):
        fit.sample(n)


def test_a_seed_that_is_none_is_refused(fit):
    with pytest.raises(ValueError, match="random_state must be"):
        fit.sample(3, random_state=-1)


def named(*names):
    return pd.DataFrame(table(5), columns=list(names))


def test_columns_are_compared_by_name_where_both_are_known(fit):
    known = fit._replace(names=("a", "b", "c"))
    expected = fit.log_evidence(table(5))
    np.testing.assert_array_equal(known.log_evidence(named("a", "b", "c")), expected)
    np.testing.assert_array_equal(known.log_evidence(table(5)), expected)
    np.testing.assert_array_equal(fit.log_evidence(named("a", "b", "c")), expected)


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        (("b", "a", "c"), "another order .'b', 'a', 'c'; the fit has 'a', 'b', 'c'"),
        (("a", "b", "e"), "lacks the fit's columns 'c' and has 'e' instead"),
    ],
)
def test_other_columns_are_named(fit, columns, match):
    known = fit._replace(names=("a", "b", "c"))
    for question in (known.log_evidence, known.posterior, known.impute, known.evidence):
        with pytest.raises(ValueError, match=match):
            question(named(*columns))


def test_another_number_of_columns_is_refused(fit):
    with pytest.raises(ValueError, match="fit has 3 columns .* table has 2"):
        fit.log_evidence(table(5)[:, :2])


def test_a_fit_that_left_the_numbers_is_called_so(fit):
    broken = jax.tree.map(lambda leaf: leaf * np.nan, fit.standardised)
    found = fit._replace(standardised=broken).evidence(table(5))
    assert "not finite in rows 0, 1, 2, 3, 4" in found.verdict


def test_a_model_without_exact_posterior_is_refused(fit):
    with pytest.raises(TypeError, match="dict has no exact posterior"):
        fit._replace(standardised={}).log_evidence(table(5))
