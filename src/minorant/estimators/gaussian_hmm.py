"""`GaussianHMM`: hidden Markov models with normal densities, by hmmlearn's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from minorant import _factors
from minorant.estimators._chain import ChainEstimator, floats
from minorant.estimators._gaussian import covariance_shape, structure
from minorant.estimators.options import DEFAULTS

_TOL = DEFAULTS["tol"]
_STARTS = DEFAULTS["n_init"]


class GaussianHMM(ChainEstimator):
    """A hidden Markov model with a normal density in each state; hmmlearn's, faster.

    Args:
        n_components: k, the number of states.
        covariance_type: "diag", "full", "tied" or "spherical".
        min_covar: floor of variances, squared units; None: 1e-6 of each column's variance.
        startprob_prior: Dirichlet concentration of the first state's probabilities; 1: none.
        transmat_prior: Dirichlet concentration of each row of the transition; 1: none.
        means_prior: mean of a normal prior on the means.
        means_weight: for how many rows it counts; 0: none.
        covars_prior: scale of a prior on the covariances: a variance, or as `covars_`; None: none.
        covars_weight: its degrees of freedom.
        algorithm: "viterbi" or "map", for `predict`.
        random_state: seed of the starts and of draws.
        n_iter: limit on EM steps.
        tol: nats per row that may be left to gain.
        verbose: whether to show a bar.
        params: letters of what is learned: s, t, m, c.
        init_params: letters of what gets a start of its own; the others start from attributes.
        implementation: not used.
        n_init: how many starts; "auto": twelve, the worse dropped early.
        structure: which moves are allowed, from `minorant.models`; None: all.
        stationary: whether sequences begin in the stationary distribution.

    Attributes:
        startprob_, transmat_: (k,), (k, k) probabilities.
        means_: (k, d).
        covars_: (k, d, d), whatever the type; assigned in the type's own shape.
        monitor_: steps, history and whether the climb converged.
        fit_: the whole answer, a `minorant.Fit`.

    Example:
        >>> import numpy as np
        >>> from minorant.estimators import GaussianHMM
        >>> rows = np.r_[np.arange(9.0), 90 + np.arange(9.0), np.arange(9.0)][:, None]
        >>> model = GaussianHMM(2, random_state=0).fit(rows)
        >>> np.flatnonzero(np.diff(model.predict(rows)))
        array([ 8, 17])

    Not for: counts (`PoissonHMM`), categories (`CategoricalHMM`); any other emission:
    `minorant.models.HiddenMarkov`.

    Rabiner (1989), "A tutorial on hidden Markov models".
    """

    _EMISSIONS: ClassVar[Mapping[str, str]] = {"m": "means_", "c": "_covars_"}
    _leaves: ClassVar[Mapping[str, str]] = {"m": "mean", "c": "covariance"}

    means_: Float[np.ndarray, "k d"]
    _covars_: np.ndarray

    def __init__(  # noqa: PLR0913
        self,
        n_components: int = 1,
        covariance_type: str = "diag",
        min_covar: float | None = None,
        startprob_prior: Any = 1.0,
        transmat_prior: Any = 1.0,
        means_prior: Any = 0.0,
        means_weight: float = 0.0,
        covars_prior: Any = None,
        covars_weight: float = 1.0,
        algorithm: str = "viterbi",
        random_state: Any = None,
        n_iter: int = 2000,
        tol: float = _TOL,
        verbose: bool = False,
        params: str = "stmc",
        init_params: str = "stmc",
        implementation: str = "auto",
        *,
        n_init: int | str = _STARTS,
        structure: Any = None,
        stationary: bool = False,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.min_covar = min_covar
        self.startprob_prior = startprob_prior
        self.transmat_prior = transmat_prior
        self.means_prior = means_prior
        self.means_weight = means_weight
        self.covars_prior = covars_prior
        self.covars_weight = covars_weight
        self.algorithm = algorithm
        self.random_state = random_state
        self.n_iter = n_iter
        self.tol = tol
        self.verbose = verbose
        self.params = params
        self.init_params = init_params
        self.implementation = implementation
        self.n_init = n_init
        self.structure = structure
        self.stationary = stationary

    @property
    def covars_(self) -> Float[np.ndarray, "k d d"]:
        """Covariances as full matrices."""
        own, (k, d) = self._covars_, np.shape(self.means_)
        if self.covariance_type == "full":
            return own
        if self.covariance_type == "tied":
            return np.broadcast_to(own, (k, d, d)).copy()
        columns = own[:, None] if self.covariance_type == "spherical" else own
        return np.broadcast_to(columns, (k, d))[:, :, None] * np.eye(d)

    @covars_.setter
    def covars_(self, value: Any) -> None:
        array = np.array(value, dtype=float)
        d = array.shape[-1] if array.ndim > 1 else self._n_columns()
        shape = covariance_shape(self.covariance_type, self.n_components, d)
        if array.shape != shape:
            raise ValueError(
                f"covars_ of type {self.covariance_type!r} must have shape {shape}; got "
                f"{array.shape}."
            )
        self._covars_ = array

    def _component(self, given: Mapping[str, Any], fitting: bool) -> Any:
        from minorant.components import Gaussian

        mean, covariance = (floats(given.get(letter)) for letter in "mc")
        kind = structure(self.covariance_type)
        if fitting:
            return Gaussian(kind, mean, covariance, self.min_covar, self._prior())
        return Gaussian(kind, mean, covariance, floor=0.0)

    def _prior(self) -> Any:
        from minorant.components import LogDensity

        if not self.means_weight:
            return _wishart(self) if self.covars_prior is not None else None
        return LogDensity(_normal_wishart(self))

    def _publish_emissions(self, component: Any) -> None:
        self.means_ = np.asarray(component.mean, dtype=float)
        self._covars_ = np.asarray(component.covariance, dtype=float)

    def _n_columns(self) -> int:
        if hasattr(self, "means_"):
            return np.shape(self.means_)[1]
        return getattr(self, "n_features_in_", 1)


def _wishart_terms(estimator: GaussianHMM) -> tuple[Callable[[int], np.ndarray], Callable]:
    """The scale and the pseudo-count of the covariances' prior, for d columns."""
    given = 0.0 if estimator.covars_prior is None else estimator.covars_prior
    array = np.asarray(given, dtype=float)
    by_column = estimator.covariance_type in ("diag", "spherical")

    def scale(d: int) -> np.ndarray:
        return array if array.ndim == 2 else array * np.eye(d)

    def extra(d: int) -> float:
        if estimator.covars_prior is None:
            return 0.0
        return max(float(estimator.covars_weight) - (1 if by_column else d), 0.0)

    return scale, extra


def _wishart(estimator: GaussianHMM) -> Any:
    from minorant.components import InverseWishart

    scale, extra = _wishart_terms(estimator)
    d = estimator.n_features_in_
    dof: Any = np.asarray(extra(d) - d - 1.0)
    return InverseWishart(scale(d), dof)


def _normal_wishart(estimator: GaussianHMM) -> Callable[[Any], Any]:
    """The log density of both priors: hmmlearn's, whose M-step counts no row more for the means."""
    import jax.numpy as jnp

    scale, extra = _wishart_terms(estimator)
    centre, weight = np.asarray(estimator.means_prior, float), float(estimator.means_weight)

    def log_density(component: Any) -> Any:
        k, d = component.mean.shape
        matrices = component.structure.matrices(component.covariance, k, d)
        away = component.mean - centre
        inverse = _factors.inverse(matrices)
        pull = weight * jnp.einsum("ki,kij,kj->", away, inverse, away)
        own = matrices[:1] if estimator.covariance_type == "tied" else matrices
        trace = jnp.einsum("kij,ji->", _factors.inverse(own), jnp.asarray(scale(d)))
        return -0.5 * (pull + trace + extra(d) * jnp.linalg.slogdet(own)[1].sum())

    return log_density
