"""A gradient step on model and encoder together, against the same written by hand in JAX and optax.

The decoder of ``benchmarks.digits`` with five latents, 1500 rows of 64 columns, batches of 256, two
draws of each row, the same network. Blocks of 100 steps in one compiled loop, the better of several
rounds taken in turn; compiling is left out.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import minorant
from benchmarks import options
from benchmarks.digits import decoder, images
from benchmarks.report import Section, save
from minorant import encoding
from minorant.batches import batches_of
from minorant.solvers import _adam

L, BATCH, DRAWS, STEPS, SIZE = 5, 256, 2, 100, 3e-3
LIMIT = 1.1
NOTE = (
    "Milliseconds of one step; ours undoes what is not finite, averages, and draws rows by weight."
)


def main(argv: list[str] | None = None) -> None:
    """Measure, print and save."""
    chosen = options.parsed(argv, __doc__)
    train, _ = images()
    model, ours = _ours(train)
    hand = _by_hand(model, train)
    found = {"ours": np.inf, "by hand": np.inf}
    for _ in range(2 if chosen.quick else 15):
        for name, block in (("ours", ours), ("by hand", hand)):
            began = time.perf_counter()
            jax.block_until_ready(block())
            found[name] = min(found[name], 1e3 * (time.perf_counter() - began) / STEPS)
    ratio = found["ours"] / found["by hand"]
    row: dict[str, Any] = {name: round(value, 3) for name, value in found.items()}
    section = Section(
        "encoder_step", "A step on model and encoder", NOTE, [row | {"ratio": round(ratio, 2)}]
    )
    section.target(
        "a gradient step against hand-written JAX",
        f"at most {LIMIT}",
        f"{ratio:.2f}",
        ratio <= LIMIT,
    )
    save(section, chosen.quick)


def _ours(train: np.ndarray) -> tuple[Any, Callable[[], Any]]:
    """The model with its encoder, and a block of steps as the climb takes them."""
    encoder = minorant.Encoder(held_out=0.0, bound=minorant.bounds.Elbo())
    prepared = encoding.encodable(decoder(L, train), train, (None,) * 4, encoder, None)
    prepared = encoding.started(prepared, None, 0)
    model, objective = prepared.template, batches_of(prepared, 0).climbed
    objective = dataclasses.replace(objective, batch=BATCH, draws=DRAWS)
    start = jax.tree.map(np.asarray, encoding._begin(objective))
    floats, rest = eqx.partition(start, eqx.is_inexact_array)
    arrays, fixed = _adam.parted((objective, rest))
    state = _adam.begun(jax.tree.map(jnp.asarray, floats))
    count = (_adam.integer(0), _adam.integer(STEPS), np.float32(SIZE))
    pace = _adam.Pace(jax.random.key(0), *count)
    return model, lambda: _adam.step_block(fixed, arrays, state, pace)


def _by_hand(model: Any, train: np.ndarray) -> Callable[[], Any]:
    """The reparametrised bound of the same network and decoder, under optax."""
    network = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), model.family.network)
    layers = list(zip(network.weights, network.offsets, strict=True))
    decoded = [jnp.asarray(leaf, jnp.float32) for leaf in jax.tree.leaves(decoder(L, train))]
    rows, low = jnp.asarray(train), np.tril_indices(L, -1)
    constant = 0.5 * L * np.log(2 * np.pi)

    def loss(parameters: Any, key: Any) -> Any:
        layers, linear, (inner, inner_offset, outer, outer_offset) = parameters
        first, second = jax.random.split(key)
        x = rows[jax.random.randint(first, (BATCH,), 0, len(rows))]
        cells = jnp.clip((x - network.shift) / network.scale, -5, 5)
        layer = cells
        for weight, offset in layers[:-1]:
            layer = jax.nn.silu(layer @ weight + offset)
        found = layer @ layers[-1][0] + layers[-1][1]
        mean, log_scale = found[:, :L] + cells @ linear, 8 * jnp.tanh(found[:, L : 2 * L] / 8)
        unit = jnp.zeros((BATCH, L, L)).at[:, low[0], low[1]].set(found[:, 2 * L :]) + jnp.eye(L)
        noise = jax.random.normal(second, (DRAWS, BATCH, L))
        z = mean + jnp.einsum("nij,snj->sni", jnp.exp(log_scale)[..., None] * unit, noise)
        logits = jnp.tanh(z @ inner + inner_offset) @ outer + outer_offset
        log_p = (x * logits - jax.nn.softplus(logits)).sum(-1) - 0.5 * (z**2).sum(-1) - constant
        log_q = -0.5 * (noise**2).sum(-1) - constant - log_scale.sum(-1)
        return (log_q - log_p).mean()

    rule, start = optax.adam(SIZE), (layers, network.linear, decoded)

    def step(i: Any, carry: Any) -> Any:
        parameters, memory = carry
        gradient = jax.grad(loss)(parameters, jax.random.fold_in(jax.random.key(0), i))
        update, memory = rule.update(gradient, memory)
        return optax.apply_updates(parameters, update), memory

    block = jax.jit(lambda carry: jax.lax.fori_loop(0, STEPS, step, carry))
    carry = (start, rule.init(start))
    return lambda: block(carry)


if __name__ == "__main__":
    main()
