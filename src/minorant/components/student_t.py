r"""The Student-t component: a Gaussian whose rows have their own precision, for heavy tails.

``x = m + u^(-1/2) e`` with ``e ~ N(0, S)`` and ``u ~ Gamma(nu / 2, nu / 2)``. Given the row, u has
mean ``(nu + p) / (nu + delta)`` with delta the squared distance over the p observed cells: rows far
away count for less. Given u the row is normal, so missing cells are completed as in the Gaussian,
and the marginal of a t is a t.

M-step: Peel & McLachlan (2000), "Robust mixture modelling using the t distribution", equations 17
to 19; location, scale and degrees separate, so the step is exact and never lowers the bound.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant import _factors, _linalg
from minorant._parameters import Positive, constant, given, keep, parameter, real
from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components import base, gaussian
from minorant.components.covariance import AbstractCovariance, Moments
from minorant.components.matrix_covariance import Full, Tied
from minorant.components.priors import InverseWishart, LogDensity
from minorant.components.scalar_covariance import Spherical

LEAST_DEGREES, MOST_DEGREES = 1e-2, 1e6
_FIRST_DEGREES = 10.0
_LARGE = 10.0
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)


class PreparedT(NamedTuple):
    """The structure's preparation and half the degrees of freedom (k, 1)."""

    structure: PyTree
    half: Float[Array, "k 1"]


class TailedMoments(NamedTuple):
    """Moments with ``mass`` = r u, and what says how heavy the tails are.

    ``tail`` sums ``r (E[u] - 1 - E[log u])``, at least 0; ``count`` sums r.
    """

    moments: Moments
    count: Float[Array, " k"]
    tail: Float[Array, " k"]


class StudentT(base.AbstractComponent):
    r"""k multivariate Student-t densities.

    .. math:: \log t(x) = \log\Gamma(\tfrac{\nu+d}2) - \log\Gamma(\tfrac\nu2)
              - \tfrac d2 \log(\nu\pi) - \tfrac12 \log|S|
              - \tfrac{\nu+d}2 \log(1 + \delta/\nu), \quad \delta = (x-m)^T S^{-1} (x-m)

    Args:
        structure: ``Full()``, ``Tied()``, ``Diagonal()`` or ``Spherical()``.
        mean: (k, d) centres, in the data's units; None to be learned.
        scale: scale matrices S in the structure's shape, squared units; None to be learned. The
            covariance is ``nu / (nu - 2) S`` where nu > 2, and infinite below.
        degrees: (k,) degrees of freedom nu, learned within [0.01, 1e6]; None to be learned from 10.
        floor: (d,) or a number: S stays above ``diag(floor)``; None: 1e-6 of each column's
            variance.
        prior: an :class:`InverseWishart` on S, any :class:`LogDensity`, or None.
        learn_degrees: False makes ``degrees`` a constant, which must then be given.

    Raises:
        ValueError: for degrees out of range, or constant ones that are not given.

    Example:
        >>> from minorant.components import StudentT
        >>> StudentT(degrees=[4.0, 4.0], learn_degrees=False).degrees
        array([4., 4.])

    Not for: light tails (nu runs to its limit: use ``Gaussian``), or tails that differ by column.
    """

    structure: AbstractCovariance = Full()
    mean: Float[Array, "k d"] | None = real(default=None)
    scale: Array | None = parameter(lambda self: self.structure.constraint(), default=None)
    degrees: Float[Array, " k"] | None = parameter(
        lambda self: Positive() if self.learn_degrees else None,
        default=None,
        converter=lambda value: _on_host(value),
    )
    floor: Array | None = constant(default=None)
    prior: InverseWishart | LogDensity | None = constant(default=None)
    learn_degrees: bool = eqx.field(static=True, default=True)

    def __check_init__(self) -> None:
        """Raise ValueError for impossible degrees."""
        if self.degrees is None and not self.learn_degrees:
            raise ValueError("learn_degrees=False needs degrees: give one number per component.")
        value = self.degrees
        if isinstance(value, np.ndarray) and not np.all((value >= LEAST_DEGREES) & (value <= 1e6)):
            raise ValueError(f"degrees must lie between 0.01 and 1e6; got {value}.")

    @property
    def spread(self) -> Array | None:
        """What the structure stores: the scale matrices."""
        return self.scale

    def prepare(self) -> PreparedT:
        """Factors and half the degrees."""
        half = 0.5 * given(self.degrees)[:, None]
        return PreparedT(self.structure.prepare(given(self.mean), given(self.scale)), half)

    def log_prob(self, rows: Rows, prepared: PreparedT) -> Float[Array, "k n"]:
        """``log t(x_observed)``, missing cells integrated out."""
        square, log_determinant = self.structure.distances(rows, prepared.structure)
        y, h = prepared.half, _half_count(rows)
        constant = log_gamma_ratio(y, h) - h * _linalg.LOG_TWO_PI - 0.5 * log_determinant
        return constant - (y + h) * jnp.log1p(0.5 * square / y)

    def statistics(
        self, rows: Rows, responsibilities: Array, prepared: PreparedT | None
    ) -> TailedMoments:
        """Moments weighted by ``r E[u]``, and the tail's weight."""
        r, count = responsibilities, responsibilities.sum(1)
        if prepared is None:
            moments = self.structure.moments(rows, r, r, None)
            return TailedMoments(moments, count, count * digamma_gap(_FIRST_DEGREES / 2.0))
        square, _ = self.structure.distances(rows, prepared.structure)
        y, h = prepared.half, _half_count(rows)
        excess = (h - 0.5 * square) / (y + 0.5 * square)
        tail = excess - jnp.log1p(excess) + digamma_gap(y + h)
        moments = self.structure.moments(rows, r, r * (1.0 + excess), prepared.structure)
        return TailedMoments(moments, count, (r * tail).sum(1))

    def maximise(self, statistics: TailedMoments, fixed: PyTree | None) -> Self:
        """Centres, scales and degrees that maximise the expected log density plus log prior."""
        mean, scale = gaussian.location_and_spread(self, statistics.moments, fixed)
        degrees = self._degrees(statistics, fixed)
        closed = eqx.tree_at(
            lambda c: (c.mean, c.scale, c.degrees), self, (mean, scale, degrees), is_leaf=_is_none
        )
        if not isinstance(self.prior, LogDensity):
            return closed
        sums = statistics._replace(moments=gaussian.about_origin(self, statistics.moments))
        return gaussian.climbed_with_prior(self, closed, sums, fixed)

    def expected_log_prob(self, statistics: TailedMoments) -> Float[Array, " k"]:
        """The expected log joint of rows and their precisions u, up to a constant."""
        mean = given(self.mean)
        offset = mean - self.structure.centre(self.mean, mean)
        deviance = self.structure.deviance(statistics.moments, offset, given(self.scale))
        y = 0.5 * given(self.degrees)
        # y log y - log Gamma(y) + y (E[log u] - E[u]), with the y's of Stirling's series cancelled
        shape = 0.5 * jnp.log(y) - stirling(y)
        return statistics.count * shape - y * statistics.tail - 0.5 * deviance

    def log_prior(self) -> Float[Array, ""]:
        """The log density of the prior, up to a constant."""
        return gaussian.spread_log_prior(self)

    def sample(self, key: Key, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """``m + u^(-1/2) L e``."""
        row_key, tail_key = jax.random.split(key)
        k, d = given(self.mean).shape
        factor = _factors.cholesky(self.structure.matrices(given(self.scale), k, d))
        noise = jax.random.normal(row_key, (labels.shape[0], d), dtype=factor.dtype)
        half = 0.5 * given(self.degrees)[labels]
        u = _precisions(tail_key, half, half)
        away = jnp.einsum("nij,nj->ni", factor[labels], noise)
        return given(self.mean)[labels] + away / jnp.sqrt(u)[:, None]

    def conditional_mean(self, rows: Rows, prepared: PreparedT) -> Float[Array, "k n d"]:
        """As for the Gaussian (the conditional's centre where its mean does not exist)."""
        return gaussian.completed_matrix(self, rows)[0]

    def conditional_sample(
        self, key: Key, rows: Rows, labels: Int[Array, " n"], prepared: PreparedT
    ) -> Float[Array, "n d"]:
        """A draw of u given the observed cells, then of the missing ones given u."""
        row_key, tail_key = jax.random.split(key)
        filled, spread = gaussian.completed_matrix(self, rows)
        matrices = jnp.broadcast_to(spread, (*filled.shape, filled.shape[-1]))
        own = jnp.take_along_axis(matrices, labels[None, :, None, None], axis=0)[0]
        square = jnp.take_along_axis(
            self.structure.distances(rows, prepared.structure)[0], labels[None], axis=0
        )[0]
        y = 0.5 * given(self.degrees)[labels]
        h = jnp.broadcast_to(_half_count(rows), (1, len(labels)))[0]
        u = _precisions(tail_key, y + h, y + 0.5 * square)
        noise = gaussian.draw_from(row_key, own) / jnp.sqrt(u)[:, None]
        missing = False if rows.observed is None else ~rows.observed
        return base.take_labelled(filled, labels) + jnp.where(missing, noise, 0.0)

    def configured(self, summary: Summary, n_components: int) -> Self:
        """With floor and prior filled in, in the data's units."""
        if self.degrees is not None and self.degrees.shape != (n_components,):
            raise ValueError(
                f"degrees must have shape ({n_components},), one for each component; got "
                f"{self.degrees.shape}."
            )
        return gaussian.configure_spread(self, summary, n_components)

    def standardiser(self, summary: Summary) -> Affine:
        """Zero mean and unit variance, with one common scale where the structure is spherical."""
        return gaussian.location_scale(summary, common=isinstance(self.structure, Spherical))

    def rescaled(self, units: Affine) -> Self:
        """Centres, scales, floor and prior in other units."""
        return gaussian.rescale_spread(self, units)

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """The rows themselves: they come standardised."""
        return values

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Any finite number is in the support."""

    def collapsed(self) -> np.ndarray:
        """How many directions of each component lie on the floor."""
        return gaussian.floor_directions(self)

    def projected(self) -> Self:
        """With the scales raised to the floor and the degrees inside their limits."""
        scale = self.structure.floored(given(self.scale), given(self.floor))
        degrees = self.degrees
        if self.learn_degrees:
            degrees = jnp.clip(given(degrees), LEAST_DEGREES, MOST_DEGREES)
        return eqx.tree_at(lambda c: (c.scale, c.degrees), self, (scale, degrees))

    def rounding(self, prepared: PreparedT) -> Array | float:
        """The largest condition number of a scale matrix."""
        return self.structure.rounding(prepared.structure)

    def shares_patterns(self) -> bool:
        """Matrix structures factor once for each pattern of missing cells."""
        return isinstance(self.structure, Full | Tied)

    def stabilised(self, spread: float) -> Self:
        """With centres subtracted first, where the product form would lose too many digits."""
        return gaussian.stabilise(self, spread)

    def _degrees(self, statistics: TailedMoments, fixed: PyTree | None) -> Float[Array, " k"]:
        if not self.learn_degrees:
            return given(self.degrees)
        mean_tail = statistics.tail / base.safe_count(statistics.count)
        degrees = jnp.clip(2.0 * inverse_digamma_gap(mean_tail), LEAST_DEGREES, MOST_DEGREES)
        degrees = base.keep_if_empty(statistics.count, self.degrees, degrees)
        return keep(base.of(fixed, "degrees"), self.degrees, degrees)


def log_gamma_ratio(y: Array, h: Array | float) -> Array:
    """``log Gamma(y + h) - log Gamma(y) - h log y`` without cancellation, however large y is."""
    large = y > _LARGE
    far = jnp.where(large, y, _LARGE)
    series = (far + h - 0.5) * jnp.log1p(h / far) - h + stirling(far + h) - stirling(far)
    near = jnp.where(large, 1.0, y)
    gammaln = jax.scipy.special.gammaln
    return jnp.where(large, series, gammaln(near + h) - gammaln(near) - h * jnp.log(near))


def stirling(y: Array) -> Array:
    """``log Gamma(y) - (y - 1/2) log y + y - log(2 pi) / 2``, falling to 0 as 1 / (12 y)."""
    far = jnp.maximum(y, _LARGE)
    square = 1.0 / (far * far)
    series = _polynomial(_STIRLING, square) / far
    near = jnp.minimum(y, _LARGE)
    direct = jax.scipy.special.gammaln(near) - (near - 0.5) * jnp.log(near) + near
    return jnp.where(y > _LARGE, series, direct - 0.5 * _linalg.LOG_TWO_PI)


def digamma_gap(y: Array | float) -> Array:
    """``log y - digamma(y)``, above 0 and falling to 0 as 1 / (2 y), without cancellation."""
    y = jnp.asarray(y)
    far = jnp.maximum(y, _LARGE)
    square = 1.0 / (far * far)
    slopes = tuple((2 * i + 1) * term for i, term in enumerate(_STIRLING))
    series = 0.5 / far + square * _polynomial(slopes, square)
    near = jnp.minimum(y, _LARGE)
    return jnp.where(y > _LARGE, series, jnp.log(near) - jax.scipy.special.digamma(near))


def inverse_digamma_gap(gap: Float[Array, " k"], steps: int = 6) -> Float[Array, " k"]:
    """The y within [1e-3, 1e7] that has ``log y - digamma(y) = gap``, by Newton on ``1 / y``.

    Minka (2002), "Estimating a Gamma distribution", equation 10.
    """
    gap = jnp.maximum(gap, 1e-8)
    y = (3.0 - gap + jnp.sqrt((gap - 3.0) ** 2 + 24.0 * gap)) / (12.0 * gap)

    def step(_: int, y: Array) -> Array:
        here, slope = jax.jvp(digamma_gap, (y,), (jnp.ones_like(y),))
        return jnp.clip(1.0 / (1.0 / y + (here - gap) / (y**2 * slope)), 1e-3, 1e7)

    return jax.lax.fori_loop(0, steps, step, jnp.clip(y, 1e-3, 1e7))


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    total = jnp.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total


def _half_count(rows: Rows) -> Array | float:
    """Half the observed cells of each row: a number, or (1, n)."""
    return 0.5 * gaussian.observed_count(rows)


def _precisions(key: Key, shape: Array, rate: Array) -> Array:
    return jax.random.gamma(key, shape, dtype=shape.dtype) / rate


def _on_host(value: Any) -> Any:
    return np.asarray(value, dtype=float) if isinstance(value, list | tuple) else value


def _is_none(node: Any) -> bool:
    return node is None
