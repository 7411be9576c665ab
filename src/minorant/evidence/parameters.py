r"""The evidence of a model whose parameters are integrated out, by importance weights of their q.

.. math:: \log \hat p(X) = \log \frac1s \sum_j \frac{p(X \mid \theta_j)\, p(\theta_j)}{q(\theta_j)},
          \quad \theta_j \sim q

Latents of rows are summed out exactly under every draw. The expectation of the average is p(X)
where q reaches everywhere; where it holds one of several numberings of the components, draws hardly
ever show the others, and the estimate is low by up to the log of their number.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minorant import _config
from minorant._pareto import NEARLY_EQUAL, UNRELIABLE, averaged, smoothed
from minorant._types import Array, PyTree, Rows
from minorant.data.arrays import ArraySource
from minorant.evidence.scoring import Scored
from minorant.result import Evidence, Fit

_MOST_DRAWS, _FEWEST_DRAWS = 1000, 100
_WORK = 2e9


def integrated_evidence(fit: Fit, scored: Scored, seed: int = 0) -> Evidence:
    """The bound of q on these rows, and what importance weights find above it.

    The divergence of q belongs to all rows alike, and is shared out among them by weight.
    """
    _config.enable_compilation_cache()
    with _config.precision(np.dtype(fit.dtype)):
        found = _bound(fit.standardised, scored.source)
        keys = np.arange(_draws(fit, scored)) + 1000003 * seed
        log_weights = np.asarray(_log_weights(fit.standardised, scored.source, keys), float)
    rows, divergence = (jax.device_get(part) for part in found)
    weight = (
        np.ones(len(scored.log_scale)) if scored.table.weights is None else scored.table.weights
    )
    own = scored.layout.restore(tuple(rows)).astype(float) - scored.log_scale
    lower = float(weight @ own) + float(divergence)
    log_weights = log_weights - float(weight @ scored.log_scale)
    estimate, error, shape = _averaged(log_weights)
    estimate = max(estimate, lower)
    shared = own + float(divergence) / weight.sum()
    gap = np.full(len(own), (estimate - lower) / weight.sum())
    return Evidence(
        lower=lower,
        estimate=estimate,
        upper=np.inf,
        gap=estimate - lower,
        standard_error=error,
        rows_lower=shared,
        rows_estimate=shared + gap,
        rows_upper=np.full(len(own), np.inf),
        rows_gap=gap,
        reliability=None,
        verdict=_verdict(estimate - lower, error, shape, fit.model.n_components),
    )


def _averaged(log_weights: np.ndarray) -> tuple[float, float, float]:
    """The log of the mean weight, its standard error, and k-hat (0 where weights hardly differ)."""
    value, spread = averaged(log_weights)
    shape = 0.0 if spread < NEARLY_EQUAL else float(smoothed(log_weights)[1])
    return float(value), float(spread / np.sqrt(len(log_weights))), shape


def _draws(fit: Fit, scored: Scored) -> int:
    model, cells = fit.standardised, scored.table.values.size
    return int(np.clip(_WORK / (cells * model.n_components * 10), _FEWEST_DRAWS, _MOST_DRAWS))


def _verdict(gap: float, error: float, shape: float, k: int) -> str:
    """How loose the bound is, and whether the weights can be relied on."""
    if shape == 0.0:
        return "Importance weights of q hardly differ: the bound equals log p(X) to their error."
    found = (
        f"Importance weights of q find log p(X) {gap:.3g} nats above the bound (standard error "
        f"{error:.2g})."
    )
    trust = (
        "k-hat is below 0.7: that can be trusted of the optimum that q is at"
        if shape < UNRELIABLE
        else "k-hat is above 0.7: log p(X) may be higher still"
    )
    more = "" if k == 1 else f", and other numberings of the {k} components may add up to log {k}!"
    return f"{found} {trust}{more}. There is no upper limit."


@_config.small_jit
def _bound(model: Any, source: ArraySource) -> tuple[tuple[Array, ...], Array]:
    """What every row adds to the bound, and minus the divergence of q from the prior."""

    def share(parameters: PyTree, rows: Rows) -> Array:
        model, prepared = parameters
        return jax.scipy.special.logsumexp(model.log_joint_all(rows, prepared), axis=0)

    return source.map(share, (model, model.prepare())), model.log_prior()


@_config.small_jit
def _log_weights(model: Any, source: ArraySource, seeds: Array) -> Array:
    """``log p(X | theta) + log p(theta) - log q(theta)`` of a draw for every seed."""

    def evidence(parameters: PyTree, rows: Rows) -> Array:
        drawn, prepared = parameters
        found = drawn.log_evidence(rows, prepared)
        return jnp.where(rows.weight > 0, rows.weight * found, 0.0).sum()

    def one(seed: Array) -> Array:
        drawn, log_ratio = model.drawn(jax.random.key(seed))
        return source.fold(evidence, (drawn, drawn.prepare())) + log_ratio

    return jax.lax.map(one, seeds)
