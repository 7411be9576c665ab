r"""Unknowns of a target: their shapes, what they may be, and the free coordinates they come from.

A target's log density is a function of named values; climbs walk in unconstrained vectors. Each
unknown maps its part of the vector to a value and says by how much the map stretches volume, so
that the density of the free coordinates is

.. math:: \log p(u) = \log p(x(u)) + \log |\det \partial x / \partial u|.

A bound may depend on unknowns declared earlier: ``interval(0, lambda known: 1 - known["a"])``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant import _factors
from minorant._types import Array

Shape = tuple[int, ...]
Known = dict[str, Array]
Bound = float | Array | Callable[[Known], Any] | None


class AbstractUnknown(eqx.Module):
    """One named unknown: an array of some shape that obeys some constraint."""

    shape: eqx.AbstractVar[Shape]

    @property
    @abstractmethod
    def size(self) -> int:
        """How many free coordinates it has."""

    @abstractmethod
    def value(self, free: Float[Array, " p"], known: Known) -> tuple[Array, Float[Array, ""]]:
        """The value, and the log of the map's absolute Jacobian determinant."""

    @abstractmethod
    def free(self, value: Array, known: Known) -> Float[Array, " p"]:
        """Free coordinates of a value, which must be inside."""


class Real(AbstractUnknown):
    """Any real numbers."""

    shape: Shape = eqx.field(static=True)

    @property
    def size(self) -> int:
        """How many free coordinates it has."""
        return _count(self.shape)

    def value(self, free: Float[Array, " p"], known: Known) -> tuple[Array, Float[Array, ""]]:
        """The coordinates themselves."""
        del known
        return free.reshape(self.shape), jnp.zeros((), free.dtype)

    def free(self, value: Array, known: Known) -> Float[Array, " p"]:
        """The value itself."""
        del known
        return jnp.ravel(value)


class Bounded(AbstractUnknown):
    r"""Numbers above, below or between bounds.

    .. math:: x = a + e^u, \quad x = b - e^u, \quad x = a + (b - a) / (1 + e^{-u})
    """

    shape: Shape = eqx.field(static=True)
    low: Bound = None
    high: Bound = None

    @property
    def size(self) -> int:
        """How many free coordinates it has."""
        return _count(self.shape)

    def value(self, free: Float[Array, " p"], known: Known) -> tuple[Array, Float[Array, ""]]:
        """Inside the bounds."""
        free = free.reshape(self.shape)
        low, high = _bound(self.low, known), _bound(self.high, known)
        if low is None:
            return high - jnp.exp(free), free.sum()
        if high is None:
            return low + jnp.exp(free), free.sum()
        width = jnp.broadcast_to(high - low, self.shape)
        log_slope = jax.nn.log_sigmoid(free) + jax.nn.log_sigmoid(-free) + jnp.log(width)
        return low + width * jax.nn.sigmoid(free), log_slope.sum()

    def free(self, value: Array, known: Known) -> Float[Array, " p"]:
        """Logarithms or logits."""
        low, high = _bound(self.low, known), _bound(self.high, known)
        if low is None:
            return jnp.ravel(jnp.log(high - value))
        if high is None:
            return jnp.ravel(jnp.log(value - low))
        return jnp.ravel(jnp.log(value - low) - jnp.log(high - value))


class Simplex(AbstractUnknown):
    r"""Probabilities that sum to one along the last axis.

    .. math:: x = \mathrm{softmax}(V u), \quad |J| = \sqrt{k} \prod_j x_j

    with V an orthonormal basis of the vectors that sum to zero (isometric log ratios: Egozcue et
    al., 2003, "Isometric logratio transformations for compositional data analysis"), which treats
    all k alike.
    """

    shape: Shape = eqx.field(static=True)

    @property
    def size(self) -> int:
        """How many free coordinates it has."""
        return _count(self.shape[:-1]) * (self.shape[-1] - 1)

    def value(self, free: Float[Array, " p"], known: Known) -> tuple[Array, Float[Array, ""]]:
        """The softmax of the log ratios."""
        del known
        k = self.shape[-1]
        ratios = free.reshape(*self.shape[:-1], k - 1) @ contrasts(k).T
        log_value = jax.nn.log_softmax(ratios, axis=-1)
        scale = 0.5 * np.log(k) * _count(self.shape[:-1])
        return jnp.exp(log_value), log_value.sum() + scale

    def free(self, value: Array, known: Known) -> Float[Array, " p"]:
        """Isometric log ratios."""
        del known
        return jnp.ravel(jnp.log(value) @ contrasts(self.shape[-1]))


class Ordered(AbstractUnknown):
    r"""Numbers that increase along the last axis: the first, and logarithms of the steps."""

    shape: Shape = eqx.field(static=True)

    @property
    def size(self) -> int:
        """How many free coordinates it has."""
        return _count(self.shape)

    def value(self, free: Float[Array, " p"], known: Known) -> tuple[Array, Float[Array, ""]]:
        """The running sum of the first and the steps."""
        del known
        free = free.reshape(self.shape)
        steps = jnp.concatenate([free[..., :1], jnp.exp(free[..., 1:])], axis=-1)
        return jnp.cumsum(steps, axis=-1), free[..., 1:].sum()

    def free(self, value: Array, known: Known) -> Float[Array, " p"]:
        """The first, and logarithms of the steps."""
        del known
        steps = jnp.log(jnp.diff(value, axis=-1))
        return jnp.ravel(jnp.concatenate([value[..., :1], steps], axis=-1))


class Correlation(AbstractUnknown):
    r"""Correlation matrices on the last two axes, or their lower Cholesky factors.

    Row i of the factor is built from partial correlations :math:`\tanh u` (Lewandowski, Kurowicka &
    Joe, 2009, "Generating random correlation matrices based on vines and extended onion method").
    The density is with respect to the entries below the diagonal, of the matrix or of the factor.
    """

    shape: Shape = eqx.field(static=True)
    as_factor: bool = eqx.field(static=True, default=False)

    @property
    def size(self) -> int:
        """How many free coordinates it has."""
        return _count(self.shape[:-2]) * (self.shape[-1] * (self.shape[-1] - 1) // 2)

    def value(self, free: Float[Array, " p"], known: Known) -> tuple[Array, Float[Array, ""]]:
        """Row by row: what is left of the unit length is shared out."""
        del known
        d = self.shape[-1]
        free = _below(free, self.shape, -1)
        log_rest = 2.0 * (jnp.log(2.0) - free - jax.nn.softplus(-2.0 * free))
        before = jnp.cumsum(log_rest, axis=-1) - log_rest
        factor = jnp.tril(jnp.tanh(free) + jnp.eye(d, dtype=free.dtype)) * jnp.exp(0.5 * before)
        log_jacobian = jnp.tril(log_rest + 0.5 * before, -1).sum()
        if self.as_factor:
            return factor, log_jacobian
        # dR_ij / dL_ij = L_jj, whose logarithm is half the sum of row j's log rests.
        log_diagonal = 0.5 * log_rest.sum(-1)
        log_jacobian += (np.arange(d - 1, -1, -1) * log_diagonal).sum()
        return factor @ jnp.swapaxes(factor, -1, -2), log_jacobian

    def free(self, value: Array, known: Known) -> Float[Array, " p"]:
        """Inverse hyperbolic tangents of partial correlations."""
        del known
        factor = value if self.as_factor else _factors.cholesky(value)
        left = jnp.cumsum(factor[..., ::-1] ** 2, axis=-1)[..., ::-1]
        lower = (..., *np.tril_indices(self.shape[-1], -1))
        return jnp.ravel(jnp.arctanh(factor[lower] / jnp.sqrt(left[lower])))


class Covariance(AbstractUnknown):
    r"""Covariance matrices on the last two axes, or their lower Cholesky factors.

    Free coordinates are the factor's entries, those of its diagonal in logarithms.

    Pinheiro & Bates (1996), "Unconstrained parametrizations for variance-covariance matrices",
    section 2.2. The density is with respect to the entries on and below the diagonal.
    """

    shape: Shape = eqx.field(static=True)
    as_factor: bool = eqx.field(static=True, default=False)

    @property
    def size(self) -> int:
        """How many free coordinates it has."""
        return _count(self.shape[:-2]) * (self.shape[-1] * (self.shape[-1] + 1) // 2)

    def value(self, free: Float[Array, " p"], known: Known) -> tuple[Array, Float[Array, ""]]:
        """``L L'`` with a positive diagonal of L."""
        del known
        d = self.shape[-1]
        packed = _below(free, self.shape, 0)
        log_diagonal = jnp.diagonal(packed, axis1=-2, axis2=-1)
        factor = jnp.tril(packed, -1) + jnp.exp(log_diagonal)[..., None] * jnp.eye(d)
        if self.as_factor:
            return factor, log_diagonal.sum()
        powers = np.arange(d + 1, 1, -1)
        log_jacobian = (powers * log_diagonal).sum() + log_diagonal.size * np.log(2.0)
        return factor @ jnp.swapaxes(factor, -1, -2), log_jacobian

    def free(self, value: Array, known: Known) -> Float[Array, " p"]:
        """Entries below the diagonal and logarithms on it."""
        del known
        factor = value if self.as_factor else _factors.cholesky(value)
        d = self.shape[-1]
        log_diagonal = jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1))
        packed = jnp.tril(factor, -1) + log_diagonal[..., None] * jnp.eye(d)
        return jnp.ravel(packed[(..., *np.tril_indices(d))])


class Finite(eqx.Module):
    """Whole numbers from 0 to k - 1, to be summed out."""

    n_values: int = eqx.field(static=True)
    shape: Shape = eqx.field(static=True)

    @property
    def count(self) -> int:
        """How many values the array of them can take."""
        return self.n_values ** _count(self.shape)

    def every(self) -> Int[np.ndarray, "s *shape"]:
        """All values of the array, the last entry running fastest."""
        digits = self.n_values ** np.arange(_count(self.shape))[::-1]
        return (np.arange(self.count)[:, None] // digits % self.n_values).reshape(-1, *self.shape)


def real(*shape: int) -> Real:
    """Any real numbers: ``real()`` is one, ``real(8)`` a vector, ``real(3, 2)`` a matrix."""
    return Real(_lengths(shape, "real"))


def positive(*shape: int) -> Bounded:
    """Numbers above zero."""
    return Bounded(_lengths(shape, "positive"), 0.0)


def interval(low: Bound, high: Bound, *shape: int) -> Bounded:
    """Numbers between two bounds; None for no bound on that side.

    A bound is a number, an array that broadcasts, or a function of the unknowns before this one.

    Raises:
        ValueError: when neither side is bounded, a bound is infinite or does not broadcast, or the
            bounds are the wrong way round.
    """
    if low is None and high is None:
        raise ValueError("interval needs a bound on one side at least; use real() for none.")
    shape = _lengths(shape, "interval")
    for name, bound in (("low", low), ("high", high)):
        _check_bound(name, bound, shape)
    numbers = not (low is None or high is None or callable(low) or callable(high))
    if numbers and np.any(np.asarray(low) >= np.asarray(high)):
        raise ValueError(f"interval must have low < high; got {low} and {high}.")
    return Bounded(shape, low, high)


def simplex(*shape: int) -> Simplex:
    """Probabilities that sum to one along the last axis: ``simplex(3)``, ``simplex(5, 3)``.

    Raises:
        ValueError: for fewer than two entries.
    """
    return Simplex(_at_least(shape, 2, "simplex"))


def ordered(*shape: int) -> Ordered:
    """Numbers that increase along the last axis.

    Raises:
        ValueError: without a length.
    """
    return Ordered(_at_least(shape, 1, "ordered"))


def correlation(d: int) -> Correlation:
    """A (d, d) correlation matrix."""
    return Correlation(_at_least((d, d), 2, "correlation"))


def correlation_factor(d: int) -> Correlation:
    """The lower Cholesky factor of a (d, d) correlation matrix."""
    return Correlation(_at_least((d, d), 2, "correlation_factor"), as_factor=True)


def covariance(d: int) -> Covariance:
    """A (d, d) covariance matrix."""
    return Covariance(_at_least((d, d), 1, "covariance"))


def covariance_factor(d: int) -> Covariance:
    """The lower Cholesky factor of a (d, d) covariance matrix."""
    return Covariance(_at_least((d, d), 1, "covariance_factor"), as_factor=True)


def finite(k: int, *shape: int) -> Finite:
    """Whole numbers from 0 to k - 1, each summed out exactly; reported as probabilities.

    All their values are gone through together, so there may be at most 4096 of them: five numbers
    of five values, twelve of two.

    Raises:
        ValueError: for fewer than two values.
    """
    if not isinstance(k, int | np.integer) or k < 2:
        raise ValueError(f"finite needs at least two values; got k = {k!r}.")
    return Finite(int(k), _lengths(shape, "finite"))


def _lengths(shape: tuple[Any, ...], name: str) -> Shape:
    """A shape of whole numbers of at least 1."""
    if not all(isinstance(length, int | np.integer) and length > 0 for length in shape):
        raise ValueError(
            f"{name} takes lengths, whole numbers of at least 1, as in {name}(3) or {name}(3, 2); "
            f"got {', '.join(map(repr, shape))}."
        )
    return tuple(map(int, shape))


def _check_bound(name: str, bound: Bound, shape: Shape) -> None:
    if bound is None or callable(bound):
        return
    if not np.all(np.isfinite(bound)):
        raise ValueError(f"{name} must be finite; got {bound}. Use None for no bound on that side.")
    try:
        np.broadcast_to(bound, shape)
    except ValueError:
        raise ValueError(
            f"{name} must broadcast to the unknown's shape {shape}; its own is {np.shape(bound)}."
        ) from None


def _below(free: Float[Array, " p"], shape: Shape, diagonal: int) -> Array:
    """Free coordinates in the lower triangles of matrices that are zero elsewhere."""
    places = np.tril_indices(shape[-1], diagonal)
    packed = free.reshape(*shape[:-2], len(places[0]))
    return jnp.zeros(shape, free.dtype).at[(..., *places)].set(packed)


def _at_least(shape: Shape, length: int, name: str) -> Shape:
    shape = _lengths(shape, name)
    if not shape or shape[-1] < length:
        raise ValueError(f"{name} needs a last axis of at least {length}; got shape {shape}.")
    return shape


def _count(shape: Shape) -> int:
    return int(np.prod(shape, dtype=int))


def _bound(bound: Bound, known: Known) -> Any:
    return bound(known) if callable(bound) else bound


def contrasts(k: int) -> Float[np.ndarray, "k j"]:
    """An orthonormal basis of the vectors of length k that sum to zero (Helmert's)."""
    basis = np.zeros((k, k - 1))
    for j in range(1, k):
        basis[:j, j - 1] = 1.0
        basis[j, j - 1] = -j
        basis[:, j - 1] /= np.sqrt(j * (j + 1))
    return basis
