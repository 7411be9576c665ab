"""`GaussianMixture`: scikit-learn's estimator of that name, climbed by accelerated, weighted EM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from minorant.estimators import _gaussian
from minorant.estimators._mixture import Given, LikelihoodEstimator
from minorant.estimators._validation import Rows, Values
from minorant.estimators.options import DEFAULTS

if TYPE_CHECKING:
    from minorant.models import Mixture
    from minorant.result import Fit

_FIELDS = {"weights": "weights_init", "means": "means_init", "covariances": "precisions_init"}


class GaussianMixture(LikelihoodEstimator):
    r"""A mixture of Gaussians, a drop-in for `sklearn.mixture.GaussianMixture`.

    .. math:: p(x) = \sum_k w_k \, N(x; m_k, S_k)

    Arguments, attributes, methods and their meanings are scikit-learn's, but for these:

    - missing cells (NaN, None, NA) are integrated out exactly; rows may have weights and labels;
    - `reg_covar` is a floor, not an addition: every covariance stays at or above ``reg_covar * I``
      in the positive semi-definite order, and the likelihood is maximised exactly under that
      constraint, so that the climb never falls and its end is at least as good;
    - `tol` is what is estimated to be left to gain, in nats per row, not the last step's gain;
    - several starts and more, shorter climbs are the default (`n_init`, `max_iter`);
    - with `means_init` there is one climb, from these means: weights and covariances that are not
      given are those of the rows nearest to each mean.

    Args:
        n_components: k.
        covariance_type: "full" (k, d, d), "tied" (d, d), "diag" (k, d) or "spherical" (k,).
        tol: nats per row that may be left to gain.
        reg_covar: the floor in squared units of the data; "auto": 1e-6 of each column's variance.
        max_iter: limit on EM steps.
        n_init: number of starts; "auto": twelve, the worse ones dropped early.
        init_params: "auto", "kmeans", "k-means++", "random" or "random_from_data".
        weights_init: (k,) initial weights.
        means_init: (k, d) initial means.
        precisions_init: initial inverse covariances, in the shape of `covariance_type`.
        random_state: int, RandomState, Generator, or None for fresh entropy.
        warm_start: climb from the last answer, where `n_components` and d are the same.
        verbose: above 0: a bar with the bound.
        verbose_interval: not used.
        fixed: what keeps its initial value, for example ``{"means": True}`` with `means_init`;
            "covariances" goes with `precisions_init`; (k,) flags hold some components only.
        covariance_prior: scale of an inverse-Wishart prior with d + 2 degrees of freedom: one
            variance, (d,) variances or a (d, d) matrix in squared units, or "auto".
        weight_concentration: Dirichlet prior on the weights, one number or (k,), at least 1.
        acceleration: "squarem", "anderson" or None.
        degenerate: what is done with a component that collapses or empties, "floor", "reseed" or
            "merge" (which leaves fewer components); `fit_.degenerate` names it.
        truncated: with hundreds of components: how many of them each row is scored under, on
            average (`minorant.posteriors.Truncated`); from one start, or `n_init=1`. What it loses
            is in `fit_.truncation`.

    Attributes:
        weights_: (k,).
        means_: (k, d).
        covariances_: in the shape of `covariance_type`; so are `precisions_` and
            `precisions_cholesky_`.
        converged_: whether less than `tol` is left to gain.
        n_iter_: EM steps of the best climb.
        lower_bound_: weighted mean log-likelihood per row, in nats.
        lower_bounds_: the same after each step.
        fit_: the whole answer, a `minorant.Fit`.

    Predictions follow the attributes: assign `means_`, `weights_`, `precisions_cholesky_` or
    `covariances_` by hand, with or without a fit before, and `predict` uses them.

    Example:
        >>> import numpy as np
        >>> from minorant.estimators import GaussianMixture
        >>> rows = np.r_[np.arange(10.0), 100 + np.arange(10.0)][:, None]
        >>> mixture = GaussianMixture(2, random_state=0).fit(rows)
        >>> np.sort(mixture.means_.ravel()).round(3)
        array([  4.5, 104.5])

    Not for: categories or counts (`MixtureModel`), very many columns (a full covariance has
    d (d + 1) / 2 numbers per component).

    McLachlan & Peel (2000), "Finite Mixture Models", chapter 3.
    """

    means_: Float[np.ndarray, "k d"]
    covariances_: Float[np.ndarray, "..."]
    precisions_: Float[np.ndarray, "..."]
    precisions_cholesky_: Float[np.ndarray, "..."]

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
        weights_init: Values = None,
        means_init: Values = None,
        precisions_init: Values = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = DEFAULTS["verbose_interval"],
        fixed: Mapping[str, Any] | None = None,
        covariance_prior: Any = None,
        weight_concentration: Any = None,
        acceleration: str | None = DEFAULTS["acceleration"],
        degenerate: str = DEFAULTS["degenerate"],
        truncated: int | None = DEFAULTS["truncated"],
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.fixed = fixed
        self.covariance_prior = covariance_prior
        self.weight_concentration = weight_concentration
        self.acceleration = acceleration
        self.degenerate = degenerate
        self.truncated = truncated

    def _model(self, given: Given) -> Mixture:
        d = given.rows.shape[1]
        initial = self._last(d) if self.warm_start else None
        if initial is None:
            initial = _gaussian.initial(self, given.rows, given.weights)
        prior = _gaussian.inverse_wishart(self.covariance_prior, d)
        floor = None if self.reg_covar == "auto" else self.reg_covar
        return self._mixture(initial, floor, prior)

    def _mixture(
        self, initial: _gaussian.Parameters, floor: Any = None, prior: Any = None
    ) -> Mixture:
        from minorant.components import Gaussian
        from minorant.models import Mixture

        structure = _gaussian.structure(self.covariance_type)
        component = Gaussian(structure, initial.means, initial.covariances, floor, prior)
        return Mixture(
            component, initial.weights, self._dirichlet(), n_components=self.n_components
        )

    def _last(self, d: int) -> _gaussian.Parameters | None:
        """Return the parameters to go on from, where they fit the rows and the options."""
        if not hasattr(self, "means_") or self.means_.shape != (self.n_components, d):
            return None
        found = _gaussian.Parameters(self.weights_, self.means_, self.covariances_)
        shape = _gaussian.covariance_shape(self.covariance_type, *self.means_.shape)
        return found if found.covariances.shape == shape else None

    def _held(self) -> Any:
        if not self.fixed:
            return None
        from minorant._parameters import Hold

        held = {name: _flags(name, flag, self) for name, flag in self.fixed.items()}

        def where(model: Mixture) -> tuple[Hold, ...]:
            component: Any = model.component
            parameters = {
                "weights": model.weights,
                "means": component.mean,
                "covariances": component.covariance,
            }
            return tuple(Hold(parameters[name], flags) for name, flags in held.items())

        return where

    def _publish(self, answer: Fit, given: Given) -> None:
        dtype = given.rows.dtype
        component: Any = answer.model.component
        covariances = component.covariance
        factors = _gaussian.precision_factors(self.covariance_type, covariances)
        self.means_ = component.mean.astype(dtype)
        self.covariances_ = covariances.astype(dtype)
        self.precisions_cholesky_ = factors.astype(dtype)
        self.precisions_ = _gaussian.precisions(self.covariance_type, factors).astype(dtype)
        super()._publish(answer, given)

    def _current(self) -> Fit:
        return _gaussian.follow(self)

    def _check_fitted(self) -> None:
        if not hasattr(self, "means_"):
            super()._check_fitted()

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, Int[np.ndarray, " n"]]:
        """Return `n_samples` rows drawn from the mixture, grouped by component, and components.

        Raises:
            ValueError: `n_samples` is below 1.
        """
        self._check_fitted()
        return self._drawn(n_samples)

    def impute(self, X: Rows) -> Float[np.ndarray, "n d"]:
        """Return the rows with ``E[x | x_observed]`` in their missing cells."""
        rows = self._about(X)
        return np.asarray(self._ask("impute", rows), dtype=rows.dtype)


def _flags(name: str, flag: Any, estimator: GaussianMixture) -> np.ndarray:
    """Return what is held of one parameter, or refuse what cannot be."""
    if name not in _FIELDS:
        raise ValueError(f"fixed takes the names {', '.join(_FIELDS)}; got {name!r}.")
    if getattr(estimator, _FIELDS[name]) is None:
        raise ValueError(f"fixed holds the {name}, so {_FIELDS[name]} must be given.")
    flags = np.asarray(flag, dtype=bool)
    if flags.shape not in {(), (estimator.n_components,)}:
        raise ValueError(
            f"fixed[{name!r}] must be True, False or one flag per component, shape "
            f"({estimator.n_components},); got shape {flags.shape}."
        )
    return flags
