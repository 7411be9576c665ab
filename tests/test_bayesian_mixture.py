"""The Bayesian Gaussian mixture: its whole bound, updates, predictions, against twins and truth."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import truth_conjugate as truth
from helpers import assert_never_decreases, examine, rounding, rows_of, with_gaps
from scipy import stats
from sklearn import mixture
from sklearn.exceptions import ConvergenceWarning

import minorant
from minorant.components import BayesianGaussian, Diagonal, Full, NormalWishart, Spherical, Tied
from minorant.datasets import load
from minorant.models import BayesianMixture, DirichletWeights, StickBreaking
from minorant.solvers import EM, Plain

STRUCTURES = {"full": Full, "tied": Tied, "diagonal": Diagonal, "spherical": Spherical}
D = 2
FAITHFUL = np.column_stack(list(load("old_faithful").values()))


def prior_of(structure: str, sticks: bool) -> truth.Prior:
    """A prior that is neither centred nor round."""
    scale = np.array([[1.5, 0.4], [0.4, 0.8]])
    return truth.Prior(structure, np.array([0.3, -0.2]), 0.7, 3.5, scale, 0.6, sticks)


def template(prior: truth.Prior, k: int) -> BayesianMixture:
    """Our model with this prior."""
    own: Any = NormalWishart(prior.m, np.asarray(prior.beta), np.asarray(prior.nu), prior.V)
    weights = StickBreaking(prior.alpha) if prior.sticks else DirichletWeights(prior.alpha)
    component = BayesianGaussian(STRUCTURES[prior.structure](), own)
    return BayesianMixture(component, weights.configured(k), n_components=k)


def begun(prior: truth.Prior, X: np.ndarray, r: np.ndarray) -> tuple[BayesianMixture, truth.Q]:
    """Our model and the twin's q after one update from the responsibilities, by the twin."""
    q = truth.updated(prior, X, r, blank(prior, r.shape[1]))
    return modelled(prior, q), q


def blank(prior: truth.Prior, k: int) -> truth.Q:
    """The prior as a q: what missing cells are completed from before there is another."""
    return truth.Q([prior.m] * k, [prior.beta] * k, [prior.nu] * k, [prior.V] * k, np.ones(k))


def modelled(prior: truth.Prior, q: truth.Q) -> BayesianMixture:
    """Our model at the twin's q."""
    k = len(q.m)
    nu = [np.asarray(one) for one in q.nu]
    covariance = np.stack([V / n for V, n in zip(q.V, nu, strict=True)])
    covariance = covariance[0] if prior.structure == "tied" else covariance
    held = np.stack([np.atleast_1d(one) for one in q.beta]) - prior.beta
    alpha = q.concentration
    count = alpha[0] - 1.0 if prior.sticks else alpha - prior.alpha
    model = template(prior, k)
    own = model.component
    component = BayesianGaussian(own.structure, own.prior, np.stack(q.m), covariance, held)
    return BayesianMixture(component, model.prior, count, n_components=k)


def table(n: int, seed: int = 0) -> np.ndarray:
    """Two clouds."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, D)) + np.where(np.arange(n) % 2, 2.0, -1.0)[:, None]


def soft(n: int, k: int) -> np.ndarray:
    return np.random.default_rng(1).dirichlet(np.ones(k), size=n)


SCENES = [
    ("full", False, False), ("full", True, False), ("full", False, True), ("tied", True, False),
    ("diagonal", False, False), ("diagonal", True, True), ("spherical", False, False),
    ("spherical", True, True),
]  # fmt: skip


@pytest.mark.parametrize(("structure", "sticks", "gaps"), SCENES)
def test_bound_and_update_are_those_of_the_formulas(structure, sticks, gaps, float64):
    prior, X = prior_of(structure, sticks), table(20)
    X = with_gaps(np.random.default_rng(3), X) if gaps else X
    model, q = begun(prior, X, soft(len(X), 3))
    look = examine(model, rows_of(X, float64))
    r = truth.responsibilities(prior, X, q)
    np.testing.assert_allclose(np.exp(look.log_posterior).T, r, atol=1e-10)
    assert float(look.objective) == pytest.approx(truth.bound(prior, X, r, q), rel=1e-10)
    stepped, other = look.stepped, truth.updated(prior, X, r, q)
    expected = modelled(prior, other)
    np.testing.assert_allclose(stepped.count, expected.count, rtol=1e-8)
    for name in ("mean", "covariance", "count"):
        ours, theirs = (getattr(one.component, name) for one in (stepped, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_one_component_has_the_closed_evidence_and_predictions(structure, float64):
    """With k = 1 q is the exact posterior: the bound is log p(X); ratios of evidence predict."""
    prior, X = prior_of(structure, False), table(20)
    if structure == "diagonal":  # there missing cells drop out of the evidence exactly
        X = with_gaps(np.random.default_rng(3), X)
    model, _ = begun(prior, X, np.ones((len(X), 1)))
    look = examine(model, rows_of(X, float64))
    exact = truth.log_marginal(prior, X)
    assert float(look.objective) == pytest.approx(exact, rel=1e-11)
    more = [truth.log_marginal(prior, np.r_[X, x[None]]) - exact for x in X]
    np.testing.assert_allclose(look.log_evidence, more, rtol=1e-9)


def climbed(prior: truth.Prior, X: np.ndarray, steps: int, dtype: Any) -> np.ndarray:
    """The bound step by step."""
    model, _ = begun(prior, X, soft(len(X), 2))
    rows, found = rows_of(X, dtype), []
    for _ in range(steps):
        look = examine(model, rows)
        found.append(float(look.objective))
        model = jax.tree.map(np.asarray, look.stepped)
    return np.array(found)


@pytest.mark.parametrize("sticks", [False, True])
def test_bound_climbs_below_the_evidence_by_enumeration(sticks, float64):
    prior, X = prior_of("full", sticks), table(6)
    trace = climbed(prior, X, 60, float64)
    assert_never_decreases(trace, rounding(trace, len(X), float64))
    exact = truth.log_evidence(prior, X, 2)
    assert trace[-1] <= exact
    assert trace[-1] >= exact - 3.0  # log 2! for the numbering, and what mean field loses


# --- scikit-learn -----------------------------------------------------------------------------


def theirs_from(model: BayesianMixture, X: np.ndarray, steps: int, tol: float = 0.0) -> Any:
    """Their estimator after some steps from our q, with our prior and nothing added."""
    own, k = model.component, model.n_components
    sticks = isinstance(model.prior, StickBreaking)
    other = mixture.BayesianGaussianMixture(
        n_components=k, max_iter=steps, tol=tol, reg_covar=0.0, warm_start=True,
        weight_concentration_prior_type=f"dirichlet_{'process' if sticks else 'distribution'}",
        weight_concentration_prior=float(np.ravel(model.prior.concentration)[0]),
        mean_precision_prior=float(own.prior.mean_precision), mean_prior=own.prior.mean,
        degrees_of_freedom_prior=float(own.prior.degrees), covariance_prior=own.prior.scale,
    )  # fmt: skip
    other.means_, other.covariances_ = own.mean, own.covariance
    other.mean_precision_ = own.mean_precision()[:, 0]
    other.degrees_of_freedom_ = own.degrees()
    factors = np.linalg.inv(np.linalg.cholesky(own.covariance))
    other.precisions_cholesky_ = factors.transpose(0, 2, 1)
    other.weight_concentration_ = model.prior.parameters(model.count)
    other.converged_, other.lower_bound_ = True, -np.inf
    return other.fit(X)


def dropped_constants(prior: truth.Prior, n: int, k: int) -> float:
    """What their bound leaves out: normalisers of the priors and ``log 2 pi``."""
    d, nu = D, prior.nu
    log_b = 0.5 * nu * (np.linalg.slogdet(prior.V)[1] - d * np.log(2))
    log_b -= sum(truth.gammaln(0.5 * (nu - i)) for i in range(d))
    weights = truth.gammaln(k * prior.alpha) - k * truth.gammaln(prior.alpha)
    if prior.sticks:
        weights = -k * truth.betaln(1.0, prior.alpha)
    return k * (log_b + 0.5 * d * np.log(prior.beta)) + weights - 0.5 * n * d * np.log(2 * np.pi)


@pytest.mark.parametrize("sticks", [False, True])
def test_steps_are_scikit_learns_and_its_bound_lacks_the_constants(sticks, float64):
    prior, X = prior_of("full", sticks), table(20)
    model, _ = begun(prior, X, soft(len(X), 3))
    with pytest.warns(ConvergenceWarning):
        other = theirs_from(model, X, 5)
    rows, ours = rows_of(X, float64), model
    for _ in range(5):
        ours = jax.tree.map(np.asarray, examine(ours, rows).stepped)
    np.testing.assert_allclose(ours.component.mean, other.means_, rtol=1e-9)
    np.testing.assert_allclose(ours.component.covariance, other.covariances_, rtol=1e-9)
    np.testing.assert_allclose(ours.component.degrees(), other.degrees_of_freedom_, rtol=1e-9)
    np.testing.assert_allclose(ours.weights, other.weights_, rtol=1e-9)
    ended = theirs_from(model, X, 20000, tol=1e-13)
    for _ in range(ended.n_iter_):
        ours = jax.tree.map(np.asarray, examine(ours, rows).stepped)
    lacking = float(examine(ours, rows).objective) - ended.lower_bound_
    assert lacking == pytest.approx(dropped_constants(prior, len(X), 3), abs=1e-8)


# --- whole fits -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faithful():
    """Six components where two are wanted."""
    with jax.enable_x64(True):
        model = BayesianMixture(prior=StickBreaking(0.1), n_components=6)
        return minorant.fit(model, FAITHFUL)


def test_superfluous_components_are_emptied_and_the_fit_is_sound(faithful):
    assert faithful.outcome is minorant.Outcome.CONVERGED
    assert faithful.degenerate == ()
    held = np.sort(faithful.model.count)
    assert np.all(held[:4] < 1e-3)
    assert held[4:] == pytest.approx([97.0, 175.0], abs=1.0)
    assert held.sum() == pytest.approx(len(FAITHFUL), rel=1e-9)
    trace = faithful.trace.bound
    assert_never_decreases(trace, rounding(trace, len(FAITHFUL), np.float64))
    assert faithful.bound == faithful.objective == trace[-1]


def test_the_bound_is_in_the_units_of_the_data(faithful):
    """At the fitted q, by the formulas, from the table as it is."""
    own = faithful.model.component
    scale = np.asarray(own.prior.scale)
    prior = truth.Prior(
        "full", own.prior.mean, float(own.prior.mean_precision), float(own.prior.degrees),
        scale, 0.1, True,
    )  # fmt: skip
    nu = own.degrees()
    V = list(own.covariance * nu[:, None, None])
    sticks = np.stack(faithful.model.prior.parameters(faithful.model.count))
    q = truth.Q(list(own.mean), list(own.mean_precision()[:, 0]), list(nu), V, sticks)
    r = truth.responsibilities(prior, FAITHFUL, q)
    assert faithful.bound == pytest.approx(truth.bound(prior, FAITHFUL, r, q), rel=1e-9)
    with jax.enable_x64(True):
        found = faithful.posterior(FAITHFUL).probability.T
    np.testing.assert_allclose(found, r, atol=1e-9)


def test_integer_weights_are_copies(faithful):
    weights = np.random.default_rng(0).integers(0, 3, len(FAITHFUL)).astype(float)
    copies = FAITHFUL.repeat(weights.astype(int), axis=0)
    start = faithful.model
    with jax.enable_x64(True):
        options = {"solver": EM(Plain()), "max_steps": 5}
        weighted = minorant.fit(start, FAITHFUL, weights=weights, **options)
        copied = minorant.fit(start, copies, **options)
    np.testing.assert_allclose(weighted.trace.bound, copied.trace.bound, rtol=1e-10)
    np.testing.assert_allclose(
        weighted.model.component.mean, copied.model.component.mean, rtol=1e-8
    )


def test_draws_have_the_moments_of_the_predictive_density(faithful):
    with jax.enable_x64(True):
        rows, labels = faithful.sample(20000)
    own, weights = faithful.model.component, faithful.model.weights
    expected = weights @ own.mean
    error = rows.std(0) / np.sqrt(len(rows))
    assert np.all(np.abs(rows.mean(0) - expected) < 5 * error)
    share = np.bincount(labels, minlength=6) / len(rows)
    assert np.all(np.abs(share - weights) < 5 * np.sqrt(0.25 / len(rows)))


@pytest.mark.parametrize("structure", ["tied", "diagonal", "spherical"])
def test_draws_of_one_component_are_student_t(structure, float64):
    prior, X = prior_of(structure, False), table(20)
    model, _ = begun(prior, X, np.ones((len(X), 1)))
    own = model.component
    rows = np.asarray(own.sample(jax.random.key(0), np.zeros(4000, dtype=int)))
    away, left = rows - own.mean[0], float(np.ravel(own.degrees())[0])
    grown = 1 + 1 / own.mean_precision()[0, 0]
    if structure == "diagonal":
        draws = away / np.sqrt(own.covariance[0] * grown)
        found = [stats.kstest(column, stats.t(left).cdf).pvalue for column in draws.T]
    elif structure == "tied":
        scale = own.covariance * grown * left / (left + 1 - D)
        square = np.einsum("ni,ij,nj->n", away, np.linalg.inv(scale), away) / D
        found = [stats.kstest(square, stats.f(D, left + 1 - D).cdf).pvalue]
    else:
        square = (away**2).sum(1) / (own.covariance[0] * grown) / D
        found = [stats.kstest(square, stats.f(D, left).cdf).pvalue]
    assert min(found) > 1e-3


# --- evidence ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("structure", "sticks"), [("full", True), ("diagonal", False)])
def test_draws_of_an_exact_q_all_weigh_the_evidence(structure, sticks, float64):
    """Where q is the posterior, ``p(X | theta) p(theta) / q(theta)`` is p(X) for every theta."""
    prior, X = prior_of(structure, sticks), table(20)
    fit = minorant.fit(template(prior, 1), X)
    found, exact = fit.evidence(X), truth.log_evidence(prior, X, 1)
    assert fit.bound == pytest.approx(exact, rel=1e-11)  # sticks leave some for other components
    assert found.lower == pytest.approx(fit.bound, rel=1e-12)
    assert found.standard_error < 1e-10
    assert found.gap < 1e-8
    assert found.rows_lower.sum() == pytest.approx(found.lower, rel=1e-12)
    assert "the bound equals log p(X)" in found.verdict


def test_importance_weights_find_the_evidence_by_enumeration(float64):
    prior, X = prior_of("spherical", False)._replace(alpha=3.0), table(6)
    fit = minorant.fit(template(prior, 2), X)
    found, exact = fit.evidence(X), truth.log_evidence(prior, X, 2)
    assert fit.bound < exact
    assert exact - np.log(2) - 0.3 < found.estimate < exact + 5 * found.standard_error
    with pytest.raises(TypeError, match="posterior cannot be chosen"):
        fit.evidence(X, np.full((6, 2), 0.5))
    with pytest.raises(TypeError, match="has no parameters whose errors"):
        fit.standard_errors(X)


def test_predictive_density_is_a_mixture_of_student_t(faithful):
    own, weights = faithful.model.component, faithful.model.weights
    beta, nu = own.mean_precision()[:, 0], own.degrees()
    total = np.zeros(10)
    for k, weight in enumerate(weights):
        left = nu[k] + 1 - D
        shape = own.covariance[k] * nu[k] * (1 + 1 / beta[k]) / left
        total += weight * stats.multivariate_t(own.mean[k], shape, left).pdf(FAITHFUL[:10])
    with jax.enable_x64(True):
        np.testing.assert_allclose(faithful.log_evidence(FAITHFUL[:10]), np.log(total), rtol=1e-9)


def test_saved_and_loaded(faithful, tmp_path):
    minorant.save(faithful, tmp_path / "fit")
    back = minorant.load(tmp_path / "fit")
    assert back.bound == faithful.bound
    np.testing.assert_array_equal(back.model.component.mean, faithful.model.component.mean)
    assert isinstance(back.model.prior, StickBreaking)


# --- bad input --------------------------------------------------------------------------------

BAD = {
    "k": (lambda: BayesianMixture(n_components=0), "n_components must be an integer of at least 1"),
    "alpha": (lambda: DirichletWeights(0.0), "DirichletWeights concentration must be above 0"),
    "sticks": (lambda: StickBreaking(-1.0), "StickBreaking concentration must be above 0"),
    "beta": (lambda: NormalWishart(mean_precision=0.0), "mean_precision must be above 0"),
    "degrees": (lambda: fitted(degrees=1.0), r"degrees must be above 1 for 2 columns"),
    "mean": (lambda: fitted(mean=np.zeros(3)), r"mean must have shape \(2,\); got \(3,\)"),
    "scale": (lambda: fitted(scale=-np.eye(2)), "scale must be a symmetric positive definite"),
    "shape": (lambda: DirichletWeights(np.ones(2)).configured(3), "one for each of 3 components"),
}


def fitted(**prior: Any) -> minorant.Fit:
    model = BayesianMixture(BayesianGaussian(prior=NormalWishart(**prior)), n_components=2)
    return minorant.fit(model, FAITHFUL)


@pytest.mark.parametrize(("attempt", "match"), BAD.values(), ids=BAD)
def test_refused(attempt, match):
    with pytest.raises(ValueError, match=match):
        attempt()


def test_what_is_integrated_out_cannot_be_held(faithful):
    with pytest.raises(ValueError, match="fixed cannot hold what is integrated out"):
        minorant.fit(faithful.model, FAITHFUL, fixed=lambda m: m.component.mean)
