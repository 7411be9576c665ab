"""What a model is: the joint p(x, z); and what a tractable one adds: everything EM needs.

Tractable models speak in blocks of rows (:class:`minorant._types.Rows`), not in single rows: the
exponential-family form is two matrix products over a block, and a row-wise definition lifted by
``vmap`` cannot be turned back into them. ``prepare`` is called once per pass over the data, so
that factorisations are not repeated for every block.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple, Self

import equinox as eqx
import numpy as np
from jaxtyping import Float

from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.posteriors import AbstractPosterior


class Expectation(NamedTuple):
    """What one pass over rows yields: the bound and the statistics, both weighted sums."""

    bound: Float[Array, ""]
    statistics: PyTree


class AbstractModel(eqx.Module):
    """The joint density of rows and latents."""

    @abstractmethod
    def log_joint(self, rows: Rows, latents: PyTree) -> Float[Array, " n"]:
        """``log p(x, z)`` per row, in nats."""

    @abstractmethod
    def sample(self, key: Key, n: int) -> tuple[PyTree, Float[Array, "n d"]]:
        """``n`` draws of latents and rows."""


class AbstractTractableModel(AbstractModel):
    """A model whose posterior, evidence and M-step are exact."""

    @abstractmethod
    def prepare(self) -> PyTree:
        """What a pass needs and is computed once."""

    @abstractmethod
    def posterior(self, rows: Rows, prepared: PyTree) -> AbstractPosterior:
        """``p(z | x)`` of every row."""

    @abstractmethod
    def log_evidence(self, rows: Rows, prepared: PyTree) -> Float[Array, " n"]:
        """``log p(x)`` per row, in nats; with a known label, ``log p(x, z)``."""

    @abstractmethod
    def statistics(self, rows: Rows, posterior: AbstractPosterior, prepared: PyTree) -> PyTree:
        """Weighted sums over the block of what ``maximise`` needs."""

    @abstractmethod
    def expectation(self, rows: Rows, prepared: PyTree) -> Expectation:
        """Evidence and statistics under the exact posterior, in one pass."""

    @abstractmethod
    def maximise(self, statistics: PyTree, fixed: PyTree | None = None) -> Self:
        """The model that maximises the expected log joint plus log prior."""

    @abstractmethod
    def log_prior(self) -> Float[Array, ""]:
        """Log density of the parameters' prior, up to a constant."""

    @abstractmethod
    def projected(self) -> Self:
        """The nearest model inside the constraints that are not in the parametrisation."""

    @abstractmethod
    def stabilised(self, spread: float) -> Self:
        """The same model in the numerical form that this precision asks for (host side)."""

    @abstractmethod
    def rounding(self, prepared: PyTree) -> Float[Array, ""] | float:
        """By how much the model amplifies rounding; 1 where it does not."""

    @abstractmethod
    def configured(self, summary: Summary) -> Self:
        """With everything filled in that depends on the data's columns."""

    @abstractmethod
    def standardiser(self, summary: Summary) -> Affine:
        """The units in which this model computes best."""

    @abstractmethod
    def rescaled(self, units: Affine) -> Self:
        """The same model for rows in other units; exact."""

    @abstractmethod
    def check(self, values: Float[np.ndarray, "n d"], names: tuple[str, ...]) -> None:
        """Raise ValueError for cells outside the support."""

    @abstractmethod
    def shares_patterns(self) -> bool:
        """Whether rows that miss the same cells share work (then they are blocked together)."""

    @abstractmethod
    def embedding(self, values: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n e"]:
        """Rows as points in which Euclidean distance means something, for choosing starts."""

    def may_overshoot(self) -> bool:
        """Whether ``maximise`` is one step uphill that may be too long, and no exact maximiser."""
        return False


class AbstractDiscreteModel(AbstractTractableModel):
    """A tractable model whose latent takes one of k values; climbs start from partitions."""

    n_components: eqx.AbstractVar[int]


def count_components(model: AbstractModel) -> int:
    """The number k of values that the latent takes; 1 where it is not discrete."""
    return model.n_components if isinstance(model, AbstractDiscreteModel) else 1
