r"""Hidden Markov models: a chain of states, and a component density for the rows of each state.

.. math:: p(x) = \sum_z \pi_{z_1} p(x_1 \mid z_1) \prod_{t > 1} A_{z_{t-1} z_t} p(x_t \mid z_t)

E-step: the forward and backward recursions (:mod:`minorant.posteriors.chain`). M-step: ``pi`` and
each row of A are shares of expected counts, and each component's own; where A depends on inputs, a
Newton step (:mod:`.transition_logits`). Baum, Petrie, Soules & Weiss (1970); Rabiner (1989), "A
tutorial on hidden Markov models", sections III and V.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._parameters import constant, given, parameter
from minorant._types import Array, Key, PyTree, Rows
from minorant.components.base import AbstractComponent, of
from minorant.components.custom import as_component
from minorant.components.priors import Dirichlet
from minorant.models import _chain_parts as parts
from minorant.models._neighbours import counted, mean_time, starts
from minorant.models.base import Expectation
from minorant.models.of_components import AbstractModelOfComponents
from minorant.models.transition_logits import MoveSums, TransitionLogits, design, move_sums
from minorant.models.transitions import (
    AbstractTransition,
    AnyTransition,
    check_probabilities,
    shared_rows,
    shares,
    stationary_distribution,
    stationary_shares,
)
from minorant.posteriors import AbstractPosterior, ChainPosterior, _lanes, chain
from minorant.posteriors._chain_logs import before
from minorant.posteriors._moves import Moves
from minorant.posteriors._recursion import AbstractRecursion, ByDevice


class Prepared(NamedTuple):
    """Probabilities, and the components' own preparation."""

    initial: Float[Array, " k"]
    transition: Float[Array, "k k"] | TransitionLogits
    component: PyTree


class ChainStatistics(NamedTuple):
    """Expected first states and pairs of neighbours, weighted, and the components' sums."""

    first: Float[Array, " k"]
    pairs: Float[Array, "k k"] | MoveSums
    component: PyTree


class HiddenMarkov(AbstractModelOfComponents):
    """k states that follow one another, each with a density of the rows.

    Args:
        component: the observation density, k stacked; a template (no parameters) to be learned.
        n_components: k, the number of states.
        initial: (k,) probabilities of a sequence's first state; None to be learned.
        transition: (k, k) probabilities of the next state (column) given this one (row); None to
            be learned. Zeros stay zero. Or :class:`TransitionLogits`, by the inputs of each step.
        structure: which transitions there are: ``AnyTransition()``, ``LeftRight()``,
            ``Allowed(moves)`` or ``TiedRows(classes)``.
        initial_prior: :class:`Dirichlet` on the initial probabilities, or None.
        transition_prior: :class:`Dirichlet` on every row of the transition, or None.
        stationary: whether sequences begin in the transition's own stationary distribution, so
            that ``initial`` is no parameter of its own.
        recursion: how sequences are gone through: ``ByDevice()``, ``Sequential()`` or
            ``ParallelScan()`` of :mod:`minorant.posteriors`; the answer is the same.

    Raises:
        ValueError: when k, the probabilities or the structure do not agree.

    Example:
        >>> import numpy as np, minorant
        >>> from minorant.components import Gaussian
        >>> from minorant.models import HiddenMarkov
        >>> rows = np.r_[np.arange(20.0), 100 + np.arange(20.0), np.arange(20.0)][:, None]
        >>> fit = minorant.fit(HiddenMarkov(Gaussian(), n_components=2), rows)
        >>> fit.outcome.ok
        True

    Not for: rows without an order (``Mixture``), or a state that moves continuously.
    """

    component: AbstractComponent = eqx.field(converter=as_component)
    initial: Float[Array, " k"] | None = parameter(
        parts.initial_constraint, default=None, converter=parts.array
    )
    transition: Float[Array, "k k"] | TransitionLogits | None = parameter(
        parts.transition_constraint, default=None, converter=parts.array
    )
    structure: AbstractTransition = constant(default=AnyTransition())  # noqa: RUF009
    initial_prior: Dirichlet | None = constant(default=None)
    transition_prior: Dirichlet | None = constant(default=None)
    stationary: bool = eqx.field(static=True, default=False)
    recursion: AbstractRecursion = constant(default=ByDevice())  # noqa: RUF009
    n_components: int = eqx.field(static=True, kw_only=True)

    def __post_init__(self) -> None:
        """Logits learn which moves there are."""
        if isinstance(self.transition, TransitionLogits):
            self.transition = dataclasses.replace(self.transition, structure=self.structure)

    def __check_init__(self) -> None:
        """Raise ValueError for an impossible k or probabilities."""
        k = self.n_components
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"n_components must be an integer of at least 1; got {k!r}.")
        check_probabilities("initial", self.initial, (k,), self.structure.begins(k))
        if isinstance(self.transition, TransitionLogits):
            self._check_logits(self.transition)
        else:
            check_probabilities("transition", self.transition, (k, k), self.structure.allowed(k))
        self.structure.tied(k)

    def _check_logits(self, logits: TransitionLogits) -> None:
        if self.stationary or self.transition_prior is not None:
            name = "stationary" if self.stationary else "transition_prior"
            raise ValueError(
                f"{name} needs one transition for all steps, but TransitionLogits has one for each "
                "step's inputs: leave it out (TransitionLogits has a ridge of its own)."
            )
        found = None if logits.coefficients is None else np.shape(logits.coefficients)[0]
        if found not in (None, self.n_components):
            raise ValueError(f"coefficients are of {found} states, not {self.n_components}.")

    def prepare(self) -> Prepared:
        """Probabilities and the components' factors."""
        transition = given(self.transition)
        if not isinstance(transition, TransitionLogits):
            transition = jnp.asarray(transition)
        return Prepared(self._beginning(transition), transition, self.component.prepare())

    def moves(self, rows: Rows, prepared: Prepared) -> Float[Array, "k k"] | Moves:
        """What leads into the rows: probabilities, or where they depend on inputs their law.

        Raises:
            ValueError: when rows have more or fewer inputs than the model.
        """
        if isinstance(prepared.transition, TransitionLogits):
            known = design(rows, prepared.transition.n_inputs)
            return prepared.transition.moves(known, self.n_components)
        design(rows, 0)
        return prepared.transition

    def scores(self, rows: Rows, prepared: Prepared) -> Float[Array, "k n"]:
        """``log p(x_t | k)``; -inf where a known label forbids the state."""
        scores = self.component.log_prob(rows, prepared.component)
        if rows.labels is None:
            return scores
        states = jnp.arange(self.n_components)[:, None]
        return jnp.where((rows.labels < 0) | (rows.labels == states), scores, -jnp.inf)

    def log_joint(self, rows: Rows, latents: Int[Array, " n"]) -> Float[Array, " n"]:
        """``log p(z_t | z_t-1) + log p(x_t | z_t)``."""
        prepared = self.prepare()
        scores = jnp.take_along_axis(self.scores(rows, prepared), latents[None], axis=0)[0]
        start = starts(rows)
        moves = chain.log_moves(self.moves(rows, prepared), jnp.roll(latents, 1), latents)
        first = chain.log_or_never(prepared.initial)[latents]
        return scores + jnp.where(start, first, moves)

    def sample(self, key: Key, n: int) -> tuple[Int[Array, " n"], Float[Array, "n d"]]:
        """States and rows of one sequence of n steps; inputs, if there are any, at zero."""
        return self.continued(key, n, self._beginning(given(self.transition)))

    def continued(
        self,
        key: Key,
        n: int,
        initial: Float[Array, " k"],
        inputs: Float[Array, "n m"] | None = None,
    ) -> tuple[Int[Array, " n"], Float[Array, "n d"]]:
        """States and rows of one sequence with these inputs (None: zeros) and first state."""
        first_key, move_key, row_key = jax.random.split(key, 3)
        transition = given(self.transition)
        if isinstance(transition, TransitionLogits):
            moves = transition.moves(transition.side(inputs, n), self.n_components)
        else:
            moves = chain.log_or_never(jnp.asarray(transition))

        def step(state: Array, own: tuple[Key, Array | None]) -> tuple[Array, Array]:
            return jax.random.categorical(own[0], chain.one_move(moves, own[1])[state]), state

        first = jax.random.categorical(first_key, chain.log_or_never(initial))
        # Into the row after each row; nothing asks for what comes after the last one.
        ahead = jnp.roll(moves.design.T, -1, axis=0) if isinstance(moves, Moves) else None
        states = jax.lax.scan(step, first, (jax.random.split(move_key, n), ahead))[1]
        return states, self.component.sample(row_key, states)

    def posterior(self, rows: Rows, prepared: Prepared) -> ChainPosterior:
        """States given all rows of their sequence."""
        scores, moves = self.scores(rows, prepared), self.moves(rows, prepared)
        seen = (scores, rows.weight, rows.groups)
        return chain.chain_posterior(prepared.initial, moves, *seen, self.recursion)

    def log_evidence(self, rows: Rows, prepared: Prepared) -> Float[Array, " n"]:
        """``log p(x_t | x_1 .. x_t-1)``, which adds up to ``log p`` of each sequence."""
        plan = self._cut(rows)
        start, moved = _lanes.starts(rows.groups, plan), _lanes.rows_to_lanes(rows, plan)
        scores = _lanes.by_chunk(lambda part: self.scores(part, prepared), moved, plan)
        weight = moved.weight.reshape(start.shape)
        chances = (prepared.initial, chain.by_lanes(self.moves(moved, prepared), plan))
        return _lanes.from_lanes(chain.log_evidence(plan, *chances, scores, start, weight), plan)

    def statistics(
        self, rows: Rows, posterior: AbstractPosterior, prepared: Prepared | None
    ) -> ChainStatistics:
        """Expected counts and the components' sums under any q."""
        inner = None if prepared is None else prepared.component
        probability = jnp.exp(posterior.by_row()).T
        component = self.component.statistics(rows, probability * rows.weight, inner)
        if not isinstance(posterior, ChainPosterior):
            return self._counted(rows, probability, component)
        pairs = posterior.pairs
        if isinstance(posterior.log_transition, Moves):
            entered = jnp.where(starts(rows), 0.0, rows.weight)
            previous = jnp.roll(posterior.log_filtered(), 1, axis=1)
            pairs = move_sums(posterior.log_transition, previous, probability, entered, False)
        return ChainStatistics(posterior.first, pairs, component)

    def _counted(self, rows: Rows, probability: Array, component: PyTree) -> ChainStatistics:
        """The sums under a q whose rows are independent."""
        first, pairs = counted(rows, probability)
        if isinstance(self.transition, TransitionLogits):
            known = design(rows, self.transition.n_inputs)
            moves = self.transition.moves(known, self.n_components)
            previous = chain.log_or_never(jnp.roll(probability, 1, axis=1))
            entered = jnp.where(starts(rows), 0.0, rows.weight)
            pairs = move_sums(moves, previous, probability, entered, True)
        return ChainStatistics(first, pairs, component)

    def expectation(self, rows: Rows, prepared: Prepared) -> Expectation:
        """Evidence and statistics under the exact posterior, rows side by side in lanes."""
        plan = self._cut(rows)
        start, rows = _lanes.starts(rows.groups, plan), _lanes.rows_to_lanes(rows, plan)
        weight = rows.weight.reshape(start.shape)

        def scored() -> Array:
            return _lanes.by_chunk(lambda part: self.scores(part, prepared), rows, plan)

        def relative() -> tuple[Array, Array]:
            def exponentials(part: Rows) -> Array:
                likelihood, top = chain.relative_likelihood(self.scores(part, prepared))
                return jnp.concatenate([likelihood, top[None]])

            found = _lanes.by_chunk(exponentials, rows, plan)
            return found[:-1], found[-1]

        moves = chain.by_lanes(self.moves(rows, prepared), plan)
        states = chain.Chain(prepared.initial, moves)
        found, log_scale = chain.smoothed(states, scored, start, weight, plan, relative)
        component = _lanes.over_chunks(
            lambda part, q: self.component.statistics(part, q * part.weight, prepared.component),
            rows,
            found.probability,
            plan,
        )
        pairs = found.pairs
        if isinstance(moves, Moves):
            entered = jnp.where(start, 0.0, weight)
            pairs = move_sums(moves, before(found.filtered), found.probability, entered, False)
        statistics = ChainStatistics(found.first, pairs, component)
        return Expectation(parts.weighted_sum(log_scale, weight), statistics)

    def maximise(self, statistics: ChainStatistics, fixed: PyTree | None = None) -> Self:
        """New probabilities and components."""
        pairs: Any = statistics.pairs
        first = statistics.first + parts.extra(self.initial_prior)
        held = of(fixed, "transition")
        if isinstance(self.transition, TransitionLogits):
            transition = self.transition.maximised(pairs, held)
        else:
            transition = self._shares(pairs + parts.extra(self.transition_prior), first, held)
        if self.stationary:
            initial = self._beginning(transition)
        else:
            begins = self.structure.begins(self.n_components)
            initial = shares(first, self.initial, begins, of(fixed, "initial"))
        component = self.component.maximise(statistics.component, of(fixed, "component"))
        return self._replaced(initial, transition, component)

    def _shares(self, counts: Array, first: Array, held: Any) -> Float[Array, "k k"]:
        """The transition that maximises expected moves, and first states where stationary."""
        old: Any = self.transition
        k, tied = self.n_components, self.structure.tied(self.n_components)
        own = shared_rows(counts, tuple(tied), mean=False) if len(set(tied)) < k else counts
        closed = shares(own, old, self.structure.allowed(k), held)
        if not self.stationary:
            return closed
        return stationary_shares(counts, first, closed, parts.transition_constraint(self), held)

    def log_prior(self) -> Float[Array, ""]:
        """Priors of the probabilities and of the components."""
        k, total = self.n_components, self.component.log_prior()
        transition = given(self.transition)
        if isinstance(transition, TransitionLogits):
            total = total + transition.log_prior()
        else:
            transition = jnp.asarray(transition)
            rows, allowed = np.unique(self.structure.tied(k)), self.structure.allowed(k)
            total = total + parts.log_dirichlet(self.transition_prior, transition, allowed, rows)
        initial = self._beginning(transition)
        return total + parts.log_dirichlet(
            self.initial_prior, initial, self.structure.begins(k), None
        )

    def projected(self) -> Self:
        """With the components inside their floors, and zeros exactly zero."""
        transition = given(self.transition)
        if not isinstance(transition, TransitionLogits):
            transition = parts.without_dust(transition)
        initial = self._beginning(transition)
        return self._replaced(parts.without_dust(initial), transition, self.component.projected())

    def is_grouped(self) -> bool:
        """Rows of one sequence depend on each other."""
        return True

    def reason(self) -> str:
        """The states are summed out by recursion."""
        return (
            "HiddenMarkov's own exact posterior (forward and backward recursions over the states "
            "of each sequence), so the bound equals log p(X)"
        )

    def partition_statistics(self, rows: Rows, probability: Float[Array, "k n"]) -> ChainStatistics:
        """The sums that a soft partition gives.

        Where states are passed through in order, they are numbered by when they come.
        """
        if self.structure.ordered() and rows.labels is None:
            probability = probability[jnp.argsort(mean_time(rows, probability))]
        component = self.component.statistics(rows, probability * rows.weight, None)
        return self._counted(rows, probability, component)

    def occupancy(self) -> None:
        """The probabilities do not say: a state may be passed through once."""

    def state_means(self) -> Float[Array, "k d"]:
        """``E[x | k]``: what is expected of a row of which nothing is observed."""
        d = jax.eval_shape(lambda: self.component.sample(jax.random.key(0), jnp.zeros(1, int)))
        nothing = Rows(jnp.zeros(d.shape, d.dtype), jnp.ones(1, d.dtype), jnp.zeros(d.shape, bool))
        return self.component.conditional_mean(nothing, self.component.prepare())[:, 0]

    def imputed(self, rows: Rows, prepared: Prepared) -> Float[Array, "n d"]:
        """``E[x | x_observed]``: the row itself where observed."""
        plan = _lanes.cut(len(rows.weight), rows.groups)
        probability = chain.to_lanes(self.posterior(rows, prepared).probability, plan)

        def filled(part: Rows, q: Float[Array, "k n"]) -> Float[Array, "n d"]:
            means = self.component.conditional_mean(part, prepared.component)
            return jnp.einsum("kn,knd->nd", q, means)

        return _lanes.rows_by_chunk(filled, _lanes.rows_to_lanes(rows, plan), probability, plan)

    def _cut(self, rows: Rows) -> _lanes.Cut:
        cells = self.n_components**2
        return _lanes.cut(len(rows.weight), rows.groups, self.recursion, cells)

    def _beginning(self, transition: Any) -> Array:
        return stationary_distribution(transition) if self.stationary else given(self.initial)

    def _replaced(self, initial: Array, transition: Any, component: AbstractComponent) -> Self:
        return eqx.tree_at(
            lambda m: (m.initial, m.transition, m.component),
            self,
            (initial, transition, component),
            is_leaf=parts.is_whole,
        )
