r"""Members of variational families: densities q over one vector of free coordinates.

A member draws by transforming noise that does not depend on its parameters, so that the gradient of
an average over draws is an average of gradients; its float array leaves are its parameters. All
methods take many vectors at once, one per row.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _factors
from minorant._types import Array, Key

_LOG_TWO_PI = float(np.log(2.0 * np.pi))


class AbstractMember(eqx.Module):
    """One density q over vectors of ``size`` numbers, which draws and says its density."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many numbers a vector has."""

    @abstractmethod
    def noise(self, key: Key, s: int) -> Float[Array, "s e"]:
        """``s`` draws of what is transformed; free of parameters."""

    @abstractmethod
    def transform(
        self, noise: Float[Array, "s e"]
    ) -> tuple[Float[Array, "s p"], Float[Array, " s"]]:
        """Draws from noise, and ``log q`` of each; differentiable in the parameters."""

    @abstractmethod
    def log_density(self, draws: Float[Array, "s p"]) -> Float[Array, " s"]:
        """``log q`` of any vectors, in nats."""

    def sample(self, key: Key, s: int) -> Float[Array, "s p"]:
        """``s`` independent draws."""
        return self.transform(self.noise(key, s))[0]


class AbstractGaussian(AbstractMember):
    """What Gaussians made of as many standard normal numbers as they have coordinates share."""

    mean: eqx.AbstractVar[Float[Array, " p"]]

    @property
    def size(self) -> int:
        """How many numbers a vector has."""
        return self.mean.shape[-1]

    def noise(self, key: Key, s: int) -> Float[Array, "s p"]:
        """Standard normal draws."""
        return jax.random.normal(key, (s, self.size), jnp.result_type(self.mean))


class FullRank(AbstractGaussian):
    r"""A Gaussian with any covariance.

    .. math:: q(z) = N(z \mid \mu, L L^\top)

    Attributes:
        mean: (p,).
        factor: (p, p), lower triangular.
    """

    mean: Float[Array, " p"]
    factor: Float[Array, "p p"]

    def transform(self, noise: Float[Array, "s p"]) -> tuple[Array, Array]:
        """``mean + L noise`` and its log density."""
        return self.mean + noise @ jnp.tril(self.factor).T, self._log_volume(noise)

    def log_density(self, draws: Float[Array, "s p"]) -> Float[Array, " s"]:
        """``log N(z | mean, L L')``."""
        inverse = _factors.inverse_triangle(jnp.tril(self.factor))
        return self._log_volume((draws - self.mean) @ inverse.T)

    def _log_volume(self, noise: Array) -> Float[Array, " s"]:
        log_determinant = jnp.log(jnp.abs(jnp.diagonal(self.factor))).sum()
        return log_standard_normal(noise) - log_determinant

    @property
    def covariance(self) -> Float[Array, "p p"]:
        """``L L'``."""
        lower = jnp.tril(self.factor)
        return lower @ lower.T


class MeanField(AbstractGaussian):
    r"""A Gaussian with independent coordinates.

    .. math:: q(z) = \prod_j N(z_j \mid \mu_j, \sigma_j^2)

    Its variances are too small where coordinates depend on each other (Turner & Sahani, 2011): it
    is for dimensions in which a full covariance does not fit.

    Attributes:
        mean: (p,).
        log_scale: (p,), the logarithms of the standard deviations.
    """

    mean: Float[Array, " p"]
    log_scale: Float[Array, " p"]

    def transform(self, noise: Float[Array, "s p"]) -> tuple[Array, Array]:
        """``mean + scale * noise`` and its log density."""
        draws = self.mean + noise * jnp.exp(self.log_scale)
        return draws, log_standard_normal(noise) - self.log_scale.sum()

    def log_density(self, draws: Float[Array, "s p"]) -> Float[Array, " s"]:
        """The sum of the coordinates' log densities."""
        noise = (draws - self.mean) * jnp.exp(-self.log_scale)
        return log_standard_normal(noise) - self.log_scale.sum()


class LowRank(AbstractMember):
    r"""A Gaussian whose covariance is diagonal plus low rank.

    .. math:: q(z) = N(z \mid \mu, D^2 + D U U^\top D), \quad D = \mathrm{diag}(\sigma)

    Attributes:
        mean: (p,).
        log_scale: (p,), the logarithms of ``sigma``.
        directions: (p, r), U, in units of ``sigma``.
    """

    mean: Float[Array, " p"]
    log_scale: Float[Array, " p"]
    directions: Float[Array, "p r"]

    @property
    def size(self) -> int:
        """How many numbers a vector has."""
        return self.mean.shape[-1]

    def noise(self, key: Key, s: int) -> Float[Array, "s e"]:
        """Standard normal draws, p for the diagonal and r for the directions."""
        width = self.size + self.directions.shape[-1]
        return jax.random.normal(key, (s, width), jnp.result_type(self.mean))

    def transform(self, noise: Float[Array, "s e"]) -> tuple[Array, Array]:
        """``mean + sigma (e + U f)`` and its log density."""
        p = self.size
        standard = noise[:, :p] + noise[:, p:] @ self.directions.T
        draws = self.mean + standard * jnp.exp(self.log_scale)
        return draws, self._log_standard(standard)

    def log_density(self, draws: Float[Array, "s p"]) -> Float[Array, " s"]:
        """By Woodbury's identity and the determinant lemma, in O(p r)."""
        return self._log_standard((draws - self.mean) * jnp.exp(-self.log_scale))

    def _log_standard(self, standard: Array) -> Float[Array, " s"]:
        """``log N(v | 0, I + U U')`` less the sum of log scales."""
        r = self.directions.shape[-1]
        inner = jnp.eye(r, dtype=standard.dtype) + self.directions.T @ self.directions
        factor, inverse = _factors.factored(inner)
        explained = standard @ self.directions @ inverse.T
        squares = (standard**2).sum(-1) - (explained**2).sum(-1)
        log_determinant = jnp.log(jnp.diagonal(factor)).sum() + self.log_scale.sum()
        return -0.5 * (squares + self.size * _LOG_TWO_PI) - log_determinant


class Blend(AbstractMember):
    r"""A mixture of Gaussians, for modes that lie apart.

    .. math:: q(z) = \sum_k \pi_k N(z \mid \mu_k, L_k L_k^\top)

    Where components do not overlap, the best weights are :math:`\pi_k \propto e^{L_k}`, with
    :math:`L_k` the bound of component k alone. Draws are stratified: the noise says by a uniform
    number which component it goes to, so that weights have no reparametrised gradient.

    Attributes:
        log_weights: (k,), normalised.
        means: (k, p).
        factors: (k, p, p), lower triangular.
    """

    log_weights: Float[Array, " k"]
    means: Float[Array, "k p"]
    factors: Float[Array, "k p p"]

    @classmethod
    def of(cls, members: list[FullRank], log_weights: Float[np.ndarray, " k"]) -> Self:
        """From Gaussians and the logarithms of their weights (normalised here)."""
        relative = np.asarray(log_weights) - np.max(log_weights)
        return cls(
            relative - np.log(np.exp(relative).sum()),
            np.stack([np.asarray(m.mean) for m in members]),
            np.stack([np.tril(np.asarray(m.factor)) for m in members]),
        )

    @property
    def size(self) -> int:
        """How many numbers a vector has."""
        return self.means.shape[-1]

    def noise(self, key: Key, s: int) -> Float[Array, "s e"]:
        """One stratified uniform number and p standard normal ones a draw."""
        first, second = jax.random.split(key)
        dtype = jnp.result_type(self.means)
        uniform = (jnp.arange(s) + jax.random.uniform(first, (s,), dtype)) / s
        return jnp.column_stack([uniform, jax.random.normal(second, (s, self.size), dtype)])

    def transform(self, noise: Float[Array, "s e"]) -> tuple[Array, Array]:
        """The component's draw, and the log density under the whole mixture."""
        edges = jnp.cumsum(jnp.exp(self.log_weights))[:-1]
        which = (noise[:, :1] >= edges).sum(1)
        shift = jnp.einsum("se,kpe->skp", noise[:, 1:], self.factors)
        draws = jnp.take_along_axis(self.means + shift, which[:, None, None], 1)[:, 0]
        return draws, self.log_density(draws)

    def log_density(self, draws: Float[Array, "s p"]) -> Float[Array, " s"]:
        """``log sum_k pi_k N_k``."""
        inverses = _factors.inverse_triangle(jnp.tril(self.factors))
        away = draws[:, None] - self.means
        noise = jnp.einsum("skp,kqp->skq", away, inverses)
        diagonal = jnp.abs(jnp.diagonal(self.factors, axis1=-2, axis2=-1))
        each = log_standard_normal(noise) - jnp.log(diagonal).sum(-1)
        return jax.nn.logsumexp(each + self.log_weights, axis=1)


def log_standard_normal(noise: Float[Array, "*s p"]) -> Float[Array, "*s"]:
    """``log N(e | 0, I)``, in nats."""
    return -0.5 * ((noise**2).sum(-1) + noise.shape[-1] * _LOG_TWO_PI)
