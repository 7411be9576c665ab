"""`partial_fit` of the estimators: of mixtures online EM, of linear factors exact moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from minorant.data.arrays import Table
from minorant.data.moments import Moments, complete_moments, same_moments
from minorant.data.summary import Look

if TYPE_CHECKING:
    from minorant.online import Online


def stream_of(estimator: Any, model: Any) -> Online:
    """Return the stream of a mixture estimator: under way, of its fit, or new, of this model."""
    from minorant.estimators._climb import seed_of
    from minorant.online import Online

    found = vars(estimator).get("_stream")
    if found is not None:
        return found
    if model is None:
        return Online.resumed(estimator._current())
    return Online(
        model,
        fixed=estimator._held(),
        starts=estimator._starts(),
        random_state=seed_of(estimator.random_state),
    )


class Seen(NamedTuple):
    """What a stream of rows says of linear factors, exactly.

    Complete rows are known by their moments and ranges; those that miss cells are kept, with their
    weights.
    """

    moments: Moments
    look: Look
    rest: Float[np.ndarray, "m d"]
    weights: Float[np.ndarray, " m"]

    @staticmethod
    def of(rows: np.ndarray, weights: np.ndarray | None) -> Seen:
        """Return what a batch says."""
        given = Table(rows, weights)
        found = complete_moments(given)
        rest = ~found.rows
        sizes = np.ones(len(rows)) if weights is None else weights.astype(float)
        with np.errstate(over="ignore", invalid="ignore"):  # `table` refuses such numbers
            look = Look.at(rows, weights)
        return Seen(found.moments, look, rows[rest].astype(float), sizes[rest])

    @staticmethod
    def of_model(mean: np.ndarray, covariance: Float[np.ndarray, "d d"], weight: float) -> Seen:
        """Return what rows would say that have the moments of a model."""
        mean, d = np.asarray(mean, dtype=float), len(mean)
        moments = Moments(weight, mean, weight * np.asarray(covariance, dtype=float))
        look = Look.at(same_moments(mean, moments.scatter / weight), np.full(2 * d, weight / d / 2))
        return Seen(moments, look, np.zeros((0, d)), np.zeros(0))

    def joined(self, other: Seen) -> Seen:
        """Return what both say."""
        return Seen(
            self.moments.joined(other.moments),
            self.look.joined(other.look),
            np.concatenate([self.rest, other.rest]),
            np.concatenate([self.weights, other.weights]),
        )

    def table(self) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, " m"]]:
        """Return few weighted rows that the model cannot tell from all.

        Raises:
            ValueError: for numbers whose squares cannot be represented.
        """
        moments, d = self.moments, len(self.moments.mean)
        if not np.isfinite(moments.scatter).all():
            raise ValueError(
                "The squares of a column's numbers overflow: divide the column by its typical size "
                "before partial_fit."
            )
        if moments.weight == 0.0:
            return self.rest, self.weights
        size = np.sqrt(np.diagonal(moments.scatter) / moments.weight)
        size = np.where((size > 0) & (self.look.minimum < self.look.maximum), size, 1.0)
        scaled = moments.scatter / moments.weight / size / size[:, None]
        rows = moments.mean + size * same_moments(np.zeros(d), scaled)
        rows = np.where(self.look.minimum == self.look.maximum, self.look.minimum, rows)
        shares = np.full(len(rows), moments.weight / len(rows))
        return np.concatenate([rows, self.rest]), np.concatenate([shares, self.weights])
