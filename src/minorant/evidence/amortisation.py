r"""What the gap of an encoder's bound is made of: the family's part and the encoder's.

.. math:: \log p(x) - L(q_\phi) = \underbrace{\log p(x) - L(q^*)}_{\text{approximation}}
          + \underbrace{L(q^*) - L(q_\phi)}_{\text{amortisation}}

q* is the row's own best Gaussian, climbed to from the encoder's; both bounds are averaged over the
same noise, so that their difference is known better than either. log p(x) is estimated by the
importance weights of q*, which fits the row better than the encoder's q does.

Cremer, Li & Duvenaud (2018), "Inference suboptimality in variational autoencoders", equations 3-5.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._types import Array, PyTree, Rows
from minorant.data.arrays import ArraySource
from minorant.evidence.scoring import Scored, mapped
from minorant.models.user import Model
from minorant.posteriors import Encoder
from minorant.result import Fit, GapSplit

_AT_ONCE = 50


def is_amortised(model: Any) -> bool:
    """Whether one encoder gives the Gaussian q of all rows."""
    return isinstance(getattr(model, "family", None), Encoder) and model.is_smooth()


def amortised_log_weights(
    fit: Fit, scored: Scored, seed: int, s: int
) -> tuple[Float[np.ndarray, "n s"], Float[np.ndarray, "n s"]]:
    """Log weights of every row's draws, by the encoder's q and by the row's own best."""
    return mapped(fit, scored, _log_weights, np.int32(seed), np.zeros(s, np.int8))


def split_of(
    encoded: Float[np.ndarray, "n s"],
    refined: Float[np.ndarray, "n s"],
    estimate: Float[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"],
) -> GapSplit:
    """Both parts in total and per row; rows of weight zero count for nothing in totals."""
    gained = refined - encoded
    amortisation = gained.mean(axis=1)
    approximation = estimate - refined.mean(axis=1)
    error = gained.std(axis=1) / np.sqrt(gained.shape[1])
    counted = weight > 0
    totals = [float((weight * part)[counted].sum()) for part in (approximation, amortisation)]
    spread = float(np.sqrt(((weight * error)[counted] ** 2).sum()))
    return GapSplit(totals[0], totals[1], spread, approximation, amortisation)


def split_sentence(split: GapSplit, total: float) -> str:
    """Which part is larger, and what closes it."""
    parts = (split.approximation / total, split.amortisation / total)
    said = (
        f"Of it the Gaussian family misses {parts[0]:.3g} (approximation) and the encoder "
        f"{parts[1]:.3g} (amortisation)"
    )
    if parts[1] > max(parts[0], 0.01):
        return f"{said}: fit.posterior(X, refine=True) wins the latter back."
    return f"{said}."


@_config.small_jit
def _log_weights(
    model: Model, source: ArraySource, seed: Array, like: Array
) -> tuple[tuple[Array, Array], ...]:
    """(n, s) log weights by each q; both take the same noise."""

    def weighed(parameters: PyTree, rows: Rows) -> tuple[Array, Array]:
        model, seed = parameters
        kinds, joint = (model.in_rows(rows), model.refined_in_rows(rows)), model.log_joint_of(rows)
        keys = jax.random.split(jax.random.key(seed), like.shape[0])

        def one(key: Array) -> tuple[Array, Array]:
            noise = kinds[0].noise(key, 1)
            drawn = [q.transform(noise) for q in kinds]
            first, second = ((joint(latents) - log_q)[0] for latents, log_q in drawn)
            return first, second

        found = jax.lax.map(one, keys, batch_size=_AT_ONCE)
        return found[0].T, found[1].T

    return source.map(weighed, (model, jnp.asarray(seed)))
