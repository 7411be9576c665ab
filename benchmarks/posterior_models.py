"""Eight real posteriors with reference answers, written with the library's own interface.

Each function takes the data of one posterior of posteriordb (BSD 3-Clause) and returns a target.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats

from minorant import unknowns
from minorant.targets import Target

Data = dict[str, Any]


def earnings(data: Data) -> Target:
    y = np.log(np.array(data["earn"], float))
    height, male = np.array(data["height"], float), np.array(data["male"], float)
    X = np.column_stack([np.ones(len(y)), height, male, height * male])

    def log_density(beta, sigma):
        return stats.norm.logpdf(y, X @ beta, sigma).sum()

    return Target(log_density, beta=unknowns.real(4), sigma=unknowns.positive())


def eight_schools(data: Data) -> Target:
    y, spread = np.array(data["y"], float), np.array(data["sigma"], float)

    def log_density(eta, mu, tau):
        prior = stats.norm.logpdf(mu, 0, 5) + stats.cauchy.logpdf(tau, 0, 5) + np.log(2.0)
        prior += stats.norm.logpdf(eta).sum()
        return prior + stats.norm.logpdf(y, mu + tau * eta, spread).sum()

    return Target(
        log_density,
        derived=lambda eta, mu, tau: {"theta": mu + tau * eta},
        eta=unknowns.real(8),
        mu=unknowns.real(),
        tau=unknowns.positive(),
    )


def garch(data: Data) -> Target:
    y, first = np.array(data["y"], float), float(data["sigma1"])

    def log_density(mu, alpha0, alpha1, beta1):
        def step(variance, before):
            following = alpha0 + alpha1 * (before - mu) ** 2 + beta1 * variance
            return following, following

        _, later = jax.lax.scan(step, first**2 * jnp.ones(()), y[:-1])
        variance = jnp.concatenate([jnp.full(1, first**2), later])
        return stats.norm.logpdf(y, mu, jnp.sqrt(variance)).sum()

    return Target(
        log_density,
        mu=unknowns.real(),
        alpha0=unknowns.positive(),
        alpha1=unknowns.interval(0, 1),
        beta1=unknowns.interval(0, lambda known: 1 - known["alpha1"]),
    )


def kidiq(data: Data) -> Target:
    y = np.array(data["kid_score"], float)
    school, iq = np.array(data["mom_hs"], float), np.array(data["mom_iq"], float)
    X = np.column_stack([np.ones(len(y)), school, iq, school * iq])

    def log_density(beta, sigma):
        prior = stats.cauchy.logpdf(sigma, 0, 2.5) + np.log(2.0)
        return prior + stats.norm.logpdf(y, X @ beta, sigma).sum()

    return Target(log_density, beta=unknowns.real(4), sigma=unknowns.positive())


def gauss_mix(data: Data) -> Target:
    y = np.array(data["y"], float)

    def log_density(mu, sigma, theta):
        prior = stats.norm.logpdf(mu, 0, 2).sum() + stats.beta.logpdf(theta, 5, 5)
        prior += stats.norm.logpdf(sigma, 0, 2).sum() + 2 * np.log(2.0)
        parts = stats.norm.logpdf(y[:, None], mu, sigma)
        return (
            prior
            + jnp.logaddexp(jnp.log(theta) + parts[:, 0], jnp.log1p(-theta) + parts[:, 1]).sum()
        )

    return Target(
        log_density,
        mu=unknowns.ordered(2),
        sigma=unknowns.positive(2),
        theta=unknowns.interval(0, 1),
    )


def _flat_regression(X: np.ndarray, y: np.ndarray) -> Target:
    def log_density(beta, sigma):
        return stats.norm.logpdf(y, X @ beta, sigma).sum()

    return Target(log_density, beta=unknowns.real(X.shape[1]), sigma=unknowns.positive())


def mesquite(data: Data) -> Target:
    names = ("diam1", "diam2", "canopy_height", "total_height", "density", "group")
    columns = [np.array(data[name], float) for name in names]
    y = np.array(data["weight"], float)
    return _flat_regression(np.column_stack([np.ones(len(y)), *columns]), y)


def nes(data: Data) -> Target:
    age = np.array(data["age_discrete"])
    y = np.array(data["partyid7"], float)
    columns = [np.ones(len(y)), data["real_ideo"], data["race_adj"], age == 2, age == 3, age == 4]
    columns += [data["educ1"], data["gender"], data["income"]]
    return _flat_regression(np.column_stack([np.array(c, float) for c in columns]), y)


def sblrc(data: Data) -> Target:
    X, y = np.array(data["X"], float), np.array(data["y"], float)

    def log_density(beta, sigma):
        prior = stats.norm.logpdf(beta, 0, 10).sum() + stats.norm.logpdf(sigma, 0, 10) + np.log(2.0)
        return prior + stats.norm.logpdf(y, X @ beta, sigma).sum()

    return Target(log_density, beta=unknowns.real(X.shape[1]), sigma=unknowns.positive())


TARGETS = {
    "earnings-logearn_interaction": earnings,
    "eight_schools-eight_schools_noncentered": eight_schools,
    "garch-garch11": garch,
    "kidiq-kidscore_interaction": kidiq,
    "low_dim_gauss_mix-low_dim_gauss_mix": gauss_mix,
    "mesquite-mesquite": mesquite,
    "nes2000-nes": nes,
    "sblrc-blr": sblrc,
}
