"""The course of a certificate: coordinates of q's width, draws of q, chains, and the clock."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

from minorant._pareto import NEARLY_EQUAL, UNRELIABLE, averaged, smoothed
from minorant.evidence.clock import Clock
from minorant.evidence.kernels import Passed, TargetPath
from minorant.evidence.schedule import Plan, Runner, conditional_size, resampled
from minorant.models.target import AbstractTarget
from minorant.posteriors.members import AbstractMember, FullRank
from minorant.rungs import Draws, draw, draws_to_judge

CHAINS = 128
_WORK = 2**22
_DENSE = 500
_SNAPSHOTS = 6
_WORTH = 0.05


class Course(NamedTuple):
    """What a certificate is made from.

    Attributes:
        target: p.
        member: q.
        mean: where q lies.
        factor: how wide it is, a lower triangle or a diagonal.
        chains: of each kind.
        seed: of all random numbers.
        clock: how much time is left.
        draws: of q, in random order: three quarters weigh, the others are where chains begin.
        missed: the share of the posterior in parts that were joined to the user's q.
    """

    target: AbstractTarget
    member: AbstractMember
    mean: Float[np.ndarray, " p"]
    factor: Float[np.ndarray, "p *p"]
    chains: int
    seed: int
    clock: Clock
    draws: Draws
    missed: float = 0.0

    @classmethod
    def along(
        cls,
        target: AbstractTarget,
        member: AbstractMember,
        seed: int,
        clock: Clock,
        chains: int = CHAINS,
    ) -> Self:
        """With the coordinates of q and fresh draws of it."""
        mean, factor = _coordinates(target, member, seed)
        c = int(np.clip(_WORK // max(target.work(), target.size), 64, chains))
        draws = _drawn(target, member, seed, 9, c)
        return cls(target, member, mean, factor, c, seed, clock, draws)

    @property
    def forward(self) -> Float[np.ndarray, " s"]:
        """Log weights of the draws that nothing was decided by."""
        return self.draws.log_weights[: self._first()]

    def _first(self) -> int:
        n = len(self.draws.points)
        return n - max(n // 4, self.chains)

    @property
    def tried(self) -> Float[np.ndarray, " s"]:
        """Log weights of the draws that say how close q is."""
        return self.draws.log_weights[self._first() :]

    @property
    def variance(self) -> float:
        """The relative variance of q's importance weights."""
        return 1.0 / conditional_size(self.tried) - 1.0

    def is_close(self) -> bool:
        """Whether q's importance weights have a mean that can be relied on, and many count."""
        log_weights = self.tried
        shape, spread = smoothed(log_weights)[1], averaged(log_weights)[1]
        sound = shape < UNRELIABLE or spread < NEARLY_EQUAL
        return bool(sound and conditional_size(log_weights) > _WORTH)

    def starts(self) -> Float[np.ndarray, "c p"]:
        """Draws of q in coordinates of its width."""
        return self.places(self.draws.points[self._first() :][: self.chains])

    def weighted_starts(self, rng: np.random.Generator) -> Float[np.ndarray, "c p"]:
        """Draws of q resampled by their weights, which are about draws of the posterior."""
        picked = rng.permutation(resampled(self.tried, rng))[: self.chains]
        return self.places(self.draws.points[self._first() :][picked])

    def runner(self, scales: np.ndarray | None = None) -> Runner:
        """Passes from q; with scales, from Gaussians so wide."""
        gaussian = scales is not None or isinstance(self.member, FullRank)
        scale = np.ones(self.chains) if scales is None else scales
        member = None if gaussian else self.member
        path = TargetPath(self.target, member, self.mean, self.factor, scale)
        return Runner(path, self.seed + (15485863 if scales is None else 32452843), self.clock)

    def places(self, points: Float[np.ndarray, "s p"]) -> Float[np.ndarray, "s p"]:
        """Points in coordinates of q's width."""
        away = points - self.mean
        if self.factor.ndim == 1:
            return away / self.factor
        return solve_triangular(self.factor, away.T, lower=True).T

    def drawn(self, number: int, s: int) -> Draws:
        """More draws of q, at least ``s``."""
        return _drawn(self.target, self.member, self.seed, number, s)

    def points(self, places: Float[np.ndarray, "*s p"]) -> Float[np.ndarray, "*s p"]:
        """Back to free coordinates."""
        scaled = places * self.factor if self.factor.ndim == 1 else places @ self.factor.T
        return self.mean + scaled


class Visits(NamedTuple):
    """Snapshots of chains, where they were, log p and log p - log q, and how to go on."""

    places: Float[np.ndarray, "s c p"]
    log_p: Float[np.ndarray, "s c"]
    log_ratio: Float[np.ndarray, "s c"]
    last: Passed

    @classmethod
    def of(cls, run: Runner, plan: Plan, start: Passed, moves: int) -> Self:
        """Snapshots so many moves apart."""
        found, passed = [], start
        for _ in range(_SNAPSHOTS):
            passed = run(passed, plan.resting(moves))
            found.append((passed.places, passed.log_p, passed.log_ratio))
        places, log_p, log_ratio = (np.stack(part) for part in zip(*found, strict=True))
        return cls(places, log_p, log_ratio, passed)

    def chosen(self, chains: np.ndarray) -> Self:
        """Some of the chains."""
        last = self.last.picked(np.flatnonzero(chains))
        places, log_p, log_ratio = (part[:, chains] for part in self[:3])
        return type(self)(places, log_p, log_ratio, last)

    def joined(self, later: Visits) -> Self:
        """With snapshots that follow."""
        pairs = zip(self[:3], later[:3], strict=True)
        places, log_p, log_ratio = (np.concatenate(pair) for pair in pairs)
        return type(self)(places, log_p, log_ratio, later.last)


def _drawn(target: AbstractTarget, member: AbstractMember, seed: int, number: int, s: int) -> Draws:
    """Fresh draws of q, at least ``s``, in random order (a mixture draws by strata).

    Strata only help: the expectation of the product of groups' means stays below Z^n (Maclaurin's
    inequality), so the hard limit holds.
    """
    size, parts = draws_to_judge(target.size), []
    for part in range(-(-s // size)):
        name = seed + 179424673 + 1009 * number + part
        parts.append(draw(target, member, name, size))
    points = np.concatenate([p.points for p in parts])
    log_weights = np.concatenate([p.log_weights for p in parts])
    order = np.random.default_rng(seed + number).permutation(len(points))
    return Draws(points[order], log_weights[order], log_weights[order], np.nan)


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
