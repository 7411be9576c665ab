"""Temperatures and step lengths: found in a pilot run, then frozen.

The pilot moves particles from q to p, each time as far as keeps most of them worth having, and
resamples them. Its numbers choose the schedule and are thrown away: the certificate comes from
chains with fresh keys under the frozen schedule, without which their weights would be biased.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from minorant.evidence.clock import Clock
from minorant.evidence.kernels import (
    MOST_TEMPERATURES,
    AbstractPath,
    Passed,
    Schedule,
    begun,
    piece,
)

_KEPT = 0.9
_MOST_STAGES = 120
_AIM = 0.8
_GAIN = 1.5
_TUNING = 6
_MOVES = 3
_FEW = 8
_TRAVEL = 1.5
_MOST_LEAPS = 12
_WIDEST = 3.0
_FIRST_LEAPS = 24
_PIECE = 0.25

Run = Callable[[Any, Schedule], Passed]


class Runner:
    """Passes of one compiled program along a path, each with fresh random numbers.

    A pass is cut into pieces of about a quarter of a second, and the clock is looked at in between.
    """

    def __init__(self, path: AbstractPath, seed: int, clock: Clock) -> None:
        """Keep the path; ``seed`` is of all passes together."""
        self.path = path
        self._seed = seed
        self._clock = clock
        self._count = 0
        self._pace = 0.0

    def __call__(self, start: Float[np.ndarray, "*c p"] | Passed, schedule: Schedule) -> Passed:
        """The chains after the pass, on the host; ``start`` may be where another pass ended.

        Raises:
            Ended: where time is over, or the user interrupts, before the last piece is done.
        """
        self._count += 1
        seeds = np.array([self._seed, self._count], np.uint32)
        chains, fresh = begun(start, schedule)
        first, count, effort = 0, int(schedule.count), np.cumsum(schedule.leaps)
        while True:
            self._clock.check()
            done = effort[first - 1] if first else 0
            last = int(np.searchsorted(effort, done + self._leaps(), side="right"))
            last = min(max(last, first + 1), count)
            chains = self._piece(chains, schedule, seeds, first, last, fresh)
            first, fresh = last, np.bool_(False)
            if first >= count:
                return chains

    def _leaps(self) -> float:
        """How many leapfrog steps a piece may take, by the fastest so far."""
        return _FIRST_LEAPS if self._pace == 0.0 else max(_PIECE / self._pace, 1.0)

    def _piece(  # noqa: PLR0913
        self, chains: Passed, schedule: Schedule, seeds: Any, first: int, last: int, fresh: Any
    ) -> Passed:
        began = time.perf_counter()
        part = schedule._replace(count=np.int32(last))
        try:
            found = piece(self.path, chains, part, seeds, np.int32(first), fresh)
            found = jax.device_get(found)
        except KeyboardInterrupt:
            raise self._clock.interrupt() from None
        pace = (time.perf_counter() - began) / max(int(schedule.leaps[first:last].sum()), 1)
        # The first piece may have been compiled.
        self._pace = pace if self._pace == 0.0 else min(pace, self._pace)
        return found


class Plan(NamedTuple):
    """A frozen schedule.

    Attributes:
        inverse: (t + 1,), inverse temperatures from 0 to 1.
        length: (t + 1,) or (t + 1, n), step lengths there.
        variance: what the relative variance of the weights is expected to be.
    """

    inverse: Float[np.ndarray, " t1"]
    length: Float[np.ndarray, "t1 *n"]
    variance: float

    @property
    def size(self) -> int:
        """How many temperatures above 0."""
        return len(self.inverse) - 1

    def forward(self) -> Schedule:
        """Weigh, then move, along rising inverse temperatures."""
        return padded(np.diff(self.inverse), self.inverse[1:], self.length[1:])

    def reverse(self) -> Schedule:
        """The same kernels in the opposite order."""
        powers = np.diff(self.inverse)[::-1]
        return padded(powers, self.inverse[:-1][::-1], self.length[:-1][::-1])

    def refined(self, factor: int = 2) -> Plan:
        """With so many times as many temperatures; the variance falls by as much."""
        t = min(self.size * factor, MOST_TEMPERATURES)
        old, new = np.linspace(0.0, 1.0, self.size + 1), np.linspace(0.0, 1.0, t + 1)
        inverse = np.interp(new, old, self.inverse)
        lengths = self.length.reshape(len(old), -1).T
        length = np.stack([np.interp(new, old, one) for one in lengths], axis=1)
        return Plan(
            inverse, length.reshape(t + 1, *self.length.shape[1:]), self.variance * self.size / t
        )

    def resting(self, count: int) -> Schedule:
        """Moves at b = 1, where nothing is weighed."""
        return resting(self.length[-1], count)


def padded(powers: np.ndarray, inverse: np.ndarray, length: np.ndarray) -> Schedule:
    """A schedule in arrays of the one length that is compiled."""
    t = len(powers)
    leaps = _leaps(length)
    shape = (MOST_TEMPERATURES, *length.shape[1:])
    whole = [np.zeros(MOST_TEMPERATURES), np.ones(MOST_TEMPERATURES), np.ones(shape)]
    for array, part in zip(whole, (powers, inverse, length), strict=True):
        array[:t] = part
    padded_leaps = np.ones(MOST_TEMPERATURES, np.int32)
    padded_leaps[:t] = leaps
    return Schedule(whole[0], whole[1], whole[2], padded_leaps, np.int32(t))


def resting(length: Any, count: int) -> Schedule:
    """``count`` moves at b = 1."""
    lengths = np.broadcast_to(length, (count, *np.shape(length)))
    return padded(np.zeros(count), np.ones(count), lengths)


def _leaps(length: np.ndarray) -> Int[np.ndarray, " t"]:
    """As many as lead about a quarter of a period away."""
    middle = length if length.ndim == 1 else np.median(length, axis=1)
    return np.clip(np.round(_TRAVEL / middle), 1, _MOST_LEAPS).astype(np.int32)


def first_length(p: int) -> float:
    """What suits a normal density of p dimensions."""
    return float(1.2 * p**-0.25)


def tuned(length: Any, accepted: Any) -> Any:
    """A longer step where more are accepted than are wanted, a shorter one where fewer."""
    return np.minimum(length * np.exp(_GAIN * (np.asarray(accepted) - _AIM)), _WIDEST)


def pilot(
    run: Run,
    places: Float[np.ndarray, "c p"],
    rng: np.random.Generator,
    left: Callable[[], float],
) -> tuple[Plan, Passed]:
    """The schedule, and particles near the posterior.

    Args:
        run: passes chains along the path.
        places: draws of q.
        rng: of the resampling.
        left: seconds that may still be spent; when there are none, the rest is one step.

    Returns:
        The plan and the particles at b = 1.
    """
    length, variance = first_length(places.shape[-1]), 0.0
    inverse, lengths = [0.0], [length]
    passed = run(places, resting(length, 0))
    while inverse[-1] < 1.0:
        rest, ratios = 1.0 - inverse[-1], passed.log_ratio
        is_last = len(inverse) > _MOST_STAGES or left() < 0
        power = rest if is_last else next_power(ratios, rest)
        variance += 1.0 / conditional_size(power * ratios) - 1.0
        inverse.append(inverse[-1] + power if power < rest else 1.0)
        picked = resampled(power * ratios, rng)
        one = padded(np.zeros(1), np.array(inverse[-1:]), np.array([length]))
        passed = run(passed.picked(picked), one)
        lengths.append(length)
        length = tuned(length, passed.accepted[0])
    return _frozen(run, passed, np.array(inverse), np.array(lengths), variance)


def one_step(run: Run, places: Float[np.ndarray, "c p"], variance: float) -> tuple[Plan, Passed]:
    """The plan without temperatures between q and p, for chains that are at the posterior."""
    lengths = np.full(2, first_length(places.shape[-1]))
    passed = run(places, resting(lengths[-1], 0))
    return _frozen(run, passed, np.array([0.0, 1.0]), lengths, variance)


def _frozen(
    run: Run, passed: Passed, inverse: np.ndarray, lengths: np.ndarray, variance: float
) -> tuple[Plan, Passed]:
    """The last length tuned at b = 1; where there were few temperatures it is that of all."""
    length = lengths[-1]
    for _ in range(_TUNING):
        passed = run(passed, resting(length, _MOVES))
        accepted = passed.accepted[:_MOVES].mean()
        if abs(accepted - _AIM) < 0.1:
            break
        length = tuned(length, accepted)
    lengths[-1] = length
    if len(lengths) < _FEW:
        lengths[:] = length
    return Plan(inverse, lengths, variance), passed


def next_power(ratios: Float[np.ndarray, " c"], rest: float) -> float:
    """The largest power whose weights leave particles worth nine tenths of their number."""
    if conditional_size(rest * ratios) >= _KEPT:
        return rest
    low, high = 0.0, rest
    for _ in range(50):
        middle = 0.5 * (low + high)
        good = conditional_size(middle * ratios) >= _KEPT
        low, high = (middle, high) if good else (low, middle)
    return max(low, 1e-6 * rest)


def conditional_size(log_weights: Float[np.ndarray, " c"]) -> float:
    """``(sum w)^2 / (c sum w^2)``: the share that equally weighted draws are worth.

    Kong, Liu & Wong (1994), "Sequential imputations and Bayesian missing data problems", section 4.
    """
    top = log_weights.max()
    if not np.isfinite(top):
        return 1.0 / len(log_weights)
    weights = np.exp(log_weights - top)
    return float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))


def resampled(log_weights: Float[np.ndarray, " c"], rng: np.random.Generator) -> np.ndarray:
    """Indices in proportion to weights, by one uniform number (systematic)."""
    c, top = len(log_weights), log_weights.max()
    weights = np.exp(log_weights - top) if np.isfinite(top) else np.ones(c)
    edges = np.cumsum(weights) / weights.sum()
    picked = np.searchsorted(edges, (np.arange(c) + rng.uniform()) / c)
    return np.minimum(picked, c - 1)
