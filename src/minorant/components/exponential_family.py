"""What components with independent columns share: block products, sums, filling, small helpers.

With features T(x), natural parameters eta and log normaliser A, cell by cell,

    log p(x | k) = sum_j [ eta_kj . T(x_j) - A(eta_kj) + h(x_j) ]    over the observed cells j,

so scores are one matrix product ``eta @ T^T`` and sums another, ``r @ T``. A missing cell has
features 0, base measure 0 and counts 0: it drops out exactly. Leaves are (k, d).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from minorant._types import Affine, Array, Key, Rows, Summary
from minorant.components import autodiff, base
from minorant.components.priors import LogDensity

_TABLED = 256
LEAST = 1e-10
_Component = TypeVar("_Component", bound=base.AbstractComponent)


class Natural(NamedTuple):
    """Natural parameters (k, f d), feature after feature, and ``-A`` of every cell (k, d)."""

    linear: Float[Array, "k fd"]
    constant: Float[Array, "k d"]


class Sums(NamedTuple):
    """Weighted sums over rows: observed cells, and features (k, f, d)."""

    count: Float[Array, "k d"]
    totals: Float[Array, "k f d"]


class IndependentColumns(base.AbstractComponent):
    """Columns independent given the component: cells of a row tell nothing about each other."""

    @abstractmethod
    def cell_mean(self) -> Float[Array, "k d"]:
        """``E[x_j | k]``."""

    def conditional_mean(self, rows: Rows, prepared: Any) -> Float[Array, "k n d"]:
        """The row itself where observed, elsewhere the component's mean."""
        del prepared
        mean = self.cell_mean()[:, None, :]
        seen = True if rows.observed is None else rows.observed
        return jnp.where(seen, rows.values, jnp.broadcast_to(mean, (len(mean), *rows.values.shape)))

    def conditional_sample(
        self, key: Key, rows: Rows, labels: Int[Array, " n"], prepared: Any
    ) -> Float[Array, "n d"]:
        """The row itself where observed, elsewhere a draw from its component."""
        del prepared
        if rows.observed is None:
            return rows.values
        return jnp.where(rows.observed, rows.values, self.sample(key, labels))


class ExponentialFamily(IndependentColumns):
    """Cell by cell an exponential family with a closed set of features."""

    @abstractmethod
    def features(self, rows: Rows) -> tuple[Float[Array, "n d"], ...]:
        """``T(x)``, finite in every cell, padding and missing cells included."""

    @abstractmethod
    def natural(self) -> tuple[tuple[Float[Array, "k d"], ...], Float[Array, "k d"]]:
        """``eta``, one array for each feature, and ``-A(eta)``."""

    @abstractmethod
    def log_base(self, rows: Rows) -> Float[Array, "n d"] | None:
        """``h(x)``; None where it is 0."""

    def prepare(self) -> Natural:
        """Natural parameters."""
        linear, constant = self.natural()
        return Natural(jnp.concatenate(linear, axis=1), constant)

    def log_prob(self, rows: Rows, prepared: Natural) -> Float[Array, "k n"]:
        """``sum_j eta . T(x_j) - A + h(x_j)`` over the observed cells."""
        scores = contract(prepared.linear, _stacked(self.features(rows), rows))
        scores = scores + per_row(prepared.constant, rows)
        base_measure = self.log_base(rows)
        return scores if base_measure is None else scores + row_sums(base_measure, rows)

    def statistics(
        self, rows: Rows, responsibilities: Float[Array, "k n"], prepared: Natural | None
    ) -> Sums:
        """``r @ T`` and the counts of observed cells."""
        del prepared
        features = self.features(rows)
        k, d = len(responsibilities), rows.values.shape[1]
        totals = responsibilities @ _stacked(features, rows)
        return Sums(cell_counts(rows, responsibilities), totals.reshape(k, len(features), d))

    def expected_log_prob(self, statistics: Sums) -> Float[Array, " k"]:
        """``sum_i r_ik log p(x_i | k)`` at these parameters, less the base measure."""
        linear, constant = self.natural()
        inner = (jnp.stack(linear, axis=1) * statistics.totals).sum((1, 2))
        return inner + (constant * statistics.count).sum(1)


def contract(natural: Float[Array, "k f"], features: Float[Array, "n f"]) -> Float[Array, "k n"]:
    """``eta T^T`` without a transposed copy."""
    return jax.lax.dot_general(natural, features, (((1,), (1,)), ((), ())))


def per_row(constant: Float[Array, "k d"], rows: Rows) -> Float[Array, "k #n"]:
    """The sum of a per-cell constant over the observed cells of each row."""
    if rows.observed is None:
        return constant.sum(1, keepdims=True)
    return contract(constant, rows.observed.astype(constant.dtype))


def row_sums(cells: Float[Array, "n d"], rows: Rows) -> Float[Array, " n"]:
    """The sum over the observed cells of each row."""
    return masked(cells, rows).sum(1)


def masked(cells: Float[Array, "... n d"], rows: Rows) -> Float[Array, "... n d"]:
    """The cells, 0 where missing."""
    return cells if rows.observed is None else jnp.where(rows.observed, cells, 0.0)


def cell_counts(rows: Rows, responsibilities: Float[Array, "k n"]) -> Float[Array, "k d"]:
    """Responsibilities summed over the rows in which each column is observed."""
    shape = (len(responsibilities), rows.values.shape[1])
    if rows.observed is None or rows.observed.shape[0] == 1:
        total = jnp.broadcast_to(responsibilities.sum(1, keepdims=True), shape)
        return total if rows.observed is None else jnp.where(rows.observed, total, 0.0)
    return responsibilities @ rows.observed.astype(responsibilities.dtype)


def inside(rows: Rows) -> Bool[Array, "n d"]:
    """Cells to be read: observed, and not the zeros that pad a block of positive numbers."""
    padding = (rows.weight == 0)[:, None] & (rows.values <= 0)
    return ~padding if rows.observed is None else rows.observed & ~padding


def log_cells(rows: Rows) -> Float[Array, "n d"]:
    """``log x``, 0 in missing cells and padding."""
    return jnp.log(jnp.where(inside(rows), rows.values, 1.0))


def log_factorial(values: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """``log x!``: a table for small counts (five times faster than lgamma), else lgamma."""
    table = jnp.asarray([math.lgamma(x + 1.0) for x in range(_TABLED)], values.dtype)
    small = table[jnp.clip(values, 0, _TABLED - 1).astype(jnp.int32)]

    def large(_: None) -> Array:
        return jnp.where(values < _TABLED, small, jax.scipy.special.gammaln(values + 1.0))

    return jax.lax.cond(jnp.any(values >= _TABLED), large, lambda _: small, None)


def replaced(component: _Component, **leaves: Any) -> _Component:
    """A copy with the named fields set."""
    return eqx.tree_at(
        lambda c: [getattr(c, name) for name in leaves],
        component,
        list(leaves.values()),
        is_leaf=lambda node: node is None,
    )


def keep_unsupported(
    count: Float[Array, "k d"], old: Array | None, new: Float[Array, "k d"], prior: Any = None
) -> Float[Array, "k d"]:
    """``old`` where no observed cell (and no prior) speaks for a parameter."""
    if old is None or conjugate(prior) is not None:
        return new
    return jnp.where(count > 10 * jnp.finfo(count.dtype).tiny, new, old)


def finished(component: _Component, closed: _Component, statistics: Any, fixed: Any) -> _Component:
    """The closed M-step, or where the prior is any density, uphill from it."""
    if isinstance(getattr(component, "prior", None), LogDensity):
        return autodiff.with_prior(component, closed, statistics, fixed)
    return closed


def conjugate(prior: Any) -> Any:
    """The prior where the closed M-step takes it in; None for any other density."""
    return None if isinstance(prior, LogDensity) else prior


def log_prior(component: Any, value: Array | None) -> Float[Array, ""]:
    """Log density of a component's prior at a parameter, up to a constant; 0 without one."""
    if component.prior is None:
        return jnp.zeros((), jax.tree.leaves(component)[0].dtype)
    if isinstance(component.prior, LogDensity):
        return component.prior.log_density(component)
    return component.prior.log_density(value)


def least_probability(dtype: Any) -> float:
    """The floor of probabilities: 1e-10, or the type's epsilon where that is larger."""
    return max(LEAST, float(jnp.finfo(dtype).eps))


def scale_only(summary: Summary) -> Affine:
    """Every column divided by its mean: for numbers above zero."""
    mean = np.where(summary.mean > 0, summary.mean, 1.0)
    return Affine(np.zeros_like(mean), mean)


def standardised(points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Columns of mean 0 and variance 1; constant ones 0."""
    spread = points.std(0)
    return (points - points.mean(0)) / np.where(spread > 0, spread, 1.0)


def reject_counts(values: np.ndarray, names: tuple[str, ...], must: str) -> None:
    """Raise for the first cell that is negative or not a whole number."""
    bad = ((values < 0) | (values != np.round(values))) & ~np.isnan(values)
    base.reject_cells(bad, values, names, must)


def _stacked(features: tuple[Array, ...], rows: Rows) -> Float[Array, "n fd"]:
    return jnp.concatenate([masked(feature, rows) for feature in features], axis=1)
