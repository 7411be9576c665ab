"""What a truncated climb begins and ends with: a start from k-means, and what lists have lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._parameters import filled
from minorant._types import Affine, Array, PyTree, Rows
from minorant.data import Segment, arrange
from minorant.data.arrays import Table
from minorant.data.base import BlockFunction
from minorant.data.paired import PairedRows, PairedSource
from minorant.posteriors.truncated import Truncated, Truncation
from minorant.preparation import AbstractStream, Drawn, Prepared, cast, completed_block
from minorant.result import Estimate, Fit
from minorant.solvers.many_centres import partition, sample_size
from minorant.solvers.truncated_em import pair_scores

_SMOOTHING = 0.01
_START_ROWS = 512  # per block: scores of all components are formed


class Blockwise(AbstractStream):
    """Rows in memory block after block: responsibilities of all rows at once would not fit."""

    def __init__(self, prepared: Prepared) -> None:
        """Of complete rows, which lie in the table's order."""
        self.prepared = prepared

    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self.prepared.table.values)

    def drawn(self, rng: np.random.Generator, size: int, grouped: bool) -> Drawn:
        """Some rows."""
        del grouped
        return self.prepared.drawn(rng, size)

    def by_row(self, function: BlockFunction, parameters: PyTree) -> Iterator[tuple[Table, PyTree]]:
        """Block after block, a function's answers for each of its rows."""
        rows = self.prepared.source.segments[0].rows
        compiled = jax.jit(function)
        for block in range(-(-self.n_rows() // rows.weight.shape[1])):
            first = block * rows.weight.shape[1]
            index = np.arange(first, min(first + rows.weight.shape[1], self.n_rows()))
            found = compiled(parameters, _taken(rows, block))
            yield self.prepared.table.take(index), _taken(found, slice(len(index)))


def _taken(tree: PyTree, index: int | slice) -> PyTree:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def started(prepared: Prepared, rng: np.random.Generator) -> Any:
    """The smoothed M-step of a partition of some rows by k-means."""
    template: Any = prepared.template
    k = template.n_components
    table = prepared.drawn(rng, sample_size(prepared.n_rows(), k)).table
    block, m = completed_block(prepared, table, rng), len(table.values)
    values = np.asarray(block.values[:m], dtype=float)
    weights = np.asarray(block.weight[:m], dtype=float)
    labels = partition(rng, template.embedding(values), weights, k)
    part = Table(np.asarray(block.values)[:m], weights, labels)
    identity = Affine.identity(values.shape[1])
    source, _ = arrange(part, identity, prepared.dtype, False, _START_ROWS)
    model = _maximised(source.segments[0], template, prepared.fixed)
    return cast(filled(template, model), prepared.dtype)


@jax.jit
def _maximised(segment: Segment, template: Any, fixed: Any) -> Any:
    """The M-step of labelled rows, a little of each shared among all components."""
    k = template.n_components

    def part(template: Any, rows: Rows) -> PyTree:
        onehot = rows.labels == jnp.arange(k)[:, None]
        probability = (1 - _SMOOTHING) * onehot.astype(rows.values.dtype) + _SMOOTHING / k
        return template.partition_statistics(dataclasses.replace(rows, labels=None), probability)

    return template.maximise(segment.fold(part, template), fixed)


def measured(
    prepared: Prepared, posterior: Truncated, source: PairedSource, answer: Fit, rng: Any
) -> Truncation:
    """The full E-step once, on all rows or estimated from some.

    Args:
        prepared: the problem.
        posterior: what was asked for.
        source: the rows with their last lists.
        answer: the fit.
        rng: draws the rows.
    """
    wanted, n = posterior.measured_rows, len(source.rows.weight)
    if wanted is None or wanted >= n:
        exact = float(_exactly(prepared.source, answer.standardised)) - answer.log_scale
        return Truncation(posterior, answer.bound, Estimate(exact), n)
    lost = _lost(source, answer.standardised, np.sort(rng.choice(n, wanted, replace=False)))
    error = n * lost.std(ddof=1) * np.sqrt((1 - wanted / n) / wanted) if wanted > 1 else np.inf
    found = Estimate(answer.bound + n * float(lost.mean()), float(error))
    return Truncation(posterior, answer.bound, found, wanted)


@jax.jit
def _by_row(rows: PairedRows, model: Any) -> Float[Array, " n"]:
    """Each row's part of the truncated bound."""
    scores = pair_scores((model, model.prepare()), rows)
    return jax.nn.logsumexp(rows.pairs.by_row(scores), axis=1)


@jax.jit
def _exactly(source: Any, model: Any) -> Float[Array, ""]:
    """Evidence of all rows by the full E-step."""
    pair = (model, model.prepare())
    return source.fold(lambda p, rows: p[0].summed_log_evidence(rows, p[1]), pair)


@jax.jit
def _by_row_exactly(source: Any, model: Any) -> tuple[Float[Array, " slots"], ...]:
    return source.map(lambda p, rows: p[0].log_evidence(rows, p[1]), (model, model.prepare()))


def _lost(source: PairedSource, model: Any, index: np.ndarray) -> Float[np.ndarray, " m"]:
    """What some rows lose, weighted: log p less their part of the bound."""
    rows = source.rows
    lower = np.asarray(_by_row(rows, model.stabilised(np.inf)))[index]
    values = np.asarray(rows.values)[index]
    identity = Affine.identity(values.shape[1])
    some, layout = arrange(Table(values), identity, values.dtype, False)
    exact = layout.restore(_by_row_exactly(some, model))
    return np.asarray(rows.weight)[index] * (exact - lower).astype(float)
