"""What a family is: one object that climbs one rung of the ladder, from what the rungs below left.

A new family is a class in a file of its own with a name, the families it starts from, and one
method. ``minorant.fit(target, posterior=...)`` takes it as an object; a line in ``families`` gives
it a name.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._types import Array, Key
from minorant.bounds import AbstractBound, Elbo, path_elbo
from minorant.journal import Journal
from minorant.models.target import AbstractTarget, log_densities
from minorant.posteriors.members import AbstractMember
from minorant.result import Outcome
from minorant.rungs import Rung
from minorant.solvers.mode import climb_to_modes
from minorant.solvers.stochastic import Ascent, Shown

_LANES = 8
_MODES = 4
_PATHS = 64
_LEAST_SECONDS = 5.0


class Reached(NamedTuple):
    """Where a family's climb ended.

    Attributes:
        member: the density; it is judged on draws that the climb has not seen.
        sentence: what the climb did.
        held: the noise that it was climbed on, where that never changed; else None.
    """

    member: Any
    sentence: str
    held: Any = None


class AbstractFamily(ABC):
    """A set of densities, and how its best member is found.

    Attributes:
        name: what it is called in tables and by ``posterior=``.
        after: names of the families whose rungs are climbed before it; it may start from those.
        most: the largest number of unknowns it is for; None for any.
        is_start: whether it is a start only: its bound being tight does not end the climb.
        looks_elsewhere: whether it sees what rungs before it cannot, and so is climbed even where
            their bound is tight.
        takes_bound: whether it climbs any bound, and not the ELBO alone.

    Example:
        >>> import minorant, numpy as np
        >>> from minorant import families, unknowns
        >>> from minorant.posteriors.members import FullRank
        >>> class Unit(families.AbstractFamily):
        ...     name = "unit"
        ...     def rung(self, climb):
        ...         p = climb.target.size
        ...         return families.Reached(FullRank(climb.modes[0], np.eye(p)), "unit normal")
        >>> target = minorant.Target(lambda x: -0.5 * (x - 3.0) ** 2, x=unknowns.real())
        >>> fit = minorant.fit(target, posterior=Unit())
        >>> fit.rung.family, round(float(fit.bound.value), 4)
        ('unit', 0.9189)
    """

    name: ClassVar[str]
    after: ClassVar[tuple[str, ...]] = ()
    most: ClassVar[int | None] = None
    is_start: ClassVar[bool] = False
    looks_elsewhere: ClassVar[bool] = False
    takes_bound: ClassVar[bool] = False

    @abstractmethod
    def rung(self, climb: Climb) -> Reached | None:
        """The best member found; None where the family has nothing to add to the rungs before."""


@dataclasses.dataclass
class Climb:
    """One climb under way: the target, what is asked for, the rungs so far, and the clock.

    Attributes:
        target: what is approximated.
        starts: (c, p) points with a finite density, the highest first.
        asked: the family that was asked for; None where the best of several is.
        bound: what families that take any bound climb.
        accuracy: nats that importance weights may find above the bound.
        seconds: wall time after which no further rung is begun.
        seed: of all random numbers.
        rungs: those climbed, in order.
        shared: what families hand on to later ones, by their names.
        journal: is told where stochastic ascents stand, and where to take them up.
        interrupted: whether one was interrupted: then no further rung is begun.
    """

    target: AbstractTarget
    starts: Float[np.ndarray, "c p"]
    asked: AbstractFamily | None = None
    bound: AbstractBound = dataclasses.field(default_factory=Elbo)
    accuracy: float = 0.05
    seconds: float = 60.0
    seed: int = 0
    rungs: list[Rung] = dataclasses.field(default_factory=list)
    shared: dict[str, Any] = dataclasses.field(default_factory=dict)
    began: float = dataclasses.field(default_factory=time.perf_counter)
    journal: Journal = dataclasses.field(default_factory=Journal)
    interrupted: bool = False

    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.perf_counter() - self.began)

    def key(self, name: int) -> Any:
        """The random key of that name."""
        return jax.random.fold_in(jax.random.key(self.seed), name)

    def member(self, family: str) -> Any:
        """The density that a family's rung reached; None where it has none."""
        return next((rung.member for rung in self.rungs if rung.family == family), None)

    @functools.cached_property
    def modes(self) -> list[Float[np.ndarray, " p"]]:
        """Ends of climbs from scattered starts, the highest first, each taken once."""
        points, values, _ = to_modes(self.target, self.lanes, self.step_limit)
        return _distinct(points, values)

    @property
    def lanes(self) -> Float[np.ndarray, "c p"]:
        """The starts that are climbed from, the highest first."""
        return np.resize(self.starts, (min(_LANES, len(self.starts)), self.target.size))

    @property
    def step_limit(self) -> int:
        """How many evaluations a climb to a mode may take."""
        return 500 if self.target.size < 200 else 2000

    def ascended(self, start: Any, center: Any = 0.0, scale: Any = 1.0) -> tuple[Any, str]:
        """A member climbed on the bound by stochastic ascent in the time that is left.

        Args:
            start: a member; its float arrays are climbed over.
            center: (p,) or (): where the member's zero lies.
            scale: (p,) or (): how long the member's unit is.

        Returns:
            The best member found, and what the climb did.
        """
        seconds = max(self.left(), _LEAST_SECONDS)
        solver = Ascent(accuracy=0.2 * self.accuracy, seconds=seconds)
        objective = Objective(self.bound, self.target, np.asarray(center), np.asarray(scale))
        shown = Shown(jax.device_get)
        found = solver.climb(objective, start, self.key(6), journal=self.journal, shown=shown)
        self.interrupted = found.outcome is Outcome.INTERRUPTED
        how = f"{found.steps} steps of {found.step_size:g} and less: {found.outcome.name.lower()}"
        if not isinstance(self.bound, Elbo):
            value, error = found.value
            how += f"; {self.bound.sentence()} {float(value):.4f} (se {float(error):.4f})"
        return jax.device_get(found.parameters), how


class Objective(eqx.Module):
    """A bound of a member on fresh draws, as stochastic ascent climbs it.

    Attributes:
        bound: which one, and how it is differentiated.
        target: what is approximated.
        center: (p,) or (): where the member's zero lies.
        scale: (p,) or (): how long the member's unit is.
    """

    bound: AbstractBound
    target: AbstractTarget
    center: Array
    scale: Array

    def __call__(self, member: AbstractMember, key: Key) -> Float[Array, ""]:
        """The bound, up to the constant of ``scale``."""

        def log_density(points: Array) -> Array:
            return log_densities(self.target, self.center + self.scale * points)

        noise = member.noise(key, -(-_PATHS // self.bound.draws) * self.bound.draws)
        if isinstance(self.bound, Elbo):
            return path_elbo(log_density, member, noise)
        return self.bound.of_draws(log_density, member, noise)  # pyright: ignore


def to_modes(
    target: AbstractTarget, starts: Float[np.ndarray, "c p"], limit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where climbs from all starts end, the log density there, and whether it is a mode."""
    return jax.device_get(_to_modes(target, starts, limit))


def _distinct(points: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """End points of climbs, the highest first, those that agree taken once."""
    kept: list[int] = []
    for lane in np.argsort(-np.nan_to_num(values, nan=-np.inf)):
        away = [
            np.abs(points[lane] - points[other]).max() / (1 + np.abs(points[other]).max())
            for other in kept
        ]
        if np.isfinite(values[lane]) and all(distance > 1e-2 for distance in away):
            kept.append(int(lane))
    return [points[lane] for lane in kept[:_MODES]]


_to_modes = _config.small_jit(climb_to_modes)
