"""Other places to start a climb from: a model moved at random in free coordinates (host side)."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import numpy as np

from minorant import _config
from minorant._parameters import (
    Interval,
    Positive,
    PositiveDefinite,
    Simplex,
    from_vector,
    leaf_constraints,
    to_vector,
)

Module = TypeVar("Module")

_SIZE = 0.5


def scattered(module: Module, rng: np.random.Generator, size: float = _SIZE) -> Module:
    """The module with its learned leaves moved by normal noise.

    Logarithms and logits move by ``size``, a covariance by one factor in all directions, real
    numbers by ``size`` times the root mean square of their leaf (by ``size`` where that is zero).

    Args:
        module: all parameters given.
        rng: where the noise comes from.
        size: of the noise.
    """
    leaves = jax.tree.leaves(module)
    vector, begin = np.array(_vector(module), dtype=float), 0
    for leaf, constraint in zip(leaves, leaf_constraints(module), strict=True):
        if constraint is None:
            continue
        place = slice(begin, begin + np.size(leaf))
        free = vector[place].reshape(np.shape(leaf))
        vector[place] = _moved(free, constraint, size * rng.normal(size=free.shape)).ravel()
        begin = place.stop
    moved = from_vector(module, vector)
    return jax.tree.map(
        lambda new, old: np.asarray(new, dtype=np.asarray(old).dtype), moved, module
    )


def _moved(free: np.ndarray, constraint: Any, noise: np.ndarray) -> np.ndarray:
    if isinstance(constraint, PositiveDefinite):
        step = noise[..., :1, :1]
        diagonal = np.eye(free.shape[-1])
        return (free + step) * diagonal + free * np.exp(step) * (1.0 - diagonal)
    if isinstance(constraint, Positive | Interval | Simplex):
        return free + noise
    size = np.sqrt(np.mean(free * free)) if free.size else 0.0
    return free + noise * (size if size > 0 else 1.0)


_vector = _config.quick_jit(to_vector, "once")
