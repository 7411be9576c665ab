"""Finite priors: of a number, or of a vector whose states are few enough to visit all."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from minorant._types import Array

MOST_STATES = 1 << 12


def count_states(prior: Any) -> int:
    """How many values the latent takes; 0 where it is not finite."""
    if not getattr(prior, "has_enumerate_support", False) or tuple(prior.batch_shape):
        return 0
    if type(prior).__name__ != "Independent":
        return len(prior.enumerate_support(expand=False))
    return len(coordinate_values(prior)) ** _size(prior)


def states(prior: Any) -> Array:
    """(k, ...) every value of a finite latent; of a vector, the last coordinate changes fastest."""
    if type(prior).__name__ != "Independent":
        return prior.enumerate_support(expand=False)
    values = coordinate_values(prior)
    grid = np.indices((len(values),) * _size(prior)).reshape(_size(prior), -1).T
    return values[grid].reshape(-1, *prior.event_shape)


def coordinate_values(prior: Any) -> Array:
    """(m,) what each coordinate of a vector of independent finite latents may be."""
    return jnp.ravel(prior.base_dist.enumerate_support(expand=False))


def is_product(prior: Any) -> bool:
    """Whether it is a vector of independent coordinates, each of finitely many values."""
    return type(prior).__name__ == "Independent" and count_states(prior) > 0


def _size(prior: Any) -> int:
    return int(np.prod(prior.event_shape, dtype=int))
