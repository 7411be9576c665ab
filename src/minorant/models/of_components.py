"""What models share whose rows come from one of k components, however the latent moves."""

from __future__ import annotations

from typing import Any, Self

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from minorant._types import Affine, Array, Key, Rows, Summary
from minorant.components.base import AbstractComponent
from minorant.models.base import AbstractDiscreteModel, AbstractTractableModel


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

    def may_overshoot(self) -> bool:
        """As the components do."""
        return self.component.may_overshoot()

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


def is_component(node: object) -> bool:
    """Where a tree of parameters is to be cut."""
    return isinstance(node, AbstractComponent)
