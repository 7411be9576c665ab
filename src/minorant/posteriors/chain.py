r"""The posterior of a hidden Markov chain of states, given the rows of its sequences.

.. math:: p(z \mid x) \propto \prod_{groups} \pi_{z_1} p(x_1 \mid z_1)
          \prod_{t > 1} A_{z_{t-1} z_t} p(x_t \mid z_t)

Marginals and pair sums come from products of probabilities (:mod:`._chain_products`), and from
logarithms (:mod:`._chain_logs`) where products underflow; so do derivatives of the evidence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from minorant._types import Array, Groups, Key
from minorant.posteriors import _chain_logs as logs
from minorant.posteriors import _lanes
from minorant.posteriors._chain_parallel import filtered_in_parallel, smoothed_in_parallel
from minorant.posteriors._chain_products import Chain, Evidence, Smoothed, smooth
from minorant.posteriors._lanes import Cut
from minorant.posteriors._moves import Moves
from minorant.posteriors._recursion import AbstractRecursion
from minorant.posteriors.base import AbstractPosterior
from minorant.posteriors.categorical import Categorical


class ChainPosterior(AbstractPosterior):
    """``q(z)`` of the states of a block of rows, a Markov chain within each group.

    Attributes:
        log_probability: (k, n) ``log q(z_t)``, each row's marginal.
        first: (k,) weighted sum of ``q(z_t)`` over the rows that start a group.
        pairs: (k, k) weighted sum of ``q(z_t-1 = i, z_t = j)`` over neighbours in a group; zeros
            where the transition differs from row to row.
        log_initial: (k,) of the prior.
        log_transition: (k, k) of the prior; or the :class:`Moves` into the rows.
        scores: (k, n) ``log p(x_t | k)``.
        groups: which rows are one sequence; None: all of them.
    """

    log_probability: Float[Array, "k n"]
    first: Float[Array, " k"]
    pairs: Float[Array, "k k"]
    log_initial: Float[Array, " k"]
    log_transition: Float[Array, "k k"] | Moves
    scores: Float[Array, "k n"]
    groups: Groups | None

    @property
    def probability(self) -> Float[Array, "k n"]:
        """The marginals."""
        return jnp.exp(self.log_probability)

    def by_row(self) -> Float[Array, "n k"]:
        """Log marginals, rows first."""
        return self.log_probability.T

    @staticmethod
    def from_rows(by_row: Float[Array, "n k"]) -> Categorical:
        """The marginals, as if rows were independent."""
        return Categorical.from_rows(by_row)

    def log_filtered(self) -> Float[Array, "k n"]:
        """``log p(z_t | x_1 .. x_t)``: what the rows so far say."""
        plan, chain, seen = self._lanes()
        return _lanes.from_lanes(logs.log_filter(chain, seen, plan.joined)[0], plan)

    def path(self) -> Int[Array, " n"]:
        """The most probable path of each group (Viterbi), not the row-wise most probable states."""
        plan, chain, seen = self._lanes()
        return _lanes.from_lanes(logs.most_probable(chain, seen, plan.joined), plan)

    def sample(self, key: Key) -> Int[Array, " n"]:
        """One path of each group."""
        plan, chain, seen = self._lanes()
        filtered = logs.log_filter(chain, seen, plan.joined)[0]
        return _lanes.from_lanes(logs.drawn(key, chain, filtered, seen, plan.joined), plan)

    def log_density(self, latents: Int[Array, " n"]) -> Float[Array, " n"]:
        """``log q(z_t | z_t+1)``, which adds up to ``log q`` of each group's path."""
        filtered = self.log_filtered()
        ahead = jnp.concatenate([latents[1:], latents[:1]])
        starts = _starts(self.groups, len(latents))
        last = jnp.concatenate([starts[1:], jnp.ones(1, bool)])
        ways = filtered + jnp.where(last, 0.0, self._moves_to(ahead))
        chosen = jnp.take_along_axis(ways, latents[None], axis=0)[0]
        return chosen - logs.log_sum(ways, 0)

    def _moves_to(self, ahead: Int[Array, " n"]) -> Float[Array, "k n"]:
        """The log probabilities of the moves from each row to a state of the next."""
        if not isinstance(self.log_transition, Moves):
            return jnp.asarray(self.log_transition)[:, ahead]
        moves = self.log_transition.logs(jnp.roll(self.log_transition.design, -1, axis=1))
        return jnp.take_along_axis(moves, ahead[None, None], axis=1)[:, 0]

    def _lanes(self) -> tuple[Cut, logs.LogChain, logs.Scores]:
        plan = _lanes.cut(self.scores.shape[1], self.groups)
        start = _lanes.starts(self.groups, plan)
        chain = logs.LogChain(self.log_initial, _moved(self.log_transition, plan))
        return plan, chain, logs.Scores(to_lanes(self.scores, plan), start)


def chain_posterior(
    initial: Float[Array, " k"],
    transition: Float[Array, "k k"] | Moves,
    scores: Float[Array, "k n"],
    weight: Float[Array, " n"],
    groups: Groups | None,
    recursion: AbstractRecursion | None = None,
) -> ChainPosterior:
    """The exact posterior of the states, rows and their design in their own order."""
    plan = _lanes.cut(scores.shape[1], groups, recursion, len(scores) ** 2)
    start, in_lanes = _lanes.starts(groups, plan), to_lanes(scores, plan)
    weights = _lanes.to_lanes(weight, plan).reshape(plan.steps, plan.lanes)
    chain = Chain(initial, _moved(transition, plan))
    found = smoothed(chain, lambda: in_lanes, start, weights, plan)[0]
    log_probability = _lanes.from_lanes(log_or_never(found.probability), plan)
    sums = (found.first, found.pairs, log_or_never(initial), _logs_of(transition))
    return ChainPosterior(log_probability, *sums, scores, groups)


def smoothed(
    chain: Chain,
    scored: Callable[[], Float[Array, "k steps lanes"]],
    start: Bool[Array, "steps lanes"],
    weight: Float[Array, "steps lanes"],
    plan: Cut,
    relative: Callable[[], tuple[Array, Array]] | None = None,
) -> tuple[Smoothed, Float[Array, "steps lanes"]]:
    """Marginals and pair sums in lanes, and ``log p(x_t | x_1 .. x_t-1)``.

    What was filtered comes as logarithms, and only where pair sums are still to be made from it.

    Args:
        chain: initial and transition probabilities.
        scored: gives ``log p(x_t | k)``; asked again only where products underflow.
        start: where groups start.
        weight: of the rows.
        plan: the lanes.
        relative: gives likelihoods relative to the largest of each row, and its logarithm; None:
            from ``scored``.
    """
    if plan.parallel:
        return _at_once(chain, scored(), start, weight, plan)
    likelihood, shift = relative() if relative else relative_likelihood(scored())
    found = smooth(chain, Evidence(likelihood, start, weight), plan.joined)
    log_scale = log_or_never(found.scale) + shift
    sound = found.least > jnp.sqrt(jnp.finfo(shift.dtype).tiny)
    found = found._replace(filtered=log_or_never(found.filtered) if _differs(chain) else ())

    def again(_: Any) -> tuple[Array, Smoothed, Array]:
        return jnp.ones((), bool), *_with_logs(chain, scored(), start, weight, plan)

    # A loop of no or one turn: a condition would compute both where climbs are vectorised.
    done = jax.lax.while_loop(lambda carry: ~carry[0], again, (sound, found, log_scale))
    return done[1], done[2]


def _at_once(
    chain: Chain, scores: Array, start: Array, weight: Array, plan: Cut
) -> tuple[Smoothed, Array]:
    """By scans over all steps; step by step where a row that no state allows breaks them."""
    found, sound = smoothed_in_parallel(_in_logs(chain), logs.Scores(scores, start), weight)
    answer = _from_logs(chain, found)

    def again(_: Any) -> tuple[Array, Smoothed, Array]:
        return jnp.ones((), bool), *_with_logs(chain, scores, start, weight, plan)

    done = jax.lax.while_loop(lambda carry: ~carry[0], again, (sound, *answer))
    return done[1], done[2]


def _with_logs(
    chain: Chain, scores: Array, start: Array, weight: Array, plan: Cut
) -> tuple[Smoothed, Array]:
    seen = logs.Scores(scores, start)
    return _from_logs(chain, logs.log_smooth(_in_logs(chain), seen, weight, plan.joined))


def _in_logs(chain: Chain) -> logs.LogChain:
    return logs.LogChain(log_or_never(chain.initial), _logs_of(chain.transition))


def _from_logs(chain: Chain, found: logs.LogSmoothed) -> tuple[Smoothed, Array]:
    probability, scale = jnp.exp(found.log_probability), jnp.exp(found.log_scale)
    filtered = found.log_filtered if _differs(chain) else ()
    pairs = jnp.zeros_like(found.pairs) if _differs(chain) else found.pairs
    least = jnp.ones((), scale.dtype)
    return Smoothed(filtered, probability, scale, found.first, pairs, least), found.log_scale


def _differs(chain: Chain) -> bool:
    """Whether the transition differs from row to row."""
    return isinstance(chain.transition, Moves)


def _logs_of(transition: Array | Moves) -> Any:
    return transition if isinstance(transition, Moves) else log_or_never(transition)


def by_lanes(transition: Array | Moves, plan: Cut) -> Any:
    """Moves into rows that are in lanes already, their axis split; a constant as it is."""
    if not isinstance(transition, Moves):
        return transition
    return transition.over(transition.design.reshape(-1, plan.steps, plan.lanes))


def log_moves(
    transition: Array | Moves, before: Int[Array, " n"], latents: Int[Array, " n"]
) -> Float[Array, " n"]:
    """``log p(z_t | z_t-1)`` of given states, whether or not a row starts a group."""
    if not isinstance(transition, Moves):
        return log_or_never(transition)[before, latents]
    return transition.logs(transition.design)[before, latents, jnp.arange(len(latents))]


def one_move(transition: Array | Moves, design: Any) -> Float[Array, "k k"]:
    """``log A`` into one row; a constant transition comes as logarithms."""
    return transition.logs(design) if isinstance(transition, Moves) else transition


def _moved(transition: Array | Moves, plan: Cut) -> Any:
    """What moves into rows, in lanes; a constant transition as it is."""
    if not isinstance(transition, Moves):
        return transition
    return transition.over(to_lanes(transition.design, plan))


def relative_likelihood(scores: Float[Array, "k *rest"]) -> tuple[Array, Array]:
    """``exp(s - max s)`` over k, and ``max s``; a row that no state allows has zeros and 0."""
    top = jax.lax.stop_gradient(jnp.max(scores, axis=0))  # whose gradient cancels
    top = jnp.where(top > -jnp.inf, top, 0.0)
    return jnp.exp(scores - top), top


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def log_evidence(
    plan: Cut,
    initial: Float[Array, " k"],
    transition: Float[Array, "k k"] | Moves,
    scores: Float[Array, "k steps lanes"],
    start: Bool[Array, "steps lanes"],
    weight: Float[Array, "steps lanes"],
) -> Float[Array, "steps lanes"]:
    """``log p(x_t | x_1 .. x_t-1)`` in lanes; -inf at a row that no reachable state allows.

    Its derivatives, of any order, are those of the filter with logarithms.
    """
    return smoothed(Chain(initial, transition), lambda: scores, start, weight, plan)[1]


@log_evidence.defjvp
def _log_evidence_jvp(plan: Cut, primals: Any, tangents: Any) -> tuple[Array, Array]:
    points, start = primals[:3], primals[3]

    def slow(initial: Array, transition: Any, scores: Array) -> Array:
        chain, seen = _in_logs(Chain(initial, transition)), logs.Scores(scores, start)
        if plan.parallel:
            return filtered_in_parallel(chain, seen)[1]
        return logs.log_filter(chain, seen, plan.joined)[1]

    return log_evidence(plan, *primals), jax.jvp(slow, points, tangents[:3])[1]


def log_or_never(probability: Array) -> Array:
    """The logarithm; -inf, with derivative 0, where the probability is 0."""
    positive = probability > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, probability, 1.0)), -jnp.inf)


def to_lanes(scores: Float[Array, "k n"], plan: Cut) -> Float[Array, "k steps lanes"]:
    """Numbers of each state and row, in lanes."""
    moved = jax.vmap(lambda row: _lanes.to_lanes(row, plan))(scores)
    return moved.reshape(len(scores), plan.steps, plan.lanes)


def _starts(groups: Groups | None, n: int) -> Bool[Array, " n"]:
    return jnp.arange(n) == 0 if groups is None else jnp.asarray(groups.start)
