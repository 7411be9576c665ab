r"""Stochastic ascent that finds its own step size, averages its iterates and stops by rule.

.. math:: \max_\phi \; E_{\xi}[f(\phi, \xi)], \qquad \phi \text{ the float arrays of any pytree}

One compiled program does it all: Adam's steps, as many as it is told, at a step size that it is
told. The race between step sizes runs it from one start with the same random numbers; a judgement
runs it with step size 0 on fresh ones. So a climb compiles once, and candidates are compared on
common draws.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._types import Array, Key, PyTree
from minorant.result import Estimate, Outcome
from minorant.solvers._adam import BLOCK, Moments, Pace, begun, integer, parted, renewed, step_block
from minorant.solvers._evaluations import estimate, rising, score

_JUDGED = 50  # fresh evaluations that a candidate is judged by
_LONGER = 12.0  # a short race favours short steps: what longer ones gain comes later, on average
_BEARABLE = 1.0  # nats that a step size may lose in the race and still be the first
_LOOKED = 4  # blocks between two looks at whether a stage still gains
_SHORTER = 0.3  # the step size of a stage, relative to the one before it
_CALM_STAGES = 2  # stages that may gain less than the accuracy, one after the other
_EXTENSIONS = 4
_LOOKS = 20  # blocks that must fit into the time limit, or they are made shorter
_SHORTEST = 10


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

    def climb(
        self,
        objective: Callable[[PyTree, Key], Array],
        start: PyTree,
        key: Key,
        *,
        judge: Callable[[PyTree], Array] | None = None,
        watch: Callable[[int, float], object] | None = None,
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

        Returns:
            The best point found, never one that is worse than the start by its judgement.

        Raises:
            ValueError: where the objective is not one number, or start has no float array.
        """
        course = _Course(self, objective, start, key, judge, watch)
        return course.run()


class _Course:
    """One climb under way: host-side counters around the compiled program."""

    def __init__(
        self,
        rules: Ascent,
        objective: Callable,
        start: PyTree,
        key: Key,
        judge: Callable | None,
        watch: Callable | None,
    ) -> None:
        self.rules, self.judge, self.watch = rules, judge, watch
        self.began = time.perf_counter()
        self.climb_key, self.fresh_key = jax.random.split(key)
        floats, self.rest = eqx.partition(start, eqx.is_inexact_array)
        self.arrays, self.fixed = parted((objective, self.rest))
        self.start = jax.tree.map(jnp.asarray, floats)
        _check(floats)
        self.steps = self.looks = self.n_refused = 0
        self.block, self.block_seconds = BLOCK, 0.0
        self.trace: list[float] = []
        self.raced = self.first = 0.0
        self.best, self.best_values = self.start, np.empty(0)
        self.end: tuple[Outcome, str] | None = None

    def run(self) -> Ascended:
        """Race, then stages of ever smaller steps."""
        self.best_values = self._judged([self.start])[0]
        if not np.isfinite(self.best_values).any():
            self.end = (Outcome.NON_FINITE, _SENTENCES["start"])
            return self._answer(0.0)
        self._shorten()
        first = 0.0
        try:
            state = self._race()
            first, calm = self.first, 0
            step_size = first
            while self.end is None:
                gain, state = self._stage(state, step_size)
                is_calm = gain <= self.rules.accuracy and step_size <= self.raced
                calm = calm + 1 if is_calm else 0
                if self.end is None and calm == _CALM_STAGES:
                    self.end = (Outcome.CONVERGED, _converged(self.rules.accuracy))
                step_size *= _SHORTER
                state = renewed(state, self.best)
        except KeyboardInterrupt:
            self.end = (Outcome.INTERRUPTED, _SENTENCES["interrupted"])
        return self._answer(first)

    def _race(self) -> Moments:
        """Find the step size whose short climb ends highest, and the one to begin with.

        That is up to twelve times as large and does not fall far; its climb goes on.
        """
        tried = {size: self._raced(size) for size in self.rules.step_sizes}
        for _ in range(_EXTENSIONS):
            size = _highest(tried)
            further = size * (3.0 if size == max(tried) else 0.3)
            if size not in (max(tried), min(tried)) or self._over():
                break
            tried[further] = self._raced(further)
        self.raced = _highest(tried)
        finite, value = score(self._judged([self.start], look=0)[0])
        sizes = [size for size in tried if self.raced < size <= _LONGER * self.raced]
        bearable = [size for size in sizes if tried[size][0] > (finite, value - _BEARABLE)]
        self.first = max(bearable, default=self.raced)
        self.n_refused = int(tried[self.first][1].refused)
        return tried[self.first][1]

    def _raced(self, size: float) -> tuple[tuple[int, float], Moments]:
        """How high a short climb ends; all climbs and all judgements of the race draw alike."""
        if self._over():
            return (-1, -np.inf), begun(self.start)
        state, _ = self._advance(begun(self.start), size, first=0)
        judged = self._judged([state.sound, state.average], look=0)
        return max(map(score, judged)), state

    def _stage(self, state: Moments, step_size: float) -> tuple[float, Moments]:
        """Blocks of steps until what is judged stops rising, or the budget ends; the gain."""
        history: list[np.ndarray] = []
        before, gained = score(self.best_values)[1], 0.0
        # Long steps keep a point from rising while its average still does: that is looked at too.
        latest = np.inf if self.judge is None else 0.0
        while not self._over():
            refused = int(state.refused)
            state, values = self._advance(state, step_size, first=self.steps)
            if self._refuse(int(state.refused) - refused, len(values), step_size):
                break
            history.append(self._measured(state, values))
            self._show(history[-1])
            if self.judge is None and len(history) % _LOOKED == 0:
                latest = self._take(state)
                gained += latest
            if latest < 0.5 * self.rules.accuracy and not rising(history, self.rules.accuracy):
                break
        gained += self._take(state)
        return gained if self.judge is None else score(self.best_values)[1] - before, state

    def _show(self, values: np.ndarray) -> None:
        """Keep a block's value, and let the caller see it."""
        self.trace.append(float(np.mean(values)) if len(values) else np.nan)
        if self.watch and self.watch(self.steps, self.trace[-1]) is False:
            self.end = (Outcome.INTERRUPTED, _SENTENCES["interrupted"])

    def _measured(self, state: Moments, values: np.ndarray) -> np.ndarray:
        """What the stage is watched by: the block's values, or what the judge says of it."""
        if self.judge is None:
            return values[np.isfinite(values)]
        self._take(state)
        return self.best_values

    def _take(self, state: Moments) -> float:
        """Let the point and the average challenge the best so far; what was gained."""
        candidates = [self.best, state.sound, state.average]
        values = self._judged(candidates)
        which = max(range(3), key=lambda i: score(values[i]))
        before, after = values[0], values[which]
        self.best, self.best_values = candidates[which], after
        both = np.isfinite(before) & np.isfinite(after)
        if which == 0 or not both.any():
            return 0.0 if which == 0 else np.inf
        # What is no more than noise on common draws does not count as gained.
        difference = after[both] - before[both]
        return float(difference.mean() - 2.0 * difference.std() / np.sqrt(len(difference)))

    def _judged(self, candidates: list[PyTree], look: int | None = None) -> list[np.ndarray]:
        """The values of candidates on common draws that nothing was climbed on."""
        if self.judge is not None:
            return [np.atleast_1d(self.judge(self._whole(one))) for one in candidates]
        if look is None:
            self.looks += 1
            look = self.looks
        count, still = min(_JUDGED, self.block), np.zeros((), np.float32)
        pace = Pace(self.fresh_key, integer(look * _JUDGED), integer(count), still)
        return [self._call(begun(one), pace)[1] for one in candidates]

    def _shorten(self) -> None:
        """Halve the blocks of a slow objective until enough of them fit into the time limit."""
        fair = self.rules.seconds / _LOOKS
        if time.perf_counter() - self.began < fair:
            return
        pace = Pace(self.fresh_key, integer(0), integer(_SHORTEST), np.zeros((), np.float32))
        began = time.perf_counter()
        self._call(begun(self.start), pace)
        seconds = (time.perf_counter() - began) / _SHORTEST
        while self.block > 2 * _SHORTEST and self.block * seconds > fair:
            self.block //= 2

    def _advance(self, state: Moments, size: float, first: int) -> tuple[Moments, np.ndarray]:
        count = min(self.block, self.rules.max_steps - self.steps)
        if self.block_seconds > self._left():
            count = max(1, int(count * self._left() / self.block_seconds))
        began = time.perf_counter()
        pace = Pace(self.climb_key, integer(first), integer(count), np.asarray(size, np.float32))
        after = self._call(state, pace)
        self.block_seconds = (time.perf_counter() - began) * self.block / count
        self.steps += count
        return after

    def _call(self, state: Moments, pace: Pace) -> tuple[Moments, np.ndarray]:
        state, values = step_block(self.fixed, self.arrays, state, pace)
        return state, np.asarray(values, dtype=float)[: int(pace.count)]

    def _refuse(self, refused: int, steps: int, step_size: float) -> bool:
        """Whether most steps were undone; the climb ends there, unless shorter steps may do."""
        self.n_refused += refused
        often = 2 * refused > steps
        if often and step_size <= self.raced:
            self.end = (Outcome.NON_FINITE, _SENTENCES["often"])
        return often

    def _left(self) -> float:
        return self.rules.seconds - (time.perf_counter() - self.began)

    def _over(self) -> bool:
        if self.end is None and self.steps >= self.rules.max_steps:
            self.end = (Outcome.STEP_LIMIT, _SENTENCES["steps"])
        if self.end is None and self._left() <= 0:
            self.end = (Outcome.STEP_LIMIT, _SENTENCES["seconds"])
        return self.end is not None

    def _whole(self, floats: PyTree) -> PyTree:
        return eqx.combine(floats, self.rest)

    def _answer(self, step_size: float) -> Ascended:
        outcome, sentence = self.end or (Outcome.RUNNING, Outcome.RUNNING.value)
        value = estimate(self._judged([self.best])[0])
        return Ascended(
            self._whole(self.best),
            value,
            outcome,
            self.steps,
            np.array(self.trace),
            step_size,
            self.n_refused,
            sentence,
        )


_SENTENCES = {
    "start": (
        "The objective is not finite at the start: start elsewhere, or check the log density there."
    ),
    "often": (
        "Most of the last steps met an objective or a gradient that is not finite and were undone: "
        "the best point so far is returned. Check the log density where draws reach, or use "
        "float64."
    ),
    "steps": (
        "The step limit was reached before the objective stopped rising: raise max_steps, or "
        "loosen the accuracy."
    ),
    "seconds": (
        "The time limit was reached before the objective stopped rising: raise seconds, or loosen "
        "the accuracy."
    ),
    "interrupted": "Interrupted: this is the best point so far.",
}


def _converged(accuracy: float) -> str:
    return f"Converged: two reductions of the step size gained less than {accuracy:g} nats each."


def _highest(tried: dict[float, tuple[tuple[int, float], Moments]]) -> float:
    """The step size with the highest score; the smallest of them where none has one."""
    return max(tried, key=lambda size: (tried[size][0], -size))


def _check(floats: PyTree) -> None:
    if not jax.tree.leaves(floats):
        raise ValueError("start has no array of floats to climb over: give a pytree that has one.")
