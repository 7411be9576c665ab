"""Densities of all rows' latents side by side, drawn from noise: what bounds on rows are made of.

As :mod:`minorant.posteriors.members`, with an axis of rows after that of the draws: latents are
(s, n, ...), log densities (s, n).
"""

from __future__ import annotations

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from minorant import _factors
from minorant._linalg import LOG_TWO_PI
from minorant._types import Array, Key

_FEW = 10  # latent dimensions


class AbstractInRows(eqx.Module):
    """One density q for each of n rows."""

    @abstractmethod
    def noise(self, key: Key, s: int) -> Array:
        """``s`` draws of what is transformed; free of parameters."""

    @abstractmethod
    def transform(self, noise: Array) -> tuple[Array, Float[Array, "s n"]]:
        """Latents (s, n, ...) from noise, and ``log q`` of each."""

    @abstractmethod
    def log_density(self, latents: Array) -> Float[Array, "s n"]:
        """``log q`` of any latents (s, n, ...), in nats."""

    @abstractmethod
    def is_smooth(self) -> bool:
        """Whether draws move smoothly with the parameters."""


class GaussianInRows(AbstractInRows):
    r"""``q_i(z) = N(z; mean_i, L_i L_i')``.

    Attributes:
        mean: (n, l).
        factor: (n, l, l), lower triangular with a positive diagonal.
    """

    mean: Float[Array, "n l"]
    factor: Float[Array, "n l l"]

    def noise(self, key: Key, s: int) -> Float[Array, "s n l"]:
        """Standard normal draws."""
        return jax.random.normal(key, (s, *self.mean.shape), jnp.result_type(self.mean))

    def transform(self, noise: Float[Array, "s n l"]) -> tuple[Array, Float[Array, "s n"]]:
        """``mean + L noise`` and its log density."""
        latents = self.mean + jnp.einsum("nij,snj->sni", self.factor, noise)
        return latents, self._of_noise(noise)

    def log_density(self, latents: Float[Array, "s n l"]) -> Float[Array, "s n"]:
        """``log N(z; mean, L L')``."""
        return self._of_noise(_solved(self.factor, latents - self.mean))

    def is_smooth(self) -> bool:
        """They do."""
        return True

    def _of_noise(self, noise: Float[Array, "s n l"]) -> Float[Array, "s n"]:
        log_root = jnp.log(jnp.diagonal(self.factor, axis1=-2, axis2=-1)).sum(-1)
        squares = (noise**2).sum(-1)
        return -0.5 * (squares + noise.shape[-1] * LOG_TWO_PI) - log_root


class FiniteInRows(AbstractInRows):
    r"""Independent coordinates that take one of m values each: ``q_i(z) = prod_j q_ij(z_j)``.

    Attributes:
        log_probability: (n, ..., m), normalised over the last axis.
        values: (m,) what a coordinate may be.
    """

    log_probability: Float[Array, "n *l m"]
    values: Array

    def noise(self, key: Key, s: int) -> Float[Array, "s n *l"]:
        """Uniform numbers, one for each coordinate."""
        shape = (s, *self.log_probability.shape[:-1])
        return jax.random.uniform(key, shape, self.log_probability.dtype)

    def transform(self, noise: Float[Array, "s n *l"]) -> tuple[Array, Float[Array, "s n"]]:
        """The value that the uniform number falls on, and the log probability of all."""
        edges = jnp.cumsum(jnp.exp(self.log_probability), axis=-1)[..., :-1]
        which = (noise[..., None] >= edges).sum(-1)
        latents = jnp.asarray(self.values)[which]
        return latents, self.log_density(latents)

    def log_density(self, latents: Array) -> Float[Array, "s n"]:
        """The sum of the coordinates' log probabilities."""
        chosen = latents[..., None] == self.values
        each = jnp.where(chosen, self.log_probability, 0.0).sum(-1)
        return each.reshape(*each.shape[:2], -1).sum(-1)

    def is_smooth(self) -> bool:
        """They jump."""
        return False


def _solved(factor: Float[Array, "n l l"], right: Float[Array, "s n l"]) -> Float[Array, "s n l"]:
    """``L^-1 b`` for every draw: few dimensions by substitution, several times as fast."""
    l = factor.shape[-1]
    if l > _FEW:
        return jnp.einsum("nij,snj->sni", _factors.inverse_triangle(factor), right)
    found: list[Array] = []
    for i in range(l):
        rest = right[..., i]
        for j, known in enumerate(found):
            rest = rest - factor[:, i, j] * known
        found.append(rest / factor[:, i, i])
    return jnp.stack(found, axis=-1)
