"""Sums over neighbouring rows of sequences under a q whose rows are independent."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from minorant._types import Array, Rows


def counted(rows: Rows, probability: Float[Array, "k n"]) -> tuple[Array, Array]:
    """First states and pairs of neighbours, rows independent of each other."""
    start, weighted = starts(rows), probability * rows.weight
    before = jnp.roll(probability, 1, axis=1)
    pairs = jnp.einsum("in,jn->ij", jnp.where(start, 0.0, before), weighted)
    return jnp.where(start, weighted, 0.0).sum(1), pairs


def mean_time(rows: Rows, probability: Float[Array, "k n"]) -> Float[Array, " k"]:
    """When each state comes: the mean of 0 at a sequence's first row to 1 at its last."""
    place, start = jnp.arange(len(rows.weight)), starts(rows)
    first = jax.lax.cummax(jnp.where(start, place, 0))
    last = jnp.concatenate([start[1:], jnp.ones(1, bool)])
    end = jax.lax.cummin(jnp.where(last, place, len(place)), reverse=True)
    time = (place - first) / jnp.maximum(end - first, 1)
    weighted = probability * rows.weight
    return (weighted * time).sum(1) / jnp.maximum(weighted.sum(1), 1e-30)


def starts(rows: Rows) -> Bool[Array, " n"]:
    """Where a sequence starts; rows without groups are one."""
    if rows.groups is None:
        return jnp.arange(len(rows.weight)) == 0
    return jnp.asarray(rows.groups.start)
