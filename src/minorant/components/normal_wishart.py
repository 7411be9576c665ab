r"""The normal-Wishart prior of a Gaussian's mean and precision, and divergences from it.

.. math:: \Lambda \sim W(V_0^{-1}, \nu_0), \qquad
          \mu \mid \Lambda \sim N(m_0, (\beta_0 \Lambda)^{-1})

Structures of independent columns take it cell by cell, as a normal-gamma: ``lambda ~ Gamma(nu_0 /
2, rate V_0 / 2)`` with ``V_0`` the diagonal of the scale (its mean where columns share a variance).
Expectations under q are written with ``S = V / nu``, the inverse of the expected precision.

Bishop (2006), "Pattern recognition and machine learning", section 10.2.1 and appendix B.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln
from jaxtyping import Float

from minorant import _factors, _linalg
from minorant._parameters import given
from minorant._types import Affine, Array, Summary


class NormalWishart(eqx.Module):
    """The conjugate prior of a mean and a precision matrix, the same for every component.

    Args:
        mean: (d,) ``m_0``, in the data's units; None: the mean of every column.
        mean_precision: ``beta_0``, how many rows the prior mean is worth, above 0; None: 1.
        degrees: ``nu_0``, how many rows the prior scale is worth, above ``d - 1`` for matrices and
            above 0 for independent columns; None: ``d + 2``.
        scale: (d, d) ``V_0``, squared units; None: the columns' variances over ``k^(2/d)``.

    Raises:
        ValueError: for a precision that is not above 0.

    Example:
        >>> import numpy as np
        >>> from minorant.components import NormalWishart
        >>> NormalWishart(scale=np.eye(2), degrees=4.0).degrees
        4.0
    """

    mean: Float[Array, " d"] | None = None
    mean_precision: Float[Array, ""] | None = None
    degrees: Float[Array, ""] | None = None
    scale: Float[Array, "d d"] | None = None

    def __check_init__(self) -> None:
        """Raise ValueError for what is no density."""
        for name in ("mean_precision", "degrees"):
            value = getattr(self, name)
            if isinstance(value, int | float | np.ndarray) and not np.all(np.asarray(value) > 0):
                raise ValueError(f"NormalWishart {name} must be above 0; got {value}.")

    def configured(self, summary: Summary, n_components: int, matrix: bool) -> NormalWishart:
        """Filled from the data where the user left it open, and checked against the columns.

        Args:
            summary: of the columns.
            n_components: k.
            matrix: whether the precision is a matrix, and not one number for each column.
        """
        d = summary.n_columns
        mean = summary.mean if self.mean is None else np.asarray(self.mean, dtype=float)
        scale = _default_scale(summary, n_components) if self.scale is None else self.scale
        degrees = np.asarray(d + 2.0 if self.degrees is None else self.degrees, dtype=float)
        precision = np.asarray(1.0 if self.mean_precision is None else self.mean_precision, float)
        found = NormalWishart(mean, precision, degrees, np.asarray(scale, dtype=float))
        _check_prior(found, d, matrix)
        return found

    def rescaled(self, units: Affine) -> NormalWishart:
        """The same prior for rows in other units."""
        scale = given(self.scale) / (units.scale[:, None] * units.scale)
        mean = units.apply(np.asarray(given(self.mean)))
        return NormalWishart(mean, self.mean_precision, self.degrees, scale)


def _default_scale(summary: Summary, n_components: int) -> Float[np.ndarray, "d d"]:
    variance = np.where(summary.variance > 0, summary.variance, 1.0)
    return np.diag(variance) / n_components ** (2.0 / summary.n_columns)


def _check_prior(prior: NormalWishart, d: int, matrix: bool) -> None:
    """Raise a ValueError for a prior that does not fit the columns or has no finite integral."""
    for name, shape in (("mean", (d,)), ("scale", (d, d))):
        found = np.shape(getattr(prior, name))
        if found != shape:
            raise ValueError(f"NormalWishart {name} must have shape {shape}; got {found}.")
    least = d - 1 if matrix else 0
    if not np.all(np.asarray(prior.degrees) > least):
        raise ValueError(
            f"NormalWishart degrees must be above {least} for {d} columns; got {prior.degrees}: "
            "with fewer the prior has no finite integral."
        )
    scale = np.asarray(prior.scale)
    if not np.allclose(scale, scale.T) or not _linalg.above(scale, 0.0):
        raise ValueError("NormalWishart scale must be a symmetric positive definite matrix.")


def log_precision_gap(degrees: Array, order: int) -> Array:
    """``E log |Lambda| + log |S| = sum_i digamma((nu + 1 - i) / 2) + order log(2 / nu)``."""
    halves = 0.5 * (degrees[..., None] - np.arange(order, dtype=degrees.dtype))
    return digamma(halves).sum(-1) - order * jnp.log(0.5 * degrees)


def wishart_divergence(
    degrees: Array, log_determinant: Array, trace: Array, prior: tuple[Array, Array], order: int
) -> Array:
    r"""``KL(W(V^-1, nu) || W(V_0^-1, nu_0))`` with ``V = nu S``; order 1: of gammas.

    .. math:: \tfrac12 [\nu_0 (\log|V| - \log|V_0|) + tr(V_0 S^{-1}) - \nu d
              + (\nu - \nu_0) \psi_d(\nu/2)] + \log \Gamma_d(\nu_0/2) - \log \Gamma_d(\nu/2)

    Args:
        degrees: ``nu``.
        log_determinant: ``log |S|``.
        trace: ``tr(V_0 S^-1)``.
        prior: ``nu_0`` and ``log |V_0|``.
        order: d, the order of the matrices.
    """
    first, log_scale = prior
    steps = 0.5 * np.arange(order, dtype=degrees.dtype)
    halves, first_halves = 0.5 * degrees[..., None] - steps, 0.5 * first - steps
    log_ratio = log_determinant + order * jnp.log(degrees) - log_scale
    quadratic = first * log_ratio + trace - degrees * order
    gammas = (gammaln(first_halves) - gammaln(halves)).sum(-1)
    return 0.5 * (quadratic + (degrees - first) * digamma(halves).sum(-1)) + gammas


def mean_divergence(precision: Array, prior: Array) -> Array:
    """``E KL(N(m, (beta Lambda)^-1) || N(m_0, (beta_0 Lambda)^-1))`` per column, less the square.

    ``(beta_0 / beta - 1 + log(beta / beta_0)) / 2``; the square ``beta_0 (m - m_0)' S^-1 (m -
    m_0) / 2`` is to be added.
    """
    ratio = prior / precision
    return 0.5 * (ratio - 1.0 - jnp.log(ratio))


def log_determinant(matrices: Float[Array, "*batch d d"]) -> Float[Array, "*batch"]:
    """``log |S|`` of positive definite matrices."""
    return _linalg.log_determinant_from_cholesky(_factors.cholesky(matrices))


def student_t(square: Array, log_determinant: Array, degrees: Array, order: Any) -> Array:
    """``log t`` of ``order`` cells at a squared distance in units of the scale matrix."""
    half = 0.5 * (degrees + order)
    normaliser = gammaln(half) - gammaln(0.5 * degrees) - 0.5 * order * jnp.log(degrees * np.pi)
    return normaliser - 0.5 * log_determinant - half * jnp.log1p(square / degrees)
