"""Gaussians with any covariance, by natural-gradient steps on held, moment-matched draws."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from minorant.families._gaussian import climbed, gaussians, member_of
from minorant.families.base import AbstractFamily, Climb, Reached
from minorant.solvers.natural import GaussianClimb, draws_for

_MOST = 64
_WORK = 2**25


class FullRank(AbstractFamily):
    """The Gaussian with the best bound, climbed on until it is near its family's best.

    See :mod:`minorant.solvers.natural` for the equations and their sources. Not for: more unknowns
    than a covariance of all of them fits.
    """

    name: ClassVar[str] = "full-rank"
    after: ClassVar[tuple[str, ...]] = ("mode",)
    most: ClassVar[int | None] = 1500

    def rung(self, climb: Climb) -> Reached:
        """From every mode and the plain start; the best of these to the end."""
        found = gaussians(climb)
        best = int(np.argmax([float(one.moments.bound) for one in found]))
        found[best], sentence = _refined(climb, found[best])
        return Reached(member_of(found[best]), sentence)


def _refined(climb: Climb, state: GaussianClimb) -> tuple[GaussianClimb, str]:
    """Climbed on as many draws as bring it near its family's best, or as are affordable.

    Fresh draws tell how far the first ones led astray; m times as many lead astray 1/m as far.
    """
    target, p = climb.target, climb.target.size
    if climb.left() < 0:
        return state, f"{state.count} steps, not refined: the time is over"
    probe = climbed(target, state.mean, state.factor, climb.key(3), 1, -1.0, 1)
    noise = 0.5 * float(probe.left)
    if not np.isfinite(noise):
        return state, f"{state.count} steps; fresh draws are not all finite"
    wanted = 0.01 * climb.accuracy
    affordable = max(4, min(_MOST, _WORK // (draws_for(p) * p)))
    chunks = int(np.clip(np.ceil(noise / wanted), 4, affordable))
    aim = max(wanted, 2.0 * noise / chunks)
    end = climbed(target, state.mean, state.factor, climb.key(4), chunks, aim, 60)
    steps = int(state.count) + int(end.count)
    return end, f"{steps} steps, about {noise / chunks:.1g} nats from the best of its family"
