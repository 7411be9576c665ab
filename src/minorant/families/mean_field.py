"""Gaussians with independent coordinates, on held draws."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant.families.base import AbstractFamily, Climb, Reached, to_modes
from minorant.solvers.natural import matched_draws
from minorant.solvers.sample_average import AverageBound, climb_average, paired_draws

_STEPS = 200


@dataclasses.dataclass(frozen=True)
class MeanField(AbstractFamily):
    """Independent normal coordinates: the only Gaussians that fit in very many dimensions.

    Its deviations are too small where unknowns depend on each other; ``fit.linear_response`` gives
    corrected ones. See :mod:`minorant.solvers.sample_average` for the equations and their source.

    Args:
        draws: how many draws are held; an even number. The bound found is too high by about p / s
            on them, and honest on the fresh ones that it is judged by.

    Raises:
        ValueError: for an odd number of draws, or fewer than 8.
    """

    draws: int = 64
    name: ClassVar[str] = "mean-field"

    def __post_init__(self) -> None:
        if self.draws < 8 or self.draws % 2:
            raise ValueError(f"draws must be even and at least 8; got {self.draws}.")

    def rung(self, climb: Climb) -> Reached:
        """From the highest mode."""
        p = climb.target.size
        # With their covariance made exact, a Gaussian target's best member is found exactly.
        make = matched_draws if self.draws >= 4 * p else paired_draws
        draws = np.asarray(make(climb.key(2), self.draws, p))
        average = AverageBound(climb.target, draws)
        start = np.concatenate([climb.modes[0], np.full(p, np.log(1e-2))])
        point, how, is_smooth = _climbed(average, start, 1e-3 * climb.accuracy)
        member = jax.device_get(average.member(point))
        held = draws if is_smooth else None
        return Reached(member, f"on {self.draws} held draws, {how}", held)


def _climbed(
    average: AverageBound, start: Float[np.ndarray, " p"], tolerance: float
) -> tuple[Float[np.ndarray, " p"], str, bool]:
    """By Newton steps; by BFGS where the target has no second derivatives, as Stan's have not.

    Returns:
        The parameters, what was done, and whether there are second derivatives.
    """
    limits = np.float64(tolerance), np.int32(_STEPS)
    end, hidden = jax.device_get(_to_average(average, start, *limits))
    if hidden:
        points, _, done = to_modes(average, start[None], 2000)
        return points[0], "BFGS" + ("" if done[0] else ", stopped at the step limit"), False
    over = "" if end.left <= tolerance else ", stopped before its best"
    return end.point, f"{end.count} Newton steps, {end.products} products{over}", True


_to_average = _config.small_jit(climb_average)
