r"""The ladder: the best bound over a growing set of families, each rung started from the last.

Families are objects (:mod:`minorant.families`); the ladder climbs those it is told to, in order,
and judges every rung on fresh draws. It ends where importance weights say that the bound is tight,
or with the time; the rung with the best bound is returned.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np

from minorant import _config, families
from minorant._progress import Progress, Reporter
from minorant.bounds import AbstractBound, Elbo
from minorant.checking import check_target
from minorant.families.base import AbstractFamily, Climb
from minorant.journal import Journal
from minorant.models.target import AbstractTarget
from minorant.posteriors.members import AbstractMember, FullRank, MeanField
from minorant.result import Outcome
from minorant.rungs import Rung, draw, draws_to_judge, judged
from minorant.target_fit import TargetFit, TargetPosterior

_LARGEST = 1500
_WIDE = 1e8


class Ladder(NamedTuple):
    """How the best posterior of a target is looked for.

    Attributes:
        family: ``"auto"``, the name of a family, a family, or a density to start from.
        accuracy: nats that importance weights may find above the bound.
        seconds: wall time after which no further rung is begun.
        seed: of all random numbers.
        reporter: shows where the climb is.
        bound: what families that take any bound climb; None for the evidence lower bound.
        journal: is told where stochastic ascents stand.
    """

    family: str | AbstractFamily | AbstractMember = "auto"
    accuracy: float = 0.05
    seconds: float = 60.0
    seed: int = 0
    reporter: Reporter = Reporter(False)
    bound: AbstractBound | None = None
    journal: Journal = Journal()

    def climb(self, target: AbstractTarget) -> TargetFit:
        """The best posterior within the time, how tight its bound is, and the table of rungs.

        Raises:
            ValueError: for an option out of range, or a target that fails its check.
        """
        asked, route = _route(self.family, target.size)
        _check(self, asked)
        _config.enable_compilation_cache()
        checked = check_target(target, self.seed)
        bound = Elbo() if self.bound is None else self.bound
        climb = Climb(
            target, checked.starts, asked, bound, self.accuracy, self.seconds, self.seed,
            journal=self.journal,
        )  # fmt: skip
        with _config.precision(np.dtype(np.float64)), _config.one_blas_thread():
            try:
                _rungs(climb, route, self.reporter)
            except KeyboardInterrupt:
                climb.interrupted = True
                if not climb.rungs:
                    raise
            finally:
                self.reporter.close()
            return _answer(climb, checked.sentence)


def _route(family: Any, p: int) -> tuple[AbstractFamily | None, list[AbstractFamily]]:
    """The family that is asked for, if one is, and all that are climbed, in order.

    Raises:
        TypeError: for what is no family.
        ValueError: for a name that is none, or more unknowns than the family is for.
    """
    if isinstance(family, str) and family == "auto":
        names = families.SPARSE if p > _LARGEST else families.DENSE
        return None, [families.named(name) for name in names]
    asked = _family(family)
    if asked.most is not None and p > asked.most:
        raise ValueError(
            f"posterior={asked.name!r} is for at most {asked.most} unknowns; the target has {p}: "
            "ask for 'mean-field' or 'low-rank', or leave it to 'auto'."
        )
    return asked, [*(families.named(name) for name in asked.after), asked]


def _family(given: Any) -> AbstractFamily:
    """What ``posterior=`` names or holds."""
    if isinstance(given, str):
        return families.named(given)
    if isinstance(given, AbstractMember):
        return families.Given(given)
    if isinstance(given, AbstractFamily):
        return given
    raise TypeError(
        "posterior must be the name of a family, a family such as minorant.families.Flow(), or a "
        f"density to climb from (minorant.posteriors.AbstractMember); got {type(given).__name__}."
    )


def _check(ladder: Ladder, asked: AbstractFamily | None) -> None:
    for name in ("accuracy", "seconds"):
        if not getattr(ladder, name) > 0:
            raise ValueError(f"{name} must be above 0; got {getattr(ladder, name)}.")
    if ladder.bound is None or isinstance(ladder.bound, Elbo):
        return
    if not isinstance(ladder.bound, AbstractBound):
        raise TypeError(
            "bound must be an object of minorant.bounds, such as ImportanceWeighted(8); got "
            f"{ladder.bound!r}."
        )
    if asked is None or not asked.takes_bound:
        name = "auto" if asked is None else asked.name
        raise ValueError(
            f"posterior={name!r} climbs the evidence lower bound, and no other: with bound= ask "
            "for 'flow', 'low-rank', or a density of yours."
        )


def _rungs(climb: Climb, route: list[AbstractFamily], reporter: Reporter) -> None:
    """Rung after rung, until one is enough."""
    enough = False
    for family in route:
        if climb.interrupted or (enough and not family.looks_elsewhere):
            continue
        began = time.perf_counter()
        reached = family.rung(climb)
        if reached is None:
            continue
        rung = judged(family.name, climb.target, reached, climb.seed + 7919)
        rung = rung._replace(seconds=time.perf_counter() - began)
        climb.rungs.append(rung)
        _report(climb, reporter)
        tight = rung.gap < climb.accuracy and rung.is_reliable and not family.is_start
        enough = climb.asked is None and (tight or climb.left() < 0)


def _report(climb: Climb, reporter: Reporter) -> None:
    rung, done = climb.rungs[-1], len(climb.rungs)
    now, left = time.perf_counter() - climb.began, max(climb.left(), 0)
    reporter.update(Progress(done, done + 1, float(rung.bound.value), rung.gap, now, left))


def _answer(climb: Climb, note: str) -> TargetFit:
    target = climb.target
    chosen = _chosen(climb)
    best = climb.rungs[chosen]
    draws = draw(target, best.member, climb.seed + 104729, draws_to_judge(target.size))
    posterior = TargetPosterior(target, best.member, draws, np.dtype(np.float64))
    return TargetFit(
        target,
        posterior,
        Outcome.INTERRUPTED if climb.interrupted else _outcome(best, climb),
        best.bound,
        tuple(climb.rungs),
        _explanation(best, climb),
        note,
        time.perf_counter() - climb.began,
        climb.seed,
        chosen,
    )


def _chosen(climb: Climb) -> int:
    """The rung with the best bound; the last, where that climbed another bound than is judged."""
    last = len(climb.rungs) - 1
    if not isinstance(climb.bound, Elbo):
        return last
    return max(range(last + 1), key=lambda place: float(climb.rungs[place].bound.value))


def _outcome(best: Rung, climb: Climb) -> Outcome:
    if max(_widest(rung) for rung in climb.rungs) > _WIDE:
        return Outcome.IMPROPER
    if not np.isfinite(best.bound.value):
        return Outcome.OUTSIDE
    tight = best.gap < climb.accuracy
    if not best.is_reliable:
        return Outcome.LIGHT_TAILS if tight else Outcome.UNRELIABLE
    return Outcome.TIGHT if tight else Outcome.LOOSE


def _widest(rung: Rung) -> float:
    """The largest standard deviation of a free coordinate, in Gaussian families."""
    member = rung.member
    if isinstance(member, FullRank):
        return float(np.sqrt((np.asarray(member.factor) ** 2).sum(1)).max())
    if isinstance(member, MeanField):
        return float(np.exp(np.asarray(member.log_scale).max()))
    return 0.0


def _explanation(best: Rung, climb: Climb) -> str:
    n = len(climb.rungs)
    why = "asked for" if climb.asked is not None else f"the best bound of {n} rung(s)"
    gap = f"importance weights find {best.gap:.3g} nats above it"
    return f"Posterior: {best.family}, {why}; {gap} (accuracy asked for: {climb.accuracy:g})."
