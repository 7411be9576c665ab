r"""Finite mixtures: a discrete latent z with k values, and a component density for each.

.. math:: p(x) = \sum_k w_k\, p(x \mid k), \qquad
          r_k(x) = w_k\, p(x \mid k) / p(x)

E-step: responsibilities ``r``. M-step: ``w_k = (sum_i r_ik + a_k - 1) / total`` with a Dirichlet(a)
prior (a = 1: none), and each component's own. Dempster, Laird & Rubin (1977), "Maximum likelihood
from incomplete data via the EM algorithm", section 4.3.
"""

from __future__ import annotations

from typing import Self

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
from minorant.models.of_components import (
    AbstractMixture,
    MixtureStatistics,
    Prepared,
    log_sum,
    where_allowed,
)


class Mixture(AbstractMixture):
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
        return where_allowed(scores, rows.labels)

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

    def log_evidence(self, rows: Rows, prepared: Prepared) -> Float[Array, " n"]:
        """``log sum_k w_k p(x | k)``."""
        return log_sum(self.log_joint_all(rows, prepared))

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

    def occupancy(self) -> np.ndarray:
        """The weights."""
        return np.asarray(self.weights, dtype=float)

    def reason(self) -> str:
        """The latent is summed out."""
        return (
            "Mixture's own exact posterior (finite latent, summed in closed form), so the bound "
            "equals log p(X)"
        )

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


def _is_none(node: object) -> bool:
    return node is None
