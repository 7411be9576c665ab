"""What an observation density p(x | k) must offer; k is stacked on the first axis of every leaf.

A component speaks in blocks of rows. Its parameters may be None ("a template"): then only
``configured``, ``embedding``, ``check`` and, on complete rows, ``statistics`` with
``prepared=None`` may be called; ``maximise`` turns a template into a component.

To write one, subclass and keep to these conventions:

- ``log_prob`` integrates missing cells out exactly;
- ``statistics`` are sums over rows, so that blocks, files and machines add;
- ``maximise`` sees the sums alone, holds what ``fixed`` says, and returns the exact maximiser of
  the expected log density plus log prior, given what is held (or, where none is closed, a point
  that never lowers it);
- nothing here may import models, solvers or estimators.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._types import Affine, Array, Key, PyTree, Rows, Summary


class AbstractComponent(eqx.Module):
    """A family of k observation densities over the same columns."""

    @abstractmethod
    def prepare(self) -> PyTree:
        """What a pass over the rows needs and is computed once (factors, natural parameters)."""

    @abstractmethod
    def log_prob(self, rows: Rows, prepared: PyTree) -> Float[Array, "k n"]:
        """``log p(x_observed | k)`` in nats; 0 for a row with nothing observed."""

    @abstractmethod
    def statistics(
        self, rows: Rows, responsibilities: Float[Array, "k n"], prepared: PyTree
    ) -> PyTree:
        """Sums over the block of what ``maximise`` needs; weights are in the responsibilities."""

    @abstractmethod
    def maximise(self, statistics: PyTree, fixed: PyTree | None) -> Self:
        """The component that maximises the expected log density (plus log prior)."""

    @abstractmethod
    def expected_log_prob(self, statistics: PyTree) -> Float[Array, " k"]:
        """What ``maximise`` maximises, at these parameters, without the prior.

        The responsibility-weighted sum of ``log p(x | k)`` (with missing cells: of its expectation
        given the observed ones), up to a constant that is the same for all parameters. Where
        components share parameters only the sum over k has a meaning.
        """

    @abstractmethod
    def log_prior(self) -> Float[Array, ""]:
        """Log density of the prior at these parameters, up to a constant; 0 without a prior."""

    @abstractmethod
    def sample(self, key: Key, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """One row for every label."""

    @abstractmethod
    def conditional_mean(self, rows: Rows, prepared: PyTree) -> Float[Array, "k n d"]:
        """``E[x | x_observed, k]``: the row itself where observed."""

    @abstractmethod
    def conditional_sample(
        self, key: Key, rows: Rows, labels: Int[Array, " n"], prepared: PyTree
    ) -> Float[Array, "n d"]:
        """A draw of ``x`` given ``x_observed`` and the component of each row."""

    @abstractmethod
    def configured(self, summary: Summary, n_components: int) -> Self:
        """A copy with what depends on the data filled in (floors, category counts, priors)."""

    @abstractmethod
    def standardiser(self, summary: Summary) -> Affine:
        """The units in which this component computes best (identity where they may not change)."""

    @abstractmethod
    def rescaled(self, units: Affine) -> Self:
        """The same densities for rows in the units ``(x - shift) / scale``; exact."""

    @abstractmethod
    def embedding(self, values: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n e"]:
        """Rows as points in which Euclidean distance means something, for choosing starts."""

    @abstractmethod
    def check(self, values: Float[np.ndarray, "n d"], names: tuple[str, ...]) -> None:
        """Raise ValueError naming column, row and value where a cell is outside the support."""

    @abstractmethod
    def collapsed(self) -> Float[np.ndarray, " k"]:
        """For every component, how many of its dimensions sit on the floor (0: none)."""

    def projected(self) -> Self:
        """Inside constraints that the parametrisation does not carry (floors); itself if none."""
        return self

    def stabilised(self, spread: float) -> Self:
        """In the numerical form that this precision asks for; itself if there is but one.

        Args:
            spread: the largest absolute value among the standardised cells.
        """
        del spread
        return self

    def rounding(self, prepared: PyTree) -> Float[Array, ""] | float:
        """By how much the component amplifies rounding (a condition number); 1 where it does not.

        A plain step may lose this many units in the last place per row before the solver calls a
        decrease an error of the numerics.
        """
        del prepared
        return 1.0

    def numbers_per_row(self, n_columns: int) -> int:
        """How many numbers a step forms of each row, roughly: all products of two cells."""
        return n_columns * (n_columns + 3) // 2 + 1

    def shares_patterns(self) -> bool:
        """Whether rows that miss the same cells share work (then they are blocked together)."""
        return False

    def adds_up(self) -> bool:
        """Whether statistics gathered at different parameters add up to what ``maximise`` takes.

        Not where ``maximise`` reads them as gathered at its own parameters. (Moments about a mean
        are another matter: structures say so by ``centred``.)
        """
        return not self.may_overshoot()

    def may_overshoot(self) -> bool:
        """Whether ``maximise`` takes one step uphill that may be too long, and no closed one.

        The solver then shortens a step that lowers the objective instead of calling it a failure.
        """
        return False


def keep_if_empty(
    count: Float[Array, " k"], old: Array | None, new: Float[Array, "k *rest"]
) -> Float[Array, "k *rest"]:
    """``old`` for components that no row supports: an empty component keeps its parameters."""
    if old is None:
        return new
    empty = count <= 10 * jnp.finfo(count.dtype).tiny
    return jnp.where(empty.reshape(empty.shape + (1,) * (new.ndim - 1)), old, new)


def safe_count(count: Float[Array, "..."]) -> Float[Array, "..."]:
    """The count, kept away from zero so that it may divide."""
    return jnp.maximum(count, 10 * jnp.finfo(count.dtype).tiny)


def of(fixed: Any, name: str) -> Any:
    """The part of a fixed-mask tree that belongs to a field; None when nothing is fixed."""
    return None if fixed is None else getattr(fixed, name)


def take_labelled(per_component: Float[Array, "k n d"], labels: Int[Array, " n"]) -> Array:
    """For every row the entry of its own component."""
    return jnp.take_along_axis(per_component, labels[None, :, None], axis=0)[0]


def reject_cells(bad: np.ndarray, values: np.ndarray, names: tuple[str, ...], must: str) -> None:
    """Raise a ValueError for the first bad cell, naming row, column and value."""
    if not bad.any():
        return
    row, column = (int(index) for index in np.argwhere(bad)[0])
    raise ValueError(
        f"Column {names[column]!r} {must}, but row {row} holds {float(values[row, column])!r} "
        f"({int(bad.sum())} such cells). Remove or recode them, or choose another component for "
        "this column."
    )
