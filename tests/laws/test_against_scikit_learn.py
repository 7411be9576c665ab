"""Against scikit-learn: the same numbers at the same parameters, an optimum at least as good."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from cases import MODELS
from helpers import examine, rows_of, scene
from sklearn import datasets, mixture
from sklearn.exceptions import ConvergenceWarning

import minorant
from minorant.components import Diagonal, Full, Gaussian, Spherical, Tied
from minorant.datasets import load

TYPES = {"full": Full, "tied": Tied, "diagonal": Diagonal, "spherical": Spherical}
THEIR_NAME = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


def theirs_at(kind, model):
    """Their mixture with our parameters put in."""
    covariance = np.asarray(model.component.covariance)
    if kind in ("full", "tied"):
        factor = np.linalg.cholesky(np.linalg.inv(covariance))
    else:
        factor = 1.0 / np.sqrt(covariance)
    other = mixture.GaussianMixture(len(model.weights), covariance_type=THEIR_NAME[kind])
    other.weights_, other.means_ = np.asarray(model.weights), np.asarray(model.component.mean)
    other.covariances_, other.precisions_cholesky_ = covariance, factor
    return other


@pytest.mark.parametrize("kind", TYPES)
def test_log_likelihood_and_responsibilities_agree(kind, float64):
    shown = scene(MODELS[f"gaussian-{kind}"])
    look = examine(shown.cast(float64), rows_of(shown.values, float64))
    other = theirs_at(kind, shown.model)
    np.testing.assert_allclose(look.log_evidence, other.score_samples(shown.values), rtol=1e-10)
    np.testing.assert_allclose(
        np.exp(look.log_posterior).T, other.predict_proba(shown.values), atol=1e-10
    )


def faithful():
    return np.stack(list(load("old_faithful").values()), axis=1)


def iris():
    return datasets.load_iris().data


def wine():
    return datasets.load_wine().data


def their_best(values, k, kind):
    """Log-likelihood of the best of ten of their climbs at a tight tolerance, without its ridge."""
    other = mixture.GaussianMixture(
        k,
        covariance_type=THEIR_NAME[kind],
        n_init=10,
        tol=1e-9,
        max_iter=2000,
        reg_covar=1e-9,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        other.fit(values)
    return other.score(values) * len(values)


FITS = [
    (faithful, 2, "full"),
    (faithful, 2, "tied"),
    (iris, 3, "full"),
    (iris, 3, "diagonal"),
    (iris, 3, "spherical"),
    pytest.param(wine, 3, "tied", marks=pytest.mark.slow),
    pytest.param(wine, 3, "diagonal", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("table", "k", "kind"), FITS)
def test_the_optimum_is_at_least_as_good(table, k, kind, float64):
    values = table()
    model = minorant.Mixture(Gaussian(TYPES[kind]()), n_components=k)
    fit = minorant.fit(model, values, tolerance=1e-9)
    assert fit.outcome.ok
    assert fit.bound >= their_best(values, k, kind) - 1e-6 * len(values)
