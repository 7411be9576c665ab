"""A distribution over k components for every row."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._types import Array, Key
from minorant.posteriors.base import AbstractPosterior


class Categorical(AbstractPosterior):
    """``q(z = k)`` per row, kept in logarithms.

    NumPy in, NumPy out: a float64 posterior on the host stays float64 whatever JAX's own switch.

    Attributes:
        log_probability: ``(k, n)``, normalised over k.

    Example:
        >>> import jax.numpy as jnp
        >>> from minorant.posteriors import Categorical
        >>> q = Categorical.from_probabilities(jnp.array([[0.5], [0.5]]))
        >>> round(float(q.entropy()[0]), 4)
        0.6931
    """

    log_probability: Float[Array, "k n"]

    @staticmethod
    def from_probabilities(probabilities: Float[Array, "k n"]) -> Categorical:
        """From probabilities that sum to one over k."""
        xp = _namespace(probabilities)
        tiny = jnp.finfo(probabilities.dtype).tiny
        possible = probabilities > 0
        log = xp.log(xp.maximum(probabilities, tiny))
        return Categorical(xp.where(possible, log, -np.inf))

    @property
    def probability(self) -> Float[Array, "k n"]:
        """The responsibilities."""
        return _namespace(self.log_probability).exp(self.log_probability)

    def mode(self) -> Int[Array, " n"]:
        """The most probable component."""
        return _namespace(self.log_probability).argmax(self.log_probability, axis=0)

    def sample(self, key: Key) -> Int[Array, " n"]:
        """One component per row."""
        return jax.random.categorical(key, self.log_probability, axis=0)

    def log_density(self, latents: Int[Array, " n"]) -> Float[Array, " n"]:
        """``log q(z)``."""
        xp = _namespace(self.log_probability)
        return xp.take_along_axis(self.log_probability, latents[None], axis=0)[0]

    def by_row(self) -> Float[Array, "n k"]:
        """Log probabilities, rows first."""
        return self.log_probability.T

    @staticmethod
    def from_rows(by_row: Float[Array, "n k"]) -> Categorical:
        """From log probabilities with the rows first."""
        return Categorical(_namespace(by_row).asarray(by_row.T, order="C"))

    def entropy(self) -> Float[Array, " n"]:
        """``-sum_k q log q``, 0 log 0 = 0."""
        return -(self.probability * finite(self.log_probability)).sum(0)


def finite(log_values: Array) -> Array:
    """Logarithms with -inf replaced by a number, for products with a probability of zero."""
    return _namespace(log_values).maximum(log_values, jnp.finfo(log_values.dtype).min)


def _namespace(array: Any) -> Any:
    return np if isinstance(array, np.ndarray) else jnp
