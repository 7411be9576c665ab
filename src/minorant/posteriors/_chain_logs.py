"""A Markov chain of states with logarithms: never underflows, may be differentiated, slower.

Three uses: derivatives of the evidence; the blocks where products of probabilities underflow; and
paths of states, the most probable one (Viterbi, 1967) and draws from the posterior (backward
sampling; Chib, 1996, "Calculating posterior distributions and modal estimates in Markov mixture
models").

Sequences are cut into lanes (:mod:`._lanes`); how each lane begins comes from the lanes' operators,
multiplied out in the semiring of the question: (log-sum-exp, +) or (max, +).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from minorant._types import Array, Key
from minorant.posteriors._moves import Moves, designs, logs_at

Combine = Callable[[Array, int], Array]
Row = tuple[Any, ...]  # scores, starts, design (or None); of one step or of all


class LogChain(NamedTuple):
    """Log probabilities, -inf where impossible; or :class:`Moves`, their design in lanes."""

    initial: Float[Array, " k"]
    transition: Float[Array, "k k"] | Moves


class Scores(NamedTuple):
    """``log p(x_t | k)`` in lanes, and where groups start."""

    scores: Float[Array, "k steps lanes"]
    start: Bool[Array, "steps lanes"]


def log_sum(values: Array, axis: int) -> Array:
    """``log sum exp``; -inf of nothing but -inf, with derivative 0 there."""
    top = jax.lax.stop_gradient(jnp.max(values, axis=axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.sum(jnp.exp(values - top), axis=axis)
    logs = jnp.log(jnp.where(total > 0, total, 1.0)) + jnp.squeeze(top, axis)
    return jnp.where(total > 0, logs, -jnp.inf)


def log_filter(
    chain: LogChain, seen: Scores, joined: bool
) -> tuple[Float[Array, "k steps lanes"], Float[Array, "steps lanes"]]:
    """``log p(z_t | x_1 .. x_t)`` and ``log p(x_t | x_1 .. x_t-1)``.

    At a row that no reachable state allows the second is -inf, and the first what was predicted.
    """
    operators = _operators(chain, seen, log_sum) if joined else None
    return _filtered(chain, seen, operators)


def _filtered(chain: LogChain, seen: Scores, operators: Array | None) -> tuple[Array, Array]:
    first = normalised(_states_between(seen, operators, log_sum))

    def body(state: Array, row: Row) -> tuple[Array, tuple[Array, Array]]:
        state, scale = _filter_step(chain, row, state)
        return state, (state, scale)

    _, (filtered, scale) = jax.lax.scan(body, first, _by_step(chain, seen))
    return jnp.moveaxis(filtered, 0, 1), scale


def _filter_step(chain: LogChain, row: Row, state: Array) -> tuple[Array, Array]:
    scores, start, design = row
    predicted = _entered(chain, start, _moved(logs_at(chain.transition, design), state, log_sum))
    joint = predicted + scores
    scale = log_sum(joint, 0)
    possible = jnp.isfinite(scale)
    return jnp.where(possible, joint - jnp.where(possible, scale, 0.0), predicted), scale


class LogSmoothed(NamedTuple):
    """See :class:`minorant.posteriors._chain_products.Smoothed`."""

    log_filtered: Float[Array, "k steps lanes"]
    log_probability: Float[Array, "k steps lanes"]
    log_scale: Float[Array, "steps lanes"]
    first: Float[Array, " k"]
    pairs: Float[Array, "k k"]


def log_smooth(
    chain: LogChain, seen: Scores, weight: Float[Array, "steps lanes"], joined: bool
) -> LogSmoothed:
    """Filter and smooth with logarithms."""
    operators = _operators(chain, seen, log_sum) if joined else None
    filtered, log_scale = _filtered(chain, seen, operators)
    last = _messages_between(seen, operators)

    def body(message: Array, row: Row) -> tuple[Array, tuple[Array, Array, Array]]:
        (scores, start, design), weight, state, previous = row
        log_probability = normalised(state + message)
        ahead = finite_rows(scores) + message
        moves = logs_at(chain.transition, design)
        pair = previous[:, None] + moves + ahead
        pair = jnp.exp(normalised(pair.reshape(-1, len(start)))).reshape(pair.shape)
        pairs = (jnp.where(start, 0.0, weight) * pair).sum(2)
        first = (jnp.where(start, weight, 0.0) * jnp.exp(log_probability)).sum(1)
        message = jnp.where(start, 0.0, _scaled(_pulled(moves, ahead)))
        return message, (log_probability, first, pairs)

    by_step = (jnp.moveaxis(filtered, 1, 0), jnp.moveaxis(before(filtered), 1, 0))
    rows = (_by_step(chain, seen), weight, *by_step)
    _, (log_probability, first, pairs) = jax.lax.scan(body, last, rows, reverse=True)
    log_probability = jnp.moveaxis(log_probability, 0, 1)
    return LogSmoothed(filtered, log_probability, log_scale, first.sum(0), pairs.sum(0))


def most_probable(chain: LogChain, seen: Scores, joined: bool) -> Int[Array, "steps lanes"]:
    """The most probable path of each group, given all of its rows; ties to the lowest state."""
    operators = _operators(chain, seen, jnp.max) if joined else None
    first = _states_between(seen, operators, jnp.max)

    def body(state: Array, row: Row) -> tuple[Array, Array]:
        scores, start, design = row
        ways = state[:, None] + logs_at(chain.transition, design)
        ways = jnp.where(start, state[:, None], ways)
        entered = _entered(chain, start, jnp.max(ways, axis=0)) + finite_rows(scores)
        return _scaled(entered), jnp.argmax(ways, axis=0).astype(_index(len(state)))

    last, pointers = jax.lax.scan(body, first, _by_step(chain, seen))
    return _traced(pointers, jnp.argmax(last, axis=0), joined)


def drawn(
    key: Key, chain: LogChain, filtered: Float[Array, "k steps lanes"], seen: Scores, joined: bool
) -> Int[Array, "steps lanes"]:
    """One draw of the path of each group from its posterior.

    ``p(z_t | z_t+1, x) ~ p(z_t | x_1 .. x_t) A``: for each row and each state of the next a state
    is drawn, one uniform number serving all of them; the path then follows from its end.
    """
    k, steps, lanes = filtered.shape
    key, last_key = jax.random.split(key)
    uniform = jax.random.uniform(key, (steps, lanes), filtered.dtype)

    def body(row: tuple[Array, Array, Array, Array | None]) -> Array:
        previous, start, uniform, design = row
        ways = jnp.where(start, 0.0, logs_at(chain.transition, design)) + previous[:, None]
        reached = jnp.cumsum(jnp.exp(ways - log_sum(ways, 0)), axis=0)
        below = (reached < uniform * reached[-1]).sum(0)
        return jnp.minimum(below, k - 1).astype(_index(k))

    previous = jnp.moveaxis(before(filtered), 1, 0)
    rows = (previous, seen.start, uniform, designs(chain.transition))
    pointers = jax.lax.map(body, rows)
    return _traced(pointers, jax.random.categorical(last_key, filtered[:, -1], axis=0), joined)


def _traced(
    pointers: Int[Array, "steps k lanes"], end: Int[Array, " lanes"], joined: bool
) -> Int[Array, "steps lanes"]:
    """The path that follows the pointers from the lanes' ends, or where joined from the last one.

    Each lane is walked back from all of its possible ends at once; the lanes are then joined.
    """
    _, k, lanes = pointers.shape
    pointers, last = pointers.astype(jnp.int32), end.astype(jnp.int32)
    if joined:
        ends = jnp.broadcast_to(jnp.arange(k, dtype=jnp.int32)[:, None], (k, lanes))
        follow = jax.lax.scan(lambda at, row: (_take(row, at), None), ends, pointers, reverse=True)
        whole = follow[0].T

        def before(state: Array, lane: Array) -> tuple[Array, Array]:
            return lane[state], state

        last = jax.lax.scan(before, last[-1], whole, reverse=True)[1]
    return jax.lax.scan(lambda at, row: (_take(row, at), at), last, pointers, reverse=True)[1]


def _take(pointers: Array, at: Array) -> Array:
    """The entries of ``(k, lanes)`` at one or more states of each lane."""
    if at.ndim == 1:
        return jnp.take_along_axis(pointers, at[None], axis=0)[0]
    return jnp.take_along_axis(pointers, at, axis=0)


def _index(k: int) -> type:
    return jnp.uint8 if k <= 256 else jnp.int32


def before(filtered: Float[Array, "k steps lanes"]) -> Float[Array, "k steps lanes"]:
    """The filtered state of the row before each row; of no meaning before the first."""
    first = jnp.roll(filtered[:, -1:], 1, axis=2)
    return jnp.concatenate([first, filtered[:, :-1]], axis=1)


def _states_between(seen: Scores, operators: Array | None, combine: Combine) -> Array:
    """The log state before each lane, up to a constant."""
    even = jnp.zeros_like(seen.scores[:, 0])
    if operators is None:
        return even

    def follow(state: Array, operator: Array) -> tuple[Array, Array]:
        return _scaled(combine(operator + state, 1)), state

    return jax.lax.scan(follow, even[:, 0], operators)[1].T


def _messages_between(seen: Scores, operators: Array | None) -> Array:
    """The log message after each lane, up to a constant."""
    even = jnp.zeros_like(seen.scores[:, 0])
    if operators is None:
        return even

    def follow(message: Array, operator: Array) -> tuple[Array, Array]:
        return _scaled(log_sum(operator + message[:, None], 0)), message

    return jax.lax.scan(follow, even[:, 0], operators, reverse=True)[1].T


def _operators(chain: LogChain, seen: Scores, combine: Combine) -> Float[Array, "lanes k k"]:
    """``[lane, j, i]``: to state j at the lane's end from state i before it."""
    k, _, lanes = seen.scores.shape

    def body(product: Array, row: Row) -> tuple[Array, None]:
        scores, start, design = row
        ways = logs_at(chain.transition, design)[:, :, None] + product[:, None]
        moved = combine(ways, 0)
        restarted = chain.initial[:, None, None] + combine(product, 0)
        moved = jnp.where(start, restarted, moved) + finite_rows(scores)[:, None]
        top = jax.lax.stop_gradient(jnp.max(moved, axis=(0, 1)))
        return moved - jnp.where(jnp.isfinite(top), top, 0.0), None

    eye = jnp.where(jnp.eye(k, dtype=bool), 0.0, -jnp.inf)[:, :, None].astype(seen.scores.dtype)
    whole = jnp.broadcast_to(eye, (k, k, lanes))
    return jnp.moveaxis(jax.lax.scan(body, whole, _by_step(chain, seen))[0], 2, 0)


def _moved(transition: Array, state: Array, combine: Combine) -> Array:
    return combine(transition + state[:, None], 0)


def _pulled(transition: Array, message: Array) -> Array:
    return log_sum(transition + message[None], 1)


def _entered(chain: LogChain, start: Array, moved: Array) -> Array:
    return jnp.where(start, chain.initial[:, None], moved)


def _by_step(chain: LogChain, seen: Scores) -> Row:
    return jnp.moveaxis(seen.scores, 1, 0), seen.start, designs(chain.transition)


def finite_rows(scores: Float[Array, "k lanes"]) -> Float[Array, "k lanes"]:
    """The scores, 0 for a row that no state allows, so that its group's other rows keep meaning."""
    return jnp.where(jnp.max(scores, axis=0) > -jnp.inf, scores, 0.0)


def normalised(logs: Float[Array, "m lanes"]) -> Float[Array, "m lanes"]:
    total = log_sum(logs, 0)
    return logs - jnp.where(jnp.isfinite(total), total, 0.0)


def _scaled(logs: Array) -> Array:
    top = jax.lax.stop_gradient(jnp.max(logs, axis=0))
    return logs - jnp.where(jnp.isfinite(top), top, 0.0)
