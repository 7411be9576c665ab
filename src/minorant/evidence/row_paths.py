r"""Paths of rows: from every row's q, a Gaussian or a mixture of some, to its posterior.

Places are in coordinates in which the row's own Gaussian is a standard normal one.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import special

from minorant import _config, _factors
from minorant._linalg import LOG_TWO_PI
from minorant._types import Array, Key, Rows
from minorant.evidence.amortisation import is_amortised
from minorant.evidence.kernels import AbstractPath, Ends, gaussian, sound
from minorant.models._latents import prior_of


class Parts(NamedTuple):
    """A mixture of k Gaussians for each of n rows; a part of weight 0 is none.

    Attributes:
        log_weights: (k, n), normalised.
        centres: (k, n, l).
        roots: (k, n, l, l), lower triangles of covariances.
        inverses: of the roots.
    """

    log_weights: Any
    centres: Any
    roots: Any
    inverses: Any

    @classmethod
    def standard(cls, n: int, size: int) -> Self:
        """The rows' own Gaussians alone."""
        roots = np.broadcast_to(np.eye(size), (1, n, size, size))
        return cls(np.zeros((1, n)), np.zeros((1, n, size)), roots, roots)

    def log_density(self, places: Float[Array, "c n l"]) -> Float[Array, "c n"]:
        """``log sum_k pi_k N(v | c_k, L_k L_k')``."""
        scaled = jnp.einsum("knij,cknj->ckni", self.inverses, places[:, None] - self.centres)
        volume = jnp.log(jnp.diagonal(self.inverses, axis1=-2, axis2=-1)).sum(-1)
        each = volume - 0.5 * (scaled**2).sum(-1) - 0.5 * LOG_TWO_PI * places.shape[-1]
        return jax.nn.logsumexp(each + self.log_weights, axis=1)

    def drawn(self, c: int, rng: np.random.Generator) -> Float[np.ndarray, "c n l"]:
        """``c`` draws for each row."""
        k, n, size = self.centres.shape
        noise = rng.normal(size=(c, n, size))
        edges = np.cumsum(np.exp(self.log_weights), axis=0)[:-1]
        which = (rng.uniform(size=(c, 1, n)) >= edges).sum(1)
        rows = np.arange(n)
        roots = np.asarray(self.roots)[which, rows]
        return self.centres[which, rows] + np.einsum("cnij,cnj->cni", roots, noise)

    def with_parts(self, shares: np.ndarray, centres: np.ndarray, roots: np.ndarray) -> Self:
        """With more parts of all rows, in shares of the whole."""
        old = self.log_weights + np.log1p(-np.minimum(shares.sum(0), 0.999))
        with np.errstate(divide="ignore"):
            log_weights = np.concatenate([old, np.log(shares)])
        log_weights = log_weights - special.logsumexp(log_weights, axis=0)
        parts = (
            np.concatenate([first, more])
            for first, more in ((self.centres, centres), (self.roots, roots))
        )
        centres, roots = parts
        return type(self)(log_weights, centres, roots, np.linalg.inv(roots))


class RowsPath(AbstractPath):
    """From every row's q, or a Gaussian ``scale`` times as wide as its own, to its posterior.

    Attributes:
        model: with the prior and the likelihood.
        rows: a block of n.
        mean: (n, l), in free coordinates.
        factor: (n, l, l).
        scale: (c,), of each chain.
        parts: q; None for the Gaussian.
    """

    model: Any
    rows: Rows
    mean: Float[Array, "n l"]
    factor: Float[Array, "n l l"]
    scale: Float[Array, " c"]
    parts: Parts | None = None

    def ends(self, places: Float[Array, "c n l"]) -> Ends:
        """Of the joint density and of q."""
        points = self.mean + jnp.einsum("nij,cnj->cni", self.factor, places)
        log_joint, back = jax.vjp(self.model.log_joint_of(self.rows), points)
        (slope,) = back(jnp.ones_like(log_joint))
        log_volume = jnp.log(jnp.abs(jnp.diagonal(self.factor, axis1=-2, axis2=-1))).sum(-1)
        slope = jnp.einsum("nij,cni->cnj", self.factor, slope)
        return sound(Ends(log_joint + log_volume, slope, *self._start(places)))

    def _start(self, places: Array) -> tuple[Array, Array]:
        if self.parts is None:
            return gaussian(places, self.scale[:, None])
        log_q, back = jax.vjp(self.parts.log_density, places)
        (slope,) = back(jnp.ones_like(log_q))
        return log_q, slope

    def width(self, inverse: Array) -> Array:
        """Between the Gaussian's and one, by precisions."""
        return (1.0 / jnp.sqrt(inverse + (1.0 - inverse) / self.scale**2))[:, None]


def places_of(points: Float[np.ndarray, "*c n l"], mean: Any, factor: Any) -> np.ndarray:
    """Free coordinates as places."""
    return np.linalg.solve(factor, (points - mean)[..., None])[..., 0]


def points_of(places: Float[np.ndarray, "*c n l"], mean: Any, factor: Any) -> np.ndarray:
    """Places as free coordinates."""
    return mean + np.einsum("nij,...nj->...ni", factor, places)


def _of_rows(model: Any, rows: Rows) -> tuple[Array, Array]:
    """Every row's best Gaussian: mean and factor."""
    if is_amortised(model):
        q = model.refined_in_rows(rows)
        return q.mean, q.factor
    q = model.posterior(rows, None)
    return q.mean, _factors.cholesky(q.covariance)


def to_free(model: Any, latents: Array) -> Float[Array, "n l"]:
    """Latents in the coordinates that chains walk in."""
    from numpyro.distributions import biject_to

    bijection = biject_to(prior_of(model).support)
    return jax.vmap(lambda z: jnp.ravel(bijection.inv(z)))(latents)


def _of_prior(model: Any, key: Key, like: Array) -> Float[Array, "s l"]:
    return to_free(model, prior_of(model).sample(key, like.shape))


gaussians = _config.small_jit(_of_rows)
prior_draws = _config.small_jit(_of_prior)
