r"""Evidence of rows whose latent is bounded: importance weights of each row's own q.

.. math:: \log \hat p(x) = \log \frac1s \sum_j w_j, \quad w_j = \frac{p(x, z_j)}{q(z_j)},
          \quad z_j \sim q

Its expectation lies between the bound and log p(x), and draws are fresh: the climb has not seen
them. Burda, Grosse & Salakhutdinov (2016), "Importance weighted autoencoders", equation 8.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from minorant import _config
from minorant._pareto import NEARLY_EQUAL, UNRELIABLE, averaged, smoothed
from minorant._types import Array, PyTree, Rows
from minorant.data.arrays import ArraySource
from minorant.evidence.amortisation import (
    amortised_log_weights,
    is_amortised,
    split_of,
    split_sentence,
)
from minorant.evidence.scoring import Scored, mapped
from minorant.models.user import Model
from minorant.result import Evidence, Fit, GapSplit

_DRAWS = 1000
_SHOWN = 5
_SMALL_GAP = 0.05


def bounded_evidence(fit: Fit, scored: Scored, seed: int = 0) -> Evidence:
    """Bound, importance-weighted estimate and k-hat of every row, with Monte Carlo errors."""
    encoded, log_weights = _both_log_weights(fit, scored, seed)
    lower = encoded.mean(axis=1)
    estimate, spread = averaged(log_weights)
    error = spread / np.sqrt(log_weights.shape[1])
    shape = np.array([smoothed(row)[1] for row in log_weights])
    weight = np.ones(len(lower)) if scored.table.weights is None else scored.table.weights
    counted = weight > 0
    totals = [float((part * weight)[counted].sum()) for part in (lower, estimate)]
    endless = np.full(len(lower), np.inf)
    sound = (shape < UNRELIABLE) | (spread < NEARLY_EQUAL)
    split = None
    if log_weights is not encoded:
        split = split_of(encoded, log_weights, estimate, weight)
    return Evidence(
        totals[0],
        totals[1],
        np.inf,
        totals[1] - totals[0],
        float(np.sqrt(((weight * error)[counted] ** 2).sum())),
        lower,
        estimate,
        endless,
        estimate - lower,
        shape,
        _verdict(estimate - lower, sound, weight, split),
        split,
    )


def _both_log_weights(fit: Fit, scored: Scored, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """By the q that the bound is of, and by the one that log p(x) is estimated with."""
    if is_amortised(fit.standardised):
        found = amortised_log_weights(fit, scored, seed, _DRAWS)
    else:
        found = (mapped(fit, scored, _log_weights, np.int32(seed)),)
    wide = [part.astype(float) - scored.log_scale[:, None] for part in found]
    return wide[0], wide[-1]


def _verdict(
    gap: Float[np.ndarray, " n"],
    sound: Bool[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"],
    split: GapSplit | None,
) -> str:
    """How loose the bound is, where, and whether its weights can be relied on."""
    mean = float((weight * gap).sum() / weight.sum())
    worst = np.argsort(-weight * gap, kind="stable")[:_SHOWN]
    listed = ", ".join(f"{int(row)} ({gap[row]:.3g})" for row in worst)
    size = "tight" if mean <= _SMALL_GAP else "loose"
    lost = np.flatnonzero(~sound)
    trust = "In every row k-hat is below 0.7 or weights hardly differ: the estimate can be trusted."
    if len(lost):
        trust = (
            f"k-hat is above 0.7 in {len(lost)} row(s), such as {int(lost[0])}: log p(x) may be "
            "higher there than is told."
        )
    parts = "" if split is None else f"{split_sentence(split, float(weight.sum()))} "
    return (
        f"The bound is {size}: importance weights find {mean:.3g} nats per row above it; worst "
        f"rows (gap in nats): {listed}. {parts}{trust} There is no upper limit."
    )


@_config.small_jit
def _log_weights(model: Model, source: ArraySource, seed: Array) -> tuple[Array, ...]:
    """(n, s) log weights of every row; blocks draw alike, rows of a block do not."""

    def weighed(parameters: PyTree, rows: Rows) -> Float[Array, "n s"]:
        model, seed = parameters
        q = model.posterior(rows, None)

        def one(key: Array) -> Float[Array, " n"]:
            free = q.sample(key)
            return model.log_free_joint(rows, free) - q.log_density(free)

        keys = jax.random.split(jax.random.key(seed), _DRAWS)
        return jax.lax.map(one, keys, batch_size=50).T

    return source.map(weighed, (model, jnp.asarray(seed)))
