"""The same published targets with what belongs to one row, group or pattern integrated out.

Normal effects under normal noise in closed form; one-dimensional effects of counts by the
trapezoidal rule, which errs by exp(-2 pi^2 s^2 / h^2) for steps h and widths s of the integrand.
Constants are those of `published_models.py`, so the evidence is the same number and bounds compare.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from benchmarks import published_models as joint
from benchmarks.published_data import Data
from benchmarks.published_models import inverse_gamma, known
from minorant import unknowns as u
from minorant.targets import Target

HALF_LOG_TAU = 0.5 * np.log(2.0 * np.pi)


class Nodes:
    r"""The trapezoidal rule for :math:`\log \int e^{-\eta^2/2} f(\eta) d\eta`."""

    def __init__(self, end: float, step: float) -> None:
        """From -end to end."""
        self.places = np.arange(-end, end + 0.5 * step, step)
        self._log_weight = np.log(step) - 0.5 * self.places**2

    def integral(self, log_f):
        """Over the last axis."""
        return logsumexp(log_f + self._log_weight, axis=-1)


def members(group: np.ndarray, n: int) -> np.ndarray:
    """Which row belongs to which group: (groups, rows), zeros and ones."""
    return (np.arange(n)[:, None] == group).astype(float)


def intercepts(left, of_group, noise, sd):
    """Rows `left` with normal noise and one normal effect of `sd` for each group, integrated."""
    precision = 1.0 + sd**2 * (of_group @ noise**-2)
    pull = sd * (of_group @ (left / noise**2))
    rows = -(jnp.log(noise) + 0.5 * (left / noise) ** 2).sum()
    return rows + (0.5 * pull**2 / precision - 0.5 * jnp.log(precision) + HALF_LOG_TAU).sum()


def intercepts_and_slopes(left, x, of_group, noise, sd):
    """The same with a slope in x as well, of its own sd; one noise for all rows."""
    a = 1.0 + (sd[0] / noise) ** 2 * of_group.sum(1)
    b = sd[0] * sd[1] / noise**2 * (of_group @ x)
    c = 1.0 + (sd[1] / noise) ** 2 * (of_group @ x**2)
    first = sd[0] / noise**2 * (of_group @ left)
    second = sd[1] / noise**2 * (of_group @ (left * x))
    determinant = a * c - b**2
    square = (c * first**2 - 2 * b * first * second + a * second**2) / determinant
    rows = -(len(x) * jnp.log(noise) + 0.5 * (left / noise) ** 2 @ np.ones(len(x)))
    return rows + (0.5 * square - 0.5 * jnp.log(determinant) + 2 * HALF_LOG_TAU).sum()


def electric_chr(data: Data) -> Target:
    y, treated = data["y"], data["treatment"]
    of_pair, ones = members(data["pair"].astype(int) - 1, 96), np.ones(len(y))

    def log_density(beta, mu_a, sigma_a, sigma_y):
        left = y - 100 * mu_a - beta * treated
        return known(mu_a) + known(beta) + intercepts(left, of_pair, sigma_y * ones, sigma_a)

    scales = {"sigma_a": u.interval(0, 100), "sigma_y": u.interval(0, 100)}
    return Target(log_density, beta=u.real(), mu_a=u.real(), **scales)


def _electric(data: Data, scale: float, with_before: bool) -> Target:
    y, treated, before = data["y"], data["treatment"], data["pre_test"]
    pair, of_pair, grade = joint.grades(data)
    rows = members(pair, 96)

    def log_density(mu, b, sigma_a, sigma_y, c=None):
        left = y - scale * mu[of_pair][pair] - b[grade] * treated
        prior = known(mu) + known(b, 0, 100)
        if c is not None:
            left, prior = left - c[grade] * before, prior + known(c, 0, 100)
        return prior + intercepts(left, rows, sigma_y[grade], sigma_a[of_pair])

    scales = {"sigma_a": u.interval(0, 100, 4), "sigma_y": u.interval(0, 100, 4)}
    slopes = {"c": u.real(4)} if with_before else {}
    return Target(log_density, mu=u.real(4), b=u.real(4), **scales, **slopes)


def electric_1a(data: Data) -> Target:
    return _electric(data, 100.0, False)


def electric_1c(data: Data) -> Target:
    return _electric(data, 50.0, True)


def radon_redundant(data: Data) -> Target:
    y = data["y"]
    of_county, ones = members(data["county"].astype(int) - 1, 85), np.ones(len(y))

    def log_density(mu, sigma_eta, sigma_y):
        return known(mu) + intercepts(y - 100 * mu, of_county, sigma_y * ones, sigma_eta)

    scales = {"sigma_eta": u.interval(0, 100), "sigma_y": u.interval(0, 100)}
    return Target(log_density, mu=u.real(), **scales)


def _slopes(y: np.ndarray, x: np.ndarray, group: np.ndarray, n: int) -> Target:
    rows = members(group, n)

    def log_density(mu, sigma, sigma_y):
        left = y - mu[0] - 0.1 * mu[1] * x
        return known(mu) + intercepts_and_slopes(left, x, rows, sigma_y, sigma)

    scales = {"sigma": u.interval(0, 100, 2), "sigma_y": u.interval(0, 100)}
    return Target(log_density, mu=u.real(2), **scales)


def radon_vary_si(data: Data) -> Target:
    return _slopes(data["y"], data["x"], data["county"].astype(int) - 1, 85)


def hiv(data: Data) -> Target:
    return _slopes(data["y"], data["time"], data["person"].astype(int) - 1, 84)


def hepatitis(data: Data) -> Target:
    y, t, row = data["Yvec1"], data["tvec1"] - 6.5, data["idxn1"].astype(int) - 1
    first, rows = (data["y0"] - data["y0"].mean())[row], members(row, 106)

    def log_density(gamma, alpha0, beta0, variance):
        left = y - alpha0 - beta0 * t - gamma * first
        sd = jnp.sqrt(variance)
        prior = known(jnp.stack([gamma, alpha0, beta0]), 0, 1000)
        prior += inverse_gamma(variance, 1e-3, 1e-3)
        return prior + intercepts_and_slopes(left, t, rows, sd[0], sd[1:])

    tops = {"gamma": u.real(), "alpha0": u.real(), "beta0": u.real()}
    return Target(log_density, variance=u.positive(3), **tops)


def adaptive(y, n, eta, sd, ends=12.0, step=0.5):
    """Binomial rows with logits ``eta + sd z``, z standard normal, integrated.

    The last axis of the arguments has the cells that share one z. Nodes stand around each mode in
    units of the curvature there; where they stand is no part of the integral.
    """
    z, curvature = jnp.zeros(y.shape[:-1]), jnp.ones(y.shape[:-1])
    for _ in range(15):
        mean = jax.nn.sigmoid(eta + sd * z[..., None])
        slope = (sd * (y - n * mean)).sum(-1) - z
        curvature = 1.0 + (sd**2 * n * mean * (1 - mean)).sum(-1)
        z = z + jnp.clip(slope / curvature, -1.0, 1.0)
    middle, width = jax.lax.stop_gradient((z, curvature**-0.5))
    nodes = middle[..., None] + width[..., None] * np.arange(-ends, ends + step, step)
    logits = eta[..., None, :] + sd * nodes[..., None]
    rows = (y[..., None, :] * logits - n[..., None, :] * jax.nn.softplus(logits)).sum(-1)
    return logsumexp(rows - 0.5 * nodes**2, axis=-1) + jnp.log(step * width)


def election88(data: Data) -> Target:
    y, n = joint.cells(data)

    def log_density(b, sigma_a, mu_a):
        eta = jnp.broadcast_to(mu_a + joint.cell_effects(b), y.shape)
        return known(mu_a) + known(b, 0, 100) + adaptive(y, n, eta, sigma_a).sum()

    return Target(log_density, b=u.real(2), sigma_a=u.interval(0, 100), mu_a=u.real())


def _rasch(y, given, beta, delta, sigma, nodes):
    """Students' abilities integrated: likelihoods are products of one table of items by nodes."""
    logits = sigma * nodes.places + delta - beta[:, None]
    rows = y @ logits - given @ jax.nn.softplus(logits)
    return nodes.integral(rows).sum()


def irt(data: Data) -> Target:
    y, given = joint.answers(data)
    nodes = Nodes(7.0, 0.2)

    def log_density(beta, delta):
        prior = known(beta) + known(delta, 0.75)
        return prior + _rasch(y, given, beta, delta, 1.0, nodes)

    return Target(log_density, beta=u.real(100), delta=u.real())


def irt_multilevel(data: Data) -> Target:
    y, given = joint.answers(data)
    nodes = Nodes(7.0, 0.2)

    def log_density(beta, delta, sigma):
        prior = joint.normal(beta, 0.0, sigma[1]) + known(delta, 0.75)
        return prior + _rasch(y, given, beta, delta, sigma[0], nodes)

    return Target(log_density, beta=u.real(100), delta=u.real(), sigma=u.positive(2))


def lsat(data: Data) -> Target:
    y, count = data["response"], np.diff(data["culm"], prepend=0)
    nodes = Nodes(8.0, 0.25)

    def log_density(alpha, beta):
        logits = beta * nodes.places - alpha[:, None]
        rows = y @ logits - jax.nn.softplus(logits).sum(0)
        return known(alpha, 0, 100) + known(beta, 0, 100) + count @ nodes.integral(rows)

    return Target(log_density, alpha=u.real(5), beta=u.positive())


def endo3(data: Data) -> Target:
    exposed = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    count = np.array([data[name] for name in ("n10", "n01", "n11")])
    count = np.append(count, data["I"] - count.sum())
    places = np.arange(-40.0, 6.0, 0.2)

    def log_density(beta):
        log_total = logsumexp(beta * exposed, axis=1)
        prior = -0.5 * ((places - log_total[:, None]) / 1000) ** 2
        gumbel = logsumexp(places - np.exp(places) + prior, axis=1) + np.log(0.2)
        return known(beta, 0, 1000) + (count * (beta * exposed[:, 0] - log_total + gumbel)).sum()

    return Target(log_density, beta=u.real())


def _captured(omega, log_likelihood, kinds, count):
    """Rows of an augmented table by kind, the first of which was never seen."""
    there = jnp.log(omega) + log_likelihood
    missed = jnp.logaddexp(there, jnp.log1p(-omega) + HALF_LOG_TAU)
    return (count * jnp.where(kinds, there, missed)).sum()


def mh(data: Data) -> Target:
    y, count = np.arange(6.0), np.bincount(data["y"].astype(int), minlength=6)
    nodes = Nodes(9.0, 0.1)

    def log_density(omega, mean_p, sigma):
        logits = jnp.log(mean_p) - jnp.log1p(-mean_p) + sigma * nodes.places
        rows = nodes.integral(y[:, None] * logits - 5 * jax.nn.softplus(logits))
        return _captured(omega, rows + joint.LOG_COMB_5, y > 0, count)

    return Target(
        log_density, omega=u.interval(0, 1), mean_p=u.interval(0, 1), sigma=u.interval(0, 5)
    )


def mth(data: Data) -> Target:
    y, count = np.unique(data["y"], axis=0, return_counts=True)
    nodes = Nodes(9.0, 0.1)

    def log_density(omega, mean_p, sigma):
        logits = (jnp.log(mean_p) - jnp.log1p(-mean_p))[:, None] + sigma * nodes.places
        rows = nodes.integral(y @ logits - jax.nn.softplus(logits).sum(0))
        return _captured(omega, rows, y.any(1), count)

    return Target(
        log_density, omega=u.interval(0, 1), mean_p=u.interval(0, 1, 5), sigma=u.interval(0, 5)
    )


def gp_predict(data: Data) -> Target:
    x, y = data["x1"], data["y1"]
    square, dots = (x[:, None] - x) ** 2, len(y) + len(data["x2"])

    def log_density(rho, alpha, sigma):
        kernel = alpha**2 * jnp.exp(-0.5 * square / rho**2)
        factor = jnp.linalg.cholesky(kernel + (1e-9 + sigma**2) * np.eye(len(y)))
        left = jax.scipy.linalg.solve_triangular(factor, y[:, None], lower=True)
        prior = inverse_gamma(rho, 5.0, 5.0) + known(alpha) + known(sigma)
        prior += dots * HALF_LOG_TAU
        return prior - jnp.log(jnp.diagonal(factor)).sum() - 0.5 * (left**2).sum()

    return Target(log_density, rho=u.positive(), alpha=u.positive(), sigma=u.positive())
