"""Parts of a hidden Markov model: constraints of its probabilities, their priors, sums."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._types import Array
from minorant.components.priors import Dirichlet
from minorant.models.of_components import is_component
from minorant.models.transition_logits import TransitionLogits
from minorant.models.transitions import AllowedSimplex

_GONE = 4.0  # in units of the smallest number: what a zero becomes in free coordinates


def array(value: Any) -> Any:
    """Lists as arrays; leaves that JAX traces, and None, as they are."""
    return np.asarray(value, dtype=float) if isinstance(value, list | tuple) else value


def initial_constraint(model: Any) -> AllowedSimplex | None:
    """What the first state's probabilities may be; None where they are no parameter."""
    if model.stationary:
        return None
    return AllowedSimplex(tuple(map(bool, model.structure.begins(model.n_components))))


def transition_constraint(model: Any) -> AllowedSimplex:
    """What a transition matrix may be."""
    k = model.n_components
    allowed = tuple(tuple(map(bool, row)) for row in model.structure.allowed(k))
    tied = model.structure.tied(k)
    return AllowedSimplex(allowed, None if len(set(tied)) == k else tuple(map(int, tied)))


def weighted_sum(logs: Float[Array, "steps lanes"], weight: Array) -> Float[Array, ""]:
    """The sum over rows of positive weight; first within steps, so that float32 keeps digits."""
    counted = jnp.where(weight > 0, weight * logs, 0.0)
    return (counted @ jnp.ones(counted.shape[1], counted.dtype)).sum()


def is_whole(node: object) -> bool:
    """Where a model's tree is to be cut."""
    return node is None or is_component(node) or isinstance(node, TransitionLogits)


def extra(prior: Dirichlet | None) -> Any:
    """What a prior adds to counts."""
    return 0.0 if prior is None else prior.concentration - 1.0


def log_dirichlet(prior: Dirichlet | None, values: Array, allowed: np.ndarray, rows: Any) -> Array:
    """The log density of rows of probabilities, over what is allowed; tied rows once."""
    if prior is None:
        return jnp.zeros((), values.dtype)
    logs = jnp.log(jnp.maximum(values, jnp.finfo(values.dtype).tiny))
    weighted = jnp.where(allowed, (prior.concentration - 1.0) * logs, 0.0)
    return (weighted if rows is None else weighted[rows]).sum()


def without_dust(probability: Array) -> Array:
    """Exactly zero where free coordinates, which are logarithms, cannot say zero."""
    xp = np if isinstance(probability, np.ndarray) else jnp
    least = _GONE * jnp.finfo(probability.dtype).tiny
    return xp.where(probability > least, probability, xp.zeros_like(probability))
