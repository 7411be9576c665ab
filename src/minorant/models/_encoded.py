"""The latent of a user's model bounded by one encoder for all rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from minorant import _factors
from minorant._types import Array, Rows
from minorant.models._latents import (
    AbstractRoute,
    free_size,
    log_free_joint,
    prior_of,
    start_of,
)
from minorant.models._states import coordinate_values, is_product
from minorant.posteriors import AbstractPosterior, Gaussian, Product
from minorant.posteriors.amortised import gaussian_outputs
from minorant.posteriors.in_rows import FiniteInRows, GaussianInRows
from minorant.posteriors.local import best_gaussians, number_of_draws

_DRAWS = 64  # averaged over in what is told of rows


class Encoded(AbstractRoute):
    """Q of every row from the model's encoder."""

    def posterior(self, model: Any, rows: Rows) -> AbstractPosterior:
        """Gaussians in free coordinates; probabilities of finite coordinates."""
        q = in_rows(model, rows)
        if isinstance(q, FiniteInRows):
            return Product(q.log_probability, jnp.asarray(q.values)[None])
        return Gaussian(q.mean, q.factor @ jnp.swapaxes(q.factor, -1, -2))

    def log_evidence(self, model: Any, rows: Rows) -> Float[Array, " n"]:
        """The bound, on draws that are the same every time and were not climbed on."""
        bound, q = model.family.bound, in_rows(model, rows)
        count = bound.draws * -(-_DRAWS // bound.draws)
        return bound.of_draws(joint_of(model, rows), q, q.noise(jax.random.key(0), count))

    def reason(self) -> str:
        """Encoded."""
        return (
            "one encoder, climbed together with the model, gives every row's q; its bound takes "
            "the place of log p(x)"
        )

    def is_exact(self) -> bool:
        """It is not."""
        return False


def in_rows(model: Any, rows: Rows) -> GaussianInRows | FiniteInRows:
    """The encoder's q of every row."""
    prior = prior_of(model)
    if is_product(prior):
        return model.family.finite(rows, coordinate_values(prior), tuple(prior.event_shape))
    return model.family.gaussians(rows, start_of(model, rows))


def refined_in_rows(model: Any, rows: Rows) -> GaussianInRows:
    """Every row's own best Gaussian of the encoder's family, climbed to from the encoder's.

    Raises:
        TypeError: for a latent that is not continuous.
    """
    q = in_rows(model, rows)
    if not isinstance(q, GaussianInRows):
        raise TypeError(
            "refine= is for continuous latents: these are finite, and have no Gaussian."
        )
    l = q.mean.shape[-1]
    diagonal = not model.family.is_full(l)
    s = number_of_draws(l)
    best = best_gaussians(log_free_joint, (model, rows), q.mean, s, diagonal, q.factor).posterior
    return GaussianInRows(best.mean, _factors.cholesky(best.covariance))


def count_outputs(model: Any, encoder: Any) -> tuple[int, int]:
    """How many numbers of the encoder are means or logits, and how many it gives for a row.

    Raises:
        TypeError: for a latent that no encoder is for.
    """
    prior = prior_of(model)
    if is_product(prior):
        size = 1
        for length in prior.event_shape:
            size *= length
        size *= len(coordinate_values(prior))
        return size, size
    return gaussian_outputs(encoder, free_size(model))


def joint_of(model: Any, rows: Rows) -> Any:
    """``log p(x, z)`` of latents (s, n, ...) of all rows, as bounds take it."""
    return jax.vmap(lambda free: log_free_joint((model, rows), free))
