"""The course of a certificate: from coordinates of q's width to chains at the posterior."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import solve_triangular

from minorant._pareto import averaged
from minorant.evidence.bracket import nested_rhat
from minorant.evidence.certificate import AGREED
from minorant.evidence.kernels import TargetPath
from minorant.evidence.modes import (
    Joined,
    clusters,
    placed,
    unexplained,
    wide_inverse,
    wide_scales,
)
from minorant.evidence.schedule import Plan, Runner, padded, pilot
from minorant.models.target import AbstractTarget
from minorant.posteriors.members import AbstractMember, FullRank
from minorant.rungs import Draws, draw, draws_to_judge

_CHAINS = 512
_WORK = 2**22
_DENSE = 500
_SNAPSHOTS = 6
MOVES = 4
_MORE = 7
_ENOUGH = 16
BELOW = 5.0
MOST_LOST = 0.5
_EXTENSIONS = 2
_NEGLIGIBLE = 3e-3
_FEWEST = 16


class Course(NamedTuple):
    """What a certificate is made from: target, q, coordinates of its width, and the clock."""

    target: AbstractTarget
    member: AbstractMember
    mean: Float[np.ndarray, " p"]
    factor: Float[np.ndarray, "p *p"]
    chains: int
    seed: int
    began: float
    seconds: float

    @classmethod
    def along(
        cls, target: AbstractTarget, member: AbstractMember, seed: int, seconds: float, began: float
    ) -> Course:
        """With the coordinates of q."""
        mean, factor = _coordinates(target, member, seed)
        c = int(np.clip(_WORK // max(target.work(), target.size), 64, _CHAINS))
        return cls(target, member, mean, factor, c, seed, began, seconds)

    def left(self, share: float = 1.0) -> float:
        """Seconds left of that share of the time."""
        return share * self.seconds - (time.perf_counter() - self.began)

    def runner(self, scales: np.ndarray | None = None) -> Runner:
        """Passes from q; with scales, from Gaussians so wide."""
        gaussian = scales is not None or isinstance(self.member, FullRank)
        scale = np.ones(self.chains) if scales is None else scales
        member = None if gaussian else self.member
        path = TargetPath(self.target, member, self.mean, self.factor, scale)
        return Runner(path, self.seed + (15485863 if scales is None else 32452843))

    def places(self, points: Float[np.ndarray, "s p"]) -> Float[np.ndarray, "s p"]:
        """Points in coordinates of q's width."""
        away = points - self.mean
        if self.factor.ndim == 1:
            return away / self.factor
        return solve_triangular(self.factor, away.T, lower=True).T

    def drawn(self, number: int, s: int) -> Draws:
        """Fresh draws of q, at least ``s``, in random order (a mixture draws by strata).

        Strata only help: the expectation of the product of groups' means stays below Z^n
        (Maclaurin's inequality), so the hard limit holds.
        """
        size, parts = draws_to_judge(self.target.size), []
        for part in range(-(-s // size)):
            name = self.seed + 179424673 + 1009 * number + part
            parts.append(draw(self.target, self.member, name, size))
        points = np.concatenate([p.points for p in parts])
        log_weights = np.concatenate([p.log_weights for p in parts])
        order = np.random.default_rng(self.seed + number).permutation(len(points))
        return Draws(points[order], log_weights[order], log_weights[order], np.nan)

    def points(self, places: Float[np.ndarray, "*s p"]) -> Float[np.ndarray, "*s p"]:
        """Back to free coordinates."""
        scaled = places * self.factor if self.factor.ndim == 1 else places @ self.factor.T
        return self.mean + scaled


class Settled(NamedTuple):
    """Chains at the posterior, the plan that led there, and what chains from far away said.

    Attributes:
        course: the way, q joined with the modes that it missed.
        run: passes along it.
        plan: the frozen schedule.
        own: where chains from q are.
        far: where chains from far away are.
        kept: which of these count; the others settled where the posterior holds next to nothing.
        r_hat: of those and chains from far away.
        missed: the share of the posterior in modes that q missed.
        notes: what a reader should know.
    """

    course: Course
    run: Runner
    plan: Plan
    own: Float[np.ndarray, "c p"]
    far: Float[np.ndarray, "c p"]
    kept: Bool[np.ndarray, " c"]
    r_hat: float
    missed: float
    notes: tuple[str, ...]


class Visits(NamedTuple):
    """Snapshots of chains: where they were, log p, and log p - log q."""

    places: Float[np.ndarray, "s c p"]
    log_p: Float[np.ndarray, "s c"]
    log_ratio: Float[np.ndarray, "s c"]


class Attempt(NamedTuple):
    """Chains from q and from far away under one q."""

    course: Course
    run: Runner
    plan: Plan
    own: Visits
    far: Visits
    astray: Bool[np.ndarray, " c"]

    def is_done(self, moves: int) -> bool:
        """Whether nothing is to be gained by more moves.

        What is astray after few of them may be a tail that chains from q are still on the way to.
        """
        if self.course.left(0.4) < 0:
            return True
        if self.astray.any():
            return moves >= _ENOUGH and bool(_worth_joining(self)[0])
        return moves > MOVES and self.r_hat(self.lost()) < AGREED

    def lost(self) -> Bool[np.ndarray, " c"]:
        """Far chains that never arrived: they are where the posterior has nothing."""
        lost = self.far.log_p[-1] < self.own.log_p.min() - BELOW
        # Where hardly any arrived, that is what the reader must see.
        return lost & (lost.mean() < MOST_LOST)

    def r_hat(self, left_out: Bool[np.ndarray, " c"]) -> float:
        """The worst number's R-hat, mode by mode: how much each holds, annealing says."""
        kept = _chosen(self.far, ~left_out)
        labels = [_labels(v.places[-1], _centres(self.course)) for v in (self.own, kept)]
        worst = 1.0
        for label in np.unique(labels[0]):
            groups = [lab == label for lab in labels]
            if min(int(group.sum()) for group in groups) >= _FEWEST:
                pair = [
                    _numbers(_chosen(v, g)) for v, g in zip((self.own, kept), groups, strict=True)
                ]
                worst = max(worst, float(nested_rhat(pair).max()))
        return worst


def settle(course: Course) -> Settled:
    """Chains at the posterior; q is joined with modes that far chains find and it does not."""
    missed, far = 0.0, None
    for number in range(_EXTENSIONS + 1):
        attempt = _attempted(course, number, far)
        parts, log_shares = _worth_joining(attempt)
        if not parts or number == _EXTENSIONS:
            break
        far = course.points(attempt.far.places[-1])
        joined = Joined.of([course.member, *parts], log_shares)
        missed += float(-np.expm1(joined.log_weights[0])) * (1.0 - missed)
        course = Course.along(course.target, joined, course.seed, course.seconds, course.began)
    left_out = attempt.astray | attempt.lost()
    r_hat = np.inf if parts else attempt.r_hat(left_out)
    notes = _notes(missed, bool(parts))
    places = (attempt.own.places[-1], attempt.far.places[-1], ~left_out)
    return Settled(attempt.course, attempt.run, attempt.plan, *places, r_hat, missed, notes)


def _notes(missed: float, still: bool) -> tuple[str, ...]:
    notes = []
    if missed:
        notes.append(
            f"q missed places that hold {missed:.2g} of the posterior; chains from far away found "
            "them, and the evidence includes them, but q's draws and bound do not."
        )
    if still:
        notes.append("Chains from far away still find places that the certificate does not hold.")
    return tuple(notes)


def _attempted(course: Course, number: int, far: np.ndarray | None) -> Attempt:
    """Both kinds of chains moved until they agree, or the time for it is over."""
    run = course.runner()
    start = course.drawn(number, course.chains).points[: course.chains]
    rng = np.random.default_rng(course.seed)
    plan, places = pilot(run, course.places(start), rng, lambda: course.left(0.3))
    away = _far(course, plan) if far is None else course.places(far)
    for doubling in range(_MORE):
        moves = MOVES * 2**doubling
        own, far_visits = _visits(run, plan, places, moves), _visits(run, plan, away, moves)
        astray = unexplained(own.log_ratio, far_visits.log_ratio[-1])
        attempt = Attempt(course, run, plan, own, far_visits, astray)
        places, away = own.places[-1], far_visits.places[-1]
        if attempt.is_done(moves):
            break
    return attempt


def _far(course: Course, plan: Plan) -> Float[np.ndarray, "c p"]:
    """Chains annealed from Gaussians much wider than q."""
    scales = wide_scales(course.chains)
    rng = np.random.default_rng(course.seed + 1)
    start = scales[:, None] * rng.normal(size=(course.chains, course.target.size))
    inverse = wide_inverse()
    lengths = np.full(len(inverse), plan.length[-1])
    schedule = padded(np.zeros(len(inverse)), inverse, lengths)
    return course.runner(scales)(start, schedule).places


def _visits(run: Runner, plan: Plan, places: np.ndarray, moves: int) -> Visits:
    """Snapshots some moves apart."""
    found = []
    for _ in range(_SNAPSHOTS):
        passed = run(places, plan.resting(moves))
        places = passed.places
        found.append((places, passed.log_p, passed.log_ratio))
    return Visits(*map(np.stack, zip(*found, strict=True)))


def _worth_joining(attempt: Attempt) -> tuple[list[AbstractMember], np.ndarray]:
    """Gaussians of the modes that q missed and that hold a share worth having."""
    course, own, far = attempt.course, attempt.own, attempt.far
    if not attempt.astray.any():
        return [], np.zeros(1)
    strays = _chosen(far, attempt.astray)
    found = clusters(strays.places, strays.log_p[-1], own.places.reshape(-1, course.target.size))
    parts: list[AbstractMember] = [placed(one, course.mean, course.factor) for one in found]
    masses = np.array([_log_mass(course, part) for part in [course.member, *parts]])
    shares = masses - np.logaddexp.reduce(masses)
    worth = [0] + [k for k in range(1, len(masses)) if shares[k] > np.log(_NEGLIGIBLE)]
    return [parts[k - 1] for k in worth[1:]], masses[worth]


def _log_mass(course: Course, part: AbstractMember) -> float:
    """The log of the mean importance weight: what p holds where the part lies."""
    size = draws_to_judge(course.target.size)
    value = averaged(draw(course.target, part, course.seed + 613, size).log_weights)[0]
    return float(value)


def _chosen(visits: Visits, chains: Bool[np.ndarray, " c"]) -> Visits:
    return Visits(*(part[:, chains] for part in visits))


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


def _coordinates(
    target: AbstractTarget, member: AbstractMember, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where q lies and how wide it is: its own, or those of its draws."""
    if isinstance(member, FullRank):
        return np.asarray(member.mean, float), np.tril(np.asarray(member.factor, float))
    points = draw(target, member, seed + 1, draws_to_judge(target.size)).points
    mean = points.mean(0)
    if target.size > _DENSE:
        return mean, points.std(0)
    covariance = np.cov(points.T).reshape(target.size, -1)
    ridge = 1e-10 * np.trace(covariance) / target.size * np.eye(target.size)
    return mean, np.linalg.cholesky(covariance + ridge)
