"""Bayesian Gaussian mixtures, slow and obvious: the seven terms of the bound, updates, evidence.

Plain loops over Bishop (2006), section 10.2, with NumPy and SciPy; nothing from the package. A
structure is one of its names in small letters. Parameters of q are per component: ``beta``, ``nu``
(for "diagonal" both (d,), as cells are counted one by one), ``m``, and ``V``, a matrix or a number.
With matrices a missing cell has its own normal q, conditional mean and precision ``nu W``.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.special import betaln, digamma, gammaln, logsumexp, multigammaln

MATRICES = ("full", "tied")


class Prior(NamedTuple):
    """Of means, precisions and weights; ``sticks`` says that weights are stick-breaking."""

    structure: str
    m: np.ndarray
    beta: float
    nu: float
    V: np.ndarray
    alpha: float
    sticks: bool


class Q(NamedTuple):
    """One entry for each component; ``concentration`` is (k,), or (2, k) for sticks."""

    m: list
    beta: list
    nu: list
    V: list
    concentration: np.ndarray


# --- expectations under q --------------------------------------------------------------------


def expected_log_weights(q: Q, sticks: bool) -> np.ndarray:
    """``E log w_k``."""
    if not sticks:
        return digamma(q.concentration) - digamma(q.concentration.sum())
    found, left = [], 0.0
    for a, b in q.concentration.T:
        found.append(digamma(a) - digamma(a + b) + left)
        left += digamma(b) - digamma(a + b)
    return np.array(found)


def expected_log_determinant(nu: float, V: np.ndarray) -> float:
    """Bishop 10.65."""
    d = len(V)
    halves = [digamma((nu + 1 - i) / 2) for i in range(1, d + 1)]
    return sum(halves) + d * np.log(2) - np.linalg.slogdet(V)[1]


def block_q(q: Q, k: int, j: int | None) -> tuple:
    """(m, beta, nu, V) of a block: of the whole row, or of cell j as 1 x 1 matrices."""
    if j is None:
        return q.m[k], q.beta[k], q.nu[k], q.V[k]
    V = np.broadcast_to(q.V[k], np.shape(q.m[k]))[j]
    nu = np.broadcast_to(q.nu[k], np.shape(q.m[k]))[j]
    return q.m[k][j : j + 1], np.broadcast_to(q.beta[k], np.shape(q.m[k]))[j], nu, np.eye(1) * V


def expected_log_density(x: np.ndarray, m, beta, nu, V, spread) -> float:
    """``E log N(x; mu, Lambda^-1)``, Bishop 10.64; ``spread``: covariance of x under its own q."""
    d = len(x)
    W = np.linalg.inv(V)
    square = d / beta + nu * ((x - m) @ W @ (x - m) + np.trace(W @ spread))
    return 0.5 * (expected_log_determinant(nu, V) - d * np.log(2 * np.pi) - square)


def row_term(structure: str, x: np.ndarray, q: Q, k: int) -> float:
    """``E log p(x | k)``, plus the entropy of missing cells where these have a q."""
    if structure not in MATRICES:
        cells = [j for j in range(len(x)) if not np.isnan(x[j])]
        none = np.zeros((1, 1))
        return sum(expected_log_density(x[[j]], *block_q(q, k, j), none) for j in cells)
    filled, spread = completed(x, q, k)
    entropy = 0.0
    if np.isnan(x).any():
        own = spread[np.ix_(np.isnan(x), np.isnan(x))]
        entropy = stats.multivariate_normal(np.zeros(len(own)), own).entropy()
    return expected_log_density(filled, *block_q(q, k, None), spread) + float(entropy)


def completed(x: np.ndarray, q: Q, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The row with the mean of ``q(x_m | k)`` put in, and its covariance; precision form."""
    gone = np.isnan(x)
    precision = q.nu[k] * np.linalg.inv(q.V[k])
    filled, spread = x.copy(), np.zeros_like(precision)
    if gone.any():
        inner = np.linalg.inv(precision[np.ix_(gone, gone)])
        pull = precision[np.ix_(gone, ~gone)] @ (x - q.m[k])[~gone]
        filled[gone] = q.m[k][gone] - inner @ pull
        spread[np.ix_(gone, gone)] = inner
    return filled, spread


def responsibilities(prior: Prior, X: np.ndarray, q: Q) -> np.ndarray:
    """Bishop 10.46 and 10.49, (n, k)."""
    log_w = expected_log_weights(q, prior.sticks)
    rho = [[row_term(prior.structure, x, q, k) + log_w[k] for k in range(len(log_w))] for x in X]
    return np.exp(rho - logsumexp(rho, axis=1, keepdims=True))


# --- the bound -------------------------------------------------------------------------------


def bound(prior: Prior, X: np.ndarray, r: np.ndarray, q: Q) -> float:
    """Bishop 10.70: every term by itself, every constant in it."""
    log_w = expected_log_weights(q, prior.sticks)
    rows = sum(
        r[i, k] * (row_term(prior.structure, X[i], q, k) + log_w[k]) for i, k in np.ndindex(r.shape)
    )
    positive = r[r > 0]
    entropy = -(positive * np.log(positive)).sum()
    return float(rows + entropy + weight_terms(prior, q) + parameter_terms(prior, q))


def weight_terms(prior: Prior, q: Q) -> float:
    """``E log p(w) - E log q(w)``."""
    if not prior.sticks:
        k = len(q.concentration)
        log_w = expected_log_weights(q, False)
        log_p = gammaln(k * prior.alpha) - k * gammaln(prior.alpha)
        log_p += ((prior.alpha - 1) * log_w).sum()
        return float(log_p + stats.dirichlet(q.concentration).entropy())
    total = 0.0
    for a, b in q.concentration.T:
        log_left = digamma(b) - digamma(a + b)
        total += np.log(prior.alpha) + (prior.alpha - 1) * log_left + stats.beta(a, b).entropy()
    return float(total)


def parameter_terms(prior: Prior, q: Q) -> float:
    """``E log p(mu, Lambda) - E log q(mu, Lambda)``; a shared precision counts once."""
    total, k, d = 0.0, len(q.m), len(prior.m)
    for j in range(k):
        for cell in [None] if prior.structure in MATRICES else range(d):
            m, beta, nu, V = block_q(q, j, cell)
            first = prior.m if cell is None else prior.m[cell : cell + 1]
            total += mean_terms(prior.beta, first, m, beta, nu, V)
    if prior.structure == "diagonal":
        pairs = [(q.nu[j][c], np.eye(1) * q.V[j][c], np.eye(1) * prior.V[c, c])
                 for j, c in np.ndindex(k, d)]  # fmt: skip
    elif prior.structure == "spherical":
        scale = np.eye(1) * np.trace(prior.V) / d
        pairs = [(q.nu[j], np.eye(1) * q.V[j], scale) for j in range(k)]
    else:
        count = 1 if prior.structure == "tied" else k
        pairs = [(q.nu[j], q.V[j], prior.V) for j in range(count)]
    return total + sum(wishart_terms(prior.nu, V0, nu, V) for nu, V, V0 in pairs)


def mean_terms(beta0: float, m0, m, beta, nu, V) -> float:
    """``E log N(mu; m0, (beta0 Lambda)^-1) + E H(mu | Lambda)``, Bishop 10.74 and 10.77."""
    d, log_det = len(m), expected_log_determinant(nu, V)
    square = d * beta0 / beta + beta0 * nu * (m - m0) @ np.linalg.inv(V) @ (m - m0)
    log_p = 0.5 * (d * np.log(beta0 / (2 * np.pi)) + log_det - square)
    entropy = 0.5 * (d - d * np.log(beta / (2 * np.pi)) - log_det)
    return float(log_p + entropy)


def wishart_terms(nu0: float, V0: np.ndarray, nu: float, V: np.ndarray) -> float:
    """``E log W(Lambda; V0^-1, nu0) + H(W(V^-1, nu))``."""
    d = len(V)
    log_b = 0.5 * nu0 * (np.linalg.slogdet(V0)[1] - d * np.log(2)) - multigammaln(nu0 / 2, d)
    trace = nu * np.trace(V0 @ np.linalg.inv(V))
    log_p = log_b + 0.5 * (nu0 - d - 1) * expected_log_determinant(nu, V) - 0.5 * trace
    return float(log_p + stats.wishart(nu, np.linalg.inv(V)).entropy())


# --- the updates -----------------------------------------------------------------------------


def updated(prior: Prior, X: np.ndarray, r: np.ndarray, old: Q) -> Q:
    """Bishop 10.58 to 10.63 (errata: nu_k = nu_0 + N_k), row by row."""
    found = [_component(prior, X, r[:, k], old, k) for k in range(r.shape[1])]
    m, beta, nu, V = map(list, zip(*found, strict=True))
    if prior.structure == "tied":
        V = [prior.V + sum(one - prior.V for one in V)] * len(V)
        nu = [prior.nu + sum(one - prior.nu for one in nu)] * len(nu)
    count = r.sum(0)
    concentration = prior.alpha + count
    if prior.sticks:
        later = np.array([count[k + 1 :].sum() for k in range(len(count))])
        concentration = np.stack([1 + count, prior.alpha + later])
    return Q(m, beta, nu, V, concentration)


def _component(prior: Prior, X: np.ndarray, r: np.ndarray, old: Q, k: int) -> tuple:
    d = len(prior.m)
    matrix = prior.structure in MATRICES
    count, total, second = np.zeros(d), np.zeros(d), np.zeros((d, d))
    for x, weight in zip(X, r, strict=True):
        filled, spread = completed(x, old, k) if matrix else (np.nan_to_num(x), np.zeros((d, d)))
        count += weight if matrix else weight * ~np.isnan(x)
        total += weight * filled
        second += weight * (np.outer(filled, filled) + spread)
    beta = prior.beta + count
    m = (prior.beta * prior.m + total) / beta
    V = (
        second
        + prior.beta * np.outer(prior.m, prior.m)
        - (np.sqrt(beta) * m)[:, None] * (np.sqrt(beta) * m)
    )
    if matrix:
        return m, beta[0], prior.nu + count[0], prior.V + V
    if prior.structure == "diagonal":
        return m, beta, prior.nu + count, np.diag(prior.V) + np.diag(V)
    return m, beta, prior.nu + count.sum(), np.trace(prior.V) / d + np.trace(V)


# --- exact evidence --------------------------------------------------------------------------


def log_marginal(prior: Prior, X: np.ndarray) -> float:
    """``log int prod p(x | mu, Lambda) p(mu, Lambda)`` of rows in one component.

    Murphy (2007), "Conjugate Bayesian analysis of the Gaussian distribution", equation 266; cell by
    cell for a normal-gamma, over observed cells.
    """
    d = len(prior.m)
    if prior.structure in MATRICES:
        return _log_marginal(prior, X, prior.m, prior.V, d)
    if prior.structure == "diagonal":
        cells = [X[~np.isnan(X[:, j])][:, [j]] for j in range(d)]
        return sum(
            _log_marginal(prior, cells[j], prior.m[[j]], prior.V[[j]][:, [j]], 1) for j in range(d)
        )
    n = len(X)
    beta, mean = prior.beta + n, X.mean(0)
    scatter = ((X - mean) ** 2).sum() + prior.beta * n / beta * ((mean - prior.m) ** 2).sum()
    first, nu = np.trace(prior.V) / d, prior.nu + n * d
    return float(
        -0.5 * n * d * np.log(np.pi) + gammaln(nu / 2) - gammaln(prior.nu / 2)
        + 0.5 * prior.nu * np.log(first) - 0.5 * nu * np.log(first + scatter)
        + 0.5 * d * np.log(prior.beta / beta)
    )  # fmt: skip


def _log_marginal(prior: Prior, X: np.ndarray, m0, V0, d: int) -> float:
    n = len(X)
    if n == 0:
        return 0.0
    beta, nu, mean = prior.beta + n, prior.nu + n, X.mean(0)
    away = mean - m0
    V = V0 + (X - mean).T @ (X - mean) + prior.beta * n / beta * np.outer(away, away)
    return float(
        -0.5 * n * d * np.log(np.pi) + multigammaln(nu / 2, d) - multigammaln(prior.nu / 2, d)
        + 0.5 * prior.nu * np.linalg.slogdet(V0)[1] - 0.5 * nu * np.linalg.slogdet(V)[1]
        + 0.5 * d * np.log(prior.beta / beta)
    )  # fmt: skip


def log_assignment(prior: Prior, count: np.ndarray) -> float:
    """``log E prod_i w_(z_i)`` of one labelling with these counts."""
    if not prior.sticks:
        k, alpha = len(count), prior.alpha
        own = (gammaln(alpha + count) - gammaln(alpha)).sum()
        return float(own + gammaln(k * alpha) - gammaln(k * alpha + count.sum()))
    later = np.array([count[j + 1 :].sum() for j in range(len(count))])
    return float((betaln(1 + count, prior.alpha + later) - betaln(1, prior.alpha)).sum())


def log_evidence(prior: Prior, X: np.ndarray, k: int) -> float:
    """``log p(X)`` by every labelling of the rows (of a stick-breaking prior: those within k)."""
    terms = []
    for labels in itertools.product(range(k), repeat=len(X)):
        member = [np.array(labels) == j for j in range(k)]
        count = np.array([own.sum() for own in member])
        rows = sum(log_marginal(prior, X[own]) for own in member if own.any())
        terms.append(log_assignment(prior, count) + rows)
    return float(logsumexp(terms))
