r"""Long Gaussian chains whose gains never settle: lanes side by side, each begun from a guess.

A sequence is cut into lanes, pieces of equal length that advance together: one step of all lanes is
a few products of stacks of matrices, where row by row each small product costs more to call than to
compute. A lane must begin where its neighbour ended. The recursions forget where they began, so a
lane begins from a guess, warmed up on the nearest rows of its neighbour; a sweep over all lanes
shows where each one ends. If every lane began there, to rounding, the answer is that of the plain
recursion. If not, the next sweep begins where the last one ended; a chain that remembers for too
long for that is left to the plain recursion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from minorant._types import Array
from minorant.posteriors._kalman_filter import (
    Chain,
    Filtered,
    Observed,
    Roots,
    filtered_from,
    nowhere,
)
from minorant.posteriors.kalman import (
    Collect,
    Smoothed,
    added,
    backward,
    forward,
    near,
    near_information,
    no_sums,
    nothing,
)

_FEWEST_STEPS, _MOST_LANES = 256, 128
_WARM_UP = 64
_SWEEPS = 3
_AGREED = 512  # multiples of the float type's epsilon
_MOST_CELLS = 1 << 26  # of the gains, which are kept for all rows

Carry = tuple[Array, Array]  # of all lanes, a leading axis
Sweep = Callable[[Carry], tuple[Carry, Any]]


def fits(n: int, l: int) -> bool:
    """Whether there are rows enough for lanes, and memory enough for their gains."""
    return 2 * _FEWEST_STEPS <= n <= _MOST_CELLS // (l * l)


def cut(observed: Observed, steps: int) -> Observed:
    """The rows with a leading axis of pieces; the padding is rows that start groups, weight 0."""
    more = -len(observed.start) % steps

    def shaped(leaf: Array, fill: Any = None) -> Array:
        widths = [(0, more), *((0, 0),) * (leaf.ndim - 1)]
        how = {"mode": "edge"} if fill is None else {"constant_values": fill}
        return jnp.pad(leaf, widths, **how).reshape(-1, steps, *leaf.shape[1:])

    offset = observed.offset
    return observed._replace(
        start=shaped(observed.start, True),
        weight=shaped(observed.weight, 0),
        offset=offset if offset.ndim == 1 else shaped(offset, 0),
        value=shaped(observed.value, 0),
        pattern=jax.tree.map(shaped, observed.pattern),
        complete=None if observed.complete is None else shaped(observed.complete, False),
    )


def parts_of(pieces: Observed) -> tuple[Any, ...]:
    """What a loop over pieces is handed of each."""
    offset = None if pieces.offset.ndim == 1 else pieces.offset
    return pieces.start, pieces.weight, pieces.value, pieces.pattern, offset


def one_of(pieces: Observed, parts: tuple[Any, ...]) -> Observed:
    """One piece, or some of its rows."""
    start, weight, value, pattern, offset = parts
    offset = pieces.offset if offset is None else offset
    return pieces._replace(
        start=start, weight=weight, value=value, pattern=pattern, offset=offset, complete=None
    )


def smoothed_in_lanes(
    chain: Chain,
    observed: Observed,
    wanted: Bool[Array, ""],
    collect: Collect = nothing,
    record: bool = False,
) -> tuple[Smoothed, Bool[Array, ""]]:
    """As :func:`minorant.posteriors.kalman.smoothed`, and whether that is what came out.

    Args:
        chain: the prior of the states.
        observed: the rows.
        wanted: nothing is computed unless this holds.
        collect: (pattern, weight, covariances) of some rows to sums that add.
        record: keep covariances and gains of every row, and make no sums.
    """
    roots, n = Roots.of(chain), len(observed.start)
    steps = max(_FEWEST_STEPS, -(-n // _MOST_LANES))
    lanes = cut(observed, steps)
    gains, told = _backward_lanes(roots, lanes, wanted)
    found, led = _forward_lanes(roots, lanes, gains, wanted & told, (collect, record))
    means, terms, sums, kept = found
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], (means, terms, kept))
    answer = Smoothed(flat[0], flat[1], None if record else sums, flat[2] if record else None)
    return answer, wanted & told & led


def filtered_in_lanes(
    chain: Chain, observed: Observed, keep: Callable[[Filtered], Any]
) -> tuple[Any, Bool[Array, ""]]:
    """``keep`` of what the filter finds, and whether that is what came out.

    Args:
        chain: the prior of the states.
        observed: the rows.
        keep: what is wanted of the moments: leaves (n, ...).
    """
    n = len(observed.start)
    lanes = cut(observed, max(_FEWEST_STEPS, -(-n // _MOST_LANES)))
    parts = parts_of(lanes)

    def sweep(begin: Carry, parts: Any = parts) -> tuple[Carry, Any]:
        def one(carry: Carry, own: Any) -> tuple[Carry, Any]:
            ended, found = filtered_from(chain, one_of(lanes, own), carry)
            return ended, keep(found)

        return jax.vmap(one)(begin, parts)

    last = jax.tree.map(lambda leaf: leaf[:, -_WARM_UP:], parts)
    guess = sweep(_blank(chain, lanes, (0, 1)), last)[0]
    found, settled = _settled(sweep, _agree, guess, 1, jnp.asarray(True))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], found), settled


def _backward_lanes(roots: Roots, lanes: Observed, wanted: Array) -> tuple[Any, Array]:
    """The gains of all rows."""
    parts = parts_of(lanes)

    def sweep(begin: Carry, parts: Any = parts) -> tuple[Carry, Any]:
        def one(carry: Carry, own: Any) -> tuple[Carry, Any]:
            return backward(roots, one_of(lanes, own), carry)

        return jax.vmap(one)(begin, parts)

    def close(used: Carry, ended: Carry) -> Array:
        eps = _AGREED * jnp.finfo(used[1].dtype).eps
        return near_information(roots, used, ended, eps)

    blank = _blank(roots.chain, lanes, (1, 0))
    first = jax.tree.map(lambda leaf: leaf[:, :_WARM_UP], parts)
    guess = sweep(blank, first)[0]
    return _settled(sweep, close, guess, -1, wanted)


def _forward_lanes(
    roots: Roots, lanes: Observed, gains: Any, wanted: Array, how: tuple[Collect, bool]
) -> tuple[Any, Array]:
    """Means, terms of the evidence, sums of covariances, and covariances where recorded."""
    collect, record = how
    parts = parts_of(lanes)
    begin_sums = no_sums(roots, lanes.pattern, collect, len(lanes.start))

    def sweep(begin: Carry, parts: Any = parts, gains: Any = gains, record: bool = record) -> Any:
        def step(state: Any, row: Any) -> tuple[Any, Any]:
            carry, total = state
            own, gain = row
            one = jax.vmap(lambda c, o, g: _one_row(roots, one_of(lanes, o), g, c))
            after, (mean, kept, term) = one(carry, own, gain)
            if record:
                return (after, total), (mean, term, kept)
            more = added(one_of(lanes, own), kept, carry[1], collect)
            return (after, jax.tree.map(jnp.add, total, more)), (mean, term, None)

        by_step = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), (parts, gains))
        (ended, sums), found = jax.lax.scan(step, (begin, begin_sums), by_step)
        means, terms, kept = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), found)
        return ended, (means, terms, sums, kept)

    blank = _blank(roots.chain, lanes, (0, 1))
    last = jax.tree.map(lambda leaf: leaf[:, -_WARM_UP:], (parts, gains))
    guess = sweep(blank, *last, record=True)[0]
    return _settled(sweep, _agree, guess, 1, wanted)


def _agree(used: Carry, ended: Carry) -> Array:
    """Whether means and covariances of all lanes agree."""
    eps = _AGREED * jnp.finfo(used[0].dtype).eps
    same = jax.vmap(lambda a, b: near(a, b, eps))(used[1], ended[1]).all()
    scale = jnp.sqrt(jnp.abs(jnp.diagonal(ended[1], axis1=1, axis2=2))) + jnp.abs(ended[0])
    return same & (jnp.abs(used[0] - ended[0]) <= eps * scale).all()


def _one_row(roots: Roots, row: Observed, gain: Any, carry: Carry) -> tuple[Carry, Any]:
    """The forward pass over one row."""
    one = jax.tree.map(lambda leaf: leaf[None], parts_of(row))
    after, found = forward(
        roots, one_of(row, one), jax.tree.map(lambda leaf: leaf[None], gain), carry
    )
    return after, jax.tree.map(lambda leaf: leaf[0], found)


def _settled(
    sweep: Sweep, close: Callable[[Carry, Carry], Array], guess: Carry, to: int, wanted: Array
) -> tuple[Any, Array]:
    """Sweeps, each begun where the last one ended, until that is where it began.

    Args:
        sweep: from where lanes begin to where they end and what they find.
        close: whether beginnings and ends agree.
        guess: where lanes end, roughly.
        to: 1 where a lane hands on to the next, -1 where to the one before.
        wanted: whether to sweep at all.
    """

    def handed(ended: Carry) -> Carry:
        # The first row of all starts a group, which resets both passes: what goes round is lost.
        return jax.tree.map(lambda leaf: jnp.roll(leaf, to, axis=0), ended)

    def again(state: Any) -> Any:
        turn, _, begin, _ = state
        ended, found = sweep(begin)
        after = handed(ended)
        return turn + 1, close(begin, after), after, found

    def going(state: Any) -> Array:
        return wanted & ~state[1] & (state[0] < _SWEEPS)

    shapes = jax.eval_shape(sweep, guess)[1]
    nothing_yet = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    begin = (jnp.asarray(0), jnp.asarray(False), handed(guess), nothing_yet)
    _, done, _, found = jax.lax.while_loop(going, again, begin)
    return found, done


def _blank(chain: Chain, lanes: Observed, order: tuple[int, int]) -> Carry:
    """Zeros for every lane: a vector and a matrix, in the order asked for."""
    zeros = nowhere(chain)
    stacked = [jnp.zeros((len(lanes.start), *leaf.shape), leaf.dtype) for leaf in zeros]
    return stacked[order[0]], stacked[order[1]]
