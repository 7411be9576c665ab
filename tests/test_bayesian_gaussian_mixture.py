"""`BayesianGaussianMixture` against scikit-learn's, and what scikit-learn's cannot do."""

from __future__ import annotations

import numpy as np
import pytest
import truth_conjugate as truth
from sklearn import mixture
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import InvalidParameterError

from minorant.datasets import load
from minorant.estimators import BayesianGaussianMixture

FAITHFUL = np.column_stack(list(load("old_faithful").values()))
SHAPED = (
    "weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "mean_prior_",
    "mean_precision_", "degrees_of_freedom_", "covariance_prior_", "mean_precision_prior_",
    "degrees_of_freedom_prior_", "weight_concentration_prior_", "weight_concentration_",
)  # fmt: skip
KINDS = ("full", "tied", "diag", "spherical")


@pytest.fixture(scope="module", params=KINDS)
def shaped(request):
    """One short fit of each covariance type, and scikit-learn's."""
    options = {"covariance_type": request.param, "random_state": 0, "max_iter": 3, "n_init": 1}
    with pytest.warns(ConvergenceWarning):
        ours = BayesianGaussianMixture(3, **options).fit(FAITHFUL)
    with pytest.warns(ConvergenceWarning):
        theirs = mixture.BayesianGaussianMixture(n_components=3, tol=0.0, **options).fit(FAITHFUL)
    return ours, theirs


@pytest.fixture(scope="module")
def faithful():
    """A finite mixture of more components than are wanted."""
    kind = "dirichlet_distribution"
    return BayesianGaussianMixture(5, weight_concentration_prior_type=kind, random_state=0).fit(
        FAITHFUL
    )


def test_attributes_have_scikit_learns_shapes_and_the_same_default_priors(shaped):
    ours, theirs = shaped
    for name in SHAPED:
        assert np.shape(getattr(ours, name)) == np.shape(getattr(theirs, name)), name
        if "prior" in name:
            assert np.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-12), name
    assert ours.sample(7)[0].shape == (7, 2)
    assert len(ours.lower_bounds_) == ours.n_iter_


def test_at_our_q_scikit_learn_finds_the_same_and_gains_nothing(faithful):
    """Their step from where ours ended goes nowhere, and their predictions there are ours."""
    theirs = mixture.BayesianGaussianMixture(
        n_components=5, weight_concentration_prior_type="dirichlet_distribution", reg_covar=0.0,
        warm_start=True, max_iter=1,
    )  # fmt: skip
    for name in (*SHAPED, "converged_"):
        setattr(theirs, name, getattr(faithful, name))
    theirs.lower_bound_ = -np.inf
    with pytest.warns(ConvergenceWarning):
        theirs.fit(FAITHFUL)
    kept = faithful.weights_ > 0.01
    assert np.allclose(theirs.means_[kept], faithful.means_[kept], rtol=1e-3)
    assert np.allclose(theirs.predict_proba(FAITHFUL), faithful.predict_proba(FAITHFUL), atol=1e-2)
    assert np.allclose(theirs.weights_, faithful.weights_, atol=1e-3)


def test_components_are_emptied_and_the_bound_prefers_them_so(faithful):
    assert faithful.converged_ is True
    assert (faithful.weights_ > 0.01).sum() <= 3
    assert faithful.weights_.sum() == pytest.approx(1.0, rel=1e-12)
    one = BayesianGaussianMixture(1, random_state=0).fit(FAITHFUL)
    assert faithful.lower_bound_ > one.lower_bound_ + 50.0
    assert np.diff(faithful.lower_bounds_).min() >= -1e-8


def test_one_component_has_the_exact_evidence():
    kind = "dirichlet_distribution"
    one = BayesianGaussianMixture(1, weight_concentration_prior_type=kind).fit(FAITHFUL)
    prior = truth.Prior(
        "full", one.mean_prior_, one.mean_precision_prior_, one.degrees_of_freedom_prior_,
        one.covariance_prior_, 1.0, False,
    )  # fmt: skip
    assert one.lower_bound_ == pytest.approx(truth.log_marginal(prior, FAITHFUL), rel=1e-10)
    more = truth.log_marginal(prior, np.r_[FAITHFUL, FAITHFUL[:1]]) - one.lower_bound_
    assert one.score_samples(FAITHFUL[:1])[0] == pytest.approx(more, rel=1e-8)


def test_integer_weights_are_copies_priors_included():
    weights = np.random.default_rng(1).integers(0, 3, len(FAITHFUL))
    copies = FAITHFUL.repeat(weights, axis=0)
    weighted = BayesianGaussianMixture(1).fit(FAITHFUL, sample_weight=weights)
    copied = BayesianGaussianMixture(1).fit(copies)
    for name in ("means_", "covariances_", "lower_bound_", "covariance_prior_"):
        assert np.allclose(getattr(weighted, name), getattr(copied, name), rtol=1e-9), name


def test_rows_with_gaps_and_collinear_columns(faithful):
    rows = np.c_[FAITHFUL, FAITHFUL[:, :1], np.full(len(FAITHFUL), 3.0)]
    rows[::7, 0] = np.nan
    gaps = BayesianGaussianMixture(2, random_state=0, n_init=1).fit(rows)
    assert np.isfinite(gaps.lower_bound_)
    filled = gaps.impute(rows)
    assert np.abs(filled[::7, 0] - rows[::7, 2]).max() < 0.1
    assert np.array_equal(filled[1], rows[1])


def test_warm_start_goes_on(faithful):
    warm = BayesianGaussianMixture(
        5, weight_concentration_prior_type="dirichlet_distribution", warm_start=True,
        random_state=0, max_iter=4,
    )  # fmt: skip
    with pytest.warns(ConvergenceWarning):
        first = warm.fit(FAITHFUL).lower_bound_
    warm.set_params(max_iter=500).fit(FAITHFUL)
    assert warm.lower_bounds_[0] == pytest.approx(first, rel=1e-10)
    assert warm.lower_bound_ > first


def test_likelihood_criteria_are_not_offered(faithful):
    for name in ("bic", "aic", "standard_errors"):
        assert not hasattr(faithful, name), name


BAD = {
    "type": (
        {"weight_concentration_prior_type": "dp"},
        InvalidParameterError,
        "'dirichlet_distribution', 'dirichlet_process'",
    ),
    "concentration": ({"weight_concentration_prior": 0.0}, InvalidParameterError, r"\(0, inf\)"),
    "degrees": ({"degrees_of_freedom_prior": 1.0}, ValueError, "degrees_of_freedom_prior must be"),
    "mean": ({"mean_prior": [1.0]}, ValueError, "mean_prior must be 2 finite numbers"),
    "shape": ({"covariance_prior": 1.0}, ValueError, r"covariance_prior must have shape \(2, 2\)"),
    "definite": ({"covariance_prior": -np.eye(2)}, ValueError, "symmetric positive definite"),
}


@pytest.mark.parametrize(("options", "kind", "match"), BAD.values(), ids=BAD)
def test_refused(options, kind, match):
    with pytest.raises(kind, match=match):
        BayesianGaussianMixture(2, **options).fit(FAITHFUL)
