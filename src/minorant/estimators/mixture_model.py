"""`MixtureModel`: mixtures over tables whose columns are of different kinds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from minorant.estimators import _gaussian
from minorant.estimators._mixture import Given
from minorant.estimators._tables import TableEstimator
from minorant.estimators.options import DEFAULTS

if TYPE_CHECKING:
    from minorant.data.columns import Columns
    from minorant.models import Mixture
    from minorant.result import Fit

_CLASSES = {
    "gaussian": "Gaussian",
    "student-t": "StudentT",
    "bernoulli": "Bernoulli",
    "categorical": "Categorical",
    "poisson": "Poisson",
    "negative-binomial": "NegativeBinomial",
    "exponential": "Exponential",
    "gamma": "Gamma",
    "log-normal": "LogNormal",
    "von-mises": "VonMises",
}
_SPREAD = ("gaussian", "student-t")


class MixtureModel(TableEstimator):
    r"""A mixture over numbers, counts, categories and angles, side by side.

    .. math:: p(x) = \sum_k w_k \prod_b p_b(x_b \mid k)

    X is a pandas, polars or arrow table, a mapping from names to columns, or an array. The columns
    of one kind form a block b. Within a component the gaussian columns depend on each other as
    `covariance_type` says, and so do the student-t columns; all others are independent.

    ``components="auto"`` describes truth and 0/1 as bernoulli; text and categories as categorical;
    whole numbers from 0 on with a mean below 30 as counts, negative-binomial where the variance
    exceeds the mean and poisson otherwise; other whole numbers of at most 10 different values that
    recur (years, codes) as categorical; everything else as gaussian. Angles (von-mises) and
    positive, skewed numbers (gamma, log-normal, exponential) are never guessed: name them.

    Args:
        n_components: k.
        components: "auto", or a mapping from column (name, or position where there are no names) to
            "gaussian", "student-t", "bernoulli", "categorical", "poisson", "negative-binomial",
            "exponential", "gamma", "log-normal" or "von-mises" (radians); the rest is inferred.
        covariance_type: of the gaussian and student-t columns: "full", "tied", "diag", "spherical".
        tol: nats per row that may be left to gain.
        reg_covar: their floor in squared units; "auto": 1e-6 of each column's variance.
        max_iter: limit on EM steps.
        n_init: number of starts; "auto": twelve, the worse ones dropped early.
        init_params: "auto", "kmeans", "k-means++", "random" or "random_from_data".
        random_state: int, RandomState, Generator, or None for fresh entropy.
        verbose: above 0: a bar with the bound.
        covariance_prior: as in `GaussianMixture`, one variance or "auto".
        weight_concentration: Dirichlet prior on the weights, one number or (k,), at least 1.
        category_concentration: Dirichlet prior on the probabilities of categories, at least 1.
        acceleration: "squarem", "anderson" or None.
        degenerate: what is done with a component that collapses or empties, "floor", "reseed" or
            "merge" (which leaves fewer components); `fit_.degenerate` names it.
        handle_unknown: "error", or "missing" to read a category that `fit` did not see as a
            missing cell.

    Attributes:
        weights_: (k,).
        parameters_: component name to its parameters by name, k on the first axis, in the data's
            units; under "columns" the names of its columns.
        columns_: how each column is described, and its categories.
        converged_, n_iter_, lower_bound_, lower_bounds_, fit_: as in `GaussianMixture`.

    Example:
        >>> from minorant.estimators import MixtureModel
        >>> table = {"x": [0.1, 0.3, 5.2, 5.5, 0.2, 5.1], "kind": ["a", "a", "b", "b", "a", "b"]}
        >>> model = MixtureModel(2, random_state=0).fit(table)
        >>> model.columns_.components
        ('gaussian', 'categorical')
        >>> model.impute({"x": [5.3], "kind": [None]})["kind"].tolist()
        ['b']

    Not for: numbers alone (`GaussianMixture`), text that differs in every row.

    McLachlan & Peel (2000), "Finite Mixture Models", section 5.3.
    """

    parameters_: dict[str, dict[str, Any]]

    def __init__(  # noqa: PLR0913
        self,
        n_components: int = DEFAULTS["n_components"],
        *,
        components: str | Mapping[Any, str] = DEFAULTS["components"],
        covariance_type: str = DEFAULTS["covariance_type"],
        tol: float = DEFAULTS["tol"],
        reg_covar: float | str = DEFAULTS["reg_covar"],
        max_iter: int = DEFAULTS["max_iter"],
        n_init: int | str = DEFAULTS["n_init"],
        init_params: str = DEFAULTS["init_params"],
        random_state: Any = None,
        verbose: int = 0,
        covariance_prior: Any = None,
        weight_concentration: Any = None,
        category_concentration: float | None = None,
        acceleration: str | None = DEFAULTS["acceleration"],
        degenerate: str = DEFAULTS["degenerate"],
        handle_unknown: str = DEFAULTS["handle_unknown"],
    ) -> None:
        self.n_components = n_components
        self.components = components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.verbose = verbose
        self.covariance_prior = covariance_prior
        self.weight_concentration = weight_concentration
        self.category_concentration = category_concentration
        self.acceleration = acceleration
        self.degenerate = degenerate
        self.handle_unknown = handle_unknown

    def _overrides(self, names: tuple[str, ...]) -> Mapping[Any, str]:  # noqa: ARG002
        return self.components if isinstance(self.components, Mapping) else {}

    def _model(self, given: Given) -> Mixture:  # noqa: ARG002
        from minorant.models import Mixture

        component = self.component(self._columns)
        return Mixture(component, None, self._dirichlet(), n_components=self.n_components)

    def component(self, columns: Columns) -> Any:
        """Return the component that describes columns of these kinds, by this model's options."""
        from minorant.components import Blocks

        blocks = _blocks(columns.components)
        parts: Any = tuple(self._part(kind, places, columns) for kind, places in blocks.items())
        return Blocks(parts, tuple(blocks.values()))

    def _part(self, kind: str, places: tuple[int, ...], columns: Columns) -> Any:
        """Return the component that describes the columns of one kind."""
        from minorant import components

        family = getattr(components, _CLASSES[kind])
        if kind in _SPREAD:
            floor = None if self.reg_covar == "auto" else self.reg_covar
            prior = _gaussian.inverse_wishart(self.covariance_prior, len(places))
            return family(_gaussian.structure(self.covariance_type), floor=floor, prior=prior)
        if kind != "categorical":
            return family()
        sizes = tuple(max(len(columns.items[j].categories or ()), 1) for j in places)
        concentration: Any = self.category_concentration
        prior = None if concentration is None else components.Dirichlet(concentration)
        return family(sizes, prior=prior)

    def _publish(self, answer: Fit, given: Given) -> None:
        component: Any = answer.model.component
        blocks = _blocks(self._columns.components)
        self.parameters_ = {
            kind: {"columns": [self._columns.names[j] for j in columns], **_learned(part)}
            for (kind, columns), part in zip(blocks.items(), component.parts, strict=True)
        }
        super()._publish(answer, given)


def _blocks(components: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Return the positions of the columns of each kind."""
    kinds = dict.fromkeys(components)
    return {kind: tuple(j for j, other in enumerate(components) if other == kind) for kind in kinds}


def _learned(part: Any) -> dict[str, np.ndarray]:
    """Return the fields of a component that were learned."""
    fields = {f.name: f.metadata.get("constraint") for f in dataclasses.fields(part)}
    values = {name: getattr(part, name) for name, limits in fields.items() if limits is not None}
    return {name: np.asarray(value) for name, value in values.items() if value is not None}
