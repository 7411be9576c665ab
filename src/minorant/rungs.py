"""One rung of the ladder: a member of a family, and how tight its bound is on fresh draws."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._pareto import NEARLY_EQUAL, UNRELIABLE, averaged, smoothed
from minorant._types import Array, Key
from minorant.models.target import AbstractTarget, log_densities
from minorant.posteriors.members import AbstractMember
from minorant.result import Estimate

_NO_MEAN = 1.0


class Rung(NamedTuple):
    """What one family reached.

    Attributes:
        family: its name.
        bound: E_q[log p - log q], in nats, on draws that the climb has not seen.
        evidence: the logarithm of the mean importance weight, in nats: at least the bound, and in
            expectation at most log p(x).
        reliability: k-hat of the importance weights.
        effective: how many independent draws of the posterior the weighted draws are worth.
        drawn: how many draws it was judged on.
        seconds: wall time of the climb and of judging it.
        sentence: what the climb did.
        member: the density.
        held: the noise that it was climbed on, where that never changed; else None.
    """

    family: str
    bound: Estimate
    evidence: Estimate
    reliability: float
    effective: float
    drawn: int
    seconds: float
    sentence: str
    member: Any
    held: Any = None

    @property
    def gap(self) -> float:
        """How many nats the importance weights find above the bound."""
        return float(self.evidence.value) - float(self.bound.value)

    @property
    def is_reliable(self) -> bool:
        """Whether averages can be relied on.

        Weighted ones can where k-hat is below 0.7. Averages over q itself can where weights hardly
        differ: an average is off by at most its standard deviation times that of the weights.
        """
        return self.reliability < UNRELIABLE or self.spread < NEARLY_EQUAL

    @property
    def spread(self) -> float:
        """The standard deviation of the weights, relative to their mean."""
        return float(np.sqrt(max(self.drawn / self.effective - 1.0, 0.0)))

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.family:12s} bound {self.bound.value:12.4f} (se {self.bound.standard_error:.4f})"
            f"  log p(x) about {self.evidence.value:12.4f} (se {self.evidence.standard_error:.4f})"
            f"  k-hat {self.reliability:6.2f}  {self.seconds:6.2f} s  {self.sentence}"
        )


class Draws(NamedTuple):
    """Draws of q in free coordinates, with their log weights, raw and smoothed."""

    points: Float[np.ndarray, "s p"]
    log_weights: Float[np.ndarray, " s"]
    smoothed: Float[np.ndarray, " s"]
    reliability: float

    @property
    def is_weighted(self) -> bool:
        """Whether weights have a mean, so that averages are better with them."""
        return self.reliability < _NO_MEAN

    @property
    def probability(self) -> Float[np.ndarray, " s"]:
        """Normalised smoothed weights; equal ones where weights have no mean (k-hat from 1 on).

        Between 0.7 and 1 weighted averages are not to be relied on, but those over q alone are
        further off.
        """
        s = len(self.log_weights)
        if not self.is_weighted:
            return np.full(s, 1.0 / s)
        relative = np.exp(self.smoothed - self.smoothed.max())
        return relative / relative.sum()


def draw(target: AbstractTarget, member: AbstractMember, seed: int, s: int) -> Draws:
    """Fresh draws of a member and their importance weights."""
    points, log_weights = jax.device_get(
        _weighed(target, member, jax.random.key(seed), np.empty(s, bool))
    )
    log_weights = np.where(np.isfinite(log_weights), log_weights, -np.inf)
    return Draws(points, log_weights, *smoothed(log_weights))


def judged(family: str, target: AbstractTarget, reached: Any, seed: int) -> Rung:
    """What a family reached (member, sentence, held), its bound and evidence on fresh draws."""
    member, sentence, held = reached
    draws = draw(target, member, seed, draws_to_judge(target.size))
    s = len(draws.log_weights)
    value, differ = map(float, averaged(draws.log_weights))
    evidence = Estimate(value, differ / np.sqrt(s))
    with np.errstate(over="ignore", invalid="ignore"):
        spread = float(draws.log_weights.std() / np.sqrt(s))
    bound = Estimate(float(draws.log_weights.mean()), spread)
    effective = s / (1.0 + differ**2)
    return Rung(
        family, bound, evidence, draws.reliability, effective, s, 0.0, sentence, member, held
    )


def draws_to_judge(p: int) -> int:
    """How many draws a judgement takes: 8192, fewer where they would not fit."""
    return int(np.clip(2**25 // p, 1024, 8192))


def _weigh(
    target: AbstractTarget, member: AbstractMember, key: Key, places: Array
) -> tuple[Array, Array]:
    points, log_q = member.transform(member.noise(key, len(places)))
    return points, log_densities(target, points) - log_q


_weighed = _config.small_jit(_weigh)
