"""Normalising flows around the best Gaussian."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from minorant.families.base import AbstractFamily, Climb, Reached
from minorant.posteriors._coupling import Kind
from minorant.posteriors.flow import Flow as FlowMember
from minorant.posteriors.flow import Tails


@dataclasses.dataclass(frozen=True)
class Flow(AbstractFamily):
    """A normalising flow with learned tails, from the best Gaussian, by stochastic ascent.

    Args:
        layers: coupling layers.
        hidden: width of the networks' hidden layers; None for 2 p, from 32 to 128.
        kind: ``"affine"`` for curved modes, ``"spline"`` for edges and peaks too.
        tails: ``"student"`` for learned degrees of freedom, or ``"normal"``.

    Example:
        >>> import minorant
        >>> minorant.families.Flow(kind="spline").name  # minorant.fit(target, posterior=...)
        'flow'

    See :class:`minorant.posteriors.Flow` for the equations, their sources, and when not to use it.
    """

    layers: int = 8
    hidden: int | None = None
    kind: Kind = "affine"
    tails: Tails = "student"
    name: ClassVar[str] = "flow"
    after: ClassVar[tuple[str, ...]] = ("mode", "full-rank", "mixture")
    most: ClassVar[int | None] = 1500
    takes_bound: ClassVar[bool] = True

    def rung(self, climb: Climb) -> Reached:
        """The flow, started as the Gaussian."""
        start = climb.member("full-rank")
        flow = FlowMember.around(
            start.mean, start.factor, layers=self.layers, hidden=self.hidden, kind=self.kind,
            tails=self.tails, key=climb.key(5),
        )  # fmt: skip
        return Reached(*climb.ascended(flow))
