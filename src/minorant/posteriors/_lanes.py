"""Sequences cut into lanes: pieces of equal length that advance side by side.

A row depends on the one before it, so a sequence is a loop over its steps; what a machine does fast
is the same step in many places at once. The rows of a block, groups after one another, are cut into
``lanes`` pieces of ``steps`` rows. Rows then stand step by step, lanes within a step, so that the
lanes are the contiguous axis of every array in the loop. Where each lane is a group of its own
nothing passes between lanes; otherwise a lane goes on where the one before it ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from minorant._types import Array, Groups, PyTree, Rows
from minorant.posteriors._recursion import AbstractRecursion

_FEWEST_ROWS = 512  # below, what lanes save costs more to compile
_FEWEST_STEPS = 64
_MOST_LANES = 1024
_FEWEST_ABREAST = 64
_CHUNK_ROWS = 4096


class Cut(NamedTuple):
    """How a block of ``n`` rows is cut.

    Attributes:
        n: rows of the block.
        lanes: pieces side by side.
        steps: rows of each piece, padding included.
        length: rows of each piece before padding; None where padding is at the block's end.
        chunk: steps whose rows are looked at together by what does not depend on order.
        parallel: whether all steps are taken at once (:mod:`._scan`); lanes are then whole
            sequences, or the whole block.
    """

    n: int
    lanes: int
    steps: int
    length: int | None
    chunk: int
    parallel: bool = False

    @property
    def joined(self) -> bool:
        """Whether a lane may go on where the one before it ended."""
        return self.length is None and self.lanes > 1


def cut(
    n: int, groups: Groups | None, recursion: AbstractRecursion | None = None, cells: int = 0
) -> Cut:
    """The cut of a block of ``n`` rows with these groups.

    Args:
        n: rows.
        groups: which rows are a sequence.
        recursion: how to go through time; None: in lanes.
        cells: numbers that a scan would hold of each row.
    """
    length = None if groups is None else groups.length
    if recursion is not None and recursion.is_parallel(length or n, cells * n):
        return _uncut(n, length)
    if length is not None and (n // length >= _FEWEST_ABREAST or length <= _FEWEST_STEPS):
        lanes, steps = n // length, length
    else:
        length, lanes = None, _lanes_of(n)
        steps = -(-n // lanes)
    chunk = min(max(_CHUNK_ROWS // lanes, 1), steps)
    return Cut(n, lanes, -(-steps // chunk) * chunk, length, chunk)


def _uncut(n: int, length: int | None) -> Cut:
    """Sequences as they are, for a scan over their steps."""
    steps = length or n
    lanes = n // steps
    chunk = min(max(_CHUNK_ROWS // lanes, 1), steps)
    return Cut(n, lanes, -(-steps // chunk) * chunk, length, chunk, True)


def _lanes_of(n: int) -> int:
    """A power of two: few steps cost least, but a chain must have time to forget."""
    if n < _FEWEST_ROWS:
        return 1
    steps = max(_FEWEST_STEPS, math.sqrt(n))
    return int(2 ** np.clip(np.round(np.log2(n / steps)), 0, np.log2(_MOST_LANES)))


def to_lanes(leaf: Array, plan: Cut, fill: Any = 0) -> Array:
    """An array with the rows first, its rows in the order of the lanes."""
    rest = leaf.shape[1:]
    if plan.length is None:
        more = plan.steps * plan.lanes - plan.n
        widths = [(0, more), *((0, 0) for _ in rest)]
        apart = jnp.pad(leaf, widths, constant_values=fill).reshape(plan.lanes, plan.steps, *rest)
    else:
        apart = leaf.reshape(plan.lanes, plan.length, *rest)
        widths = [(0, 0), (0, plan.steps - plan.length), *((0, 0) for _ in rest)]
        apart = jnp.pad(apart, widths, constant_values=fill)
    return jnp.swapaxes(apart, 0, 1).reshape(-1, *rest)


def from_lanes(leaf: Array, plan: Cut) -> Array:
    """An array with axes (..., steps, lanes) as (..., n), in the order of the block's rows."""
    apart = jnp.swapaxes(leaf, -1, -2)
    if plan.length is not None:
        apart = apart[..., : plan.length]
    return apart.reshape(*leaf.shape[:-2], -1)[..., : plan.n]


def starts(groups: Groups | None, plan: Cut) -> Bool[Array, "steps lanes"]:
    """Where a group starts; padding rows are groups of their own."""
    first = jnp.arange(plan.n) == 0 if groups is None else jnp.asarray(groups.start)
    return to_lanes(first, plan, fill=True).reshape(plan.steps, plan.lanes)


def rows_to_lanes(rows: Rows, plan: Cut) -> Rows:
    """The rows in the order of the lanes, without their groups; padding has weight 0."""

    def move(leaf: Array | None, fill: Any = 0) -> Array | None:
        return None if leaf is None or leaf.shape[0] != plan.n else to_lanes(leaf, plan, fill)

    shared = rows.observed is not None and rows.observed.shape[0] != plan.n
    observed = rows.observed if shared else move(rows.observed, True)
    values, weight = to_lanes(rows.values, plan), to_lanes(rows.weight, plan)
    labels, absent = move(rows.labels, -1), move(rows.absent, -1)
    return Rows(values, weight, observed, labels, absent, None, move(rows.inputs))


def by_chunk(function: Callable[[Rows], Array], rows: Rows, plan: Cut) -> Array:
    """``function(rows)`` (k, rows) as (k, steps, lanes), evaluated chunk by chunk.

    What a component builds from its rows then stays in the processor's cache.
    """
    if plan.chunk == plan.steps:
        return function(rows).reshape(-1, plan.steps, plan.lanes)
    found = jax.lax.map(lambda turn: function(_chunk(rows, plan, turn)), _turns(plan))
    return jnp.swapaxes(found, 0, 1).reshape(-1, plan.steps, plan.lanes)


def rows_by_chunk(
    function: Callable[[Rows, Array], Array], rows: Rows, cells: Array, plan: Cut
) -> Float[Array, "n d"]:
    """``function(rows, cells (k, rows))`` (rows, d) of all chunks, in the order of the block."""

    def one(turn: Array) -> Array:
        part = jax.lax.dynamic_slice_in_dim(cells, turn * plan.chunk, plan.chunk, 1)
        return function(_chunk(rows, plan, turn), part.reshape(len(cells), -1))

    found = jax.lax.map(one, _turns(plan)).reshape(plan.steps, plan.lanes, -1)
    return from_lanes(jnp.moveaxis(found, 2, 0), plan).T


def over_chunks(
    function: Callable[[Rows, Array], PyTree], rows: Rows, cells: Array, plan: Cut
) -> PyTree:
    """The sum of ``function(rows, cells (k, rows))`` over all chunks."""
    if plan.chunk == plan.steps:
        return function(rows, cells.reshape(len(cells), -1))

    def one(turn: Array) -> PyTree:
        part = jax.lax.dynamic_slice_in_dim(cells, turn * plan.chunk, plan.chunk, 1)
        return function(_chunk(rows, plan, turn), part.reshape(len(cells), -1))

    def add(turn: Array, total: PyTree) -> PyTree:
        return jax.tree.map(jnp.add, total, one(turn))

    shape = jax.eval_shape(one, jnp.zeros((), jnp.int32))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
    return jax.lax.fori_loop(0, plan.steps // plan.chunk, add, zero)


def _turns(plan: Cut) -> Array:
    return jnp.arange(plan.steps // plan.chunk)


def _chunk(rows: Rows, plan: Cut, turn: Array) -> Rows:
    size, whole = plan.chunk * plan.lanes, plan.steps * plan.lanes

    def take(leaf: Array) -> Array:
        if leaf.shape[0] != whole:
            return leaf
        return jax.lax.dynamic_slice_in_dim(leaf, turn * size, size)

    return jax.tree.map(take, rows)
