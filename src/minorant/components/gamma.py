"""The gamma component: columns of numbers above zero, independent given the component."""

from __future__ import annotations

from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln, polygamma
from jaxtyping import Float, Int

from minorant._parameters import constant, given, keep, positive
from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components import base
from minorant.components import exponential_family as family
from minorant.components.priors import LogDensity

_NEWTON_STEPS = 6
_ASYMPTOTIC = 16.0
_LEAST_SHAPE = 1e-6


class Gamma(family.ExponentialFamily):
    r"""k sets of shapes and rates for columns of numbers above zero.

    .. math:: \log p(x \mid k) = \sum_j (a_{kj} - 1) \log x_j - b_{kj} x_j
              + a_{kj} \log b_{kj} - \log \Gamma(a_{kj})

    M-step: the shape solves ``log a - digamma(a) = log mean(x) - mean(log x)`` by Minka's Newton
    steps in ``1 / a`` from a start within 1.5%, then ``b = a / mean(x)``. With the rate held, the
    shape solves ``digamma(a) = log b + mean(log x)``. Shapes stay in [1e-6, 1e6] (1e4 in float32),
    which keeps the likelihood of constant columns bounded; the expected log density is concave in
    the shape, so a clipped solution is the maximiser under that constraint.

    Args:
        shape: (k, d), without unit; None to be learned.
        rate: (k, d), in one over the data's units; None to be learned.
        prior: any :class:`LogDensity`, or None.

    Example:
        >>> from minorant.components import Gamma
        >>> Gamma().prior is None
        True

    Minka (2002), "Estimating a Gamma distribution", equations 8 and 10.
    Not for: zeros (``Exponential``), tails heavier than exponential (``LogNormal``).
    """

    shape: Float[Array, "k d"] | None = positive(default=None)
    rate: Float[Array, "k d"] | None = positive(default=None)
    prior: LogDensity | None = constant(default=None)

    def features(self, rows: Rows) -> tuple[Array, ...]:
        """``log x`` and ``x``."""
        return family.log_cells(rows), rows.values

    def natural(self) -> tuple[tuple[Array, ...], Array]:
        """``a - 1`` and ``-b``; ``a log b - log Gamma(a)``."""
        shape, rate = jnp.asarray(given(self.shape)), jnp.asarray(given(self.rate))
        return (shape - 1.0, -rate), shape * jnp.log(rate) - gammaln(shape)

    def log_base(self, rows: Rows) -> None:
        """None: it is 0."""

    def maximise(self, statistics: family.Sums, fixed: PyTree | None) -> Self:
        """Shape and rate, or the one of them that is free."""
        safe = base.safe_count(statistics.count)
        supported = statistics.count > 10 * jnp.finfo(safe.dtype).tiny
        mean_log = jnp.where(supported, statistics.totals[:, 0] / safe, 0.0)
        mean = jnp.where(supported, statistics.totals[:, 1] / safe, 1.0)
        shape = self._shape(statistics.count, mean, mean_log, fixed)
        rate = family.keep_unsupported(statistics.count, self.rate, shape / mean)
        rate = keep(base.of(fixed, "rate"), self.rate, rate)
        closed = family.replaced(self, shape=shape, rate=rate)
        return family.finished(self, closed, statistics, fixed)

    def log_prior(self) -> Float[Array, ""]:
        """The prior's log density."""
        return family.log_prior(self, None)

    def cell_mean(self) -> Float[Array, "k d"]:
        """``a / b``."""
        return jnp.asarray(given(self.shape)) / jnp.asarray(given(self.rate))

    def sample(self, key: Key, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """Gamma draws."""
        shape, rate = (
            jnp.asarray(given(self.shape))[labels],
            jnp.asarray(given(self.rate))[labels],
        )
        return jax.random.gamma(key, shape) / rate

    def configured(self, summary: Summary, n_components: int) -> Self:
        """Itself: nothing depends on the data."""
        return self

    def standardiser(self, summary: Summary) -> Affine:
        """Every column divided by its mean."""
        return family.scale_only(summary)

    def rescaled(self, units: Affine) -> Self:
        """Rates times the scale."""
        rate, prior = self.rate, self.prior
        return family.replaced(
            self,
            rate=None if rate is None else rate * units.scale,
            prior=None if prior is None else prior.rescaled(units),
        )

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """Logarithms, standardised."""
        return family.standardised(np.log(values))

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Only numbers above zero are in the support."""
        base.reject_cells(values <= 0, values, names, "must be above zero for Gamma")

    def collapsed(self) -> np.ndarray:
        """How many columns of each component have the largest shape: nearly constant."""
        shape = np.asarray(given(self.shape))
        return (shape > 0.99 * _largest_shape(shape.dtype)).sum(1).astype(float)

    def projected(self) -> Self:
        """With the shapes inside their limits."""
        return family.replaced(self, shape=_inside(jnp.asarray(given(self.shape))))

    def _shape(self, count: Array, mean: Array, mean_log: Array, fixed: Any) -> Array:
        """The maximising shape where the rate is free, given the rate where it is held."""
        shape = profile_shape(jnp.log(mean) - mean_log)
        rate_held = base.of(fixed, "rate")
        if rate_held is not None and rate_held is not False:
            matched = inverse_digamma(jnp.log(jnp.asarray(given(self.rate))) + mean_log)
            shape = keep(rate_held, matched, shape)
        shape = family.keep_unsupported(count, self.shape, _inside(shape))
        return keep(base.of(fixed, "shape"), self.shape, shape)


def profile_shape(gap: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """The root a of ``log a - digamma(a) = gap``, for a gap between mean log and log mean.

    Example:
        >>> round(float(profile_shape(jnp.asarray(0.5772157))), 4)
        1.0
    """
    gap = jnp.maximum(gap, 0.25 / _largest_shape(gap.dtype))
    start = (3.0 - gap + jnp.sqrt((gap - 3.0) ** 2 + 24.0 * gap)) / (12.0 * gap)

    def step(_: int, shape: Array) -> Array:
        value, slope = _log_less_digamma(shape)
        return 1.0 / jnp.maximum(1.0 / shape + (value - gap) / (shape**2 * slope), _tiny(shape))

    return jax.lax.fori_loop(0, _NEWTON_STEPS, step, start)


def inverse_digamma(value: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """The root a of ``digamma(a) = value``: Minka (2003), appendix C; Newton never overshoots zero.

    Example:
        >>> round(float(inverse_digamma(jnp.asarray(-0.5772157))), 4)
        1.0
    """
    large = jnp.exp(jnp.minimum(value, jnp.log(2.0 * _largest_shape(value.dtype)))) + 0.5
    start = jnp.where(value >= -2.22, large, -1.0 / (jnp.minimum(value, -2.0) + 0.5772157))

    def step(_: int, shape: Array) -> Array:
        return jnp.maximum(shape - (digamma(shape) - value) / polygamma(1, shape), 0.1 * shape)

    return jax.lax.fori_loop(0, _NEWTON_STEPS, step, start)


def _log_less_digamma(shape: Array) -> tuple[Array, Array]:
    """``log a - digamma(a)`` and its derivative, by the asymptotic series where they cancel."""
    far = jnp.maximum(shape, _ASYMPTOTIC)
    u = 1.0 / (far * far)
    value = 0.5 / far + u * (1 / 12 - u * (1 / 120 - u * (1 / 252 - u / 240)))
    slope = -0.5 * u - u / far * (1 / 6 - u * (1 / 30 - u * (1 / 42 - u / 30)))
    near = jnp.minimum(shape, _ASYMPTOTIC)
    is_near = shape < _ASYMPTOTIC
    value = jnp.where(is_near, jnp.log(near) - digamma(near), value)
    return value, jnp.where(is_near, 1.0 / near - polygamma(1, near), slope)


def _inside(shape: Array) -> Array:
    return jnp.clip(shape, _LEAST_SHAPE, _largest_shape(shape.dtype))


def _largest_shape(dtype: Any) -> float:
    return 1e6 if jnp.finfo(dtype).eps < 1e-10 else 1e4


def _tiny(like: Array) -> float:
    return float(jnp.finfo(like.dtype).tiny) ** 0.5
