"""A normal distribution over l latent dimensions for every row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _factors, _linalg
from minorant._types import Array, Key
from minorant.posteriors.base import AbstractPosterior


class Gaussian(AbstractPosterior):
    r"""``q(z) = N(z; mean, covariance)`` per row.

    Attributes:
        mean: ``(n, l)``.
        covariance: ``(n, l, l)``, or ``(1, l, l)`` where all rows have the same.

    Example:
        >>> import numpy as np
        >>> from minorant.posteriors import Gaussian
        >>> q = Gaussian(np.zeros((3, 1)), np.ones((1, 1, 1)))
        >>> np.round(q.log_density(np.zeros((3, 1))), 4)
        array([-0.9189, -0.9189, -0.9189])
    """

    mean: Float[Array, "n l"]
    covariance: Float[Array, "#n l l"]

    def sample(self, key: Key) -> Float[Array, "n l"]:
        """One draw for every row."""
        noise = jax.random.normal(key, self.mean.shape, dtype=self.mean.dtype)
        return self.mean + jnp.einsum(
            "...ij,...j->...i", _factors.cholesky(jnp.asarray(self.covariance)), noise
        )

    def log_density(self, latents: Float[Array, "n l"]) -> Float[Array, " n"]:
        """``log q(z)``; NumPy in, NumPy out."""
        xp = np if isinstance(self.mean, np.ndarray) else jnp
        if xp is np:
            factor = np.linalg.cholesky(self.covariance)
            half = np.linalg.solve(factor, (latents - self.mean)[..., None])[..., 0]
        else:
            factor, inverse = _factors.factored(jnp.asarray(self.covariance))
            half = (inverse @ (latents - self.mean)[..., None])[..., 0]
        log_root = xp.log(xp.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)
        constant = 0.5 * self.mean.shape[-1] * _linalg.LOG_TWO_PI
        return -0.5 * (half * half).sum(-1) - log_root - constant

    @property
    def standard_deviation(self) -> Float[Array, "#n l"]:
        """Of each latent dimension by itself."""
        xp = np if isinstance(self.mean, np.ndarray) else jnp
        return xp.sqrt(xp.diagonal(self.covariance, axis1=-2, axis2=-1))

    def by_row(self) -> tuple[Float[Array, "n l"], Float[Array, "n l l"]]:
        """Means and covariances, one of each for every row."""
        xp = np if isinstance(self.mean, np.ndarray) else jnp
        n, l = self.mean.shape
        return self.mean, xp.broadcast_to(self.covariance, (n, l, l))

    @staticmethod
    def from_rows(by_row: tuple[Float[Array, "n l"], Float[Array, "n l l"]]) -> Gaussian:
        """From means and covariances."""
        return Gaussian(*by_row)
