"""`BayesianGaussianMixture`: scikit-learn's estimator of that name, with the whole bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from minorant.estimators import _gaussian
from minorant.estimators._mixture import Given, MixtureEstimator
from minorant.estimators._validation import Rows, Values
from minorant.estimators.options import DEFAULTS

if TYPE_CHECKING:
    from minorant.components import NormalWishart
    from minorant.models import BayesianMixture
    from minorant.result import Fit

_LEAST_VARIANCE = 1e-6


class BayesianGaussianMixture(MixtureEstimator):
    r"""A mixture of Gaussians with priors on all parameters, by coordinate ascent on a lower bound.

    .. math:: \log p(X) \ge E_q[\log p(X, Z, w, \mu, \Lambda) - \log q(Z)\, q(w)\,
              \textstyle\prod_k q(\mu_k, \Lambda_k)]

    Arguments, attributes, methods and their meanings are those of
    `sklearn.mixture.BayesianGaussianMixture`, but for these:

    - `lower_bound_` is the whole bound on ``log p(X)`` in nats, no constant dropped: it may be
      compared between numbers of components, priors and covariance types;
    - `score_samples` is the log of the posterior predictive density, a mixture of Student-t
      densities; scikit-learn's is ``log sum_k exp E[...]``, which is no density (its integral is
      below 1). `predict_proba` is q(Z) in both, and `sample` draws from the predictive density;
    - "tied", "diag" and "spherical" are models: one Wishart for all components, a gamma for each
      cell, a gamma for each component. scikit-learn's updates for these follow no bound (a tied
      matrix sees n / k rows, and the others take the Wishart's digammas), so numbers differ;
    - missing cells (NaN, None, NA) are latent too; rows may have weights and labels;
    - `tol` is what is estimated to be left to gain, in nats per row; several starts are the
      default, and steps are extrapolated where the bound rises by it.

    Args:
        n_components: k, the most components there may be.
        covariance_type: "full" (k, d, d), "tied" (d, d), "diag" (k, d) or "spherical" (k,).
        tol: nats per row that may be left to gain.
        reg_covar: not used: the prior keeps every covariance away from zero.
        max_iter: limit on steps.
        n_init: number of starts; "auto": twelve, the worse ones dropped early.
        init_params: "auto", "kmeans", "k-means++", "random" or "random_from_data".
        weight_concentration_prior_type: "dirichlet_process" (stick-breaking, infinitely many
            components of which k hold rows) or "dirichlet_distribution" (k components).
        weight_concentration_prior: its concentration, above 0; a Dirichlet density may have one
            for each component; None: 1 / k.
        mean_precision_prior: how many rows the prior mean is worth; None: 1.
        mean_prior: (d,); None: the mean of the rows.
        degrees_of_freedom_prior: how many rows the prior covariance is worth, above d - 1 ("full",
            "tied") or 0; None: d.
        covariance_prior: the scale of the Wishart, ``degrees`` times the covariance to expect:
            (d, d), (d,) for "diag" or one number for "spherical"; None: the covariance of the rows.
        random_state: int, RandomState, Generator, or None for fresh entropy.
        warm_start: climb from the last answer, where its shapes are those of this fit.
        verbose: above 0: a bar with the bound.
        verbose_interval: not used.
        acceleration: "squarem", "anderson" or None.

    Attributes:
        weights_: (k,) expected weights, scaled to sum to 1.
        means_: (k, d) expected means.
        covariances_: inverses of the expected precisions; so are `precisions_` and
            `precisions_cholesky_`.
        weight_concentration_: (k,), or for a Dirichlet process the two (k,) of its betas.
        mean_precision_: (k,); (k, d) where missing cells meet "diag" or "spherical".
        degrees_of_freedom_: (k,); one number when tied; (k, d) where missing cells meet "diag".
        weight_concentration_prior_, mean_precision_prior_, mean_prior_,
            degrees_of_freedom_prior_, covariance_prior_: the priors that were used.
        converged_: whether less than `tol` is left to gain.
        n_iter_: steps of the best climb.
        lower_bound_: the whole bound, in nats, summed over rows with their weights.
        lower_bounds_: the same after each step.
        fit_: the whole answer, a `minorant.Fit`.

    Example:
        >>> import numpy as np
        >>> from minorant.estimators import BayesianGaussianMixture
        >>> rows = np.r_[np.arange(20.0), 100 + np.arange(20.0)][:, None]
        >>> mixture = BayesianGaussianMixture(4, random_state=0).fit(rows)
        >>> np.sort(mixture.weights_).round(1)
        array([0. , 0. , 0.5, 0.5])

    Not for: honest error bars of what components share, which mean-field q makes too narrow; a
    single best set of parameters (`GaussianMixture`).

    Bishop (2006), "Pattern recognition and machine learning", section 10.2; Blei & Jordan (2006),
    "Variational inference for Dirichlet process mixtures".
    """

    degenerate = "floor"  # nothing collapses or fails by losing its rows

    means_: Float[np.ndarray, "k d"]
    covariances_: Float[np.ndarray, "..."]
    precisions_: Float[np.ndarray, "..."]
    precisions_cholesky_: Float[np.ndarray, "..."]
    weight_concentration_: Any
    mean_precision_: Float[np.ndarray, "..."]
    degrees_of_freedom_: Float[np.ndarray, "..."]

    def __init__(  # noqa: PLR0913
        self,
        n_components: int = DEFAULTS["n_components"],
        *,
        covariance_type: str = DEFAULTS["covariance_type"],
        tol: float = DEFAULTS["tol"],
        reg_covar: float | str = DEFAULTS["reg_covar"],
        max_iter: int = DEFAULTS["max_iter"],
        n_init: int | str = DEFAULTS["n_init"],
        init_params: str = DEFAULTS["init_params"],
        weight_concentration_prior_type: str = DEFAULTS["weight_concentration_prior_type"],
        weight_concentration_prior: Any = None,
        mean_precision_prior: float | None = None,
        mean_prior: Values = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = DEFAULTS["verbose_interval"],
        acceleration: str | None = DEFAULTS["acceleration"],
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.acceleration = acceleration

    def _model(self, given: Given) -> BayesianMixture:
        from minorant.components import BayesianGaussian
        from minorant.models import BayesianMixture

        structure = _gaussian.structure(self.covariance_type)
        component = BayesianGaussian(structure, self._normal_wishart(given))
        count = None
        last = self._last(given.rows.shape[1])
        if last is not None:
            own, count = last.component, last.count
            component = BayesianGaussian(
                structure, component.prior, own.mean, own.covariance, own.count
            )
        return BayesianMixture(
            component, self._weight_prior(), count, n_components=self.n_components
        )

    def _last(self, d: int) -> BayesianMixture | None:
        """Return the q to go on from, where it fits the rows and the options."""
        if not self.warm_start or not hasattr(self, "fit_"):
            return None
        model = self.fit_.model
        shape = _gaussian.covariance_shape(self.covariance_type, self.n_components, d)
        same = model.component.mean.shape == (self.n_components, d)
        return model if same and model.component.covariance.shape == shape else None

    def _normal_wishart(self, given: Given) -> NormalWishart:
        from minorant.components import NormalWishart

        d = given.rows.shape[1]
        degrees = d if self.degrees_of_freedom_prior is None else self.degrees_of_freedom_prior
        least = d - 1 if self.covariance_type in ("full", "tied") else 0
        if degrees <= least:
            raise ValueError(
                f"degrees_of_freedom_prior must be above {least} for {d} columns and "
                f"covariance_type={self.covariance_type!r}; got {degrees}."
            )
        found = moments(given)
        precision: Any = 1.0 if self.mean_precision_prior is None else self.mean_precision_prior
        return NormalWishart(
            found.mean if self.mean_prior is None else _vector("mean_prior", self.mean_prior, d),
            np.asarray(precision, dtype=float),
            np.asarray(degrees, dtype=float),
            self._scale(found, d),
        )

    def _scale(self, found: Moments, d: int) -> Float[np.ndarray, "d d"]:
        """Return the scale matrix of the prior."""
        kind, value = self.covariance_type, self.covariance_prior
        if value is None or isinstance(value, str):
            return _restricted(kind, found.covariance)
        array: Any = np.asarray(value, dtype=float)
        shape = {"diag": (d,), "spherical": ()}.get(kind, (d, d))
        if array.shape != shape:
            raise ValueError(
                f"covariance_prior must have shape {shape} for covariance_type={kind!r} and {d} "
                f"columns; got {array.shape}."
            )
        matrix = array if kind in ("full", "tied") else array * np.eye(d)
        if not np.allclose(matrix, matrix.T) or not (np.linalg.eigvalsh(matrix) > 0).all():
            raise ValueError(
                "covariance_prior must be positive, and a matrix symmetric positive definite; got "
                f"{array.tolist()}."
            )
        return matrix

    def _weight_prior(self) -> Any:
        from minorant.models import DirichletWeights, StickBreaking

        kinds: Any = {
            "dirichlet_process": StickBreaking,
            "dirichlet_distribution": DirichletWeights,
        }
        value = self.weight_concentration_prior
        value = None if value is None else np.asarray(value, dtype=float)
        return kinds[self.weight_concentration_prior_type](value)

    def _publish(self, answer: Fit, given: Given) -> None:
        super()._publish(answer, given)
        dtype, component = given.rows.dtype, answer.model.component
        factors = _gaussian.precision_factors(self.covariance_type, component.covariance)
        precisions = _gaussian.precisions(self.covariance_type, factors)
        self.means_ = component.mean.astype(dtype)
        self.covariances_ = component.covariance.astype(dtype)
        self.precisions_cholesky_ = factors.astype(dtype)
        self.precisions_ = precisions.astype(dtype)
        self.mean_precision_ = _narrowed(component.mean_precision())
        self.degrees_of_freedom_ = _narrowed(component.degrees())
        self._publish_priors(answer.model)
        self.lower_bound_ = answer.bound
        self.lower_bounds_ = answer.trace.bound.tolist()

    def _publish_priors(self, model: BayesianMixture) -> None:
        """Copy what the priors were, and q of the weights."""
        own, weights = model.component.prior, model.prior
        self.mean_prior_ = own.mean
        self.mean_precision_prior_ = float(np.asarray(own.mean_precision))
        self.degrees_of_freedom_prior_ = float(np.asarray(own.degrees))
        self.covariance_prior_ = _shown(self.covariance_type, np.asarray(own.scale))
        self.weight_concentration_prior_ = np.asarray(weights.concentration)
        self.weight_concentration_ = weights.parameters(model.count)

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, Int[np.ndarray, " n"]]:
        """Return rows drawn from the predictive density, grouped by component, and components.

        Raises:
            ValueError: `n_samples` is below 1.
        """
        self._check_fitted()
        return self._drawn(n_samples)

    def impute(self, X: Rows) -> Float[np.ndarray, "n d"]:
        """Return the rows with ``E_q[x | x_observed]`` in their missing cells."""
        rows = self._about(X)
        return np.asarray(self._ask("impute", rows), dtype=rows.dtype)


class Moments(NamedTuple):
    """Of the columns: means, and the covariance that the prior is scaled by."""

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]


def moments(given: Given) -> Moments:
    """Return weighted means and covariance of the rows, positive definite.

    Of rows with missing cells: a missing cell counts as its column's mean, with the column's
    variance. Eigenvalues stay above 1e-6 of each column's variance, so that constant or collinear
    columns leave a prior with a finite integral.
    """
    held = total = filled = 0.0
    for part in given.tables():
        rows, weights = part.rows.astype(float), _weights(part)
        held, total = held + weights @ ~np.isnan(rows), total + weights.sum()
        filled = filled + weights @ np.nan_to_num(rows)
    held = np.maximum(held, np.finfo(float).tiny)
    mean, scatter = filled / held, 0.0
    for part in given.tables():
        away = np.nan_to_num(part.rows.astype(float) - mean)
        scatter = scatter + (away * _weights(part)[:, None]).T @ away
    variance = np.diagonal(scatter) / held
    covariance = scatter + np.diag(variance * (total - held))
    covariance = covariance / (total - 1.0 if total > 1.0 else total)
    return Moments(mean, _floored(covariance, mean))


def _weights(given: Given) -> Float[np.ndarray, " n"]:
    return np.ones(len(given.rows)) if given.weights is None else given.weights.astype(float)


def _floored(covariance: np.ndarray, mean: np.ndarray) -> Float[np.ndarray, "d d"]:
    from minorant._linalg import floored

    variance = np.diag(covariance)
    typical = np.where(variance > 0, variance, np.where(mean != 0, mean**2, 1.0))
    return np.asarray(floored(covariance, _LEAST_VARIANCE * typical))


def _restricted(covariance_type: str, covariance: np.ndarray) -> Float[np.ndarray, "d d"]:
    """Return the part of a covariance that a type of covariance knows of."""
    if covariance_type in ("full", "tied"):
        return covariance
    variance = np.diag(covariance)
    return np.diag(
        variance if covariance_type == "diag" else np.full_like(variance, variance.mean())
    )


def _shown(covariance_type: str, scale: Float[np.ndarray, "d d"]) -> Any:
    """Return the scale of the prior in the shape that the type gives it."""
    if covariance_type in ("full", "tied"):
        return scale
    return np.diag(scale).copy() if covariance_type == "diag" else float(np.diag(scale).mean())


def _narrowed(value: Any) -> np.ndarray:
    """Return (k,) of (k, d) whose columns are equal, and anything else as it is."""
    array = np.asarray(value)
    equal = array.ndim == 2 and bool((array == array[:, :1]).all())
    return array[:, 0] if equal else array


def _vector(name: str, value: Values, d: int) -> Float[np.ndarray, " d"]:
    array = np.asarray(value, dtype=float)
    if array.shape != (d,) or not np.isfinite(array).all():
        raise ValueError(f"{name} must be {d} finite numbers; got {array.tolist()}.")
    return array
