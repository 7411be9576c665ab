"""Exponential families on the supports of unknowns: the factors of products."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, log_ndtr
from jaxtyping import Bool, Float

from minorant._types import Array
from minorant.posteriors.exponential import AbstractFactor
from minorant.unknowns import AbstractUnknown, Bounded, Real, Simplex, contrasts

_NARROW = 400.0


class Normal(AbstractFactor):
    r"""Normal in the free coordinate: log-normal where it is a logarithm, logit-normal a logit.

    Natural parameters are :math:`\mu / \sigma^2` and :math:`1 / \sigma^2`.
    """

    natural: Any = None
    supports: ClassVar[tuple[str, ...]] = ("real", "positive", "interval", "simplex", "other")

    def around(self, free: Float[np.ndarray, "b c"]) -> Self:
        """With standard deviation 1/20."""
        precision = np.full(np.shape(free)[0], _NARROW)
        return type(self)(np.stack([precision * free[:, 0], precision], 1))

    def shapes(self) -> None:
        """Made of noise."""
        return

    def transform(self, base: Float[Array, "s b e"]) -> Float[Array, "s b c"]:
        """``mean + sd * noise``."""
        first, precision = self.natural[:, :1], self.natural[:, 1:]
        return first / precision + base / jnp.sqrt(precision)

    def statistics(self, free: Float[Array, "s b c"]) -> Float[Array, "s b m"]:
        """``(u, -u^2 / 2)``."""
        return jnp.concatenate([free, -0.5 * free**2], -1)

    def log_base(self, free: Float[Array, "s b c"]) -> Float[Array, "s b"]:
        """The constant of the normal density."""
        return jnp.full(free.shape[:2], -0.5 * np.log(2 * np.pi))

    def log_normaliser(self, natural: Float[Array, "b m"]) -> Float[Array, " b"]:
        """``mean^2 precision / 2 - log(precision) / 2``."""
        return 0.5 * natural[:, 0] ** 2 / natural[:, 1] - 0.5 * jnp.log(natural[:, 1])

    def is_positive(self) -> Bool[np.ndarray, " m"]:
        """The precision."""
        return np.array([False, True])

    def mean_log_base(self) -> Float[Array, " b"]:
        """The constant."""
        return jnp.full(len(self.natural), -0.5 * np.log(2 * np.pi))


class Gamma(AbstractFactor):
    """Gamma with shape a and rate b, of numbers above (or below) a bound."""

    natural: Any = None
    supports: ClassVar[tuple[str, ...]] = ("positive",)

    def around(self, free: Float[np.ndarray, "b c"]) -> Self:
        """With its mode in u at the point."""
        shape = np.full(len(free), _NARROW)
        return type(self)(np.stack([shape, shape * np.exp(-free[:, 0])], 1))

    def shapes(self) -> Float[Array, "b e"]:
        """The shape."""
        return self.natural[:, :1]

    def transform(self, base: Float[Array, "s b e"]) -> Float[Array, "s b c"]:
        """Logarithms, shifted by the rate's."""
        return base - jnp.log(self.natural[:, 1:])

    def statistics(self, free: Float[Array, "s b c"]) -> Float[Array, "s b m"]:
        """``(u, -e^u)``."""
        return jnp.concatenate([free, -jnp.exp(free)], -1)

    def log_base(self, free: Float[Array, "s b c"]) -> Float[Array, "s b"]:
        """0."""
        return jnp.zeros(free.shape[:2])

    def log_normaliser(self, natural: Float[Array, "b m"]) -> Float[Array, " b"]:
        """``log Gamma(a) - a log b``."""
        return gammaln(natural[:, 0]) - natural[:, 0] * jnp.log(natural[:, 1])

    def is_positive(self) -> Bool[np.ndarray, " m"]:
        """Both."""
        return np.array([True, True])

    def mean_log_base(self) -> Float[Array, " b"]:
        """0."""
        return jnp.zeros(len(self.natural))


class Exponential(AbstractFactor):
    """Exponential with rate b, of numbers above (or below) a bound."""

    natural: Any = None
    supports: ClassVar[tuple[str, ...]] = ("positive",)

    def around(self, free: Float[np.ndarray, "b c"]) -> Self:
        """With the point as its mean."""
        return type(self)(np.exp(-free))

    def shapes(self) -> None:
        """Made of noise."""
        return

    def transform(self, base: Float[Array, "s b e"]) -> Float[Array, "s b c"]:
        """Logarithms of quantiles, in closed form."""
        return jnp.log(-log_ndtr(-base)) - jnp.log(self.natural)

    def statistics(self, free: Float[Array, "s b c"]) -> Float[Array, "s b m"]:
        """``-e^u``."""
        return -jnp.exp(free)

    def log_base(self, free: Float[Array, "s b c"]) -> Float[Array, "s b"]:
        """The Jacobian, ``u``."""
        return free[..., 0]

    def log_normaliser(self, natural: Float[Array, "b m"]) -> Float[Array, " b"]:
        """``-log b``."""
        return -jnp.log(natural[:, 0])

    def is_positive(self) -> Bool[np.ndarray, " m"]:
        """The rate."""
        return np.array([True])

    def mean_log_base(self) -> Float[Array, " b"]:
        """``E[u]``, minus Euler's constant less log b."""
        return -np.euler_gamma - jnp.log(self.natural[:, 0])


class Beta(AbstractFactor):
    """Beta with parameters a and b, of numbers between two bounds, in units of that interval."""

    natural: Any = None
    supports: ClassVar[tuple[str, ...]] = ("interval",)
    n_noise: ClassVar[int | None] = 2

    def around(self, free: Float[np.ndarray, "b c"]) -> Self:
        """With its mode in u at the point."""
        share = 1.0 / (1.0 + np.exp(-free[:, 0]))
        n = _NARROW / np.maximum(share * (1.0 - share), 1e-3)
        return type(self)(np.maximum(np.stack([n * share, n * (1.0 - share)], 1), 1.0))

    def shapes(self) -> Float[Array, "b e"]:
        """Both."""
        return self.natural

    def transform(self, base: Float[Array, "s b e"]) -> Float[Array, "s b c"]:
        """The difference of two gamma variables' logarithms."""
        return base[..., :1] - base[..., 1:]

    def statistics(self, free: Float[Array, "s b c"]) -> Float[Array, "s b m"]:
        """``(log x, log(1 - x))``."""
        return jnp.concatenate([jax.nn.log_sigmoid(free), jax.nn.log_sigmoid(-free)], -1)

    def log_base(self, free: Float[Array, "s b c"]) -> Float[Array, "s b"]:
        """0."""
        return jnp.zeros(free.shape[:2])

    def log_normaliser(self, natural: Float[Array, "b m"]) -> Float[Array, " b"]:
        """The logarithm of the beta function."""
        return gammaln(natural).sum(-1) - gammaln(natural.sum(-1))

    def is_positive(self) -> Bool[np.ndarray, " m"]:
        """Both."""
        return np.array([True, True])

    def mean_log_base(self) -> Float[Array, " b"]:
        """0."""
        return jnp.zeros(len(self.natural))


class Dirichlet(AbstractFactor):
    """Dirichlet, of probabilities that sum to one; k - 1 free coordinates each."""

    natural: Any = None
    supports: ClassVar[tuple[str, ...]] = ("simplex",)
    n_noise: ClassVar[int | None] = None

    def around(self, free: Float[np.ndarray, "b c"]) -> Self:
        """With its mode in u at the point."""
        ratios = free @ contrasts(free.shape[1] + 1).T
        weights = np.exp(ratios - ratios.max(-1, keepdims=True))
        share = weights / weights.sum(-1, keepdims=True)
        return type(self)(np.maximum(_NARROW * (free.shape[1] + 1) * share, 1.0))

    def shapes(self) -> Float[Array, "b e"]:
        """All parameters."""
        return self.natural

    def transform(self, base: Float[Array, "s b e"]) -> Float[Array, "s b c"]:
        """Log ratios of gamma variables."""
        return base @ contrasts(self.natural.shape[1])

    def statistics(self, free: Float[Array, "s b c"]) -> Float[Array, "s b m"]:
        """Logarithms of the probabilities."""
        return jax.nn.log_softmax(free @ contrasts(free.shape[-1] + 1).T, axis=-1)

    def log_base(self, free: Float[Array, "s b c"]) -> Float[Array, "s b"]:
        """The constant of the log ratios' Jacobian."""
        return jnp.full(free.shape[:2], 0.5 * np.log(free.shape[-1] + 1))

    def log_normaliser(self, natural: Float[Array, "b m"]) -> Float[Array, " b"]:
        """The logarithm of the multivariate beta function."""
        return gammaln(natural).sum(-1) - gammaln(natural.sum(-1))

    def is_positive(self) -> Bool[np.ndarray, " m"]:
        """All."""
        return np.ones(self.natural.shape[1], bool)

    def mean_log_base(self) -> Float[Array, " b"]:
        """The constant."""
        return jnp.full(len(self.natural), 0.5 * np.log(self.natural.shape[1]))


def support(unknown: AbstractUnknown) -> str:
    """What values an unknown may take, in one word."""
    match unknown:
        case Real():
            return "real"
        case Bounded(low=low, high=high):
            return "positive" if low is None or high is None else "interval"
        case Simplex():
            return "simplex"
    return "other"


FACTORS: dict[str, Any] = {
    "normal": Normal,
    "log-normal": Normal,
    "logit-normal": Normal,
    "gamma": Gamma,
    "exponential": Exponential,
    "beta": Beta,
    "dirichlet": Dirichlet,
}
DEFAULTS = {
    "real": "normal",
    "positive": "gamma",
    "interval": "beta",
    "simplex": "dirichlet",
    "other": "normal",
}
