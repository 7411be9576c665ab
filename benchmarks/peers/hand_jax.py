"""EM as users write it in JAX: ``python -m benchmarks.peers.hand_jax n d k steps``.

One Cholesky factor for each component, all rows at once, ``vmap`` over components, one jitted step
called from a Python loop.
"""

from __future__ import annotations

import json
import sys
import time

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp

from benchmarks.data import simulated


def log_normal(rows: jax.Array, mean: jax.Array, covariance: jax.Array) -> jax.Array:
    """``log N(x; mean, covariance)`` of every row."""
    factor = jnp.linalg.cholesky(covariance)
    white = solve_triangular(factor, (rows - mean).T, lower=True)
    log_determinant = 2.0 * jnp.log(jnp.diagonal(factor)).sum()
    return -0.5 * ((white**2).sum(0) + log_determinant + rows.shape[1] * jnp.log(2 * jnp.pi))


def moments(rows: jax.Array, chances: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and covariance of rows with weights."""
    total = chances.sum()
    mean = chances @ rows / total
    away = rows - mean
    return mean, (chances * away.T) @ away / total


@jax.jit
def step(
    parameters: tuple[jax.Array, ...], rows: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """The next parameters, and the log density per row at these."""
    weights, means, covariances = parameters
    scores = jax.vmap(log_normal, (None, 0, 0))(rows, means, covariances)
    scores = scores + jnp.log(weights)[:, None]
    total = logsumexp(scores, axis=0)
    chances = jnp.exp(scores - total)
    means, covariances = jax.vmap(moments, (None, 0))(rows, chances)
    return (chances.mean(1), means, covariances), total.mean()


def main() -> None:
    """Measure and print."""
    n, d, k, steps = map(int, sys.argv[1:5])
    jax.config.update("jax_enable_x64", True)
    start = simulated(n, d, k)
    rows, parameters = jnp.asarray(start.rows), tuple(map(jnp.asarray, start[1:]))
    jax.block_until_ready(step(parameters, rows))
    seconds, value = [], jnp.nan
    began = time.perf_counter()
    for _ in range(steps):
        before = time.perf_counter()
        parameters, value = jax.block_until_ready(step(parameters, rows))
        seconds.append(time.perf_counter() - before)
    whole = time.perf_counter() - began
    found = {"seconds": seconds, "steps": steps, "log_density": float(value), "fit": whole}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
