r"""EM on rows that are paired with a few components each: the truncated E-step.

.. math:: L = \sum_i w_i \log \sum_{k \in K_i} w_k\, p(x_i \mid k) \;\le\; \log p(X)

Pairs are scored block by block under one component, scores are summed row by row, and statistics
are gathered block by block again. With lists held, L is the evidence of a model in its own right:
everything that EM does (extrapolation, safeguard, stopping rule) climbs it as it stands.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from minorant import _linalg
from minorant._types import Array, PyTree, Rows
from minorant.data.paired import PairedRows, one_of
from minorant.models.base import AbstractTractableModel, Expectation
from minorant.models.of_components import MixtureStatistics
from minorant.solvers.base import AbstractSolver
from minorant.solvers.em import EM, EMState, TractableProblem


class TruncatedEM(AbstractSolver):
    """EM whose pass goes over pairs of rows and components.

    Args:
        em: the EM that climbs: acceleration and tolerance.

    Example:
        >>> from minorant.solvers import EM
        >>> from minorant.solvers.truncated_em import TruncatedEM
        >>> TruncatedEM(EM(tolerance=1e-6)).em.tolerance
        1e-06
    """

    em: EM

    def init(self, problem: TractableProblem) -> EMState:
        """As EM."""
        return self.em.init(problem)

    def asks(self, problem: TractableProblem, state: EMState) -> tuple[Any, PyTree]:
        """As EM."""
        return self.em.asks(problem, state)

    def look(self, parameters: tuple[Any, PyTree], rows: Rows) -> Expectation:
        """Truncated bound and statistics of all pairs."""
        assert isinstance(rows, PairedRows)
        scores = pair_scores(parameters, rows)
        log_total = jax.nn.logsumexp(rows.pairs.by_row(scores), axis=1)
        bound = jnp.where(rows.weight > 0, rows.weight * log_total, 0.0)
        return Expectation(bound.sum(), _statistics(parameters, rows, scores, log_total))

    def answered(self, problem: TractableProblem, state: EMState, found: Expectation) -> EMState:
        """As EM."""
        return self.em.answered(problem, state, found)

    def verdict(self, problem: TractableProblem, state: EMState) -> Int[Array, ""]:
        """As EM."""
        return self.em.verdict(problem, state)

    def settled(self, problem: TractableProblem, state: EMState) -> AbstractTractableModel:
        """As EM."""
        return self.em.settled(problem, state)

    def taken_up(self, state: EMState, structure: Any, dead: Any) -> EMState:
        """As EM."""
        return self.em.taken_up(state, structure, dead)

    def sentence(self) -> str:
        """As EM."""
        return self.em.sentence()


def pair_scores(parameters: tuple[Any, PyTree], rows: PairedRows) -> Float[Array, "blocks m"]:
    """``log w_k + log p(x_i | k)`` of every pair; padding is left at 0."""
    pairs = rows.pairs

    def block(index: Array, scores: jax.Array) -> jax.Array:
        model, prepared = one_of(parameters, pairs.owner[index][None], parameters[0].n_components)
        return scores.at[index].set(model.log_joint_all(_block(rows, index), prepared)[0])

    start = jnp.zeros(pairs.row.shape, rows.values.dtype)
    return jax.lax.fori_loop(0, pairs.n_blocks, block, start)


def _block(rows: PairedRows, index: Array | int) -> Rows:
    """The rows of one block of pairs; padding repeats a row."""
    row = jnp.asarray(rows.pairs.row)[index]
    return Rows(jnp.asarray(rows.values)[row], jnp.asarray(rows.weight)[row])


def _statistics(
    parameters: tuple[Any, PyTree],
    rows: PairedRows,
    scores: Float[Array, "blocks m"],
    log_total: Float[Array, " n"],
) -> MixtureStatistics:
    """Weighted responsibilities of all pairs, and the components' sums."""
    k, pairs = parameters[0].n_components, rows.pairs
    # exp(score - shift) is the weighted responsibility: infinite where the row weighs nothing.
    shift = log_total - jnp.log(rows.weight)
    every = jnp.zeros((k, pairs.row.shape[1]), scores.dtype)
    whole = jax.eval_shape(_weighted, parameters, _block(rows, 0), every)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), whole)
    wide = all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(zero))
    add = _plain if wide else _compensated

    def block(index: Array, sums: _Sums) -> _Sums:
        one, row = pairs.owner[index], pairs.row[index]
        there = jnp.arange(len(row)) < pairs.filled[index]
        weighted = jnp.exp(jnp.where(there, scores[index] - shift[row], -jnp.inf))
        some = _block(rows, index)
        return add(sums, _weighted(one_of(parameters, one[None], k), some, weighted[None]), one)

    sums = jax.lax.fori_loop(0, pairs.n_blocks, block, _Sums(zero, None if wide else zero))
    return sums.total if wide else jax.tree.map(jnp.add, *sums)


def _weighted(
    parameters: tuple[Any, Any], rows: Rows, weighted: Float[Array, "k n"]
) -> MixtureStatistics:
    model, prepared = parameters
    sums = model.component.statistics(rows, weighted, prepared.component)
    return MixtureStatistics(weighted.sum(1), sums)


class _Sums(NamedTuple):
    """Sums over blocks, and below float64 what rounding took from them."""

    total: PyTree
    tail: PyTree


def _plain(sums: _Sums, part: PyTree, one: Array) -> _Sums:
    def add(total: jax.Array, term: jax.Array) -> jax.Array:
        return total + term if total.shape == term.shape else total.at[one].add(term[0])

    return _Sums(jax.tree.map(add, sums.total, part), None)


def _compensated(sums: _Sums, part: PyTree, one: Array) -> _Sums:
    def add(total: Any, tail: Any, term: Any) -> tuple[Any, Any]:
        if total.shape == term.shape:
            return _linalg.two_sum(total, tail, term)
        new, lost = _linalg.two_sum(total[one], tail[one], term[0])
        return total.at[one].set(new), tail.at[one].set(lost)

    leaves, shape = jax.tree.flatten(part)
    totals, tails = jax.tree.leaves(sums.total), jax.tree.leaves(sums.tail)
    pairs = [add(*three) for three in zip(totals, tails, leaves, strict=True)]
    return _Sums(shape.unflatten(p[0] for p in pairs), shape.unflatten(p[1] for p in pairs))
