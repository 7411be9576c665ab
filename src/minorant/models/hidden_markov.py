r"""Hidden Markov models: a chain of states, and a component density for the rows of each state.

.. math:: p(x) = \sum_z \pi_{z_1} p(x_1 \mid z_1) \prod_{t > 1} A_{z_{t-1} z_t} p(x_t \mid z_t)

E-step: the forward and backward recursions (:mod:`minorant.posteriors.chain`). M-step: ``pi`` and
each row of A are shares of expected counts, and each component's own. Baum, Petrie, Soules & Weiss
(1970); Rabiner (1989), "A tutorial on hidden Markov models", sections III and V.
"""

from __future__ import annotations

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
from minorant.models._neighbours import counted, mean_time, starts
from minorant.models.base import Expectation
from minorant.models.of_components import AbstractModelOfComponents, is_component
from minorant.models.transitions import (
    AbstractTransition,
    AllowedSimplex,
    AnyTransition,
    check_probabilities,
    shared_rows,
    shares,
    stationary_distribution,
    stationary_shares,
)
from minorant.posteriors import AbstractPosterior, ChainPosterior, _lanes, chain

_GONE = 4.0  # in units of the smallest number: what a zero becomes in free coordinates


class Prepared(NamedTuple):
    """Probabilities, and the components' own preparation."""

    initial: Float[Array, " k"]
    transition: Float[Array, "k k"]
    component: PyTree


class ChainStatistics(NamedTuple):
    """Expected first states and pairs of neighbours, weighted, and the components' sums."""

    first: Float[Array, " k"]
    pairs: Float[Array, "k k"]
    component: PyTree


def _array(value: Any) -> Any:
    """Lists as arrays; leaves that JAX traces, and None, as they are."""
    return np.asarray(value, dtype=float) if isinstance(value, list | tuple) else value


def _initial_constraint(model: HiddenMarkov) -> AllowedSimplex | None:
    if model.stationary:
        return None
    return AllowedSimplex(tuple(map(bool, model.structure.begins(model.n_components))))


def _transition_constraint(model: HiddenMarkov) -> AllowedSimplex:
    k = model.n_components
    allowed = tuple(tuple(map(bool, row)) for row in model.structure.allowed(k))
    tied = model.structure.tied(k)
    return AllowedSimplex(allowed, None if len(set(tied)) == k else tuple(map(int, tied)))


class HiddenMarkov(AbstractModelOfComponents):
    """k states that follow one another, each with a density of the rows.

    Args:
        component: the observation density, k stacked; a template (no parameters) to be learned.
        n_components: k, the number of states.
        initial: (k,) probabilities of a sequence's first state; None to be learned.
        transition: (k, k) probabilities of the next state (column) given this one (row); None to
            be learned. Zeros stay zero.
        structure: which transitions there are: ``AnyTransition()``, ``LeftRight()``,
            ``Allowed(moves)`` or ``TiedRows(classes)``.
        initial_prior: :class:`Dirichlet` on the initial probabilities, or None.
        transition_prior: :class:`Dirichlet` on every row of the transition, or None.
        stationary: whether sequences begin in the transition's own stationary distribution, so
            that ``initial`` is no parameter of its own.

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
        _initial_constraint, default=None, converter=_array
    )
    transition: Float[Array, "k k"] | None = parameter(
        _transition_constraint, default=None, converter=_array
    )
    structure: AbstractTransition = constant(default=AnyTransition())  # noqa: RUF009
    initial_prior: Dirichlet | None = constant(default=None)
    transition_prior: Dirichlet | None = constant(default=None)
    stationary: bool = eqx.field(static=True, default=False)
    n_components: int = eqx.field(static=True, kw_only=True)

    def __check_init__(self) -> None:
        """Raise ValueError for an impossible k or probabilities."""
        k = self.n_components
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"n_components must be an integer of at least 1; got {k!r}.")
        check_probabilities("initial", self.initial, (k,), self.structure.begins(k))
        check_probabilities("transition", self.transition, (k, k), self.structure.allowed(k))
        self.structure.tied(k)

    def prepare(self) -> Prepared:
        """Probabilities and the components' factors."""
        transition = jnp.asarray(given(self.transition))
        return Prepared(self._beginning(transition), transition, self.component.prepare())

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
        moves = chain.log_or_never(prepared.transition)[jnp.roll(latents, 1), latents]
        first = chain.log_or_never(prepared.initial)[latents]
        return scores + jnp.where(start, first, moves)

    def sample(self, key: Key, n: int) -> tuple[Int[Array, " n"], Float[Array, "n d"]]:
        """States and rows of one sequence of n steps."""
        prepared = self.prepare()
        return self.continued(key, n, prepared.initial)

    def continued(
        self, key: Key, n: int, initial: Float[Array, " k"]
    ) -> tuple[Int[Array, " n"], Float[Array, "n d"]]:
        """States and rows of one sequence whose first state has these probabilities."""
        first_key, move_key, row_key = jax.random.split(key, 3)
        moves = chain.log_or_never(jnp.asarray(given(self.transition)))
        first = jax.random.categorical(first_key, chain.log_or_never(initial))

        def step(state: Array, key: Key) -> tuple[Array, Array]:
            return jax.random.categorical(key, moves[state]), state

        states = jax.lax.scan(step, first, jax.random.split(move_key, n))[1]
        return states, self.component.sample(row_key, states)

    def posterior(self, rows: Rows, prepared: Prepared) -> ChainPosterior:
        """States given all rows of their sequence."""
        scores = self.scores(rows, prepared)
        return chain.chain_posterior(
            prepared.initial, prepared.transition, scores, rows.weight, rows.groups
        )

    def log_evidence(self, rows: Rows, prepared: Prepared) -> Float[Array, " n"]:
        """``log p(x_t | x_1 .. x_t-1)``, which adds up to ``log p`` of each sequence."""
        plan = _lanes.cut(len(rows.weight), rows.groups)
        start, moved = _lanes.starts(rows.groups, plan), _lanes.rows_to_lanes(rows, plan)
        scores = _lanes.by_chunk(lambda part: self.scores(part, prepared), moved, plan)
        weight = moved.weight.reshape(start.shape)
        chances = (prepared.initial, prepared.transition)
        return _lanes.from_lanes(chain.log_evidence(plan, *chances, scores, start, weight), plan)

    def statistics(
        self, rows: Rows, posterior: AbstractPosterior, prepared: Prepared | None
    ) -> ChainStatistics:
        """Expected counts and the components' sums under any q."""
        inner = None if prepared is None else prepared.component
        probability = jnp.exp(posterior.by_row()).T
        component = self.component.statistics(rows, probability * rows.weight, inner)
        if isinstance(posterior, ChainPosterior):
            return ChainStatistics(posterior.first, posterior.pairs, component)
        return ChainStatistics(*counted(rows, probability), component)

    def expectation(self, rows: Rows, prepared: Prepared) -> Expectation:
        """Evidence and statistics under the exact posterior, rows side by side in lanes."""
        plan = _lanes.cut(len(rows.weight), rows.groups)
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

        states = chain.Chain(prepared.initial, prepared.transition)
        found, log_scale = chain.smoothed(states, scored, start, weight, plan, relative)
        component = _lanes.over_chunks(
            lambda part, q: self.component.statistics(part, q * part.weight, prepared.component),
            rows,
            found.probability,
            plan,
        )
        statistics = ChainStatistics(found.first, found.pairs, component)
        return Expectation(_weighted_sum(log_scale, weight), statistics)

    def maximise(self, statistics: ChainStatistics, fixed: PyTree | None = None) -> Self:
        """New probabilities and components."""
        k, structure = self.n_components, self.structure
        allowed, tied = structure.allowed(k), structure.tied(k)
        pairs = statistics.pairs + _extra(self.transition_prior)
        if len(set(tied)) < k:
            pairs = shared_rows(pairs, tuple(tied), mean=False)
        held = of(fixed, "transition")
        transition = shares(pairs, self.transition, allowed, held)
        first = statistics.first + _extra(self.initial_prior)
        if self.stationary:
            counts = statistics.pairs + _extra(self.transition_prior)
            constraint = _transition_constraint(self)
            transition = stationary_shares(counts, first, transition, constraint, held)
            initial = stationary_distribution(transition)
        else:
            initial = shares(first, self.initial, structure.begins(k), of(fixed, "initial"))
        component = self.component.maximise(statistics.component, of(fixed, "component"))
        return self._replaced(initial, transition, component)

    def log_prior(self) -> Float[Array, ""]:
        """Priors of the probabilities and of the components."""
        k, total = self.n_components, self.component.log_prior()
        transition = jnp.asarray(given(self.transition))
        rows = jnp.asarray(np.unique(self.structure.tied(k)))
        total = total + _log_dirichlet(
            self.transition_prior, transition, self.structure.allowed(k), rows
        )
        initial = self._beginning(transition)
        return total + _log_dirichlet(self.initial_prior, initial, self.structure.begins(k), None)

    def projected(self) -> Self:
        """With the components inside their floors, and zeros exactly zero."""
        transition = _without_dust(given(self.transition))
        initial = self._beginning(transition)
        return self._replaced(_without_dust(initial), transition, self.component.projected())

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
        return ChainStatistics(*counted(rows, probability), component)

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

    def _beginning(self, transition: Array) -> Array:
        return stationary_distribution(transition) if self.stationary else given(self.initial)

    def _replaced(self, initial: Array, transition: Array, component: AbstractComponent) -> Self:
        return eqx.tree_at(
            lambda m: (m.initial, m.transition, m.component),
            self,
            (initial, transition, component),
            is_leaf=lambda node: node is None or is_component(node),
        )


def _weighted_sum(logs: Float[Array, "steps lanes"], weight: Array) -> Float[Array, ""]:
    """The sum over rows of positive weight; first within steps, so that float32 keeps digits."""
    counted = jnp.where(weight > 0, weight * logs, 0.0)
    return (counted @ jnp.ones(counted.shape[1], counted.dtype)).sum()


def _extra(prior: Dirichlet | None) -> Any:
    return 0.0 if prior is None else prior.concentration - 1.0


def _log_dirichlet(prior: Dirichlet | None, values: Array, allowed: np.ndarray, rows: Any) -> Array:
    """The log density of rows of probabilities, over what is allowed; tied rows once."""
    if prior is None:
        return jnp.zeros((), values.dtype)
    logs = jnp.log(jnp.maximum(values, jnp.finfo(values.dtype).tiny))
    weighted = jnp.where(allowed, (prior.concentration - 1.0) * logs, 0.0)
    return (weighted if rows is None else weighted[rows]).sum()


def _without_dust(probability: Array) -> Array:
    """Exactly zero where free coordinates, which are logarithms, cannot say zero."""
    xp = np if isinstance(probability, np.ndarray) else jnp
    least = _GONE * jnp.finfo(probability.dtype).tiny
    return xp.where(probability > least, probability, xp.zeros_like(probability))
