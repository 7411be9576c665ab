"""Our EM step beside the two matrix products it needs: ``... benchmarks.peers.products n d k``.

The products ``scores = eta T'`` and ``sums = scores T`` with T (n, f), f = d + d (d + 1) / 2, eta
(k, f): in blocks of the rows that the library uses, one block's T read again and again (a bound
that no real step can reach, which must build T), in three layouts; and all rows at once. The next
turn's eta hangs on this turn's sums by a term that is rounded away, so that nothing is hoisted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.data import simulated
from benchmarks.peers.minorant_steps import Steps
from minorant import _config
from minorant.data.arrays import rows_per_block

ROUNDS = 7


def product(left: jax.Array, right: jax.Array, axis: int) -> jax.Array:
    """Contract the last axis of ``left`` with an axis of ``right``."""
    dimensions = (((left.ndim - 1,), (axis,)), ((), ()))
    return lax.dot_general(left, right, dimensions, precision=lax.Precision.HIGHEST)


def chain(turns: int, transposed: bool) -> Callable[..., jax.Array]:
    """Both products, ``turns`` times; scores (k, c) from T (c, f) or from T already transposed."""

    def turn(_: Any, carry: tuple[jax.Array, jax.Array], t: Any, tt: Any) -> Any:
        eta, sums = carry
        scores = product(eta, tt, 0) if transposed else product(eta, t, 1)
        sums = sums + product(scores, t, 0)
        return eta + 1e-300 * sums, sums

    def run(eta: jax.Array, t: jax.Array, tt: jax.Array) -> jax.Array:
        begin = (eta, jnp.zeros_like(eta))
        return lax.fori_loop(0, turns, lambda i, carry: turn(i, carry, t, tt), begin)[1]

    return run


def apart(turns: int) -> Callable[..., Any]:
    """As ``chain``, the scores (c, k) instead: the faster first product where f is large.

    Both results are kept and computed whole: without the barriers and the second return value the
    compiler would leave out most of the work.
    """

    def run(eta: jax.Array, t: jax.Array, tt: jax.Array, r: jax.Array) -> Any:
        del tt

        def turn(_: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            turned, r = carry
            scores = lax.optimization_barrier(product(t, turned, 0))
            sums = lax.optimization_barrier(product(r, t, 0))
            return turned + 1e-300 * sums.T, r + 1e-300 * scores[:1, :1]

        return lax.fori_loop(0, turns, turn, (eta.T, r))

    return run


def thunks(n: int, d: int, k: int) -> dict[str, Callable[[], Any]]:
    """Every form of the two products, compiled, on random numbers."""
    f = d + d * (d + 1) // 2
    rng = np.random.default_rng(0)
    block = min(rows_per_block(d, 8), n)
    turns = -(-n // block)
    eta = jnp.asarray(rng.standard_normal((k, f)))
    t, r = jnp.asarray(1e-3 * rng.standard_normal((block, f))), jnp.asarray(rng.random((k, block)))
    tall = jnp.asarray(1e-3 * rng.random((n, f)))
    forms = {
        "blocks, eta T'": (chain(turns, False), (eta, t, t.T.copy())),
        "blocks, T' stored": (chain(turns, True), (eta, t, t.T.copy())),
        "blocks, T eta'": (apart(turns), (eta, t, t.T.copy(), r)),
        "all rows at once": (chain(1, False), (eta, tall, t.T.copy())),
    }
    compiled = {name: (jax.jit(run), arguments) for name, (run, arguments) in forms.items()}
    return {name: lambda run=run, a=a: run(*a) for name, (run, a) in compiled.items()}


def main() -> None:
    """Measure in turn, print seconds."""
    n, d, k = map(int, sys.argv[1:4])
    _config.enable_compilation_cache()
    with _config.precision(np.float64):
        ours = Steps(simulated(n, d, k), 3)
        forms = thunks(n, d, k)
        found: dict[str, list[float]] = {"our step": [], **{name: [] for name in forms}}
        for run in forms.values():
            jax.block_until_ready(run())
        for _ in range(ROUNDS):
            found["our step"].append(ours.run())
            for name, run in forms.items():
                began = time.perf_counter()
                jax.block_until_ready(run())
                found[name].append(time.perf_counter() - began)
    print(json.dumps({"seconds": found}))


if __name__ == "__main__":
    main()
