"""Components that collapse onto a point or lose all rows: found, named, treated.

A mixture's likelihood is unbounded where a component's spread goes to zero (McLachlan & Peel, 2000,
"Finite mixture models", section 3.8); the floor keeps it finite, but such an optimum says nothing
about the data. Remedies: ``floor`` leaves the component on its floor and names it; ``reseed`` puts
it on the rows that the fit explains worst and climbs again; ``merge`` takes it out and climbs on
with one component fewer. A collapsed component is spurious: any few rows, or ties in one column,
allow it, so starts that end there lose to those that do not, whatever their bound. The exception is
an atom, a point that more than d + 1 rows share: it is named and kept.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from minorant._types import PyTree, Rows
from minorant.data import ArraySource
from minorant.models.base import AbstractContinuousModel, AbstractDiscreteModel
from minorant.preparation import Prepared
from minorant.result import Degenerate

REMEDIES = ("floor", "reseed", "merge")
_FEWEST_ROWS = 0.5


def degenerate_mask(model: AbstractDiscreteModel, total: float) -> Bool[np.ndarray, " k"]:
    """Which components collapsed onto the floor or are supported by less than half a row.

    Directions on the floor that all components share are the data's (a constant or collinear
    column), not a component's.
    """
    collapsed = np.asarray(model.collapsed())
    empty = _empty(model, total)
    if len(collapsed) == 1:
        return empty
    live = collapsed[~empty] if (~empty).any() else collapsed
    return empty | (collapsed > live.min())


def is_spurious(model: Any, total: float, n_columns: int) -> bool:
    """Whether a component is empty or collapsed, other than onto an atom.

    An atom is a point that more than d + 1 rows share: collapsed in every direction.
    """
    if not isinstance(model, AbstractDiscreteModel):
        return False
    mask = degenerate_mask(model, total)
    if not mask.any():
        return False
    share = model.occupancy()
    count = np.full(len(mask), np.inf) if share is None else share * total
    atom = (np.asarray(model.collapsed()) >= n_columns) & (count > n_columns + 1)
    return bool((mask & ~atom).any())


def describe(prepared: Prepared, model: Any, remedy: str) -> tuple[Degenerate, ...]:
    """Every degenerate component with the rows it holds; empty for a sound fit."""
    if isinstance(model, AbstractContinuousModel):
        return tuple(Degenerate(-1, said, (), "") for said in model.irregular(prepared.names))
    if not isinstance(model, AbstractDiscreteModel):
        return ()
    total = float(prepared.source.total_weight)
    mask = degenerate_mask(model, total)
    if not mask.any() and model.occupancy() is not None:
        return ()
    chances = responsibilities(prepared, model)[0]
    labels, empty = np.argmax(chances, axis=1), _empty(model, total)
    if model.occupancy() is None:
        weights = prepared.table.weights
        held = chances.sum(0) if weights is None else weights @ chances
        empty = held < _FEWEST_ROWS
    return tuple(
        Degenerate(
            component=int(k),
            kind="is empty" if empty[k] else "collapsed onto the floor of its variance",
            rows=tuple(int(row) for row in np.flatnonzero(labels == k)),
            remedy=remedy,
        )
        for k in np.flatnonzero(mask | empty)
    )


def _empty(model: AbstractDiscreteModel, total: float) -> Bool[np.ndarray, " k"]:
    share = model.occupancy()
    if share is None:
        return np.zeros(model.n_components, dtype=bool)
    return np.asarray(share, dtype=float) * total < _FEWEST_ROWS


def responsibilities(
    prepared: Prepared, model: Any
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " n"]]:
    """Responsibilities and log evidence of every row, in the table's order."""
    found = _responsibilities(prepared.source, model)
    chances = prepared.layout.restore(tuple(part[0] for part in found))
    return chances, prepared.layout.restore(tuple(part[1] for part in found))


def reseeded(prepared: Prepared, model: Any) -> Int[np.ndarray, " n"]:
    """Labels with every degenerate component put on rows that the fit explains worst."""
    chances, log_evidence = responsibilities(prepared, model)
    mask = degenerate_mask(model, float(prepared.source.total_weight))
    labels = _without(chances, mask)
    share = max(len(labels) // (2 * len(mask)), 2)
    worst = np.argsort(log_evidence, kind="stable")
    for place, k in enumerate(np.flatnonzero(mask)):
        labels[worst[place * share : (place + 1) * share]] = k
    return labels


def merged(prepared: Prepared, model: Any) -> tuple[Int[np.ndarray, " n"], int]:
    """Labels among the sound components only, renumbered, and how many those are."""
    chances, _ = responsibilities(prepared, model)
    mask = degenerate_mask(model, float(prepared.source.total_weight))
    renumbered = np.cumsum(~mask) - 1
    return renumbered[_without(chances, mask)], int((~mask).sum())


def _without(chances: Float[np.ndarray, "n k"], mask: Bool[np.ndarray, " k"]) -> np.ndarray:
    return np.argmax(np.where(mask, -1.0, chances), axis=1)


@jax.jit
def _responsibilities(source: ArraySource, model: PyTree) -> tuple[PyTree, ...]:
    def score(parameters: tuple[Any, PyTree], rows: Rows) -> tuple[jax.Array, jax.Array]:
        inner, prepared = parameters
        q = inner.posterior(rows, prepared)
        return jnp.exp(q.by_row()), inner.log_evidence(rows, prepared)

    return source.map(score, (model, model.prepare()))
