"""Products of all elements up to each one, for an associative product: a parallel scan.

Blocks of 16 elements are multiplied out step by step, all blocks at once; the products of whole
blocks by doubling (Hillis & Steele, 1986, "Data parallel algorithms"); and what comes before each
block is put in front of its elements. That is two to three products an element, in as few dependent
steps as a tree takes, and a program that holds the product four times however long the sequence is:
written out as a tree it would hold it twice for every level.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from minorant._types import Array, PyTree

_STEPS = 16

Combine = Callable[[PyTree, PyTree], PyTree]


def scanned(combine: Combine, elements: PyTree, reverse: bool = False) -> PyTree:
    """``e_0 e_1 .. e_t`` for every t, or ``e_t .. e_n-1`` in reverse.

    Args:
        combine: the product of two stacks of elements, (earlier, later), place by place.
        elements: leaves with a leading axis n.
        reverse: from the end.
    """
    if reverse:
        turned = jax.tree.map(lambda leaf: leaf[::-1], elements)
        found = _scanned(lambda after, own: combine(own, after), turned)
        return jax.tree.map(lambda leaf: leaf[::-1], found)
    return _scanned(combine, elements)


def _scanned(combine: Combine, elements: PyTree) -> PyTree:
    n = len(jax.tree.leaves(elements)[0])
    steps = min(_STEPS, n)
    blocks = -(-n // steps)

    def apart(leaf: Array) -> Array:
        widths = [(0, blocks * steps - n), *((0, 0),) * (leaf.ndim - 1)]
        cut = jnp.pad(leaf, widths, mode="edge").reshape(blocks, steps, *leaf.shape[1:])
        return jnp.swapaxes(cut, 0, 1)

    def together(leaf: Array) -> Array:
        return jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:])[:n]

    inside = _step_by_step(combine, jax.tree.map(apart, elements))
    if blocks == 1:
        return jax.tree.map(together, inside)
    whole = _doubled(combine, jax.tree.map(lambda leaf: leaf[-1], inside), blocks)
    return jax.tree.map(together, _after_blocks(combine, whole, inside))


def _step_by_step(combine: Combine, rows: PyTree) -> PyTree:
    """Products up to each step; leaves (steps, blocks, ...)."""

    def step(so_far: PyTree, row: PyTree) -> tuple[PyTree, PyTree]:
        both = combine(so_far, row)
        return both, both

    first = jax.tree.map(lambda leaf: leaf[0], rows)
    rest = jax.lax.scan(step, first, jax.tree.map(lambda leaf: leaf[1:], rows))[1]
    return jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), first, rest)


def _doubled(combine: Combine, whole: PyTree, blocks: int) -> PyTree:
    """Products of blocks up to each one: those 1, 2, 4, .. places before put in front."""
    place = jnp.arange(blocks)

    def double(turn: Array, found: PyTree) -> PyTree:
        reach = 2**turn
        before = jax.tree.map(lambda leaf: jnp.roll(leaf, reach, axis=0), found)
        inside = place >= reach

        def chosen(new: Array, old: Array) -> Array:
            return jnp.where(inside.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        return jax.tree.map(chosen, combine(before, found), found)

    return jax.lax.fori_loop(0, int(np.ceil(np.log2(blocks))), double, whole)


def _after_blocks(combine: Combine, whole: PyTree, inside: PyTree) -> PyTree:
    """Products inside blocks, with what comes before each block in front."""

    def before(end: Array, leaf: Array) -> Array:
        ends = jnp.broadcast_to(end[:-1], (len(leaf), *end[:-1].shape))
        return ends.reshape(-1, *end.shape[1:])

    later = jax.tree.map(lambda leaf: leaf[:, 1:], inside)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), later)
    found = combine(jax.tree.map(before, whole, later), flat)

    def joined(leaf: Array, new: Array) -> Array:
        new = new.reshape(len(leaf), -1, *leaf.shape[2:])
        return jnp.concatenate([leaf[:, :1], new], axis=1)

    return jax.tree.map(joined, inside, found)
