"""Covariance structures as objects: how a Gaussian-like component stores, scores and learns spread.

A component with structure S keeps ``covariance`` in the shape S says: ``Full`` (k, d, d), ``Tied``
(d, d), ``Diagonal`` (k, d), ``Spherical`` (k,). Every structure answers the same questions:
squared distances and log-determinants of a block (missing cells integrated out), moments about a
centre, and the covariance that maximises the likelihood of such moments above a floor. The two
matrix structures are in ``matrix_covariance.py``, the two scalar ones in
``scalar_covariance.py``.

``centred=False`` scores by natural parameters (two matrix products); ``centred=True`` subtracts
each mean first: slower, and right where a component is so narrow, or the precision so low, that
the products would lose too many digits. The climb switches by :func:`digits_lost`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from minorant._types import Affine, Array, PyTree, Rows


class Moments(NamedTuple):
    """Sums over rows about a centre; entries are per component, or per cell where cells differ.

    ``count`` sums r, ``mass`` sums a = r u (u = 1 but for heavy tails), ``first`` a (x - c),
    ``second`` a (x - c)(x - c)^T plus r C, where C is the conditional covariance of missing cells.
    """

    count: Float[Array, "k #d"]
    mass: Float[Array, "k #d"]
    first: Float[Array, "k d"]
    second: Float[Array, "k *rest"]


class Pseudo(NamedTuple):
    """What an inverse-Wishart prior adds: ``(second + scale) / (count + extra)``."""

    scale: Float[Array, "d d"]
    extra: Float[Array, ""]


class AbstractCovariance(eqx.Module):
    """How the spread of k components is stored, scored and learned."""

    centred: eqx.AbstractVar[bool]

    @abstractmethod
    def constraint(self) -> Any:
        """What the stored array may be."""

    @abstractmethod
    def prepare(self, mean: Float[Array, "k d"], covariance: Array) -> PyTree:
        """Factors and natural parameters for one pass."""

    @abstractmethod
    def distances(self, rows: Rows, prepared: PyTree) -> tuple[Array, Array]:
        """Squared distances (k, n) and log-determinants (k, n or 1) over the observed cells."""

    @abstractmethod
    def moments(self, rows: Rows, count: Array, mass: Array, prepared: PyTree) -> Moments:
        """Moments of the rows, missing cells completed; ``count`` r and ``mass`` r u are (k, n)."""

    @abstractmethod
    def estimate(self, moments: Moments, offset: Array, pseudo: Pseudo | None) -> Array:
        """The maximising covariance about ``centre + offset``, before the floor."""

    @abstractmethod
    def deviance(self, moments: Moments, offset: Array, covariance: Array) -> Float[Array, " k"]:
        """``sum r (d log 2 pi + log |S|) + tr(S^-1 scatter)`` about ``centre + offset``.

        Where components share the covariance, the shared sum of squares is split evenly.
        """

    @abstractmethod
    def about_origin(self, moments: Moments, centre: Array) -> Moments:
        """The moments about 0 of moments about a centre (k, d)."""

    @abstractmethod
    def floored(self, covariance: Array, floor: Float[Array, " d"]) -> Array:
        """The covariance raised, where it must be, to the floor."""

    @abstractmethod
    def matrices(self, covariance: Array, k: int, d: int) -> Float[Array, "k d d"]:
        """The covariance as full matrices."""

    @abstractmethod
    def rescaled(self, covariance: Array, units: Affine) -> Array:
        """The covariance in other units."""

    def rounding(self, prepared: PyTree) -> Array | float:
        """The largest condition number of a covariance; 1 for independent columns."""
        del prepared
        return 1.0

    @abstractmethod
    def stored(self, matrices: Array) -> Array:
        """Full matrices (k, d, d) in this structure's own shape."""

    def centre(self, mean: Array | None, like: Array) -> Array:
        """The point about which moments are summed: the mean when centred, else the origin."""
        if self.centred and mean is not None:
            return mean
        return jnp.zeros_like(like)


def digits_lost(matrices: Array, spread: float, eps: float) -> float:
    """Largest error of a log density in product form: ``eps * max_k sum |L_ij| s_i s_j``.

    Args:
        matrices: precision matrices (k, d, d), in standardised units.
        spread: the largest absolute standardised value.
        eps: machine epsilon of the precision computed in.
    """
    return float(eps * spread**2 * abs(matrices).sum((-2, -1)).max())
