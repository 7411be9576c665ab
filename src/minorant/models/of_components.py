"""What models share whose rows come from one of k components, however the latent moves."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components.base import AbstractComponent
from minorant.models.base import AbstractDiscreteModel, AbstractTractableModel, Expectation
from minorant.posteriors import Categorical


class AbstractModelOfComponents(AbstractTractableModel, AbstractDiscreteModel):
    """A model with an observation density for each value of its latent; units are theirs.

    ``prepare`` gives a record whose ``component`` is the components' own preparation.
    """

    component: eqx.AbstractVar[AbstractComponent]

    def stabilised(self, spread: float) -> Self:
        """With the components in the form that this precision asks for."""
        return self._with_component(self.component.stabilised(spread))

    def rounding(self, prepared: Any) -> Float[Array, ""] | float:
        """The components' amplification."""
        return self.component.rounding(prepared.component)

    def configured(self, summary: Summary) -> Self:
        """With the components configured."""
        return self._with_component(self.component.configured(summary, self.n_components))

    def standardiser(self, summary: Summary) -> Affine:
        """The components' units."""
        return self.component.standardiser(summary)

    def rescaled(self, units: Affine) -> Self:
        """With the components in other units."""
        return self._with_component(self.component.rescaled(units))

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """The components' check."""
        self.component.check(values, names)

    def numbers_per_row(self, n_columns: int) -> int:
        """As the components do."""
        return self.component.numbers_per_row(n_columns)

    def may_overshoot(self) -> bool:
        """As the components do."""
        return self.component.may_overshoot()

    def adds_up(self) -> bool:
        """As the components do."""
        return self.component.adds_up()

    def collapsed(self) -> np.ndarray:
        """The components' floors."""
        return np.asarray(self.component.collapsed())

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """The components' view of the rows."""
        return self.component.embedding(values)

    def imputed_sample(self, key: Key, rows: Rows, prepared: Any) -> Float[Array, "n d"]:
        """A draw from ``p(x | x_observed)``, the components first."""
        label_key, row_key = jax.random.split(key)
        labels = self.posterior(rows, prepared).sample(label_key)
        return self.component.conditional_sample(row_key, rows, labels, prepared.component)

    def _with_component(self, component: AbstractComponent) -> Self:
        return eqx.tree_at(lambda m: m.component, self, component, is_leaf=is_component)


class Prepared(NamedTuple):
    """Log weights and the components' own preparation."""

    log_weights: Float[Array, " k"]
    component: PyTree


class MixtureStatistics(NamedTuple):
    """Weighted responsibilities summed over rows, and the components' sums."""

    count: Float[Array, " k"]
    component: PyTree


class AbstractMixture(AbstractModelOfComponents):
    """Rows are independent, and each comes from one component."""

    @abstractmethod
    def log_joint_all(self, rows: Rows, prepared: Prepared) -> Float[Array, "k n"]:
        """``log p(x, z = k)``, or its expectation; -inf where a known label forbids it."""

    def posterior(self, rows: Rows, prepared: Prepared) -> Categorical:
        """Responsibilities, in logarithms."""
        scores = self.log_joint_all(rows, prepared)
        return Categorical(scores - log_sum(scores))

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
        """Bound and statistics under the best posterior, exponentials taken once."""
        scores = self.log_joint_all(rows, prepared)
        unnormalised, log_total, total = _exponentials(scores)
        responsibilities = unnormalised * (rows.weight / total)
        bound = jnp.where(rows.weight > 0, rows.weight * log_total, 0.0).sum()
        return Expectation(bound, self._statistics(rows, responsibilities, prepared))

    def shares_patterns(self) -> bool:
        """As the components do."""
        return self.component.shares_patterns()

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


def where_allowed(
    scores: Float[Array, "k n"], labels: Int[Array, " n"] | None
) -> Float[Array, "k n"]:
    """The scores, -inf where a known label names another component."""
    if labels is None:
        return scores
    allowed = (labels < 0) | (labels == jnp.arange(len(scores))[:, None])
    return jnp.where(allowed, scores, -jnp.inf)


def log_sum(scores: Float[Array, "k n"]) -> Float[Array, " n"]:
    """``log sum_k exp(score)``."""
    return _exponentials(scores)[1]


def _exponentials(scores: Float[Array, "k n"]) -> tuple[Array, Array, Array]:
    """``exp(s - max)``, ``log sum exp s`` and ``sum exp(s - max)`` over k."""
    # Its gradient cancels. Left in, it is 0 / 0 where scores computed twice differ in the last bit.
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=0))
    unnormalised = jnp.exp(scores - largest)
    total = unnormalised.sum(0)
    return unnormalised, jnp.log(total) + largest, total


def is_component(node: object) -> bool:
    """Where a tree of parameters is to be cut."""
    return isinstance(node, AbstractComponent)
