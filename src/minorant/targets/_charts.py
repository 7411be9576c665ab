r"""Unknowns of a model's learned fields: from what a field declares to coordinates without excess.

The vectors that solvers walk in may be redundant (a simplex has one number too many), which a
density may not: every constraint is given a bijection here. One that is not in the table gets the
generic bijection: straight lines through the start, along directions that change the value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _parameters
from minorant._types import Array
from minorant.components.categorical import Simplices
from minorant.components.low_rank import Rotatable
from minorant.models import _curves, _mixed_start, _trait_scale
from minorant.models.transition_logits import FreeMoves
from minorant.models.transitions import AllowedSimplex
from minorant.unknowns import (
    AbstractUnknown,
    Bounded,
    Correlation,
    Covariance,
    Known,
    Ordered,
    Real,
    Shape,
    Simplex,
)

_RANK = 1e-8
_EDGE = 1e-4
_JITTER = 1e-6

Places = tuple[tuple[int, ...], ...]


class Assembled(AbstractUnknown):
    """An array put together: parts that are learned, in their places, and entries that are not.

    ``places[i]`` are the flat places of part i, once for each copy of it; ``base`` (an array of the
    same shape) has what is not learned. Parts of a simplex may share less than 1: ``share[i]``.
    """

    shape: Shape = eqx.field(static=True)
    parts: tuple[AbstractUnknown, ...]
    places: tuple[Places, ...] = eqx.field(static=True)
    base: Array
    share: Array

    @property
    def size(self) -> int:
        """How many free coordinates it has."""
        return sum(part.size for part in self.parts)

    def value(self, free: Float[Array, " p"], known: Known) -> tuple[Array, Float[Array, ""]]:
        """The parts' values in their places."""
        whole, total, begin = jnp.ravel(jnp.asarray(self.base, free.dtype)), 0.0, 0
        for part, places, share in zip(self.parts, self.places, self.share, strict=True):
            value, log_jacobian = part.value(free[begin : begin + part.size], known)
            for copy in places:
                whole = whole.at[np.array(copy)].set(share * jnp.ravel(value))
            total = total + log_jacobian + part.size * jnp.log(share)
            begin += part.size
        return whole.reshape(self.shape), jnp.asarray(total, free.dtype)

    def free(self, value: Array, known: Known) -> Float[Array, " p"]:
        """The parts' free coordinates, each from its first copy."""
        flat = jnp.ravel(value)
        found = [
            part.free((flat[np.array(places[0])] / share).reshape(part.shape), known)
            for part, places, share in zip(self.parts, self.places, self.share, strict=True)
        ]
        return jnp.concatenate(found) if found else flat[:0]


class Mirrored(AbstractUnknown):
    """The negative of another unknown."""

    shape: Shape = eqx.field(static=True)
    part: AbstractUnknown

    @property
    def size(self) -> int:
        """How many free coordinates it has."""
        return self.part.size

    def value(self, free: Float[Array, " p"], known: Known) -> tuple[Array, Float[Array, ""]]:
        """Its negative; the Jacobian's size is the same."""
        value, log_jacobian = self.part.value(free, known)
        return -value, log_jacobian

    def free(self, value: Array, known: Known) -> Float[Array, " p"]:
        """The other's free coordinates."""
        return self.part.free(-value, known)


class Kept:
    """A constraint, compared by identity: it may hold arrays."""

    def __init__(self, constraint: Any) -> None:
        """Keep it."""
        self.constraint = constraint


class Along(AbstractUnknown):
    """The generic bijection: ``constraint.value(centre + basis u)``.

    The density is with respect to the first entries of the value that tell all others, ``chosen``.
    """

    shape: Shape = eqx.field(static=True)
    kept: Kept = eqx.field(static=True)
    chosen: tuple[int, ...] = eqx.field(static=True)
    centre: Array
    basis: Float[Array, "q p"]

    @property
    def size(self) -> int:
        """How many free coordinates it has."""
        return len(self.chosen)

    def value(self, free: Float[Array, " p"], known: Known) -> tuple[Array, Float[Array, ""]]:
        """The value, and the determinant of the chosen entries' Jacobian."""
        del known

        def at(point: Array) -> Array:
            moved = (jnp.asarray(self.basis) @ point).reshape(self.centre.shape)
            return jnp.asarray(self.kept.constraint.value(self.centre + moved)).reshape(self.shape)

        slopes = jax.jacfwd(lambda point: jnp.ravel(at(point))[np.array(self.chosen)])(free)
        return at(free), jnp.linalg.slogdet(slopes)[1]

    def free(self, value: Array, known: Known) -> Float[Array, " p"]:
        """Along the basis, from the centre."""
        del known
        moved = jnp.ravel(self.kept.constraint.free(jnp.asarray(value)) - self.centre)
        return jnp.asarray(self.basis).T @ moved


def unknown_of(constraint: Any, value: np.ndarray, held: np.ndarray) -> AbstractUnknown | None:
    """The unknown of a field; None where it is held altogether.

    Args:
        constraint: what the field declares.
        value: of the start, for what is not learned.
        held: a boolean, or one for each entry of leading axes.

    Raises:
        ValueError: when parts of a field are held that cannot be told from the rest.
    """
    if held.all():
        return None
    if not held.any():
        return _whole(constraint, value)
    return _partly(constraint, value, held)


def inside(constraint: Any, value: np.ndarray) -> np.ndarray:
    """The value itself, or one near it that is not on the edge of what it may be."""
    match constraint:
        case _parameters.Simplex():
            return _shared(value, np.ones(value.shape, bool))
        case AllowedSimplex(allowed=allowed):
            return _shared(value, np.broadcast_to(np.array(allowed), value.shape))
        case Simplices(sizes=sizes):
            columns = np.split(value, np.cumsum(sizes or ())[:-1].astype(int), axis=-1)
            parts = [_shared(column, np.ones(column.shape, bool)) for column in columns]
            return np.concatenate(parts, axis=-1)
        case _parameters.Positive():
            return np.maximum(value, _JITTER * (np.abs(value).max(initial=0.0) or 1.0))
        case _parameters.Interval(low=low, high=high):
            return np.clip(value, low + _EDGE * (high - low), high - _EDGE * (high - low))
        case _parameters.PositiveDefinite() | _mixed_start.InUnits():
            return _definite(value)
        case _trait_scale.Covariances():
            return np.concatenate([value[:1], _definite(value[1:])])
    return value


def _shared(value: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Probabilities none of which is below 1e-4 where allowed."""
    raised = np.where(allowed, np.maximum(value, _EDGE), 0.0)
    return raised / raised.sum(-1, keepdims=True)


def _definite(value: np.ndarray) -> np.ndarray:
    """With eigenvalues that are not below 1e-6 of the largest."""
    if not value.size:
        return value
    values, vectors = np.linalg.eigh(value)
    largest = values[..., -1:]
    raised = np.maximum(values, _JITTER * np.where(largest > 0, largest, 1.0))
    if np.array_equal(raised, values):
        return value
    return (vectors * raised[..., None, :]) @ np.swapaxes(vectors, -1, -2)


# From a constraint to the unknown of a whole field


def _whole(constraint: Any, value: np.ndarray) -> AbstractUnknown:
    for kind, chart in _CHARTS.items():
        if type(constraint) is kind:
            return chart(constraint, value)
    return generic(constraint, value)


def _real(constraint: Any, value: np.ndarray) -> AbstractUnknown:
    del constraint
    return Real(value.shape)


def _positive(constraint: Any, value: np.ndarray) -> AbstractUnknown:
    del constraint
    return Bounded(value.shape, 0.0)


def _between(constraint: _parameters.Interval, value: np.ndarray) -> AbstractUnknown:
    return Bounded(value.shape, constraint.low, constraint.high)


def _simplex(constraint: Any, value: np.ndarray) -> AbstractUnknown:
    del constraint
    return Simplex(value.shape)


def _definite_matrices(constraint: Any, value: np.ndarray) -> AbstractUnknown:
    del constraint
    return Covariance(value.shape)


def _decreasing(constraint: Any, value: np.ndarray) -> AbstractUnknown:
    del constraint
    return Mirrored(value.shape, Ordered(value.shape))


def _masked(constraint: _curves.Masked, value: np.ndarray) -> AbstractUnknown:
    learned = np.broadcast_to(np.asarray(constraint.mask) > 0, value.shape)
    return _entries(np.flatnonzero(learned), 0.0 * value)


def _means(constraint: Any, value: np.ndarray) -> AbstractUnknown:
    del constraint
    return _entries(np.arange(value.shape[1], value.size), 0.0 * value)


def _moves(constraint: FreeMoves, value: np.ndarray) -> AbstractUnknown:
    """Coefficients of learned moves; tied rows are copies of the first of them."""
    places = np.arange(value.size).reshape(value.shape)
    learned, tied = np.array(constraint.learned), np.array(constraint.tied)
    copies = [
        [places[row][learned[row]].ravel() for row in np.flatnonzero(tied == first)]
        for first in np.unique(tied)
    ]
    parts = [(Real((len(same[0]),)), same) for same in copies if len(same[0])]
    return assembled(parts, 0.0 * value)


def _allowed(constraint: AllowedSimplex, value: np.ndarray) -> AbstractUnknown:
    """A simplex of every row over the moves that it allows."""
    places = np.atleast_2d(np.arange(value.size).reshape(value.shape))
    allowed = np.broadcast_to(np.array(constraint.allowed), value.shape).reshape(places.shape)
    tied = np.arange(len(places)) if constraint.tied is None else np.array(constraint.tied)
    base, parts = np.zeros(value.size), []
    for first in np.unique(tied):
        copies = [places[row][allowed[row]] for row in np.flatnonzero(tied == first)]
        if len(copies[0]) == 1:
            base[np.concatenate(copies)] = 1.0
        else:
            parts.append((Simplex((len(copies[0]),)), copies))
    return assembled(parts, base.reshape(value.shape))


def _segments(constraint: Simplices, value: np.ndarray) -> AbstractUnknown:
    """A simplex of every column; columns of equally many categories are taken together."""
    sizes = np.array(constraint.sizes or ())
    places = np.arange(value.size).reshape(-1, value.shape[-1])
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int)
    base, parts = np.ones(value.shape), []
    for size in np.unique(sizes[sizes > 1]):
        columns = [places[:, b : b + size] for b in begins[sizes == size]]
        block = np.stack(columns, axis=1)
        parts.append((Simplex(block.shape), [block.ravel()]))
    return assembled(parts, base)


def _trait_covariances(constraint: _trait_scale.Covariances, value: np.ndarray) -> AbstractUnknown:
    """The first group's fixed, a correlation matrix, or free; the others' free."""
    g, l = value.shape[:2]
    if constraint.scale == "free":
        return Covariance(value.shape)
    places, parts = np.arange(value.size), []
    if constraint.scale == "correlation" and l > 1:
        parts.append((Correlation((l, l)), [places[: l * l]]))
    if g > 1:
        parts.append((Covariance((g - 1, l, l)), [places[l * l :]]))
    return assembled(parts, np.broadcast_to(np.eye(l), value.shape))


_CHARTS: dict[type, Callable[[Any, np.ndarray], AbstractUnknown]] = {
    _parameters.Real: _real,
    _parameters.Positive: _positive,
    _parameters.Interval: _between,
    _parameters.Simplex: _simplex,
    _parameters.PositiveDefinite: _definite_matrices,
    Rotatable: _real,
    Simplices: _segments,
    AllowedSimplex: _allowed,
    FreeMoves: _moves,
    _curves.Masked: _masked,
    _curves.Decreasing: _decreasing,
    _trait_scale.Means: _means,
    _trait_scale.Covariances: _trait_covariances,
    _mixed_start.Turned: _real,
    _mixed_start.InUnits: _definite_matrices,
}


def assembled(parts: Sequence[tuple[AbstractUnknown, list]], base: np.ndarray) -> Assembled:
    """Parts with the flat places of their copies, in an array that is otherwise ``base``."""
    return Assembled(
        base.shape,
        tuple(part for part, _ in parts),
        tuple(tuple(tuple(map(int, copy)) for copy in copies) for _, copies in parts),
        np.asarray(base, float),
        np.ones(len(parts)),
    )


def _entries(places: np.ndarray, base: np.ndarray) -> AbstractUnknown:
    """Real numbers in some places."""
    return assembled([(Real((len(places),)), [places])] if len(places) else [], base)


# Partly held fields


def _partly(constraint: Any, value: np.ndarray, held: np.ndarray) -> AbstractUnknown:
    """What is not held, by its leading axes."""
    places = np.arange(value.size).reshape(value.shape)[~held]
    if isinstance(constraint, _parameters.Simplex) and held.ndim == value.ndim == 1:
        if len(places) == 1:
            return assembled([], value)
        part = assembled([(Simplex((len(places),)), [places])], np.where(held, value, 0.0))
        share = np.array([1.0 - value[held].sum()])
        return eqx.tree_at(lambda whole: whole.share, part, share)
    by_entry = _parameters.Real, _parameters.Positive, _parameters.Interval
    by_row = _parameters.PositiveDefinite, _parameters.Simplex, Rotatable, Simplices
    if type(constraint) in by_entry or (type(constraint) in by_row and held.ndim == 1):
        inner = _whole(constraint, value[~held])
        return assembled([(inner, [places.ravel()])], value)
    raise ValueError(
        f"fixed holds a part of a field of shape {value.shape} whose entries are bound to each "
        "other: hold all of it, or none."
    )


# The generic bijection


def generic(constraint: Any, value: np.ndarray) -> Along:
    """Straight lines in the constraint's own coordinates, through a value."""
    centre = np.asarray(constraint.free(jnp.asarray(value)), float)
    slopes = np.asarray(
        jax.jacfwd(lambda free: jnp.ravel(constraint.value(free)))(jnp.asarray(centre))
    ).reshape(value.size, centre.size)
    scale, directions = np.linalg.svd(slopes, full_matrices=False)[1:]
    rank = int((scale > _RANK * max(scale[0], 1e-300)).sum())
    basis = directions[:rank].T
    chosen = _independent(slopes @ basis, rank)
    return Along(value.shape, Kept(constraint), chosen, centre, basis)


def _independent(slopes: np.ndarray, rank: int) -> tuple[int, ...]:
    """The first rows that are linearly independent."""
    kept: list[int] = []
    left = slopes / np.maximum(np.linalg.norm(slopes, axis=1, keepdims=True), 1e-300)
    for row in range(len(slopes)):
        if len(kept) == rank:
            break
        size = np.linalg.norm(left[row])
        if size > np.sqrt(_RANK):
            kept.append(row)
            unit = left[row] / size
            left = left - np.outer(left @ unit, unit)
    return tuple(kept)
