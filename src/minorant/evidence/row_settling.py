"""Chains of rows brought to their posteriors, and modes that a row's q missed joined to it.

Chains from far away start from Gaussians many times as wide as the row's own, from the prior, and
from the posteriors of other rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jaxtyping import Bool, Float

from minorant._pareto import averaged
from minorant._types import Rows
from minorant.evidence.bracket import nested_rhat
from minorant.evidence.clock import Clock
from minorant.evidence.kernels import Passed
from minorant.evidence.modes import clusters, unexplained, wide_inverse, wide_scales
from minorant.evidence.row_paths import (
    Parts,
    RowsPath,
    gaussians,
    places_of,
    points_of,
    prior_draws,
)
from minorant.evidence.schedule import (
    Plan,
    Runner,
    first_length,
    next_power,
    padded,
    resampled,
    tuned,
)
from minorant.evidence.settling import BELOW, MOST_LOST

CHAINS = 128
_MOVES = 8
_SNAPSHOTS = 4
_TUNING = 4
_MOST_STAGES = 60
_FEWEST = 3
_MOST_PARTS = 3
_NEGLIGIBLE = 1e-3
_FROM = 0.05
_SAME = 16


class Block(NamedTuple):
    """Rows that walk side by side, their q, and the clock.

    Attributes:
        path: from q.
        run: passes along it.
        wide: passes from Gaussians much wider than q.
        parts: q, in places.
        rng: of starts and resampling.
        seed: of passes.
        clock: of this block.
    """

    path: RowsPath
    run: Runner
    wide: Runner
    parts: Parts
    rng: np.random.Generator
    seed: int
    clock: Clock

    @classmethod
    def of(cls, model: Any, rows: Rows, seed: int, clock: Clock) -> Self:
        """From every row's own Gaussian."""
        mean, factor = jax.device_get(gaussians(model, rows))
        path = RowsPath(model, rows, mean, factor, np.ones(CHAINS))
        wide = path_of(path, wide_scales(CHAINS))
        rng, parts = np.random.default_rng(seed), Parts.standard(*mean.shape)
        runs = (Runner(path, seed, clock), Runner(wide, seed + 1, clock))
        return cls(path, *runs, parts, rng, seed, clock)

    def with_parts(self, parts: Parts) -> Self:
        """From the mixtures."""
        path = path_of(self.path, np.ones(CHAINS), parts)
        return self._replace(path=path, parts=parts, run=Runner(path, self.seed + 2, self.clock))

    def evaluated(self) -> Passed:
        """Draws of q, with p and q there."""
        return self.run(self.parts.drawn(CHAINS, self.rng), nothing(len(self.path.mean)))


def path_of(path: RowsPath, scale: np.ndarray, parts: Parts | None = None) -> RowsPath:
    """The same rows from Gaussians so wide, or from mixtures."""
    return RowsPath(path.model, path.rows, path.mean, path.factor, scale, parts)


class RowsSettled(NamedTuple):
    """Chains of every row at its posterior.

    Attributes:
        block: the rows; q is joined with modes that it missed.
        plan: the frozen schedule.
        kinds: chains from q and from far away.
        r_hat: (n,), of both.
        astray: (n,), whether chains from far away settled where q has no explanation, or hardly any
            arrived.
        missed: (n,), the share of the posterior in modes that were joined.
        bound: (n,), of the q that nothing was joined to.
    """

    block: Block
    plan: Plan
    kinds: list[Passed]
    r_hat: np.ndarray
    astray: np.ndarray
    missed: np.ndarray
    bound: np.ndarray


def settle(block: Block) -> RowsSettled:
    """Both kinds of chains after some moves, and row by row whether they agree."""
    start = block.evaluated()
    plan, own = _pilot(block.run, start, block.rng)
    settled, visits = _agreed(block, plan, own, _far(block, plan, own))
    parts, missed = _joined(block, settled, visits)
    if not missed.any():
        return settled
    block = block.with_parts(parts)
    plan, own = _pilot(block.run, block.evaluated(), block.rng)
    again = _agreed(block, plan, own, settled.kinds[1].places)[0]
    return again._replace(missed=missed, bound=start.log_ratio.mean(0))


def _pilot(run: Runner, passed: Passed, rng: np.random.Generator) -> tuple[Plan, Passed]:
    """Temperatures that suit nine rows of ten, and step lengths of each row."""
    n, size = passed.places.shape[1:]
    length, rows = np.full(n, first_length(size)), np.arange(n)
    inverse, lengths = [0.0], [length]
    while inverse[-1] < 1.0:
        rest, ratios = 1.0 - inverse[-1], passed.log_ratio
        powers = np.array([next_power(row, rest) for row in ratios.T])
        power = rest if len(inverse) > _MOST_STAGES else float(np.quantile(powers, 0.1))
        inverse.append(1.0 if power >= rest else inverse[-1] + power)
        picked = np.stack([resampled(power * row, rng) for row in ratios.T], axis=1)
        one = padded(np.zeros(1), np.array(inverse[-1:]), length[None])
        passed = run(passed.picked((picked, rows)), one)
        lengths.append(length)
        length = tuned(length, passed.accepted[0])
    for _ in range(_TUNING):
        passed = run(passed, _resting(length))
        length = tuned(length, passed.accepted[:_MOVES].mean(0))
    lengths[-1] = length
    if len(lengths) < _MOVES:
        lengths = [length] * len(lengths)
    return Plan(np.array(inverse), np.stack(lengths), 1.0), passed


def _resting(length: np.ndarray) -> Any:
    """Moves at b = 1."""
    return padded(np.zeros(_MOVES), np.ones(_MOVES), np.tile(length, (_MOVES, 1)))


def nothing(n: int) -> Any:
    """No moves: densities are worked out where chains are."""
    return padded(np.zeros(0), np.zeros(0), np.zeros((0, n)))


def rested(plan: Plan) -> Any:
    """Moves between uses of a chain."""
    return _resting(plan.length[-1])


def _far(block: Block, plan: Plan, own: Passed) -> Float[np.ndarray, "c n l"]:
    """Half annealed from wide Gaussians, half from the prior and other rows' posteriors."""
    inverse, shape = wide_inverse(), own.places.shape
    start = wide_scales(CHAINS)[:, None, None] * block.rng.normal(size=shape)
    found = []
    for places, first in ((start, 0.0), (_elsewhere(block, own), _FROM)):
        steps = inverse[inverse >= first]
        lengths = np.tile(plan.length[-1], (len(steps), 1))
        found.append(block.wide(places, padded(np.zeros(len(steps)), steps, lengths)).places)
    # Neighbours are of one scale: every other chain of each.
    return np.concatenate([found[0][::2], found[1][::2]])


def _elsewhere(block: Block, own: Passed) -> Float[np.ndarray, "c n l"]:
    """Draws of the prior, and chains of other rows, as places of every row."""
    path, c = block.path, len(own.places)
    n, size = path.mean.shape
    key = jax.random.key(block.seed)
    prior = np.asarray(prior_draws(path.model, key, np.empty(c * n, bool)))
    prior = places_of(prior.reshape(c, n, size), path.mean, path.factor)
    others = points_of(own.places, path.mean, path.factor)
    there = np.asarray(path.rows.weight) > 0
    rows = np.flatnonzero(there) if there.any() else np.arange(n)
    picked = block.rng.choice(rows, size=(c, n))
    others = others[np.arange(c)[:, None], picked]
    others = places_of(others, path.mean, path.factor)
    is_prior = (np.arange(c) < c // 2)[:, None, None]
    found = np.where(is_prior, prior, others)
    return np.where(np.isfinite(found), found, own.places)


class _Visits(NamedTuple):
    """Snapshots: places, log p and log p - log q."""

    places: Float[np.ndarray, "s c n l"]
    log_p: Float[np.ndarray, "s c n"]
    log_ratio: Float[np.ndarray, "s c n"]


def _agreed(
    block: Block, plan: Plan, own: Any, far: np.ndarray
) -> tuple[RowsSettled, tuple[_Visits, _Visits, Bool[np.ndarray, "c n"]]]:
    """Visits of both kinds, R-hat, and which far chains q does not explain."""
    kinds, visits = [], []
    for start in (own, far):
        passed, seen = _visited(block.run, plan, start)
        kinds.append(passed)
        visits.append(seen)
    mine, theirs = visits
    lost = theirs.log_p[-1] < mine.log_p.min((0, 1)) - BELOW
    # Far chains that never arrived say nothing: chains from q stand in for them.
    theirs = _Visits(*(
        np.where(lost if part.ndim == 3 else lost[..., None], stand_in, part)
        for part, stand_in in zip(theirs, mine, strict=True)
    ))  # fmt: skip
    strays = np.stack([
        unexplained(mine.log_ratio[:, :, row], theirs.log_ratio[-1, :, row], _FEWEST)
        for row in range(lost.shape[1])
    ], axis=1)  # fmt: skip
    astray = (lost.mean(0) > MOST_LOST) | strays.any(0)
    kinds[1] = _standing_in(kinds[1], kinds[0], lost)
    r_hat = _r_hat(block.parts, mine, theirs)
    none = np.zeros(len(astray))
    settled = RowsSettled(block, plan, kinds, r_hat, astray, none, none)
    return settled, (mine, theirs, strays)


def _standing_in(far: Passed, own: Passed, lost: Bool[np.ndarray, "c n"]) -> Passed:
    """Far chains, those that never arrived replaced by chains from q."""

    def chosen(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        return np.where(lost if mine.ndim == 2 else lost[..., None], mine, theirs)

    places, ends = jax.tree.map(chosen, (own.places, own.ends), (far.places, far.ends))
    return far._replace(places=places, ends=ends)


def _visited(run: Runner, plan: Plan, start: Any) -> tuple[Passed, _Visits]:
    """Chains after some moves, and snapshots on the way."""
    found, passed = [], start
    for _ in range(_SNAPSHOTS):
        passed = run(passed, rested(plan))
        found.append((passed.places, passed.log_p, passed.log_ratio))
    return passed, _Visits(*(np.stack(part) for part in zip(*found, strict=True)))


def _r_hat(parts: Parts, own: _Visits, far: _Visits) -> Float[np.ndarray, " n"]:
    """Of every row the worst number's; mode by mode where q has several."""
    s, c, n = own.log_p.shape
    numbers = [np.concatenate([v.places, v.log_p[..., None]], -1) for v in (own, far)]
    r_hat = nested_rhat([part.reshape(s, c, -1) for part in numbers]).reshape(n, -1).max(1)
    for row in np.flatnonzero((parts.log_weights > -np.inf).sum(0) > 1):
        r_hat[row] = _by_mode(parts, numbers, int(row))
    return r_hat


def _by_mode(parts: Parts, numbers: list[np.ndarray], row: int) -> float:
    """How many chains each mode holds is not compared: weights say what it holds."""
    labels = []
    for part in numbers:
        places = part[-1, :, row, :-1]
        away = places - np.asarray(parts.centres)[:, row][:, None]
        scaled = np.einsum("kij,kcj->kci", np.asarray(parts.inverses)[:, row], away)
        distance = (scaled**2).sum(-1)
        distance[parts.log_weights[:, row] == -np.inf] = np.inf
        labels.append(distance.argmin(0))
    worst = 1.0
    for mode in np.unique(labels[0]):
        pair = [part[:, label == mode, row] for part, label in zip(numbers, labels, strict=True)]
        if min(one.shape[1] for one in pair) >= _SAME:
            worst = max(worst, float(nested_rhat(pair).max()))
    return worst


def _joined(
    block: Block, settled: RowsSettled, visits: tuple[_Visits, _Visits, np.ndarray]
) -> tuple[Parts, Float[np.ndarray, " n"]]:
    """Every row's q with Gaussians around the modes that it missed, by what these hold."""
    mine, theirs, strays = visits
    n, size = block.path.mean.shape
    centres, whole = np.zeros((_MOST_PARTS, n, size)), np.eye(size)
    roots = np.broadcast_to(whole, (_MOST_PARTS, n, size, size)).copy()
    found = np.zeros((_MOST_PARTS, n), bool)
    for row in np.flatnonzero(strays.any(0)):
        chains = strays[:, row]
        log_p, own = theirs.log_p[-1, chains, row], mine.places[:, :, row].reshape(-1, size)
        for k, one in enumerate(clusters(theirs.places[:, chains, row], log_p, own)[:_MOST_PARTS]):
            centres[k, row], found[k, row] = one.member.mean, True
            roots[k, row] = np.tril(one.member.factor)
    if not found.any():
        return block.parts, np.zeros(n)
    shares = _shares(block, centres, roots, found)
    parts = block.parts.with_parts(shares, centres, roots)
    return parts, shares.sum(0)


def _shares(
    block: Block, centres: np.ndarray, roots: np.ndarray, found: np.ndarray
) -> Float[np.ndarray, "k n"]:
    """What p holds at each part, by importance weights, as shares of all; 0 for next to nothing."""
    masses = [averaged(block.evaluated().log_ratio.T)[0]]
    for centre, root, there in zip(centres, roots, found, strict=True):
        part = Parts(np.zeros((1, len(there))), centre[None], root[None], np.linalg.inv(root)[None])
        places = part.drawn(CHAINS, block.rng)
        scaled = np.einsum("nij,cnj->cni", part.inverses[0], places - centre)
        volume = np.log(np.abs(np.diagonal(root, axis1=-2, axis2=-1))).sum(-1)
        log_q = -0.5 * (scaled**2).sum(-1) - 0.5 * np.log(2 * np.pi) * centre.shape[1] - volume
        log_p = block.run(places, nothing(len(there))).log_p
        masses.append(np.where(there, averaged((log_p - log_q).T)[0], -np.inf))
    table = np.stack(masses)
    shares = np.exp(table - np.logaddexp.reduce(table))[1:]
    return np.where(shares > _NEGLIGIBLE, shares, 0.0)
