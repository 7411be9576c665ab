"""Gradient steps written by hand in JAX, no library: what ``gradient_steps`` compares ours with."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

LAYERS, WIDTH, DRAWS = 8, 32, 64
_LOG_TWO_PI = float(np.log(2.0 * np.pi))


def full_rank(p: int) -> tuple[dict, Callable, Callable, int]:
    """Parameters, transform and log density of a full-rank Gaussian, and its number of noises."""
    start = {"mean": np.zeros(p), "factor": 0.1 * np.eye(p)}

    def transform(q, noise):
        return q["mean"] + noise @ jnp.tril(q["factor"]).T

    def log_density(q, z):
        lower = jnp.tril(q["factor"])
        noise = jax.scipy.linalg.solve_triangular(lower, (z - q["mean"]).T, lower=True).T
        volume = jnp.log(jnp.abs(jnp.diagonal(lower))).sum()
        return -0.5 * ((noise**2).sum(1) + p * _LOG_TWO_PI) - volume

    return start, transform, log_density, p


def real_nvp(p: int) -> tuple[dict, Callable, Callable, int]:
    """The same for affine couplings, half of the coordinates in turn, and an affine last layer."""
    rng, half = np.random.default_rng(0), p // 2
    width = min(max(WIDTH, 2 * p), 128)
    shapes = {"w1": (half, width), "w2": (width, width), "w3": (width, 2 * (p - half))}
    start = {
        name: rng.normal(size=(LAYERS, *shape)) / np.sqrt(shape[0])
        for name, shape in shapes.items()
    }
    start["w3"] = 0.0 * start["w3"]
    start |= {f"b{i}": np.zeros((LAYERS, 1, start[f"w{i}"].shape[-1])) for i in (1, 2, 3)}
    start |= {"mean": np.zeros(p), "factor": 0.1 * np.eye(p)}
    names = [f"{kind}{i}" for i in (1, 2, 3) for kind in "wb"]

    def shift_and_scale(layer, kept):
        hidden = jnp.tanh(kept @ layer["w1"] + layer["b1"])
        hidden = jnp.tanh(hidden @ layer["w2"] + layer["b2"])
        shift, scale = jnp.split(hidden @ layer["w3"] + layer["b3"], 2, axis=1)
        return shift, 2.0 * jnp.tanh(scale / 2.0)

    def transform(q, noise):
        def one(z, layer):
            kept, moved = z[:, :half], z[:, half:]
            shift, scale = shift_and_scale(layer, kept)
            return jnp.concatenate([moved * jnp.exp(scale) + shift, kept], 1), None

        z = jax.lax.scan(one, noise, {name: q[name] for name in names})[0]
        return q["mean"] + z @ jnp.tril(q["factor"]).T

    def log_density(q, z):
        lower = jnp.tril(q["factor"])
        z = jax.scipy.linalg.solve_triangular(lower, (z - q["mean"]).T, lower=True).T

        def one(carry, layer):
            z, volume = carry
            moved, kept = z[:, : p - half], z[:, p - half :]
            shift, scale = shift_and_scale(layer, kept)
            z = jnp.concatenate([kept, (moved - shift) * jnp.exp(-scale)], 1)
            return (z, volume + scale.sum(1)), None

        start = (z, jnp.zeros(len(z)))
        layers = {name: q[name] for name in names}
        (noise, volume), _ = jax.lax.scan(one, start, layers, reverse=True)
        volume = volume + jnp.log(jnp.abs(jnp.diagonal(lower))).sum()
        return -0.5 * ((noise**2).sum(1) + p * _LOG_TWO_PI) - volume

    return start, transform, log_density, p


def steps(log_p: Callable, family: tuple, size: float = 1e-3) -> tuple[Callable, tuple]:
    """A jitted loop of Adam's steps on the path derivative, and where it starts."""
    import optax

    start, transform, log_q, noises = family
    rule = optax.adam(size)

    def bound(q, key):
        z = transform(q, jax.random.normal(key, (DRAWS, noises)))
        return (jax.vmap(log_p)(z) - log_q(jax.lax.stop_gradient(q), z)).mean()

    @jax.jit
    def run(state, key, count):
        def step(i, state):
            q, memory = state
            gradient = jax.grad(bound)(q, jax.random.fold_in(key, i))
            updates, memory = rule.update(jax.tree.map(jnp.negative, gradient), memory)
            return optax.apply_updates(q, updates), memory

        return jax.lax.fori_loop(0, count, step, state)

    start = jax.tree.map(jnp.asarray, start)
    return run, (start, rule.init(start))
