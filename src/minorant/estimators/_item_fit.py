"""How well items fit: residuals at the scores, and answers against what the total score predicts.

NumPy in, NumPy out. ``curves`` holds for every item its (s, m) probabilities at s traits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Curves = list[np.ndarray]
_LEAST = 1.0


class ItemFit(NamedTuple):
    """Fit statistics, one entry per item; NaN where an item has too few answers.

    Attributes:
        item: (d,) names.
        infit: (d,) information-weighted mean square of residuals; 1 is expected.
        outfit: (d,) mean square of standardised residuals; 1 is expected, outliers raise it.
        s_x2: (d,) S-X2, observed against expected answers for every total score.
        degrees: (d,) degrees of freedom of S-X2.
        p_value: (d,) upper tail of the chi-squared law.
    """

    item: tuple[str, ...]
    infit: Float[np.ndarray, " d"]
    outfit: Float[np.ndarray, " d"]
    s_x2: Float[np.ndarray, " d"]
    degrees: Float[np.ndarray, " d"]
    p_value: Float[np.ndarray, " d"]

    def __str__(self) -> str:
        """The table."""
        width = max(4, *map(len, self.item))
        head = f"{'item':<{width}}  infit  outfit     S-X2  df       p"
        lines = [
            f"{name:<{width}}  {a:5.3f}  {b:6.3f}  {c:7.2f}  {d:2.0f}  {p:6.4f}"
            for name, a, b, c, d, p in zip(*self, strict=True)
        ]
        return "\n".join([head, *lines])


def residuals(codes: Float[np.ndarray, "n d"], curves: Curves) -> tuple[np.ndarray, np.ndarray]:
    """Answers less their expectation at each person's score, and their variance there.

    Args:
        codes: (n, d), NaN where missing.
        curves: of each item (n, m): probabilities at each person's own score.
    """
    expected = np.stack([chance @ np.arange(chance.shape[1]) for chance in curves], axis=1)
    second = np.stack([chance @ np.arange(chance.shape[1]) ** 2.0 for chance in curves], axis=1)
    return codes - expected, second - expected**2


def mean_squares(
    codes: Float[np.ndarray, "n d"], curves: Curves, weights: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Infit and outfit of every item.

    Wright & Masters (1982), "Rating scale analysis", chapter 5.
    """
    away, variance = residuals(codes, curves)
    there = ~np.isnan(away)
    weight = np.where(there, weights[:, None], 0.0)
    square = np.where(there, away, 0.0) ** 2
    variance = np.maximum(variance, 1e-12)
    infit = (weight * square).sum(0) / (weight * variance).sum(0)
    return infit, (weight * square / variance).sum(0) / weight.sum(0)


def residual_correlations(
    codes: Float[np.ndarray, "n d"], curves: Curves, weights: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "d d"]:
    """Q3: correlations of residuals between items, over persons who answered both.

    Yen (1984), "Effects of local item dependence on the fit and equating performance of the
    three-parameter logistic model".
    """
    away, _ = residuals(codes, curves)
    there = ~np.isnan(away)
    away = np.where(there, away, 0.0)
    w = weights[:, None] * there
    count = w.T @ there
    first, second = (w * away).T @ there, (w * away**2).T @ there
    both = (w * away).T @ away
    covariance = both / count - (first / count) * (first.T / count.T)
    variance = second / count - (first / count) ** 2
    return covariance / np.sqrt(variance * variance.T)


def total_scores(curves: Curves) -> Float[np.ndarray, "s k"]:
    """``p(total = k | z)`` at every node, item after item.

    Lord & Wingersky (1984), "Comparison of IRT true-score and equipercentile observed-score
    equatings"; Thissen et al. (1995) for more than two categories.
    """
    total = np.ones((len(curves[0]), 1))
    for chance in curves:
        m = chance.shape[1]
        longer = np.zeros((len(total), total.shape[1] + m - 1))
        for c in range(m):
            longer[:, c : c + total.shape[1]] += total * chance[:, c : c + 1]
        total = longer
    return total


def score_tables(
    codes: Float[np.ndarray, "n d"], weights: Float[np.ndarray, " n"], item: int, m: int, top: int
) -> Float[np.ndarray, "k m"]:
    """How many persons of every total score gave every answer."""
    table = np.zeros((top + 1, m))
    np.add.at(table, (codes.sum(1).astype(int), codes[:, item].astype(int)), weights)
    return table


def s_x2(
    codes: Float[np.ndarray, "n d"],
    weights: Float[np.ndarray, " n"],
    curves: Curves,
    mass: Float[np.ndarray, " s"],
    n_parameters: list[int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """S-X2, degrees of freedom and p-value of every item, from persons who answered everything.

    Args:
        codes: (n, d) complete answers.
        weights: (n,) persons.
        curves: of each item (s, m), at nodes.
        mass: (s,) prior mass of the nodes.
        n_parameters: of each item.

    Orlando & Thissen (2000), "Likelihood-based item-fit indices for dichotomous item response
    theory models", equations 4 to 6; Kang & Chen (2008) for more than two categories. Neighbouring
    scores are joined until at least two answers are expected once or more, answers expected less
    often are then joined.
    """
    from scipy import stats

    every = mass @ total_scores(curves)
    found = np.full((3, len(curves)), np.nan)
    for j, chance in enumerate(curves):
        rest = total_scores(curves[:j] + curves[j + 1 :])
        m, top = chance.shape[1], len(every) - 1
        expected = np.zeros((top + 1, m))
        for c in range(m):
            expected[c : c + rest.shape[1], c] = mass @ (rest * chance[:, c : c + 1])
        observed = score_tables(codes, weights, j, m, top)
        expected *= (observed.sum(1) / every)[:, None]
        statistic, cells = _chi_squared(observed[1:top], expected[1:top])
        degrees = cells - n_parameters[j]
        if degrees > 0:
            found[:, j] = statistic, degrees, stats.chi2.sf(statistic, degrees)
    return found[0], found[1], found[2]


def _chi_squared(observed: np.ndarray, expected: np.ndarray) -> tuple[float, int]:
    """The statistic, and the number of cells that are free given their score."""
    statistic, free = 0.0, 0
    for seen, thought in _joined(observed, expected):
        cells = _joined_answers(seen, thought)
        free += len(cells) - 1
        statistic += sum((o - e) ** 2 / e for o, e in cells)
    return statistic, free


def _joined(observed: np.ndarray, expected: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Neighbouring scores joined until two answers are expected once; the rest joins the last."""
    groups: list[tuple[np.ndarray, np.ndarray]] = []
    seen, thought = np.zeros(observed.shape[1]), np.zeros(observed.shape[1])
    for one, other in zip(observed, expected, strict=True):
        seen, thought = seen + one, thought + other
        if len(_joined_answers(seen, thought)) > 1:
            groups.append((seen, thought))
            seen, thought = np.zeros_like(seen), np.zeros_like(thought)
    if groups and thought.sum() > 0:
        last = groups.pop()
        groups.append((last[0] + seen, last[1] + thought))
    return groups


def _joined_answers(seen: np.ndarray, thought: np.ndarray) -> list[tuple[float, float]]:
    """Neighbouring answers joined until each is expected once."""
    cells: list[tuple[float, float]] = []
    o = e = 0.0
    for one, other in zip(seen, thought, strict=True):
        o, e = o + one, e + other
        if e >= _LEAST:
            cells.append((o, e))
            o = e = 0.0
    if cells and e > 0:
        cells[-1] = (cells[-1][0] + o, cells[-1][1] + e)
    return cells
