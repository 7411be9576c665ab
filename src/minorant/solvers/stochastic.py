r"""Stochastic ascent that finds its own step size, averages its iterates and stops by rule.

.. math:: \max_\phi \; E_{\xi}[f(\phi, \xi)], \qquad \phi \text{ the float arrays of any pytree}

One compiled program does it all: Adam's steps, as many as it is told, at a step size that it is
told. The race between step sizes runs it from one start with the same random numbers; a judgement
runs it with step size 0 on fresh ones. So a climb compiles once, and candidates are compared on
common draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float

from minorant._types import Array, Key, PyTree
from minorant.journal import Journal
from minorant.result import Estimate, Outcome
from minorant.solvers._course import Course
from minorant.solvers._standing import Shown, Standing

_NOBODY = Journal()


class Ascended(NamedTuple):
    """The answer of a stochastic ascent.

    Attributes:
        parameters: the best found, as judged on draws that it was not climbed on.
        value: the objective there, on draws used for nothing else, with its standard error.
        outcome: how it ended.
        steps: gradient steps, the race included.
        trace: the objective at every block of 100 steps of the climb, averaged over the block.
        step_size: the one that the climb began with.
        n_refused: steps undone because value or gradient were not finite.
        sentence: how it ended, in words.
    """

    parameters: PyTree
    value: Estimate
    outcome: Outcome
    steps: int
    trace: Float[np.ndarray, " blocks"]
    step_size: float
    n_refused: int
    sentence: str


class Ascent(eqx.Module):
    r"""Adam with its step size raced, iterates averaged, non-finite steps undone, and a stop.

    Args:
        accuracy: nats; it ends when two step sizes in turn, each 0.3 of the one before it and none
            above the one that won the race, gain less than this on fresh draws.
        max_steps: limit on gradient steps.
        seconds: limit on wall-clock time, looked at between blocks of 100 steps, fewer where they
            are slow; a climb that it ends or shortens is the only kind that does not repeat.
        step_sizes: those that are raced; the ends of the list are extended while they win.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from minorant.solvers import Ascent
        >>> def objective(point, key):
        ...     return -jnp.sum((point - 3.0 + 0.1 * jax.random.normal(key)) ** 2)
        >>> found = Ascent().climb(objective, jnp.zeros(2), jax.random.key(0))
        >>> found.outcome.ok, found.parameters.round(1)
        (True, Array([3., 3.], dtype=float32))

    Not for: an objective without noise (quasi-Newton needs fewer evaluations).

    Kingma & Ba (2015), "Adam: a method for stochastic optimization", algorithm 1; Shamir & Zhang
    (2013), "Stochastic gradient descent for non-smooth optimization", section 4 (the average).
    """

    accuracy: float = eqx.field(static=True, default=0.01)
    max_steps: int = eqx.field(static=True, default=20_000)
    seconds: float = eqx.field(static=True, default=float("inf"))
    step_sizes: tuple[float, ...] = eqx.field(static=True, default=(0.1, 0.03, 0.01, 0.003))

    def __check_init__(self) -> None:
        if not self.accuracy > 0:
            raise ValueError(f"accuracy must be above 0 nats; got {self.accuracy}.")
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1; got {self.max_steps}.")
        if not self.seconds > 0:
            raise ValueError(f"seconds must be above 0; got {self.seconds}.")
        sizes = self.step_sizes
        if not sizes or min(sizes) <= 0 or list(sizes) != sorted(set(sizes), reverse=True):
            raise ValueError(f"step_sizes must be positive and decreasing; got {sizes}.")

    def climb(  # noqa: PLR0913
        self,
        objective: Callable[[PyTree, Key], Array],
        start: PyTree,
        key: Key,
        *,
        judge: Callable[[PyTree], Array] | None = None,
        watch: Callable[[int, float], object] | None = None,
        supply: Callable[[int], Callable[[PyTree, Key], Array]] | None = None,
        journal: Journal = _NOBODY,
        shown: Shown | None = None,
    ) -> Ascended:
        """Climb from a start.

        Args:
            objective: (parameters, key) -> a number whose gradient is wanted on average. An
                ``equinox.Module`` with ``__call__`` may hold data: its arrays are handed over, not
                compiled in, so that other data of the same shape need no compiling.
            start: any pytree; its float arrays are climbed over, all else stays.
            key: of all random numbers.
            judge: parameters -> a number without noise to choose and stop by (held-out rows);
                None: the objective itself on fresh draws.
            watch: called between blocks with (steps, value); returning False ends the climb.
            supply: number of a step -> the objective that a block of steps is climbed on which
                begins there (other data of the same shapes); None: always the one given. It needs
                a judge.
            journal: is told after every block where the climb stands, and where to take it up.
            shown: what a look from outside is to see of it.

        Returns:
            The best point found, never one that is worse than the start by its judgement.

        Raises:
            ValueError: where the objective is not one number, or start has no float array.
        """
        if supply is not None and judge is None:
            raise ValueError("supply needs a judge: what blocks are climbed on differs.")
        course = Course(self, objective, start, key, judge, supply)
        return _ascended(course, course.run(watch, journal, shown))


def _ascended(course: Course, now: Standing) -> Ascended:
    outcome, sentence = now.end or (Outcome.RUNNING, Outcome.RUNNING.value)
    return Ascended(
        course.whole(now.best),
        now.value or Estimate(-np.inf, np.inf),
        outcome,
        now.taken,
        np.array(now.trace),
        now.first,
        now.n_refused,
        sentence,
    )


__all__ = ["Ascended", "Ascent", "Shown"]
