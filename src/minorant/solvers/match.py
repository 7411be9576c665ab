r"""Batch and match: the Gaussian whose scores agree with the target's, in closed-form updates.

Draws of the Gaussian :math:`N(\mu, \Sigma)` and the gradients of log p there have means
:math:`\bar z, \bar g` and covariances :math:`C, \Gamma`. The update with learning rate
:math:`\lambda` solves

.. math:: \Sigma' U \Sigma' + \Sigma' = V, \quad
          U = \lambda \Gamma + \tfrac{\lambda}{1 + \lambda} \bar g \bar g^\top, \quad
          V = \Sigma + \lambda C
              + \tfrac{\lambda}{1 + \lambda} (\mu - \bar z) (\mu - \bar z)^\top,

.. math:: \mu' = \tfrac{1}{1 + \lambda} \mu
                 + \tfrac{\lambda}{1 + \lambda} (\Sigma' \bar g + \bar z).

It maximises no bound: where the target is Gaussian both agree, elsewhere it weighs tails by the
squares of their scores.

Cai, Modi, Pillaud-Vivien, Margossian, Gower, Blei & Saul (2024), "Batch and match: black-box
variational inference with a score-based divergence", algorithm 1. Not for: targets with kinks or
steep edges, whose scores say little of where the mass is.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._types import Array
from minorant.models.target import AbstractTarget, log_densities_and_gradients

_WINDOW = 20
_FEWEST = 2
_BRISK = 20  # steps before the learning rate falls: from far away it must not


class Matched(NamedTuple):
    """Where the updates ended."""

    mean: Float[np.ndarray, " p"]
    covariance: Float[np.ndarray, "p p"]
    steps: int
    over: bool


def matched(
    target: AbstractTarget,
    mean: Float[np.ndarray, " p"],
    covariance: Float[np.ndarray, "p p"],
    rng: np.random.Generator,
    batch: int,
    tolerance: float,
    max_steps: int,
) -> Matched:
    """Updates until the bound, as their own draws tell it, stops rising.

    Draws at which the target is not finite are left out; where hardly any is, the covariance is
    shrunk. The learning rate is ``batch * p``, and falls as 1 / t after 20 steps.
    """
    p, history = len(mean), []
    for t in range(max_steps):
        noise = rng.normal(size=(batch, p))
        factor = np.linalg.cholesky(covariance)
        draws = mean + noise @ factor.T
        values, scores = jax.device_get(_evaluated(target, draws))
        sound = np.isfinite(values) & np.isfinite(scores).all(1)
        if sound.sum() < _FEWEST:
            covariance = 0.25 * covariance
            continue
        log_q = -0.5 * (noise**2).sum(1) - np.log(np.diag(factor)).sum()
        history.append((values - log_q)[sound].mean())
        if _is_over(history, tolerance):
            return Matched(mean, covariance, t + 1, True)
        rate = batch * p / max(1.0, t - _BRISK)
        mean, covariance = _moved(mean, covariance, draws[sound], scores[sound], rate)
    return Matched(mean, covariance, max_steps, False)


def _moved(
    mean: np.ndarray, covariance: np.ndarray, draws: np.ndarray, scores: np.ndarray, rate: float
) -> tuple[np.ndarray, np.ndarray]:
    """One update; where its numbers overflow, nothing but a narrower covariance."""
    try:
        after = updated(mean, covariance, draws, scores, rate)
        np.linalg.cholesky(after[1])
    except np.linalg.LinAlgError:
        return mean, 0.25 * covariance
    return after


def updated(
    mean: Float[np.ndarray, " p"],
    covariance: Float[np.ndarray, "p p"],
    draws: Float[np.ndarray, "s p"],
    scores: Float[np.ndarray, "s p"],
    rate: float,
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, "p p"]]:
    """One update; see the module.

    With ``V = L L'`` the answer is ``L 2 (I + (I + 4 L' U L)^(1/2))^-1 L'``: symmetric throughout.
    """
    share = rate / (1.0 + rate)
    center, slope = draws.mean(0), scores.mean(0)
    away, spread, steep = mean - center, draws - center, scores - slope
    s = len(draws)
    u = rate * steep.T @ steep / s + share * np.outer(slope, slope)
    v = covariance + rate * spread.T @ spread / s + share * np.outer(away, away)
    lower = np.linalg.cholesky(v)
    values, vectors = np.linalg.eigh(lower.T @ u @ lower)
    turned = lower @ vectors
    root = np.sqrt(1.0 + 4.0 * np.maximum(values, 0.0))
    found = (turned * (2.0 / (1.0 + root))) @ turned.T
    return mean - share * mean + share * (found @ slope + center), 0.5 * (found + found.T)


def _is_over(history: list[float], tolerance: float) -> bool:
    """Whether the last window's mean is not above the one before it by more than noise."""
    if len(history) < 2 * _WINDOW:
        return False
    late, early = np.array(history[-_WINDOW:]), np.array(history[-2 * _WINDOW : -_WINDOW])
    noise = np.sqrt((late.var() + early.var()) / _WINDOW)
    return bool(late.mean() - early.mean() <= max(tolerance, noise))


def _both(target: AbstractTarget, points: Float[Array, "s p"]) -> tuple[Array, Array]:
    return log_densities_and_gradients(target, points)


_evaluated = _config.small_jit(_both)
