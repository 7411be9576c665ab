"""Published targets, every unknown kept: written from their mathematics, with Stan's constants.

Stan's ``~`` statements drop terms that no unknown enters, and so do these: a normal with a known
standard deviation loses log(sd) too, an unknown one keeps it; log(2 pi)/2 always goes. Dirichlet,
inverse-gamma, binomial and multinomial coefficients go; ``target +=`` keeps them (Mh, Dynocc).
Source of models and data: github.com/stan-dev/example-models (ARM, BPA, BUGS volumes), as used by
Agrawal, Sheldon & Domke (2020), "Advances in black-box VI".
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from benchmarks.published_data import Data
from minorant import unknowns as u
from minorant.targets import Target

LOG_COMB_5 = np.log([1.0, 5.0, 10.0, 10.0, 5.0, 1.0])
LOG_COMB_3 = np.log([1.0, 3.0, 3.0, 1.0])


def known(x, mean=0.0, sd=1.0):
    """A normal whose standard deviation is data: every constant dropped."""
    return -0.5 * (((x - mean) / sd) ** 2).sum()


def normal(x, mean, sd):
    """A normal whose standard deviation is unknown: only log(2 pi)/2 dropped."""
    return -(0.5 * ((x - mean) / sd) ** 2 + jnp.log(sd) + jnp.zeros_like(x)).sum()


def logit(y, eta, n=1.0):
    """y successes of n with that logit, the coefficient dropped."""
    return (y * eta - n * jax.nn.softplus(eta)).sum()


def inverse_gamma(x, shape, scale):
    return (-(shape + 1.0) * jnp.log(x) - scale / x).sum()


def _regression(X: np.ndarray, y: np.ndarray) -> Target:
    def log_density(beta, sigma):
        return normal(y, X @ beta, sigma)

    return Target(log_density, beta=u.real(X.shape[1]), sigma=u.positive())


def _columns(*columns: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(columns[0])), *columns])


def electric_one_pred(data: Data) -> Target:
    return _regression(_columns(data["treatment"]), data["post_test"])


def mesquite_volume(data: Data) -> Target:
    volume = np.log(data["diam1"] * data["diam2"] * data["canopy_height"])
    return _regression(_columns(volume), np.log(data["weight"]))


def congress(data: Data) -> Target:
    return _regression(_columns(data["vote_86"], data["incumbency_88"]), data["vote_88"])


def wells(data: Data) -> Target:
    X, y = _columns(data["dist"] / 100.0), data["switc"]
    return Target(lambda beta: logit(y, X @ beta), beta=u.real(2))


def wells_dist(data: Data) -> Target:
    X, y = _columns(data["dist"]), data["switched"]
    return Target(lambda beta: logit(y, X @ beta), beta=u.real(2))


def dogs(data: Data) -> Target:
    y = data["y"]
    before = np.pad(y, ((0, 0), (1, 0)))[:, :-1]
    shocks = before.cumsum(1)
    avoided = np.arange(y.shape[1]) - shocks

    def log_density(beta):
        return known(beta, 0, 100) + logit(y, beta[0] + beta[1] * avoided + beta[2] * shocks)

    return Target(log_density, beta=u.real(3))


def multi_logit(data: Data) -> Target:
    X, one_hot = data["x"], np.eye(4)[data["y"].astype(int) - 1]

    def log_density(beta):
        score = X @ beta.T
        prior = -jnp.log1p((beta / 2.5) ** 2).sum()
        return prior + (one_hot * score).sum() - logsumexp(score, axis=1).sum()

    return Target(log_density, beta=u.real(4, 8))


def electric_chr(data: Data) -> Target:
    y, treated, pair = data["y"], data["treatment"], data["pair"].astype(int) - 1

    def log_density(beta, eta, mu_a, sigma_a, sigma_y):
        mean = 100 * mu_a + (sigma_a * eta)[pair] + beta * treated
        return known(mu_a) + known(eta) + known(beta) + normal(y, mean, sigma_y)

    return Target(
        log_density,
        beta=u.real(),
        eta=u.real(96),
        mu_a=u.real(),
        sigma_a=u.interval(0, 100),
        sigma_y=u.interval(0, 100),
    )


def grades(data: Data) -> tuple[np.ndarray, ...]:
    """Pair, grade of the pair, and grade, from zero."""
    return tuple(data[name].astype(int) - 1 for name in ("pair", "grade_pair", "grade"))


def electric_1a(data: Data) -> Target:
    y, treated, (pair, of_pair, grade) = data["y"], data["treatment"], grades(data)

    def log_density(eta, mu, b, sigma_a, sigma_y):
        mean = (100 * mu[of_pair] + sigma_a[of_pair] * eta)[pair] + b[grade] * treated
        prior = known(mu) + known(eta) + known(b, 0, 100)
        return prior + normal(y, mean, sigma_y[grade])

    scales = {"sigma_a": u.interval(0, 100, 4), "sigma_y": u.interval(0, 100, 4)}
    return Target(log_density, eta=u.real(96), mu=u.real(4), b=u.real(4), **scales)


def electric_1c(data: Data) -> Target:
    y, treated, (pair, of_pair, grade) = data["y"], data["treatment"], grades(data)
    before = data["pre_test"]

    def log_density(eta, mu, b, c, sigma_a, sigma_y):
        mean = (50 * mu[of_pair] + sigma_a[of_pair] * eta)[pair]
        mean += b[grade] * treated + c[grade] * before
        prior = known(mu) + known(eta) + known(b, 0, 100) + known(c, 0, 100)
        return prior + normal(y, mean, sigma_y[grade])

    scales = {"sigma_a": u.interval(0, 100, 4), "sigma_y": u.interval(0, 100, 4)}
    return Target(log_density, eta=u.real(96), mu=u.real(4), b=u.real(4), c=u.real(4), **scales)


def radon_redundant(data: Data) -> Target:
    y, county = data["y"], data["county"].astype(int) - 1

    def log_density(eta, mu, sigma_eta, sigma_y):
        mean = (100 * mu + sigma_eta * eta)[county]
        return known(mu) + known(eta) + normal(y, mean, sigma_y)

    scales = {"sigma_eta": u.interval(0, 100), "sigma_y": u.interval(0, 100)}
    return Target(log_density, eta=u.real(85), mu=u.real(), **scales)


def _slopes(y: np.ndarray, x: np.ndarray, group: np.ndarray, n: int) -> Target:
    def log_density(eta1, eta2, mu, sigma, sigma_y):
        first = mu[0] + sigma[0] * eta1
        second = 0.1 * mu[1] + sigma[1] * eta2
        prior = known(mu) + known(eta1) + known(eta2)
        return prior + normal(y, first[group] + second[group] * x, sigma_y)

    scales = {"sigma": u.interval(0, 100, 2), "sigma_y": u.interval(0, 100)}
    return Target(log_density, eta1=u.real(n), eta2=u.real(n), mu=u.real(2), **scales)


def radon_vary_si(data: Data) -> Target:
    return _slopes(data["y"], data["x"], data["county"].astype(int) - 1, 85)


def hiv(data: Data) -> Target:
    return _slopes(data["y"], data["time"], data["person"].astype(int) - 1, 84)


def hepatitis(data: Data) -> Target:
    y, t, row = data["Yvec1"], data["tvec1"] - 6.5, data["idxn1"].astype(int) - 1
    first = (data["y0"] - data["y0"].mean())[row]

    def log_density(alpha, beta, gamma, alpha0, beta0, variance):
        sd = jnp.sqrt(variance)
        mean = alpha[row] + beta[row] * t + gamma * first
        prior = normal(alpha, alpha0, sd[1]) + normal(beta, beta0, sd[2])
        prior += inverse_gamma(variance, 1e-3, 1e-3)
        prior += known(jnp.stack([gamma, alpha0, beta0]), 0, 1000)
        return prior + normal(y, mean, sd[0])

    tops = {"gamma": u.real(), "alpha0": u.real(), "beta0": u.real(), "variance": u.positive(3)}
    return Target(log_density, alpha=u.real(106), beta=u.real(106), **tops)


def cells(data: Data) -> tuple[np.ndarray, ...]:
    """election88 counted: successes and trials by state and (black, female)."""
    where = (data["state"].astype(int) - 1) * 4 + (2 * data["black"] + data["female"]).astype(int)
    count = [np.bincount(where, weight, 204).reshape(51, 4) for weight in (data["y"], None)]
    return count[0], count[1]


def cell_effects(b):
    """Logits of the four cells apart from the state's."""
    return b[0] * np.array([0.0, 0.0, 1.0, 1.0]) + b[1] * np.array([0.0, 1.0, 0.0, 1.0])


def election88(data: Data) -> Target:
    y, n = cells(data)

    def log_density(a, b, sigma_a, mu_a):
        prior = known(mu_a) + normal(a, mu_a, sigma_a) + known(b, 0, 100)
        return prior + logit(y, a[:, None] + cell_effects(b), n)

    return Target(log_density, a=u.real(51), b=u.real(2), sigma_a=u.interval(0, 100), mu_a=u.real())


def answers(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """irt: answers and which were given, (students, questions)."""
    y, given = np.zeros((400, 100)), np.zeros((400, 100))
    where = data["jj"].astype(int) - 1, data["kk"].astype(int) - 1
    np.add.at(y, where, data["y"])
    np.add.at(given, where, 1.0)
    return y, given


def irt(data: Data) -> Target:
    y, given = answers(data)

    def log_density(alpha, beta, delta):
        prior = known(alpha) + known(beta) + known(delta, 0.75)
        return prior + logit(y, alpha[:, None] - beta + delta, given)

    return Target(log_density, alpha=u.real(400), beta=u.real(100), delta=u.real())


def irt_multilevel(data: Data) -> Target:
    y, given = answers(data)

    def log_density(alpha, beta, delta, sigma):
        prior = normal(alpha, 0.0, sigma[0]) + normal(beta, 0.0, sigma[1]) + known(delta, 0.75)
        return prior + logit(y, alpha[:, None] - beta + delta, given)

    return Target(
        log_density, alpha=u.real(400), beta=u.real(100), delta=u.real(), sigma=u.positive(2)
    )


def lsat(data: Data) -> Target:
    count = np.diff(data["culm"], prepend=0).astype(int)
    y = np.repeat(data["response"], count, axis=0)

    def log_density(theta, alpha, beta):
        prior = known(alpha, 0, 100) + known(theta) + known(beta, 0, 100)
        return prior + logit(y, beta * theta[:, None] - alpha)

    return Target(log_density, theta=u.real(1000), alpha=u.real(5), beta=u.positive())


def endo3(data: Data) -> Target:
    kinds = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    count = [int(data[name]) for name in ("n10", "n01", "n11")]
    exposed = np.repeat(kinds, [*count, int(data["I"]) - sum(count)], axis=0)

    def log_density(beta, beta0):
        log_rate = beta0[:, None] + beta * exposed
        prior = known(beta, 0, 1000) + known(beta0, 0, 1000)
        return prior + log_rate[:, 0].sum() - jnp.exp(log_rate).sum()

    return Target(log_density, beta=u.real(), beta0=u.real(len(exposed)))


def _included(omega, log_likelihood, captured):
    """Log probability of a row of an augmented table: seen, or not there, or missed."""
    there = jnp.log(omega) + log_likelihood
    return jnp.where(captured, there, jnp.logaddexp(there, jnp.log1p(-omega)))


def mh(data: Data) -> Target:
    y = data["y"].astype(int)

    def log_density(eta, omega, mean_p, sigma):
        logits = jnp.log(mean_p) - jnp.log1p(-mean_p) + sigma * eta
        rows = y * logits - 5 * jax.nn.softplus(logits) + LOG_COMB_5[y]
        return known(eta) + _included(omega, rows, y > 0).sum()

    tops = {"omega": u.interval(0, 1), "mean_p": u.interval(0, 1), "sigma": u.interval(0, 5)}
    return Target(log_density, eta=u.real(len(y)), **tops)


def mth(data: Data) -> Target:
    y = data["y"]

    def log_density(eta, omega, mean_p, sigma):
        logits = jnp.log(mean_p) - jnp.log1p(-mean_p) + sigma * eta[:, None]
        rows = (y * logits - jax.nn.softplus(logits)).sum(1)
        return known(eta) + _included(omega, rows, y.any(1)).sum()

    tops = {"omega": u.interval(0, 1), "mean_p": u.interval(0, 1, 5), "sigma": u.interval(0, 5)}
    return Target(log_density, eta=u.real(len(y)), **tops)


def m_array(history: np.ndarray) -> np.ndarray:
    """Releases by occasion and occasion of the next capture; never again in the last column."""
    n, t = history.shape
    found = np.zeros((t - 1, t))
    for row in history:
        seen = np.flatnonzero(row)
        for here, later in zip(seen[:-1], seen[1:], strict=True):
            found[here, later - 1] += 1
        if seen[-1] < t - 1:
            found[seen[-1], -1] += 1
    return found


def _cjs(counts: np.ndarray) -> Target:
    """Survival and recapture by occasion; birds that are never seen again by recursion."""
    t = len(counts)
    alive = np.array([counts[: i + 1, i:-1].sum() for i in range(t)])
    caught = counts[:, :-1].sum(0)
    never = counts[:, -1]

    def log_density(phi, p):
        lost, log_lost = jnp.ones(()), []
        for i in reversed(range(t)):
            lost = 1 - phi[i] + phi[i] * (1 - p[i]) * lost
            log_lost.append(jnp.log(lost))
        seen = alive * jnp.log(phi) + caught * jnp.log(p) + (alive - caught) * jnp.log1p(-p)
        return seen.sum() + (never * jnp.stack(log_lost[::-1])).sum()

    return Target(log_density, phi=u.interval(0, 1, t), p=u.interval(0, 1, t))


def cjs_mnl(data: Data) -> Target:
    return _cjs(data["marr"])


def cjs_t_t(data: Data) -> Target:
    return _cjs(m_array(data["y"]))


def dynocc(data: Data) -> Target:
    seen, count = np.unique(data["y"].sum(1).astype(int), axis=0, return_counts=True)
    times = np.arange(0.0, 4.0)

    def log_density(first, p, stay, come):
        share = p[:, None]
        there = jnp.exp(LOG_COMB_3) * share**times * (1 - share) ** (3 - times)
        there = jnp.take_along_axis(there.T, seen, axis=0).T
        away = (seen == 0).T.astype(float)

        def year(before, now):
            (on, off), (here, gone, stays, comes) = before, now
            on, off = on * stays + off * comes, on * (1 - stays) + off * (1 - comes)
            return (on * here, off * gone), None

        begin = first * there[0], (1 - first) * away[0]
        (on, off), _ = jax.lax.scan(year, begin, (there[1:], away[1:], stay, come))
        return (count * jnp.log(on + off)).sum()

    def shares(n):
        return u.interval(0, 1, n)

    return Target(log_density, first=u.interval(0, 1), p=shares(10), stay=shares(9), come=shares(9))
