"""A vector of finite latents for every row, independent of each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._types import Array, Key
from minorant.posteriors.base import AbstractPosterior
from minorant.posteriors.in_rows import FiniteInRows


class Product(AbstractPosterior):
    r"""``q(z) = prod_j q_j(z_j)`` per row, each coordinate one of m values.

    Attributes:
        log_probability: ``(n, l, m)``, normalised over the last axis.
        values: ``(n, m)`` what a coordinate may be, the same for every row.

    Example:
        >>> import numpy as np
        >>> from minorant.posteriors import Product
        >>> q = Product(np.log(np.full((1, 3, 2), 0.5)), np.array([[0, 1]]))
        >>> q.mean
        array([[0.5, 0.5, 0.5]])
    """

    log_probability: Float[Array, "n *l m"]
    values: Array

    @property
    def probability(self) -> Float[Array, "n *l m"]:
        """Of every value of every coordinate."""
        xp = np if isinstance(self.log_probability, np.ndarray) else jnp
        return xp.exp(self.log_probability)

    @property
    def mean(self) -> Float[Array, "n *l"]:
        """Of every coordinate; of yes-or-no latents the probability of yes."""
        return (self.probability * self.values[0]).sum(-1)

    def sample(self, key: Key) -> Array:
        """One draw for every row."""
        q = self._in_rows()
        return q.transform(q.noise(key, 1))[0][0]

    def log_density(self, latents: Array) -> Float[Array, " n"]:
        """``log q(z)``."""
        return self._in_rows().log_density(jnp.asarray(latents)[None])[0]

    def by_row(self) -> tuple[Array, Array]:
        """Log probabilities and values."""
        n, m = self.log_probability.shape[0], self.values.shape[-1]
        return self.log_probability, jnp.broadcast_to(self.values[:1], (n, m))

    @staticmethod
    def from_rows(by_row: tuple[Array, Array]) -> Product:
        """From log probabilities and values."""
        return Product(*by_row)

    def _in_rows(self) -> FiniteInRows:
        return FiniteInRows(jax.tree.map(jnp.asarray, self.log_probability), self.values[0])
