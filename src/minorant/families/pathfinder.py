"""Pathfinder's Gaussian: the best that climbs to modes pass by."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from minorant.families.base import AbstractFamily, Climb, Reached
from minorant.solvers.pathfinder import bounds, gaussians, paths


@dataclasses.dataclass(frozen=True)
class Pathfinder(AbstractFamily):
    """A diagonal and a few directions, from the curvature of the best of several climbs.

    It takes a few hundred evaluations and no covariance of all unknowns: a quick look, in any
    dimension. The bound is looser than that of the best Gaussian, which ``"full-rank"`` finds.

    Args:
        paths: climbs, from scattered starts.
        draws: on which every Gaussian along a path is judged.
        memory: pairs of moves that make a covariance; twice as many directions.
        evaluations: of each climb.

    Raises:
        ValueError: for an option below 1.

    Example:
        >>> import minorant, numpy as np
        >>> from minorant import unknowns
        >>> target = minorant.Target(lambda z: -0.5 * (z**2).sum(), z=unknowns.real(3))
        >>> fit = minorant.fit(target, posterior="pathfinder")
        >>> bool(abs(fit.bound.value - 1.5 * np.log(2 * np.pi)) < 1e-6)
        True

    See :mod:`minorant.solvers.pathfinder` for the equations and their source.
    """

    paths: int = 4
    draws: int = 32
    memory: int = 6
    evaluations: int = 200
    name: ClassVar[str] = "pathfinder"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1; got {self}.")

    def rung(self, climb: Climb) -> Reached:
        """The best on common draws of all paths' Gaussians."""
        starts = climb.starts[: self.paths]
        followed = paths(climb.target, starts, self.evaluations)
        found = [member for path in followed for member in gaussians(path, self.memory)]
        rng = np.random.default_rng(climb.seed)
        noise = rng.normal(size=(self.draws, climb.target.size))
        best = int(np.argmax(bounds(climb.target, found, noise)))
        return Reached(found[best], f"the best of {len(found)} along {len(starts)} paths")
