"""Where a stochastic ascent stands between two blocks of steps: all that going on needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minorant._types import PyTree
from minorant.result import Estimate, Outcome
from minorant.solvers._adam import BLOCK, Moments
from minorant.solvers._evaluations import score

Score = tuple[int, float]


class Shown(NamedTuple):
    """What a look from outside is to see of an ascent.

    Attributes:
        model: what stands at a point.
        scale: what the objective is multiplied by to be a bound in nats.
    """

    model: Callable[[PyTree], Any]
    scale: float = 1.0


class Stage(NamedTuple):
    """Steps of one size under way.

    Attributes:
        state: where they have come to.
        step_size: their size.
        calm: stages just before this one that gained less than the accuracy.
        history: what the stage is watched by, block by block.
        before: how high the best was judged when it began.
        gained: what its looks have gained.
        latest: what the last of them gained.
    """

    state: Moments
    step_size: float
    calm: int
    history: tuple[np.ndarray, ...]
    before: float
    gained: float
    latest: float


class Standing(NamedTuple):
    """An ascent under way; without ``stage`` and with ``best_values`` step sizes are being raced.

    Attributes:
        best: the best point found.
        best_values: what it was judged by; none before the start was.
        tried: of every step size raced how high it came, and where.
        stage: the steps under way.
        taken: steps, the race included.
        looks: judgements on fresh draws.
        n_refused: steps undone.
        block: steps of one call.
        raced: the step size that won the race.
        first: the one that the climb began with.
        trace: the objective, block by block.
        seconds: worked so far.
        end: how it ended, and in words.
        value: the objective at the best point, once it has ended.
        shown: what a look from outside sees.
    """

    best: PyTree
    best_values: np.ndarray
    shown: Shown | None = None
    tried: dict[float, tuple[Score, Moments]] = {}
    stage: Stage | None = None
    taken: int = 0
    looks: int = 0
    n_refused: int = 0
    block: int = BLOCK
    raced: float = 0.0
    first: float = 0.0
    trace: tuple[float, ...] = ()
    seconds: float = 0.0
    end: tuple[Outcome, str] | None = None
    value: Estimate | None = None

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        return self.end is not None

    def steps(self) -> int:
        """Steps taken."""
        return self.taken

    def bound(self) -> float | None:
        """How high the best was judged, in nats; None before it was."""
        finite, value = score(self.best_values)
        return value * (1.0 if self.shown is None else self.shown.scale) if finite else None

    def model(self) -> Any:
        """What stands at the best point; None where nobody says."""
        return None if self.shown is None else self.shown.model(self.best)
