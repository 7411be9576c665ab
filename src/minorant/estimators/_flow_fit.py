"""Exact maximum likelihood of a flow: rows split, a Gaussian to start from, ascent, held-out stop.

What happens to a row depends on its content alone: equal rows are one row with their weights added,
and rows are put in the order of a seeded hash of their cells. So weights mean copies, the order of
the table does not matter, and no copy of a row that is climbed on is held out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._config import enable_compilation_cache, precision, quick_jit
from minorant._progress import Progress, Reporter
from minorant._types import Affine, Array, Key
from minorant.models.flow import RowFlow, padded
from minorant.posteriors.flow import Flow
from minorant.result import Acceleration, Estimate, Fit, Outcome, Trace
from minorant.solvers import Ascended, Ascent

LEAST_ROWS = 3
_MOST_HELD = 8192  # more would cost more than the steps, and tell no more


class Shape(NamedTuple):
    """The flow that is to be fitted."""

    layers: int
    hidden: int | None
    kind: str
    tails: str


class Plan(NamedTuple):
    """How it is to be fitted."""

    share: float
    batch: int
    accuracy: float
    max_steps: int
    seed: int | None
    verbose: bool


class Fitted(NamedTuple):
    """The density, how the climb went, and its mean log density on the rows held out."""

    flow: RowFlow
    ascended: Ascended
    held_out: Estimate


class Weighted(NamedTuple):
    """Distinct rows and their weights."""

    rows: Float[np.ndarray, "n d"]
    weights: Float[np.ndarray, " n"]


class Likelihood(eqx.Module):
    """The mean log density of rows drawn with their weights as probabilities, by strata."""

    rows: Float[Array, "m d"]
    cumulative: Float[Array, " m"]
    batch: int = eqx.field(static=True)

    def __call__(self, member: Flow, key: Key) -> Float[Array, ""]:
        """Of one batch; without noise where the batch could hold all rows."""
        if self.batch >= len(self.rows):
            share = jnp.diff(self.cumulative, prepend=0.0)
            return share @ member.log_density(self.rows)
        places = jax.random.uniform(key, (self.batch,), self.cumulative.dtype)
        places = (jnp.arange(self.batch) + places) / self.batch
        index = jnp.searchsorted(self.cumulative, places * self.cumulative[-1], side="right")
        chosen = jnp.asarray(self.rows)[jnp.minimum(index, len(self.rows) - 1)]
        return member.log_density(chosen).mean()


def fit_flow(
    rows: Float[np.ndarray, "n d"], weights: np.ndarray | None, shape: Shape, plan: Plan
) -> Fitted:
    """The flow with the highest mean log density on held-out rows along a climb on the others.

    Raises:
        ValueError: for too few distinct rows.
    """
    enable_compilation_cache()
    seed = int(np.random.default_rng(plan.seed).integers(2**63))
    table = merged(rows, weights, seed)
    train, held = split(table, plan.share)
    units = _units(train)
    with precision(rows.dtype):
        train, held = _standard(train, units, rows.dtype), _standard(held, units, rows.dtype)
        first, second = jax.random.split(jax.random.key(seed % 2**31))
        start = _start(train, shape, first)
        ascended = _climbed(start, train, held, plan, second)
        member = jax.tree.map(np.asarray, ascended.parameters)
        flow = RowFlow(units, member)
        scores = _log_densities(member, padded(held.rows))
    log_scale = float(np.log(units.scale).sum())
    scores = np.asarray(scores, dtype=float)[: len(held.rows)] - log_scale
    return Fitted(flow, ascended, _mean(scores, held.weights))


def as_fit(estimator: Any, rows: np.ndarray, weights: np.ndarray | None, names: Any) -> Fit:
    """A fitted ``FlowDensity`` as the record that is saved and shown; log p(X) is of all rows."""
    flow, score = estimator.flow_, estimator.validation_score_
    weights = np.ones(len(rows)) if weights is None else weights
    counted, total = weights > 0, float(weights.sum())
    bound = float(weights[counted] @ flow.log_density(rows[counted]).astype(float))
    trace = total * estimator.validation_curve_
    member = flow.member
    return Fit(
        model=flow,
        outcome=estimator.outcome_,
        bound=bound,
        objective=bound,
        trace=Trace(trace, trace),
        explanation=(
            "No latent and no bound: exact maximum likelihood of a flow, by stochastic ascent, "
            f"stopped by rows held out, which score {score.value:.6f} nats per row (standard error "
            f"{score.standard_error:.2g})."
        ),
        standardised=flow,
        units=flow.units,
        n_rows=total,
        n_parameters=sum(np.size(leaf) for leaf in jax.tree.leaves(member)),
        names=tuple(names),
        acceleration=Acceleration(estimator.n_iter_, 0, 0, 0),
        dtype=str(member.shift.dtype),
    )


def merged(rows: np.ndarray, weights: np.ndarray | None, seed: int) -> Weighted:
    """Distinct rows of positive weight in an order that only their content and the seed decide."""
    weights = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=float)
    rows, weights = rows[weights > 0], weights[weights > 0]
    code = _hash(rows, seed)
    order = np.argsort(code, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(code[order].astype(np.uint64)) != 0])
    if len(first) < LEAST_ROWS:
        raise ValueError(
            f"X has {len(first)} different rows of positive weight (n_samples={len(rows)}), and a "
            f"flow needs at least {LEAST_ROWS}, to climb on some and hold out others."
        )
    return Weighted(rows[order[first]], np.add.reduceat(weights[order], first))


def split(table: Weighted, share: float) -> tuple[Weighted, Weighted]:
    """Rows to climb on, and rows held out for a share of the weight; neither is empty."""
    reached = np.cumsum(table.weights) / table.weights.sum()
    most = min(len(reached) - 2, _MOST_HELD)
    held = int(np.clip(np.searchsorted(reached, share, "right"), 1, most))
    return Weighted(*(part[held:] for part in table)), Weighted(*(part[:held] for part in table))


def _hash(rows: np.ndarray, seed: int) -> np.ndarray:
    """One number for each row: Steele, Lea & Flood (2014), the finaliser of SplitMix, by column."""
    bits = np.ascontiguousarray(rows.astype(np.float64) + 0.0).view(np.uint64)
    salts = np.random.default_rng(seed).integers(2**63, size=rows.shape[1], dtype=np.uint64)
    code = np.zeros(len(rows), dtype=np.uint64)
    for column, salt in zip(bits.T, salts, strict=True):
        mixed = column ^ salt
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        code += mixed ^ (mixed >> np.uint64(31))
    return code


def _units(train: Weighted) -> Affine:
    rows = train.rows.astype(float)
    mean = np.average(rows, axis=0, weights=train.weights)
    scale = np.sqrt(np.average((rows - mean) ** 2, axis=0, weights=train.weights))
    # A column may stand still on the rows climbed on alone: then its units are arbitrary.
    return Affine(mean, np.where(scale > 0, scale, 1.0))


def _standard(table: Weighted, units: Affine, dtype: np.dtype) -> Weighted:
    return Weighted(units.apply(table.rows.astype(float)).astype(dtype), table.weights)


def _start(train: Weighted, shape: Shape, key: Key) -> Flow:
    """The Gaussian of the rows, its correlations shrunk where rows are few."""
    n, d = train.rows.shape
    rows = train.rows.astype(float)
    covariance = (train.weights[:, None] * rows).T @ rows / train.weights.sum()
    kept = n / (n + d)
    factor = np.linalg.cholesky(kept * covariance + (1 - kept) * np.eye(d))
    return Flow.around(
        np.zeros(d, train.rows.dtype),
        factor.astype(train.rows.dtype),
        layers=shape.layers,
        hidden=shape.hidden,
        kind=shape.kind,  # pyright: ignore[reportArgumentType]
        tails=shape.tails,  # pyright: ignore[reportArgumentType]
        key=key,
    )


def _climbed(start: Flow, train: Weighted, held: Weighted, plan: Plan, key: Key) -> Ascended:
    objective = _likelihood(train, plan.batch)
    exam = _likelihood(held, len(held.rows) * 4)
    reporter = Reporter(plan.verbose)
    watch = _watch(reporter, plan.max_steps, len(train.rows))
    rules = Ascent(accuracy=plan.accuracy, max_steps=plan.max_steps)
    try:
        return rules.climb(
            objective, start, key, judge=lambda member: _mean_of(exam, member), watch=watch
        )
    finally:
        reporter.close()


def _likelihood(table: Weighted, batch: int) -> Likelihood:
    """Rows padded to a bucket; padding has no weight and is never drawn."""
    rows = padded(table.rows)
    shares = padded(table.weights / table.weights.sum())
    whole = batch >= len(table.rows)
    cumulative = np.cumsum(shares).astype(table.rows.dtype)
    return Likelihood(rows, cumulative, len(rows) if whole else batch)


def _watch(reporter: Reporter, max_steps: int, n: int) -> Callable[[int, float], object]:
    began, last = time.perf_counter(), [-np.inf]

    def watch(steps: int, value: float) -> None:
        seconds = time.perf_counter() - began
        left = seconds / max(steps, 1) * (max_steps - steps)
        reporter.update(Progress(steps, max_steps, n * value, value - last[0], seconds, left))
        last[0] = value

    return watch


def _mean(scores: np.ndarray, weights: np.ndarray) -> Estimate:
    """The weighted mean and its standard error."""
    share = weights / weights.sum()
    mean = float(share @ scores)
    return Estimate(mean, float(np.sqrt(share**2 @ (scores - mean) ** 2)))


def sentence_of(ascended: Ascended) -> str:
    """What the user must be told of how it ended, in scikit-learn's words; empty for nothing."""
    if ascended.outcome is Outcome.CONVERGED:
        return ""
    words = {"max_steps": "max_iter", "the accuracy": "tol", "objective": "log-likelihood"}
    sentence = ascended.sentence
    for ours, theirs in words.items():
        sentence = sentence.replace(ours, theirs)
    return sentence


_log_densities = quick_jit(lambda member, rows: member.log_density(rows), "small")
_mean_of = quick_jit(lambda exam, member: exam(member, None), "small")
