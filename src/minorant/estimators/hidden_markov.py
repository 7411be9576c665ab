"""Hidden Markov models by hmmlearn's names: `PoissonHMM` and `CategoricalHMM`.

Where they differ from hmmlearn on purpose: they climb until converged (`n_iter` 2000, `tol` in nats
per row), from several starts; covariances have no prior and a floor relative to the data, unless
given. Rows may have missing cells, sequences weights; there are forecasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from minorant.estimators._chain import ChainEstimator, floats
from minorant.estimators.options import DEFAULTS

_TOL = DEFAULTS["tol"]
_STARTS = DEFAULTS["n_init"]


class PoissonHMM(ChainEstimator):
    """A hidden Markov model of counts, Poisson in each state; hmmlearn's, faster.

    Args:
        n_components: k, the number of states.
        startprob_prior: Dirichlet concentration of the first state's probabilities; 1: none.
        transmat_prior: Dirichlet concentration of each row of the transition; 1: none.
        lambdas_prior: what a gamma prior adds to the counts of each state.
        lambdas_weight: for how many rows it counts.
        algorithm: "viterbi" or "map", for `predict`.
        random_state: seed of the starts and of draws.
        n_iter: limit on EM steps.
        tol: nats per row that may be left to gain.
        verbose: whether to show a bar.
        params: letters of what is learned: s, t, l.
        init_params: letters of what gets a start of its own; the others start from attributes.
        implementation: not used.
        n_init: how many starts; "auto": twelve, the worse dropped early.
        structure: which moves are allowed, from `minorant.models`; None: all.
        stationary: whether sequences begin in the stationary distribution.

    Attributes:
        startprob_, transmat_: (k,), (k, k) probabilities.
        lambdas_: (k, d) rates.
        monitor_: steps, history and whether the climb converged.
        fit_: the whole answer, a `minorant.Fit`.

    Example:
        >>> from minorant import datasets
        >>> from minorant.estimators import PoissonHMM
        >>> counts = datasets.load("earthquakes")["count"][:, None]
        >>> model = PoissonHMM(2, stationary=True, random_state=0).fit(counts)
        >>> round(model.score(counts), 2), sorted(model.lambdas_[:, 0].round(2).tolist())
        (-342.32, [15.47, 26.13])

    Not for: counts that vary more than Poisson within a state (`HiddenMarkov` with
    `NegativeBinomial`).

    Zucchini, MacDonald & Langrock (2016), "Hidden Markov models for time series", 2nd ed.
    """

    _EMISSIONS: ClassVar[Mapping[str, str]] = {"l": "lambdas_"}
    _leaves: ClassVar[Mapping[str, str]] = {"l": "rate"}

    lambdas_: Float[np.ndarray, "k d"]

    def __init__(  # noqa: PLR0913
        self,
        n_components: int = 1,
        startprob_prior: Any = 1.0,
        transmat_prior: Any = 1.0,
        lambdas_prior: Any = 0.0,
        lambdas_weight: Any = 0.0,
        algorithm: str = "viterbi",
        random_state: Any = None,
        n_iter: int = 2000,
        tol: float = _TOL,
        verbose: bool = False,
        params: str = "stl",
        init_params: str = "stl",
        implementation: str = "auto",
        *,
        n_init: int | str = _STARTS,
        structure: Any = None,
        stationary: bool = False,
    ) -> None:
        self.n_components = n_components
        self.startprob_prior = startprob_prior
        self.transmat_prior = transmat_prior
        self.lambdas_prior = lambdas_prior
        self.lambdas_weight = lambdas_weight
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

    def _component(self, given: Mapping[str, Any], fitting: bool) -> Any:
        from minorant.components import GammaPrior, Poisson

        del fitting
        added, weight = (_per_state(x) for x in (self.lambdas_prior, self.lambdas_weight))
        prior = GammaPrior(added + 1.0, weight) if added.any() or weight.any() else None
        return Poisson(floats(given.get("l")), prior)

    def _publish_emissions(self, component: Any) -> None:
        self.lambdas_ = np.asarray(component.rate, dtype=float)

    def _n_columns(self) -> int:
        return np.shape(self.lambdas_)[1]


class CategoricalHMM(ChainEstimator):
    """A hidden Markov model of one column of category codes; hmmlearn's, faster.

    Args:
        n_components: k, the number of states.
        startprob_prior: Dirichlet concentration of the first state's probabilities; 1: none.
        transmat_prior: Dirichlet concentration of each row of the transition; 1: none.
        emissionprob_prior: Dirichlet concentration of each state's categories; 1: none.
        n_features: number of categories; None: one more than the largest code.
        algorithm: "viterbi" or "map", for `predict`.
        random_state: seed of the starts and of draws.
        n_iter: limit on EM steps.
        tol: nats per row that may be left to gain.
        verbose: whether to show a bar.
        params: letters of what is learned: s, t, e.
        init_params: letters of what gets a start of its own; the others start from attributes.
        implementation: not used.
        n_init: how many starts; "auto": twelve, the worse dropped early.
        structure: which moves are allowed, from `minorant.models`; None: all.
        stationary: whether sequences begin in the stationary distribution.

    Attributes:
        startprob_, transmat_: (k,), (k, k) probabilities.
        emissionprob_: (k, n_features) probabilities of the codes.
        monitor_: steps, history and whether the climb converged.
        fit_: the whole answer, a `minorant.Fit`.

    Example:
        >>> import numpy as np
        >>> from minorant.estimators import CategoricalHMM
        >>> codes = np.r_[np.tile([0, 1], 9), np.tile([2, 1], 9), np.tile([0, 1], 9)][:, None]
        >>> model = CategoricalHMM(2, random_state=0).fit(codes)
        >>> model.emissionprob_.shape
        (2, 3)

    Not for: several columns (`HiddenMarkov` with `Categorical` or `Blocks`).
    """

    _EMISSIONS: ClassVar[Mapping[str, str]] = {"e": "emissionprob_"}
    _leaves: ClassVar[Mapping[str, str]] = {"e": "probabilities"}

    emissionprob_: Float[np.ndarray, "k m"]

    def __init__(  # noqa: PLR0913
        self,
        n_components: int = 1,
        startprob_prior: Any = 1.0,
        transmat_prior: Any = 1.0,
        *,
        emissionprob_prior: float = 1.0,
        n_features: int | None = None,
        algorithm: str = "viterbi",
        random_state: Any = None,
        n_iter: int = 2000,
        tol: float = _TOL,
        verbose: bool = False,
        params: str = "ste",
        init_params: str = "ste",
        implementation: str = "auto",
        n_init: int | str = _STARTS,
        structure: Any = None,
        stationary: bool = False,
    ) -> None:
        self.n_components = n_components
        self.startprob_prior = startprob_prior
        self.transmat_prior = transmat_prior
        self.emissionprob_prior = emissionprob_prior
        self.n_features = n_features
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

    def _component(self, given: Mapping[str, Any], fitting: bool) -> Any:
        from minorant.components import Categorical, Dirichlet

        del fitting
        shares = floats(given.get("e"))
        size = self.n_features if shares is None else shares.shape[1]
        weight: Any = np.asarray(float(self.emissionprob_prior))
        prior = None if weight == 1.0 else Dirichlet(weight)
        sizes = None if size is None else (int(size),)
        return Categorical(n_categories=sizes, probabilities=shares, prior=prior)

    def _publish_emissions(self, component: Any) -> None:
        self.emissionprob_ = np.asarray(component.probabilities, dtype=float)

    def _n_columns(self) -> int:
        return 1


def _per_state(value: Any) -> np.ndarray:
    """A number, or one for each state as a column."""
    array = np.asarray(value, dtype=float)
    return array[:, None] if array.ndim == 1 else array
