"""A density of the user's own, climbed from where it stands."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._types import Array
from minorant.families.base import AbstractFamily, Climb, Reached
from minorant.posteriors.members import AbstractMember

_LOOKED_AT = 8
_CLOSE = 1e-4


@dataclasses.dataclass(frozen=True)
class Given(AbstractFamily):
    """The members that any values of a density's float arrays make.

    Args:
        member: an :class:`minorant.posteriors.AbstractMember` over the target's free coordinates,
            where the climb is to start.

    Raises:
        ValueError: when climbed, for a member of another size, or whose draws do not come with its
            own log density.
    """

    member: AbstractMember
    name: ClassVar[str] = "given"
    takes_bound: ClassVar[bool] = True

    def rung(self, climb: Climb) -> Reached:
        """Stochastic ascent on the path derivative of the bound."""
        start = jax.tree.map(_wide, self.member)
        _check(start, climb.target.size, climb.key(9))
        member, sentence = climb.ascended(start)
        return Reached(member, f"{type(self.member).__name__}, {sentence}")


def _wide(leaf: Any) -> Any:
    """Float arrays in float64, as the target is."""
    is_float = hasattr(leaf, "dtype") and np.issubdtype(leaf.dtype, np.floating)
    return np.asarray(leaf, np.float64) if is_float else leaf


def _check(member: AbstractMember, p: int, key: Any) -> None:
    name = type(member).__name__
    if member.size != p:
        raise ValueError(
            f"posterior is a {name} over {member.size} numbers; the target has {p} free "
            "coordinates (target.size): give a member of that size."
        )
    points, log_q, again = jax.device_get(_look(member, key))
    if points.shape != (_LOOKED_AT, p) or log_q.shape != (_LOOKED_AT,):
        raise ValueError(
            f"{name}.transform must return draws of shape (s, {p}) and their log densities, (s,); "
            f"for s = {_LOOKED_AT} it returned {points.shape} and {log_q.shape}."
        )
    # NaN at the start is what the climb itself reports.
    off = np.abs(log_q - again) > _CLOSE * (1.0 + np.abs(log_q))
    if off.any():
        raise ValueError(
            f"{name}.transform says log q = {log_q[off][0]:.6g} of a draw of which "
            f"{name}.log_density says {again[off][0]:.6g}: both must be the density that its draws "
            "have."
        )


def _looked_at(
    member: AbstractMember, key: Any
) -> tuple[Float[Array, "s p"], Float[Array, " s"], Float[Array, " s"]]:
    points, log_q = member.transform(member.noise(key, _LOOKED_AT))
    return points, log_q, member.log_density(points)


_look = _config.quick_jit(_looked_at, "once")
