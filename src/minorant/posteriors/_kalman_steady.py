r"""The smoother of long sequences, whose gains settle to constants.

Over complete rows the backward information and then the posterior covariance converge; from there
both passes are linear recursions of vectors with one matrix B. Rows are cut into chunks. In a chunk
of complete rows that begins no group, entered at the limit, no matrix is computed: the recursions
of all such chunks advance side by side from zero, and what enters a chunk is added by powers of B.
Every other chunk is run in full, so near a group's ends, and where a missing cell breaks the limit
until it is reached again. The answer is that of the full recursion to rounding.

Memory: besides vectors per row, what enters each chunk; a chunk run in full repeats its backward
pass in the forward one instead of storing it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from minorant._types import Array
from minorant.posteriors._kalman_filter import Chain, Observed, Roots, nowhere
from minorant.posteriors._kalman_lanes import cut, fits, one_of, parts_of, smoothed_in_lanes
from minorant.posteriors.kalman import (
    Collect,
    Covariances,
    Smoothed,
    Sums,
    added,
    backward,
    close_information,
    forward,
    information_step,
    near,
    no_sums,
    nothing,
)

CHUNK = 64
_SETTLED, _AT_LIMIT = 64, 512  # multiples of the float type's epsilon
_DOUBLINGS = 40
_MOSTLY = 0.5  # of the chunks; above, lanes take less time


class Limit(NamedTuple):
    """Where the recursions converge over complete rows.

    ``information`` is what a row says to the row before it (a root of it in low precision);
    ``kept`` are the covariances of a row; ``exists`` says whether the limit was reached. Vectors
    step by ``vector' = gathered @ (vector, y, o)`` and push by ``pushed @ (vector, y, o)``.
    """

    information: Float[Array, "l l"]
    gathered: Float[Array, "l v"]
    pushed: Float[Array, "l v"]
    pull: Float[Array, "l l"]
    half_log_det: Float[Array, ""]
    kept: Covariances
    backward_powers: Float[Array, "c1 l l"]
    forward_powers: Float[Array, "c1 l l"]
    exists: Bool[Array, ""]


def smoothed_long(
    chain: Chain, observed: Observed, collect: Collect = nothing, record: bool = False
) -> Smoothed:
    """As :func:`minorant.posteriors.kalman.smoothed`, for sequences of many rows.

    Where most chunks miss a cell the gains never settle: then in lanes (:mod:`._kalman_lanes`).
    """
    lanes_fit = fits(len(observed.start), len(chain.mean)) and chain.noise.dtype == jnp.float64
    if observed.complete is None or not lanes_fit:
        return smoothed_steady(chain, observed, collect, record)
    whole = cut(observed, CHUNK).complete
    broken = jnp.mean(~jnp.asarray(whole).all(1)) > _MOSTLY
    found, sound = smoothed_in_lanes(chain, observed, broken, collect, record)
    return jax.lax.cond(
        sound, lambda: found, lambda: smoothed_steady(chain, observed, collect, record)
    )


def smoothed_steady(
    chain: Chain, observed: Observed, collect: Collect = nothing, record: bool = False
) -> Smoothed:
    """As :func:`minorant.posteriors.kalman.smoothed`, fast where the gains settle."""
    roots, n = Roots.of(chain), len(observed.start)
    chunks = cut(observed, CHUNK)
    limit = _limit(roots, observed.factor(None), len(chunks.start))
    clean = ~chunks.start.any(1) & limit.exists
    if chunks.complete is not None:
        clean = clean & chunks.complete.all(1)
    entering, settled = _backward_chunks(roots, chunks, clean, limit)
    push, own = _side_by_side(roots, chunks, limit, entering[1])
    means, terms, sums, rows = _forward_chunks(
        roots, chunks, (settled, entering, push, own), limit, (collect, record)
    )
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], (means, terms, rows))
    return Smoothed(flat[0], flat[1], None if record else sums, flat[2] if record else None)


def _limit(roots: Roots, factor: Array, n_chunks: int) -> Limit:
    """The limits, sought for as long as the rows last."""
    step, inside = information_step(roots), jnp.asarray(False)
    eps, l, c = jnp.finfo(factor.dtype).eps, len(roots.noise), len(factor)
    zero = jnp.zeros((l, 1), factor.dtype)
    nothing_said = (zero, jnp.zeros((c, 1), factor.dtype), zero)

    def advance(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        def once(matrix: Array, _: None) -> tuple[Array, None]:
            return step(matrix, factor, inside, nothing_said)[0], None

        moved = jax.lax.scan(once, state[0], None, length=CHUNK)[0]
        return moved, state[1] + 1, close_information(roots, moved, state[0], _SETTLED * eps)

    def going(state: tuple[Array, Array, Array]) -> Array:
        return ~state[2] & (state[1] < n_chunks)

    begin = (jnp.zeros_like(roots.noise), jnp.asarray(0), jnp.asarray(False))
    information, _, found = jax.lax.while_loop(going, advance, begin)
    each = jnp.eye(2 * l + c, dtype=factor.dtype)
    parts = (each[:l], each[l : l + c], each[l + c :])
    _, gathered, gains = step(information, factor, inside, parts)
    change = -roots.noise @ gains.pull
    B = roots.chain.transition + change
    covariance, converged = _stationary(B, gains.root @ gains.root.T)
    return Limit(
        information,
        gathered,
        gains.push,
        gains.pull,
        gains.half_log_det,
        Covariances(covariance, B, change, gains.root),
        _powers(gathered[:, :l]),
        _powers(B),
        found & converged,
    )


def _stationary(transition: Array, noise: Array) -> tuple[Array, Array]:
    """``V = B V B' + S`` by doubling, and whether it was reached.

    Anderson & Moore (1979), "Optimal filtering", section 6.7.
    """
    eps = jnp.finfo(noise.dtype).eps

    def double(state: tuple[Array, ...]) -> tuple[Array, ...]:
        power, total, turn, _ = state
        more = power @ total @ power.T
        done = jnp.abs(more).max() <= eps * jnp.abs(total).max()
        return power @ power, total + more, turn + 1, done

    def going(state: tuple[Array, ...]) -> Array:
        return ~state[3] & (state[2] < _DOUBLINGS)

    begin = (transition, noise, jnp.asarray(0), jnp.asarray(False))
    _, total, _, done = jax.lax.while_loop(going, double, begin)
    return total, done & jnp.isfinite(total).all()


def _powers(matrix: Array) -> Float[Array, "c1 l l"]:
    """The powers 0 to ``CHUNK``."""
    eye = jnp.eye(len(matrix), dtype=matrix.dtype)
    rest = jax.lax.scan(lambda p, _: (p @ matrix, p @ matrix), eye, None, length=CHUNK)[1]
    return jnp.concatenate([eye[None], rest])


def _backward_chunks(
    roots: Roots, chunks: Observed, clean: Array, limit: Limit
) -> tuple[tuple[Array, Array], Array]:
    """What enters each chunk from its future, and which chunks are at the limit."""
    eps = jnp.finfo(chunks.value.dtype).eps
    response = _last_first(chunks, limit)[1]

    def turn(carry: tuple[Array, Array], row: Any) -> tuple[tuple[Array, Array], Any]:
        parts, is_clean, gained = row
        near = is_clean & close_information(roots, carry[0], limit.information, _AT_LIMIT * eps)

        def skip() -> tuple[Array, Array]:
            return limit.information, gained + limit.backward_powers[-1] @ carry[1]

        def full() -> tuple[Array, Array]:
            return backward(roots, one_of(chunks, parts), carry)[0]

        return jax.lax.cond(near, skip, full), (carry, near)

    vector, matrix = nowhere(roots.chain)
    rows = (parts_of(chunks), clean, response)
    _, (entering, near) = jax.lax.scan(turn, (matrix, vector), rows, reverse=True)
    return entering, near


def _last_first(chunks: Observed, limit: Limit) -> tuple[Array, Array]:
    """The vector said to every row, and by each chunk, the future saying nothing: all abreast."""
    l = len(limit.gathered)
    told = _told(chunks, limit.gathered)

    def step(carry: Array, row: Array) -> tuple[Array, Array]:
        return carry @ limit.gathered[:, :l].T + row, carry

    begin = jnp.zeros_like(told[:, 0])
    out, rows = jax.lax.scan(step, begin, jnp.swapaxes(told, 0, 1), reverse=True)
    return rows, out


def _told(chunks: Observed, linear: Array) -> Array:
    """What y and the offsets add, by the columns of a linear map that belong to them."""
    l = len(linear)
    return chunks.value @ linear[:, l:-l].T + chunks.offset @ linear[:, -l:].T


def _side_by_side(
    roots: Roots, chunks: Observed, limit: Limit, entering: Array
) -> tuple[Array, Array]:
    """At the limit: every row's push, and means with nothing entering from the past."""
    l, rows = len(limit.gathered), _last_first(chunks, limit)[0]
    powers = jnp.swapaxes(limit.backward_powers[CHUNK - 1 :: -1], 1, 2)
    vectors = jnp.swapaxes(rows, 0, 1) + jnp.einsum("kl,clm->kcm", entering, powers)
    push = vectors @ limit.pushed[:, :l].T + _told(chunks, limit.pushed)
    moved = chunks.offset + push @ roots.noise.T

    def step(carry: Array, row: Array) -> tuple[Array, Array]:
        carry = carry @ limit.kept.transition.T + row
        return carry, carry

    begin = jnp.zeros_like(moved[:, 0])
    own = jax.lax.scan(step, begin, jnp.swapaxes(moved, 0, 1))[1]
    return push, jnp.swapaxes(own, 0, 1)


def _forward_chunks(
    roots: Roots,
    chunks: Observed,
    found: tuple[Array, tuple[Array, Array], Array, Array],
    limit: Limit,
    wanted: tuple[Collect, bool],
) -> tuple[Array, Array, Sums, Any]:
    """Means, terms of the evidence, sums of covariances, and covariances where recorded."""
    settled, entering, push, own = found
    collect, record = wanted
    eps = jnp.finfo(own.dtype).eps

    def turn(carry: tuple[Any, Sums], row: Any) -> tuple[Any, Any]:
        (mean, spread), total = carry
        parts, at_limit, future, alone = row
        settled_here = at_limit & near(spread, limit.kept.covariance, _AT_LIMIT * eps)
        part = one_of(chunks, parts)

        def skip() -> Any:
            end = alone[-1] + limit.forward_powers[-1] @ mean
            more = total._replace(mass=total.mass + part.weight.sum())
            kept = _repeated(limit) if record else None
            return ((end, limit.kept.covariance), more), (rest, rest[:, 0], kept)

        def full() -> Any:
            gains = backward(roots, part, future)[1]
            end, (rows, kept, terms) = forward(roots, part, gains, (mean, spread))
            if record:
                return (end, total), (rows, terms, kept)
            before = jnp.concatenate([spread[None], kept.covariance[:-1]])
            more = added(part, kept, before, collect)
            return (end, jax.tree.map(jnp.add, total, more)), (rows, terms, None)

        after, per_row = jax.lax.cond(settled_here, skip, full)
        return after, (settled_here, mean, *per_row)

    rest = jnp.zeros_like(own[0])
    rows = (parts_of(chunks), settled, entering, own)
    begin = (nowhere(roots.chain), no_sums(roots, chunks.pattern, collect, CHUNK))
    (_, sums), (skipped, entered, means, terms, kept) = jax.lax.scan(turn, begin, rows)
    powers = jnp.swapaxes(limit.forward_powers, 1, 2)
    before = jnp.einsum("kl,clm->kcm", entered, powers[:-1])
    before = before.at[:, 1:].add(own[:, :-1])
    at_limit = own + jnp.einsum("kl,clm->kcm", entered, powers[1:])
    noise = push - before @ limit.pull.T
    means = jnp.where(skipped[:, None, None], at_limit, means)
    terms = jnp.where(skipped[:, None], -limit.half_log_det - 0.5 * (noise * noise).sum(-1), terms)
    return means, terms, _with_skipped(sums, limit), kept


def _repeated(limit: Limit) -> Covariances:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (CHUNK, *leaf.shape)), limit.kept)


def _with_skipped(sums: Sums, limit: Limit) -> Sums:
    """The sums with the chunks at the limit put in."""
    covariance, _, change, root = limit.kept
    cross = change @ covariance
    moved = cross @ change.T + root @ root.T
    return sums._replace(
        all=sums.all + sums.mass * covariance,
        before=sums.before + sums.mass * covariance,
        cross=sums.cross + sums.mass * cross,
        moved=sums.moved + sums.mass * moved,
        settled=covariance,
    )
