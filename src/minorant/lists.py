"""Which components each row may come from: lists chosen from all, then anew from what is near.

The first lists are exact: every row is scored under all components once. Later, rows are sorted so
that those of the same components are in one block. A block searches among the components with most
weight in it (by its rows' lists, and by some of its rows scored under all components), and each
row's new list is the best of those and of its old one: no row's sum falls.

Forster & Lücke (2018), "Can clustering scale sublinearly with its clusters? A variational EM
acceleration of GMMs and k-means", search among the neighbours of a row's own components instead.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._types import Array, Rows
from minorant.data import Segment
from minorant.data.arrays import aligned_zeros
from minorant.data.paired import PairedRows, PairedSource, neighbourly, one_of, paired
from minorant.solvers.truncated_em import pair_scores

_BLOCK_ROWS = 512
_LOOKED_AT = 32  # one row in so many is scored under all components
_SEARCHED_LEAST, _SEARCHED = 128, 12  # components, and times the length of a list


def first_lists(segment: Segment, model: Any, c: int) -> tuple[PairedSource, Int[np.ndarray, " n"]]:
    """The best ``c`` of all components for every row that weighs something; rows sorted by them.

    Returns:
        The source, and the slot of the table in memory that each of its rows came from.
    """
    best = np.asarray(_best_of_all(segment, model, c)).reshape(-1, c)
    rows = segment.rows
    values, weight = np.asarray(rows.values), np.asarray(rows.weight).ravel()
    used = np.flatnonzero(weight > 0)
    flat = values.reshape(-1, values.shape[-1])
    source, order = _sorted(flat[used], weight[used], best[used], best[used][:, :2], model)
    return source, used[order]


def new_lists(
    source: PairedSource, model: Any, form: Any, searched: int | None, turn: int
) -> tuple[PairedSource, Int[np.ndarray, " n"]]:
    """Lists that are no worse for any row, and rows sorted anew.

    Args:
        source: rows and their lists.
        model: the components, in the form in which pairs are scored.
        form: the structure of the same in product form, in which blocks are scored.
        searched: components that each block searches among; None for a rule.
        turn: which time; other rows are looked at each time.

    Returns:
        The source, and which of the old one's rows each of its rows is.
    """
    rows, lists = source.rows, lists_of(source.rows.pairs)
    scores = np.asarray(_own_scores(rows, model))
    n, c = lists.shape
    k = model.n_components
    m = min(searched or max(_SEARCHED * c, _SEARCHED_LEAST), k)
    blocks = _in_blocks(rows, lists, scores)
    plain = jax.tree.unflatten(form, jax.tree.leaves(model))
    looked = min(_BLOCK_ROWS // _LOOKED_AT, blocks[1].shape[1])
    stride = blocks[1].shape[1] // looked
    where = (7 * turn) % stride + stride * np.arange(looked)
    best = np.asarray(_best_near(blocks, plain, where, max(m, c))).reshape(-1, c)[:n]
    values, weight = np.asarray(rows.values), np.asarray(rows.weight)
    return _sorted(values, weight, best, best[:, :2], model)


def lists_of(pairs: Any) -> Int[np.ndarray, "n c"]:
    """The components of every row."""
    return np.asarray(pairs.owner)[np.asarray(pairs.place) // pairs.row.shape[1]]


def _sorted(
    values: np.ndarray, weight: np.ndarray, lists: np.ndarray, best: np.ndarray, model: Any
) -> tuple[PairedSource, np.ndarray]:
    """Rows in the order of their best component, and of the second best within it."""
    k = model.n_components
    place = neighbourly(_centroids(values, best[:, 0], k))
    order = np.argsort(place[best[:, 0]] * k + place[best[:, -1]], kind="stable")
    taken = aligned_zeros(values.shape, values.dtype)
    np.take(values, order, axis=0, out=taken)
    weight = weight[order]
    rows = PairedRows(taken, weight, pairs=paired(lists[order], k))
    return PairedSource(rows, weight.sum(dtype=float).astype(weight.dtype)), order


def _centroids(values: np.ndarray, home: np.ndarray, k: int) -> Float[np.ndarray, "k d"]:
    """The mean of the rows of every component."""
    count = np.maximum(np.bincount(home, minlength=k), 1)
    return np.stack([np.bincount(home, column, k) for column in values.T], 1) / count[:, None]


def _in_blocks(rows: Any, lists: np.ndarray, scores: np.ndarray) -> tuple[Rows, Array, Array]:
    """Rows, lists and scores in blocks; padding repeats the last row and weighs nothing."""
    n = len(lists)
    size = min(_BLOCK_ROWS, n)
    index = np.minimum(np.arange(-(-n // size) * size), n - 1)
    weight = np.where(np.arange(len(index)) < n, np.asarray(rows.weight)[index], 0.0)
    values = np.asarray(rows.values)[index].reshape(-1, size, rows.values.shape[1])
    block = Rows(values, weight.astype(values.dtype).reshape(-1, size))
    shape = (-1, size, lists.shape[1])
    return block, lists[index].reshape(shape), scores[index].reshape(shape)


def _highest(scores: Float[Array, "n k"], c: int) -> Int[Array, "n c"]:
    """The places of the c largest of each row; float32 tells them apart, and is much faster."""
    away = scores - scores.max(1, keepdims=True)
    return jax.lax.top_k(away.astype(jnp.float32), c)[1]


def _all_scores(segment: Segment, model: Any, c: int) -> Int[Array, "slots c"]:
    def best(parameters: Any, rows: Rows) -> Array:
        return _highest(parameters[0].log_joint_all(rows, parameters[1]).T, c)

    return segment.map(best, (model, model.prepare()))


def _scores_of_lists(rows: PairedRows, model: Any) -> Float[Array, "n c"]:
    return pair_scores((model, model.prepare()), rows).ravel()[rows.pairs.place]


def _search(
    blocks: tuple[Rows, Array, Array], model: Any, where: Array, m: int
) -> Int[Array, "blocks n c"]:
    """The best of each row's own list and of the m components with most weight in its block."""
    k, parameters = model.n_components, (model, model.prepare())

    def one(block: tuple[Rows, Array, Array]) -> Array:
        rows, lists, own = block
        near = jax.lax.top_k(_weight_near(parameters, block, where).astype(jnp.float32), m)[1]
        scores = _scored(one_of(parameters, near, k), rows)
        # What is on both lists counts once.
        listed = jnp.zeros(k, bool).at[near].set(True)
        own = jnp.where(listed[lists], -jnp.inf, own)
        names = jnp.concatenate([jnp.broadcast_to(near, (len(own), m)), lists], axis=1)
        best = _highest(jnp.concatenate([scores, own], axis=1), lists.shape[1])
        return jnp.take_along_axis(names, best, axis=1)

    return jax.lax.map(one, blocks)


def _scored(parameters: Any, rows: Rows) -> Float[Array, "n m"]:
    return parameters[0].log_joint_all(rows, parameters[1]).T


def _weight_near(
    parameters: Any, block: tuple[Rows, Array, Array], where: Array
) -> Float[Array, " k"]:
    """Each component's weight in a block: by all rows' lists, and by some rows under all.

    The first leaves no row without the component that it needs most; the second finds what no row
    lists yet. Components that both give nothing are told apart by logarithms.
    """
    rows, lists, own = block
    model, prepared = parameters
    chance = jax.nn.softmax(own, axis=1)
    held = jnp.zeros(model.n_components, own.dtype).at[lists].add(chance)
    some = Rows(rows.values[where], rows.weight[where])
    q = model.posterior(some, prepared).log_probability
    found = jax.nn.logsumexp(q, axis=1) + jnp.log(len(own) / len(where))
    return jnp.logaddexp(found, jnp.log(held))


_best_of_all = jax.jit(_all_scores, static_argnums=2)
_own_scores = jax.jit(_scores_of_lists)
_best_near = jax.jit(_search, static_argnums=3)
