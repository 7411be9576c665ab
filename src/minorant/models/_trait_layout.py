"""Which item stands in which stack, what codes are allowed, and where a climb starts; host side."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from minorant._types import Rows, Summary
from minorant.components.base import reject_cells
from minorant.models._curves import is_none
from minorant.models.items import AbstractItems, PartialCredit

Columns = tuple[tuple[int, ...], ...]
_FEWEST = 0.5
_STEEPEST = 12.0


def as_tuple(items: Any) -> tuple[AbstractItems, ...]:
    """One item structure, or several, as a tuple."""
    return (items,) if isinstance(items, AbstractItems) else tuple(items)


def as_pattern(pattern: Any) -> tuple[tuple[float, ...], ...] | None:
    """A pattern as numbers that can be compared."""
    return None if pattern is None else tuple(map(tuple, np.asarray(pattern, float).tolist()))


def stacked_items(
    items: tuple[AbstractItems, ...],
    summary: Summary,
    pattern: Float[np.ndarray, "d l"] | None,
    n_traits: int,
) -> tuple[tuple[AbstractItems, ...], Columns]:
    """Templates, one for all columns or one for each, as stacks of equal items.

    Raises:
        ValueError: for a wrong number of structures, an item answered alike by all, or more
            categories than a structure has.
    """
    d = summary.n_columns
    if len(items) not in (1, d):
        raise ValueError(
            f"items must be one structure for all {d} columns or one for each; got {len(items)}."
        )
    per_column = items * d if len(items) == 1 else items
    found: dict[Any, list[int]] = {}
    for j, item in enumerate(per_column):
        found.setdefault(_with_categories(item, summary, j), []).append(j)
    stacks = []
    for item, columns in found.items():
        asks = _pattern(pattern, d, n_traits, item)[columns]
        stacks.append(eqx.tree_at(lambda i: i.pattern, item, asks, is_leaf=is_none))
    return tuple(stacks), tuple(tuple(columns) for columns in found.values())


def given_columns(items: tuple[Any, ...]) -> Columns:
    """Columns in the order of the stacks, for items whose parameters are given."""
    ends = np.cumsum([np.shape(item.intercepts)[0] for item in items])
    starts = np.concatenate([[0], ends[:-1]])
    return tuple(tuple(range(a, b)) for a, b in zip(starts, ends, strict=True))


def _with_categories(item: Any, summary: Summary, j: int) -> AbstractItems:
    name, top = summary.names[j], int(summary.maximum[j])
    if summary.minimum[j] == summary.maximum[j]:
        raise ValueError(
            f"Item {name!r} was answered {top} by all: its difficulty is infinite. Drop the item."
        )
    if item.n_categories is None:
        return dataclasses.replace(item, n_categories=top + 1)
    if top >= item.n_categories:
        raise ValueError(
            f"Item {name!r} has answers up to {top}, but {type(item).__name__} was to have "
            f"{item.n_categories} categories, 0 to {item.n_categories - 1}: choose GradedResponse "
            "or GeneralizedPartialCredit for items with more."
        )
    return item


def _pattern(
    pattern: np.ndarray | None, d: int, n_traits: int, item: AbstractItems
) -> Float[np.ndarray, "d l"]:
    """What items ask for: as given; else all of everything but what a rotation could undo.

    Of the first l columns, column j asks for traits 0 to j alone.
    """
    if pattern is not None:
        if np.shape(pattern) != (d, n_traits):
            raise ValueError(
                f"pattern must have a row per item and a column per trait, shape ({d}, {n_traits}"
                f"); got {np.shape(pattern)}."
            )
        return np.asarray(pattern, dtype=float)
    if type(item).__name__ == "PartialCredit" and n_traits > 1:
        raise ValueError("PartialCredit with several traits needs a pattern: which item asks what.")
    return np.tril(np.ones((d, n_traits)))


def check_codes(
    values: Float[np.ndarray, "n d"], names: tuple[str, ...], categories: dict[int, int]
) -> None:
    """Raise ValueError unless answers are codes 0, 1, 2 ...; before a fit, without gaps."""
    with np.errstate(invalid="ignore"):
        bad = (values < 0) | (values != np.round(values))
    bad &= ~np.isnan(values)
    reject_cells(bad, values, names, "must hold codes 0, 1, 2, ... of answers")
    for j, name in enumerate(names):
        seen = values[~np.isnan(values[:, j]), j]
        if j in categories:
            beyond = np.zeros_like(bad)
            beyond[:, j] = values[:, j] >= categories[j]
            reject_cells(beyond, values, names, f"has answers 0 to {categories[j] - 1}")
        elif len(seen):
            _reject_gap(np.unique(seen), name)


def _reject_gap(codes: np.ndarray, name: str) -> None:
    if codes[0] != 0 or len(codes) != codes[-1] + 1:
        missing = sorted(set(range(int(codes[-1]))) - set(codes.astype(int).tolist()))
        raise ValueError(
            f"Item {name!r} has answers up to {int(codes[-1])} but none of {missing}: what nobody "
            "chose has no parameter. Number the categories that occur 0, 1, 2, ... (estimators do)."
        )


def rough_slopes(rows: Rows, n_traits: int, pattern: np.ndarray | None) -> np.ndarray:
    """Slopes from the leading eigenvectors of the correlations; all traits point upwards.

    Loadings ``b`` of standardised answers become ``1.7 b / sqrt(1 - b'b)``, their value if answers
    were cuts of normal variables.
    """
    values, weight, seen = _host(rows)
    mean = (weight @ (values * seen)) / (weight @ seen)
    away = np.where(seen, values - mean, 0.0)
    scale = np.sqrt((weight @ away**2) / (weight @ seen))
    scaled = away / np.where(scale > 0, scale, 1.0)
    pairs = (seen * weight[:, None]).T @ seen
    correlation = (scaled * weight[:, None]).T @ scaled / np.maximum(pairs, _FEWEST)
    if pattern is None or np.all(pattern[n_traits:] > 0):
        loadings = _leading(correlation, n_traits)
        if n_traits > 1:
            loadings = loadings @ np.linalg.qr(loadings[:n_traits].T)[0]
    else:
        loadings = np.zeros(pattern.shape)
        for k in range(n_traits):
            own = np.flatnonzero(pattern[:, k] > 0)
            loadings[own, k] = _leading(correlation[np.ix_(own, own)], 1)[:, 0]
    if pattern is not None:
        loadings = np.where(pattern > 0, loadings, 0.0)
    loadings = loadings * np.where(loadings.sum(0) < 0, -1.0, 1.0)
    length = np.sqrt((loadings**2).sum(1, keepdims=True))
    loadings = loadings * np.minimum(1.0, 0.85 / np.maximum(length, 1e-12))
    return 1.7 * loadings / np.sqrt(1.0 - (loadings**2).sum(1, keepdims=True))


def _leading(correlation: np.ndarray, l: int) -> np.ndarray:
    values, vectors = np.linalg.eigh(correlation)
    order = np.argsort(values)[::-1][:l]
    return vectors[:, order] * np.sqrt(np.maximum(values[order], 0.1))


def shares(rows: Rows, columns: tuple[int, ...], m: int) -> Float[np.ndarray, "d m"]:
    """The share of every category, half an answer added to each so that none is empty."""
    values, weight, seen = _host(rows)
    values, seen = values[:, columns], seen[:, columns]
    chosen = (values[..., None] == np.arange(m)) & seen[..., None]
    count = np.einsum("n,ndm->dm", weight, chosen) + _FEWEST
    return count / count.sum(1, keepdims=True)


def _host(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, weight = np.asarray(rows.values, float), np.asarray(rows.weight, float)
    seen = np.ones(values.shape, bool)
    if rows.observed is not None:
        seen = np.broadcast_to(np.asarray(rows.observed), values.shape)
    return values, weight, seen


def steep_items(
    stacks: list[tuple[tuple[int, ...], Any]], names: tuple[str, ...]
) -> tuple[str, ...]:
    """A sentence for every item that parts the persons (almost) without error."""
    found = []
    for columns, item in stacks:
        size = np.sqrt((np.asarray(item.slopes) ** 2).sum(1))
        found += [
            f"Item {names[columns[j]]!r} has a slope of {size[j]:.3g}: the answers part persons "
            "without error (a Heywood case), and the likelihood grows as the slope does. Drop the "
            "item, or give it ItemPrior(slope=...)."
            for j in np.flatnonzero(size > _STEEPEST)
        ]
    return tuple(found)


def orientation(items: tuple[Any, ...]) -> Float[np.ndarray, " l"]:
    """-1 for every trait that is to point the other way for its slopes to sum to above 0.

    A trait stays where an item's slopes for it are given by its structure, and all do where a
    prior on slopes is not symmetric about 0.
    """
    slopes = [np.asarray(item.slopes) for item in items]
    total = np.sum([one.sum(0) for one in slopes], axis=0)
    stays = np.zeros(len(total), dtype=bool)
    for item in items:
        prior = getattr(item, "prior", None)
        if isinstance(item, PartialCredit):
            stays |= np.asarray(item.slopes).any(0)
        elif prior is not None and prior.slope is not None:
            stays |= prior.slope[0] != 0.0
    return np.where((total < 0) & ~stays, -1.0, 1.0).astype(slopes[0].dtype)


def turned(item: Any, sign: Float[np.ndarray, " l"]) -> AbstractItems:
    """The item for traits whose directions are multiplied by 1 or -1."""
    if isinstance(item, PartialCredit):
        return item
    return eqx.tree_at(lambda one: one.slopes, item, np.asarray(item.slopes) * sign + 0.0)
