r"""Gaussian chains seen through Gaussian noise: what they are made of, and the Kalman filter.

.. math:: z_1 \sim N(m, P), \quad z_t = A z_{t-1} + o_t + N(0, Q), \qquad
          y_t = W_t z_t + N(0, I)

Observations arrive whitened: ``W`` and ``y`` are C and x divided by a root of R, and a missing cell
is a row of zeros in ``W``. The first row of a group has A = 0 and Q = P.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import lu_factor, lu_solve
from jaxtyping import Bool, Float

from minorant import _factors
from minorant._factors import solve_triangular
from minorant._types import Array, PyTree


class Chain(NamedTuple):
    """The prior of the states: ``N(mean, covariance)`` first, then ``A z + o + N(0, noise)``."""

    mean: Float[Array, " l"]
    covariance: Float[Array, "l l"]
    transition: Float[Array, "l l"]
    noise: Float[Array, "l l"]


class Observed(NamedTuple):
    """A block of rows as the chain sees them.

    Attributes:
        start: ``(n,)`` True at the first row of every group.
        weight: ``(n,)``, constant inside a group.
        offset: what is added to the state on its way into the row: ``(l,)``, and the chain's
            mean at first rows; or ``(n, l)``, first rows included.
        value: ``(n, c)``, y; 0 where missing.
        pattern: what ``factor`` needs of each row; leaves (n, ...), or None when rows are complete.
        factor: (pattern of one row, or None) to its ``W`` (c, l).
        complete: ``(n,)`` rows whose ``W`` is ``factor(None)``; None when all are.
    """

    start: Bool[Array, " n"]
    weight: Float[Array, " n"]
    offset: Float[Array, "*n l"]
    value: Float[Array, "n c"]
    pattern: PyTree
    factor: Callable[[PyTree], Float[Array, "c l"]]
    complete: Bool[Array, " n"] | None = None


class Filtered(NamedTuple):
    """Predicted and filtered moments, and ``log p(y_t | y_<t)`` without ``d log(2 pi) / 2``."""

    predicted_mean: Float[Array, "n l"]
    predicted_covariance: Float[Array, "n l l"]
    mean: Float[Array, "n l"]
    covariance: Float[Array, "n l l"]
    log_density: Float[Array, " n"]


def filtered(chain: Chain, observed: Observed) -> Filtered:
    """The Kalman filter, row by row, differentiable as often as wished.

    The measurement update is Joseph's, so covariances stay symmetric and positive semi-definite;
    in low precision roots of covariances are rotated instead.

    Anderson & Moore (1979), "Optimal filtering", section 3.1; Bucy & Joseph (1968), "Filtering for
    stochastic processes with applications to guidance".
    """
    step = _joseph_step(chain, observed) if _is_wide(chain) else _root_step(chain, observed)
    return jax.lax.scan(step, nowhere(chain), _rows(chain, observed))[1]


def filtered_from(
    chain: Chain, observed: Observed, carry: tuple[Array, Array]
) -> tuple[tuple[Array, Array], Filtered]:
    """From the moments of the row before to those of the last; safe where many go side by side."""
    return jax.lax.scan(_joseph_step(chain, observed, False), carry, _rows(chain, observed))


def _rows(chain: Chain, observed: Observed) -> tuple[Any, ...]:
    return observed.start, entering(chain, observed), observed.pattern, observed.value


def _is_wide(chain: Chain) -> bool:
    return chain.noise.dtype == jnp.float64


def _joseph_step(chain: Chain, observed: Observed, alone: bool = True) -> Callable[..., Any]:
    def step(carry: tuple[Array, Array], row: Any) -> tuple[tuple[Array, Array], Filtered]:
        first, shift, pattern, y = row
        mean = jnp.where(first, 0.0, chain.transition @ carry[0]) + shift
        moved = chain.transition @ carry[1] @ chain.transition.T + chain.noise
        covariance = jnp.where(first, chain.covariance, moved)
        W = observed.factor(pattern)
        gain = _wide_gain if alone and W.shape[0] > W.shape[1] else _gain
        new_mean, new, log_density = _measured(mean, covariance, W, y, gain(covariance, W))
        return (new_mean, new), Filtered(mean, covariance, new_mean, new, log_density)

    return step


def _root_step(chain: Chain, observed: Observed) -> Callable[..., Any]:
    """Kailath, Sayed & Hassibi (2000), section 12.3: the carry is (mean, F), ``P = F' F``."""
    roots = Roots.of(chain)

    def step(carry: tuple[Array, Array], row: Any) -> tuple[tuple[Array, Array], Filtered]:
        first, shift, pattern, y = row
        W = observed.factor(pattern)
        c, l = W.shape
        mean = jnp.where(first, 0.0, chain.transition @ carry[0]) + shift
        moved = jnp.concatenate([carry[1] @ chain.transition.T, roots.noise.T])
        F = jnp.where(first, roots.first.T, jnp.linalg.qr(moved, mode="r"))
        array = jnp.concatenate(
            [jnp.eye(c, c + l, dtype=F.dtype), jnp.concatenate([F @ W.T, F], 1)]
        )
        upper = jnp.linalg.qr(array, mode="r")
        surprise = solve_triangular(upper[:c, :c].T, y - W @ mean, lower=True)
        new_mean, new = mean + surprise @ upper[:c, c:], upper[c:, c:]
        log_det = jnp.log(jnp.abs(jnp.diagonal(upper[:c, :c]))).sum()
        log_density = -log_det - 0.5 * (surprise @ surprise)
        return (new_mean, new), Filtered(mean, F.T @ F, new_mean, new.T @ new, log_density)

    return step


def _measured(
    mean: Array, covariance: Array, factor: Array, y: Array, found: tuple[Array, Array]
) -> tuple[Array, ...]:
    """Moments after one whitened observation, and ``-(log|S| + e' S^-1 e) / 2``."""
    gain, half_log_det = found
    new_mean = mean + gain @ (y - factor @ mean)
    rest = jnp.eye(len(mean), dtype=mean.dtype) - gain @ factor
    new = rest @ covariance @ rest.T + gain @ gain.T
    # e' S^-1 e as a sum of squares: what is left after the update, and how far the mean moved.
    left = y - factor @ new_mean
    pull = factor.T @ left
    return new_mean, new, -half_log_det - 0.5 * (left @ left + pull @ covariance @ pull)


def _gain(covariance: Array, factor: Array) -> tuple[Array, Array]:
    """``P W' (I + W P W')^-1`` and half the log-determinant, by the cells' own matrix."""
    spread = factor @ covariance
    root = _factors.cholesky(jnp.eye(factor.shape[0], dtype=factor.dtype) + spread @ factor.T)
    half = solve_triangular(root, spread, lower=True)
    gain = solve_triangular(root.T, half, lower=False).T
    return gain, jnp.log(jnp.diagonal(root)).sum()


def _wide_gain(covariance: Array, factor: Array) -> tuple[Array, Array]:
    """The same for more cells than states: ``(I + P W' W)^-1 P W'``, an l by l system.

    LAPACK's, so not for many at once (:mod:`minorant._factors`).
    """
    eye = jnp.eye(factor.shape[1], dtype=factor.dtype)
    lu = lu_factor(eye + covariance @ (factor.T @ factor))
    gain = lu_solve(lu, covariance @ factor.T)
    return gain, 0.5 * jnp.log(jnp.abs(jnp.diagonal(lu[0]))).sum()


# Parts that filter and smoother share


class Roots(NamedTuple):
    """A chain with roots ``P = F F'`` and ``Q = G G'``, both of which may be singular."""

    chain: Chain
    first: Float[Array, "l l"]
    noise: Float[Array, "l l"]

    @staticmethod
    def of(chain: Chain) -> Roots:
        """Both roots."""
        return Roots(chain, _root(chain.covariance), _root(chain.noise))

    @property
    def is_array(self) -> bool:
        """Whether information is carried as a root: where the precision is low."""
        return not _is_wide(self.chain)


def nowhere(chain: Chain) -> tuple[Float[Array, " l"], Float[Array, "l l"]]:
    """A vector and a matrix of zeros: where both passes begin."""
    return jnp.zeros_like(chain.mean), jnp.zeros_like(chain.noise)


def entered_by(roots: Roots, first: Array) -> tuple[Array, Array]:
    """The transition and the root of the noise that enter a row."""
    A = jnp.where(first, 0.0, roots.chain.transition)
    return A, jnp.where(first, roots.first, roots.noise)


def entering(chain: Chain, observed: Observed) -> Float[Array, "n l"]:
    """What is added to the state on its way into each row."""
    if observed.offset.ndim == 2:
        return observed.offset
    return jnp.where(observed.start[:, None], chain.mean, observed.offset)


def _root(matrix: Float[Array, "l l"]) -> Float[Array, "l l"]:
    """A Cholesky factor; of a singular matrix a root by eigenvalues, which has no derivatives."""

    def spectral(matrix: Array) -> Array:
        values, vectors = jnp.linalg.eigh(matrix)
        return vectors * jnp.sqrt(jnp.maximum(values, 0.0))

    regular = jnp.isfinite(_factors.cholesky(jax.lax.stop_gradient(matrix))).all()
    return jax.lax.cond(regular, _factors.cholesky, spectral, matrix)
