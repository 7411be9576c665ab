"""Data sets and traps whose log p(x) is known, as targets that are compiled once for all data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats
from scipy import stats as np_stats
from scipy.special import gammaln

from minorant import unknowns as u
from minorant.posteriors.members import FullRank
from minorant.targets import Target


class Case(NamedTuple):
    """A target, its log normaliser, and which family is to be fitted."""

    kind: str
    target: Target
    log_z: float
    family: str = "full-rank"


def regression(p: int, rng: np.random.Generator) -> tuple[Target, float]:
    """Linear regression, the noise's variance unknown: a conjugate prior, log p(x) closed."""
    n = 2 * p
    X = rng.normal(size=(n, p))
    precision = rng.gamma(2.0, 0.5)
    y = X @ rng.normal(size=p) / np.sqrt(precision) + rng.normal(size=n) / np.sqrt(precision)

    def log_density(w, tau):
        prior = stats.gamma.logpdf(tau, 2.0, scale=0.5)
        prior += stats.norm.logpdf(w, 0.0, tau**-0.5).sum()
        return prior + stats.norm.logpdf(y, X @ w, tau**-0.5).sum()

    posterior = np.eye(p) + X.T @ X
    mean = np.linalg.solve(posterior, X.T @ y)
    rate = 2.0 + 0.5 * (y @ y - mean @ posterior @ mean)
    log_z = -0.5 * n * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(posterior)[1]
    log_z += 2.0 * np.log(2.0) - gammaln(2.0) + gammaln(2.0 + 0.5 * n)
    log_z -= (2.0 + 0.5 * n) * np.log(rate)
    return Target(log_density, w=u.real(p), tau=u.positive()), float(log_z)


def student(p: int, rng: np.random.Generator) -> tuple[Target, float]:
    """A Student-t density of 6 degrees of freedom with any covariance: heavier tails than q's."""
    factor = np.linalg.qr(rng.normal(size=(p, p)))[0] * rng.gamma(2.0, 0.5, p)
    mean, log_z, degrees = rng.normal(size=p), 10.0 * rng.normal(), 6.0
    inverse = np.linalg.inv(factor)
    constant = gammaln(0.5 * (degrees + p)) - gammaln(0.5 * degrees)
    constant += -0.5 * p * np.log(np.pi * degrees) + np.linalg.slogdet(inverse)[1] + log_z
    held = np.array([constant])  # a number by itself would become part of the program

    def log_density(x):
        away = inverse @ (x - mean)
        return jnp.sum(held) - 0.5 * (degrees + p) * jnp.log1p(away @ away / degrees)

    return Target(log_density, x=u.real(p)), log_z


def state_space(p: int, rng: np.random.Generator) -> tuple[Target, float]:
    """A local level's path given its data: Gaussian, log p(x) by the filter; q is mean-field."""
    level = np.cumsum(rng.normal(size=p))
    y = level + 0.7 * rng.normal(size=p)

    def log_density(x):
        steps = stats.norm.logpdf(x, jnp.concatenate([jnp.zeros(1), x[:-1]]), 1.0).sum()
        return steps + stats.norm.logpdf(y, x, 0.7).sum()

    mean, variance, log_z = 0.0, 0.0, 0.0
    for value in y:
        variance += 1.0
        total = variance + 0.49
        log_z += -0.5 * (np.log(2 * np.pi * total) + (value - mean) ** 2 / total)
        gain = variance / total
        mean, variance = mean + gain * (value - mean), (1 - gain) * variance
    return Target(log_density, x=u.real(p)), float(log_z)


def mixture(p: int, rng: np.random.Generator) -> tuple[Target, float]:
    """Two unit normals that overlap, of any weight."""
    weight, there = rng.uniform(0.2, 0.8), rng.normal(size=p)
    there *= 3.0 / np.linalg.norm(there)
    log_weights = np.log([weight, 1.0 - weight])

    def log_density(x):
        modes = jnp.stack([jnp.zeros(p), jnp.asarray(there)])
        return jax.nn.logsumexp(log_weights + stats.norm.logpdf(x, modes).sum(1))

    return Target(log_density, x=u.real(p)), 0.0


KINDS = (
    (regression, (5, 20, 50), "full-rank"),
    (student, (5, 15), "full-rank"),
    (mixture, (2, 10), "full-rank"),
    (state_space, (20,), "mean-field"),
)


def cases(n: int, seed: int = 0) -> Iterator[Case]:
    """About ``n`` data sets, as many of each kind and size."""
    settings = [(build, p, family) for build, sizes, family in KINDS for p in sizes]
    for number, (build, p, family) in enumerate(settings):
        with jax.enable_x64(True):
            first = build(p, np.random.default_rng(seed))[0]
        for turn in range(max(1, round(n / len(settings)))):
            rng = np.random.default_rng([seed, number, turn])
            with jax.enable_x64(True):
                target, log_z = build(p, rng)
            same = eqx.tree_at(lambda t: t.constants, first, target.constants)
            yield Case(f"{build.__name__} {p}", same, log_z, family)


class Sequences(NamedTuple):
    """Rows of a hidden Markov chain, several sequences, and how many states to fit."""

    kind: str
    rows: np.ndarray
    groups: np.ndarray
    k: int


def sequences(n: int, seed: int = 0) -> Iterator[Sequences]:
    """``n`` data sets of 4 sequences in two columns, half of two states, half of three."""
    for turn in range(n):
        rng, k = np.random.default_rng([seed, 99, turn]), 2 + turn % 2
        means, moves = 3.0 * rng.normal(size=(k, 2)), rng.dirichlet(np.ones(k), k)
        moves = 0.3 * moves + 0.7 * np.eye(k)
        state, rows = 0, []
        for _ in range(4 * 30):
            state = rng.choice(k, p=moves[state])
            rows.append(rng.normal(means[state]))
        yield Sequences(f"hidden Markov {k}", np.array(rows), np.repeat(np.arange(4), 30), k)


def forward(model: Any, rows: np.ndarray, groups: np.ndarray) -> float:
    """log p(x) of a fitted chain by the forward algorithm in plain probabilities, scaled by step.

    Rabiner (1989), "A tutorial on hidden Markov models", section V.A.
    """
    part = model.component
    density = np.stack(
        [np_stats.multivariate_normal(m, c).pdf(rows)
         for m, c in zip(part.mean, part.covariance, strict=True)], axis=1,
    )  # fmt: skip
    total = 0.0
    for group in np.unique(groups):
        ahead = np.asarray(model.initial)
        for seen in density[groups == group]:
            joint = ahead * seen
            total += np.log(joint.sum())
            ahead = joint / joint.sum() @ np.asarray(model.transition)
    return float(total)


def traps() -> Iterator[tuple[str, Target, FullRank | None]]:
    """Densities of integral one that defeat a Gaussian; with q, where it is to cover one mode."""
    for p, weight in ((2, 0.7), (10, 0.3), (20, 0.05)):
        yield f"two modes 10 sd apart, {p} dims, q in {weight:g}", *_two(p, weight)
    yield "three labels, six equal modes", *_labels()
    yield "funnel, 5 dims", Target(_funnel, v=u.real(), x=u.real(4)), None
    yield "banana", Target(_banana, x=u.real(2)), None


def _two(p: int, weight: float) -> tuple[Target, FullRank]:
    there = np.eye(p)[0] * 10.0

    def log_density(x):
        first = np.log(weight) + stats.norm.logpdf(x).sum()
        return jnp.logaddexp(first, np.log1p(-weight) + stats.norm.logpdf(x - there).sum())

    return Target(log_density, x=u.real(p)), FullRank(np.zeros(p), np.eye(p))


def _labels() -> tuple[Target, FullRank]:
    """Three means, each of three places, any of which may be the first."""
    places = np.array([[-6.0, 0.0, 6.0]])
    orders = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    means = places[0][orders]

    def log_density(x):
        each = stats.norm.logpdf(x, means).sum(1)
        return jax.nn.logsumexp(each) - np.log(6.0)

    return Target(log_density, x=u.real(3)), FullRank(means[0], np.eye(3))


def _funnel(v, x):
    return stats.norm.logpdf(v, 0.0, 3.0) + stats.norm.logpdf(x, 0.0, jnp.exp(v / 2)).sum()


def _banana(x):
    bend = x[1] + 0.03 * (x[0] ** 2 - 100.0)
    return stats.norm.logpdf(x[0], 0.0, 10.0) + stats.norm.logpdf(bend)
