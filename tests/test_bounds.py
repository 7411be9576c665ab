"""The lower bound against enumeration, row by row, and its place below log p(x)."""

import jax
import numpy as np
import pytest
from scipy import stats

from minorant import _config
from minorant._types import Rows
from minorant.bounds import AbstractBound, Elbo
from minorant.components import Full, Gaussian
from minorant.models import Mixture
from minorant.posteriors import AbstractPosterior, Categorical

MEAN = np.array([[0.0, 0.0], [2.0, -1.0], [0.5, 3.0]])
COVARIANCE = np.array([[[1.0, 0.3], [0.3, 0.5]], [[2.0, -0.4], [-0.4, 1.0]], [[0.3, 0], [0, 4.0]]])
WEIGHTS = np.array([0.5, 0.2, 0.3])
MODEL = Mixture(Gaussian(Full(), MEAN, COVARIANCE), WEIGHTS, n_components=3)
VALUES = np.random.default_rng(0).normal(size=(11, 2)) * 2.0


def log_joint():
    """log p(x, k) by scipy, one row and component at a time."""
    normals = [stats.multivariate_normal(m, s) for m, s in zip(MEAN, COVARIANCE, strict=True)]
    return np.array([[np.log(w) + normal.logpdf(x) for x in VALUES]
                     for w, normal in zip(WEIGHTS, normals, strict=True)])  # fmt: skip


def bound_by_hand(q):
    joint = log_joint()
    return np.array([
        sum(q[k, i] * (joint[k, i] - np.log(q[k, i])) for k in range(len(q)) if q[k, i] > 0)
        for i in range(q.shape[1])
    ])  # fmt: skip


def computed(q, weight, labels=None):
    rows = Rows(VALUES, weight, None, labels)
    with _config.precision(np.float64):
        per_row, total = jax.jit(
            lambda q, rows: (Elbo().per_row(MODEL, q, rows), Elbo()(MODEL, q, rows))
        )(Categorical.from_probabilities(q), rows)
        return np.asarray(per_row), jax.device_get(total)


def draws(n, rng):
    return rng.dirichlet(np.ones(3), n).T


def test_the_bound_is_the_enumerated_sum_of_every_row():
    rng = np.random.default_rng(1)
    q = draws(11, rng)
    q[:, 3] = [0.0, 1.0, 0.0]
    weight = rng.integers(0, 4, 11).astype(float)
    per_row, total = computed(q, weight)
    np.testing.assert_allclose(per_row, bound_by_hand(q), rtol=1e-12)
    np.testing.assert_allclose(total.value, weight @ bound_by_hand(q), rtol=1e-12)
    assert total.standard_error == 0.0


def test_no_q_lifts_the_bound_above_the_evidence():
    log_evidence = np.log(np.exp(log_joint()).sum(0))
    rng = np.random.default_rng(2)
    for _ in range(5):
        per_row, _ = computed(draws(11, rng), np.ones(11))
        assert np.all(per_row < log_evidence)


def test_the_exact_posterior_reaches_the_evidence():
    joint = np.exp(log_joint())
    per_row, _ = computed(joint / joint.sum(0), np.ones(11))
    np.testing.assert_allclose(per_row, np.log(joint.sum(0)), rtol=1e-12)


def test_a_row_whose_known_label_q_rules_out_has_no_bound():
    labels = np.full(11, -1)
    labels[4] = 1
    q = np.full((3, 11), 1 / 3)
    per_row, _ = computed(q, np.ones(11), labels)
    assert per_row[4] == -np.inf
    assert np.all(np.isfinite(np.delete(per_row, 4)))


def test_a_row_of_weight_zero_adds_nothing_even_without_a_bound():
    labels = np.full(11, -1)
    labels[4] = 1
    weight = np.ones(11)
    weight[4] = 0.0
    q = np.full((3, 11), 1 / 3)
    _, total = computed(q, weight, labels)
    np.testing.assert_allclose(total.value, np.delete(bound_by_hand(q), 4).sum(), rtol=1e-12)


def test_a_q_that_cannot_be_summed_over_is_refused():
    class Other(AbstractPosterior):
        def sample(self, key):
            return key

        def log_density(self, latents):
            return latents

        def by_row(self):
            return ()

        @staticmethod
        def from_rows(by_row):
            return by_row

    assert isinstance(Elbo(), AbstractBound)
    with pytest.raises(TypeError, match="Categorical q; got Other"):
        Elbo().per_row(MODEL, Other(), Rows(VALUES, np.ones(11)))
