r"""Logarithms of gamma draws from standard normal ones, with exact derivatives.

.. math:: v(z, a): \quad P(a, e^v) = \Phi(z)

P is the regularised lower incomplete gamma function. The noise z is free of the shape a, so draws
move smoothly with it: by implicit differentiation
:math:`\partial v / \partial a = -(\partial P / \partial a) / (e^v\, p(e^v))`.

Figurnov, Mohamed & Mnih (2018), "Implicit reparameterization gradients", section 3.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammainc, gammaincc, gammaln, log_ndtr
from jaxtyping import Float

from minorant._types import Array

_STEPS = 30
_LOW = -25.0  # below, P(a, y) is y^a / Gamma(a + 1) to the last digit
_LARGE = 1e5  # from here on Wilson and Hilferty's cube is as good as the sum


@jax.custom_jvp
def log_gamma_quantile(z: Float[Array, "*s"], shape: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The logarithm of the gamma variable of that shape at the probability of ``z``."""
    z, shape = jnp.broadcast_arrays(z, shape)
    low = (log_ndtr(z) + gammaln(shape + 1.0)) / shape
    cube = 1.0 - 1.0 / (9.0 * shape) + z / (3.0 * jnp.sqrt(shape))
    usual = cube > 0.2
    first = jnp.where(usual, jnp.log(shape) + 3.0 * jnp.log(jnp.where(usual, cube, 1.0)), low)
    start = jnp.where(shape >= 1.0, first, low)
    done = (low < _LOW) | (shape > _LARGE)
    found = _solved(z, jnp.where(done, 1.0, shape), jnp.where(done, 0.0, start), done)
    return jnp.where(low < _LOW, low, jnp.where(shape > _LARGE, start, found))


def _solved(z: Array, shape: Array, start: Array, done: Array) -> Array:
    """Newton's steps on the logarithm of the smaller tail, which is concave in v."""
    upper, wanted = z > 0, log_ndtr(-jnp.abs(z))
    # No step is longer than v is wide to that side: far out its tail is flat, or not finite.
    down = 2.0 / jnp.minimum(shape, jnp.sqrt(shape))
    up = jnp.minimum(1.0, down)

    def step(state: tuple) -> tuple:
        v, _, count = state
        y = jnp.exp(v)
        tail = jnp.where(upper, gammaincc(shape, y), gammainc(shape, y))
        log_tail = jnp.log(jnp.maximum(tail, 1e-300))
        slope = jnp.exp(shape * v - y - gammaln(shape) - log_tail)
        by = jnp.where(upper, 1.0, -1.0) * (log_tail - wanted) / jnp.maximum(slope, 1e-300)
        by = jnp.where(done, 0.0, jnp.clip(by, -down, up))
        return v + by, jnp.abs(by).max(), count + 1

    def goes_on(state: tuple) -> Array:
        return (state[1] > 1e-11) & (state[2] < _STEPS)

    begun = start, jnp.full((), jnp.inf, start.dtype), jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(goes_on, step, begun)[0]


@log_gamma_quantile.defjvp
def _tangent(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    z, shape = jnp.broadcast_arrays(*primals)
    v = log_gamma_quantile(z, shape)
    is_low = v < _LOW
    y = jnp.exp(jnp.where(is_low, 0.0, v))
    inner = jnp.where(is_low, 1.0, shape)
    usual = jax.lax.random_gamma_grad(inner, y) / y  # pyright: ignore[reportCallIssue]
    by_shape = jnp.where(is_low, (digamma(shape + 1.0) - v) / shape, usual)
    log_normal = -0.5 * (z**2 + jnp.log(2.0 * jnp.pi))
    by_noise = jnp.exp(log_normal - shape * v + jnp.exp(v) + gammaln(shape))
    return v, by_shape * tangents[1] + by_noise * tangents[0]
