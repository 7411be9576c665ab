r"""Modes that q missed, as chains from far away find them, and q joined with them.

A mode that neither q nor chains from q ever see makes both ends of a bracket agree and be wrong. So
chains are annealed from Gaussians many times as wide as q; where they settle at places for whose
density q has no explanation, a Gaussian around them becomes part of q.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from minorant._types import Array, Key
from minorant.posteriors.members import AbstractMember, FullRank

SCALES = (3.0, 10.0)
_MARGIN = 3.0
_FEW, _MANY = 64, 3
FEWEST = 2
_MOST = 8
_FIRST = 1e-3
TEMPERATURES = 30


class Joined(AbstractMember):
    r"""A mixture of any members.

    .. math:: q(z) = \sum_k \pi_k q_k(z)

    Attributes:
        parts: the members.
        log_weights: (k,), normalised.
    """

    parts: tuple[AbstractMember, ...]
    log_weights: Float[Array, " k"]

    @classmethod
    def of(cls, parts: list[AbstractMember], log_weights: Float[np.ndarray, " k"]) -> Self:
        """From members and the logarithms of their weights (normalised here)."""
        relative = np.asarray(log_weights, float) - np.max(log_weights)
        return cls(tuple(parts), relative - np.log(np.exp(relative).sum()))

    @property
    def size(self) -> int:
        """How many numbers a vector has."""
        return self.parts[0].size

    def noise(self, key: Key, s: int) -> Float[Array, "s e"]:
        """A uniform number that chooses the part, and the noise of every part."""
        first, *keys = jax.random.split(key, 1 + len(self.parts))
        noises = [part.noise(k, s) for part, k in zip(self.parts, keys, strict=True)]
        return jnp.column_stack([jax.random.uniform(first, (s,), noises[0].dtype), *noises])

    def transform(self, noise: Float[Array, "s e"]) -> tuple[Array, Array]:
        """The chosen part's draw, and the log density under the whole."""
        edges = jnp.cumsum(jnp.exp(self.log_weights))[:-1]
        which = (noise[:, :1] >= edges).sum(1)
        draws, at = [], 1
        for part in self.parts:
            width = jax.eval_shape(lambda p=part: p.noise(jax.random.key(0), 1)).shape[1]
            draws.append(part.transform(noise[:, at : at + width])[0])
            at += width
        chosen = jnp.take_along_axis(jnp.stack(draws), which[None, :, None], 0)[0]
        return chosen, self.log_density(chosen)

    def log_density(self, draws: Float[Array, "s p"]) -> Float[Array, " s"]:
        """``log sum_k pi_k q_k``."""
        each = jnp.stack([part.log_density(draws) for part in self.parts], axis=1)
        return jax.nn.logsumexp(each + self.log_weights, axis=1)


class Astray(NamedTuple):
    """Draws of one mode that q does not explain: a Gaussian around them."""

    member: FullRank
    chains: int


def wide_scales(c: int) -> Float[np.ndarray, " c"]:
    """How many times as wide as q each far chain starts, neighbours alike."""
    return np.repeat(SCALES, -(-c // len(SCALES)))[:c]


def wide_inverse() -> Float[np.ndarray, " t"]:
    """Inverse temperatures of the far chains: evenly in logarithms."""
    return np.geomspace(_FIRST, 1.0, TEMPERATURES)


def unexplained(
    own: Float[np.ndarray, "s c"], far: Float[np.ndarray, " c"], fewest: int = FEWEST
) -> Bool[np.ndarray, " c"]:
    """Far chains whose log p - log q lies above nearly all that chains from q ever had.

    Chains in a tail of q lie there too, but chains from q visit the same tails; so one alone, or
    fewer than ``fewest``, says nothing. And one chain from q may itself have come to a mode that q
    lacks: the highest few of these count only as far as far chains are many more.
    """
    tops = np.sort(np.where(np.isfinite(own), own, -np.inf).max(0))
    few = max(len(tops) // _FEW, 1)
    top = tops[-1 - few] if len(tops) > few else -np.inf
    astray = far > top + _MARGIN
    enough = astray.sum() >= fewest + _MANY * (tops > top + _MARGIN).sum()
    return astray if enough else np.zeros_like(astray)


def clusters(
    draws: Float[np.ndarray, "s c p"],
    log_p: Float[np.ndarray, " c"],
    own: Float[np.ndarray, "m p"],
) -> list[Astray]:
    """Gaussians around the modes that astray chains have settled in, the highest first.

    Args:
        draws: of astray chains, where chains from q lie around 0 with about unit width.
        log_p: of each chain at its last draw.
        own: draws of chains from q.

    Returns:
        At most eight, in the same coordinates.
    """
    shape = np.cov(own.T).reshape(own.shape[1], -1)
    left, found = np.ones(len(log_p), bool), []
    while left.sum() >= FEWEST and len(found) < _MOST:
        highest = draws[-1, np.flatnonzero(left)[np.argmax(log_p[left])]]
        last = draws[-1]
        away = np.linalg.norm(last - highest, axis=1)
        others = [own.mean(0), *(one.member.mean for one in found)]
        nearest = np.min([np.linalg.norm(last - other, axis=1) for other in others], axis=0)
        near = left & (away < nearest)
        if not near.any():
            break
        found.append(_around(draws[:, near].reshape(-1, own.shape[1]), int(near.sum()), shape))
        left &= ~near
    return found


def _around(points: Float[np.ndarray, "m p"], chains: int, shape: np.ndarray) -> Astray:
    """Their Gaussian, drawn towards the shape of q's where there are few."""
    p, m = points.shape[1], len(points)
    seen = np.cov(points.T).reshape(p, p) if m > 1 else np.zeros((p, p))
    trust = chains / (chains + p)
    size = np.trace(seen) / np.trace(shape) if chains > 1 and np.trace(seen) > 0 else 1.0
    covariance = trust * seen + (1.0 - trust) * size * shape
    covariance += 1e-9 * np.trace(covariance) / p * np.eye(p)
    return Astray(FullRank(points.mean(0), np.linalg.cholesky(covariance)), chains)


def placed(astray: Astray, mean: Any, factor: Any) -> FullRank:
    """The Gaussian in free coordinates, from those of q's width."""
    wide = np.diag(factor) if np.ndim(factor) == 1 else np.asarray(factor)
    covariance_factor = wide @ np.asarray(astray.member.factor)
    upper = np.asarray(np.linalg.qr(covariance_factor.T, mode="r"))
    lower = (upper * np.sign(np.diag(upper))[:, None]).T
    return FullRank(np.asarray(mean) + wide @ np.asarray(astray.member.mean), lower)
