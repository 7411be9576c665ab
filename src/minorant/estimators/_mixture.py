"""What the mixture estimators share: from options to a climb, and from a fit to predictions.

A subclass says which model its options mean (`_model`) and which attributes a fit fills in
(`_publish`). JAX is imported when a fit or a prediction needs it, never before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast

import numpy as np
from jaxtyping import Float, Int

from minorant.estimators import _in_chunks
from minorant.estimators._base import Density
from minorant.estimators._climb import climbed, warning_of
from minorant.estimators._validation import Rows, Values, as_labels, as_weights

if TYPE_CHECKING:
    from minorant.models import Mixture
    from minorant.online import Online
    from minorant.result import Evidence, Fit, StandardErrors
    from minorant.solvers import EM
    from minorant.solvers.starts import Starts

_KINDS = {
    "kmeans": "lloyd",
    "k-means++": "seeded",
    "random": "random",
    "random_from_data": "scattered",
}


class Given(NamedTuple):
    """What `fit` was given, checked: rows, weights (n,) or None, known components (n,) or None.

    Where rows are not in memory, `chunks` has all three, and `rows` is empty.
    """

    rows: np.ndarray
    weights: np.ndarray | None
    labels: np.ndarray | None
    chunks: Any = None

    def tables(self) -> Iterator[Given]:
        """Return the rows in memory, or those of one chunk after the other."""
        if self.chunks is None:
            yield self
            return
        for table in self.chunks.read():
            yield Given(table.values, table.weights, table.labels)

    def counted(self) -> Given:
        """Return the rows that count: a row of weight 0 is as good as absent."""
        if self.weights is None or self.weights.all():
            return self
        kept = self.weights > 0
        labels = None if self.labels is None else self.labels[kept]
        return Given(self.rows[kept], self.weights[kept], labels)


def of_chunks(chunks: Any) -> Given:
    """Return rows out of memory as what `fit` was given."""
    return Given(np.empty((0, len(chunks.names)), chunks.dtype), None, None, chunks)


class MixtureEstimator(Density):
    """The base of the mixture estimators; `fit_` is the whole answer of the climb."""

    _takes_chunks: ClassVar[bool] = True

    n_components: int
    acceleration: str | None
    degenerate: str
    init_params: str
    max_iter: int
    n_init: int | str
    random_state: Any
    tol: float
    verbose: int
    weight_concentration: Any

    fit_: Fit
    weights_: Float[np.ndarray, " k"]
    converged_: bool
    n_iter_: int
    lower_bound_: float
    lower_bounds_: list[float]

    def _model(self, given: Given) -> Mixture:
        """Return the model that the options mean."""
        raise TypeError(f"{type(self).__name__} must say which model it fits.")

    def _rows(self, X: Rows) -> np.ndarray:
        """Return the rows that `minorant.evidence` is asked about."""
        return self._read(X)

    def _begin(self, X: Rows, sample_weight: Values) -> tuple[np.ndarray, np.ndarray | None]:
        """Check everything that `fit` is given, and return rows and weights."""
        return self._begin_fit(X, sample_weight, min_rows=2)

    def _held(self) -> Any:
        """Return what stays fixed, as `minorant.fit` takes it."""
        return None

    def fit(
        self,
        X: Rows,
        y: Values = None,  # noqa: ARG002
        sample_weight: Values = None,
        labels: Values = None,
        checkpoint: Any = None,
    ) -> Self:
        """Climb to a maximum of the weighted log-likelihood (plus log prior, where there is one).

        Args:
            X: (n, d) table; a missing cell is NaN, None or NA, and integrated out exactly. Or rows
                out of memory: `minorant.chunks(...)`, or a path, folder or pattern of files, where
                `sample_weight` and `labels` are names of columns.
            y: Ignored, as scikit-learn wants it.
            sample_weight: (n,) weights, 0 or more; an integer weight counts as that many copies.
            labels: (n,) known components 0 .. k - 1, or -1, NaN, None where unknown.
            checkpoint: A directory, or a `minorant.Checkpoint`: the climb is kept there, and goes
                on from there when the same fit is called again after an interrupt or a crash.

        Returns:
            The estimator itself.

        Raises:
            ValueError: The rows, weights, labels or options cannot be used; says what and where.
            OSError: The checkpoint or the files cannot be read or written.
        """
        vars(self).pop("_stream", None)
        given = self._given(X, sample_weight, labels)
        answer = self._climb(given, checkpoint)
        self._publish(answer, given)
        sentence = warning_of(answer)
        if sentence:
            self._warn(sentence)
        return self

    def _given(self, X: Rows, sample_weight: Values, labels: Values) -> Given:
        if self._takes(X):
            self._validate_params()
            return of_chunks(self._chunks(X, True, sample_weight=sample_weight, labels=labels))
        rows, weights = self._begin(X, sample_weight)
        known = as_labels(labels, len(rows), self.n_components, "labels")
        return Given(rows, weights, known).counted()

    def _climb(self, given: Given, checkpoint: Any) -> Fit:
        return climbed(
            self,
            lambda: self._model(given),
            self._named(given.rows) if given.chunks is None else given.chunks,
            checkpoint,
            weights=given.weights,
            labels=given.labels,
            fixed=self._held(),
            solver=self._solver(),
            starts=self._starts(),
            remedy=self.degenerate,
            posterior=self._posterior(),
        )

    def _solver(self) -> EM:
        from minorant.solvers import EM, accelerate

        name = "plain" if self.acceleration is None else self.acceleration
        return EM(getattr(accelerate, name.capitalize())(), self.tol)

    def _posterior(self) -> Any:
        """Return which E-step; lists of components where they are asked for."""
        from minorant.posteriors import Truncated

        components = getattr(self, "truncated", None)
        return "auto" if components is None else Truncated(components)

    def _starts(self) -> Starts | None:
        from minorant.solvers.starts import Starts

        if self.n_init == "auto" and getattr(self, "truncated", None) is not None:
            return None
        n = Starts().n if self.n_init == "auto" else cast(int, self.n_init)
        kinds = Starts().kinds if self.init_params == "auto" else (_KINDS[self.init_params],)
        return Starts(n=n, kinds=kinds)

    def _dirichlet(self) -> Any:
        from minorant.components import Dirichlet

        if self.weight_concentration is None:
            return None
        value = np.asarray(self.weight_concentration, dtype=float)
        if value.ndim and value.shape != (self.n_components,):
            raise ValueError(
                "weight_concentration must be one number or one per component, shape "
                f"({self.n_components},); got shape {value.shape}."
            )
        concentration: Any = np.broadcast_to(value, (self.n_components,)).copy()
        return Dirichlet(concentration)

    def _publish(self, answer: Fit, given: Given) -> None:
        """Copy what the fit found to the attributes that scikit-learn names."""
        self.weights_ = np.asarray(answer.model.weights, dtype=given.rows.dtype)
        self.converged_ = answer.outcome.ok
        self.n_iter_ = min(answer.acceleration.steps, self.max_iter)
        self.lower_bound_ = answer.bound / answer.n_rows
        self.lower_bounds_ = (answer.trace.bound / answer.n_rows).tolist()
        self.fit_ = answer

    def _current(self) -> Fit:
        """Return the fit that predictions are made from."""
        return self.fit_

    # Predictions

    def _ask(self, question: str, about: Any, *arguments: Any, **keywords: Any) -> Any:
        """Return the answer of a function of `minorant.evidence` about the fit."""
        from minorant import evidence

        about = self._named(about) if isinstance(about, np.ndarray) else about
        return getattr(evidence, question)(self._current(), about, *arguments, **keywords)

    def _about(self, X: Rows, sample_weight: Values = None) -> Any:
        """Return what `minorant.evidence` is asked about: rows, or chunks with their weights."""
        chunks = self._opened(X, sample_weight=sample_weight)
        return self._rows(X) if chunks is None else chunks

    def score_samples(self, X: Rows) -> Float[np.ndarray, " n"]:
        """Return ``log p(x)`` of every row, in nats, missing cells integrated out."""
        rows = self._about(X)
        return np.asarray(self._ask("log_evidence", rows), dtype=rows.dtype)

    def predict_proba(self, X: Rows) -> Float[np.ndarray, "n k"]:
        """Return ``p(z = k | x)`` of every row."""
        rows = self._about(X)
        log_probability = np.asarray(self._ask("posterior", rows).log_probability)
        return np.exp(log_probability.T).astype(rows.dtype)

    def predict(self, X: Rows) -> Int[np.ndarray, " n"]:
        """Return the most probable component of every row."""
        chunks = self._opened(X)
        if chunks is not None:
            return self._ask("labels", chunks)
        return np.argmax(self.predict_proba(X), axis=1)

    def _drawn(self, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows drawn from the model, grouped by component, and their components."""
        if n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples}. The sampling requires at least one "
                "sample."
            )
        rows, labels = self._ask("sample", n_samples, random_state=self.random_state)
        order = np.argsort(labels, kind="stable")
        return np.asarray(rows)[order], np.asarray(labels)[order]


class LikelihoodEstimator(MixtureEstimator):
    """A mixture estimator whose parameters have values: adds their errors and the criteria."""

    _stream: Online

    def partial_fit(
        self,
        X: Rows,
        y: Values = None,  # noqa: ARG002
        sample_weight: Values = None,
        labels: Values = None,
    ) -> Self:
        """Learn from a batch of rows by online EM, and keep none of them; see `minorant.Online`.

        The first batch is fitted as by `fit`. After `fit` draws from the fitted model stand for its
        rows. Estimates near those of all rows at once, but are not equal to them; `lower_bound_` is
        estimated from rows scored before they were learned from, and `n_iter_` counts batches.

        Args:
            X: (n, d) rows, with the columns of the first batch; missing cells as in `fit`.
            y: Ignored, as scikit-learn wants it.
            sample_weight: (n,) weights, 0 or more.
            labels: (n,) known components 0 .. k - 1, or -1, NaN, None where unknown.

        Returns:
            The estimator itself.

        Raises:
            ValueError: The rows, weights, labels or options cannot be used; says what and where.
        """
        from minorant._config import precision
        from minorant.estimators._stream import stream_of

        begun = self.__sklearn_is_fitted__()
        if begun:
            rows = self._rows(X)
            weights = as_weights(sample_weight, len(rows), rows.dtype)
        else:
            rows, weights = self._begin(X, sample_weight)
        known = as_labels(labels, len(rows), self.n_components, "labels")
        given = Given(rows, weights, known).counted()
        stream = stream_of(self, None if begun else self._model(given))
        with precision(given.rows.dtype):
            stream.partial_fit(self._named(given.rows), weights=given.weights, labels=given.labels)
        self._publish(stream.answer(), given)
        self._stream, self.n_iter_ = stream, self.fit_.acceleration.steps
        return self

    def evidence(self, X: Rows, posterior: Any = None, sample_weight: Values = None) -> Evidence:
        """Return ``lower <= log p(X) <= upper`` as numbers; see `minorant.evidence.evidence`.

        Args:
            X: (n, d) rows; or rows out of memory, as in `fit`.
            posterior: any q over components, ``minorant.posteriors.Categorical``; None: the exact
                posterior, whose gap is 0.
            sample_weight: (n,) row weights; of files the name of their column.
        """
        rows, weights = self._weighed(X, sample_weight)
        return self._ask("evidence", rows, posterior, weights=weights)

    def standard_errors(
        self, X: Rows, sample_weight: Values = None, robust: bool = False
    ) -> StandardErrors:
        """Return how well every parameter is known; see `minorant.evidence.standard_errors`.

        Args:
            X: (n, d) the rows that were fitted.
            sample_weight: (n,) the weights that were given.
            robust: The sandwich, which does not trust the model's form.
        """
        rows, weights = self._weighed(X, sample_weight)
        return self._ask("standard_errors", rows, weights=weights, robust=robust)

    def summary(self, X: Rows, sample_weight: Values = None, robust: bool = False) -> str:
        """Return the fit in words, and every parameter with its standard error and 95% limits."""
        errors = self.standard_errors(X, sample_weight, robust)
        return f"{self._current()}\n\n{errors}"

    def bic(self, X: Rows, sample_weight: Values = None) -> float:
        """Return ``-2 log p(X) + p log n``, n the sum of weights; smaller is better."""
        total = self._total(X, sample_weight)
        return self._deviance(X, sample_weight, total) + self._current().n_parameters * np.log(
            total
        )

    def aic(self, X: Rows, sample_weight: Values = None) -> float:
        """Return ``-2 log p(X) + 2 p``; smaller is better."""
        total = self._total(X, sample_weight)
        return self._deviance(X, sample_weight, total) + 2.0 * self._current().n_parameters

    def _weighed(self, X: Rows, sample_weight: Values) -> tuple[Any, np.ndarray | None]:
        """Return rows and their weights; of rows out of memory chunks, which have theirs."""
        rows = self._about(X, sample_weight)
        if isinstance(rows, np.ndarray):
            return rows, as_weights(sample_weight, len(rows))
        return rows, None

    def _total(self, X: Rows, sample_weight: Values) -> float:
        """Return the sum of the weights."""
        rows, weights = self._weighed(X, sample_weight)
        if not isinstance(rows, np.ndarray):
            return _in_chunks.total_weight(rows)
        return float(len(rows) if weights is None else weights.sum())

    def _deviance(self, X: Rows, sample_weight: Values, total: float) -> float:
        return -2.0 * total * self.score(X, sample_weight=sample_weight)
