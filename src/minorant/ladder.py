r"""The ladder: the best bound over a growing set of families, each rung started from the last.

Mode and curvature; a full-rank Gaussian (independent coordinates, then a few common directions,
where p is too large for one); several Gaussians where modes lie apart; a normalising flow. It ends
where importance weights say that the bound is tight, or with the time; the rung with the best bound
on fresh draws is returned.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._progress import Progress, Reporter
from minorant._types import Array, Key
from minorant.bounds import path_elbo
from minorant.checking import check_target
from minorant.models.target import AbstractTarget, log_densities
from minorant.posteriors.flow import Flow
from minorant.posteriors.members import AbstractMember, Blend, FullRank, LowRank, MeanField
from minorant.result import Outcome
from minorant.rungs import Rung, draw, draws_to_judge, judged
from minorant.solvers.mode import climb_to_modes
from minorant.solvers.natural import GaussianClimb, climb_gaussian, draws_for
from minorant.solvers.sample_average import AverageBound, paired_draws
from minorant.solvers.stochastic import Ascent
from minorant.target_fit import TargetFit, TargetPosterior

FAMILIES = ("auto", "mode", "mean-field", "low-rank", "full-rank", "mixture", "flow")
_SPARSE = ("mean-field", "low-rank")
_RANK = 8
_LARGEST = 1500
_LANES = 8
_MODES = 4
_COARSE = 1e-2
_MOST = 64
_WORK = 2**25
_FAR = 7.0
_WIDE = 1e8
_PATHS = 64
_LEAST_SECONDS = 5.0


class Ladder(NamedTuple):
    """How the best posterior of a target is looked for.

    Attributes:
        family: ``"auto"``, or the one family to climb to.
        accuracy: nats that importance weights may find above the bound.
        seconds: wall time after which no further rung is begun.
        seed: of all random numbers.
        reporter: shows where the climb is.
    """

    family: str = "auto"
    accuracy: float = 0.05
    seconds: float = 60.0
    seed: int = 0
    reporter: Reporter = Reporter(False)

    def climb(self, target: AbstractTarget) -> TargetFit:
        """The best posterior within the time, how tight its bound is, and the table of rungs.

        Raises:
            ValueError: for an option out of range, or a target that fails its check.
        """
        _check(self)
        _config.enable_compilation_cache()
        checked = check_target(target, self.seed)
        climb = Climb(self, target, time.perf_counter(), [])
        interrupted = False
        with _config.precision(np.dtype(np.float64)), _config.one_blas_thread():
            try:
                _rungs(climb, checked.starts)
            except KeyboardInterrupt:
                interrupted = True
                if not climb.rungs:
                    raise
            finally:
                self.reporter.close()
            return _answer(climb, checked.sentence, interrupted)


class Climb(NamedTuple):
    """One climb under way: the rungs so far, and the clock."""

    ladder: Ladder
    target: AbstractTarget
    began: float
    rungs: list[Rung]

    def left(self) -> float:
        """Seconds that are left."""
        return self.ladder.seconds - (time.perf_counter() - self.began)

    def key(self, name: int) -> Any:
        """The random key of that name."""
        return jax.random.fold_in(jax.random.key(self.ladder.seed), name)

    def reached(self, family: str, member: Any, began: float, sentence: str) -> None:
        """One more rung, judged on fresh draws and reported."""
        seed = self.ladder.seed + 7919
        rung = judged(family, self.target, member, seed, 0.0, sentence)
        now = time.perf_counter()
        self.rungs.append(rung._replace(seconds=now - began))
        bound, done = float(rung.bound.value), len(self.rungs)
        progress = Progress(done, done + 1, bound, rung.gap, now - self.began, max(self.left(), 0))
        self.ladder.reporter.update(progress)


def _check(ladder: Ladder) -> None:
    if ladder.family not in FAMILIES:
        raise ValueError(
            f"posterior must be one of {FAMILIES} for a target; got {ladder.family!r}."
        )
    for name in ("accuracy", "seconds"):
        if not getattr(ladder, name) > 0:
            raise ValueError(f"{name} must be above 0; got {getattr(ladder, name)}.")


def _rungs(climb: Climb, starts: np.ndarray) -> None:
    """Rung after rung, until one is what was asked for."""
    target, began = climb.target, time.perf_counter()
    limit = 500 if target.size < 200 else 2000
    lanes = np.resize(starts, (min(_LANES, len(starts)), target.size))
    points, values, _ = jax.device_get(_to_modes(target, lanes, limit))
    modes = _distinct(points, values)
    if target.size > _LARGEST or climb.ladder.family in _SPARSE:
        _mean_field(climb, modes[0], began)
        if climb.ladder.family == "low-rank" or not _is_done(climb, "mean-field"):
            _low_rank(climb)
        return
    _curvature(climb, modes[0], began)
    if _is_done(climb, "mode"):
        return
    began = time.perf_counter()
    # A mode may be a spike, as high as it is thin (hierarchies): the plain start competes.
    gaussians = [_gaussian(climb, point) for point in [*modes, lanes[0]]]
    _full_rank(climb, gaussians, began)
    apart = _modes_apart(gaussians)
    if _is_done(climb, "full-rank") and (len(apart) == 1 or climb.ladder.family == "full-rank"):
        return
    _mixture(climb, apart)
    if not _is_done(climb, "mixture"):
        _flow(climb, climb.rungs[1].member)


def _is_done(climb: Climb, family: str) -> bool:
    """Whether the last rung, of that family, is where to stop."""
    ladder, last = climb.ladder, climb.rungs[-1]
    if ladder.family != "auto":
        return ladder.family == family
    tight = last.gap < ladder.accuracy and last.is_reliable
    return (tight and family != "mode") or climb.left() < 0


def _distinct(points: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """End points of climbs, the highest first, those that agree taken once."""
    kept: list[int] = []
    for lane in np.argsort(-np.nan_to_num(values, nan=-np.inf)):
        away = [
            np.abs(points[lane] - points[other]).max() / (1 + np.abs(points[other]).max())
            for other in kept
        ]
        if np.isfinite(values[lane]) and all(distance > 1e-2 for distance in away):
            kept.append(int(lane))
    return [points[lane] for lane in kept[:_MODES]]


def _climb(
    target: AbstractTarget, mean: Any, factor: Any, key: Any, chunks: int, tolerance: float,
    steps: int,
) -> GaussianClimb:  # fmt: skip
    """A climb on the host, the arguments' types fixed so that it is compiled once."""
    arguments = (np.int32(chunks), np.float64(tolerance), np.int32(steps))
    return jax.device_get(_to_gaussian(target, mean, factor, key, *arguments))


def _curvature(climb: Climb, mode: np.ndarray, began: float) -> None:
    """Laplace's: the curvature at the mode, seen by draws very near to it."""
    near = 1e-3 * np.eye(climb.target.size)
    state = _climb(climb.target, mode, near, climb.key(0), 1, 0.0, 1)
    member = FullRank(state.next_mean, _triangular(state.next_factor))
    climb.reached("mode", member, began, "curvature at the highest mode")


def _gaussian(climb: Climb, point: np.ndarray) -> GaussianClimb:
    start = 1e-2 * np.eye(climb.target.size)
    return _climb(climb.target, point, start, climb.key(1), 1, _COARSE, 100)


def _full_rank(climb: Climb, gaussians: list[GaussianClimb], began: float) -> None:
    """The Gaussian with the best bound, climbed on until it is near its family's best."""
    best = int(np.argmax([float(one.moments.bound) for one in gaussians]))
    gaussians[best], sentence = _refined(climb, gaussians[best])
    climb.reached("full-rank", _member(gaussians[best]), began, sentence)


def _refined(climb: Climb, state: GaussianClimb) -> tuple[GaussianClimb, str]:
    """Climbed on as many draws as bring it near its family's best, or as are affordable.

    Fresh draws tell how far the first ones led astray; m times as many lead astray 1/m as far.
    """
    target, p = climb.target, climb.target.size
    probe = _climb(target, state.mean, state.factor, climb.key(3), 1, -1.0, 1)
    noise = 0.5 * float(probe.left)
    if not np.isfinite(noise):
        return state, f"{state.count} steps; fresh draws are not all finite"
    wanted = 0.01 * climb.ladder.accuracy
    affordable = max(4, min(_MOST, _WORK // (draws_for(p) * p)))
    chunks = int(np.clip(np.ceil(noise / wanted), 4, affordable))
    aim = max(wanted, 2.0 * noise / chunks)
    end = _climb(target, state.mean, state.factor, climb.key(4), chunks, aim, 60)
    steps = int(state.count) + int(end.count)
    return end, f"{steps} steps, about {noise / chunks:.1g} nats from the best of its family"


def _modes_apart(gaussians: list[GaussianClimb]) -> list[GaussianClimb]:
    """Those that lie apart and hold a share worth having, the best first."""
    first, *rest = sorted(gaussians, key=lambda one: -float(one.moments.bound))
    apart = [first]
    for one in rest:
        is_low = float(one.moments.bound) <= float(first.moments.bound) - _FAR
        if not is_low and all(_apart(one, other) for other in apart):
            apart.append(one)
    return apart


def _mixture(climb: Climb, apart: list[GaussianClimb]) -> None:
    """The Gaussians of modes that lie apart, weighted by their bounds; none where one is all."""
    if len(apart) == 1 and climb.ladder.family != "mixture":
        return
    began = time.perf_counter()
    bounds = np.array([float(one.moments.bound) for one in apart])
    member = Blend.of([_member(one) for one in apart], bounds)
    climb.reached("mixture", member, began, f"{len(apart)} modes that lie apart")


def _member(state: GaussianClimb) -> FullRank:
    return FullRank(state.mean, _triangular(state.factor))


def _apart(one: GaussianClimb, other: GaussianClimb) -> bool:
    """Whether two Gaussians' means lie apart by their widths."""
    away = one.mean - other.mean
    near = [np.linalg.norm(np.linalg.solve(climb.factor, away)) for climb in (one, other)]
    return bool(max(near) > 3.0)


class PathBound(eqx.Module):
    """The bound of a member on fresh draws, whose gradient is the path derivative.

    Attributes:
        target: what is approximated.
        s: draws.
        center: (p,) or (): where the member's zero lies.
        scale: (p,) or (): how long the member's unit is.
    """

    target: AbstractTarget
    s: int = eqx.field(static=True)
    center: Array
    scale: Array

    def __call__(self, member: AbstractMember, key: Key) -> Float[Array, ""]:
        """On ``s`` draws, up to a constant."""

        def log_density(points: Array) -> Array:
            return log_densities(self.target, self.center + self.scale * points)

        return path_elbo(log_density, member, member.noise(key, self.s))


def _flow(climb: Climb, start: FullRank) -> None:
    """A flow with Student-t tails, from the Gaussian."""
    began = time.perf_counter()
    flow = Flow.around(start.mean, start.factor, tails="student", key=climb.key(5))
    zero, one = np.zeros(()), np.ones(())
    member, sentence = _ascended(climb, PathBound(climb.target, _PATHS, zero, one), flow)
    climb.reached("flow", member, began, sentence)


def _mean_field(climb: Climb, mode: np.ndarray, began: float) -> None:
    """Independent coordinates, on held draws."""
    p = climb.target.size
    average = AverageBound(climb.target, paired_draws(climb.key(2), 64, p))
    start = np.concatenate([mode, np.full(p, np.log(1e-2))])
    points, _, done = jax.device_get(_to_modes(average, start[None], 2000))
    sentence = "on 64 held draws" + ("" if done[0] else ", stopped at the step limit")
    climb.reached("mean-field", jax.device_get(average.member(points[0])), began, sentence)


def _low_rank(climb: Climb) -> None:
    """Common directions added to independent coordinates, in the units of those.

    Fresh draws at every step: on held ones so many parameters would fit the draws.
    """
    began, p, start = time.perf_counter(), climb.target.size, climb.rungs[-1].member
    rank, scale = min(_RANK, p - 1), np.exp(start.log_scale)
    # At none at all the bound has no slope in them: they start small and at random.
    directions = 0.1 * np.random.default_rng(climb.ladder.seed).normal(size=(p, rank))
    member = LowRank(np.zeros(p), np.zeros(p), directions / np.sqrt(max(rank, 1)))
    found, sentence = _ascended(climb, PathBound(climb.target, _PATHS, start.mean, scale), member)
    mean = start.mean + scale * found.mean
    member = LowRank(mean, start.log_scale + found.log_scale, found.directions)
    climb.reached("low-rank", member, began, f"{rank} directions, {sentence}")


def _ascended(climb: Climb, bound: PathBound, start: Any) -> tuple[Any, str]:
    """A member climbed by stochastic ascent in the time that is left."""
    seconds = max(climb.left(), _LEAST_SECONDS)
    solver = Ascent(accuracy=0.2 * climb.ladder.accuracy, seconds=seconds)
    found = solver.climb(bound, start, climb.key(6))
    sentence = f"{found.steps} steps of {found.step_size:g} and less: {found.outcome.name.lower()}"
    return jax.device_get(found.parameters), sentence


def _answer(climb: Climb, note: str, interrupted: bool) -> TargetFit:
    ladder, target = climb.ladder, climb.target
    best = max(climb.rungs, key=lambda rung: float(rung.bound.value))
    draws = draw(target, best.member, ladder.seed + 104729, draws_to_judge(target.size))
    posterior = TargetPosterior(target, best.member, draws, np.dtype(np.float64))
    return TargetFit(
        target,
        posterior,
        Outcome.INTERRUPTED if interrupted else _outcome(best, climb),
        best.bound,
        tuple(climb.rungs),
        _explanation(best, climb),
        note,
        time.perf_counter() - climb.began,
        ladder.seed,
    )


def _outcome(best: Rung, climb: Climb) -> Outcome:
    if max(_widest(rung) for rung in climb.rungs) > _WIDE:
        return Outcome.IMPROPER
    if not np.isfinite(best.bound.value):
        return Outcome.OUTSIDE
    tight = best.gap < climb.ladder.accuracy
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
    ladder, n = climb.ladder, len(climb.rungs)
    why = "asked for" if ladder.family != "auto" else f"the best bound of {n} rung(s)"
    gap = f"importance weights find {best.gap:.3g} nats above it"
    return f"Posterior: {best.family}, {why}; {gap} (accuracy asked for: {ladder.accuracy:g})."


def _triangular(factor: Array) -> Float[np.ndarray, "p p"]:
    """The lower triangular square root with a positive diagonal of the same covariance."""
    upper = np.asarray(np.linalg.qr(np.asarray(factor).T, mode="r"))
    return (upper * np.sign(np.diag(upper))[:, None]).T


_to_modes = _config.small_jit(climb_to_modes)
_to_gaussian = _config.small_jit(climb_gaussian)
