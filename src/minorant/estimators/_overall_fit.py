r"""How well a latent trait model fits as a whole: the M2 family of limited-information statistics.

Tables of all patterns of answers are too sparse for Pearson's statistic; means and products of
pairs of answers are not. With u(x) these moments of a person's answers, ``e`` the observed less the
expected means of u, ``Xi`` the covariance of u under the model and ``D`` the derivative of its
expectation in the parameters,

.. math:: M_2 = n\, e^\top \big( \Xi^{-1} - \Xi^{-1} D (D^\top \Xi^{-1} D)^{-1} D^\top \Xi^{-1}
          \big) e

is chi-squared with ``len(u) - rank(D)`` degrees of freedom whatever consistent estimate was used.
Answers to different items are independent given the traits, so Xi takes moments of single items at
the nodes of a grid, and no table of three or four items.

Maydeu-Olivares & Joe (2006), "Limited information goodness-of-fit testing in multidimensional
contingency tables", equation 9; Cai & Hansen (2013), "Limited-information goodness-of-fit testing
of hierarchical item factor models" (M2*); Cai & Monroe (2014), "A new statistic for evaluating item
response theory models for ordinal data" (C2).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from minorant.result import Fit

KINDS = ("M2*", "C2")
_NULL = 1e-10
_POINTS = {1: 61, 2: 31, 3: 15}


class OverallFit(NamedTuple):
    """How well the model fits as a whole.

    Attributes:
        kind: "M2*" (M2 where all items have two answers) or "C2".
        statistic: chi-squared where the model is right.
        degrees: its degrees of freedom.
        p_value: its upper tail.
        rmsea: ``sqrt(max(M2 - df, 0) / (df (n - 1)))``: misfit per degree of freedom; of two
            answers, 0.05 is a close fit (Maydeu-Olivares & Joe, 2014).
        rmsea_limits: 90% confidence limits, from the noncentral chi-squared law.
        srmsr: root mean square of observed less expected correlations of items.
        cfi: comparative fit: misfit against that of independent items, 1 is best.
        tli: the same, per degree of freedom.
    """

    kind: str
    statistic: float
    degrees: int
    p_value: float
    rmsea: float
    rmsea_limits: tuple[float, float]
    srmsr: float
    cfi: float
    tli: float


class Margins(NamedTuple):
    """What the model says of u: expectation (s,) and covariance (s, s)."""

    expectation: Float[np.ndarray, " s"]
    covariance: Float[np.ndarray, "s s"]


class Group(NamedTuple):
    """One group of persons: how many, observed and expected moments, derivative (s, p)."""

    persons: float
    observed: Float[np.ndarray, " s"]
    margins: Margins
    slope: Float[np.ndarray, "s p"]


def overall_fit(
    answer: Fit, codes: np.ndarray, weights: np.ndarray, group: np.ndarray, kind: str
) -> OverallFit:
    """The statistic and its indices; persons with missing answers are left out.

    Raises:
        ValueError: for an unknown kind, nobody who answered all, or more parameters than moments.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}; got {kind!r}.")
    whole = ~np.isnan(codes).any(1) & (weights > 0)
    model = answer.model
    parts = [whole & (group == g) for g in range(model.n_groups)]
    if codes.shape[1] < 2 or not all(part.any() for part in parts):
        raise ValueError(
            "overall_fit needs two items or more, and in every group persons who answered all of "
            "them: leave out items with many missing answers."
        )
    chances, masses, slopes = _expected(answer, kind)
    features = [_features(one.shape[1], kind) for one in chances]
    found, independent, residual = [], [], []
    for part, mass, slope in zip(parts, masses, slopes, strict=True):
        rows, w = codes[part], weights[part]
        seen = observed(rows, w, features)
        found.append(Group(w.sum(), seen, margins(chances, mass, features), slope))
        independent.append(_independent(rows, w, features))
        residual.append(_correlations(rows, w) - _implied(chances, mass))
    ours, theirs = misfit(found), [misfit([one]) for one in independent]
    _check_degrees(ours[1], len(found[0].observed) * len(found), kind)
    null = sum(one[0] for one in theirs), sum(one[1] for one in theirs)
    persons = sum(one.persons for one in found)
    return _indices(kind, ours, null, persons, np.concatenate(residual))


def _check_degrees(degrees: int, moments: int, kind: str) -> None:
    if degrees < 1:
        other = "kind='C2', " if kind == "M2*" else ""
        raise ValueError(
            f"{kind} compares {moments} moments, no more than the model has parameters: nothing is "
            f"left to test. Use {other}more items, or a smaller model."
        )


# Moments under the model


def _features(m: int, kind: str) -> Float[np.ndarray, "m p"]:
    """The functions of one answer whose means are compared: its score, or its categories."""
    return np.arange(float(m))[:, None] if kind == "M2*" else np.eye(m)[:, 1:]


def margins(
    chances: list[np.ndarray], mass: Float[np.ndarray, " q"], features: list[np.ndarray]
) -> Margins:
    """Moments of u from probabilities (q, m) of every item's answers at nodes.

    The covariance is that of the conditional means, plus the mean of the conditional covariances,
    which two moments have where they share an item.
    """
    d = len(chances)
    mean, spread = map(np.stack, zip(*map(_score, chances), strict=True))  # (d, q) each
    a, b = np.triu_indices(d, 1)
    firsts = [chance @ feature for chance, feature in zip(chances, features, strict=True)]
    inner = np.concatenate([*(one.T for one in firsts), mean[a] * mean[b]])
    expectation = inner @ mass
    covariance = (inner * mass) @ inner.T - np.outer(expectation, expectation)
    starts = np.cumsum([0, *(one.shape[1] for one in features)])
    pairs = np.arange(starts[-1], len(inner))
    covariance[pairs, pairs] += (spread[a] * spread[b]) @ mass
    for j, (chance, feature) in enumerate(zip(chances, features, strict=True)):
        own = pairs[(a == j) | (b == j)]
        others = np.delete(mean, j, axis=0)
        place = np.r_[starts[j] : starts[j + 1], own]
        covariance[np.ix_(place, place)] += _shared(
            chance, feature, firsts[j], (mean[j], spread[j]), others, mass
        )
    return Margins(expectation, covariance)


def _score(chance: Float[np.ndarray, "q m"]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of an answer's score at every node."""
    score = np.arange(chance.shape[1])
    mean = chance @ score
    return mean, chance @ score**2.0 - mean**2


def _shared(  # noqa: PLR0913
    chance: np.ndarray,
    feature: np.ndarray,
    first: np.ndarray,
    score: tuple[np.ndarray, np.ndarray],
    others: np.ndarray,
    mass: np.ndarray,
) -> Float[np.ndarray, "c c"]:
    """Mean conditional covariance through one item: of its functions, then of its products."""
    mean, spread = score
    within = np.einsum("q,qm,mi,mj->ij", mass, chance, feature, feature)
    within = within - (first.T * mass) @ first
    across = (chance * np.arange(chance.shape[1])) @ feature - mean[:, None] * first
    mixed = (across.T * mass) @ others.T
    return np.block([[within, mixed], [mixed.T, (others * (mass * spread)) @ others.T]])


def _implied(chances: list[np.ndarray], mass: np.ndarray) -> Float[np.ndarray, " e"]:
    """Correlations of items under the model, pair by pair."""
    mean, spread = map(np.stack, zip(*map(_score, chances), strict=True))
    centred = mean - (mean @ mass)[:, None]
    covariance = (centred * mass) @ centred.T
    size = np.sqrt(np.diag(covariance) + spread @ mass)
    return (covariance / np.outer(size, size))[np.triu_indices(len(chances), 1)]


# Moments of the data


def observed(
    codes: Float[np.ndarray, "n d"], weights: np.ndarray, features: list[np.ndarray]
) -> Float[np.ndarray, " s"]:
    """The weighted mean of u over persons."""
    share = weights / weights.sum()
    firsts = [share @ one[codes[:, j].astype(int)] for j, one in enumerate(features)]
    products = (codes * share[:, None]).T @ codes
    return np.concatenate([*firsts, products[np.triu_indices(codes.shape[1], 1)]])


def _correlations(codes: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, " e"]:
    covariance = np.cov(codes.T, aweights=weights, bias=True)
    size = np.sqrt(np.maximum(np.diag(covariance), np.finfo(float).tiny))
    return (covariance / np.outer(size, size))[np.triu_indices(len(size), 1)]


def _independent(codes: np.ndarray, weights: np.ndarray, features: list[np.ndarray]) -> Group:
    """The model of independent items: one node, every item's shares of answers its parameters."""
    share, d = weights / weights.sum(), codes.shape[1]
    chances = [
        np.stack([share @ (codes[:, j] == c) for c in range(len(one))])[None]
        for j, one in enumerate(features)
    ]
    mean = np.array([float(_score(chance)[0][0]) for chance in chances])
    a, b = np.triu_indices(d, 1)
    columns = []
    for j, feature in enumerate(features):
        before = [np.zeros(one.shape[1]) for one in features]
        for c in range(1, len(feature)):  # one more answer c is one fewer answer 0
            firsts = [*before[:j], feature[c] - feature[0], *before[j + 1 :]]
            pairs = c * np.where(a == j, mean[b], np.where(b == j, mean[a], 0.0))
            columns.append(np.concatenate([*firsts, pairs]))
    found = margins(chances, np.ones(1), features)
    return Group(weights.sum(), observed(codes, weights, features), found, np.stack(columns, 1))


# The statistic


def misfit(groups: list[Group]) -> tuple[float, int]:
    """M2 and its degrees of freedom: residuals outside the space that parameters can reach."""
    residuals, slopes = [], []
    for one in groups:
        root = _root(one.margins.covariance / one.persons)
        residuals.append(root @ (one.observed - one.margins.expectation))
        slopes.append(root @ one.slope)
    residual, slope = np.concatenate(residuals), np.concatenate(slopes)
    length = np.linalg.norm(slope, axis=0)
    slope = slope[:, length > 0] / length[length > 0]
    reached, sizes, _ = np.linalg.svd(slope, full_matrices=False)
    reached = reached[:, sizes > _NULL**0.5 * sizes.max(initial=0.0)]
    away = residual - reached @ (reached.T @ residual)
    return float(away @ away), len(residual) - reached.shape[1]


def _root(covariance: np.ndarray) -> Float[np.ndarray, "r s"]:
    """R with ``R^T R`` the (pseudo-)inverse: moments that another implies are left out."""
    size = np.sqrt(np.diag(covariance))
    size = np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(covariance / np.outer(size, size))
    kept = values > _NULL * values.max()
    return (vectors[:, kept] / np.sqrt(values[kept])).T / size


def _indices(
    kind: str,
    ours: tuple[float, int],
    null: tuple[float, int],
    persons: float,
    residual: np.ndarray,
) -> OverallFit:
    from scipy import stats

    (statistic, degrees), (worst, worst_degrees) = ours, null
    unit = degrees * (persons - 1.0)
    low, high = (_noncentrality(statistic, degrees, tail) for tail in (0.95, 0.05))
    excess, most = max(statistic - degrees, 0.0), max(worst - worst_degrees, 1e-300)
    ratio = worst / worst_degrees
    return OverallFit(
        kind=kind,
        statistic=statistic,
        degrees=degrees,
        p_value=float(stats.chi2.sf(statistic, degrees)),
        rmsea=float(np.sqrt(excess / unit)),
        rmsea_limits=(float(np.sqrt(low / unit)), float(np.sqrt(high / unit))),
        srmsr=float(np.sqrt(np.mean(residual**2))),
        cfi=float(np.clip(1.0 - excess / most, 0.0, 1.0)),
        tli=float((ratio - statistic / degrees) / (ratio - 1.0)),
    )


def _noncentrality(statistic: float, degrees: int, chance: float) -> float:
    """The noncentrality at which ``p(chi2 <= statistic)`` is a given chance; 0 where none is."""
    from scipy import optimize, stats

    def above(size: float) -> float:
        return float(stats.ncx2.cdf(statistic, degrees, size)) - chance

    if stats.chi2.cdf(statistic, degrees) <= chance:
        return 0.0
    top = 2.0 * statistic + 10.0
    while above(top) > 0:
        top *= 2.0
    root: Any = optimize.brentq(above, 1e-12, top)
    return float(root)


# What JAX computes


def _expected(
    answer: Fit, kind: str
) -> tuple[list[np.ndarray], Float[np.ndarray, "g q"], Float[np.ndarray, "g s p"]]:
    """Probabilities of every item at nodes, the nodes' masses, derivatives of expected moments."""
    from minorant._config import precision
    from minorant._parameters import to_vector
    from minorant.posteriors import Grid

    model, template = answer.model, answer.standardised
    rule = model.rule if isinstance(model.rule, Grid) else Grid(_POINTS[model.n_traits])
    with precision(np.dtype(np.float64)):
        vector = np.asarray(to_vector(template), float)
        tables, masses, (first, second) = _compiled()(template, answer.fixed, vector, rule, kind)
    columns = [own for own, _ in model._stacks()]
    at = {j: np.asarray(one)[:, i] for own, one in zip(columns, tables, strict=True)
          for i, j in enumerate(own)}  # fmt: skip
    chances = [at[j] for j in range(len(at))]
    widths = [_features(one.shape[1], kind).shape[1] for one in chances]
    place = {j: (np.cumsum([0, *widths])[j], widths[j]) for j in range(len(widths))}
    order = np.concatenate([np.arange(place[j][1]) + place[j][0] for own in columns for j in own])
    firsts = np.empty_like(np.asarray(first))
    firsts[:, order] = np.asarray(first)
    a, b = np.triu_indices(len(chances), 1)
    slopes = np.concatenate([firsts, np.asarray(second)[:, a, b]], axis=1)
    return chances, np.exp(np.asarray(masses)), slopes


@functools.cache
def _compiled() -> Any:
    """The compiled moments and their derivative; JAX is imported when it is first asked for."""
    import jax
    import jax.numpy as jnp

    from minorant.models import _trait_scale as trait_scale
    from minorant.solvers.base import model_at

    def at(template: Any, fixed: Any, vector: Any, rule: Any) -> Any:
        model = model_at(template, vector, fixed)
        nodes, log_mass = trait_scale.nodes(
            rule, jnp.asarray(model.mean), jnp.asarray(model.covariance)
        )
        return model, [jnp.exp(item.log_probability(nodes)) for item in model.items], log_mass

    def moments(template: Any, fixed: Any, vector: Any, rule: Any, kind: str) -> Any:
        model, tables, log_mass = at(template, fixed, vector, rule)
        mass = jnp.exp(log_mass)
        stacks = [(np.array(own), one) for (own, _), one in zip(model._stacks(), tables)]  # noqa: B905
        scores = [one @ np.arange(float(one.shape[2])) for _, one in stacks]
        firsts = [one @ _features(one.shape[2], kind) for _, one in stacks]
        flat = jnp.concatenate([one.reshape(len(one), -1) for one in firsts], axis=1)
        d = sum(len(own) for own, _ in stacks)
        mean = jnp.zeros((len(flat), d), flat.dtype)
        for (own, _), score in zip(stacks, scores, strict=True):
            mean = mean.at[:, own].set(score)
        return mass @ flat, jnp.einsum("gq,qi,qj->gij", mass, mean, mean)

    def everything(template: Any, fixed: Any, vector: Any, rule: Any, kind: str) -> Any:
        _, tables, log_mass = at(template, fixed, vector, rule)
        slope = jax.jacfwd(lambda point: moments(template, fixed, point, rule, kind))(vector)
        return tables, log_mass, slope

    return jax.jit(everything, static_argnums=(3, 4))
