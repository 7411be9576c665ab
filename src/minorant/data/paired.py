"""Rows in memory paired with the few components that each may come from, component by component.

Every row has a list of components, longer where it may come from many. The pairs are kept in blocks
of one component each: a block gathers its rows' values, so that scores and sums over a block are
matrix products under one component's parameters, and only numbers of pairs (never parameters of
components) are scattered.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from minorant._types import Array, PyTree, Rows
from minorant.data.arrays import bucket
from minorant.data.base import AbstractSource, BlockFunction

_BLOCKS_PER_COMPONENT = 6
_FEWEST_PAIRS, _MOST_PAIRS = 128, 2048


class Pairs(eqx.Module):
    """Which rows and components belong together.

    Attributes:
        row: ``(blocks, m)`` the row of every pair.
        owner: ``(blocks,)`` the component of every block.
        filled: ``(blocks,)`` how many pairs a block holds; the rest is padding.
        n_blocks: how many blocks are in use.
        place: ``(n, c)`` where, among all pairs, those of each row are; past the end where its list
            is shorter than the longest.
    """

    row: Int[Array, "blocks m"]
    owner: Int[Array, " blocks"]
    filled: Int[Array, " blocks"]
    n_blocks: Int[Array, ""]
    place: Int[Array, "n c"]

    def by_row(self, scores: Float[Array, "blocks m"]) -> Float[Array, "n c"]:
        """What pairs have, row by row; -inf where a list has ended."""
        return jnp.ravel(scores).at[self.place].get(mode="fill", fill_value=-jnp.inf)

    def lists(self, k: int) -> Int[np.ndarray, "n c"]:
        """The components of every row; ``k`` where a list has ended."""
        owner = np.append(np.asarray(self.owner), np.asarray(k, self.owner.dtype))
        return owner[np.asarray(self.place) // self.row.shape[1]]


class PairedRows(Rows):
    """Complete rows in one block, and their pairs with components."""

    pairs: Pairs = eqx.field(kw_only=True)


class PairedSource(AbstractSource):
    """All rows as one block of :class:`PairedRows`."""

    rows: PairedRows
    total_weight: Float[Array, ""]

    def n_rows(self) -> Float[Array, ""]:
        """The sum of the weights."""
        return self.total_weight

    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        n, d = self.rows.values.shape
        return n, d

    def fold(self, function: BlockFunction, parameters: PyTree) -> PyTree:
        """What the function finds in the one block."""
        return function(parameters, self.rows)


def paired(
    names: Int[np.ndarray, "n c"], kept: Bool[np.ndarray, "n c"], k: int, most: int
) -> Pairs:
    """The pairs of lists of components, none twice in a list; shapes depend on sizes alone.

    Args:
        names: components of every row.
        kept: which of them are on its list.
        k: how many components there are.
        most: no fewer pairs than there are.
    """
    size = _block_size(most, k)
    flat = names[kept].astype(np.uint16 if k <= 1 << 16 else np.int32)
    order = np.argsort(flat, kind="stable")
    count = np.bincount(flat, minlength=k)
    blocks = -(-count // size)
    first = np.cumsum(blocks) - blocks
    shift = first * size - (np.cumsum(count) - count)
    target = np.arange(flat.size) + np.repeat(shift, count)
    capacity = bucket(most // size + k)
    row = np.zeros(capacity * size, dtype=np.int32)
    row[target] = np.repeat(np.arange(len(names), dtype=np.int32), kept.sum(1))[order]
    own = np.empty(flat.size, dtype=np.int32)
    own[order] = target
    place = np.full(names.shape, row.size, dtype=np.int32)
    place[kept] = own
    owner, filled = np.zeros((2, capacity), dtype=np.int32)
    used = int(blocks.sum())
    owner[:used] = np.repeat(np.arange(k), blocks)
    within = np.arange(used) - first[owner[:used]]
    filled[:used] = np.minimum(count[owner[:used]] - within * size, size)
    return Pairs(row.reshape(capacity, size), owner, filled, np.asarray(used, np.int32), place)


def _block_size(n_pairs: int, k: int) -> int:
    """Pairs per block: several blocks for a usual component, so that little is padding."""
    wanted = max(n_pairs / (k * _BLOCKS_PER_COMPONENT), 1.0)
    return int(np.clip(2 ** np.round(np.log2(wanted)), _FEWEST_PAIRS, _MOST_PAIRS))


def one_of(parameters: PyTree, index: Array, k: int) -> PyTree:
    """Parameters of some components: leaves whose first axis has length k, at ``index``."""

    def take(leaf: Array) -> Array:
        stacked = jnp.ndim(leaf) > 0 and jnp.shape(leaf)[0] == k
        return jnp.asarray(leaf)[index] if stacked else leaf

    return jax.tree.map(take, parameters)


def neighbourly(points: Float[np.ndarray, "k e"]) -> Int[np.ndarray, " k"]:
    """The place of every point in an order in which neighbours are near each other.

    Halves along the direction of largest variance, halved again.
    """
    place = np.empty(len(points), dtype=np.int64)
    place[_halved(points, np.arange(len(points)))] = np.arange(len(points))
    return place


def _halved(points: np.ndarray, index: np.ndarray) -> np.ndarray:
    if len(index) <= 2:
        return index
    away = points[index] - points[index].mean(0)
    axis = np.linalg.eigh(away.T @ away)[1][:, -1]
    index = index[np.argsort(away @ axis, kind="stable")]
    middle = len(index) // 2
    return np.concatenate([_halved(points, index[:middle]), _halved(points, index[middle:])])
