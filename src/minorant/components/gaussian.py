"""The Gaussian component: ``p(x | k) = N(x; mean_k, covariance_k)``, any covariance structure.

M-step (McLachlan & Peel, 2000, "Finite mixture models", section 3.2): weighted means and
covariances, the covariance about the mean that is held when the mean is fixed, floored so that
the likelihood stays bounded.
"""

from __future__ import annotations

from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant import _factors, _linalg
from minorant._parameters import constant, given, keep, parameter, real
from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components import autodiff, base
from minorant.components.covariance import AbstractCovariance, Moments, digits_lost
from minorant.components.matrix_covariance import Full, PreparedMatrix, Tied, completed
from minorant.components.priors import InverseWishart, LogDensity
from minorant.components.scalar_covariance import Spherical

RELATIVE_FLOOR = 1e-6


class Gaussian(base.AbstractComponent):
    r"""k multivariate normal densities.

    .. math:: \log N(x; m, S) = -\tfrac12 [ d \log 2\pi + \log|S| + (x-m)^T S^{-1} (x-m) ]

    Args:
        structure: ``Full()``, ``Tied()``, ``Diagonal()`` or ``Spherical()``.
        mean: (k, d), in the data's units; None to be learned from scratch.
        covariance: in the structure's shape, squared units; None to be learned.
        floor: (d,) or a number: the covariance stays above ``diag(floor)`` in the positive
            semi-definite order, in squared units. None: 1e-6 of each column's variance (1.2e-5
            in float32, which resolves no less).
        prior: an :class:`InverseWishart` on the covariances, any :class:`LogDensity`, or None
            (maximum likelihood).

    Example:
        >>> from minorant.components import Diagonal, Gaussian
        >>> Gaussian(Diagonal()).structure
        Diagonal()

    Not for: counts, categories, heavy tails (see ``StudentT``).
    """

    structure: AbstractCovariance = Full()
    mean: Float[Array, "k d"] | None = real(default=None)
    covariance: Array | None = parameter(lambda self: self.structure.constraint(), default=None)
    floor: Array | None = constant(default=None)
    prior: InverseWishart | LogDensity | None = constant(default=None)

    @property
    def spread(self) -> Array | None:
        """What the structure stores: the covariances."""
        return self.covariance

    def prepare(self) -> PyTree:
        """Factors and natural parameters."""
        return self.structure.prepare(given(self.mean), given(self.covariance))

    def log_prob(self, rows: Rows, prepared: PyTree) -> Float[Array, "k n"]:
        """``log N(x_observed; m_k, S_k)``, missing cells integrated out."""
        square, log_determinant = self.structure.distances(rows, prepared)
        return -0.5 * (square + (log_determinant + observed_count(rows) * _linalg.LOG_TWO_PI))

    def statistics(self, rows: Rows, responsibilities: Array, prepared: PyTree) -> Moments:
        """Weighted moments of the (completed) rows."""
        return self.structure.moments(rows, responsibilities, responsibilities, prepared)

    def maximise(self, statistics: Moments, fixed: PyTree | None) -> Self:
        """Means and covariances that maximise the expected log density plus log prior."""
        mean, covariance = location_and_spread(self, statistics, fixed)
        closed = eqx.tree_at(
            lambda c: (c.mean, c.covariance), self, (mean, covariance), is_leaf=_is_none
        )
        if not isinstance(self.prior, LogDensity):
            return closed
        return climbed_with_prior(self, closed, about_origin(self, statistics), fixed)

    def expected_log_prob(self, statistics: Moments) -> Float[Array, " k"]:
        """``-(sum r (d log 2 pi + log |S|) + tr(S^-1 scatter)) / 2``."""
        mean = given(self.mean)
        offset = mean - self.structure.centre(mean, mean)
        return -0.5 * self.structure.deviance(statistics, offset, given(self.covariance))

    def log_prior(self) -> Float[Array, ""]:
        """The log density of the prior, up to a constant."""
        return spread_log_prior(self)

    def sample(self, key: Key, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """``m_z + L_z e``."""
        mean = given(self.mean)
        factor = _factors.cholesky(self.structure.matrices(given(self.covariance), *mean.shape))
        noise = jax.random.normal(key, (len(labels), mean.shape[1]), dtype=factor.dtype)
        return mean[labels] + jnp.einsum("nij,nj->ni", factor[labels], noise)

    def conditional_mean(self, rows: Rows, prepared: PyTree) -> Float[Array, "k n d"]:
        """``m + S_mo S_oo^-1 (x_o - m_o)`` in the missing cells."""
        return completed_matrix(self, rows)[0]

    def conditional_sample(
        self, key: Key, rows: Rows, labels: Int[Array, " n"], prepared: PyTree
    ) -> Float[Array, "n d"]:
        """A draw from the conditional normal of the missing cells."""
        if rows.observed is None:
            return rows.values
        filled, spread = completed_matrix(self, rows)
        chosen = base.take_labelled(filled, labels)
        matrices = jnp.broadcast_to(spread, (*filled.shape, filled.shape[-1]))
        own = jnp.take_along_axis(matrices, labels[None, :, None, None], axis=0)[0]
        noise = draw_from(key, own)
        return chosen + jnp.where(rows.observed, 0.0, noise)

    def configured(self, summary: Summary, n_components: int) -> Self:
        """With floor and prior filled in, in the data's units."""
        return configure_spread(self, summary, n_components)

    def standardiser(self, summary: Summary) -> Affine:
        """Zero mean and unit variance, with one common scale where the structure is spherical."""
        return location_scale(summary, common=isinstance(self.structure, Spherical))

    def rescaled(self, units: Affine) -> Self:
        """Means, covariances, floor and prior in other units."""
        return rescale_spread(self, units)

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """The rows themselves: they come standardised."""
        return values

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Any finite number is in the support."""

    def collapsed(self) -> np.ndarray:
        """How many directions of each component lie on the floor."""
        return floor_directions(self)

    def projected(self) -> Self:
        """With the covariances raised to the floor."""
        covariance = self.structure.floored(given(self.covariance), given(self.floor))
        return eqx.tree_at(lambda c: c.covariance, self, covariance)

    def rounding(self, prepared: PyTree) -> Array | float:
        """The largest condition number of a covariance, bounded by its diagonal and inverse's."""
        return self.structure.rounding(prepared)

    def shares_patterns(self) -> bool:
        """Matrix structures factor once for each pattern of missing cells."""
        return isinstance(self.structure, Full | Tied)

    def stabilised(self, spread: float) -> Self:
        """With means subtracted first, where the product form would lose too many digits."""
        return stabilise(self, spread)


def observed_count(rows: Rows) -> Array | int:
    """Observed cells of each row: ``d``, or (1, n)."""
    if rows.observed is None:
        return rows.values.shape[1]
    return rows.observed.sum(1).astype(rows.values.dtype)[None]


def location_and_spread(component: Any, moments: Moments, fixed: Any) -> tuple[Array, Array]:
    """The M-step that every Gaussian-like component shares."""
    structure, tiny = component.structure, 10 * jnp.finfo(moments.first.dtype).tiny
    centre = structure.centre(component.mean, moments.first)
    count = jnp.max(moments.count, axis=1)
    mean = centre + moments.first / jnp.maximum(moments.mass, tiny)
    mean = base.keep_if_empty(count, component.mean, mean)
    mean = keep(base.of(fixed, "mean"), component.mean, mean)
    pseudo = None if component.prior is None else component.prior.pseudo()
    covariance = structure.estimate(moments, mean - centre, pseudo)
    covariance = structure.floored(covariance, component.floor)
    if covariance.shape[:1] == count.shape and not isinstance(structure, Tied) and pseudo is None:
        covariance = base.keep_if_empty(count, component.spread, covariance)
    return mean, keep(base.of(fixed, "spread"), component.spread, covariance)


def climbed_with_prior(component: Any, closed: Any, statistics: PyTree, fixed: Any) -> Any:
    """The M-step under any prior; ``statistics`` about the origin, which serve every mean."""
    structure = component.structure
    product_form = type(structure)()
    plain = _restructured(component, product_form)
    found = autodiff.with_prior(plain, _restructured(closed, product_form), statistics, fixed)
    return _restructured(found, structure)


def about_origin(component: Any, moments: Moments) -> Moments:
    """Moments gathered about the component's centre as moments about 0."""
    structure = component.structure
    return structure.about_origin(moments, structure.centre(component.mean, moments.first))


def _restructured(component: Any, structure: AbstractCovariance) -> Any:
    return eqx.tree_at(lambda c: c.structure, component, structure, is_leaf=_is_structure)


def spread_log_prior(component: Any) -> Float[Array, ""]:
    """Log prior of the covariance of a Gaussian-like component."""
    if component.prior is None:
        return jnp.zeros((), component.mean.dtype)
    if isinstance(component.prior, LogDensity):
        return component.prior.log_density(component)
    k, d = component.mean.shape
    structure = component.structure
    matrices = structure.matrices(component.spread, k, d)
    if isinstance(structure, Tied):
        matrices = matrices[:1]
    diagonal = not isinstance(structure, Full | Tied)
    return component.prior.log_density(matrices, diagonal)


def completed_matrix(component: Any, rows: Rows) -> tuple[Array, Array]:
    """``x_hat`` (k, n, d) and C of a block for any structure, through full matrices."""
    k, d = component.mean.shape
    if rows.observed is None:
        zero = jnp.zeros((k, 1, d, d), rows.values.dtype)
        return jnp.broadcast_to(rows.values, (k, *rows.values.shape)), zero
    matrices = component.structure.matrices(component.spread, k, d)
    nothing = jnp.zeros((k, 1), rows.values.dtype)
    prepared = PreparedMatrix(
        component.mean, matrices, nothing[:, 0], matrices, nothing, nothing, nothing[:, 0]
    )
    return completed(rows, prepared)


def draw_from(key: Key, covariance: Float[Array, "n d d"]) -> Float[Array, "n d"]:
    """Normal draws with positive semi-definite covariances (zero rows allowed)."""
    values, vectors = jnp.linalg.eigh(covariance)
    noise = jax.random.normal(key, values.shape, dtype=values.dtype)
    return jnp.einsum("nij,nj->ni", vectors, jnp.sqrt(jnp.maximum(values, 0.0)) * noise)


def configure_spread(component: Any, summary: Summary, n_components: int) -> Any:
    """Floor and prior of a Gaussian-like component, from the data's columns."""
    floor = component.floor
    if floor is None:
        floor = relative_floor(summary) * reference_variance(summary)
    floor = np.broadcast_to(np.asarray(floor, dtype=float), (summary.n_columns,)).copy()
    prior = component.prior
    if prior is not None:
        prior = prior.configured(summary, n_components)
    return eqx.tree_at(lambda c: (c.floor, c.prior), component, (floor, prior), is_leaf=_is_none)


def relative_floor(summary: Summary) -> float:
    """1e-6, or what the precision resolves: a hundred times its epsilon (1.2e-5 in float32)."""
    return max(RELATIVE_FLOOR, 100.0 * summary.eps)


def reference_variance(summary: Summary) -> Float[np.ndarray, " d"]:
    """Each column's variance; for a constant column the square of its value, or 1."""
    constant_scale = np.where(summary.mean != 0, summary.mean**2, 1.0)
    return np.where(summary.variance > 0, summary.variance, constant_scale)


def location_scale(summary: Summary, common: bool) -> Affine:
    """Zero mean and unit variance column by column, or with one common scale."""
    scale = np.sqrt(reference_variance(summary))
    if common:
        varying = summary.variance > 0
        chosen = scale[varying] if varying.any() else scale
        scale = np.full_like(scale, np.exp(np.log(chosen).mean()))
    return Affine(summary.mean, scale)


def rescale_spread(component: Any, units: Affine) -> Any:
    """Mean, covariance, floor and prior of a Gaussian-like component in other units."""
    mean, covariance = component.mean, component.spread
    prior = None if component.prior is None else component.prior.rescaled(units)
    floor = None if component.floor is None else component.floor / units.scale**2
    new = (
        None if mean is None else units.apply(mean),
        None if covariance is None else component.structure.rescaled(covariance, units),
        floor,
        prior,
    )
    return eqx.tree_at(
        lambda c: (c.mean, c.spread, c.floor, c.prior), component, new, is_leaf=_is_none
    )


def floor_directions(component: Any) -> Float[np.ndarray, " k"]:
    """How many eigenvalues of each component lie within 1% of the floor."""
    k, d = np.shape(component.mean)
    covariance = np.asarray(component.spread, dtype=float)
    matrices = np.asarray(_matrices(component.structure, covariance, k, d))
    root = np.sqrt(np.asarray(component.floor, dtype=float))
    unit = matrices / (root[:, None] * root)
    if _linalg.above(unit, 1.01):
        return np.zeros(k)
    return (np.linalg.eigvalsh(unit) < 1.01).sum(1).astype(float)


def stabilise(component: Any, spread: float) -> Any:
    """Switch to the centred form where products would cost more than the precision allows."""
    k, d = np.shape(component.mean)
    covariance = np.asarray(component.spread)
    matrices = np.asarray(_matrices(component.structure, covariance, k, d), dtype=float)
    eps = float(np.finfo(covariance.dtype).eps)
    lost = digits_lost(np.linalg.inv(matrices), spread, eps)
    allowed = 1e-3 if covariance.dtype == np.float32 else 1e-7
    centred = component.structure.centred or bool(lost > allowed)
    structure = type(component.structure)(centred=centred)
    return _restructured(component, structure)


def _matrices(structure: AbstractCovariance, covariance: np.ndarray, k: int, d: int) -> np.ndarray:
    if isinstance(structure, Tied):
        return np.broadcast_to(covariance, (k, d, d))
    return np.asarray(structure.matrices(covariance, k, d))


def _is_none(node: Any) -> bool:
    return node is None


def _is_structure(node: Any) -> bool:
    return isinstance(node, AbstractCovariance)
