"""`LatentTrait`: item response models of binary and ordinal answers, with scores and item fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from jaxtyping import Float

from minorant.estimators import _item_fit, _overall_fit, _persons, _traits
from minorant.estimators._base import Transformer
from minorant.estimators._climb import warning_of
from minorant.estimators._in_chunks import refuse_chunks
from minorant.estimators._item_fit import ItemFit
from minorant.estimators._item_table import (
    ItemTable,
    TraitLoadings,
    item_errors,
    item_table,
    trait_loadings,
)
from minorant.estimators._overall_fit import OverallFit
from minorant.estimators._persons import Persons
from minorant.estimators._traits import ITEM_TYPES, Scores
from minorant.estimators._validation import Rows, Values
from minorant.estimators.options import (
    ARRAY,
    DEFAULTS,
    N_INIT,
    NONE,
    OPTIONS,
    Choice,
    Interval,
    Kind,
    Option,
)

if TYPE_CHECKING:
    from minorant.result import Fit

_OWN = (
    Option(
        "item_type",
        "auto",
        (
            Choice(tuple(ITEM_TYPES)),
            Kind("a dict", lambda value: isinstance(value, Mapping)),
            ARRAY,
        ),
        "How answers depend on the traits: one name for all items, a list with one for each, or a "
        "dict from item to name; 'auto': 2PL for two answers, graded response for more.",
    ),
    Option("n_traits", 1, (Interval(int, 1, 3, "both"),), "The number of traits."),
    Option(
        "pattern",
        None,
        (ARRAY, NONE),
        "Which item (row) asks for which trait (column), 1 or 0; None: all for all.",
    ),
    Option(
        "points",
        "auto",
        (Interval(int, 1), Choice(("auto",))),
        "Adaptive quadrature nodes for each trait; 'auto': a shared grid that suits the number of "
        "items, refined until its error is small.",
    ),
)


class LatentTrait(Transformer):
    r"""Item response models: traits behind the answers to items.

    .. math:: z \sim N(0, \Sigma), \qquad p(x_j = 1 \mid z) = 1 / (1 + e^{-(a_j^T z + d_j)})

    and its kin for ordered answers and guessing; see :mod:`minorant.models.items`. Fitted by
    marginal maximum likelihood; missing answers are left out of each person's likelihood.

    Args:
        item_type: "Rasch" (partial credit for more than two answers), "2PL", "3PL", "graded",
            "gpcm"; a list with one for each item; a dict from item to type, other items "auto";
            "auto": 2PL for two answers, graded response for more.
        n_traits: 1 to 3.
        pattern: (d, n_traits) of 0 and 1, which item asks for which trait; None: all for all, with
            the first items restricted so that traits cannot rotate.
        points: adaptive quadrature nodes per trait, or "auto".
        slope_prior: mean and standard deviation of a normal prior on slopes, or None.
        guessing_prior: a and b of the Beta prior on guessing in "3PL", or None.
        tol: nats per person that may be left to gain.
        max_iter: limit on EM steps.
        n_init: how many starts; "auto": one.
        random_state: seed of the starts.
        verbose: above 0: a bar with the bound.

    Attributes:
        items_: `ItemTable`: slopes, intercepts, difficulties and guessing of every item.
        categories_: for every item the answers that occur, in order: they are counted 0, 1, 2, ...
        groups_: (g,) names of the groups of persons; the first has mean 0.
        trait_means_: (g, l).
        trait_covariances_: (g, l, l).
        reliability_: (l,) the share of the scores' variance that is not error, of the trait scores.
        quadrature_error_: by how much doubling the rule changes log p(X), in nats.
        n_iter_, converged_, fit_: as in `GaussianMixture`.

    Example:
        >>> import numpy as np
        >>> from minorant.datasets import load
        >>> from minorant.estimators import LatentTrait
        >>> table = load("lsat6")
        >>> answers = np.column_stack([table[f"item_{j}"] for j in range(1, 6)])
        >>> lsat = LatentTrait("2PL").fit(answers, sample_weight=table["persons"])
        >>> round(lsat.fit_.bound, 3)
        -2466.653

    Not for: more than three traits; classes of persons rather than degrees (`LatentClassAnalysis`).

    Bock & Aitkin (1981), "Marginal maximum likelihood estimation of item parameters".
    """

    items_: ItemTable
    categories_: list[np.ndarray]
    groups_: np.ndarray
    trait_means_: Float[np.ndarray, "g l"]
    trait_covariances_: Float[np.ndarray, "g l l"]
    reliability_: Float[np.ndarray, " l"]
    quadrature_error_: float
    converged_: bool
    n_iter_: int
    fit_: Fit
    _takes_chunks: ClassVar[bool] = True
    _options: ClassVar[Mapping[str, Option]] = {
        **OPTIONS, **{one.name: one for one in (*_OWN, N_INIT)},
    }  # fmt: skip

    def __init__(  # noqa: PLR0913
        self,
        item_type: Any = "auto",
        *,
        n_traits: int = 1,
        pattern: Any = None,
        points: int | str = "auto",
        slope_prior: tuple[float, float] | None = None,
        guessing_prior: tuple[float, float] | None = (5.0, 17.0),
        tol: float = DEFAULTS["tol"],
        max_iter: int = DEFAULTS["max_iter"],
        n_init: int | str = N_INIT.default,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.item_type = item_type
        self.n_traits = n_traits
        self.pattern = pattern
        self.points = points
        self.slope_prior = slope_prior
        self.guessing_prior = guessing_prior
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: Rows,
        y: Values = None,  # noqa: ARG002
        sample_weight: Values = None,
        groups: Values = None,
        checkpoint: Any = None,
    ) -> Self:
        """Climb to a maximum of the marginal log-likelihood (plus log prior, where there is one).

        Args:
            X: (n, d) answers, whole numbers in order; NaN, None or NA where missing. Or rows out of
                memory: `minorant.chunks(...)`, or a path, folder or pattern of files, where
                `sample_weight` and `groups` are names of columns; of chunks the one column of
                inputs is that of groups.
            y: Ignored, as scikit-learn wants it.
            sample_weight: (n,) how many persons gave this pattern of answers.
            groups: (n,) each person's group, any names; None: one group.
            checkpoint: A directory, or a `minorant.Checkpoint`: the climb is kept there, and goes
                on from there when the same fit is called again after an interrupt or a crash.

        Returns:
            The estimator itself.

        Raises:
            ValueError: The answers, weights or options cannot be used; says what and where.
            OSError: The checkpoint or the files cannot be read or written.
        """
        persons = _persons.learned(self, X, sample_weight, groups)
        self._warn_of_gaps()
        answer = _traits.climb(self, persons, checkpoint)
        self._publish(answer, persons)
        sentence = warning_of(answer)
        if sentence:
            self._warn(sentence)
        return self

    def _warn_of_gaps(self) -> None:
        for name, seen in zip(self._item_names(), self.categories_, strict=True):
            if len(seen) <= seen[-1] - seen[0]:
                self._warn(
                    f"Item {name!r} has only the answers {seen.astype(int).tolist()}: they are "
                    "taken as neighbours. See categories_.",
                    "DataConversionWarning",
                )

    def _publish(self, answer: Fit, persons: Persons) -> None:
        self.fit_, model = answer, answer.model
        self.items_ = item_table(model, answer.names)
        self.trait_means_ = np.asarray(model.mean, float)
        self.trait_covariances_ = np.asarray(model.covariance, float)
        self.converged_ = answer.outcome.ok
        self.n_iter_ = answer.acceleration.steps
        self.quadrature_error_ = _traits.quadrature_error(answer, persons)
        self.reliability_ = _traits.reliability(answer, persons)
        self._n_features_out = self.n_traits

    # Scores

    def transform(self, X: Rows) -> Float[np.ndarray, "n l"]:
        """Return the expected traits of every person, as of the first group."""
        return self.scores(X).trait

    def scores(self, X: Rows, method: str = "EAP", groups: Values = None) -> Scores:
        """Return the traits of every person with standard errors.

        Args:
            X: (n, d) answers; a person without any answer gets the prior's mean and deviation.
            method: "EAP", the posterior's mean and deviation; or "MAP", its mode, with the error
                from the curvature there.
            groups: (n,) each person's group; None: the first.

        Raises:
            ValueError: The method is unknown, or answers or groups did not occur in `fit`.
        """
        persons = _persons.known(self, X, None, groups)
        if method not in {"EAP", "MAP"}:
            raise ValueError(f"method must be 'EAP' or 'MAP'; got {method!r}.")
        find = _traits.expected_traits if method == "EAP" else _traits.most_probable_traits
        return find(self.fit_, persons)

    def score_samples(self, X: Rows, groups: Values = None) -> Float[np.ndarray, " n"]:
        """Return ``log p(x)`` of every person, in nats."""
        return _traits.log_density(self.fit_, _persons.known(self, X, None, groups))

    def score(self, X: Rows, y: Values = None, sample_weight: Values = None) -> float:  # noqa: ARG002
        """Return the mean of ``log p(x)``, weighted where weights are given."""
        total = weight = 0.0
        for part in _persons.known(self, X, sample_weight, None).tables():
            total += float(part.ones() @ _traits.log_density(self.fit_, part))
            weight += float(part.ones().sum())
        return total / weight

    # Curves

    def probabilities(self, traits: Any) -> list[Float[np.ndarray, "s m"]]:
        """Return for every item the probability of every answer at (s, l) traits."""
        self._check_fitted()
        return _traits.curves(self.fit_.model, _traits.as_traits(traits, self.n_traits))

    def information(self, traits: Any) -> Float[np.ndarray, "s d"]:
        """Return what every item tells at (s,) or (s, l) traits: the trace of its information.

        Its sum over items is the test's information; with one trait, ``1 / sqrt`` of that is the
        standard error of a maximum likelihood score.
        """
        self._check_fitted()
        return _traits.information(self.fit_.model, _traits.as_traits(traits, self.n_traits))

    def standard_errors(
        self, X: Rows, sample_weight: Values = None, groups: Values = None, robust: bool = False
    ) -> ItemTable:
        """Return the standard errors of all item parameters, from the observed information.

        Args:
            X: (n, d) the answers of `fit`.
            sample_weight: (n,) the same weights.
            groups: (n,) the same groups.
            robust: the sandwich, which does not trust the model's form.
        """
        persons = _persons.known(self, X, sample_weight, groups)
        about, beside = persons.chunks, {}
        if about is None:
            about, beside = persons.codes, {"weights": persons.weights, "inputs": persons.inputs()}
        found = self.fit_.standard_errors(about, robust=robust, **beside)
        return item_errors(self.fit_, found.covariance)

    def loadings(self, rotation: str | None = "auto") -> TraitLoadings:
        """Return slopes as factor loadings, rotated where traits have no meaning of their own.

        The likelihood does not change when traits without a pattern are rotated; `fit` answers
        with some of them held at zero, which is no simple structure.

        Args:
            rotation: "oblimin", "varimax", "quartimax", or None; "auto": "oblimin" for two or three
                traits without a pattern, else None.

        Returns:
            Loadings, communalities, correlations of the rotated traits, and the matrix T that turns
            scores: ``transform(X) @ T``.

        Raises:
            ValueError: There is nothing to rotate, or the method is unknown.
        """
        self._check_fitted()
        model = self.fit_.model
        if rotation == "auto":
            rotation = "oblimin" if model.n_traits > 1 and model.pattern is None else None
        return trait_loadings(model, self.fit_.names, rotation)

    # Fit of items

    def item_fit(self, X: Rows, sample_weight: Values = None, groups: Values = None) -> ItemFit:
        """Return infit, outfit and S-X2 of every item; S-X2 needs one group.

        Args:
            X: (n, d) answers; S-X2 is computed from persons without missing answers.
            sample_weight: (n,) persons.
            groups: (n,) each person's group; None: the first.
        """
        persons = self._in_memory(X, sample_weight, groups)
        codes, w = persons.codes, persons.ones()
        found = _traits.expected_traits(self.fit_, persons)
        infit, outfit = _item_fit.mean_squares(codes, self.probabilities(found.trait), w)
        whole = ~np.isnan(codes).any(1)
        blank = np.full(codes.shape[1], np.nan)
        tested = (blank, blank, blank)
        if whole.any() and len(self.groups_) == 1 and codes.shape[1] > 1:
            nodes, mass = _traits.prior_masses(self.fit_.model)
            counts = _traits.parameters_per_item(self.fit_.model)
            chances = self.probabilities(nodes)
            tested = _item_fit.s_x2(codes[whole], w[whole], chances, mass, counts)
        return ItemFit(self.fit_.names, infit, outfit, *tested)

    def overall_fit(
        self, X: Rows, sample_weight: Values = None, groups: Values = None, kind: str = "M2*"
    ) -> OverallFit:
        """Return the limited-information statistic M2 of the whole model, with RMSEA, CFI and TLI.

        Args:
            X: (n, d) the answers of `fit`; persons with missing answers are left out.
            sample_weight: (n,) persons.
            groups: (n,) each person's group; None: the first.
            kind: "M2*", means and products of answers (M2 where all items have two answers); "C2",
                shares of every answer and products, which leaves more degrees of freedom where
                answers are many and items few.

        Raises:
            ValueError: Nobody answered all items, or nothing is left to test; says what to do.
        """
        persons = self._in_memory(X, sample_weight, groups)
        return _overall_fit.overall_fit(
            self.fit_, persons.codes, persons.ones(), persons.group, kind
        )

    def residual_correlations(
        self, X: Rows, sample_weight: Values = None, groups: Values = None
    ) -> Float[np.ndarray, "d d"]:
        """Return Q3, the correlations of residuals at the expected traits; far from 0 is amiss."""
        persons = self._in_memory(X, sample_weight, groups)
        chances = self.probabilities(_traits.expected_traits(self.fit_, persons).trait)
        return _item_fit.residual_correlations(persons.codes, chances, persons.ones())

    def sample(self, n_samples: int = 1, random_state: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return answers (n, d), numbered as in `fit`, and the traits (n, l) behind them."""
        self._check_fitted()
        codes, traits = _traits.drawn(self.fit_, n_samples, random_state)
        answers = [seen[codes[:, j].astype(int)] for j, seen in enumerate(self.categories_)]
        return np.stack(answers, axis=1), traits

    def _item_names(self) -> Sequence[str]:
        names = getattr(self, "feature_names_in_", None)
        plain = [f"column {j}" for j in range(self.n_features_in_)]
        return plain if names is None else list(map(str, names))

    def _in_memory(self, X: Rows, sample_weight: Values, groups: Values) -> Persons:
        """Return persons for a question that needs all of them at once."""
        refuse_chunks(X, type(self).__name__)
        return _persons.known(self, X, sample_weight, groups)
