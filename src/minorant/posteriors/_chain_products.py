r"""Filter, smoother and pair sums of a Markov chain of states, by products of probabilities.

With initial probabilities pi, transition probabilities A and likelihoods b_t of the rows,

.. math:: a_t \propto b_t \circ A^T a_{t-1}, \quad \beta_{t-1} = A (b_t \circ \beta_t), \quad
          p(z_t \mid x) \propto a_t \circ \beta_t

with every ``a_t`` scaled to sum 1; the logarithms of the scales add up to the evidence. Rabiner
(1989), "A tutorial on hidden Markov models", section V.A.

A long sequence is cut into lanes (:mod:`._lanes`). Each lane needs to know how the one before it
ended. A chain forgets: so the lanes begin from a guess, warmed up on the last rows of the lane
before; a full sweep then shows how each lane ends, and if every lane began where its predecessor
ended the answer is exact, because products of positive matrices never move two directions apart
(Birkhoff's contraction, in Hilbert's metric). If not, the ends found are the next beginnings; where
that fails too the lanes' transition operators are multiplied out.

Products of probabilities can underflow where a chain with zeros meets rows that its reachable
states find all but impossible. The smoother sees it (the mass of some row falls below the root of
the smallest number) and such a block is done again with logarithms (:mod:`._chain_logs`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from minorant._types import Array
from minorant.posteriors._moves import Moves, at_step

_WARM_UP = 64
_CLOSE = 256  # in units of the type's epsilon, relative
_FEW_STATES = 16  # up to which written-out sums are at least as fast as a matrix product


class Chain(NamedTuple):
    """Probabilities of the first state and of the next one (columns) given this one (rows).

    Where the transition differs from row to row it is :class:`Moves`, its design in lanes.
    """

    initial: Float[Array, " k"]
    transition: Float[Array, "k k"] | Moves


class Evidence(NamedTuple):
    """What the rows say: likelihoods scaled to a largest of 1, where groups start, row weights."""

    likelihood: Float[Array, "k steps lanes"]
    start: Bool[Array, "steps lanes"]
    weight: Float[Array, "steps lanes"]


class Smoothed(NamedTuple):
    """The posterior of all states, in lanes.

    Attributes:
        filtered: ``p(z_t | x_1 .. x_t)``, (k, steps, lanes).
        probability: ``p(z_t | x)``.
        scale: ``p(x_t | x_1 .. x_t-1)`` over the largest likelihood of the row.
        first: weighted sum of ``p(z_t | x)`` over the rows that start a group.
        pairs: weighted sum of ``p(z_t-1 = i, z_t = j | x)`` over pairs of rows in one group; zeros
            where the transition differs from row to row.
        least: the least mass of a row, by which underflow is told.
    """

    filtered: Any
    probability: Float[Array, "k steps lanes"]
    scale: Float[Array, "steps lanes"]
    first: Float[Array, " k"]
    pairs: Float[Array, "k k"]
    least: Float[Array, ""]


def smooth(chain: Chain, seen: Evidence, joined: bool) -> Smoothed:
    """Filter and smooth all lanes.

    Args:
        chain: the prior of the path.
        seen: the rows, in lanes.
        joined: whether lanes go on where the one before ended.
    """
    forward = _forward(chain, seen, joined)
    return _backward(chain, seen, forward, joined)


class Forward(NamedTuple):
    """What the filter leaves: ``first`` is the state before each lane's first row."""

    first: Float[Array, "k lanes"]
    filtered: Float[Array, "k steps lanes"]
    scale: Float[Array, "steps lanes"]


def _forward(chain: Chain, seen: Evidence, joined: bool) -> Forward:
    k, steps, lanes = seen.likelihood.shape
    even = jnp.full((k, lanes), 1.0 / k, seen.likelihood.dtype)
    into = Forward(even, jnp.zeros_like(seen.likelihood), jnp.zeros_like(seen.likelihood[0]))
    if not joined:
        return _filter(chain, seen, even, into)[0]

    def sweep(first: Array, into: Forward) -> tuple[Forward, Array]:
        found, end = _filter(chain, seen, first, into)
        return found, jnp.roll(end, 1, axis=1)

    def settled(first: Array, wanted: Array) -> Array:
        return _agree(first, wanted, seen.start[0])

    warm = _filter_over(chain, seen, even, max(steps - _WARM_UP, 0))
    return _until_settled(
        sweep,
        settled,
        jnp.roll(warm, 1, axis=1),
        lambda needed: _states_between(chain, seen, needed),
        into,
    )


def _until_settled(
    sweep: Callable[[Array, Any], tuple[Any, Array]],
    settled: Callable[[Array, Array], Array],
    guess: Float[Array, "k lanes"],
    exact: Callable[[Array], Float[Array, "k lanes"]],
    into: Any,
) -> Any:
    """Sweeps from where the last one ended, until that is where it began.

    The third begins where the lanes' operators say. They are asked for in a loop whose count is 0
    before that, because a condition would compute both branches where climbs are vectorised.
    """

    def again(carry: tuple[Array, Array, Array, Any]) -> tuple[Array, Array, Array, Any]:
        turn, _, begin, found = carry
        last = turn == 2
        begin = jnp.where(last, exact(last), begin)
        found, ends = sweep(begin, found)
        return turn + 1, settled(begin, ends) | last, ends, found

    first = (jnp.zeros((), jnp.int32), jnp.zeros((), bool), guess, into)
    return jax.lax.while_loop(lambda carry: ~carry[1], again, first)[3]


def _agree(used: Array, wanted: Array, free: Array) -> Array:
    """Whether directions agree entry by entry, relatively; lanes that start a group are free."""
    away = jnp.abs(used - wanted)
    close = away <= _CLOSE * jnp.finfo(used.dtype).eps * jnp.maximum(used, wanted)
    return jnp.all(close | free)


def _filter(chain: Chain, seen: Evidence, first: Array, into: Forward) -> tuple[Forward, Array]:
    """The filter from ``first``, written over ``into``, and the state after the last row."""

    def body(step: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        state, filtered, scale = carry
        state, total = _filter_step(chain, seen, step, state)
        filtered = jax.lax.dynamic_update_index_in_dim(filtered, state, step, 1)
        return state, filtered, jax.lax.dynamic_update_index_in_dim(scale, total, step, 0)

    steps = seen.likelihood.shape[1]
    begin = (first, into.filtered, into.scale)
    end, filtered, scale = jax.lax.fori_loop(0, steps, body, begin)
    return Forward(first, filtered, scale), end


def _filter_over(chain: Chain, seen: Evidence, state: Array, begin: int) -> Array:
    """The state after the last row, from ``state`` before row ``begin`` of each lane."""

    def body(step: Array, state: Array) -> Array:
        return _filter_step(chain, seen, step, state)[0]

    return jax.lax.fori_loop(begin, seen.likelihood.shape[1], body, state)


def _filter_step(chain: Chain, seen: Evidence, step: Array, state: Array) -> tuple[Array, Array]:
    moved = pushed(at_step(chain.transition, step), state)
    moved = jnp.where(_row(seen.start, step), chain.initial[:, None], moved)
    joint = moved * _column(seen.likelihood, step)
    total = joint.sum(0)
    return joint / _divisor(total), total


class _Back(NamedTuple):
    """The smoother at a row: ``message`` is beta of it; ``ahead`` is ``b beta`` of the next."""

    message: Array
    ahead: Array
    starts: Array
    first: Array
    pairs: Array
    least: Array


def _backward(chain: Chain, seen: Evidence, forward: Forward, joined: bool) -> Smoothed:
    k, steps, lanes = seen.likelihood.shape
    one = jnp.ones((k, lanes), seen.likelihood.dtype)
    into = jnp.zeros_like(seen.likelihood)
    nothing = jnp.zeros((), one.dtype)
    sums = jnp.zeros((k, k), one.dtype)
    into = Smoothed(forward.filtered, into, forward.scale, sums[0], sums, nothing)
    if not joined:
        return _smoother(chain, seen, forward, one, into)[0]

    def shifted(message: Array) -> Array:
        """What each lane gets from the one after it; the last one gets nothing."""
        return jnp.concatenate([message[:, 1:], one[:, :1]], axis=1)

    def sweep(last: Array, into: Smoothed) -> tuple[Smoothed, Array]:
        found, message = _smoother(chain, seen, forward, last, into)
        return found, shifted(message)

    def settled(used: Array, wanted: Array) -> Array:
        return _agree(used, wanted, jnp.zeros((), bool))

    warm = _message_over(chain, seen, one, min(_WARM_UP, steps))
    return _until_settled(
        sweep,
        settled,
        shifted(warm),
        lambda needed: _messages_between(chain, seen, needed),
        into,
    )


def _smoother(
    chain: Chain, seen: Evidence, forward: Forward, last: Array, into: Smoothed
) -> tuple[Smoothed, Array]:
    """The smoother from ``last``, written over ``into``, and the message out of the first row."""
    k, steps, lanes = seen.likelihood.shape
    transition = chain.transition

    def added(back: _Back, state: Array, weight: Array, mass: Array) -> Array:
        if isinstance(transition, Moves):
            return back.pairs
        carried = jnp.where(back.starts, 0.0, weight / _divisor(mass))
        return back.pairs + _dot(state * carried, back.ahead, ((1,), (1,)))

    def body(turn: Array, carry: tuple[_Back, Array]) -> tuple[_Back, Array]:
        back, smoothed = carry
        step = steps - 1 - turn
        state, weight = _column(forward.filtered, step), _row(seen.weight, step)
        joint = state * back.message
        mass = joint.sum(0)
        joint = joint / _divisor(mass)
        smoothed = jax.lax.dynamic_update_index_in_dim(smoothed, joint, step, 1)
        first = back.first + jnp.where(_row(seen.start, step), weight * joint, 0.0)
        pairs = added(back, state, weight, mass)
        scale = _row(forward.scale, step)
        least = jnp.minimum(back.least, jnp.where(weight > 0, mass * scale, 1.0))
        return _message_step(
            chain, seen, step, back._replace(first=first, pairs=pairs, least=least)
        ), smoothed

    zero = jnp.zeros_like(last)
    pairs = jnp.zeros((k, k), zero.dtype)
    back = _Back(last, zero, jnp.zeros(lanes, bool), zero, pairs, jnp.ones(lanes, zero.dtype))
    back, smoothed = jax.lax.fori_loop(0, steps, body, (back, into.probability))
    mass = (forward.first * back.message).sum(0)
    pairs = added(back, forward.first, seen.weight[0], mass)
    pairs = pairs if isinstance(transition, Moves) else pairs * transition
    first, least = back.first.sum(1), back.least.min()
    found = Smoothed(forward.filtered, smoothed, forward.scale, first, pairs, least)
    return found, back.message


def _message_over(chain: Chain, seen: Evidence, message: Array, rows: int) -> Array:
    """The message out of each lane's first row, from ``message`` after its row ``rows - 1``."""
    lanes = message.shape[1]
    nothing = jnp.zeros((), message.dtype)
    back = _Back(
        message, jnp.zeros_like(message), jnp.zeros(lanes, bool), nothing, nothing, nothing
    )

    def body(turn: Array, back: _Back) -> _Back:
        return _message_step(chain, seen, rows - 1 - turn, back)

    return jax.lax.fori_loop(0, rows, body, back).message


def _message_step(chain: Chain, seen: Evidence, step: Array, back: _Back) -> _Back:
    ahead = _column(seen.likelihood, step) * back.message
    ahead = ahead / _divisor(ahead.sum(0))
    starts = _row(seen.start, step)
    message = jnp.where(starts, 1.0, pulled(at_step(chain.transition, step), ahead))
    return back._replace(message=message, ahead=ahead, starts=starts)


def _states_between(chain: Chain, seen: Evidence, needed: Array) -> Float[Array, "k lanes"]:
    """The exact state before each lane, by the lanes' operators; nothing is done unless needed."""
    operators, lanes = _operators(chain, seen, needed), seen.start.shape[1]

    def follow(lane: Array, states: Array) -> Array:
        moved = pushed(_row(operators, lane), _column(states, lane)[:, None])[:, 0]
        moved = moved / _divisor(moved.sum())
        return jax.lax.dynamic_update_index_in_dim(states, moved, lane + 1, 1)

    even = jnp.full((len(chain.initial), lanes), 1.0 / len(chain.initial), operators.dtype)
    return jax.lax.fori_loop(0, jnp.where(needed, lanes - 1, 0), follow, even)


def _messages_between(chain: Chain, seen: Evidence, needed: Array) -> Float[Array, "k lanes"]:
    """The exact message after each lane; nothing is done unless needed."""
    operators, lanes = _operators(chain, seen, needed), seen.start.shape[1]

    def follow(turn: Array, messages: Array) -> Array:
        lane = lanes - 1 - turn
        moved = pulled(_row(operators, lane), _column(messages, lane)[:, None])[:, 0]
        moved = moved / _divisor(moved.sum())
        return jax.lax.dynamic_update_index_in_dim(messages, moved, lane - 1, 1)

    one = jnp.ones((len(chain.initial), lanes), operators.dtype)
    return jax.lax.fori_loop(0, jnp.where(needed, lanes - 1, 0), follow, one)


def _operators(chain: Chain, seen: Evidence, needed: Array) -> Float[Array, "lanes k k"]:
    """What each lane does to the state before it, scaled; nothing is done unless needed.

    ``prod_t A diag(b_t)``; a row that starts a group forgets all: its factor is ``1 (pi b)^T``.
    """
    k, steps, lanes = seen.likelihood.shape
    rows = jnp.where(needed, steps, 0)

    def body(step: Array, product: Array) -> Array:
        """``product[j, i]``: to state j from state i before the lane."""
        moved = _pushed_each(at_step(chain.transition, step), product)
        restarted = chain.initial[:, None, None] * product.sum(0)
        moved = jnp.where(_row(seen.start, step), restarted, moved)
        moved = moved * _column(seen.likelihood, step)[:, None]
        return moved / _divisor(moved.sum((0, 1)))

    eye = jnp.eye(k, dtype=seen.likelihood.dtype)[:, :, None]
    product = jax.lax.fori_loop(0, rows, body, jnp.broadcast_to(eye, (k, k, lanes)) + 0.0)
    return jnp.transpose(product, (2, 1, 0))


def _pushed_each(transition: Array, product: Float[Array, "k k lanes"]) -> Array:
    """Every column of a product pushed."""
    if transition.ndim == 3:
        return jax.vmap(pushed, (None, 1), 1)(transition, product)
    return pushed(transition, product.reshape(len(product), -1)).reshape(product.shape)


def pushed(transition: Array, state: Float[Array, "k lanes"]) -> Float[Array, "k lanes"]:
    """``sum_i A_ij a_i``, A the same in all lanes or (k, k, lanes)."""
    if transition.ndim == 2 and len(transition) > _FEW_STATES:
        return _dot(transition, state, ((0,), (0,)))
    rows = transition if transition.ndim == 3 else transition[:, :, None]
    moved = rows[0] * state[0]
    for i in range(1, len(transition)):
        moved = moved + rows[i] * state[i]
    return moved


def pulled(transition: Array, message: Float[Array, "k lanes"]) -> Float[Array, "k lanes"]:
    """``sum_j A_ij u_j``."""
    return pushed(jnp.swapaxes(transition, 0, 1), message)


def _dot(a: Array, b: Array, contracted: tuple[tuple[int], tuple[int]]) -> Array:
    """A product at full precision on every device."""
    highest = jax.lax.Precision.HIGHEST
    return jax.lax.dot_general(a, b, (contracted, ((), ())), precision=highest)


def _row(leaf: Array, step: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(leaf, step, 0, keepdims=False)


def _column(leaf: Array, step: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(leaf, step, 1, keepdims=False)


def _divisor(total: Array) -> Array:
    return jnp.where(total > 0, total, 1.0)
