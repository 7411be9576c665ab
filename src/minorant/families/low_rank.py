"""Gaussians whose covariance is diagonal plus a few common directions."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from minorant.families.base import AbstractFamily, Climb, Reached
from minorant.posteriors.members import LowRank as LowRankMember


@dataclasses.dataclass(frozen=True)
class LowRank(AbstractFamily):
    """Common directions added to independent coordinates, in the units of those.

    Fresh draws at every step: on held ones so many parameters would fit the draws.

    Args:
        rank: how many directions.

    Ong, Nott & Smith (2018), "Gaussian variational approximation with a factor covariance
    structure". Not for: dimensions in which a full covariance fits.
    """

    rank: int = 8
    name: ClassVar[str] = "low-rank"
    after: ClassVar[tuple[str, ...]] = ("mean-field",)
    takes_bound: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1; got {self.rank}.")

    def rung(self, climb: Climb) -> Reached:
        """By stochastic ascent from the independent coordinates."""
        p, start = climb.target.size, climb.member("mean-field")
        rank, scale = min(self.rank, p - 1), np.exp(start.log_scale)
        # At none at all the bound has no slope in them: they start small and at random.
        directions = 0.1 * np.random.default_rng(climb.seed).normal(size=(p, rank))
        member = LowRankMember(np.zeros(p), np.zeros(p), directions / np.sqrt(max(rank, 1)))
        found, sentence = climb.ascended(member, start.mean, scale)
        mean = start.mean + scale * found.mean
        member = LowRankMember(mean, start.log_scale + found.log_scale, found.directions)
        return Reached(member, f"{rank} directions, {sentence}")
