r"""The certificate of rows: each row's latent annealed from its q to its posterior, and back.

Rows of a block walk side by side under one schedule, each with step lengths of its own; every row
has its own weights, its own two ends and its own check of the posterior chains. Totals add up rows,
and their errors as those of independent numbers. See :mod:`minorant.evidence.annealing`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._pareto import averaged, smoothed
from minorant._types import Rows
from minorant.evidence.amortisation import (
    amortised_log_weights,
    is_amortised,
    split_of,
    split_sentence,
)
from minorant.evidence.bracket import WIDE, bridged_rows
from minorant.evidence.clock import Clock, Ended
from minorant.evidence.kernels import Passed
from minorant.evidence.row_paths import places_of
from minorant.evidence.row_settling import CHAINS, Block, RowsSettled, rested, settle
from minorant.evidence.schedule import Plan, Runner
from minorant.evidence.scoring import Scored
from minorant.result import Estimate, Evidence, Fit

_DOUBTFUL = 1.1
_SHOWN = 5
_MOST_BATCHES = 16
_GRACE = 5.0
_SPLIT_DRAWS = 1000


class RowsFound(NamedTuple):
    """What annealing says of each row of a block, every array (n,).

    Where time was over before chains had come to the posterior, ``reverse`` is infinite.
    """

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
    missed: np.ndarray


def annealed_evidence(
    fit: Fit, scored: Scored, accuracy: float, seed: int, seconds: float
) -> Evidence:
    """Both limits of log p(x) of every row and in total.

    Args:
        fit: of a model whose rows have a q of their own.
        scored: the table.
        accuracy: mean width of a row's bracket at which to stop, in nats.
        seed: of all random numbers.
        seconds: wall time, looked at between pieces of work.

    Returns:
        ``lower`` and ``upper`` of totals are 95% limits; ``rows_lower`` and ``rows_upper`` as well,
        row by row.
    """
    clock = Clock(seconds)
    found = annealed_rows(fit.standardised, scored, accuracy, seed, clock)
    if not is_amortised(fit.standardised):
        return told(found, scored, accuracy, clock)
    # The bound is the encoder's; chains come from each row's own best Gaussian.
    both = amortised_log_weights(fit, scored, seed, _SPLIT_DRAWS)
    encoded, refined = (part.astype(float) for part in both)
    record = told(found._replace(bound=encoded.mean(1)), scored, accuracy, clock)
    weights = scored.table.weights
    weight = np.ones(len(encoded)) if weights is None else weights
    shift = scored.log_scale[:, None]
    split = split_of(encoded - shift, refined - shift, record.rows_estimate, weight)
    said = f"{record.verdict} {split_sentence(split, float(weight.sum()))}"
    return record._replace(split=split, verdict=said)


def annealed_rows(  # noqa: PLR0913
    model: Any,
    scored: Scored,
    accuracy: float,
    seed: int,
    clock: Clock,
    exact: Float[np.ndarray, "n l"] | None = None,
) -> RowsFound:
    """Both ends of every row, in the units of the model, in the table's order.

    ``exact`` are draws of each row's posterior in free coordinates, where they are known (rows that
    were drawn from the model): reverse chains then start from those.
    """
    found, source = [], scored.source
    _config.enable_compilation_cache()
    with _config.precision(np.dtype(np.float64)), _config.one_blas_thread():
        model = widened(model)
        count = sum(segment.capacity() for segment in source.segments)
        for slots, segment in zip(scored.layout.slots, source.segments, strict=True):
            places = slots.reshape(segment.rows.weight.shape)
            parts = []
            for block, slot in enumerate(places):
                rows = widened(jax.tree.map(lambda leaf, b=block: leaf[b], segment.rows))
                # Padding takes any row's latent: its answers are left out.
                known = None if exact is None else exact[slot]
                parts.append(_block(model, rows, accuracy, seed + 7 * count, clock, count, known))
                count -= 1
            found.append(RowsFound(*map(np.concatenate, zip(*parts, strict=True))))
    return RowsFound(*(scored.layout.restore(one) for one in zip(*found, strict=True)))


def _block(  # noqa: PLR0913
    model: Any, rows: Rows, accuracy: float, seed: int, clock: Clock, count: int, exact: Any
) -> RowsFound:
    """All rows of a block, within its share of the time."""
    left = clock.left()
    share = Clock(max(left / count, min(_GRACE, left / 2)))
    share.interrupted = clock.interrupted
    block = Block.of(model, rows, seed, share)
    tries: list[RowsFound] = []
    try:
        _rounds(block, accuracy, exact, tries)
    except Ended:
        clock.interrupted = share.interrupted
    return tries[-1] if tries else _one_end(block)


def _rounds(block: Block, accuracy: float, exact: Any, tries: list[RowsFound]) -> None:
    """Rounds of growing effort."""
    settled = settle(block)
    block, plan, kinds = settled.block, settled.plan, settled.kinds
    if exact is not None:
        start = places_of(exact, block.path.mean, block.path.factor)
        kinds = [np.broadcast_to(start, (CHAINS, *start.shape))]
    batches, there, clock = 1, np.asarray(block.path.rows.weight) > 0, block.clock
    while True:
        before = clock.spent()
        found, kinds = _both_ways(settled, plan, kinds, batches)
        tries.append(found)
        widths = limits(found)[1] - limits(found)[0]
        spent = clock.spent() - before
        plan, batches, growth = _more(plan, batches, found)
        if widths[there].mean() <= accuracy or growth <= 1 or growth * spent > clock.left():
            return


def _more(plan: Plan, batches: int, found: RowsFound) -> tuple[Plan, int, int]:
    """Twice the temperatures where weights of some rows differ much, else four times the chains."""
    spread = found.forward_error * np.sqrt(batches * CHAINS)
    if np.quantile(spread, 0.9) > 0.8 and plan.size <= 64:
        return plan.refined(2), batches, 2
    if batches * 4 <= _MOST_BATCHES:
        return plan, batches * 4, 4
    return plan, batches, 0


def _both_ways(
    settled: RowsSettled, plan: Plan, kinds: list[Any], batches: int
) -> tuple[RowsFound, list[Passed]]:
    """Forward chains from fresh draws, reverse chains from both kinds."""
    block, forward, reverse, first = settled.block, [], [], []
    run = block.run
    for _ in range(batches):
        start = block.evaluated()
        first.append(start.log_ratio)
        forward.append(run(start, plan.forward()).log_weight)
        # Far chains of most rows agree with the others, and double the draws.
        reverse.extend(run(kind, plan.reverse()).log_weight for kind in kinds)
        kinds = [run(kind, rested(plan)) for kind in kinds]
    ahead, behind = np.concatenate(forward), np.concatenate(reverse)
    found = _found(np.concatenate(first), ahead)
    high, high_spread = averaged(-behind.T)
    bridge, error = bridged_rows(ahead, behind)
    found = found._replace(
        bound=np.where(settled.missed > 0, settled.bound, found.bound),
        reverse=-high,
        reverse_error=high_spread / np.sqrt(len(behind)),
        bridge=bridge,
        bridge_error=error,
        r_hat=settled.r_hat,
        astray=settled.astray,
        missed=settled.missed,
    )
    return found, kinds


def _one_end(block: Block) -> RowsFound:
    """Importance weights alone, where there was no time for chains."""
    run = Runner(block.path, block.seed, Clock(np.inf))
    log_weights = block._replace(run=run).evaluated().log_ratio
    return _found(log_weights, log_weights)


def _found(first: Float[np.ndarray, "s n"], ahead: Float[np.ndarray, "s n"]) -> RowsFound:
    """The bound by one step, the lower end by all; nothing is known from above."""
    low, spread = averaged(ahead.T)
    error, none = spread / np.sqrt(len(ahead)), np.zeros(len(low))
    shape = np.array([smoothed(row)[1] for row in ahead.T])
    endless = np.full(len(low), np.inf)
    return RowsFound(
        first.mean(0), low, error, endless, none, low, error, endless, none > 0, shape, none
    )


def limits(found: RowsFound) -> tuple[np.ndarray, np.ndarray]:
    """Row by row, as of targets."""
    low = found.forward - WIDE * found.forward_error
    high = found.reverse + WIDE * found.reverse_error
    reach = WIDE * found.bridge_error
    return np.minimum(low, found.bridge - reach), np.maximum(high, found.bridge + reach)


def told(found: RowsFound, scored: Scored, accuracy: float, clock: Clock) -> Evidence:
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
        _verdict(found, weight, accuracy, clock),
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


def _verdict(found: RowsFound, weight: np.ndarray, accuracy: float, clock: Clock) -> str:
    """Tight or loose, the worst rows, and those that cannot be trusted."""
    counted = weight > 0
    late = np.flatnonzero(~np.isfinite(found.reverse) & counted)
    bad = np.flatnonzero((found.astray | ~(found.r_hat < _DOUBTFUL)) & counted)
    bad = np.setdiff1d(bad, late)
    said = _size(found, weight, accuracy)
    missed = np.flatnonzero((found.missed > 0) & counted)
    if len(missed):
        share = found.missed[missed].max()
        said += (
            f" In {len(missed)} row(s) ({listed_rows(missed)}) q missed modes that hold up to "
            f"{share:.2g} of the posterior; chains from far away found them, and the limits "
            "include them, but q and its bound do not."
        )
    if clock.interrupted:
        said += f" {clock.sentence()}"
    doubts = []
    if len(late):
        doubts.append(
            f"in {len(late)} row(s) ({listed_rows(late)}) time was over before chains had come to "
            "the posterior, so there is no upper end"
        )
    if len(bad):
        doubts.append(
            f"in {len(bad)} row(s) ({listed_rows(bad)}): chains from far away disagree with those "
            "from q, so q may miss a mode there, and log p(x) may be higher"
        )
    if not doubts:
        return said
    return (
        f"Cannot be trusted {'; '.join(doubts)}. Give more seconds=, or a model whose latent has "
        f"one mode. Else: {said[0].lower()}{said[1:]}"
    )


def _size(found: RowsFound, weight: np.ndarray, accuracy: float) -> str:
    """How wide the brackets of rows are, and where q's bound is loose."""
    low, high = limits(found)
    known = (weight > 0) & np.isfinite(high)
    gap, share = found.bridge - found.bound, weight / weight.sum()
    worst = np.argsort(-weight * gap, kind="stable")[:_SHOWN]
    listed = ", ".join(f"{int(row)} ({gap[row]:.3g})" for row in worst)
    width = np.average((high - low)[known], weights=weight[known]) if known.any() else np.inf
    size = "Tight" if width <= accuracy else "Loose"
    return (
        f"{size}: log p(x) is known to {width:.2g} nats a row (asked for: {accuracy:g}), from "
        f"annealing both ways. q's bound lies {float(share @ gap):.3g} nats per row below it; "
        f"worst rows (gap in nats): {listed}."
    )


def listed_rows(rows: np.ndarray) -> str:
    """The first few, for a sentence."""
    return ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")


def widened(tree: Any) -> Any:
    """Float leaves in float64."""

    def wide(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        return leaf.astype(np.float64) if leaf.dtype.kind == "f" else leaf

    return jax.tree.map(wide, tree)
