"""Mixtures of Gaussians, one for each mode that lies apart."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from minorant.families._gaussian import apart, gaussians, member_of
from minorant.families.base import AbstractFamily, Climb, Reached
from minorant.posteriors.members import Blend


class Mixture(AbstractFamily):
    """The Gaussians of modes that lie apart, weighted by the bounds of each.

    Not for: one mode of a bent shape (a flow bends), or more modes than climbs from eight starts
    find.
    """

    name: ClassVar[str] = "mixture"
    after: ClassVar[tuple[str, ...]] = ("mode", "full-rank")
    most: ClassVar[int | None] = 1500
    looks_elsewhere: ClassVar[bool] = True

    def rung(self, climb: Climb) -> Reached | None:
        """The mixture; None where one mode is all, unless it is asked for."""
        if climb.member("full-rank") is None:
            return None
        found = apart(gaussians(climb))
        if len(found) == 1 and climb.asked is not self:
            return None
        bounds = np.array([float(one.moments.bound) for one in found])
        member = Blend.of([member_of(one) for one in found], bounds)
        return Reached(member, f"{len(found)} modes that lie apart")
