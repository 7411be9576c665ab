"""One stochastic ascent under way: what the host does between blocks of compiled steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from minorant._types import Key, PyTree
from minorant.journal import Journal
from minorant.result import Outcome
from minorant.solvers._adam import Moments, Pace, begun, integer, parted, renewed, step_block
from minorant.solvers._evaluations import estimate, rising, score
from minorant.solvers._standing import Score, Shown, Stage, Standing

if TYPE_CHECKING:
    from minorant.solvers.stochastic import Ascent

_JUDGED = 50  # fresh evaluations that a candidate is judged by
_LONGER = 12.0  # a short race favours short steps: what longer ones gain comes later, on average
_BEARABLE = 1.0  # nats that a step size may lose in the race and still be the first
_LOOKED = 4  # blocks between two looks at whether a stage still gains
_SHORTER = 0.3  # the step size of a stage, relative to the one before it
_CALM_STAGES = 2  # stages that may gain less than the accuracy, one after the other
_EXTENSIONS = 4
_LOOKS = 20  # blocks that must fit into the time limit, or they are made shorter
_SHORTEST = 10


class Course:
    """The race between step sizes, then stages of ever smaller steps, a turn after the other.

    A turn is a block of steps and what is made of it. Turns follow from where the climb stands and
    from its key alone, so that it may be left after any of them and taken up there.
    """

    def __init__(  # noqa: PLR0913
        self,
        rules: Ascent,
        objective: Callable,
        start: PyTree,
        key: Key,
        judge: Callable | None,
        supply: Callable[[int], Callable] | None,
    ) -> None:
        """Nothing is computed yet."""
        self.rules, self._judge, self._supply = rules, judge, supply
        self._climb_key, self._fresh_key = jax.random.split(key)
        floats, self._rest = eqx.partition(start, eqx.is_inexact_array)
        arrays, self._fixed = parted((objective, self._rest))
        self._arrays = jax.tree.map(jnp.asarray, arrays)  # handed to the device once, not a block
        self._start = jax.tree.map(jnp.asarray, floats)
        _check(floats)
        self._began, self._block_seconds = time.perf_counter(), 0.0
        self._now = Standing(self._start, np.empty(0))

    def run(
        self, watch: Callable[[int, float], object] | None, journal: Journal, shown: Shown | None
    ) -> Standing:
        """Where it ends: of itself, or because somebody interrupts it."""
        kept = self._now = journal.entered(self._now._replace(shown=self._shown(shown)))
        self._began -= kept.seconds
        try:
            while kept.end is None:
                self._turn()
                self._now = self._now._replace(seconds=time.perf_counter() - self._began)
                before, kept = kept, self._now
                journal.keep(kept)
                is_new = len(kept.trace) > len(before.trace)
                if watch and is_new and watch(kept.taken, kept.trace[-1]) is False:
                    break
        except KeyboardInterrupt:
            pass
        if kept.end is None:
            self._interrupted(kept, journal)
        return self._now

    def _shown(self, shown: Shown | None) -> Shown | None:
        """What is asked for of floats alone, given those of whole points."""
        if shown is None:
            return None
        return shown._replace(model=lambda floats: shown.model(self.whole(floats)))

    def _interrupted(self, kept: Standing, journal: Journal) -> None:
        """The best so far is the answer; what is kept is what would have been gone on from."""
        journal.flush(kept)
        if not len(self._now.best_values):  # nothing is known yet, not even of the start
            raise KeyboardInterrupt
        if self._now is kept and kept.stage is not None:
            self._take(kept.stage.state)
        self._finish(Outcome.INTERRUPTED, SENTENCES["interrupted"])

    def _turn(self) -> None:
        if not len(self._now.best_values):
            self._judge_start()
        elif self._now.stage is None:
            self._race()
        else:
            self._climb(self._now.stage)

    def _judge_start(self) -> None:
        values = self._judged([self._start])[0]
        self._now = self._now._replace(best_values=values, block=self._block())
        if not np.isfinite(values).any():
            self._finish(Outcome.NON_FINITE, SENTENCES["start"])

    # The race

    def _race(self) -> None:
        """How high a short climb ends; all climbs and all judgements of the race draw alike."""
        over, size = self._over(), self._next_size()
        if over is None and size is not None:
            state, _ = self._advance(begun(self._start), size, first=0)
            judged = self._judged([state.sound, state.average], look=0)
            tried = {**self._now.tried, size: (max(map(score, judged)), state)}
            self._now = self._now._replace(tried=tried)
            return
        self._end_race()
        if over is not None:
            self._finish(*over)

    def _next_size(self) -> float | None:
        """A step size that has not been tried; further ones while the ends of the list win."""
        tried, sizes = self._now.tried, self.rules.step_sizes
        untried = [size for size in sizes if size not in tried]
        if untried:
            return untried[0]
        best = _highest(tried)
        if len(tried) == len(sizes) + _EXTENSIONS or best not in (max(tried), min(tried)):
            return None
        return best * (3.0 if best == max(tried) else 0.3)

    def _end_race(self) -> None:
        """Begin with a step size up to twelve times the winner's that does not fall far."""
        tried = self._now.tried
        if not tried:
            return
        raced = _highest(tried)
        finite, value = score(self._judged([self._start], look=0)[0])
        sizes = [size for size in tried if raced < size <= _LONGER * raced]
        bearable = [size for size in sizes if tried[size][0] > (finite, value - _BEARABLE)]
        first = max(bearable, default=raced)
        state = tried[first][1]
        refused = int(state.refused)
        self._now = self._now._replace(raced=raced, first=first, n_refused=refused, tried={})
        self._open(state, first, calm=0)

    # Stages

    def _open(self, state: Moments, step_size: float, calm: int) -> None:
        # Long steps keep a point from rising while its average still does: that is looked at too.
        latest = np.inf if self._judge is None else 0.0
        before = score(self._now.best_values)[1]
        stage = Stage(state, step_size, calm, (), before, 0.0, latest)
        self._now = self._now._replace(stage=stage)

    def _climb(self, stage: Stage) -> None:
        """A block of steps; a stage is over when what is judged stops rising."""
        over = self._over()
        if over is not None:
            self._close(stage, over)
            return
        refused = int(stage.state.refused)
        state, values = self._advance(stage.state, stage.step_size, first=self._now.taken)
        stage = stage._replace(state=state)
        refused = int(state.refused) - refused
        self._now = self._now._replace(n_refused=self._now.n_refused + refused)
        if 2 * refused > len(values):  # shorter steps may do
            shortest = stage.step_size <= self._now.raced
            self._close(stage, (Outcome.NON_FINITE, SENTENCES["often"]) if shortest else None)
            return
        stage = self._watched(stage, values)
        accuracy = self.rules.accuracy
        if stage.latest < 0.5 * accuracy and not rising(list(stage.history), accuracy):
            self._close(stage, None)
        else:
            self._now = self._now._replace(stage=stage)

    def _watched(self, stage: Stage, values: np.ndarray) -> Stage:
        """With what the stage is watched by: the block's values, or what the judge says."""
        seen = values[np.isfinite(values)]
        if self._judge is not None:
            self._take(stage.state)
            seen = self._now.best_values
        mean = float(np.mean(seen)) if len(seen) else np.nan
        self._now = self._now._replace(trace=(*self._now.trace, mean))
        stage = stage._replace(history=(*stage.history, seen))
        if self._judge is not None or len(stage.history) % _LOOKED:
            return stage
        latest = self._take(stage.state)
        return stage._replace(latest=latest, gained=stage.gained + latest)

    def _close(self, stage: Stage, end: tuple[Outcome, str] | None) -> None:
        """The end of a stage: of the climb too, or the next one begins at the best point."""
        rules = self.rules
        gain = stage.gained + self._take(stage.state)
        if self._judge is not None:
            gain = score(self._now.best_values)[1] - stage.before
        is_calm = gain <= rules.accuracy and stage.step_size <= self._now.raced
        calm = stage.calm + 1 if is_calm else 0
        if end is None and calm == _CALM_STAGES:
            end = Outcome.CONVERGED, _converged(rules.accuracy)
        if end is not None:
            self._finish(*end)
            return
        self._open(renewed(stage.state, self._now.best), _SHORTER * stage.step_size, calm)

    def _take(self, state: Moments) -> float:
        """Let the point and the average challenge the best so far; what was gained."""
        candidates = [self._now.best, state.sound, state.average]
        values = self._judged(candidates)
        which = max(range(3), key=lambda i: score(values[i]))
        before, after = values[0], values[which]
        self._now = self._now._replace(best=candidates[which], best_values=after)
        both = np.isfinite(before) & np.isfinite(after)
        if which == 0 or not both.any():
            return 0.0 if which == 0 else np.inf
        # What is no more than noise on common draws does not count as gained.
        difference = after[both] - before[both]
        return float(difference.mean() - 2.0 * difference.std() / np.sqrt(len(difference)))

    # What is computed

    def _judged(self, candidates: list[PyTree], look: int | None = None) -> list[np.ndarray]:
        """The values of candidates on common draws that nothing was climbed on."""
        if self._judge is not None:
            return [np.atleast_1d(self._judge(self.whole(one))) for one in candidates]
        if look is None:
            look = self._now.looks + 1
            self._now = self._now._replace(looks=look)
        count, still = min(_JUDGED, self._now.block), np.zeros((), np.float32)
        pace = Pace(self._fresh_key, integer(look * _JUDGED), integer(count), still)
        return [self._call(self._arrays, begun(one), pace)[1] for one in candidates]

    def _advance(self, state: Moments, size: float, first: int) -> tuple[Moments, np.ndarray]:
        count = min(self._now.block, self.rules.max_steps - self._now.taken)
        if self._block_seconds > self._left():
            count = max(1, int(count * self._left() / self._block_seconds))
        arrays = self._arrays
        if self._supply is not None:
            arrays, _ = parted((self._supply(first), self._rest))
        began = time.perf_counter()
        pace = Pace(self._climb_key, integer(first), integer(count), np.asarray(size, np.float32))
        after = self._call(arrays, state, pace)
        self._block_seconds = (time.perf_counter() - began) * self._now.block / count
        self._now = self._now._replace(taken=self._now.taken + count)
        return after

    def _call(self, arrays: PyTree, state: Moments, pace: Pace) -> tuple[Moments, np.ndarray]:
        state, values = step_block(self._fixed, arrays, state, pace)
        return state, np.asarray(values, dtype=float)[: int(pace.count)]

    def _block(self) -> int:
        """Steps of a block: fewer of a slow objective, so that enough fit into the time limit."""
        block, fair = self._now.block, self.rules.seconds / _LOOKS
        if time.perf_counter() - self._began < fair:
            return block
        pace = Pace(self._fresh_key, integer(0), integer(_SHORTEST), np.zeros((), np.float32))
        began = time.perf_counter()
        self._call(self._arrays, begun(self._start), pace)
        seconds = (time.perf_counter() - began) / _SHORTEST
        while block > 2 * _SHORTEST and block * seconds > fair:
            block //= 2
        return block

    # How it ends

    def _left(self) -> float:
        return self.rules.seconds - (time.perf_counter() - self._began)

    def _over(self) -> tuple[Outcome, str] | None:
        """Why the climb is over, if a budget is spent."""
        if self._now.taken >= self.rules.max_steps:
            return Outcome.STEP_LIMIT, SENTENCES["steps"]
        if self._left() <= 0:
            return Outcome.STEP_LIMIT, SENTENCES["seconds"]
        return None

    def _finish(self, outcome: Outcome, sentence: str) -> None:
        value = estimate(self._judged([self._now.best])[0])
        self._now = self._now._replace(end=(outcome, sentence), value=value)

    def whole(self, floats: PyTree) -> Any:
        """A point with what is not climbed over."""
        return eqx.combine(floats, self._rest)


SENTENCES = {
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


def _highest(tried: dict[float, tuple[Score, Moments]]) -> float:
    """The step size with the highest score; the smallest of them where none has one."""
    return max(tried, key=lambda size: (tried[size][0], -size))


def _check(floats: PyTree) -> None:
    if not jax.tree.leaves(floats):
        raise ValueError("start has no array of floats to climb over: give a pytree that has one.")
