"""What draws of unknowns predict: a function of each draw and a random key, many at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from minorant import _config
from minorant._types import PyTree
from minorant.models.target import AbstractTarget

Draws = dict[str, np.ndarray]


def predicted(
    target: AbstractTarget, function: Callable[..., PyTree] | None, draws: Draws, random_state: int
) -> PyTree:
    """The function's answers for every draw, stacked on the first axis.

    Raises:
        TypeError: without a function, where the target makes no data itself.
        ValueError: for an argument that is none of the values, or draws of different lengths.
    """
    count = _count(draws)
    if function is None:
        function, named = _own(target), draws
    else:
        named = {name: draws[name] for name in _taken(function, draws)}
    keys = jax.random.split(jax.random.fold_in(jax.random.key(random_state), 15485863), count)

    def one(key: Any, values: Draws) -> PyTree:
        return function(key, **values)

    with _config.precision(np.dtype(np.float64)):
        return jax.device_get(_config.quick_jit(jax.vmap(one), "once")(keys, named))


def sampled_prior(target: Any, n: int, random_state: int) -> Draws:
    """Draws of the prior.

    Raises:
        TypeError: for a target that does not say what its prior is.
    """
    if not hasattr(target, "sample_prior"):
        raise TypeError(
            "A target of a plain log density does not say which part of it is the prior: give "
            "draws of it by name, prior={'mean': ...}."
        )
    return target.sample_prior(n, random_state)


def _own(target: Any) -> Callable[..., PyTree]:
    if not hasattr(target, "replicate"):
        raise TypeError(
            "A target of a plain log density does not say how data are drawn: give a function, "
            "predict(lambda key, mean, scale: mean + scale * jax.random.normal(key, (10,)))."
        )
    return target.replicate


def _count(draws: Draws) -> int:
    counts = {name: len(values) for name, values in draws.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"draws must hold equally many of every value; got {counts}.")
    return next(iter(counts.values()))


def _taken(function: Callable[..., PyTree], draws: Draws) -> list[str]:
    """The names that the function takes, its first argument, the key, left out."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return list(draws)
    missing = [p.name for p in parameters if p.name not in draws and p.default is p.empty]
    if missing:
        raise ValueError(
            f"The function takes {', '.join(missing)}, which the draws do not have: its arguments "
            f"are a random key and any of {', '.join(draws)}."
        )
    return [p.name for p in parameters if p.name in draws]
