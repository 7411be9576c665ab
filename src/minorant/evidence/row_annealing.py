r"""The certificate of rows: each row's latent annealed from its q to its posterior, and back.

Rows of a block walk side by side under one schedule, each with step lengths of its own; every row
has its own weights, its own two ends and its own check of the posterior chains. Totals add up rows,
and their errors as those of independent numbers. See :mod:`minorant.evidence.annealing`.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from minorant import _config, _factors
from minorant._pareto import averaged, smoothed
from minorant._types import Array, Rows
from minorant.evidence.amortisation import is_amortised
from minorant.evidence.bracket import WIDE, bridged_rows, nested_rhat
from minorant.evidence.course import BELOW, MOST_LOST
from minorant.evidence.kernels import AbstractPath, Ends, gaussian, sound
from minorant.evidence.modes import unexplained, wide_inverse, wide_scales
from minorant.evidence.schedule import (
    Plan,
    Runner,
    first_length,
    next_power,
    padded,
    resampled,
    tuned,
)
from minorant.evidence.scoring import Scored
from minorant.result import Estimate, Evidence, Fit

_CHAINS = 128
_MOVES = 8
_SNAPSHOTS = 4
_TUNING = 4
_MOST_STAGES = 60
_DOUBTFUL = 1.1
_FEWEST = 5
_SHOWN = 5
_MOST_BATCHES = 16


class RowsPath(AbstractPath):
    """From every row's Gaussian, or one ``scale`` times as wide, to its posterior.

    Attributes:
        model: with the prior and the likelihood.
        rows: a block of n.
        mean: (n, l), in free coordinates.
        factor: (n, l, l).
        scale: (c,), of each chain.
    """

    model: Any
    rows: Rows
    mean: Float[Array, "n l"]
    factor: Float[Array, "n l l"]
    scale: Float[Array, " c"]

    def ends(self, places: Float[Array, "c n l"]) -> Ends:
        """Of the joint density and of the Gaussian."""
        points = self.mean + jnp.einsum("nij,cnj->cni", self.factor, places)
        log_joint, back = jax.vjp(self.model.log_joint_of(self.rows), points)
        (slope,) = back(jnp.ones_like(log_joint))
        log_volume = jnp.log(jnp.abs(jnp.diagonal(self.factor, axis1=-2, axis2=-1))).sum(-1)
        slope = jnp.einsum("nij,cni->cnj", self.factor, slope)
        log_q, slope_q = gaussian(places, self.scale[:, None])
        return sound(Ends(log_joint + log_volume, slope, log_q, slope_q))

    def width(self, inverse: Array) -> Array:
        """Between the Gaussian's and one, by precisions."""
        return (1.0 / jnp.sqrt(inverse + (1.0 - inverse) / self.scale**2))[:, None]


class RowsFound(NamedTuple):
    """What annealing says of each row of a block, every array (n,)."""

    bound: np.ndarray
    forward: np.ndarray
    forward_error: np.ndarray
    reverse: np.ndarray
    reverse_error: np.ndarray
    bridge: np.ndarray
    bridge_error: np.ndarray
    r_hat: np.ndarray
    astray: np.ndarray
    k_hat: np.ndarray


def annealed_evidence(
    fit: Fit, scored: Scored, accuracy: float, seed: int, seconds: float
) -> Evidence:
    """Both limits of log p(x) of every row and in total.

    Args:
        fit: of a model whose rows have a q of their own.
        scored: the table.
        accuracy: mean width of a row's bracket at which to stop, in nats.
        seed: of all random numbers.
        seconds: wall time after which no further try is begun.

    Returns:
        ``lower`` and ``upper`` of totals are 95% limits; ``rows_lower`` and ``rows_upper`` as well,
        row by row.
    """
    found = annealed_rows(fit.standardised, scored, accuracy, seed, seconds)
    return told(found, scored, accuracy)


def annealed_rows(  # noqa: PLR0913
    model: Any,
    scored: Scored,
    accuracy: float,
    seed: int,
    seconds: float,
    exact: Float[np.ndarray, "n l"] | None = None,
) -> RowsFound:
    """Both ends of every row, in the units of the model, in the table's order.

    ``exact`` are draws of each row's posterior in free coordinates, where they are known (rows that
    were drawn from the model): reverse chains then start from those.
    """
    began, found, source = time.perf_counter(), [], scored.source
    _config.enable_compilation_cache()
    with _config.precision(np.dtype(np.float64)), _config.one_blas_thread():
        model = widened(model)
        count = sum(segment.capacity() for segment in source.segments)
        for slots, segment in zip(scored.layout.slots, source.segments, strict=True):
            places = slots.reshape(segment.rows.weight.shape)
            parts = []
            for block, slot in enumerate(places):
                rows = widened(jax.tree.map(lambda leaf, b=block: leaf[b], segment.rows))
                share = (seconds - (time.perf_counter() - began)) / count
                # Padding takes any row's latent: its answers are left out.
                known = None if exact is None else exact[slot]
                parts.append(_block(model, rows, accuracy, seed + 7 * count, share, known))
                count -= 1
            found.append(RowsFound(*map(np.concatenate, zip(*parts, strict=True))))
    return RowsFound(*(scored.layout.restore(one) for one in zip(*found, strict=True)))


def _block(  # noqa: PLR0913
    model: Any, rows: Rows, accuracy: float, seed: int, seconds: float, exact: Any = None
) -> RowsFound:
    """All rows of a block, in rounds of growing effort."""
    began = time.perf_counter()
    mean, factor = jax.device_get(_gaussians(model, rows))
    path = RowsPath(model, rows, mean, factor, np.ones(_CHAINS))
    run, rng = Runner(path, seed), np.random.default_rng(seed)
    shape = (_CHAINS, *mean.shape)
    plan, own = _pilot(run, rng.normal(size=shape), rng)
    wide = Runner(RowsPath(model, rows, mean, factor, wide_scales(_CHAINS)), seed + 1)
    kinds, r_hat, astray = _settled(run, wide, plan, own, rng)
    if exact is not None:
        start = np.linalg.solve(factor, (exact - mean)[..., None])[..., 0]
        kinds = [np.broadcast_to(start, shape)]
    batches, there = 1, np.asarray(rows.weight) > 0
    while True:
        started = time.perf_counter()
        found = _both_ways(run, plan, kinds, batches, rng)
        found = found._replace(r_hat=r_hat, astray=astray)
        widths = limits(found)[1] - limits(found)[0]
        spent = time.perf_counter() - started
        plan, batches, growth = _more(plan, batches, found)
        left = seconds - (time.perf_counter() - began)
        if widths[there].mean() <= accuracy or growth <= 1 or growth * spent > left:
            return found


def _more(plan: Plan, batches: int, found: RowsFound) -> tuple[Plan, int, int]:
    """Twice the temperatures where weights of some rows differ much, else four times the chains."""
    spread = found.forward_error * np.sqrt(batches * _CHAINS)
    if np.quantile(spread, 0.9) > 0.8 and plan.size <= 64:
        return plan.refined(2), batches, 2
    if batches * 4 <= _MOST_BATCHES:
        return plan, batches * 4, 4
    return plan, batches, 0


def _pilot(
    run: Runner, places: Float[np.ndarray, "c n l"], rng: np.random.Generator
) -> tuple[Plan, np.ndarray]:
    """Temperatures that suit nine rows of ten, and step lengths of each row."""
    n = places.shape[1]
    length = np.full(n, first_length(places.shape[2]))
    inverse, lengths = [0.0], [length]
    ratios = run(places, padded(np.zeros(0), np.zeros(0), np.zeros((0, n)))).log_ratio
    while inverse[-1] < 1.0:
        rest = 1.0 - inverse[-1]
        powers = np.array([next_power(row, rest) for row in ratios.T])
        power = rest if len(inverse) > _MOST_STAGES else float(np.quantile(powers, 0.1))
        inverse.append(1.0 if power >= rest else inverse[-1] + power)
        picked = np.stack([resampled(power * row, rng) for row in ratios.T], axis=1)
        places = np.take_along_axis(places, picked[..., None], 0)
        passed = run(places, padded(np.zeros(1), np.array(inverse[-1:]), length[None]))
        places, ratios = passed.places, passed.log_ratio
        lengths.append(length)
        length = tuned(length, passed.accepted[0])
    for _ in range(_TUNING):
        passed = run(places, _resting(length))
        places, length = passed.places, tuned(length, passed.accepted[:_MOVES].mean(0))
    lengths[-1] = length
    if len(lengths) < _MOVES:
        lengths = [length] * len(lengths)
    return Plan(np.array(inverse), np.stack(lengths), 1.0), places


def _resting(length: np.ndarray) -> Any:
    """Moves at b = 1."""
    return padded(np.zeros(_MOVES), np.ones(_MOVES), np.tile(length, (_MOVES, 1)))


def _settled(
    run: Runner, wide: Runner, plan: Plan, own: np.ndarray, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray, Bool[np.ndarray, " n"]]:
    """Chains from q and from far away after some moves, and row by row whether they agree."""
    inverse = wide_inverse()
    lengths = np.tile(plan.length[-1], (len(inverse), 1))
    start = wide_scales(_CHAINS)[:, None, None] * rng.normal(size=own.shape)
    far = wide(start, padded(np.zeros(len(inverse)), inverse, lengths)).places
    own_visits, far_visits = (_visits(run, plan, places) for places in (own, far))
    lost = far_visits[1][-1] < own_visits[1].min((0, 1)) - BELOW
    # Far chains that never arrived say nothing: chains from q stand in for them.
    far_visits = [
        np.where(lost if part.ndim == 3 else lost[..., None], mine, part)
        for part, mine in zip(far_visits, own_visits, strict=True)
    ]
    s, c, n = own_visits[1].shape
    numbers = [np.concatenate([v[0], v[1][..., None]], -1) for v in (own_visits, far_visits)]
    r_hat = nested_rhat([part.reshape(s, c, -1) for part in numbers]).reshape(n, -1).max(1)
    astray = lost.mean(0) > MOST_LOST
    for row in range(n):
        astray[row] |= unexplained(
            own_visits[2][:, :, row], far_visits[2][-1, :, row], _FEWEST
        ).any()
    return [own_visits[0][-1], far_visits[0][-1]], r_hat, astray


def _visits(run: Runner, plan: Plan, places: np.ndarray) -> list[np.ndarray]:
    """Snapshots: places, log p and log p - log q."""
    found = []
    for _ in range(_SNAPSHOTS):
        passed = run(places, _resting(plan.length[-1]))
        places = passed.places
        found.append((places, passed.log_p, passed.log_ratio))
    return [np.stack(part) for part in zip(*found, strict=True)]


def _both_ways(
    run: Runner, plan: Plan, kinds: list[np.ndarray], batches: int, rng: np.random.Generator
) -> RowsFound:
    """Forward chains from fresh draws, reverse chains from both kinds."""
    forward, reverse, first = [], [], []
    nothing = padded(np.zeros(0), np.zeros(0), plan.length[:0])
    for _ in range(batches):
        start = rng.normal(size=kinds[0].shape)
        first.append(run(start, nothing).log_ratio)
        forward.append(run(start, plan.forward()).log_weight)
        # Far chains of most rows agree with the others, and double the draws.
        for index, kind in enumerate(kinds):
            reverse.append(run(kind, plan.reverse()).log_weight)
            kinds[index] = run(kind, _resting(plan.length[-1])).places
    ahead, behind = np.concatenate(forward), np.concatenate(reverse)
    low, low_spread = averaged(ahead.T)
    high, high_spread = averaged(-behind.T)
    bridge, error = bridged_rows(ahead, behind)
    shape = np.array([smoothed(row)[1] for row in ahead.T])
    errors = (low_spread / np.sqrt(len(ahead)), high_spread / np.sqrt(len(behind)))
    bound = np.concatenate(first).mean(0)
    none = np.zeros(len(low))
    return RowsFound(
        bound, low, errors[0], -high, errors[1], bridge, error, none, none > 0, shape
    )  # fmt: skip


def limits(found: RowsFound) -> tuple[np.ndarray, np.ndarray]:
    """Row by row, as of targets."""
    low = found.forward - WIDE * found.forward_error
    high = found.reverse + WIDE * found.reverse_error
    reach = WIDE * found.bridge_error
    return np.minimum(low, found.bridge - reach), np.maximum(high, found.bridge + reach)


def told(found: RowsFound, scored: Scored, accuracy: float) -> Evidence:
    """Totals and rows, with the worst named."""
    weight = np.ones(len(found.bound)) if scored.table.weights is None else scored.table.weights
    shifted = {
        name: getattr(found, name) - scored.log_scale
        for name in ("bound", "forward", "reverse", "bridge")
    }
    found = found._replace(**shifted)
    low, high = limits(found)
    estimate = np.clip(found.bridge, low, high)
    total = totals(found, weight)
    gap = estimate - found.bound
    return Evidence(
        total[0],
        total[1].value,
        total[2],
        float(weight @ gap),
        total[1].standard_error,
        low,
        estimate,
        high,
        gap,
        found.k_hat,
        _verdict(found, low, high, weight, accuracy),
    )


def totals(found: RowsFound, weight: np.ndarray) -> tuple[float, Estimate, float]:
    """The sums of both ends, each widened by the error of the sum, and of the bridges."""

    def total(values: np.ndarray, errors: np.ndarray) -> Estimate:
        return Estimate(float(weight @ values), float(np.sqrt(((weight * errors) ** 2).sum())))

    bridge = total(found.bridge, found.bridge_error)
    low, high = (
        total(found.forward, found.forward_error),
        total(found.reverse, found.reverse_error),
    )
    lower = min(one.value - WIDE * one.standard_error for one in (low, bridge))
    return lower, bridge, max(one.value + WIDE * one.standard_error for one in (high, bridge))


def _verdict(
    found: RowsFound, low: np.ndarray, high: np.ndarray, weight: np.ndarray, accuracy: float
) -> str:
    """Tight or loose, the worst rows, and those that cannot be trusted."""
    gap, width = found.bridge - found.bound, high - low
    mean = float(weight @ gap / weight.sum())
    worst = np.argsort(-weight * gap, kind="stable")[:_SHOWN]
    listed = ", ".join(f"{int(row)} ({gap[row]:.3g})" for row in worst)
    mean_width = float(weight @ width / weight.sum())
    size = "Tight" if mean_width <= accuracy else "Loose"
    said = (
        f"{size}: log p(x) is known to {mean_width:.2g} nats a row (asked for: {accuracy:g}), from "
        f"annealing both ways. q's bound lies {mean:.3g} nats per row below it; worst rows (gap in "
        f"nats): {listed}."
    )
    bad = np.flatnonzero((found.astray | ~(found.r_hat < _DOUBTFUL)) & (weight > 0))
    if len(bad):
        return (
            f"Cannot be trusted in {len(bad)} row(s) ({listed_rows(bad)}): chains from far away "
            "disagree with those from q, so q may miss a mode there, and log p(x) may be higher. "
            "Give more seconds=, or a model whose latent has one mode. "
            f"Else: {said[0].lower()}{said[1:]}"
        )
    return said


def listed_rows(rows: np.ndarray) -> str:
    """The first few, for a sentence."""
    return ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")


def widened(tree: Any) -> Any:
    """Float leaves in float64."""

    def wide(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        return leaf.astype(np.float64) if leaf.dtype.kind == "f" else leaf

    return jax.tree.map(wide, tree)


def _of_rows(model: Any, rows: Rows) -> tuple[Array, Array]:
    """Every row's best Gaussian: mean and factor."""
    if is_amortised(model):
        q = model.refined_in_rows(rows)
        return q.mean, q.factor
    q = model.posterior(rows, None)
    return q.mean, _factors.cholesky(q.covariance)


_gaussians = _config.small_jit(_of_rows)
