"""Full and tied covariance matrices: scores and moments of blocks, with missing cells.

Complete rows in product form: ``(x - m)^T P (x - m) = vech(xx^T) . q + x . h + c`` with
``h = -2 P m``. Rows that miss cells: for a pattern with mask M (1 where observed) the matrix
``A = M S M + (I - M)`` has the observed block's determinant and inverse, so one shape serves all
patterns; ``x_hat = m + S M A^-1 M (x - m)`` completes a row and
``C = S - S M A^-1 M S`` is the covariance of what is missing (Little & Rubin, 2019, "Statistical
analysis with missing data", 3rd ed., section 11.2).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from minorant import _factors, _linalg
from minorant._parameters import PositiveDefinite, given
from minorant._types import Affine, Array, Rows
from minorant.components import missing_set
from minorant.components.covariance import AbstractCovariance, Moments, Pseudo


class PreparedMatrix(eqx.Module):
    """One pass's view of k means and matrices."""

    mean: Float[Array, "k d"]
    covariance: Float[Array, "k d d"]
    log_determinant: Float[Array, " k"]
    whitener: Float[Array, "k d d"]
    linear: Float[Array, "k d"]
    quadratic: Float[Array, "k v"]
    constant: Float[Array, " k"]


class Full(AbstractCovariance):
    """Every component has its own covariance matrix: ``covariance`` (k, d, d)."""

    centred: bool = eqx.field(static=True, default=False)

    def constraint(self) -> Any:
        """Positive definite."""
        return PositiveDefinite()

    def prepare(self, mean: Array, covariance: Array) -> PreparedMatrix:
        """Cholesky factors once, natural parameters from them."""
        return prepared_matrix(mean, covariance)

    def distances(self, rows: Rows, prepared: PreparedMatrix) -> tuple[Array, Array]:
        """Squared Mahalanobis distances and log-determinants of the observed cells."""
        return matrix_distances(rows, prepared, self.centred)

    def moments(
        self, rows: Rows, count: Array, mass: Array, prepared: PreparedMatrix | None
    ) -> Moments:
        """Moments with ``second`` packed as the upper triangle (k, v)."""
        return matrix_moments(rows, count, mass, prepared, self.centred)

    def estimate(self, moments: Moments, offset: Array, pseudo: Pseudo | None) -> Array:
        """``(second - correction + scale) / (count + extra)`` per component."""
        scatter = matrix_scatter(moments, offset)
        return shrunk(scatter, moments.count[..., None], pseudo)

    def deviance(self, moments: Moments, offset: Array, covariance: Array) -> Array:
        """``n log |2 pi S| + tr(S^-1 scatter)`` per component."""
        return matrix_deviance(moments.count[:, 0], matrix_scatter(moments, offset), covariance)

    def about_origin(self, moments: Moments, centre: Array) -> Moments:
        """Scatter shifted, per component."""
        second = _linalg.vech(matrix_scatter(moments, -centre))
        return moments._replace(first=moments.first + moments.mass * centre, second=second)

    def floored(self, covariance: Array, floor: Array) -> Array:
        """Eigenvalues raised to the floor."""
        return _linalg.floored(covariance, floor)

    def matrices(self, covariance: Array, k: int, d: int) -> Array:
        """As they are."""
        return covariance

    def rescaled(self, covariance: Array, units: Affine) -> Array:
        """``D^-1 S D^-1`` with D the scales."""
        return covariance / (units.scale[:, None] * units.scale)

    def rounding(self, prepared: PreparedMatrix) -> Array:
        """``max_k tr(S_k^-1) (tr(S_k) + d)``; see :func:`matrix_rounding`."""
        return matrix_rounding(prepared, self.centred)

    def stored(self, matrices: Array) -> Array:
        """As they are."""
        return matrices


class Tied(AbstractCovariance):
    """All components share one covariance matrix: ``covariance`` (d, d)."""

    centred: bool = eqx.field(static=True, default=False)

    def constraint(self) -> Any:
        """Positive definite."""
        return PositiveDefinite()

    def prepare(self, mean: Array, covariance: Array) -> PreparedMatrix:
        """As for full matrices, with one factor for all components."""
        return prepared_matrix(mean, jnp.broadcast_to(covariance, (*mean.shape, mean.shape[1])))

    def distances(self, rows: Rows, prepared: PreparedMatrix) -> tuple[Array, Array]:
        """Squared Mahalanobis distances; complete rows need one whitening for all components."""
        if rows.observed is not None or self.centred:
            return matrix_distances(rows, prepared, self.centred)
        white = rows.values @ prepared.whitener[0].T
        means = jnp.einsum("dc,kc->kd", prepared.whitener[0], prepared.mean)
        square = (white * white).sum(1) - 2.0 * (means @ white.T) + (means * means).sum(1)[:, None]
        return jnp.maximum(square, 0.0), prepared.log_determinant[:, None]

    def moments(
        self, rows: Rows, count: Array, mass: Array, prepared: PreparedMatrix | None
    ) -> Moments:
        """Moments with ``second`` summed over components, packed (1, v)."""
        if rows.observed is None and not self.centred:
            return _tied_complete(rows, count, mass)
        moments = matrix_moments(rows, count, mass, prepared, self.centred)
        return moments._replace(second=moments.second.sum(0, keepdims=True))

    def estimate(self, moments: Moments, offset: Array, pseudo: Pseudo | None) -> Array:
        """The pooled covariance."""
        return shrunk(self._scatter(moments, offset), moments.count.sum(), pseudo)

    def deviance(self, moments: Moments, offset: Array, covariance: Array) -> Array:
        """``n log |2 pi S| + tr(S^-1 scatter)``, the pooled scatter split evenly."""
        k, d = offset.shape
        matrices = jnp.broadcast_to(covariance, (k, d, d))
        scatter = jnp.broadcast_to(self._scatter(moments, offset) / k, (k, d, d))
        return matrix_deviance(moments.count[:, 0], scatter, matrices)

    def about_origin(self, moments: Moments, centre: Array) -> Moments:
        """The pooled scatter shifted."""
        second = _linalg.vech(self._scatter(moments, -centre))[None]
        return moments._replace(first=moments.first + moments.mass * centre, second=second)

    def _scatter(self, moments: Moments, offset: Array) -> Float[Array, "d d"]:
        """The pooled scatter about ``centre + offset``."""
        crossed = jnp.einsum("ki,kj->ij", moments.first, offset)
        shift = jnp.einsum("k,ki,kj->ij", moments.mass[:, 0], offset, offset)
        return _linalg.unvech(moments.second, offset.shape[1])[0] - crossed - crossed.T + shift

    def floored(self, covariance: Array, floor: Array) -> Array:
        """Eigenvalues raised to the floor."""
        return _linalg.floored(covariance, floor)

    def matrices(self, covariance: Array, k: int, d: int) -> Array:
        """One copy for each component."""
        return jnp.broadcast_to(covariance, (k, d, d))

    def rescaled(self, covariance: Array, units: Affine) -> Array:
        """``D^-1 S D^-1`` with D the scales."""
        return covariance / (units.scale[:, None] * units.scale)

    def rounding(self, prepared: PreparedMatrix) -> Array:
        """``max_k tr(S_k^-1) (tr(S_k) + d)``; see :func:`matrix_rounding`."""
        return matrix_rounding(prepared, self.centred)

    def stored(self, matrices: Array) -> Array:
        """The first: all are equal."""
        return matrices[0]


def prepared_matrix(mean: Array, covariance: Array) -> PreparedMatrix:
    """Whiteners ``W`` with ``W^T W = S^-1`` and the natural parameters of the squared distance."""
    factor, whitener = _factors.factored(jnp.asarray(covariance))
    precision = jnp.swapaxes(whitener, -1, -2) @ whitener
    linear = jnp.einsum("kij,kj->ki", precision, mean)
    twice = jnp.asarray(2.0 - np.eye(mean.shape[1]), dtype=mean.dtype)
    return PreparedMatrix(
        mean=mean,
        covariance=covariance,
        log_determinant=_linalg.log_determinant_from_cholesky(factor),
        whitener=whitener,
        linear=-2.0 * linear,
        quadratic=_linalg.vech(precision * twice),
        constant=jnp.einsum("ki,ki->k", linear, mean),
    )


def matrix_rounding(prepared: PreparedMatrix, centred: bool) -> Array:
    """The largest ``tr(S^-1) (tr(S) + d)``, without ``+ d`` when centred.

    ``tr(S) tr(S^-1)`` bounds the condition number; d is the square length of a standardised row,
    whose products cancel in the form that is not centred.
    """
    spread = jnp.trace(prepared.covariance, axis1=1, axis2=2)
    if not centred:
        spread = spread + prepared.mean.shape[1]
    return (spread * (prepared.whitener * prepared.whitener).sum((1, 2))).max()


def matrix_distances(rows: Rows, prepared: PreparedMatrix, centred: bool) -> tuple[Array, Array]:
    """Squared distances and log-determinants, by the form that the block asks for."""
    if rows.absent is not None:
        found = _missing_set(rows, prepared)
        return found.square, found.log_determinant
    if rows.observed is not None:
        return _distances_by_pattern(rows.values, rows.observed, prepared)
    if centred:
        return _centred_square(rows.values, prepared), prepared.log_determinant[:, None]
    natural = jnp.concatenate([prepared.linear, prepared.quadratic], axis=1)
    features = _linalg.quadratic_features(rows.values)
    square = _contract_features(natural, features) + prepared.constant[:, None]
    return jnp.maximum(square, 0.0), prepared.log_determinant[:, None]


def _centred_square(values: Array, prepared: PreparedMatrix) -> Float[Array, "k n"]:
    """``|W (x - m)|^2``; of one component as a product of rows, which needs no transposed copy."""
    if len(prepared.mean) > 1:
        white = whitened(values, prepared)
        return (white * white).sum(1)
    white = (values - prepared.mean[0]) @ prepared.whitener[0].T
    return (white * white).sum(1)[None]


def whitened(values: Array, prepared: PreparedMatrix) -> Float[Array, "k d n"]:
    """``W (x - m)`` for every component and row."""
    away = values.T[None] - prepared.mean[:, :, None]
    return jnp.einsum("kij,kjn->kin", prepared.whitener, away)


def matrix_moments(
    rows: Rows, count: Array, mass: Array, prepared: PreparedMatrix | None, centred: bool
) -> Moments:
    """Moments of a block; ``second`` packed as the upper triangle (k, v)."""
    if rows.observed is not None:
        return _moments_with_missing(rows, count, mass, given(prepared), centred)
    if centred and prepared is not None:
        return _centred_moments(rows.values, count, mass, prepared.mean)
    d = rows.values.shape[1]
    sums = mass @ _linalg.quadratic_features(rows.values)
    return Moments(_total(count), _total(mass), sums[:, :d], sums[:, d:])


def matrix_scatter(moments: Moments, offset: Array) -> Float[Array, "k d d"]:
    """Scatter about ``centre + offset`` from moments about the centre."""
    second = _linalg.unvech(moments.second, offset.shape[1])
    crossed = moments.first[:, :, None] * offset[:, None, :]
    shift = moments.mass[:, :, None] * offset[:, :, None] * offset[:, None, :]
    return second - crossed - jnp.swapaxes(crossed, 1, 2) + shift


def matrix_deviance(
    count: Float[Array, " k"], scatter: Float[Array, "k d d"], matrices: Float[Array, "k d d"]
) -> Float[Array, " k"]:
    """``n log |2 pi S| + tr(S^-1 scatter)``."""
    factor = _factors.cholesky(matrices)
    log_determinant = _linalg.log_determinant_from_cholesky(factor)
    trace = (_linalg.inverse_from_cholesky(factor) * scatter).sum((1, 2))
    return count * (log_determinant + scatter.shape[1] * _linalg.LOG_TWO_PI) + trace


def shrunk(scatter: Array, count: Array, pseudo: Pseudo | None) -> Array:
    """The covariance that maximises likelihood times inverse-Wishart prior."""
    if pseudo is not None:
        scatter, count = scatter + pseudo.scale, count + pseudo.extra
    return scatter / jnp.maximum(count, 10 * jnp.finfo(scatter.dtype).tiny)


def pattern_distances(
    values: Float[Array, "n d"], mask: Bool[Array, " d"], prepared: PreparedMatrix
) -> tuple[Array, Array]:
    """Distances and log-determinants of rows that share one pattern of observed cells."""
    factor, _ = _pattern_factor(mask, prepared.covariance)
    away = jnp.where(mask, values - prepared.mean[:, None, :], 0.0)
    white = _factors.solve_triangular(factor, jnp.swapaxes(away, 1, 2))
    return (white * white).sum(1), _linalg.log_determinant_from_cholesky(factor)[:, None]


def pattern_completion(
    values: Float[Array, "n d"], mask: Bool[Array, " d"], prepared: PreparedMatrix
) -> tuple[Float[Array, "k n d"], Float[Array, "k d d"]]:
    """Completed rows ``x_hat`` and the covariance C of what is missing, for one pattern."""
    factor, masked = _pattern_factor(mask, prepared.covariance)
    gain = _factors.cho_solve(factor, jnp.swapaxes(masked, 1, 2))
    away = jnp.where(mask, values - prepared.mean[:, None, :], 0.0)
    guess = prepared.mean[:, None, :] + away @ gain
    missing = ~mask[:, None] & ~mask
    spread = jnp.where(missing, prepared.covariance - masked @ gain, 0.0)
    return jnp.where(mask, values, guess), spread


def completed(rows: Rows, prepared: PreparedMatrix) -> tuple[Array, Array]:
    """``x_hat`` (k, n, d) and C (k, n or 1, d, d) of a block with missing cells."""
    assert rows.observed is not None
    if rows.observed.shape[0] == 1:
        filled, spread = pattern_completion(rows.values, rows.observed[0], prepared)
        return filled, spread[:, None]
    each = jax.vmap(lambda x, m: pattern_completion(x[None], m, prepared))
    filled, spread = each(rows.values, rows.observed)
    return jnp.swapaxes(filled[:, :, 0], 0, 1), jnp.swapaxes(spread, 0, 1)


def _pattern_factor(mask: Array, covariance: Array) -> tuple[Array, Array]:
    """Cholesky factor of ``M S M + (I - M)`` and ``S M``."""
    both = mask[:, None] & mask
    eye = jnp.eye(mask.shape[0], dtype=covariance.dtype)
    factor = _factors.cholesky(jnp.where(both, covariance, jnp.where(mask, 0.0, eye)))
    return factor, jnp.where(mask, covariance, 0.0)


def _distances_by_pattern(
    values: Array, observed: Array, prepared: PreparedMatrix
) -> tuple[Array, Array]:
    if observed.shape[0] == 1:
        return pattern_distances(values, observed[0], prepared)
    each = jax.vmap(lambda x, m: pattern_distances(x[None], m, prepared))
    square, log_determinant = each(values, observed)
    return square[:, :, 0].T, log_determinant[:, :, 0].T


def _moments_with_missing(
    rows: Rows, count: Array, mass: Array, prepared: PreparedMatrix, centred: bool
) -> Moments:
    if rows.absent is not None:
        found = _missing_set(rows, prepared)
        away = found.away if centred else found.away + prepared.mean[:, None, :]
        spread = missing_set.spread_sum(found, rows.absent, count, away.shape[-1])
    else:
        filled, each = completed(rows, prepared)
        away = filled - prepared.mean[:, None, :] if centred else filled
        spread = _spread_sum(count, each)
    weighted = mass[:, :, None] * away
    second = jnp.einsum("kni,knj->kij", weighted, away) + spread
    return Moments(_total(count), _total(mass), weighted.sum(1), _linalg.vech(second))


def _missing_set(rows: Rows, prepared: PreparedMatrix) -> missing_set.MissingSet:
    whitener = prepared.whitener
    precision = jnp.swapaxes(whitener, -1, -2) @ whitener
    return missing_set.solve(rows, prepared.mean, precision, prepared.log_determinant)


def _spread_sum(count: Array, spread: Array) -> Float[Array, "k d d"]:
    if spread.shape[1] == 1:
        return count.sum(1)[:, None, None] * spread[:, 0]
    return jnp.einsum("kn,knij->kij", count, spread)


def _centred_moments(values: Array, count: Array, mass: Array, mean: Array) -> Moments:
    if len(mean) == 1:
        return _moments_of_one(values - mean[0], count, mass)
    away = values[None] - mean[:, None, :]
    weighted = mass[:, :, None] * away
    second = jnp.einsum("kni,knj->kij", weighted, away)
    return Moments(_total(count), _total(mass), weighted.sum(1), _linalg.vech(second))


def _moments_of_one(away: Array, count: Array, mass: Array) -> Moments:
    """Moments of one component in one matrix product, with a column of ones beside the rows."""
    ones = jnp.ones((len(away), 1), away.dtype)
    rows = jnp.concatenate([away, ones], axis=1)
    sums = (mass[0][:, None] * rows).T @ rows
    first, second = sums[None, -1, :-1], _linalg.vech(sums[None, :-1, :-1])
    return Moments(_total(count), sums[-1:, -1:], first, second)


def _tied_complete(rows: Rows, count: Array, mass: Array) -> Moments:
    weighted = mass.sum(0)[:, None] * rows.values
    second = _linalg.vech(weighted.T @ rows.values)[None]
    return Moments(_total(count), _total(mass), mass @ rows.values, second)


def _contract_features(natural: Float[Array, "k f"], features: Float[Array, "n f"]) -> Array:
    return jax.lax.dot_general(natural, features, (((1,), (1,)), ((), ())))


def _total(weights: Float[Array, "k n"]) -> Float[Array, "k 1"]:
    return weights.sum(1, keepdims=True)
