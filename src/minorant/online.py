r"""A model of a stream: learned batch by batch, at hand at any time, and never asked for old rows.

.. math:: s_{t+1} = (1 - g_t)\, s_t + g_t\, \bar s(B_t; \theta_t), \qquad
          \theta_{t+1} = \arg\max_\theta Q(\theta; W_{t+1}\, s_{t+1})

Cappe & Moulines (2009), "On-line expectation-maximization algorithm for latent data models".
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._parameters import count_parameters, filled, leaf_constraints
from minorant._types import PyTree
from minorant.data.arrays import Table
from minorant.data.summary import Look
from minorant.data.tables import as_table
from minorant.evidence import sample
from minorant.fitting import fit
from minorant.models.base import AbstractDiscreteModel, AbstractTractableModel, count_components
from minorant.preparation import cast, check_labels
from minorant.result import Acceleration, Estimate, Fit, Outcome, Trace
from minorant.solvers.starts import Starts
from minorant.solvers.stepwise import Mean, StreamState, check_exponent
from minorant.stepwise import (
    batch_of,
    in_product_form,
    joins,
    moved,
    per_weight,
    scaled,
    seen,
)

_REPLAYED = (20_000, 200_000)  # draws that stand for the rows of a fit: at least, at most


class Scores(NamedTuple):
    """Means over batches, the later ones counting more: log p per row, its square, the shares'."""

    mean: float = 0.0
    square: float = 0.0
    shares: float = 1.0

    def joined(self, score: float, share: float) -> Scores:
        """With the score of another batch."""
        kept = 1.0 - share
        return Scores(
            kept * self.mean + share * score,
            kept * self.square + share * score * score,
            kept * kept * self.shares + share * share,
        )

    def estimate(self) -> Estimate:
        """The mean with its standard error, infinite before there are two batches."""
        if self.shares >= 1.0:
            return Estimate(self.mean, np.inf)
        spread = max(self.square - self.mean**2, 0.0)
        return Estimate(self.mean, float(np.sqrt(spread * self.shares / (1.0 - self.shares))))


class Online:
    """A model that learns from batches of rows and keeps none of them.

    The first batch is fitted as ``minorant.fit`` does, from several starts; every later one moves
    the statistics by ``(b / W)^a``, b its weight and W all weight so far: ``(t + 2)^-a`` where all
    batches weigh the same. Units are those of the first batch; floors and priors that depend on the
    columns follow all rows seen.

    Args:
        model: a mixture, or another model with a discrete latent and a closed M-step, of
            independent rows.
        fixed: selects the parameters that keep their given value, as in ``minorant.fit``.
        exponent: a, above 1/2 and at most 1.
        averaging: give the model at the mean of the later statistics (Polyak's average), not at
            the last ones.
        starts: for the first batch, as in ``minorant.fit``.
        random_state: seed of the starts.

    Raises:
        TypeError: for a model that cannot be learned from a stream.
        ValueError: for an exponent out of its range.

    Example:
        >>> import numpy as np, minorant
        >>> rng = np.random.default_rng(0)
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=2)
        >>> online = minorant.Online(model)
        >>> for _ in range(20):
        ...     rows = rng.normal(size=(200, 1)) + rng.choice([0.0, 10.0], size=(200, 1))
        ...     online = online.partial_fit(rows)
        >>> [round(float(m)) for m in sorted(online.model.component.mean[:, 0])]
        [0, 10]
        >>> online.n_rows
        4000.0

    Not for: a table that can be gone through again (``minorant.fit`` with chunks finds the
    optimum), a stream whose first batch does not show all components, rows in sequence.
    """

    def __init__(
        self,
        model: Any,
        *,
        fixed: Callable[[Any], Any] | None = None,
        exponent: float = 0.6,
        averaging: bool = True,
        starts: Starts | None = None,
        random_state: int | None = 0,
    ) -> None:
        _check_model(model)
        check_exponent(exponent)
        self._template = model
        self._fixed = fixed
        self._exponent, self._averaging = exponent, averaging
        self._starts, self._random_state = starts, random_state
        self._first: Fit | None = None

    @classmethod
    def resumed(cls, fit: Fit, *, exponent: float = 0.6, averaging: bool = True) -> Online:
        """Go on from a fit: from :meth:`answer` (also saved and loaded) to the last bit.

        For the rows of any other fit, which does not keep them, draws from its model stand.

        Args:
            fit: what ``answer()`` or ``minorant.fit`` returned.
            exponent: as for ``Online``; give the same.
            averaging: as for ``Online``; give the same.

        Raises:
            TypeError: for a fit of a model that cannot be learned from a stream.
        """
        stands = isinstance(fit.state, StreamState)
        online = cls(fit.state.template if stands else fit.model)
        check_exponent(exponent)
        online._exponent, online._averaging = exponent, averaging
        if stands:
            online._first = fit
            online._take_up(fit.state)
        else:
            online._begin(fit, _replayed(fit), float(fit.n_rows))
            online._look = None
        return online

    def partial_fit(self, data: Any, *, weights: Any = None, labels: Any = None) -> Self:
        """Learn from a batch.

        Args:
            data: (b, d) rows with the columns of the first batch; NaN, None or NA where missing.
            weights: (b,) row weights.
            labels: (b,) known components, -1 where unknown.

        Returns:
            Itself.

        Raises:
            ValueError: for rows, weights or labels that cannot be used; says what and where.
        """
        table, names = as_table(data, weights, labels)
        _config.enable_compilation_cache()
        if self._first is None:
            self._start(data, weights, labels, table)
            return self
        self._check(table, names)
        with _config.precision(np.dtype(self._first.dtype)):
            self._learn(table)
        return self

    @property
    def n_rows(self) -> float:
        """The sum of the weights of all rows so far."""
        return 0.0 if self._first is None else self._mean.weight

    @property
    def model(self) -> Any:
        """The model as it stands, in the data's units."""
        return self.answer().model

    @property
    def bound(self) -> Estimate:
        """``log p(x)`` per row in nats, and its standard error, from rows not yet learned from.

        Every batch is scored before it moves the model, and later ones count more. Before the
        second batch it is the first one's own, which the model has seen.
        """
        _begun(self._first)
        return self._scores.estimate()

    def answer(self) -> Fit:
        """The fit as it stands: for posteriors, evidence, labels, and ``minorant.save``.

        Raises:
            ValueError: before the first batch.
        """
        first = _begun(self._first)
        began = time.perf_counter()
        with _config.precision(np.dtype(first.dtype)):
            model = self._at(self._mean.averaged if self._averaging else self._mean.current)
        bound, weight = self._scores.estimate(), self._mean.weight
        wide: Any = jax.tree.map(lambda leaf: np.asarray(leaf, dtype=float), model)
        total = bound.value * weight
        return first._replace(
            model=jax.tree.map(np.asarray, wide.rescaled(first.units.inverse())),
            outcome=Outcome.STREAMED,
            bound=total,
            objective=total,
            trace=Trace(np.array([total]), np.array([total])),
            explanation=f"{_reason(first)} Online EM, {self._n_batches} batches; log p per row "
            f"{bound.value:.6g} (standard error {bound.standard_error:.2g}), each batch scored "
            "before it was learned from.",
            standardised=model,
            n_rows=weight,
            n_parameters=count_parameters(model, first.fixed),
            acceleration=Acceleration(self._n_batches, 0, 0, 0),
            degenerate=(),
            climbs=(),
            seconds=time.perf_counter() - began,
            state=self._state(),
            log_scale=0.0,
        )

    def _state(self) -> StreamState:
        columns = None if self._look is None else tuple(self._look)
        mean, scores = self._mean, tuple(self._scores)
        return StreamState(self._template, self._model, *mean, self._n_batches, columns, scores)

    def _take_up(self, state: StreamState) -> None:
        self._model = state.model
        self._mean = Mean(state.current, state.averaged, state.weight)
        self._n_batches = state.n_batches
        self._look = None if state.columns is None else Look(*state.columns)
        self._scores = Scores(*map(float, state.scores))

    def _start(self, data: Any, weights: Any, labels: Any, table: Table) -> None:
        """The first batch: a fit of its own, whose statistics the stream goes on from."""
        first = fit(
            self._template,
            data,
            weights=weights,
            labels=labels,
            fixed=self._fixed,
            starts=self._starts,
            random_state=self._random_state,
            progress=False,
        )
        self._look = Look.at(table.values, table.weights)
        self._begin(first, table, float(first.n_rows))

    def _begin(self, first: Fit, table: Table, weight: float) -> None:
        """Statistics of rows that the model is fitted to."""
        model = in_product_form(first.standardised)
        with _config.precision(np.dtype(first.dtype)):
            batch = batch_of(table, first)
            start = _one(per_weight(batch, _stacked(model)))
            self._model = _one(moved(_stacked(model), scaled(_stacked(start), weight), first.fixed))
        self._mean, self._n_batches = Mean(start, start, weight), 1
        self._scores = Scores(first.bound / weight, (first.bound / weight) ** 2)
        self._first = first

    def _check(self, table: Table, names: tuple[str, ...]) -> None:
        """Refuse what is not like the first batch."""
        first = _begun(self._first)
        if len(names) != len(first.names):
            raise ValueError(
                f"The first batch has {len(first.names)} columns; this one has {len(names)}."
            )
        check_labels(table, count_components(first.standardised))
        first.model.check(table.values, names)

    def _learn(self, table: Table) -> None:
        """Score a batch, step towards its statistics, and maximise."""
        first = _begun(self._first)
        look = Look.at(table.values, table.weights)
        if self._look is not None:
            self._look = self._look.joined(look)
            self._model = self._followed(first)
        batch = batch_of(table, first)
        found = _one(seen(batch.source, _stacked(self._model)))
        bound = float(found.bound) - float(look.observed @ np.log(first.units.scale))
        self._score(bound / batch.weight, batch.weight)
        statistics = scaled(found.statistics, 1.0 / batch.weight)
        rate = self._mean.rate(batch.weight, self._exponent)
        self._mean = self._mean.moved(statistics, rate, batch.weight)
        self._n_batches += 1
        self._model = self._at(self._mean.current)

    def _score(self, score: float, weight: float) -> None:
        """The first score that is of rows not yet learned from takes the place of the batch's."""
        share = 1.0 if self._n_batches == 1 else self._mean.share(weight)
        self._scores = self._scores.joined(score, share)

    def _at(self, statistics: PyTree) -> Any:
        """The model that statistics per unit of weight say."""
        total = scaled(_stacked(statistics), self._mean.weight)
        fixed = _begun(self._first).fixed
        return _one(moved(_stacked(self._model), total, fixed))

    def _followed(self, first: Fit) -> Any:
        """The model with floors and priors of all rows seen."""
        assert self._look is not None
        summary = self._look.summary(first.names)
        eps = float(np.finfo(first.dtype).eps)
        configured = self._template.configured(dataclasses.replace(summary, eps=eps))
        template = cast(configured.rescaled(first.units), np.dtype(first.dtype))
        return _with_constants(filled(in_product_form(template), self._model), self._model)


def _check_model(model: Any) -> None:
    tractable = isinstance(model, AbstractTractableModel)
    streams = tractable and isinstance(model, AbstractDiscreteModel)
    if not streams or model.is_grouped() or not joins(in_product_form(model)):
        raise TypeError(_no_stream(model))


def _no_stream(model: Any) -> str:
    return (
        f"Online learns mixtures of independent rows whose statistics add up from batch to batch; "
        f"this {type(model).__name__} is none of them. Collect the rows and use minorant.fit."
    )


def _begun(first: Fit | None) -> Fit:
    if first is None:
        raise ValueError("There is no model before the first batch: call partial_fit(rows).")
    return first


def _reason(first: Fit) -> str:
    return f"E-step: {first.standardised.reason()}."


def _replayed(fit: Fit) -> Table:
    """Draws that stand for the rows of a fit: more of them where it had more."""
    least, most = _REPLAYED
    rows, _ = sample(fit, int(np.clip(fit.n_rows, least, most)), random_state=0)
    values: Float[np.ndarray, "n d"] = np.asarray(rows, dtype=float)
    return Table(values)


def _with_constants(template: Any, model: Any) -> Any:
    """What is learned from ``model``, what depends on the data from ``template``."""
    pairs = zip(
        leaf_constraints(model), jax.tree.leaves(template), jax.tree.leaves(model), strict=True
    )
    leaves = [new if constraint is None else old for constraint, new, old in pairs]
    return jax.tree.unflatten(jax.tree.structure(model), leaves)


def _stacked(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree)


def _one(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], tree)
