"""What the estimators of linear factors share: from options to a climb, from a fit to predictions.

JAX is imported when a fit or a prediction needs it, never before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from jaxtyping import Float

from minorant.estimators._base import Density, Transformer
from minorant.estimators._climb import climbed, warning_of
from minorant.estimators._mixture import Given, of_chunks
from minorant.estimators._validation import Rows, Values, as_weights
from minorant.estimators.options import N_INIT, NONE, OPTIONS, Interval, Option, starts_of

if TYPE_CHECKING:
    from minorant.estimators._stream import Seen
    from minorant.models import FactorAnalysis as FactorModel
    from minorant.result import Fit

_FACTORS = Option(
    "n_components",
    None,
    (Interval(int, 1), NONE),
    "The number of factors; None: as many as there are columns (PPCA: one fewer).",
)


class Scores(NamedTuple):
    """Factor scores: posterior means (n, l), and their covariances (n, l, l)."""

    mean: Float[np.ndarray, "n l"]
    covariance: Float[np.ndarray, "n l l"]

    @property
    def standard_deviation(self) -> Float[np.ndarray, "n l"]:
        """Of each score by itself."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))


class FactorEstimator(Transformer):
    """The base of the estimators of linear factors; `fit_` is the whole answer of the climb."""

    _options: ClassVar[Mapping[str, Option]] = {
        **OPTIONS, "n_components": _FACTORS, "n_init": N_INIT,
    }  # fmt: skip

    n_components: int | None
    n_init: int | str
    max_iter: int
    random_state: Any
    tol: float

    fit_: Fit
    mean_: Float[np.ndarray, " d"]
    components_: Float[np.ndarray, "l d"]
    noise_variance_: Any
    communalities_: Float[np.ndarray, " d"]
    loglike_: list[float]
    irregular_: tuple[str, ...]
    n_iter_: int
    _seen: Seen

    _takes_chunks: ClassVar[bool] = True
    score = Density.score

    def _model(self, d: int) -> FactorModel:
        """Return the model that the options mean, for d columns."""
        raise TypeError(f"{type(self).__name__} must say which model it fits.")

    def _publish(self, answer: Fit, dtype: np.dtype) -> None:
        """Copy what the fit found to the attributes that scikit-learn names."""
        self.mean_ = answer.model.mean.astype(dtype)
        self.communalities_ = answer.model.communalities().astype(dtype)
        self.loglike_ = answer.trace.bound.tolist()
        self.n_iter_ = min(answer.acceleration.steps, max(self.max_iter, 1))
        self.irregular_ = tuple(map(str, answer.degenerate))
        self._n_features_out = len(self.components_)
        self.fit_ = answer

    def fit(
        self,
        X: Rows,
        y: Values = None,  # noqa: ARG002
        sample_weight: Values = None,
        checkpoint: Any = None,
    ) -> Self:
        """Find the maximum of the weighted log-likelihood.

        Args:
            X: (n, d) table; a missing cell is NaN, None or NA, and integrated out exactly. Or rows
                out of memory: `minorant.chunks(...)`, or a path, folder or pattern of files, where
                `sample_weight` is the name of a column.
            y: Ignored, as scikit-learn wants it.
            sample_weight: (n,) weights, 0 or more; an integer weight counts as that many copies.
            checkpoint: A directory, or a `minorant.Checkpoint`: the climb is kept there, and goes
                on from there when the same fit is called again after an interrupt or a crash.

        Returns:
            The estimator itself.

        Raises:
            ValueError: The rows, weights or options cannot be used; says what and where.
            OSError: The checkpoint or the files cannot be read or written.
        """
        vars(self).pop("_seen", None)
        given = self._given(X, sample_weight)
        return self._settle(given, given.rows.dtype, checkpoint)

    def partial_fit(
        self,
        X: Rows,
        y: Values = None,  # noqa: ARG002
        sample_weight: Values = None,
    ) -> Self:
        """Learn from a batch of rows; exactly: the maximum is that of `fit` on all rows so far.

        Complete rows are kept as their mean and covariance, rows that miss cells as they are. After
        `fit`, which keeps no rows, the fitted covariance stands for theirs.

        Args:
            X: (n, d) rows, with the columns of the first batch; missing cells as in `fit`.
            y: Ignored, as scikit-learn wants it.
            sample_weight: (n,) weights, 0 or more.

        Returns:
            The estimator itself.

        Raises:
            ValueError: The rows, weights or options cannot be used; says what and where.
        """
        from minorant.estimators._stream import Seen

        begun = self.__sklearn_is_fitted__()
        if begun:
            rows = self._read(X)
            weights = as_weights(sample_weight, len(rows), rows.dtype)
        else:
            rows, weights = self._begin_fit(X, sample_weight, min_rows=2)
        given = Given(rows, weights, None).counted()
        seen = Seen.of(given.rows, given.weights)
        if begun:
            seen = self._seen_before().joined(seen)
        values, shares = seen.table()
        self._settle(Given(values, shares, None), rows.dtype)
        self._seen = seen
        return self

    def _seen_before(self) -> Seen:
        """Return what is known of earlier rows."""
        from minorant.estimators._stream import Seen

        found = vars(self).get("_seen")
        if found is not None:
            return found
        model: Any = self.fit_.model
        return Seen.of_model(model.mean, model.covariance(), self.fit_.n_rows)

    def _settle(self, given: Given, dtype: np.dtype, checkpoint: Any = None) -> Self:
        """Climb, publish, and warn of a climb that ended badly."""
        answer = self._climb(given, checkpoint)
        self._publish(answer, dtype)
        sentence = warning_of(answer)
        if sentence:
            self._warn(sentence)
        return self

    def _given(self, X: Rows, sample_weight: Values) -> Given:
        if self._takes(X):
            self._validate_params()
            return of_chunks(self._chunks(X, True, sample_weight=sample_weight))
        rows, weights = self._begin_fit(X, sample_weight, min_rows=2)
        return Given(rows, weights, None).counted()

    def _current(self) -> Fit:
        return self.fit_

    def _climb(self, given: Given, checkpoint: Any = None) -> Fit:
        return climbed(
            self,
            lambda: self._model(given.rows.shape[1]),
            self._named(given.rows) if given.chunks is None else given.chunks,
            checkpoint,
            weights=given.weights,
            tolerance=self.tol,
            starts=starts_of(self.n_init),
        )

    def _ask(self, question: str, X: Rows, **keywords: Any) -> tuple[Any, Any]:
        """Return the rows, or chunks, and what a function of `minorant.evidence` says of them."""
        from minorant import evidence

        chunks = self._opened(X)
        rows = self._read(X) if chunks is None else chunks
        about = self._named(rows) if chunks is None else chunks
        return rows, getattr(evidence, question)(self.fit_, about, **keywords)

    # Predictions

    def score_samples(self, X: Rows) -> Float[np.ndarray, " n"]:
        """Return ``log p(x)`` of every row, in nats, missing cells integrated out."""
        rows, answer = self._ask("log_evidence", X)
        return np.asarray(answer, dtype=rows.dtype)

    def impute(
        self, X: Rows, draw: bool = False, random_state: Any = 0
    ) -> Float[np.ndarray, "n d"]:
        """Return the rows with their missing cells filled, by their mean given the others or drawn.

        Args:
            X: (n, d) rows.
            draw: fill with a draw from ``p(x | x_observed)`` instead.
            random_state: seed of the draws.
        """
        rows, answer = self._ask("impute", X, draw=draw, random_state=random_state)
        return np.asarray(answer, dtype=rows.dtype)

    def sample(self, n_samples: int = 1) -> Float[np.ndarray, "n d"]:
        """Return `n_samples` rows drawn from the model."""
        from minorant import evidence

        self._check_fitted()
        return evidence.sample(self.fit_, n_samples, random_state=self.random_state)[0]

    def get_covariance(self) -> Float[np.ndarray, "d d"]:
        """Return ``L L^T + Psi``."""
        self._check_fitted()
        return self.fit_.model.covariance().astype(self.mean_.dtype)

    def get_precision(self) -> Float[np.ndarray, "d d"]:
        """Return the inverse of the covariance, by matrices of the factors' size."""
        self._check_fitted()
        loadings = np.asarray(self.fit_.model.loadings)
        noise = np.broadcast_to(np.asarray(self.fit_.model.noise_variance), len(loadings))
        scaled = loadings / noise[:, None]
        inner = np.eye(loadings.shape[1]) + loadings.T @ scaled
        precision = np.diag(1.0 / noise) - scaled @ np.linalg.solve(inner, scaled.T)
        return precision.astype(self.mean_.dtype)

    def bic(self) -> float:
        """Return ``-2 log p(X) + p log n`` of the rows fitted; smaller is better."""
        self._check_fitted()
        return self.fit_.bic

    def aic(self) -> float:
        """Return ``-2 log p(X) + 2 p`` of the rows fitted; smaller is better."""
        self._check_fitted()
        return self.fit_.aic

    def _scores(self, X: Rows) -> tuple[Scores, np.dtype]:
        """Return the posterior of the canonical factors."""
        rows, found = self._ask("posterior", X)
        return Scores(np.asarray(found.mean), np.asarray(found.covariance)), rows.dtype
