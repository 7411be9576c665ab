r"""Products of one-dimensional exponential families, each on the support of its unknown.

In the free coordinate u of an unknown every factor has the form

.. math:: \log q(u) = \eta \cdot t(u) + h(u) - A(\eta),

the Jacobian of the map from u to the unknown included. Up to constants, a gamma density of
:math:`x = e^u` is :math:`e^{a u - b e^u}`, a beta density of :math:`x = 1 / (1 + e^{-u})` is
:math:`x^a (1 - x)^b`, and a Dirichlet density of :math:`x = softmax(V u)` is
:math:`\prod_j x_j^{\alpha_j}`.

Draws are smooth in the parameters and their noise is free of them: gamma draws are quantiles,
differentiated implicitly; beta and Dirichlet draws are made of those. A batch of b entries (or of b
simplices) of one unknown is one factor.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from minorant._parameters import constant
from minorant._types import Array, Key
from minorant.posteriors._gamma_quantile import log_gamma_quantile
from minorant.posteriors.members import AbstractMember


class AbstractFactor(eqx.Module):
    """One exponential family in free coordinates, b times; a template until it has parameters.

    Attributes:
        natural: (b, m) natural parameters; None in a template.
        supports: which unknowns it is for, of ``"real"``, ``"positive"``, ``"interval"``,
            ``"simplex"``, ``"other"``.
        n_noise: standard normal numbers that a draw of one of b is made of; None: as many as
            natural parameters.
    """

    natural: eqx.AbstractVar[Any]
    supports: ClassVar[tuple[str, ...]]
    n_noise: ClassVar[int | None] = 1

    @abstractmethod
    def around(self, free: Float[np.ndarray, "b c"]) -> Self:
        """The family's narrow member at a point."""

    @abstractmethod
    def shapes(self) -> Float[Array, "b e"] | None:
        """Of the gamma variables that a draw is made of; None where it is made of noise itself."""

    @abstractmethod
    def transform(self, base: Float[Array, "s b e"]) -> Float[Array, "s b c"]:
        """Draws from the logarithms of those gamma variables, or from standard normal noise."""

    @abstractmethod
    def statistics(self, free: Float[Array, "s b c"]) -> Float[Array, "s b m"]:
        """``t(u)``."""

    @abstractmethod
    def log_base(self, free: Float[Array, "s b c"]) -> Float[Array, "s b"]:
        """``h(u)``."""

    @abstractmethod
    def log_normaliser(self, natural: Float[Array, "b m"]) -> Float[Array, " b"]:
        """``A(eta)``."""

    @abstractmethod
    def is_positive(self) -> Bool[np.ndarray, " m"]:
        """Which natural parameters must be above zero."""

    @abstractmethod
    def mean_log_base(self) -> Float[Array, " b"]:
        """``E[h(u)]``."""

    def log_density(self, free: Float[Array, "s b c"]) -> Float[Array, " s"]:
        """``eta . t + h - A``, summed over the b."""
        score = (self.statistics(free) * self.natural).sum(-1)
        return (score + self.log_base(free) - self.log_normaliser(self.natural)).sum(-1)

    def entropy(self) -> Float[Array, ""]:
        r"""Of the free coordinates, in nats: :math:`A - \eta \cdot \nabla A - E[h]`."""
        slope = jax.grad(lambda natural: self.log_normaliser(natural).sum())(self.natural)
        each = self.log_normaliser(self.natural) - (self.natural * slope).sum(-1)
        return (each - self.mean_log_base()).sum()


class Independent(AbstractMember):
    r"""Independent factors, one for each unknown, on the free coordinates in their order.

    .. math:: q(f) = \prod_j q_j(m_j + s_j f_j)\, |s_j|

    Attributes:
        factors: with parameters.
        widths: how many free coordinates each entry of each factor has.
        centre: (p,), m, a constant.
        scale: (p,), s, a constant.
    """

    factors: tuple[AbstractFactor, ...]
    widths: tuple[int, ...] = eqx.field(static=True)
    centre: Float[Array, " p"] = constant()
    scale: Float[Array, " p"] = constant()

    @property
    def size(self) -> int:
        """How many numbers a vector has."""
        return len(self.centre)

    def noise(self, key: Key, s: int) -> Float[Array, "s e"]:
        """Standard normal draws."""
        return jax.random.normal(key, (s, sum(self._noises())), jnp.result_type(self.centre))

    def transform(self, noise: Float[Array, "s e"]) -> tuple[Array, Array]:
        """Draws, factor by factor, and their log density."""
        parts, log_q = [], jnp.log(self.scale).sum()
        for factor, base in zip(self.factors, self.bases(noise), strict=True):
            free = factor.transform(base)
            log_q = log_q + factor.log_density(free)
            parts.append(free.reshape(len(noise), -1))
        return (jnp.concatenate(parts, 1) - self.centre) / self.scale, log_q

    def log_density(self, draws: Float[Array, "s p"]) -> Float[Array, " s"]:
        """The sum of the factors'."""
        parts = self.by_factor(self.centre + self.scale * draws)
        logs = [f.log_density(part) for f, part in zip(self.factors, parts, strict=True)]
        return sum(logs, jnp.log(self.scale).sum())

    def entropy(self) -> Float[Array, ""]:
        """Of the free coordinates, in nats, in closed form."""
        return sum((f.entropy() for f in self.factors), -jnp.log(self.scale).sum())

    def bases(self, noise: Float[Array, "s e"]) -> list[Float[Array, "s b e"]]:
        """What each factor's draws are made of: gamma variables' logarithms, or noise itself."""
        found = self._quantiles(noise, lambda *arguments: (log_gamma_quantile(*arguments),))
        parts = self._split(noise)
        return [p if one is None else one[0] for p, one in zip(parts, found, strict=True)]

    def bases_and_slopes(
        self, noise: Float[Array, "s e"]
    ) -> tuple[list[Float[Array, "s b e"]], list[Array | None]]:
        """``bases``, and their derivatives by the shapes; those cannot be differentiated."""
        found = self._quantiles(noise, _with_slope)
        parts = self._split(noise)
        bases = [p if one is None else one[0] for p, one in zip(parts, found, strict=True)]
        return bases, [None if one is None else one[1] for one in found]

    def _quantiles(self, noise: Float[Array, "s e"], function: Callable) -> list[Any]:
        """Answers of a function of noise and shapes; None for factors that have no shapes.

        All factors' are found together: quantiles take long to compile.
        """
        shapes: list[Any] = [factor.shapes() for factor in self.factors]
        parts = self._split(noise)
        have = [j for j, shape in enumerate(shapes) if shape is not None]
        if not have:
            return [None] * len(parts)
        wide = [jnp.broadcast_to(shapes[j], parts[j].shape).ravel() for j in have]
        z = jnp.concatenate([parts[j].ravel() for j in have])
        ends = np.cumsum([parts[j].size for j in have])[:-1]
        split = [jnp.split(one, ends) for one in function(z, jnp.concatenate(wide))]
        found: list[Any] = [None] * len(parts)
        for place, j in enumerate(have):
            found[j] = tuple(one[place].reshape(parts[j].shape) for one in split)
        return found

    def _split(self, noise: Float[Array, "s e"]) -> list[Float[Array, "s b e"]]:
        parts = jnp.split(noise, np.cumsum(self._noises())[:-1], axis=1)
        return [
            part.reshape(len(noise), len(factor.natural), -1)
            for part, factor in zip(parts, self.factors, strict=True)
        ]

    def by_factor(self, points: Float[Array, "s p"]) -> list[Float[Array, "s b c"]]:
        """Each factor's part of vectors."""
        sizes = [len(f.natural) * c for f, c in zip(self.factors, self.widths, strict=True)]
        parts = jnp.split(points, np.cumsum(sizes)[:-1], axis=1)
        return [p.reshape(len(points), -1, c) for p, c in zip(parts, self.widths, strict=True)]

    def _noises(self) -> list[int]:
        shapes = [(factor.natural.shape, factor.n_noise) for factor in self.factors]
        return [b * (m if each is None else each) for (b, m), each in shapes]


def _with_slope(z: Array, shape: Array) -> tuple[Array, Array]:
    tangents = jnp.zeros_like(z), jnp.ones_like(z)
    return jax.jvp(log_gamma_quantile, (z, shape), tangents)
