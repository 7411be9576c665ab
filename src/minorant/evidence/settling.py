"""Chains brought to the posterior, from q and from far away, until both agree.

Where chains from far away settle at places that q does not explain, a Gaussian around those is
joined to q, and everything is done again.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from minorant._pareto import averaged
from minorant.evidence.bracket import nested_rhat
from minorant.evidence.certificate import AGREED
from minorant.evidence.clock import Ended
from minorant.evidence.course import Course, Visits
from minorant.evidence.modes import (
    Joined,
    clusters,
    placed,
    unexplained,
    wide_inverse,
    wide_scales,
)
from minorant.evidence.schedule import Plan, Runner, one_step, padded, pilot, resting
from minorant.posteriors.members import AbstractMember
from minorant.rungs import draw

MOVES = 4
_MOST_MOVES = 256
_ENOUGH = 16
BELOW = 5.0
MOST_LOST = 0.5
_EXTENSIONS = 2
_NEGLIGIBLE = 3e-3
_FEWEST = 16
_FADING, _FEW = 0.75, 0.25
_MASS_DRAWS = 2048


class Settled(NamedTuple):
    """Chains at the posterior, the plan that led there, and what chains from far away said.

    Attributes:
        course: the way, q joined with the modes that it missed.
        run: passes along it.
        plan: the frozen schedule.
        own: chains from q.
        far: chains from far away.
        kept: which of these count; others settled where the posterior holds next to nothing.
        r_hat: of both.
        notes: what a reader should know.
        moves: between snapshots.
    """

    course: Course
    run: Runner
    plan: Plan
    own: Visits
    far: Visits
    kept: Bool[np.ndarray, " c"]
    r_hat: float
    notes: tuple[str, ...]
    moves: int


class Attempt(NamedTuple):
    """Chains from q and from far away under one q.

    Attributes:
        course: the way.
        run: passes along it.
        plan: the schedule.
        own: chains from q.
        far: chains from far away.
        astray: those of them that q does not explain.
        moves: between snapshots.
        fading: whether fewer are astray than before: they come in from a tail.
        worth: parts that are worth joining, and their shares; None where nobody has looked.
    """

    course: Course
    run: Runner
    plan: Plan
    own: Visits
    far: Visits
    astray: Bool[np.ndarray, " c"]
    moves: int
    fading: bool
    worth: tuple[list[AbstractMember], np.ndarray] | None = None

    def is_done(self) -> bool:
        """Whether nothing is to be gained by more moves.

        What is astray after few of them may be a tail that chains from q are still on the way to.
        """
        if self.course.clock.left(0.4) < 0:
            return True
        agreed = self.r_hat() < AGREED
        if self.astray.any():
            known = self.worth is not None and (bool(self.worth[0]) or (self.fading and agreed))
            return self.moves >= _ENOUGH and known
        return agreed and (self.moves > MOVES or self.plan.size == 1)

    def lost(self) -> Bool[np.ndarray, " c"]:
        """Far chains that never arrived: they are where the posterior has nothing.

        Where hardly any arrived, that is what the reader must see.
        """
        lost = self.far.log_p[-1] < self.own.log_p.min() - BELOW
        return lost & (lost.mean() < MOST_LOST)

    def kept(self) -> Bool[np.ndarray, " c"]:
        """Far chains whose weights count: those that come in from a tail raise the upper end."""
        return ~self.lost() if self.fading else ~(self.lost() | self.astray)

    def r_hat(self) -> float:
        """The worst number's R-hat, mode by mode: how much each holds, annealing says."""
        kept = self.far.chosen(~(self.lost() | self.astray))
        labels = [_labels(v.places[-1], _centres(self.course)) for v in (self.own, kept)]
        worst = 1.0
        for label in np.unique(labels[0]):
            groups = [lab == label for lab in labels]
            if min(int(group.sum()) for group in groups) >= _FEWEST:
                pair = [
                    _numbers(v.chosen(g)) for v, g in zip((self.own, kept), groups, strict=True)
                ]
                worst = max(worst, float(nested_rhat(pair).max()))
        return worst

    def looked(self) -> Attempt:
        """With what is worth joining."""
        return self._replace(worth=self.joinable())

    def joinable(self) -> tuple[list[AbstractMember], np.ndarray]:
        """Parts that are worth joining, and their shares."""
        return worth_joining(self) if self.worth is None else self.worth

    def settled(self) -> Settled:
        """What chains say as they are now."""
        still = bool(self.joinable()[0])
        r_hat = np.inf if still else self.r_hat()
        notes = _notes(self.course.missed, still, int(self.astray.sum()), self.fading)
        kept = self.kept()
        return Settled(
            self.course, self.run, self.plan, self.own, self.far, kept, r_hat, notes, self.moves
        )


def settle(course: Course) -> Settled | None:
    """Chains at the posterior; q is joined with modes that far chains find and it does not.

    None where time was over before any were there.
    """
    tries: list[Attempt] = []
    with contextlib.suppress(Ended):
        _search(course, tries)
    return tries[-1].settled() if tries else None


def _search(course: Course, tries: list[Attempt]) -> None:
    """All attempts, one q after the other."""
    far = None
    for number in range(_EXTENSIONS + 1):
        _attempt(course, tries, far)
        tries[-1] = tries[-1].looked()
        parts, log_shares = tries[-1].joinable()
        if not parts or number == _EXTENSIONS:
            return
        far = course.points(tries[-1].far.places[-1])
        course = _extended(course, parts, log_shares)


def _extended(course: Course, parts: list[AbstractMember], log_shares: np.ndarray) -> Course:
    """Under q and the parts."""
    joined = Joined.of([course.member, *parts], log_shares)
    missed = course.missed + float(-np.expm1(joined.log_weights[0])) * (1.0 - course.missed)
    longer = Course.along(course.target, joined, course.seed, course.clock, course.chains)
    return longer._replace(missed=missed)


def _notes(missed: float, still: bool, astray: int, fading: bool) -> tuple[str, ...]:
    notes = []
    if missed:
        notes.append(
            f"q missed places that hold {missed:.2g} of the posterior; chains from far away found "
            "them, and the evidence includes them, but q's draws and bound do not."
        )
    if still:
        notes.append("Chains from far away still find places that the certificate does not hold.")
    elif astray:
        where = "were still coming in from tails that q hardly reaches"
        if not fading:
            where = "ended where the posterior holds next to nothing, and do not count"
        notes.append(f"{astray} chain(s) from far away {where}.")
    return tuple(notes)


def _attempt(course: Course, tries: list[Attempt], far_points: np.ndarray | None) -> None:
    """Both kinds of chains moved until they agree, or the time for it is over."""
    run, close = course.runner(), course.is_close()
    rng = np.random.default_rng(course.seed)
    if close:
        plan, own = one_step(run, course.weighted_starts(rng), course.variance)
    else:
        plan, own = pilot(run, course.starts(), rng, lambda: course.clock.left(0.3))
    away = _far(course, plan) if far_points is None else course.places(far_points)
    far = run(away, resting(plan.length[-1], 0))
    moves, before = 1 if close else MOVES, 0
    while True:
        visits = [Visits.of(run, plan, kind, moves) for kind in (own, far)]
        astray = unexplained(visits[0].log_ratio, visits[1].log_ratio[-1])
        fading = bool(astray.sum() < _FADING * before and astray.mean() < _FEW)
        attempt = Attempt(course, run, plan, visits[0], visits[1], astray, moves, fading)
        tries.append(attempt.looked() if moves >= _ENOUGH else attempt)
        if moves >= _MOST_MOVES or tries[-1].is_done():
            return
        own, far = (kind.last for kind in visits)
        moves, before = 2 * moves, int(astray.sum())


def _far(course: Course, plan: Plan) -> Float[np.ndarray, "c p"]:
    """Chains annealed from Gaussians much wider than q."""
    scales = wide_scales(course.chains)
    rng = np.random.default_rng(course.seed + 1)
    start = scales[:, None] * rng.normal(size=(course.chains, course.target.size))
    inverse = wide_inverse()
    lengths = np.full(len(inverse), plan.length[-1])
    schedule = padded(np.zeros(len(inverse)), inverse, lengths)
    return course.runner(scales)(start, schedule).places


def worth_joining(attempt: Attempt) -> tuple[list[AbstractMember], np.ndarray]:
    """Gaussians of the modes that q missed and that hold a share worth having."""
    course, own, far = attempt.course, attempt.own, attempt.far
    if not attempt.astray.any():
        return [], np.zeros(1)
    strays = far.chosen(attempt.astray)
    found = clusters(strays.places, strays.log_p[-1], own.places.reshape(-1, course.target.size))
    parts: list[AbstractMember] = [placed(one, course.mean, course.factor) for one in found]
    masses = [float(averaged(course.draws.log_weights)[0])]
    masses = np.array([*masses, *(_log_mass(course, part) for part in parts)])
    shares = masses - np.logaddexp.reduce(masses)
    worth = [0] + [k for k in range(1, len(masses)) if shares[k] > np.log(_NEGLIGIBLE)]
    return [parts[k - 1] for k in worth[1:]], masses[worth]


def _log_mass(course: Course, part: AbstractMember) -> float:
    """The log of the mean importance weight: what p holds where the part lies."""
    found = draw(course.target, part, course.seed + 613, _MASS_DRAWS)
    return float(averaged(found.log_weights)[0])


def _numbers(visits: Visits) -> Float[np.ndarray, "s c m"]:
    """What is compared: every coordinate, and log p."""
    return np.concatenate([visits.places, visits.log_p[..., None]], axis=-1)


def _centres(course: Course) -> np.ndarray:
    """Where the parts of q lie, in its coordinates."""
    parts = course.member.parts if isinstance(course.member, Joined) else (course.member,)
    means = [getattr(part, "means", getattr(part, "mean", None)) for part in parts]
    known = [np.atleast_2d(course.mean if mean is None else mean) for mean in means]
    return course.places(np.concatenate(known))


def _labels(places: Float[np.ndarray, "c p"], centres: Float[np.ndarray, "k p"]) -> np.ndarray:
    """The nearest centre of each."""
    return ((places[:, None] - centres) ** 2).sum(-1).argmin(1)
