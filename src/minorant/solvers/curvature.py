"""Curvature remembered from moves and falls of the gradient: limited-memory BFGS for an ascent.

Nocedal & Wright (2006), "Numerical optimization", 2nd ed., algorithm 7.4 (two-loop recursion).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from minorant._types import Array

_FIRST_STEP = 0.1


class Curvature(NamedTuple):
    """The last pairs of moves and falls of the gradient (rows), newest last, and how many."""

    moves: Float[Array, "m p"]
    falls: Float[Array, "m p"]
    count: Int[Array, ""]

    @classmethod
    def none(cls, memory: int, point: Float[Array, " p"]) -> Curvature:
        """Nothing remembered yet."""
        pairs = jnp.zeros((memory, point.size), point.dtype)
        return cls(pairs, pairs, jnp.asarray(0, jnp.int32))


def remember(curvature: Curvature, move: Array, fall: Array, there: Array) -> Curvature:
    """The pair appended, if there is one and it curves the right way."""
    product = move @ fall
    wanted = 1e-10 * jnp.linalg.norm(move) * jnp.linalg.norm(fall)
    keep = there & (product > wanted)

    def append(rows: Array, new: Array) -> Array:
        return jnp.where(keep, jnp.concatenate([rows[1:], new[None]]), rows)

    count = jnp.minimum(curvature.count + keep, len(curvature.moves)).astype(jnp.int32)
    return Curvature(append(curvature.moves, move), append(curvature.falls, fall), count)


def ascent_direction(curvature: Curvature, gradient: Array) -> Float[Array, " p"]:
    """``H g`` by the two-loop recursion; the gradient itself while nothing is remembered."""
    m = len(curvature.moves)
    used = jnp.arange(m) >= m - curvature.count
    products = jnp.where(used, (curvature.moves * curvature.falls).sum(1), 1.0)

    def down(carry: Array, pair: tuple) -> tuple[Array, Array]:
        move, fall, product, is_used = pair
        alpha = jnp.where(is_used, move @ carry / product, 0.0)
        return carry - alpha * fall, alpha

    pairs = (curvature.moves, curvature.falls, products, used)
    remaining, alphas = jax.lax.scan(down, gradient, pairs, reverse=True)
    last = (curvature.falls[-1] ** 2).sum()
    scale = jnp.where(curvature.count > 0, products[-1] / jnp.where(last > 0, last, 1.0), 1.0)

    def up(carry: Array, pair: tuple) -> tuple[Array, None]:
        move, fall, product, is_used, alpha = pair
        beta = jnp.where(is_used, fall @ carry / product, 0.0)
        return carry + jnp.where(is_used, alpha - beta, 0.0) * move, None

    return jax.lax.scan(up, scale * remaining, (*pairs, alphas))[0]


def first_length(curvature: Curvature, direction: Array) -> Float[Array, ""]:
    """1 along a quasi-Newton direction; a short move where the direction has no scale yet."""
    norm = jnp.maximum(jnp.linalg.norm(direction), jnp.finfo(direction.dtype).tiny)
    return jnp.where(curvature.count > 0, 1.0, jnp.minimum(_FIRST_STEP / norm, 1.0))
