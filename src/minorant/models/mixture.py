r"""Finite mixtures: a discrete latent z with k values, and a component density for each.

.. math:: p(x) = \sum_k w_k\, p(x \mid k), \qquad
          r_k(x) = w_k\, p(x \mid k) / p(x)

E-step: responsibilities ``r``. M-step: ``w_k = (sum_i r_ik + a_k - 1) / total`` with a Dirichlet(a)
prior (a = 1: none), and each component's own. Dempster, Laird & Rubin (1977), "Maximum likelihood
from incomplete data via the EM algorithm", section 4.3.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._parameters import constant, given, simplex
from minorant._types import Array, Key, PyTree, Rows
from minorant.components.base import AbstractComponent, of
from minorant.components.custom import as_component
from minorant.components.priors import Dirichlet
from minorant.models.base import Expectation
from minorant.models.of_components import AbstractModelOfComponents
from minorant.posteriors import Categorical


class Prepared(NamedTuple):
    """Log weights and the components' own preparation."""

    log_weights: Float[Array, " k"]
    component: PyTree


class MixtureStatistics(NamedTuple):
    """Weighted responsibilities summed over rows, and the components' sums."""

    count: Float[Array, " k"]
    component: PyTree


class Mixture(AbstractModelOfComponents):
    """k components over the same columns, one of which each row comes from.

    Args:
        component: the observation density, k stacked; a template (no parameters) to be learned.
        n_components: k; read off ``weights`` when those are given.
        weights: (k,) mixing proportions; None to be learned.
        prior: :class:`Dirichlet` on the weights, or None.

    Raises:
        ValueError: when k is below 1 or does not agree with the weights.

    Example:
        >>> from minorant.components import Gaussian
        >>> from minorant.models import Mixture
        >>> Mixture(Gaussian(), n_components=3).n_components
        3
    """

    component: AbstractComponent = eqx.field(converter=as_component)
    weights: Float[Array, " k"] | None = simplex(default=None)
    prior: Dirichlet | None = constant(default=None)
    n_components: int = eqx.field(static=True, kw_only=True)

    def __check_init__(self) -> None:
        """Raise ValueError for an impossible k."""
        if not isinstance(self.n_components, int) or self.n_components < 1:
            raise ValueError(
                f"n_components must be an integer of at least 1; got {self.n_components!r}."
            )

    def prepare(self) -> Prepared:
        """Log weights and the components' factors."""
        weights = given(self.weights)
        tiny = jnp.finfo(weights.dtype).tiny
        return Prepared(jnp.log(jnp.maximum(weights, tiny)), self.component.prepare())

    def log_joint_all(self, rows: Rows, prepared: Prepared) -> Float[Array, "k n"]:
        """``log w_k + log p(x | k)`` for every component; -inf where a known label forbids it."""
        scores = self.component.log_prob(rows, prepared.component) + prepared.log_weights[:, None]
        if rows.labels is None:
            return scores
        components = jnp.arange(self.n_components)[:, None]
        allowed = (rows.labels < 0) | (rows.labels == components)
        return jnp.where(allowed, scores, -jnp.inf)

    def log_joint(self, rows: Rows, latents: Int[Array, " n"]) -> Float[Array, " n"]:
        """``log w_z + log p(x | z)``."""
        scores = self.log_joint_all(rows, self.prepare())
        return jnp.take_along_axis(scores, latents[None], axis=0)[0]

    def sample(self, key: Key, n: int) -> tuple[Int[Array, " n"], Float[Array, "n d"]]:
        """Labels and rows."""
        label_key, row_key = jax.random.split(key)
        log_weights = self.prepare().log_weights
        labels = jax.random.categorical(label_key, log_weights, shape=(n,))
        return labels, self.component.sample(row_key, labels)

    def posterior(self, rows: Rows, prepared: Prepared) -> Categorical:
        """Responsibilities, in logarithms."""
        scores = self.log_joint_all(rows, prepared)
        return Categorical(scores - _log_sum(scores)[1])

    def log_evidence(self, rows: Rows, prepared: Prepared) -> Float[Array, " n"]:
        """``log sum_k w_k p(x | k)``."""
        return _log_sum(self.log_joint_all(rows, prepared))[1]

    def statistics(
        self, rows: Rows, posterior: Categorical, prepared: Prepared | None
    ) -> MixtureStatistics:
        """Weighted responsibilities and the components' sums under any q."""
        return self._statistics(rows, posterior.probability * rows.weight, prepared)

    def partition_statistics(
        self, rows: Rows, probability: Float[Array, "k n"]
    ) -> MixtureStatistics:
        """The sums that a soft partition gives."""
        return self._statistics(rows, probability * rows.weight, None)

    def expectation(self, rows: Rows, prepared: Prepared) -> Expectation:
        """Evidence and statistics under the exact posterior, exponentials taken once."""
        scores = self.log_joint_all(rows, prepared)
        unnormalised, log_evidence, total = _exponentials(scores)
        responsibilities = unnormalised * (rows.weight / total)
        bound = jnp.where(rows.weight > 0, rows.weight * log_evidence, 0.0).sum()
        return Expectation(bound, self._statistics(rows, responsibilities, prepared))

    def maximise(self, statistics: MixtureStatistics, fixed: PyTree | None = None) -> Self:
        """New weights and components."""
        weights = self._weights(statistics.count, of(fixed, "weights"))
        component = self.component.maximise(statistics.component, of(fixed, "component"))
        return eqx.tree_at(
            lambda m: (m.weights, m.component), self, (weights, component), is_leaf=_is_none
        )

    def log_prior(self) -> Float[Array, ""]:
        """Prior of the weights and of the components."""
        prior = self.component.log_prior()
        return prior if self.prior is None else prior + self.prior.log_density(given(self.weights))

    def projected(self) -> Self:
        """With the components inside their floors."""
        return eqx.tree_at(lambda m: m.component, self, self.component.projected())

    def shares_patterns(self) -> bool:
        """As the components do."""
        return self.component.shares_patterns()

    def occupancy(self) -> np.ndarray:
        """The weights."""
        return np.asarray(self.weights, dtype=float)

    def reason(self) -> str:
        """The latent is summed out."""
        return (
            "Mixture's own exact posterior (finite latent, summed in closed form), so the bound "
            "equals log p(X)"
        )

    def imputed(self, rows: Rows, prepared: Prepared) -> Float[Array, "n d"]:
        """``E[x | x_observed]``: the row itself where observed."""
        responsibilities = self.posterior(rows, prepared).probability
        means = self.component.conditional_mean(rows, prepared.component)
        return jnp.einsum("kn,knd->nd", responsibilities, means)

    def _statistics(
        self, rows: Rows, weighted: Float[Array, "k n"], prepared: Prepared | None
    ) -> MixtureStatistics:
        inner = None if prepared is None else prepared.component
        component = self.component.statistics(rows, weighted, inner)
        return MixtureStatistics(weighted.sum(1), component)

    def _weights(self, count: Float[Array, " k"], fixed: Array | None) -> Float[Array, " k"]:
        extra = 0.0 if self.prior is None else self.prior.concentration - 1.0
        weights = (count + extra) / (count + extra).sum()
        if fixed is None or self.weights is None:
            return weights
        held = jnp.broadcast_to(jnp.asarray(fixed), weights.shape)
        free = jnp.where(held, 0.0, weights)
        room = 1.0 - jnp.where(held, self.weights, 0.0).sum()
        shared = free * (room / jnp.maximum(free.sum(), jnp.finfo(free.dtype).tiny))
        return jnp.where(held, self.weights, shared)


def _exponentials(scores: Float[Array, "k n"]) -> tuple[Array, Array, Array]:
    """``exp(s - max)``, ``log sum exp s`` and ``sum exp(s - max)`` over k."""
    largest = jnp.max(scores, axis=0)
    unnormalised = jnp.exp(scores - largest)
    total = unnormalised.sum(0)
    return unnormalised, jnp.log(total) + largest, total


def _log_sum(scores: Float[Array, "k n"]) -> tuple[Array, Array]:
    unnormalised, log_total, _ = _exponentials(scores)
    return unnormalised, log_total


def _is_none(node: object) -> bool:
    return node is None
