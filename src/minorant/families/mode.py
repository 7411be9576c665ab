"""Laplace's Gaussian: the curvature at the highest mode."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from minorant.families._gaussian import climbed, triangular
from minorant.families.base import AbstractFamily, Climb, Reached
from minorant.posteriors.members import FullRank


class Mode(AbstractFamily):
    r"""The Gaussian at the highest of several modes, with the curvature there.

    .. math:: q = N(\hat u, [-\nabla^2 \log p(\hat u)]^{-1})

    Not for: an answer of its own where the posterior is skewed or narrow in places.

    Tierney & Kadane (1986), "Accurate approximations for posterior moments and marginal densities".
    """

    name: ClassVar[str] = "mode"
    most: ClassVar[int | None] = 1500
    is_start: ClassVar[bool] = True

    def rung(self, climb: Climb) -> Reached:
        """The curvature, seen by draws very near to the mode."""
        near = 1e-3 * np.eye(climb.target.size)
        state = climbed(climb.target, climb.modes[0], near, climb.key(0), 1, 0.0, 1)
        member = FullRank(state.next_mean, triangular(state.next_factor))
        return Reached(member, "curvature at the highest mode")
