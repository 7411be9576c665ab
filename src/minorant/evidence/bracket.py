r"""The numbers of a certificate: two ends, what lies between, limits, and whether chains agree.

With w the weights of forward chains and v those of reverse chains from posterior draws,

.. math:: E\,[\log \tfrac1c \textstyle\sum_i w_i] \le \log Z
          \le E\,[-\log \tfrac1c \textstyle\sum_i v_i^{-1}].

Both are one-sided in expectation; each end is widened by its own Monte Carlo error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from minorant._pareto import averaged, smoothed
from minorant.result import Estimate

WIDE = 1.959963984540054
_GROUPS = 4


class Weights(NamedTuple):
    """Log weights of one direction: the mean, its error, k-hat, and what the chains are worth."""

    log_mean: Estimate
    reliability: float
    effective: float
    spread: float


def weighed(log_weights: Float[np.ndarray, " c"]) -> Weights:
    """The log of the mean weight and how well it is known."""
    value, spread = map(float, averaged(log_weights))
    c = len(log_weights)
    shape = -np.inf if spread == 0.0 else float(smoothed(log_weights)[1])
    return Weights(Estimate(value, spread / np.sqrt(c)), shape, c / (1.0 + spread**2), spread)


def hard_limit(log_estimates: Float[np.ndarray, " n"], probability: float = 0.95) -> float:
    r"""A lower limit on log Z that holds with at least that probability, whatever the variance.

    .. math:: P\left(\tfrac1n \sum_i \log \hat Z_i > \log Z + t\right) \le e^{-n t},
              \quad t = \tfrac1n \log \tfrac{1}{1 - \mathrm{probability}}

    At 0.95 that is the mean of n logarithms less 3/n.

    Args:
        log_estimates: (n,) logarithms of independent, unbiased, non-negative estimates of Z.
        probability: with which it holds.

    Returns:
        The limit, in nats.

    Example:
        >>> import numpy as np
        >>> from minorant.evidence.bracket import hard_limit
        >>> round(hard_limit(np.zeros(30)), 3)
        -0.1

    Markov's inequality for the product of the estimates, whose expectation is Z^n. Not for
    estimates whose schedule, kernels or number was chosen by looking at them.
    """
    n = len(log_estimates)
    return float(np.mean(log_estimates) + np.log1p(-probability) / n)


def grouped(log_weights: Float[np.ndarray, " c"], groups: int) -> Float[np.ndarray, " n"]:
    """The log mean weight of each of so many groups of chains; what is left over is left out."""
    members = len(log_weights) // groups
    table = log_weights[: groups * members].reshape(groups, members)
    return special.logsumexp(table, axis=1) - np.log(members)


def groups_for(c: int, variance: float) -> int:
    """How many groups of c chains give the highest hard limit, by the weights' relative variance.

    Few groups lose 3/n, many lose half the variance of a group's mean.
    """
    members = np.sqrt(max(variance, 1e-6) * c / 6.0)
    return int(np.clip(np.round(c / max(members, 1.0)), 1, c))


def bridged(forward: Float[np.ndarray, " c"], reverse: Float[np.ndarray, " m"]) -> Estimate:
    """The estimate of log Z from both directions' log weights that has the least variance.

    Bennett (1976), "Efficient estimation of free energy differences from Monte Carlo data",
    equation 12; Meng & Wong (1996), equation 3.4.
    """
    value, error = bridged_rows(forward[:, None], reverse[:, None])
    return Estimate(float(value[0]), float(error[0]))


def bridged_rows(
    forward: Float[np.ndarray, "c n"], reverse: Float[np.ndarray, "m n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The same of many rows at once: values and standard errors."""
    offset = np.log(len(forward) / len(reverse))
    ends = np.sort([_log_mean(forward), -_log_mean(-reverse)], axis=0)
    low, high = ends[0] - 50.0, ends[1] + 50.0
    # 60 halvings leave less than rounding of any bracket.
    for _ in range(60):
        middle = 0.5 * (low + high)
        ahead, behind = _shares(forward, reverse, middle + offset)
        rises = ahead.sum(0) > behind.sum(0)
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    middle = 0.5 * (low + high)
    return middle, _bridge_error(*_shares(forward, reverse, middle + offset))


def _shares(forward: np.ndarray, reverse: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, ...]:
    """How likely each chain was to come from the other direction."""
    return special.expit(forward - shift), special.expit(shift - reverse)


def _bridge_error(*shares: np.ndarray) -> np.ndarray:
    """Relative errors of both shares' means; without end where nothing overlaps."""
    total = np.zeros(shares[0].shape[1])
    for share in shares:
        mean = share.mean(0)
        floor = np.maximum(mean, np.finfo(float).tiny)
        total += np.where(mean > 0, share.var(0) / floor**2 / len(share), np.inf)
    return np.sqrt(total)


def _log_mean(values: np.ndarray) -> np.ndarray:
    return special.logsumexp(values, axis=0) - np.log(len(values))


def nested_rhat(kinds: list[Float[np.ndarray, "s ? p"]]) -> Float[np.ndarray, " p"]:
    """R-hat of many short chains, rank-normalised, each kind of start in groups of neighbours.

    Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari & Gelman (2024), "Nested R-hat", equation
    3; ranks as in Vehtari, Gelman, Simpson, Carpenter & Burkner (2021), section 4.1.
    """
    draws = np.concatenate(kinds, axis=1)
    s, c, p = draws.shape
    from scipy.stats import rankdata  # a slow import, for what is not always asked

    ranks = rankdata(draws.reshape(s * c, p), axis=0)
    scores = special.ndtri((ranks - 0.375) / (s * c + 0.25)).reshape(s, c, p)
    ends = np.cumsum([kind.shape[1] for kind in kinds])[:-1]
    groups = [g for kind in np.split(scores, ends, 1) for g in np.array_split(kind, _GROUPS, 1)]
    means = np.stack([group.mean((0, 1)) for group in groups])
    inside = [group.mean(0).var(0, ddof=1) + group.var(0, ddof=1).mean(0) for group in groups]
    within = np.mean(inside, axis=0)
    return np.sqrt(1.0 + means.var(0, ddof=1) / np.maximum(within, 1e-300))
