"""Answers as arrays: which there are, indicators of categories, and curves that they multiply."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._parameters import given
from minorant._types import Array, Rows
from minorant.models.items import AbstractItems


class Table(NamedTuple):
    """One stack's log curves at the nodes: of category 0, and of the others relative to it."""

    first: Float[Array, "d s"]
    beyond: Float[Array, "c s"]


def table(item: AbstractItems, nodes: Array) -> Table:
    """A stack's curves at the nodes."""
    logs = item.log_probability(nodes)
    beyond = logs[..., 1:] - logs[..., :1]
    return Table(logs[..., 0].T, beyond.reshape(len(nodes), -1).T)


def answers(rows: Rows, columns: tuple[int, ...]) -> tuple[Array, Array | None]:
    """Codes (n, d) of some columns, 0 where missing, and which are there."""
    if columns == tuple(range(rows.values.shape[1])):
        return rows.values, rows.observed
    index = np.array(columns)
    return rows.values[:, index], None if rows.observed is None else rows.observed[:, index]


def categories(item: Any) -> int:
    """How many answers the items of a stack have."""
    return given(item.intercepts).shape[1] + 1


def beyond(codes: Float[Array, "n d"], m: int) -> Float[Array, "n c"]:
    """1 at each answer's category, categories 1 .. m - 1 of every item; a missing code is 0."""
    if m == 2:
        return codes
    chosen = codes[..., None] == jnp.arange(1, m, dtype=codes.dtype)
    return chosen.astype(codes.dtype).reshape(len(codes), -1)


def cut(leaf: Array, n: int, parts: int, size: int) -> Array:
    """A leaf of n rows in parts, padded with zeros; weights of 0 make padding count for nothing."""
    padding = [(0, parts * size - n)] + [(0, 0)] * (leaf.ndim - 1)
    return jnp.pad(leaf, padding).reshape(parts, size, *leaf.shape[1:])
