r"""The certificate of a target: annealing from q to the posterior, and back.

.. math:: Z = \int p(v)\, dv, \quad \pi_b \propto q^{1-b} p^b, \quad
          w = \prod_t (p/q)(v_{t-1})^{b_t - b_{t-1}}

Forward chains from draws of q give an unbiased estimate of Z: its logarithm is in expectation a
lower bound. The same kernels in the opposite order, from draws of the posterior, give one of 1/Z:
an upper bound. Where q is close there is one step and this is importance weighting. Draws of the
posterior come from Markov chains, so the upper end is an estimate; chains from far away say whether
it can be believed.

Neal (2001), "Annealed importance sampling", equation 11; Grosse, Ghahramani & Adams (2015),
"Sandwiching the marginal likelihood using bidirectional Monte Carlo", section 4.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from minorant import _config
from minorant.evidence.bracket import (
    WIDE,
    Weights,
    bridged,
    grouped,
    groups_for,
    hard_limit,
    weighed,
)
from minorant.evidence.certificate import Certificate, Round, verdict
from minorant.evidence.course import MOVES, Course, Settled, settle
from minorant.evidence.kernels import MOST_TEMPERATURES
from minorant.evidence.schedule import Plan
from minorant.models.target import AbstractTarget
from minorant.posteriors.members import AbstractMember
from minorant.result import Estimate, Evidence

_COARSE = 0.6
_MOST_BATCHES = 64


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

    def limits(self) -> tuple[float, float]:
        """Each end wider by its own Monte Carlo error, and what the bridge of both leaves open.

        Above, the higher of both kinds of reverse chains counts. Ends that are close may cross by
        their errors; the bridge then keeps the bracket open.
        """
        bridge = bridged(self.forward, self.reverse.ravel())
        low = (weighed(self.forward).log_mean, bridge)
        high = (*(backwards(w).log_mean for w in (self.own, self.far) if w.size), bridge)
        lower = min(float(one.value - WIDE * one.standard_error) for one in low)
        return lower, max(float(one.value + WIDE * one.standard_error) for one in high)

    def apart(self) -> float:
        """How far the ends are apart with their errors, which decides when to stop.

        Ends that cross count as those that do not: to stop where they happen to cross would favour
        forward ends that are too high.
        """
        low, high = weighed(self.forward).log_mean, backwards(self.reverse).log_mean
        errors = float(low.standard_error + high.standard_error)
        return abs(float(high.value - low.value)) + WIDE * errors


def backwards(log_weights: Float[np.ndarray, "k c"]) -> Weights:
    """Of reverse weights the inverse is averaged, chain by chain."""
    found = weighed(special.logsumexp(-log_weights, axis=0) - np.log(len(log_weights)))
    value = Estimate(-found.log_mean.value, found.log_mean.standard_error)
    return found._replace(log_mean=value)


def target_evidence(
    fit: Any, accuracy: float = 0.1, seed: int = 0, seconds: float = 30.0
) -> Evidence:
    """The evidence of a target's fit; see :func:`certified`.

    Args:
        fit: what ``minorant.fit(target)`` returned.
        accuracy: width of the bracket at which to stop, in nats.
        seed: of all random numbers.
        seconds: wall time after which no further try is begun.

    Returns:
        As :func:`certified`.

    Raises:
        ValueError: for an accuracy or a time that is not above 0, or a negative seed.
    """
    return certified(fit.target, fit.posterior.member, accuracy, seed, seconds)


def certified(
    target: AbstractTarget,
    member: AbstractMember,
    accuracy: float = 0.1,
    seed: int = 0,
    seconds: float = 30.0,
) -> Evidence:
    r"""``lower <= log Z <= upper`` of a target, by annealing from any q, to an accuracy in nats.

    .. math:: \log Z = \log \int p(v)\, dv

    Args:
        target: p, of p free coordinates.
        member: q, a density over them.
        accuracy: width of the bracket at which to stop, in nats.
        seed: of all random numbers.
        seconds: wall time after which no further try is begun.

    Returns:
        The 95% limits, the estimate between them, and in ``certificate`` how they came about;
        ``gap`` is how far q's bound lies below the estimate.

    Raises:
        ValueError: for an accuracy or a time that is not above 0, or a negative seed.

    Example:
        >>> import numpy as np, minorant
        >>> from jax.scipy import stats
        >>> from minorant.posteriors.members import FullRank
        >>> normal = lambda x: stats.norm.logpdf(x).sum()
        >>> target = minorant.Target(normal, x=minorant.unknowns.real(2))
        >>> found = minorant.evidence.certified(target, FullRank(np.zeros(2), 1.2 * np.eye(2)))
        >>> found.lower < 0.0 < found.upper
        True

    Not for: densities with jumps, whose slope leads nowhere; unknowns of many thousands of
    dimensions.
    """
    for name, value in (("accuracy", accuracy), ("seconds", seconds)):
        if not value > 0:
            raise ValueError(f"{name} must be above 0; got {value}.")
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed must be a whole number from 0 to 2^31 - 1; got {seed}.")
    _config.enable_compilation_cache()
    began = time.perf_counter()
    with _config.precision(np.dtype(np.float64)), _config.one_blas_thread():
        course = Course.along(target, member, seed, seconds, began)
        log_weights = course.drawn(9, course.chains).log_weights
        if not (log_weights > -np.inf).any():
            return _nothing()
        with np.errstate(invalid="ignore"):
            error = log_weights.std() / np.sqrt(len(log_weights))
        bound = Estimate(float(log_weights.mean()), float(error))
        settled = settle(course)
        return _told(bound, settled, _narrowed(settled, accuracy), accuracy)


class Narrowed(NamedTuple):
    """The last round's weights, under its plan, and all rounds."""

    ends: Ends
    plan: Plan
    rounds: tuple[Round, ...]
    hard_limit: float


def _narrowed(settled: Settled, accuracy: float) -> Narrowed:
    """Rounds of growing effort, each with fresh draws, until the bracket is narrow enough."""
    course, plan, places = settled.course, settled.plan, [settled.own, settled.far]
    if plan.variance > _COARSE and course.left(0.5) > 0:
        plan = plan.refined(int(np.ceil(plan.variance / _COARSE)))
    batches = _first_batches(plan.variance, accuracy, course.chains)
    rounds: list[Round] = []
    while True:
        began = time.perf_counter()
        ends, places = _both_ways(settled, plan, batches, len(rounds), places)
        limit = _hard(ends.forward, plan.variance, len(rounds))
        rounds.append(_round(ends, plan, course.began))
        width = max(ends.apart(), rounds[-1].upper - rounds[-1].lower)
        forward = weighed(ends.forward)
        plan, before = plan._replace(variance=forward.spread**2), (plan, batches)
        plan, batches = _more(plan, batches, width, accuracy)
        growth = plan.size * batches / (before[0].size * before[1])
        spent = time.perf_counter() - began
        if width <= accuracy or growth <= 1 or growth * spent > course.left():
            return Narrowed(ends, before[0], tuple(rounds), limit)


def _both_ways(
    settled: Settled, plan: Plan, batches: int, number: int, places: list[np.ndarray]
) -> tuple[Ends, list[np.ndarray]]:
    """Forward chains from fresh draws of q, reverse chains from both kinds at the posterior."""
    course, run, c = settled.course, settled.run, settled.course.chains
    draws = course.drawn(10 + number, batches * c)
    starts = course.places(draws.points[: batches * c]).reshape(batches, c, -1)
    forward, reverse = [], []
    for start in starts:
        if forward and course.left() < 0:  # what there is will do
            break
        forward.append(run(start, plan.forward()).log_weight if plan.size > 1 else None)
        reverse.append([run(kind, plan.reverse()).log_weight for kind in places])
        places = [run(kind, plan.resting(MOVES)).places for kind in places]
    own, far = map(np.stack, zip(*reverse, strict=True))
    # In one step, forward weights are those of the draws themselves, and all are there already.
    weights = np.concatenate(forward) if plan.size > 1 else draws.log_weights
    return Ends(weights, own, far[:, settled.kept]), places


def _round(ends: Ends, plan: Plan, first: float) -> Round:
    """What the round reached, and when."""
    low, high = ends.limits()
    return Round(plan.size, ends.forward.size, low, high, time.perf_counter() - first)


def _first_batches(variance: float, accuracy: float, chains: int) -> int:
    """As many as make both errors together about the accuracy, by the pilot's variance."""
    error = accuracy / (2.2 * WIDE)
    return int(np.clip(np.ceil(variance / (error**2 * chains)), 1, _MOST_BATCHES))


def _more(plan: Plan, batches: int, width: float, accuracy: float) -> tuple[Plan, int]:
    """More temperatures where weights differ much, else more chains."""
    if plan.variance > _COARSE and plan.size < MOST_TEMPERATURES // 2:
        return plan.refined(2), batches
    wanted = int(np.clip(np.ceil(1.2 * (width / accuracy) ** 2), 2, 8))
    return plan, min(batches * wanted, _MOST_BATCHES)


def _hard(forward: np.ndarray, variance: float, number: int) -> float:
    """The hard limit; later rounds are tried only after earlier ones, and share their 5%."""
    probability = 1.0 - 0.05 / ((number + 1) * (number + 2))
    groups = groups_for(len(forward), variance)
    return hard_limit(grouped(forward, groups), probability)


def _told(bound: Estimate, settled: Settled, narrowed: Narrowed, accuracy: float) -> Evidence:
    """The record with its verdict."""
    ends = narrowed.ends
    both = (weighed(ends.forward), backwards(ends.reverse))
    low, high = ends.limits()
    bridge = bridged(ends.forward, ends.reverse.ravel())
    estimate = float(np.clip(bridge.value, min(low, high), max(low, high)))
    certificate = Certificate(
        bound,
        both[0].log_mean,
        both[1].log_mean,
        bridge,
        narrowed.hard_limit,
        (both[0].reliability, both[1].reliability),
        both[0].effective,
        settled.r_hat,
        narrowed.plan.size,
        len(ends.forward),
        narrowed.rounds,
        settled.missed,
        settled.notes,
        accuracy,
        time.perf_counter() - settled.course.began,
    )
    said = verdict(low, high, both, settled.r_hat, certificate)
    record = _record(low, estimate, high, bound.value, said, both[0].reliability)
    return record._replace(standard_error=bridge.standard_error, certificate=certificate)


def _record(
    low: float, estimate: float, high: float, bound: float, said: str, k_hat: float
) -> Evidence:
    """The data set as one row."""
    with np.errstate(invalid="ignore"):
        gap = float(np.subtract(estimate, bound))
    rows = [np.array([number]) for number in (low, estimate, high, gap, k_hat)]
    return Evidence(
        low, estimate, high, gap, np.inf, rows[0], rows[1], rows[2], rows[3], rows[4], said
    )


def _nothing() -> Evidence:
    """What can be said where q's draws all lie where p is 0."""
    said = (
        "Cannot be trusted: the density is 0 or not finite at all draws of q. Declare the support "
        "of every unknown, and fit again."
    )
    nowhere = -np.inf
    record = _record(nowhere, nowhere, np.inf, nowhere, said, np.inf)
    return record._replace(gap=np.inf, rows_gap=np.array([np.inf]))
