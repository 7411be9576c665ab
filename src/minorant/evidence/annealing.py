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

from typing import Any

import numpy as np

from minorant import _config
from minorant.evidence.bracket import WIDE, bridged, weighed
from minorant.evidence.certificate import Certificate, Round, verdict
from minorant.evidence.clock import Clock
from minorant.evidence.course import Course
from minorant.evidence.narrowing import Narrowed, backwards, hard_share, narrowed
from minorant.evidence.settling import Settled, settle
from minorant.models.target import AbstractTarget
from minorant.posteriors.members import AbstractMember
from minorant.result import Estimate, Evidence


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
    clock = Clock(seconds)
    with _config.precision(np.dtype(np.float64)), _config.one_blas_thread():
        course = Course.along(target, member, seed, clock)
        log_weights = course.draws.log_weights
        if not (log_weights > -np.inf).any():
            return _nothing()
        with np.errstate(invalid="ignore"):
            error = log_weights.std() / np.sqrt(len(log_weights))
        bound = Estimate(float(log_weights.mean()), float(error))
        settled = settle(course)
        if settled is None:
            return _one_end(bound, course, accuracy)
        return _told(bound, settled, narrowed(settled, accuracy), accuracy)


def _told(bound: Estimate, settled: Settled, found: Narrowed, accuracy: float) -> Evidence:
    """The record with its verdict."""
    ends = found.ends
    both = (weighed(ends.forward), backwards(ends.reverse))
    low, high = ends.limits()
    bridge = bridged(ends.forward, ends.reverse.ravel())
    estimate = float(np.clip(bridge.value, min(low, high), max(low, high)))
    certificate = Certificate(
        bound,
        both[0].log_mean,
        both[1].log_mean,
        bridge,
        found.hard_limit,
        (both[0].reliability, both[1].reliability),
        both[0].effective,
        settled.r_hat,
        found.temperatures,
        len(ends.forward),
        found.rounds,
        settled.course.missed,
        (*settled.notes, *found.notes),
        accuracy,
        settled.course.clock.spent(),
    )
    said = verdict(low, high, both, settled.r_hat, certificate)
    record = _record(low, estimate, high, bound.value, said, both[0].reliability)
    return record._replace(standard_error=bridge.standard_error, certificate=certificate)


def _one_end(bound: Estimate, course: Course, accuracy: float) -> Evidence:
    """What importance weights say, where no chain has come to the posterior in time."""
    forward = weighed(course.forward)
    value = forward.log_mean
    limit = hard_share(course.forward, course.variance, 0)
    low = float(value.value - WIDE * value.standard_error)
    said = (
        "Cannot be trusted: there is no upper end, as no chains had come to the posterior yet. "
        f"{course.clock.sentence()} Give more seconds=."
    )
    endless = Estimate(np.inf, np.inf)
    round_ = Round(1, len(course.forward), low, np.inf, course.clock.spent())
    certificate = Certificate(
        bound, value, endless, value, limit, (forward.reliability, np.inf), forward.effective,
        np.inf, 1, len(course.forward), (round_,), course.missed, (), accuracy, round_.seconds,
    )  # fmt: skip
    record = _record(low, value.value, np.inf, bound.value, said, forward.reliability)
    return record._replace(standard_error=value.standard_error, certificate=certificate)


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
