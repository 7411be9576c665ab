"""What families of Gaussians share: compiled climbs, and which of several lie apart."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._types import Array
from minorant.families.base import Climb
from minorant.models.target import AbstractTarget
from minorant.posteriors.members import FullRank
from minorant.solvers.natural import GaussianClimb, climb_gaussian

_COARSE = 1e-2
_FAR = 7.0


def climbed(
    target: AbstractTarget, mean: Any, factor: Any, key: Any, chunks: int, tolerance: float,
    steps: int,
) -> GaussianClimb:  # fmt: skip
    """A climb on the host, the arguments' types fixed so that it is compiled once."""
    arguments = (np.int32(chunks), np.float64(tolerance), np.int32(steps))
    return jax.device_get(_to_gaussian(target, mean, factor, key, *arguments))


def gaussians(climb: Climb) -> list[GaussianClimb]:
    """The best Gaussian from every mode and from the plain start, coarsely; made once."""
    if "gaussians" not in climb.shared:
        # A mode may be a spike, as high as it is thin (hierarchies): the plain start competes.
        found: list[GaussianClimb] = []
        for point in [*climb.modes, climb.lanes[0]]:
            if not found or climb.left() > 0:
                found.append(_from(climb, point))
        climb.shared["gaussians"] = found
    return climb.shared["gaussians"]


def _from(climb: Climb, point: np.ndarray) -> GaussianClimb:
    start = 1e-2 * np.eye(climb.target.size)
    return climbed(climb.target, point, start, climb.key(1), 1, _COARSE, 100)


def apart(found: list[GaussianClimb]) -> list[GaussianClimb]:
    """Those that lie apart and hold a share worth having, the best first."""
    first, *rest = sorted(found, key=lambda one: -float(one.moments.bound))
    kept = [first]
    for one in rest:
        is_low = float(one.moments.bound) <= float(first.moments.bound) - _FAR
        if not is_low and all(_are_apart(one, other) for other in kept):
            kept.append(one)
    return kept


def _are_apart(one: GaussianClimb, other: GaussianClimb) -> bool:
    """Whether two Gaussians' means lie apart by their widths."""
    away = one.mean - other.mean
    near = [np.linalg.norm(np.linalg.solve(climb.factor, away)) for climb in (one, other)]
    return bool(max(near) > 3.0)


def member_of(state: GaussianClimb) -> FullRank:
    """The Gaussian of a climb."""
    return FullRank(state.mean, triangular(state.factor))


def triangular(factor: Array) -> Float[np.ndarray, "p p"]:
    """The lower triangular square root with a positive diagonal of the same covariance."""
    upper = np.asarray(np.linalg.qr(np.asarray(factor).T, mode="r"))
    return (upper * np.sign(np.diag(upper))[:, None]).T


_to_gaussian = _config.small_jit(climb_gaussian)
