r"""The Gaussian component with its mean and precision integrated out under a density q of them.

.. math:: q(\mu_k, \Lambda_k) = N(\mu_k; m_k, (\beta_k \Lambda_k)^{-1})\,
          W(\Lambda_k; V_k^{-1}, \nu_k)

What q needs to be known by is how many rows each component holds, ``N_k``: ``beta_k = beta_0 +
N_k`` and ``nu_k = nu_0 + N_k`` in every optimum, so N, the means and ``S_k = V_k / nu_k`` are its
parameters. Then

.. math:: E_q[\log N(x; \mu_k, \Lambda_k^{-1})] = \log N(x; m_k, S_k) + c_k, \qquad
          c_k = \tfrac12 (E \log|\Lambda_k| + \log|S_k|) - d / (2 \beta_k)

so rows are scored and summed by :class:`Gaussian` itself. Cells that are missing are latent too:
with matrices ``q(x_m | k)`` is normal, and the best of them leaves ``log N(x_o; m_o, S_oo) + c_k``;
with independent columns they drop out exactly.

Bishop (2006), "Pattern recognition and machine learning", equations 10.58 to 10.67 and 10.81; with
the correction ``nu_k = nu_0 + N_k`` of its errata.
"""

from __future__ import annotations

from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant import _factors
from minorant._parameters import constant, given, parameter, positive, real
from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components import base
from minorant.components.covariance import AbstractCovariance, Moments, Pseudo
from minorant.components.exponential_family import per_row
from minorant.components.gaussian import Gaussian, location_scale, observed_count, stabilise
from minorant.components.matrix_covariance import Full, Tied
from minorant.components.normal_wishart import (
    NormalWishart,
    log_determinant,
    log_precision_gap,
    mean_divergence,
    student_t,
    wishart_divergence,
)
from minorant.components.scalar_covariance import Diagonal, Spherical, scalar_scatter
from minorant.components.wishart_draws import mean_log_ratio, wishart_log_ratio, wishart_roots


class BayesianGaussian(base.AbstractComponent):
    """k normal densities whose means and precisions have a normal-Wishart prior.

    Args:
        structure: ``Full()``, ``Tied()``, ``Diagonal()`` or ``Spherical()``: what the precision is.
            Each is a proper prior and its q: one Wishart for each component, one for all, a gamma
            for each cell, a gamma for each component.
        prior: :class:`NormalWishart`; what it leaves open is filled from the data.
        mean: (k, d) ``m``, in the data's units; None to be learned.
        covariance: ``S``, in the structure's shape, squared units; None to be learned.
        count: (k, 1) rows that each component holds, (k, d) with independent columns; None to be
            learned.

    Example:
        >>> from minorant.components import BayesianGaussian, Diagonal
        >>> BayesianGaussian(Diagonal()).structure
        Diagonal()

    Not for: a component of ``Mixture``, which would call its bound a likelihood; it is for
    ``BayesianMixture``.
    """

    structure: AbstractCovariance = Full()
    prior: NormalWishart = constant(default=NormalWishart())
    mean: Float[Array, "k d"] | None = real(default=None)
    covariance: Array | None = parameter(lambda self: self.structure.constraint(), default=None)
    count: Float[Array, "k #d"] | None = positive(default=None)

    @property
    def spread(self) -> Array | None:
        """What the structure stores: S."""
        return self.covariance

    @property
    def plugged(self) -> Gaussian:
        """The Gaussian with mean m and covariance S."""
        return Gaussian(self.structure, self.mean, self.covariance)

    def mean_precision(self) -> Float[Array, "k #d"]:
        """``beta = beta_0 + N``."""
        return given(self.prior.mean_precision) + given(self.count)

    def degrees(self) -> Array:
        """``nu``: (k,); one number when tied; (k, d) for a variance in every cell."""
        return given(self.prior.degrees) + _held(self.structure, given(self.count))

    def prepare(self) -> PyTree:
        """As the Gaussian's."""
        return self.plugged.prepare()

    def log_prob(self, rows: Rows, prepared: PyTree) -> Float[Array, "k n"]:
        """``E_q log N(x_observed)``, and for matrices the best ``q(x_missing)``'s share."""
        scores, gap = self.plugged.log_prob(rows, prepared), self._gap()
        if _is_matrix(self.structure):
            return scores + gap.sum(1, keepdims=True)
        return scores + per_row(gap, rows)

    def predictive_log_prob(self, rows: Rows, prepared: PyTree) -> Float[Array, "k n"]:
        """``log E_q N(x_observed)``: Student-t densities."""
        if _is_matrix(self.structure):
            return self._matrix_predictive(rows, prepared)
        scale, degrees = self._cell_scale(), self.degrees()
        shared = isinstance(self.structure, Spherical)
        degrees = degrees[:, None, None] if shared else degrees[:, None]
        seen = True if rows.observed is None else rows.observed
        away = rows.values - given(self.mean)[:, None]
        square = jnp.where(seen, away * away / scale[:, None], 0.0)
        log_scale = jnp.where(seen, jnp.log(scale)[:, None], 0.0)
        if shared:
            square, log_scale = square.sum(2, keepdims=True), log_scale.sum(2, keepdims=True)
            order = jnp.asarray(observed_count(rows), scale.dtype).reshape(1, -1, 1)
            return student_t(square, log_scale, degrees, order)[:, :, 0]
        return jnp.where(seen, student_t(square, log_scale, degrees, 1.0), 0.0).sum(2)

    def statistics(self, rows: Rows, responsibilities: Array, prepared: PyTree) -> Moments:
        """Weighted moments of the (completed) rows."""
        return self.plugged.statistics(rows, responsibilities, prepared)

    def maximise(self, statistics: Moments, fixed: PyTree | None) -> Self:
        """The q of means and precisions that is best given the responsibilities.

        Raises:
            ValueError: where something is to be held: a q is no parameter of the model.
        """
        if fixed is not None:
            raise ValueError(
                "fixed cannot hold what is integrated out: sharpen the prior (mean_precision, "
                "degrees) instead."
            )
        count, prior = statistics.count, self.prior
        first, precision = given(prior.mean), given(prior.mean_precision)
        centre = self.structure.centre(self.mean, statistics.first)
        rows = statistics.mass * centre + statistics.first
        mean = (precision * first + rows) / (precision + count)
        covariance = self._best_covariance(statistics, mean - centre, mean - first)
        new = (mean, covariance, count)
        return eqx.tree_at(lambda c: (c.mean, c.covariance, c.count), self, new, is_leaf=_is_none)

    def drawn(self, key: Key) -> tuple[Gaussian, Float[Array, ""]]:
        """Components with means and precisions drawn from q, and ``log prior - log q`` there."""
        wishart_key, mean_key = jax.random.split(key)
        mean, precision = given(self.mean), self.mean_precision()
        (k, d), first = mean.shape, given(self.prior.mean_precision)
        matrices, degrees, prior = self._wisharts()
        roots = wishart_roots(wishart_key, matrices, degrees)
        log_ratio = wishart_log_ratio(roots, matrices, degrees, prior).sum()
        root, inverse = (_spread_out(self.structure, part, k, d) for part in roots[:2])
        noise = jax.random.normal(mean_key, (k, d), dtype=mean.dtype)
        moved = mean + jnp.einsum("kij,kj->ki", root, noise / jnp.sqrt(precision))
        away = moved - given(self.prior.mean)
        log_ratio = log_ratio + mean_log_ratio(away, inverse, noise, precision, first)
        covariance = (roots.root @ jnp.swapaxes(roots.root, 1, 2)).reshape(
            given(self.covariance).shape
        )
        return Gaussian(self.structure, moved, covariance), log_ratio

    def expected_log_prob(self, statistics: Moments) -> Float[Array, " k"]:
        """``sum_i r_ik E_q log N(x_i)``."""
        return self.plugged.expected_log_prob(statistics) + (statistics.count * self._gap()).sum(1)

    def log_prior(self) -> Float[Array, ""]:
        """``-KL(q || prior)``, every constant kept."""
        away = given(self.mean) - given(self.prior.mean)
        d, precision = away.shape[1], given(self.prior.mean_precision)
        means = mean_divergence(self.mean_precision(), precision)
        if _is_matrix(self.structure):
            return -(d * means.sum() + self._matrix_divergence(away))
        inverse = 1.0 / self._cell_variance()
        return -(
            means.sum() + 0.5 * precision * (away**2 * inverse).sum() + self._cell_divergence()
        )

    def sample(self, key: Key, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """Rows from the posterior predictive density, a Student-t."""
        noise_key, tail_key = jax.random.split(key)
        mean = given(self.mean)
        noise = jax.random.normal(noise_key, (len(labels), mean.shape[1]), dtype=mean.dtype)
        if _is_matrix(self.structure):
            ratio, degrees = self._matrix_tail()
            factor = _factors.cholesky(self._matrices()) * jnp.sqrt(ratio)[:, None, None]
            noise = jnp.einsum("nij,nj->ni", factor[labels], noise)
            degrees = degrees[labels][:, None]
        else:
            noise, degrees = noise * jnp.sqrt(self._cell_scale())[labels], self.degrees()[labels]
            degrees = degrees.reshape(len(labels), -1)
        tail = jax.random.gamma(tail_key, 0.5 * degrees, dtype=mean.dtype) / (0.5 * degrees)
        return mean[labels] + noise / jnp.sqrt(tail)

    def conditional_mean(self, rows: Rows, prepared: PyTree) -> Float[Array, "k n d"]:
        """``E_q[x | x_observed, k]``."""
        return self.plugged.conditional_mean(rows, prepared)

    def conditional_sample(
        self, key: Key, rows: Rows, labels: Int[Array, " n"], prepared: PyTree
    ) -> Float[Array, "n d"]:
        """A draw from ``q(x_missing | k)``, which is normal."""
        return self.plugged.conditional_sample(key, rows, labels, prepared)

    def configured(self, summary: Summary, n_components: int) -> Self:
        """With the prior filled in, in the data's units."""
        prior = self.prior.configured(summary, n_components, _is_matrix(self.structure))
        return eqx.tree_at(lambda c: c.prior, self, prior, is_leaf=_is_prior)

    def standardiser(self, summary: Summary) -> Affine:
        """Zero mean and unit variance, with one common scale where the structure is spherical."""
        return location_scale(summary, common=isinstance(self.structure, Spherical))

    def rescaled(self, units: Affine) -> Self:
        """Means, covariances and prior in other units; counts have none."""
        mean, covariance = self.mean, self.covariance
        new = (
            self.prior.rescaled(units),
            None if mean is None else units.apply(np.asarray(mean)),
            None if covariance is None else self.structure.rescaled(covariance, units),
        )
        return eqx.tree_at(
            lambda c: (c.prior, c.mean, c.covariance), self, new, is_leaf=_is_none_or_prior
        )

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """The rows themselves: they come standardised."""
        return values

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Any finite number is in the support."""

    def collapsed(self) -> np.ndarray:
        """None: the prior keeps every covariance away from zero."""
        return np.zeros(len(given(self.mean)))

    def rounding(self, prepared: PyTree) -> Array | float:
        """As the Gaussian's."""
        return self.structure.rounding(prepared)

    def shares_patterns(self) -> bool:
        """Matrix structures factor once for each pattern of missing cells."""
        return _is_matrix(self.structure)

    def stabilised(self, spread: float) -> Self:
        """With means subtracted first, where the product form would lose too many digits."""
        return stabilise(self, spread)

    def _matrices(self) -> Float[Array, "k d d"]:
        return self.structure.matrices(given(self.covariance), *given(self.mean).shape)

    def _wisharts(self) -> tuple[Array, Array, tuple[Array, Array]]:
        """S as matrices (m, o, o), nu (m,), and the prior's; order 1 where columns are apart."""
        k, d = given(self.mean).shape
        scale, first = given(self.prior.scale), given(self.prior.degrees)
        order = d if _is_matrix(self.structure) else 1
        if isinstance(self.structure, Diagonal):
            scale = jnp.tile(jnp.diagonal(scale), k).reshape(-1, 1, 1)
        elif isinstance(self.structure, Spherical):
            scale = jnp.diagonal(scale).mean().reshape(1, 1)
        matrices = jnp.asarray(given(self.covariance)).reshape(-1, order, order)
        return matrices, jnp.asarray(self.degrees()).reshape(-1), (first, scale)

    def _gap(self) -> Float[Array, "k #d"]:
        """``c``: by how much the expected log density differs from the plugged-in one."""
        d, precision = given(self.mean).shape[1], self.mean_precision()
        if _is_matrix(self.structure):
            degrees = self.degrees().reshape(-1, 1)
            return 0.5 * (log_precision_gap(degrees, d) - d / precision)
        degrees = self.degrees().reshape(len(precision), -1)
        return 0.5 * (log_precision_gap(degrees, 1) - 1.0 / precision)

    def _best_covariance(self, moments: Moments, offset: Array, away: Array) -> Array:
        """``(V_0 + scatter about m + beta_0 (m - m_0)(m - m_0)') / nu``."""
        first, scale = given(self.prior.degrees), given(self.prior.scale)
        precision = given(self.prior.mean_precision)
        if _is_matrix(self.structure):
            outer = precision * away[:, :, None] * away[:, None, :]
            outer = outer.sum(0) if isinstance(self.structure, Tied) else outer
            return self.structure.estimate(moments, offset, Pseudo(scale + outer, first))
        degrees = first + _held(self.structure, moments.count)
        scatter = scalar_scatter(moments, offset) + precision * away**2
        if isinstance(self.structure, Diagonal):
            return (jnp.diagonal(scale) + scatter) / degrees
        return (jnp.diagonal(scale).mean() + scatter.sum(1)) / degrees

    def _matrix_divergence(self, away: Array) -> Float[Array, ""]:
        """The Wisharts' divergence and the means' squares."""
        d, scale = away.shape[1], given(self.prior.scale)
        stored = jnp.asarray(self.covariance).reshape(-1, d, d)
        factor, whitener = _factors.factored(stored)
        half = jnp.swapaxes(whitener, 1, 2)
        precision = half @ whitener
        squares = jnp.einsum(
            "ki,kij,kj->", away, jnp.broadcast_to(precision, (len(away), d, d)), away
        )
        own = wishart_divergence(
            self.degrees().reshape(-1),
            2.0 * jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum(1),
            (precision * scale).sum((1, 2)),
            (given(self.prior.degrees), log_determinant(scale)),
            d,
        )
        return own.sum() + 0.5 * given(self.prior.mean_precision) * squares

    def _cell_divergence(self) -> Float[Array, ""]:
        """The gammas' divergence."""
        variance, scale = given(self.covariance), jnp.diagonal(given(self.prior.scale))
        scale = scale.mean() if isinstance(self.structure, Spherical) else scale
        prior = (given(self.prior.degrees), jnp.log(scale))
        return wishart_divergence(
            self.degrees(), jnp.log(variance), scale / variance, prior, 1
        ).sum()

    def _cell_variance(self) -> Float[Array, "k d"]:
        """S, cell by cell."""
        variance = given(self.covariance)
        return jnp.broadcast_to(variance.reshape(len(variance), -1), given(self.mean).shape)

    def _cell_scale(self) -> Float[Array, "k d"]:
        """The squared scale of the predictive density of each cell."""
        return self._cell_variance() * (1.0 + 1.0 / self.mean_precision())

    def _matrix_tail(self) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Of the predictive density: its scale matrix over S, and its degrees of freedom."""
        k, d = given(self.mean).shape
        degrees = jnp.broadcast_to(self.degrees(), (k,))
        left = degrees + 1.0 - d
        return (1.0 + 1.0 / self.mean_precision()[:, 0]) * degrees / left, left

    def _matrix_predictive(self, rows: Rows, prepared: PyTree) -> Float[Array, "k n"]:
        square, determinant = self.structure.distances(rows, prepared)
        ratio, degrees = (part[:, None] for part in self._matrix_tail())
        order = observed_count(rows)
        return student_t(square / ratio, determinant + order * jnp.log(ratio), degrees, order)


def _held(structure: AbstractCovariance, count: Float[Array, "k #d"]) -> Array:
    """How many rows (or cells) speak for each precision."""
    if isinstance(structure, Tied):
        return count.sum()
    if isinstance(structure, Diagonal):
        return count
    return count.sum(1)


def _spread_out(structure: AbstractCovariance, roots: Array, k: int, d: int) -> Array:
    """Roots as (k, d, d)."""
    if _is_matrix(structure):
        return jnp.broadcast_to(roots, (k, d, d))
    return jnp.broadcast_to(roots.reshape(k, -1), (k, d))[..., None] * np.eye(d, dtype=roots.dtype)


def _is_matrix(structure: AbstractCovariance) -> bool:
    return isinstance(structure, Full | Tied)


def _is_none(node: Any) -> bool:
    return node is None


def _is_prior(node: Any) -> bool:
    return isinstance(node, NormalWishart)


def _is_none_or_prior(node: Any) -> bool:
    return node is None or isinstance(node, NormalWishart)
