"""The bracket closed: importance weights where q is close, else rounds of annealing.

Effort grows from round to round until the limits are as near as was asked for, or time is over.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from scipy import special

from minorant._pareto import NEARLY_EQUAL, UNRELIABLE, smoothed
from minorant.evidence.bracket import (
    WIDE,
    Weights,
    bridged,
    grouped,
    groups_for,
    hard_limit,
    weighed,
)
from minorant.evidence.certificate import Round
from minorant.evidence.clock import Clock, Ended
from minorant.evidence.course import Visits
from minorant.evidence.kernels import MOST_TEMPERATURES, Passed
from minorant.evidence.schedule import Plan, Runner, pilot, resampled
from minorant.evidence.settling import MOVES, Settled
from minorant.result import Estimate

_COARSE = 1.2
_MOST_BATCHES = 256
_MOST_WEIGHED = 2**17
_MOST_SNAPSHOTS = 200
_MOST_ROUNDS = 4
_HEAVIEST = 0.9


class Ends(NamedTuple):
    """Log weights of both directions; reverse chains are used ``k`` times, some moves apart.

    Attributes:
        forward: (s,).
        own: (k, c), of reverse chains that started from q.
        far: (k, m), of those that started far away.
    """

    forward: Float[np.ndarray, " s"]
    own: Float[np.ndarray, "k c"]
    far: Float[np.ndarray, "k m"]

    @property
    def reverse(self) -> Float[np.ndarray, "k c"]:
        """Of both kinds together."""
        return np.concatenate([self.own, self.far], axis=1)

    def pooled(self, later: Ends) -> Ends:
        """With those of a later round under the same plan."""
        forward = np.concatenate([self.forward, later.forward])
        own, far = (np.concatenate(pair) for pair in zip(self[1:], later[1:], strict=True))
        return Ends(forward, own, far)

    def limits(self) -> tuple[float, float]:
        """Each end wider by its own Monte Carlo error, and what the bridge of both leaves open.

        Above, the higher of both kinds of reverse chains counts, and what forward chains hardly
        ever see is added, as chains at the posterior hardly ever come there either. Ends that are
        close may cross by their errors; the bridge then keeps the bracket open.
        """
        bridge = bridged(self.forward, self.reverse.ravel())
        low = (weighed(self.forward).log_mean, bridge)
        high = (*(backwards(w).log_mean for w in (self.own, self.far) if w.size), bridge)
        lower = min(float(one.value - WIDE * one.standard_error) for one in low)
        upper = max(float(one.value + WIDE * one.standard_error) for one in high)
        return lower, upper + float(np.log1p(unseen(self.forward)))

    def apart(self) -> float:
        """How far the ends are apart with their errors, which decides when to stop.

        Ends that cross count as those that do not: to stop where they happen to cross would favour
        forward ends that are too high.
        """
        low, high = weighed(self.forward).log_mean, backwards(self.reverse).log_mean
        errors = float(low.standard_error + high.standard_error)
        return abs(float(high.value - low.value)) + WIDE * errors


def unseen(log_weights: Float[np.ndarray, " s"]) -> float:
    r"""How much the mean weight grows, relatively, by what lies beyond the largest weight drawn.

    .. math:: \frac{w_{(s)} - \bar w}{(1 - \hat k) \sum_i w_i}

    That is a generalised Pareto tail's mean above its point of probability 1/s: next to nothing
    where weights are alike, several hundredths where few of them carry the mean.
    """
    top = log_weights.max()
    weights = np.exp(log_weights - top)
    shape = float(np.clip(smoothed(log_weights)[1], 0.0, _HEAVIEST))
    return float((1.0 - weights.mean()) / ((1.0 - shape) * weights.sum()))


def backwards(log_weights: Float[np.ndarray, "k c"]) -> Weights:
    """Of reverse weights the inverse is averaged, chain by chain."""
    found = weighed(special.logsumexp(-log_weights, axis=0) - np.log(len(log_weights)))
    value = Estimate(-found.log_mean.value, found.log_mean.standard_error)
    return found._replace(log_mean=value)


class Narrowed(NamedTuple):
    """The last round's weights, under its plan, and all rounds.

    Attributes:
        ends: log weights of both directions.
        temperatures: between q and the posterior.
        rounds: all that were completed.
        hard_limit: of the last.
        notes: who ended it, if it was not narrow.
    """

    ends: Ends
    temperatures: int
    rounds: tuple[Round, ...]
    hard_limit: float
    notes: tuple[str, ...] = ()

    def width(self) -> float:
        """How far the limits are apart, and the ends with their errors."""
        return max(self.ends.apart(), self.rounds[-1].upper - self.rounds[-1].lower)

    def followed(
        self, ends: Ends, plan: Plan, clock: Clock, fresh: np.ndarray | None = None
    ) -> Narrowed:
        """With another round; the hard limit is that of its ``fresh`` draws alone."""
        fresh = ends.forward if fresh is None else fresh
        limit = hard_share(fresh, plan.variance, len(self.rounds))
        round_ = _round(ends, plan, clock)
        return Narrowed(ends, plan.size, (*self.rounds, round_), limit)


def narrowed(settled: Settled, accuracy: float) -> Narrowed:
    """Importance weights where q is close, else rounds of annealing, until it is narrow enough."""
    found, clock = _direct(settled), settled.course.clock
    try:
        if settled.course.is_close():
            found = _more_weights(settled, found, accuracy)
            if _is_sound(found.ends) and found.width() <= accuracy:
                return found
        return _annealed(settled, found, accuracy)
    except _Stopped as stopped:
        return stopped.found._replace(notes=(clock.sentence(),))


class _Stopped(Exception):  # noqa: N818
    """Time was over; what was known by then."""

    def __init__(self, found: Narrowed) -> None:
        super().__init__()
        self.found = found


def _direct(settled: Settled) -> Narrowed:
    """One step from q to the posterior: importance weights, and those of chains at the posterior.

    Both are known when chains have settled.
    """
    course = settled.course
    ends = Ends(course.forward, settled.own.log_ratio, settled.far.log_ratio[:, settled.kept])
    plan = Plan(np.array([0.0, 1.0]), np.ones(2), course.variance)
    return Narrowed(ends, 1, (), 0.0).followed(ends, plan, course.clock)


def _is_sound(ends: Ends) -> bool:
    """Whether the mean of both directions' weights can be relied on."""
    both = (weighed(ends.forward), backwards(ends.reverse))
    return all(end.reliability < UNRELIABLE or end.spread < NEARLY_EQUAL for end in both)


def _more_weights(settled: Settled, found: Narrowed, accuracy: float) -> Narrowed:
    """More draws of q and more visits of the posterior, where few more are enough."""
    course, kinds = settled.course, (settled.own, settled.far)
    plan = Plan(np.array([0.0, 1.0]), np.ones(2), course.variance)
    while found.width() > accuracy and _is_sound(found.ends) and len(found.rounds) < _MOST_ROUNDS:
        forward = found.ends.forward
        sizes = np.ceil(_wanted(found, accuracy) * (len(forward), len(kinds[0].log_ratio)))
        if sizes[0] > _MOST_WEIGHED or sizes[1] > _MOST_SNAPSHOTS:
            break
        try:
            kinds = _revisited(settled, kinds, int(sizes[1]))
        except Ended:
            raise _Stopped(found) from None
        if sizes[0] > len(forward):
            more = course.drawn(20 + len(found.rounds), int(sizes[0]) - len(forward))
            forward = np.concatenate([forward, more.log_weights])
        ends = Ends(forward, kinds[0].log_ratio, kinds[1].log_ratio[:, settled.kept])
        found = found.followed(ends, plan, course.clock)
    return found


def _wanted(found: Narrowed, accuracy: float) -> Float[np.ndarray, " 2"]:
    """How many times as many draws leave each end an error that is a fifth of the accuracy."""
    ends = (weighed(found.ends.forward), backwards(found.ends.reverse))
    errors = [float(end.log_mean.standard_error) for end in ends]
    # What is not seen falls with the number of draws, more slowly the heavier the tail.
    errors[0] = max(errors[0], 0.5 * unseen(found.ends.forward))
    wanted = np.maximum((np.array(errors) / (0.2 * accuracy)) ** 2, 1.0)
    # Each kind of chains has an error of its own, which the limits know.
    rest = max(1.2 * (found.width() / accuracy) ** 2, 1.0)
    return wanted if wanted.max() > 1.5 else wanted * [1.0, min(rest, 4.0)]


def _revisited(settled: Settled, kinds: tuple[Visits, ...], s: int) -> tuple[Visits, ...]:
    """Both kinds of chains go on, until there are ``s`` snapshots."""
    while len(kinds[0].log_ratio) < s:
        kinds = tuple(
            kind.joined(Visits.of(settled.run, settled.plan, kind.last, settled.moves))
            for kind in kinds
        )
    return kinds


def _annealed(settled: Settled, found: Narrowed, accuracy: float) -> Narrowed:
    """Rounds of growing effort, each with fresh draws; those of one plan add up."""
    course, clock = settled.course, settled.course.clock
    try:
        plan = _planned(settled)
        if plan.variance > _COARSE and clock.left(0.5) > 0:
            plan = plan.refined(int(np.ceil(plan.variance / _COARSE)))
        batches = _first_batches(plan.variance, accuracy, course.chains)
        walk, before = Walk(settled.own.last, settled.far.last), None
        while True:
            began = clock.spent()
            ends, walk = _both_ways(settled, plan, batches, len(found.rounds), walk)
            pooled = ends if before is None else before.pooled(ends)
            found = found.followed(pooled, plan, clock, fresh=ends.forward)
            if found.width() <= accuracy:
                return found
            work, old = plan.size * batches, plan
            plan = plan._replace(variance=weighed(pooled.forward).spread ** 2)
            plan, batches = _more(plan, len(pooled.forward) // course.chains, found, accuracy)
            before = pooled if plan.size == old.size else None
            pace = (clock.spent() - began) / work
            batches = min(batches, int(clock.left() / (pace * plan.size)))
            if batches < 1:
                raise _Stopped(found)
    except Ended:
        raise _Stopped(found) from None


def _planned(settled: Settled) -> Plan:
    """The schedule that led to the posterior; where q was thought close, there is none yet."""
    course = settled.course
    if settled.plan.size > 1 or settled.plan.variance < _COARSE:
        return settled.plan
    rng = np.random.default_rng(course.seed + 5)
    return pilot(settled.run, course.starts(), rng, lambda: course.clock.left(0.5))[0]


class Walk(NamedTuple):
    """Chains at the posterior that reverse ones start from.

    Attributes:
        own: of q; or where weighted chains of the round before ended.
        far: from far away.
        log_weight: of ``own``, in proportion to which they are taken; None: as they are.
    """

    own: Passed
    far: Passed
    log_weight: Float[np.ndarray, " s"] | None = None

    def begun(self, c: int, rng: np.random.Generator) -> Walk:
        """With ``c`` chains of each kind."""
        if self.log_weight is None:
            return self
        picked = rng.permutation(resampled(self.log_weight, rng))[:c]
        return self._replace(own=self.own.picked(picked))

    def rested(self, run: Runner, plan: Plan) -> Walk:
        """After some moves."""
        own, far = (run(kind, plan.resting(MOVES)) for kind in (self.own, self.far))
        return Walk(own, far)


def _both_ways(
    settled: Settled, plan: Plan, batches: int, number: int, walk: Walk
) -> tuple[Ends, Walk]:
    """Forward chains from fresh draws of q, reverse chains from both kinds at the posterior.

    Chains that move little keep what share of them is where. So after the first round reverse
    chains from q begin where forward ones of the round before have ended, taken by their weights:
    these are right on average about places that moves hardly reach.
    """
    course, run, c = settled.course, settled.run, settled.course.chains
    rng = np.random.default_rng([course.seed, number])
    draws = course.drawn(10 + number, batches * c)
    starts = course.places(draws.points[: batches * c]).reshape(batches, c, -1)
    forward, reverse, first = [], [], walk
    for start in starts:
        try:
            walk = first._replace(far=walk.far) if first.log_weight is not None else walk
            walk = walk.begun(c, rng).rested(run, plan)
            ahead = run(start, plan.forward())
            behind = [run(kind, plan.reverse()).log_weight for kind in (walk.own, walk.far)]
        except Ended:
            if forward:  # what there is will do
                break
            raise
        forward.append(ahead)
        reverse.append(behind)
    own, far = map(np.stack, zip(*reverse, strict=True))
    places = jax.tree.map(
        lambda *parts: np.concatenate(parts), *(f._replace(accepted=()) for f in forward)
    )
    # In one step, forward weights are those of the draws themselves, and all are there already.
    weights = places.log_weight if plan.size > 1 else draws.log_weights
    return Ends(weights, own, far[:, settled.kept]), Walk(places, walk.far, places.log_weight)


def _round(ends: Ends, plan: Plan, clock: Clock) -> Round:
    """What the round reached, and when."""
    low, high = ends.limits()
    return Round(plan.size, ends.forward.size, low, high, clock.spent())


def _first_batches(variance: float, accuracy: float, chains: int) -> int:
    """As many as make both errors together about the accuracy, by the pilot's variance."""
    error = accuracy / (2.2 * WIDE)
    return int(np.clip(np.ceil(variance / (error**2 * chains)), 1, _MOST_BATCHES))


def _more(plan: Plan, done: int, found: Narrowed, accuracy: float) -> tuple[Plan, int]:
    """More temperatures where weights differ much, else more chains than have been ``done``."""
    if plan.variance > _COARSE and plan.size < MOST_TEMPERATURES // 2:
        return plan.refined(2), done
    factor = np.clip(1.2 * (found.width() / accuracy) ** 2, 1.5, 4.0)
    return plan, min(int(np.ceil(done * (factor - 1.0))), _MOST_BATCHES - done)


def hard_share(forward: np.ndarray, variance: float, number: int) -> float:
    """The hard limit; later rounds are tried only after earlier ones, and share their 5%."""
    probability = 1.0 - 0.05 / ((number + 1) * (number + 2))
    groups = groups_for(len(forward), variance)
    return hard_limit(grouped(forward, groups), probability)
