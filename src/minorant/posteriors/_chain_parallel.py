"""A Markov chain of states by parallel scans, with logarithms: filter, marginals and pair sums.

The element of row t is the matrix ``M_t[i, j] = log p(z_t = j, x_t | z_t-1 = i)``; elements are
multiplied in the semiring (log-sum-exp, +). Products from the first row of a group to row t give
what is filtered; products from row t on, summed over their last state, the message back to row
t - 1. Products are scaled to a largest entry of 1 as they are formed, and the scales of the
evidence computed from what was filtered, row by row: nothing large is ever subtracted, so float32
keeps its digits over any number of rows.

A row that no reachable state allows leaves its group without products: such a block is left to the
recursion step by step.

Särkkä & García-Fernández (2021), "Temporal parallelization of Bayesian smoothers", for Gaussian
chains; Hassan, Särkkä & García-Fernández (2021), "Temporal parallelization of inference in hidden
Markov models", IEEE Transactions on Signal Processing 69, for these.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from minorant._types import Array
from minorant.posteriors._chain_logs import (
    LogChain,
    LogSmoothed,
    Scores,
    before,
    finite_rows,
    log_sum,
    normalised,
)
from minorant.posteriors._moves import Moves
from minorant.posteriors._scan import scanned


class Element(NamedTuple):
    """Some rows of a lane: their product, whether their first starts a group, and whether one does.

    In products from the back the last says whether another than the first does: then nothing that
    follows matters any more.
    """

    logs: Float[Array, "steps k k lanes"]
    first: Bool[Array, "steps lanes"]
    any: Bool[Array, "steps lanes"]


def filtered_in_parallel(
    chain: LogChain, seen: Scores
) -> tuple[Float[Array, "k steps lanes"], Float[Array, "steps lanes"]]:
    """As :func:`._chain_logs.log_filter`, every lane beginning with the start of a group."""
    moves = _moves(chain)
    own = Element(_entries(chain, seen, moves), seen.start, seen.start)
    joint = scanned(_forward, own).logs[:, 0]
    # All rows of these products are alike: a group's first row does not depend on what was before.
    filtered = normalised(jnp.moveaxis(joint, 1, 0))
    predicted = _predicted(chain, seen, moves, filtered)
    scale = log_sum(predicted + seen.scores, 0)
    return jnp.where(jnp.isfinite(scale), filtered, predicted), scale


def smoothed_in_parallel(
    chain: LogChain, seen: Scores, weight: Float[Array, "steps lanes"]
) -> tuple[LogSmoothed, Bool[Array, ""]]:
    """As :func:`._chain_logs.log_smooth`, and whether that is what came out."""
    moves = _moves(chain)
    filtered, scale = filtered_in_parallel(chain, seen)
    own = Element(_entries(chain, seen, moves), seen.start, jnp.zeros_like(seen.start))
    told = log_sum(jnp.moveaxis(scanned(_backward, own, reverse=True).logs, 0, 2), 1)
    ahead = jnp.concatenate([seen.start[1:], jnp.ones_like(seen.start[:1])])
    message = jnp.concatenate([told[:, 1:], jnp.zeros_like(told[:, :1])], axis=1)
    message = jnp.where(ahead, 0.0, message)
    probability = normalised(filtered + message)
    pair = before(filtered)[:, None] + moves + finite_rows(seen.scores) + message
    chances = jnp.exp(normalised(pair.reshape(-1, *seen.start.shape))).reshape(pair.shape)
    pairs = (jnp.where(seen.start, 0.0, weight) * chances).sum((2, 3))
    first = (jnp.where(seen.start, weight, 0.0) * jnp.exp(probability)).sum((1, 2))
    unsaid = ~jnp.isfinite(seen.scores).any(0)  # a row that no state allows: only predicted
    sound = jnp.all(jnp.isfinite(scale) | ahead | unsaid)
    return LogSmoothed(filtered, probability, scale, first, pairs), sound


def _moves(chain: LogChain) -> Float[Array, "k k #steps #lanes"]:
    if isinstance(chain.transition, Moves):
        return chain.transition.logs(chain.transition.design)
    return chain.transition[:, :, None, None]


def _entries(chain: LogChain, seen: Scores, moves: Array) -> Float[Array, "steps k k lanes"]:
    """Every row's own matrix, the initial probabilities in each of its rows at a first row."""
    entered = jnp.where(seen.start, chain.initial[None, :, None, None], moves)
    return jnp.moveaxis(entered + finite_rows(seen.scores), 2, 0)


def _predicted(chain: LogChain, seen: Scores, moves: Array, filtered: Array) -> Array:
    """``log p(z_t | x_1 .. x_t-1)``."""
    moved = log_sum(before(filtered)[:, None] + moves, 0)
    return jnp.where(seen.start, chain.initial[:, None, None], moved)


def _forward(one: Element, then: Element) -> Element:
    logs = jnp.where(then.any[:, None, None], then.logs, _product(one.logs, then.logs))
    return Element(logs, one.first, one.any | then.any)


def _backward(one: Element, then: Element) -> Element:
    """What follows the start of a group says nothing of what is before it."""
    cut = one.any | then.first
    logs = jnp.where(cut[:, None, None], one.logs, _product(one.logs, then.logs))
    return Element(logs, one.first, cut | then.any)


def _product(one: Array, then: Array) -> Float[Array, "n k k lanes"]:
    """``log sum_m exp(one[i, m] + then[m, j])``, scaled."""
    logs = log_sum(one[:, :, :, None] + then[:, None], 2)
    top = jax.lax.stop_gradient(jnp.max(logs, axis=(1, 2), keepdims=True))
    return logs - jnp.where(jnp.isfinite(top), top, 0.0)
