r"""Normalising flows as members of a variational family: Gaussians bent by invertible layers.

.. math:: z = m + F (a + L\, T(u)), \qquad
          \log q(z) = \log p(u) - \log|\det \nabla T(u)| - \log|F L|

u is noise, T a stack of coupling layers, ``a + L x`` a full-rank affine map. m and F are constants:
they give the units in which everything that is learned is of order one, so that one step size
suits all of it.
"""

from __future__ import annotations

from typing import Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

from minorant import _linalg
from minorant._parameters import constant
from minorant._types import Array, Key
from minorant.posteriors._coupling import Couplings, Kind
from minorant.posteriors.members import AbstractMember

Tails = Literal["normal", "student"]
_FIRST_DEGREES = 30.0
_LEAST_DEGREES = 2.0


class Flow(AbstractMember):
    r"""A normalising flow: coupling layers on noise, and a full-rank affine map after them.

    Made by ``Flow.around``, it starts as a Gaussian and can only become better from there. Affine
    layers (Real NVP) suit one curved mode; splines also several modes, edges and peaks. Student-t
    noise gives every direction tails of its own, of the weight that the target asks for.

    Attributes:
        shift: (p,), a.
        lower: (p, p), L below the diagonal; what is elsewhere is not looked at.
        log_diagonal: (p,), the logarithms of the diagonal of L.
        couplings: T.
        center: (p,), m, a constant.
        frame: (p, p), F, lower triangular, a constant.
        inverse_frame: its inverse, a constant.
        log_excess: None for normal noise; else (p,), ``log(degrees of freedom - 2)``.

    Example:
        >>> import jax, numpy as np
        >>> from minorant.posteriors import Flow
        >>> q = Flow.around(np.zeros(2), np.eye(2), layers=2, key=jax.random.key(0))
        >>> draws, log_density = q.transform(q.noise(jax.random.key(1), 5))
        >>> draws.shape, bool(np.allclose(log_density, q.log_density(draws), atol=1e-4))
        ((5, 2), True)

    Not for: more than a few hundred coordinates (L alone has p^2 numbers), or where a Gaussian is
    exact and faster.

    Rezende & Mohamed (2015), "Variational inference with normalizing flows", equation 7; Dinh,
    Sohl-Dickstein & Bengio (2017); Durkan et al. (2019), "Neural spline flows".
    """

    shift: Float[Array, " p"]
    lower: Float[Array, "p p"]
    log_diagonal: Float[Array, " p"]
    couplings: Couplings
    center: Float[Array, " p"] = constant()
    frame: Float[Array, "p p"] = constant()
    inverse_frame: Float[Array, "p p"] = constant()
    log_excess: Float[Array, " p"] | None = None

    @classmethod
    def around(
        cls,
        mean: Float[Array, " p"],
        factor: Float[Array, "p p"],
        *,
        layers: int = 8,
        hidden: int | None = None,
        kind: Kind = "affine",
        tails: Tails = "normal",
        key: Key,
    ) -> Self:
        """The flow that is ``N(mean, factor factor')`` so far.

        With Student-t tails it has that mean and covariance, and 30 degrees of freedom.

        Args:
            mean: (p,).
            factor: (p, p), lower triangular with a positive diagonal.
            layers: coupling layers.
            hidden: width of the networks' two hidden layers; None for 2 p, from 32 to 128.
            kind: ``"affine"`` or ``"spline"``; one coordinate alone always moves by a spline.
            tails: ``"normal"``, or ``"student"`` for learned degrees of freedom, above 2.
            key: of the networks' random first layers.

        Raises:
            ValueError: for shapes that do not agree, or a factor that is not one.
        """
        mean, factor = np.asarray(mean), np.tril(np.asarray(factor))
        _check(mean, factor, kind, tails)
        p, dtype = len(mean), factor.dtype
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        width = hidden or min(max(32, 2 * p), 128)
        couplings = Couplings.identity(p, layers, width, kind if p > 1 else "spline", rng, dtype)
        excess, scale = None, 1.0
        if tails == "student":
            excess = np.full(p, np.log(_FIRST_DEGREES - _LEAST_DEGREES), dtype)
            scale = np.sqrt(1.0 - 2.0 / _FIRST_DEGREES).astype(dtype)
        frame = factor * scale
        inverse = solve_triangular(frame, np.eye(p, dtype=dtype), lower=True)
        zero, empty = np.zeros(p, dtype), np.zeros((p, p), dtype)
        return cls(zero, empty, zero, couplings, mean.astype(dtype), frame, inverse, excess)

    @property
    def size(self) -> int:
        """How many numbers a vector has."""
        return self.center.shape[-1]

    @property
    def degrees(self) -> Float[Array, " p"] | None:
        """Degrees of freedom of the noise's coordinates; None for normal noise."""
        if self.log_excess is None:
            return None
        return _LEAST_DEGREES + jnp.exp(self.log_excess)

    def noise(self, key: Key, s: int) -> Float[Array, "s e"]:
        """Standard normal draws: p, or for Student-t tails 2 p."""
        width = self.size if self.log_excess is None else 2 * self.size
        return jax.random.normal(key, (s, width), jnp.result_type(self.shift))

    def transform(
        self, noise: Float[Array, "s e"]
    ) -> tuple[Float[Array, "s p"], Float[Array, " s"]]:
        """Draws from noise, and ``log q`` of each."""
        base, log_base = self._base(noise.T)
        bent, log_determinant = self.couplings.forward(base)
        inner = self.shift[:, None] + self._lower() @ bent
        center, frame, _ = self._units()
        return (center[:, None] + frame @ inner).T, log_base - log_determinant - self._log_volume()

    def log_density(self, draws: Float[Array, "s p"]) -> Float[Array, " s"]:
        """``log q`` of any vectors, by one inverse pass, in nats."""
        center, _, inverse = self._units()
        inner = inverse @ (draws - center).T - self.shift[:, None]
        bent = _solved(self._lower(), inner)
        base, log_determinant = self.couplings.inverse(bent)
        return self._log_base(base) - log_determinant - self._log_volume()

    def _units(self) -> tuple[Array, Array, Array]:
        return jax.lax.stop_gradient((self.center, self.frame, self.inverse_frame))

    def _lower(self) -> Float[Array, "p p"]:
        return jnp.tril(self.lower, -1) + jnp.diag(jnp.exp(self.log_diagonal))

    def _log_volume(self) -> Float[Array, ""]:
        return self.log_diagonal.sum() + jnp.log(jnp.diagonal(self._units()[1])).sum()

    def _base(self, noise: Float[Array, "e s"]) -> tuple[Float[Array, "p s"], Float[Array, " s"]]:
        r"""The base's draws and their log density.

        Two normal numbers (a, b) make one with Student's distribution, for any degrees of freedom:
        ``t = a sqrt(v (exp(r^2 / v) - 1)) / r`` with ``r^2 = a^2 + b^2``. Bailey (1994), "Polar
        generation of random variates with the t-distribution".
        """
        degrees = self.degrees
        if degrees is None:
            return noise, self._log_base(noise)
        first, second = jnp.split(noise, 2)
        exponent = (first**2 + second**2) / degrees[:, None]
        base = first * jnp.sqrt(_relative_expm1(exponent))
        return base, self._log_base(base)

    def _log_base(self, base: Float[Array, "p s"]) -> Float[Array, " s"]:
        degrees = self.degrees
        if degrees is None:
            return -0.5 * ((base**2).sum(0) + self.size * _linalg.LOG_TWO_PI)
        half = 0.5 * (degrees + 1.0)
        log_gamma = jax.scipy.special.gammaln
        constants = log_gamma(half) - log_gamma(0.5 * degrees) - 0.5 * jnp.log(np.pi * degrees)
        log_tails = half[:, None] * jnp.log1p(base**2 / degrees[:, None])
        return constants.sum() - log_tails.sum(0)


def _solved(lower: Float[Array, "p p"], right: Float[Array, "p s"]) -> Float[Array, "p s"]:
    """``L^-1 b`` row by row: LAPACK's threads and the program's own are in each other's way."""
    turned = jnp.flip(jnp.swapaxes(lower, -1, -2))
    return jax.lax.custom_linear_solve(
        lambda x: lower @ x,
        right,
        solve=lambda _, b: _substituted(lower, b),
        transpose_solve=lambda _, b: jnp.flip(_substituted(turned, jnp.flip(b, 0)), 0),
    )


def _substituted(lower: Float[Array, "p p"], right: Float[Array, "p s"]) -> Float[Array, "p s"]:
    """Forward substitution."""

    def row(i: Array, found: Array) -> Array:
        own = jax.lax.dynamic_index_in_dim(lower, i, 0, keepdims=False)
        left = jax.lax.dynamic_index_in_dim(right, i, 0, keepdims=False) - own @ found
        pivot = jax.lax.dynamic_index_in_dim(own, i, 0, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(found, left / pivot, i, 0)

    return jax.lax.fori_loop(0, len(right), row, jnp.zeros_like(right))


def _relative_expm1(x: Array) -> Array:
    """``(exp(x) - 1) / x``, 1 at 0."""
    safe = jnp.where(x > 0, x, 1.0)
    return jnp.where(x > 0, jnp.expm1(safe) / safe, 1.0)


def _check(mean: np.ndarray, factor: np.ndarray, kind: str, tails: str) -> None:
    if mean.ndim != 1 or len(mean) == 0 or factor.shape != (len(mean), len(mean)):
        raise ValueError(
            f"mean must have shape (p,) and factor (p, p), p at least 1; got {mean.shape} and "
            f"{factor.shape}."
        )
    diagonal = np.diagonal(factor)
    if not (np.isfinite(factor).all() and np.isfinite(mean).all() and (diagonal > 0).all()):
        raise ValueError(
            "mean and factor must be finite, and the factor's diagonal above 0; got the diagonal "
            f"{diagonal.tolist()}. Give the lower Cholesky factor of a covariance."
        )
    if kind not in ("affine", "spline"):
        raise ValueError(f"kind must be 'affine' or 'spline'; got {kind!r}.")
    if tails not in ("normal", "student"):
        raise ValueError(f"tails must be 'normal' or 'student'; got {tails!r}.")
