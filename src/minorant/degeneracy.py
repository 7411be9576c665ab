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

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from minorant import _config
from minorant._types import PyTree, Rows
from minorant.data import ArraySource
from minorant.data.arrays import Table
from minorant.models.base import AbstractContinuousModel, AbstractDiscreteModel
from minorant.preparation import Prepared
from minorant.result import Degenerate

REMEDIES = ("floor", "reseed", "merge")
_FEWEST_ROWS = 0.5
_MOST_ROWS = 10_000
_MOST_CHANCES = 1 << 27  # responsibilities formed at once


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


def is_sound(prepared: Prepared, model: Any) -> bool:
    """Whether no component is spurious; where shares do not say who is empty, the rows do."""
    if is_spurious(model, float(prepared.source.n_rows()), len(prepared.names)):
        return False
    if not isinstance(model, AbstractDiscreteModel) or model.occupancy() is not None:
        return True
    return not (_holdings(prepared, model).weight < _FEWEST_ROWS).any()


def describe(prepared: Prepared, model: Any, remedy: str) -> tuple[Degenerate, ...]:
    """Every degenerate component with the rows it holds; empty for a sound fit."""
    if isinstance(model, AbstractContinuousModel):
        return tuple(Degenerate(-1, said, (), "") for said in model.irregular(prepared.names))
    if not isinstance(model, AbstractDiscreteModel):
        return ()
    total = float(prepared.source.n_rows())
    mask = degenerate_mask(model, total)
    if not mask.any() and model.occupancy() is not None:
        return ()
    held = _holdings(prepared, model)
    unheld = held.weight < _FEWEST_ROWS
    empty = unheld if model.occupancy() is None else _empty(model, total)
    return tuple(
        Degenerate(
            component=int(k),
            kind="is empty" if empty[k] else "collapsed onto the floor of its variance",
            rows=held.rows[k],
            remedy=remedy,
        )
        for k in np.flatnonzero(mask | empty)
    )


def impossible(prepared: Prepared, model: Any) -> tuple[Degenerate, ...]:
    """A sentence about the first row that has probability zero; nothing where none has."""
    if not isinstance(model, AbstractDiscreteModel):
        return ()
    first, rows, groups = 0, [], None
    for table, (_, log_evidence) in _answers(prepared, model):
        found = first + np.flatnonzero(np.isneginf(log_evidence))
        if len(found) and not rows:
            groups = table.groups if first == 0 else None
        rows += found.tolist()[: _MOST_ROWS - len(rows)]
        first += len(log_evidence)
    if not rows:
        return ()
    said = impossible_sentence(rows[0], groups, model.is_grouped())
    return (Degenerate(-1, said, tuple(rows), ""),)


def impossible_sentence(row: int, groups: Int[np.ndarray, " n"] | None, grouped: bool) -> str:
    """What to say of a row that has probability zero."""
    if not grouped:
        return (
            f"Row {row} has probability zero in every component: a label or a value outside the "
            "support forbids it. Remove the row, or start elsewhere."
        )
    where = ""
    if groups is not None:
        where = f" (step {int((groups[:row] == groups[row]).sum())} of its sequence, from 0)"
    return (
        f"Row {row}{where} has probability zero in every state that can be reached there: a zero "
        "in the transition or the initial probabilities, a label or a value outside the support "
        "forbids it. Allow the move, or remove the row."
    )


class Holdings(NamedTuple):
    """What each component holds: its weight of responsibilities, the rows it holds most of."""

    weight: Float[np.ndarray, " k"]
    rows: tuple[tuple[int, ...], ...]


def _holdings(prepared: Prepared, model: AbstractDiscreteModel) -> Holdings:
    """Of rows out of memory the first thousands are named."""
    k, first = model.n_components, 0
    weight, rows = np.zeros(k), [[] for _ in range(k)]
    for table, (chances, _) in _answers(prepared, model):
        weight += chances.sum(0) if table.weights is None else table.weights @ chances
        labels = np.argmax(chances, axis=1)
        order = np.argsort(labels, kind="stable")
        ends = np.searchsorted(labels[order], np.arange(k + 1))
        for component in range(k):
            found = first + order[ends[component] : ends[component + 1]]
            room = len(found) if prepared.stream is None else _MOST_ROWS - len(rows[component])
            rows[component] += found[:room].tolist()
        first += len(labels)
    return Holdings(weight, tuple(map(tuple, rows)))


def _empty(model: AbstractDiscreteModel, total: float) -> Bool[np.ndarray, " k"]:
    share = model.occupancy()
    if share is None or model.integrates_parameters():  # there a component may do without rows
        return np.zeros(model.n_components, dtype=bool)
    return np.asarray(share, dtype=float) * total < _FEWEST_ROWS


def responsibilities(
    prepared: Prepared, model: Any
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " n"]]:
    """Responsibilities and log evidence of every row in memory, in the table's order."""
    found = _responsibilities(prepared.source, model)
    chances = prepared.layout.restore(tuple(part[0] for part in found))
    return chances, prepared.layout.restore(tuple(part[1] for part in found))


def _answers(prepared: Prepared, model: Any) -> Iterator[tuple[Table, tuple[Any, Any]]]:
    """Responsibilities and log evidence, of all rows at once or chunk after chunk.

    Of very many rows and components also in memory: responsibilities may need more than the rows.
    """
    if prepared.stream is None:
        each, n = max(_MOST_CHANCES // model.n_components, 1), prepared.n_rows()
        if n <= each or model.is_grouped():
            yield prepared.table, responsibilities(prepared, model)
            return
        for first in range(0, n, each):
            part = prepared.of_rows(prepared.table.take(np.arange(first, min(first + each, n))))
            yield part.table, responsibilities(part, model)
        return
    parameters = jax.tree.map(np.asarray, (model, _ready(model)))
    yield from prepared.stream.by_row(_score, parameters)


def reseeded(
    sampled: Prepared, model: Any, degenerate: tuple[Degenerate, ...]
) -> Int[np.ndarray, " n"]:
    """Labels with every degenerate component put on rows that the fit explains worst."""
    chances, log_evidence = responsibilities(sampled, model)
    mask = _named(degenerate, chances.shape[1])
    labels = _without(chances, mask)
    share = max(len(labels) // (2 * len(mask)), 2)
    worst = np.argsort(log_evidence, kind="stable")
    for place, k in enumerate(np.flatnonzero(mask)):
        labels[worst[place * share : (place + 1) * share]] = k
    return labels


def merged(
    sampled: Prepared, model: Any, degenerate: tuple[Degenerate, ...]
) -> tuple[Int[np.ndarray, " n"], int]:
    """Labels among the sound components only, renumbered, and how many those are."""
    chances, _ = responsibilities(sampled, model)
    mask = _named(degenerate, chances.shape[1])
    renumbered = np.cumsum(~mask) - 1
    return renumbered[_without(chances, mask)], int((~mask).sum())


def _named(degenerate: tuple[Degenerate, ...], k: int) -> Bool[np.ndarray, " k"]:
    """Which components these are."""
    return np.isin(np.arange(k), [one.component for one in degenerate])


def _without(chances: Float[np.ndarray, "n k"], mask: Bool[np.ndarray, " k"]) -> np.ndarray:
    return np.argmax(np.where(mask, -1.0, chances), axis=1)


def _score(parameters: tuple[Any, PyTree], rows: Rows) -> tuple[jax.Array, jax.Array]:
    model, prepared = parameters
    return jnp.exp(model.posterior(rows, prepared).by_row()), model.log_evidence(rows, prepared)


@_config.small_jit
def _responsibilities(source: ArraySource, model: PyTree) -> tuple[PyTree, ...]:
    return source.map(_score, (model, model.prepare()))


@_config.small_jit
def _ready(model: PyTree) -> PyTree:
    return model.prepare()
