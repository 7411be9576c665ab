"""What a model is: the joint p(x, z); what an exact one adds; and what EM needs beyond that.

Exact models speak in blocks of rows (:class:`minorant._types.Rows`), not in single rows: the
exponential-family form is two matrix products over a block, and a row-wise definition lifted by
``vmap`` cannot be turned back into them. ``prepare`` is called once per pass over the data, so
that factorisations are not repeated for every block.

Two questions part the models. Has the M-step a closed form? Then the model is tractable and EM
climbs it; an exact model without one is climbed by quasi-Newton steps on its evidence. Is the
latent finite? Then climbs start from partitions of the rows; a continuous one proposes its starts.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._parameters import to_vector
from minorant._scatter import scattered
from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.posteriors import AbstractPosterior
from minorant.posteriors.quadrature import Adaptive, Integrated


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


class AbstractExactModel(AbstractModel):
    """A model whose posterior and evidence are exact (or integrated to a stated accuracy)."""

    @abstractmethod
    def prepare(self) -> PyTree:
        """What a pass needs and is computed once."""

    @abstractmethod
    def posterior(self, rows: Rows, prepared: PyTree) -> AbstractPosterior:
        """``p(z | x)`` of every row."""

    @abstractmethod
    def log_evidence(self, rows: Rows, prepared: PyTree) -> Float[Array, " n"]:
        """``log p(x)`` per row, in nats; with a known label, ``log p(x, z)``.

        Of a grouped model: numbers that add up to the group's ``log p`` over its rows.
        """

    def summed_log_evidence(self, rows: Rows, prepared: PyTree) -> Float[Array, ""]:
        """``sum_i w_i log p(x_i)``; a model may know a cheaper way to its derivative."""
        per_row = self.log_evidence(rows, prepared)
        return jnp.where(rows.weight > 0, rows.weight * per_row, 0.0).sum()

    @abstractmethod
    def log_prior(self) -> Float[Array, ""]:
        """Log density of the parameters' prior, up to a constant."""

    @abstractmethod
    def projected(self) -> Self:
        """The nearest model inside the constraints that are not in the parametrisation."""

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
    def reason(self) -> str:
        """Why the posterior is exact (or how it is integrated), as the end of a sentence."""

    def is_exact(self) -> bool:
        """Whether the evidence is a sum or integral in closed form; else it is integrated."""
        return True

    def is_bounded(self) -> bool:
        """Whether ``log_evidence`` is a lower bound, by a q of each row's own."""
        return False

    def integrates_parameters(self) -> bool:
        """Whether parameters are latent too: ``log_prior`` is then part of the bound itself.

        It is minus the divergence of their q from the prior, every constant kept.
        """
        return False

    def stabilised(self, spread: float) -> Self:
        """The same model in the numerical form that this precision asks for (host side)."""
        del spread
        return self

    def oriented(self) -> Self:
        """The same density, told apart from its mirror images by a convention (host side)."""
        return self

    def n_starts(self) -> int:
        """How many starts a climb takes unless told: more where likelihoods have several optima."""
        return 1

    def perturbed(self, rng: np.random.Generator) -> Self:
        """Another place to start from: this one, moved at random (host side)."""
        return scattered(self, rng)

    def invariants(self) -> Float[np.ndarray, " q"]:
        """What tells two optima apart: numbers that no symmetry of it changes (host side)."""
        return np.asarray(to_vector(self.oriented()), dtype=float)

    def rounding(self, prepared: PyTree) -> Float[Array, ""] | float:
        """By how much the model amplifies rounding; 1 where it does not."""
        del prepared
        return 1.0

    def numbers_per_row(self, n_columns: int) -> int:
        """How many numbers a step forms of each row and component: all products of two cells."""
        return n_columns * (n_columns + 3) // 2 + 1

    def shares_patterns(self) -> bool:
        """Whether rows that miss the same cells share work (then they are blocked together)."""
        return False

    def is_grouped(self) -> bool:
        """Whether rows depend on each other within groups (sequences, clusters)."""
        return False

    def allows_empty_rows(self) -> bool:
        """Whether a row without any observed cell has a place in the data (it says nothing)."""
        return self.is_grouped()

    def compresses(self, n_columns: int) -> bool:
        """Whether complete rows enter through their weighted mean and covariance alone."""
        del n_columns
        return False

    def may_overshoot(self) -> bool:
        """Whether ``maximise`` is one step uphill that may be too long, and no exact maximiser."""
        return False


class AbstractTractableModel(AbstractExactModel):
    """An exact model whose M-step is closed: EM climbs it."""

    @abstractmethod
    def statistics(self, rows: Rows, posterior: AbstractPosterior, prepared: PyTree) -> PyTree:
        """Weighted sums over the block of what ``maximise`` needs."""

    @abstractmethod
    def expectation(self, rows: Rows, prepared: PyTree) -> Expectation:
        """Evidence and statistics under the exact posterior, in one pass."""

    @abstractmethod
    def maximise(self, statistics: PyTree, fixed: PyTree | None = None) -> Self:
        """The model that maximises the expected log joint plus log prior."""

    def adds_up(self) -> bool:
        """Whether statistics of parts of the rows may be gathered at different parameters.

        Then their sum says all that ``maximise`` needs: incremental and online EM rest on it.
        """
        return False


class AbstractDiscreteModel(AbstractExactModel):
    """An exact model whose latent takes one of k values; climbs start from partitions of rows."""

    n_components: eqx.AbstractVar[int]

    @abstractmethod
    def embedding(self, values: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n e"]:
        """Rows as points in which Euclidean distance means something, for choosing starts."""

    @abstractmethod
    def partition_statistics(self, rows: Rows, probability: Float[Array, "k n"]) -> PyTree:
        """What ``maximise`` takes, with rows (all cells filled) assigned with ``probability``."""

    @abstractmethod
    def collapsed(self) -> Float[np.ndarray, " k"]:
        """For every component, how many of its dimensions sit on the floor (0: none)."""

    @abstractmethod
    def occupancy(self) -> Float[np.ndarray, " k"] | None:
        """The share of rows each component is to hold; None where parameters do not say."""


class AbstractContinuousModel(AbstractExactModel):
    """An exact model with a continuous latent: it proposes where its climbs start."""

    @abstractmethod
    def initial(self, rows: Rows, rng: np.random.Generator) -> Self:
        """A model with all parameters given, to start from (host side).

        ``rows`` are some or all rows, in one block, missing cells still marked in ``observed``.
        """

    @abstractmethod
    def irregular(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """A sentence for every degenerate part, such as a noise variance on its floor."""


class AbstractIntegratedModel(AbstractContinuousModel):
    """A continuous model whose normal latents a rule integrates, unit by unit: a row or a group."""

    @abstractmethod
    def integrated(self, rows: Rows, rule: Adaptive) -> Integrated:
        """Posterior, evidence, modes and precision of every unit, by an adaptive rule."""

    def unit_log_joint(self, rows: Rows, latents: Float[Array, "u l"]) -> Float[Array, " u"]:
        """``log p(x, z)`` of every unit, in the coordinates of :meth:`integrated`."""
        return self.log_joint(rows, latents)

    def in_rows_of_units(self, rows: Rows, per_unit: Float[Array, " u"]) -> Float[Array, " n"]:
        """Numbers of units as numbers of rows that add up to them."""
        del rows
        return per_unit


def count_components(model: AbstractModel) -> int:
    """The number k of values that the latent takes; 1 where it is not discrete."""
    return model.n_components if isinstance(model, AbstractDiscreteModel) else 1
