"""Gaussians with independent coordinates, stretched along a few directions: many dimensions."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from minorant._types import Array
from minorant.posteriors.members import AbstractGaussian, log_standard_normal


class Stretched(AbstractGaussian):
    r"""A Gaussian whose covariance differs from a diagonal one along a few directions.

    .. math:: q(z) = N(z \mid \mu, D (I + Q\, \mathrm{diag}(e^{2 \rho} - 1)\, Q^\top) D)

    Unlike a sum of a diagonal and directions it may also be narrower along some of them; draws and
    densities take O(p r).

    Attributes:
        mean: (p,).
        log_scale: (p,), the logarithms of the diagonal of D.
        directions: (p, r), Q, orthonormal columns.
        log_stretch: (r,), rho.
    """

    mean: Float[Array, " p"]
    log_scale: Float[Array, " p"]
    directions: Float[Array, "p r"]
    log_stretch: Float[Array, " r"]

    def transform(self, noise: Float[Array, "s p"]) -> tuple[Array, Array]:
        """Noise stretched and scaled, and its log density."""
        standard = self._along(noise, jnp.expm1(self.log_stretch))
        return self.mean + standard * jnp.exp(self.log_scale), self._log_volume(noise)

    def log_density(self, draws: Float[Array, "s p"]) -> Float[Array, " s"]:
        """Of any vectors, in nats."""
        standard = (draws - self.mean) * jnp.exp(-self.log_scale)
        return self._log_volume(self._along(standard, jnp.expm1(-self.log_stretch)))

    def _along(self, vectors: Array, by: Array) -> Array:
        return vectors + (vectors @ self.directions * by) @ self.directions.T

    def _log_volume(self, noise: Array) -> Float[Array, " s"]:
        return log_standard_normal(noise) - self.log_scale.sum() - self.log_stretch.sum()
