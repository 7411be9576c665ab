"""`LatentClassAnalysis`: classes behind categorical answers, independent given the class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float

from minorant.estimators._mixture import Given
from minorant.estimators._tables import TableEstimator
from minorant.estimators.options import DEFAULTS

if TYPE_CHECKING:
    from minorant.data.columns import Columns
    from minorant.models import Mixture
    from minorant.result import Fit

_MOST_PATTERNS = 10**6


class ClassProfiles(NamedTuple):
    """Probabilities of every category in every class, one line per category.

    Attributes:
        column: (c,) names.
        category: (c,) labels.
        probability: (c, k), ``p(column = category | class)``.
    """

    column: tuple[str, ...]
    category: tuple[Any, ...]
    probability: Float[np.ndarray, "c k"]

    def __str__(self) -> str:
        """Return the table."""
        lines = [
            f"{column} = {category}: " + "  ".join(f"{p:.4f}" for p in probabilities)
            for column, category, probabilities in zip(*self, strict=True)
        ]
        return "\n".join(lines)


class GoodnessOfFit(NamedTuple):
    """The likelihood-ratio test against the table of all patterns.

    Attributes:
        g_squared: ``2 sum_s n_s log(n_s / (n p_s))`` over the patterns s that occur.
        degrees_of_freedom: possible patterns, less 1, less free parameters; where it is not well
            above 0, or patterns are many and rows few, the chi-squared law does not hold.
        n_patterns: how many patterns occur.
        n_possible: how many there could be.
    """

    g_squared: float
    degrees_of_freedom: int
    n_patterns: int
    n_possible: int


class LatentClassAnalysis(TableEstimator):
    r"""Latent classes behind categorical or 0/1 columns.

    .. math:: p(x) = \sum_k w_k \prod_j u_{kj x_j}

    Args:
        n_components: k, the number of classes.
        tol: nats per row that may be left to gain.
        max_iter: limit on EM steps.
        n_init: number of starts; "auto": twelve, the worse ones dropped early.
        init_params: "auto", "kmeans", "k-means++", "random" or "random_from_data".
        random_state: int, RandomState, Generator, or None for fresh entropy.
        verbose: above 0: a bar with the bound.
        weight_concentration: Dirichlet prior on the class sizes, one number or (k,), at least 1.
        category_concentration: Dirichlet prior on the probabilities of categories, at least 1.
        acceleration: "squarem", "anderson" or None.
        degenerate: what is done with a component that collapses or empties, "floor", "reseed" or
            "merge" (which leaves fewer components); `fit_.degenerate` names it.
        handle_unknown: "error", or "missing" to read a category that `fit` did not see as a
            missing cell.

    Attributes:
        weights_: (k,) class sizes.
        class_profiles_: `ClassProfiles`, the probabilities of every category in every class.
        entropy_r2_: how well rows are told apart, ``1 - sum_i H_i / (n log k)``; 1 is perfectly.
        goodness_of_fit_: `GoodnessOfFit`; None with missing cells, known labels or `partial_fit`.
        columns_: names and labels of the columns.
        converged_, n_iter_, lower_bound_, lower_bounds_, fit_: as in `GaussianMixture`.

    Example:
        >>> from minorant.datasets import load
        >>> from minorant.estimators import LatentClassAnalysis
        >>> classes = LatentClassAnalysis(2, random_state=0).fit(load("carcinoma"))
        >>> round(classes.fit_.bound, 3)
        -317.257

    Not for: numbers (`MixtureModel`), categories whose order should count.

    Goodman (1974), "Exploratory latent structure analysis using both identifiable and
    unidentifiable models", Biometrika 61.
    """

    class_profiles_: ClassProfiles
    entropy_r2_: float
    goodness_of_fit_: GoodnessOfFit | None
    _only_categories: ClassVar[bool] = True

    def __init__(  # noqa: PLR0913
        self,
        n_components: int = DEFAULTS["n_components"],
        *,
        tol: float = DEFAULTS["tol"],
        max_iter: int = DEFAULTS["max_iter"],
        n_init: int | str = DEFAULTS["n_init"],
        init_params: str = DEFAULTS["init_params"],
        random_state: Any = None,
        verbose: int = 0,
        weight_concentration: Any = None,
        category_concentration: float | None = None,
        acceleration: str | None = DEFAULTS["acceleration"],
        degenerate: str = DEFAULTS["degenerate"],
        handle_unknown: str = DEFAULTS["handle_unknown"],
    ) -> None:
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.verbose = verbose
        self.weight_concentration = weight_concentration
        self.category_concentration = category_concentration
        self.acceleration = acceleration
        self.degenerate = degenerate
        self.handle_unknown = handle_unknown

    def _overrides(self, names: tuple[str, ...]) -> Mapping[Any, str]:
        return dict.fromkeys(names, "categorical")

    def _model(self, given: Given) -> Mixture:  # noqa: ARG002
        from minorant.components import Categorical, Dirichlet
        from minorant.models import Mixture

        sizes = tuple(max(len(labels), 1) for labels in self._columns.categories.values())
        concentration: Any = self.category_concentration
        prior = None if concentration is None else Dirichlet(concentration)
        component = Categorical(sizes, None, prior)
        return Mixture(component, None, self._dirichlet(), n_components=self.n_components)

    def _publish(self, answer: Fit, given: Given) -> None:
        component: Any = answer.model.component
        self.class_profiles_ = _profiles(self._columns, component.probabilities.T)
        self.entropy_r2_ = entropy_r2(given, answer)
        streamed = answer.outcome.name == "STREAMED"  # then these rows are the last batch alone
        self.goodness_of_fit_ = None if streamed else goodness_of_fit(given, answer)
        super()._publish(answer, given)


def _profiles(columns: Columns, probability: Float[np.ndarray, "c k"]) -> ClassProfiles:
    pairs = [(name, label) for name, labels in columns.categories.items() for label in labels]
    names, labels = zip(*pairs, strict=True)
    return ClassProfiles(names, labels, np.asarray(probability, dtype=float))


def entropy_r2(given: Given, answer: Fit) -> float:
    """Return ``1 - sum_i w_i H_i / (sum_i w_i log k)``; 1 for a single class."""
    from minorant.evidence import posterior

    entropy = weight = 0.0
    for part in given.tables():
        probability = np.exp(np.asarray(posterior(answer, part.rows).by_row()))
        w = np.ones(len(part.rows)) if part.weights is None else part.weights.astype(float)
        logs = np.log(np.where(probability > 0, probability, 1.0))
        entropy, weight = entropy - float(w @ (probability * logs).sum(1)), weight + w.sum()
    k = answer.model.n_components
    return 1.0 if k == 1 else float(1.0 - entropy / weight / np.log(k))


def goodness_of_fit(given: Given, answer: Fit) -> GoodnessOfFit | None:
    """Return G squared against all patterns; None where cells miss or labels are known.

    None also where more than a million patterns occur in rows out of memory.
    """
    patterns, count = np.empty((0, given.rows.shape[1])), np.empty(0)
    for part in given.tables():
        if np.isnan(part.rows).any() or part.labels is not None:
            return None
        w = np.ones(len(part.rows)) if part.weights is None else part.weights.astype(float)
        patterns = np.concatenate([patterns, part.rows[w > 0]])
        count = np.concatenate([count, w[w > 0]])
        patterns, place = np.unique(patterns, axis=0, return_inverse=True)
        count = np.bincount(place.ravel(), weights=count)
        if given.chunks is not None and len(count) > _MOST_PATTERNS:
            return None
    component: Any = answer.model.component
    possible = int(np.prod(component.n_categories, dtype=object))
    saturated = (count * np.log(count / count.sum())).sum()
    return GoodnessOfFit(
        g_squared=float(2.0 * (saturated - answer.bound)),
        degrees_of_freedom=possible - 1 - answer.n_parameters,
        n_patterns=len(count),
        n_possible=possible,
    )
