"""The arithmetic of one EM step without its order: ``... hmm_products n length k d``.

Emissions and sums as two products with the features, the recursions as two products with the
transition and one for the pairs, one exponential for each state and row: what a step would take if
no row depended on another.
"""

from __future__ import annotations

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from minorant import _config


def arithmetic(
    natural: jax.Array, features: jax.Array, transition: jax.Array, states: jax.Array
) -> tuple[jax.Array, ...]:
    """The products and exponentials; ``states`` (k, n)."""
    likelihood = jnp.exp(natural @ features)
    forward = likelihood * (transition.T @ states)
    backward = transition @ (likelihood * forward)
    return forward @ backward.T, backward @ features.T, jnp.log(forward.sum(0)).sum()


def main() -> None:
    """Measure and print."""
    n, _, k, d = map(int, sys.argv[1:5])
    rng = np.random.default_rng(0)
    with _config.precision(np.float64):
        f = 1 + d + d * (d + 1) // 2
        shapes = ((k, f), (f, n), (k, k), (k, n))
        given = [jnp.asarray(0.01 * rng.standard_normal(shape)) for shape in shapes]
        run = jax.jit(arithmetic)
        seconds = []
        for _ in range(21):
            began = time.perf_counter()
            jax.block_until_ready(run(*given))
            seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": seconds[1:], "steps": 1, "log_likelihood": None}))


if __name__ == "__main__":
    main()
