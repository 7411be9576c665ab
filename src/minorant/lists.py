"""Which components each row may come from: lists chosen from all, then anew from what is near.

First every row is scored under all components once. Later, rows are sorted so that those of the
same components are in one block. A block searches among the components with most weight in it (by
its rows' lists, and by some of its rows scored under all components), and a row's new list is taken
from those and from its old one. Of all pairs of rows and components the most responsible are kept,
as many as are to be had: a row between many components has a longer list than one that lies alone.

Forster & Lücke (2018), "Can clustering scale sublinearly with its clusters? A variational EM
acceleration of GMMs and k-means", search among the neighbours of a row's own components instead.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from minorant._types import Array, Rows
from minorant.data import Segment
from minorant.data.arrays import aligned_zeros
from minorant.data.paired import PairedRows, PairedSource, neighbourly, one_of, paired
from minorant.solvers.truncated_em import pair_scores

_BLOCK_ROWS = 256
_LOOKED_AT = 32  # one row in so many is scored under all components
_EARLY = 3  # times that lists are chosen anew while components still find their places
_WIDE, _NARROW = (512, 24), (128, 12)  # components searched: at least, and times a list's length
_LONGEST = 2  # times the usual length: what a list may have


class Renewed(NamedTuple):
    """Lists, and the rows sorted by them.

    Attributes:
        source: rows and their lists.
        origin: ``(n,)`` where each row was before.
        gain: what the new lists have added to the truncated bound.
    """

    source: PairedSource
    origin: Int[np.ndarray, " n"]
    gain: float = np.inf


class Found(NamedTuple):
    """The best components of every row, the best first, and what its bound would be with all.

    ``chance`` is each one's responsibility among all that were scored.
    """

    names: Int[Array, "n c"]
    chance: Float[Array, "n c"]
    log_total: Float[Array, " n"]


def first_lists(segment: Segment, model: Any, c: int) -> Renewed:
    """The best of all components for every row that weighs something; rows sorted by them.

    Args:
        segment: rows in memory.
        model: the components, in product form.
        c: how long lists are on average.
    """
    most = min(_LONGEST * c, model.n_components)
    found = jax.tree.map(np.asarray, _best_of_all(segment, model, most))
    values, weight = np.asarray(segment.rows.values), np.asarray(segment.rows.weight).ravel()
    used = np.flatnonzero(weight > 0)
    flat = values.reshape(-1, values.shape[-1])[used]
    found = jax.tree.map(lambda leaf: leaf[used], found)
    kept = shared_out(found.chance, weight[used], c)
    source, order = _sorted(flat, weight[used], found, kept, model, c)
    return Renewed(source, used[order])


def new_lists(
    source: PairedSource, models: tuple[Any, Any], c: int, searched: int | None, turn: int
) -> Renewed:
    """Better lists, and rows sorted anew.

    Args:
        source: rows and their lists.
        models: the components, in the form in which pairs are scored and in that of blocks.
        c: how long lists are on average.
        searched: components that each block searches among; None for a rule.
        turn: which time; other rows are looked at each time.
    """
    rows, (model, plain) = source.rows, models
    k = model.n_components
    n = len(rows.weight)
    scores = np.asarray(_own_scores(rows, model))
    m = min(max(searched or _wanted(c, turn), c), k)
    blocks = _in_blocks(rows, rows.pairs.lists(k), scores)
    looked = min(_BLOCK_ROWS // _LOOKED_AT, blocks[1].shape[1])
    stride = blocks[1].shape[1] // looked
    where = (7 * turn) % stride + stride * np.arange(looked)
    found = jax.tree.map(np.asarray, _best_near(blocks, plain, where, m))
    found = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], found)
    values, weight = np.asarray(rows.values), np.asarray(rows.weight)
    kept = shared_out(found.chance, weight, c)
    before = np.logaddexp.reduce(scores.astype(float), axis=1)
    share = np.where(kept, found.chance, 0.0).sum(1, dtype=float)
    after = found.log_total + np.log(np.maximum(share, np.finfo(float).tiny))
    gain = float(weight.astype(float) @ (after - before))
    return Renewed(*_sorted(values, weight, found, kept, model, c), gain)


def _wanted(c: int, turn: int) -> int:
    """Among how many components to search: the first lists of a climb decide where it ends."""
    least, times = _WIDE if turn <= _EARLY else _NARROW
    return max(least, times * c)


def shared_out(
    chance: Float[np.ndarray, "n c"], weight: Float[np.ndarray, " n"], mean: int
) -> Bool[np.ndarray, "n c"]:
    """Which of every row's components are on its list: where they count most over all rows.

    Every row has its first; the others go where responsibilities are largest, so that rows between
    many components have longer lists than rows that lie alone. A row that weighs 3 takes the room
    of three rows.
    """
    worth = chance.copy()
    worth[:, 0] = np.inf
    return worth > _limit(worth, weight, mean)


def _limit(worth: np.ndarray, weight: np.ndarray, mean: int) -> float:
    """Above which responsibility there is room for all."""
    if _are_equal(weight):
        beyond = worth.size - len(weight) * mean - 1
        return 0.0 if beyond < 0 else float(np.partition(worth, beyond, axis=None)[beyond])
    order = np.argsort(-worth, axis=None, kind="stable")
    taken = np.cumsum(weight[order // worth.shape[1]], dtype=float)
    room = mean * weight.sum(dtype=float) * (1 + 1e-12)
    beyond = int(np.searchsorted(taken, room, side="right"))
    return 0.0 if beyond == worth.size else float(worth.ravel()[order[beyond]])


def _are_equal(weight: np.ndarray) -> bool:
    return bool((weight == weight[0]).all())


def listed(  # noqa: PLR0913
    segment: Segment,
    slots: Int[np.ndarray, " n"],
    names: Int[np.ndarray, "n c"],
    kept: Bool[np.ndarray, "n c"],
    k: int,
    mean: int,
) -> PairedSource:
    """Rows in memory, those in these slots, with lists that are known.

    Args:
        segment: rows in memory.
        slots: which of them, in which order.
        names: components of each.
        kept: which of them are on its list.
        k: how many components there are.
        mean: how long lists are on average.
    """
    values, weight = np.asarray(segment.rows.values), np.asarray(segment.rows.weight).ravel()
    flat = values.reshape(-1, values.shape[-1])
    return _source(flat, weight, slots, (names, kept), k, mean)


def _sorted(  # noqa: PLR0913
    values: np.ndarray, weight: np.ndarray, found: Found, kept: np.ndarray, model: Any, c: int
) -> tuple[PairedSource, np.ndarray]:
    """Rows in the order of their best component, and of the second best within it."""
    k, best = model.n_components, np.asarray(found.names)[:, :2]
    place = neighbourly(_centroids(values, best[:, 0], k))
    order = np.argsort(place[best[:, 0]] * k + place[best[:, -1]], kind="stable")
    lists = np.asarray(found.names)[order], kept[order]
    return _source(values, weight, order, lists, k, c), order


def _source(  # noqa: PLR0913
    values: np.ndarray,
    weight: np.ndarray,
    order: np.ndarray,
    lists: tuple[np.ndarray, np.ndarray],
    k: int,
    mean: int,
) -> PairedSource:
    """Some rows in this order, and their pairs."""
    taken = aligned_zeros((len(order), values.shape[1]), values.dtype)
    np.take(values, order, axis=0, out=taken)
    weight = weight[order]
    most = lists[0].size if not _are_equal(weight) else min(len(order) * mean, lists[0].size)
    total = np.asarray(weight.sum(dtype=float), dtype=weight.dtype)
    return PairedSource(PairedRows(taken, weight, pairs=paired(*lists, k, most)), total)


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


def _highest(scores: Float[Array, "n k"], c: int) -> tuple[Array, Array, Array]:
    """The places of the c largest of each row, their share of all, and the log sum of all.

    Float32 tells places apart, and is much faster.
    """
    log_total = jax.nn.logsumexp(scores, axis=1)
    away = (scores - log_total[:, None]).astype(jnp.float32)
    log_chance, places = jax.lax.top_k(away, c)
    return places, jnp.exp(log_chance), log_total


def _all_scores(segment: Segment, model: Any, c: int) -> Found:
    def best(parameters: Any, rows: Rows) -> Found:
        return Found(*_highest(parameters[0].log_joint_all(rows, parameters[1]).T, c))

    return segment.map(best, (model, model.prepare()))


def _scores_of_lists(rows: PairedRows, model: Any) -> Float[Array, "n c"]:
    return rows.pairs.by_row(pair_scores((model, model.prepare()), rows))


def _search(blocks: tuple[Rows, Array, Array], model: Any, where: Array, m: int) -> Found:
    """The best of each row's own list and of the m components with most weight in its block."""
    k, parameters = model.n_components, (model, model.prepare())

    def one(block: tuple[Rows, Array, Array]) -> Found:
        rows, lists, own = block
        near = jax.lax.top_k(_weight_near(parameters, block, where).astype(jnp.float32), m)[1]
        scores = _scored(one_of(parameters, near, k), rows)
        # What is on both lists counts once.
        listed = jnp.zeros(k + 1, bool).at[near].set(True)
        own = jnp.where(listed[lists], -jnp.inf, own)
        every = jnp.concatenate([scores, own], axis=1)
        places, chance, log_total = _highest(every, lists.shape[1])
        beyond = jnp.take_along_axis(lists, jnp.maximum(places - m, 0), axis=1)
        names = jnp.where(places < m, near[jnp.minimum(places, m - 1)], beyond)
        return Found(names, chance, log_total)

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
    held = jnp.zeros(model.n_components, own.dtype).at[lists].add(chance, mode="drop")
    some = Rows(rows.values[where], rows.weight[where])
    q = model.posterior(some, prepared).log_probability
    found = jax.nn.logsumexp(q, axis=1) + jnp.log(len(own) / len(where))
    return jnp.logaddexp(found, jnp.log(held))


_best_of_all = jax.jit(_all_scores, static_argnums=2)
_own_scores = jax.jit(_scores_of_lists)
_best_near = jax.jit(_search, static_argnums=3)
