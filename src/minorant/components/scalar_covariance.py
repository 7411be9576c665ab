"""Diagonal and spherical covariances: columns independent given the component.

Missing cells drop out of every sum: scores are ``x^2 . q + x . h + o . c`` with ``o`` the mask of
observed cells, moments are counted cell by cell.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from minorant import _linalg
from minorant._parameters import Positive
from minorant._types import Affine, Array, Rows
from minorant.components.covariance import AbstractCovariance, Moments, Pseudo


class PreparedScalar(eqx.Module):
    """One pass's view of k means and variances (k, d)."""

    mean: Float[Array, "k d"]
    variance: Float[Array, "k d"]


class Diagonal(AbstractCovariance):
    """Columns independent given the component: ``covariance`` (k, d) holds variances."""

    centred: bool = eqx.field(static=True, default=False)

    def constraint(self) -> Any:
        """Positive."""
        return Positive()

    def prepare(self, mean: Array, covariance: Array) -> PreparedScalar:
        """Means and variances, cell by cell."""
        return PreparedScalar(mean, covariance)

    def distances(self, rows: Rows, prepared: PreparedScalar) -> tuple[Array, Array]:
        """Squared standardised distances and log-determinants of the observed cells."""
        return scalar_distances(rows, prepared, self.centred)

    def moments(
        self, rows: Rows, count: Array, mass: Array, prepared: PreparedScalar | None
    ) -> Moments:
        """Moments with everything cell by cell (k, d)."""
        return scalar_moments(rows, count, mass, prepared, self.centred)

    def estimate(self, moments: Moments, offset: Array, pseudo: Pseudo | None) -> Array:
        """Variance of every column about ``centre + offset``."""
        scatter, count = scalar_scatter(moments, offset), moments.count
        if pseudo is not None:
            scatter, count = scatter + jnp.diagonal(pseudo.scale), count + pseudo.extra
        return scatter / jnp.maximum(count, 10 * jnp.finfo(scatter.dtype).tiny)

    def deviance(self, moments: Moments, offset: Array, covariance: Array) -> Array:
        """Cell by cell."""
        return scalar_deviance(moments, offset, covariance)

    def about_origin(self, moments: Moments, centre: Array) -> Moments:
        """Sums of squares shifted, column by column."""
        return scalar_about_origin(moments, centre)

    def floored(self, covariance: Array, floor: Array) -> Array:
        """Variances raised to the floor."""
        xp = np if isinstance(covariance, np.ndarray) else jnp
        return xp.maximum(covariance, floor)

    def matrices(self, covariance: Array, k: int, d: int) -> Array:
        """Diagonal matrices."""
        return covariance[:, :, None] * np.eye(d)

    def rescaled(self, covariance: Array, units: Affine) -> Array:
        """Variances divided by squared scales."""
        return covariance / units.scale**2

    def rounding(self, prepared: PreparedScalar) -> Array | float:
        """``max_k tr(S_k^-1) d`` where products cancel; 1 when centred."""
        return scalar_rounding(prepared, self.centred)

    def stored(self, matrices: Array) -> Array:
        """The diagonals."""
        return np.diagonal(matrices, axis1=1, axis2=2)


class Spherical(AbstractCovariance):
    """One variance for all columns of a component: ``covariance`` (k,)."""

    centred: bool = eqx.field(static=True, default=False)

    def constraint(self) -> Any:
        """Positive."""
        return Positive()

    def prepare(self, mean: Array, covariance: Array) -> PreparedScalar:
        """Means and variances, cell by cell."""
        return PreparedScalar(mean, jnp.broadcast_to(covariance[:, None], mean.shape))

    def distances(self, rows: Rows, prepared: PreparedScalar) -> tuple[Array, Array]:
        """Squared standardised distances and log-determinants of the observed cells."""
        return scalar_distances(rows, prepared, self.centred)

    def moments(
        self, rows: Rows, count: Array, mass: Array, prepared: PreparedScalar | None
    ) -> Moments:
        """Moments with everything cell by cell (k, d)."""
        return scalar_moments(rows, count, mass, prepared, self.centred)

    def estimate(self, moments: Moments, offset: Array, pseudo: Pseudo | None) -> Array:
        """The pooled variance of all columns of a component."""
        scatter, count = scalar_scatter(moments, offset), moments.count
        if pseudo is not None:
            scatter, count = scatter + jnp.diagonal(pseudo.scale), count + pseudo.extra
        cells = jnp.broadcast_to(count, scatter.shape).sum(1)
        return scatter.sum(1) / jnp.maximum(cells, 10 * jnp.finfo(scatter.dtype).tiny)

    def deviance(self, moments: Moments, offset: Array, covariance: Array) -> Array:
        """Cell by cell."""
        return scalar_deviance(moments, offset, jnp.broadcast_to(covariance[:, None], offset.shape))

    def about_origin(self, moments: Moments, centre: Array) -> Moments:
        """Sums of squares shifted, column by column."""
        return scalar_about_origin(moments, centre)

    def floored(self, covariance: Array, floor: Array) -> Array:
        """Variances raised to the largest floor of any column."""
        xp = np if isinstance(covariance, np.ndarray) else jnp
        return xp.maximum(covariance, floor.max())

    def matrices(self, covariance: Array, k: int, d: int) -> Array:
        """Multiples of the identity."""
        return covariance[:, None, None] * np.eye(d)

    def rescaled(self, covariance: Array, units: Affine) -> Array:
        """Variances divided by the squared common scale."""
        return covariance / units.scale[0] ** 2

    def rounding(self, prepared: PreparedScalar) -> Array | float:
        """``max_k tr(S_k^-1) d`` where products cancel; 1 when centred."""
        return scalar_rounding(prepared, self.centred)

    def stored(self, matrices: Array) -> Array:
        """The mean of each diagonal."""
        return np.diagonal(matrices, axis1=1, axis2=2).mean(1)


def scalar_distances(rows: Rows, prepared: PreparedScalar, centred: bool) -> tuple[Array, Array]:
    """Squared distances (k, n) and log-determinants (k, n or 1) for independent columns."""
    log_variance = jnp.log(prepared.variance)
    if rows.observed is None:
        log_determinant = log_variance.sum(1, keepdims=True)
    else:
        log_determinant = log_variance @ _mask(rows.observed, rows.values).T
    if centred:
        return _centred_distances(rows, prepared), log_determinant
    precision = 1.0 / prepared.variance
    linear, constant = precision * prepared.mean, precision * prepared.mean**2
    square = precision @ (rows.values * rows.values).T - 2.0 * (linear @ rows.values.T)
    if rows.observed is None:
        return jnp.maximum(square + constant.sum(1, keepdims=True), 0.0), log_determinant
    return jnp.maximum(
        square + constant @ _mask(rows.observed, rows.values).T, 0.0
    ), log_determinant


def scalar_rounding(prepared: PreparedScalar, centred: bool) -> Array | float:
    """How much the product form amplifies rounding: d is a standardised row's square length."""
    if centred:
        return 1.0
    return (1.0 / prepared.variance).sum(1).max() * prepared.mean.shape[1]


def scalar_moments(
    rows: Rows, count: Array, mass: Array, prepared: PreparedScalar | None, centred: bool
) -> Moments:
    """Moments cell by cell (k, d); missing cells add nothing."""
    shape = (count.shape[0], rows.values.shape[1])
    if rows.observed is None:
        counts, masses = (jnp.broadcast_to(w.sum(1, keepdims=True), shape) for w in (count, mass))
    else:
        mask = _mask(rows.observed, rows.values)
        counts, masses = count @ mask, mass @ mask
    if centred and prepared is not None:
        away = _away(rows, prepared.mean)
        weighted = mass[:, :, None] * away
        return Moments(counts, masses, weighted.sum(1), (weighted * away).sum(1))
    return Moments(counts, masses, mass @ rows.values, mass @ (rows.values * rows.values))


def scalar_scatter(moments: Moments, offset: Array) -> Float[Array, "k d"]:
    """Sums of squares about ``centre + offset``."""
    return moments.second - 2.0 * moments.first * offset + moments.mass * offset**2


def scalar_deviance(moments: Moments, offset: Array, variance: Array) -> Float[Array, " k"]:
    """``sum_j n_j log(2 pi v_j) + scatter_j / v_j`` with ``n_j`` the observed cells."""
    log_variance = jnp.log(variance) + _linalg.LOG_TWO_PI
    return (moments.count * log_variance + scalar_scatter(moments, offset) / variance).sum(1)


def scalar_about_origin(moments: Moments, centre: Array) -> Moments:
    """First and second moments about 0."""
    return moments._replace(
        first=moments.first + moments.mass * centre, second=scalar_scatter(moments, -centre)
    )


def _centred_distances(rows: Rows, prepared: PreparedScalar) -> Array:
    away = _away(rows, prepared.mean)
    return (away * away / prepared.variance[:, None, :]).sum(2)


def _away(rows: Rows, mean: Array) -> Float[Array, "k n d"]:
    away = rows.values[None] - mean[:, None, :]
    return away if rows.observed is None else jnp.where(rows.observed, away, 0.0)


def _mask(observed: Bool[Array, "#n d"], values: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return jnp.broadcast_to(observed, values.shape).astype(values.dtype)
