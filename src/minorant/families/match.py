"""Gaussians with any covariance, by matching scores."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from minorant.families.base import AbstractFamily, Climb, Reached
from minorant.posteriors.members import FullRank
from minorant.solvers.match import matched


@dataclasses.dataclass(frozen=True)
class BatchAndMatch(AbstractFamily):
    """The Gaussian whose scores agree with the target's, from Laplace's.

    Args:
        batch: draws of a step; None for twice the unknowns, from 32 to 512.
        max_steps: limit on steps.

    Raises:
        ValueError: for a batch below 2 or no steps.

    Example:
        >>> import minorant, numpy as np
        >>> from minorant import unknowns
        >>> target = minorant.Target(lambda z: -0.5 * (z**2).sum(), z=unknowns.real(3))
        >>> fit = minorant.fit(target, posterior="batch-and-match")
        >>> bool(abs(fit.bound.value - 1.5 * np.log(2 * np.pi)) < 1e-6)
        True

    See :mod:`minorant.solvers.match` for the equations, their source, and when not to use it.
    """

    batch: int | None = None
    max_steps: int = 500
    name: ClassVar[str] = "batch-and-match"
    after: ClassVar[tuple[str, ...]] = ("mode",)
    most: ClassVar[int | None] = 1500

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 2:
            raise ValueError(f"batch must be at least 2; got {self.batch}.")
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1; got {self.max_steps}.")

    def rung(self, climb: Climb) -> Reached:
        """Closed-form updates on fresh draws."""
        start, p = climb.member("mode"), climb.target.size
        batch = self.batch or int(np.clip(2 * p, 32, 512))
        covariance = np.asarray(start.factor @ start.factor.T)
        found = matched(
            climb.target, np.asarray(start.mean), covariance, np.random.default_rng(climb.seed),
            batch, 0.1 * climb.accuracy, self.max_steps,
        )  # fmt: skip
        sentence = f"{found.steps} steps of {batch} draws" + ("" if found.over else ", cut short")
        return Reached(FullRank(found.mean, np.linalg.cholesky(found.covariance)), sentence)
