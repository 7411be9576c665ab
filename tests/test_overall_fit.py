"""M2 and its kin: mirt's numbers, a slow twin over all patterns of answers, and its distribution.

mirt's numbers are what its own tests expect (mirt, tests/testthat/test-01-mirtOne.R).
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from trait_scenes import lsat

from minorant.estimators import LatentTrait, _overall_fit

# Section 7 of the Law School Admission Test: persons for the patterns 00000, 00001, ... 11111.
# Bock & Lieberman (1970), "Fitting a response model for n dichotomously scored items", table 2.
SECTION_7 = [
    12, 19, 1, 7, 3, 19, 3, 17, 10, 5, 3, 7, 7, 23, 8, 28,
    7, 39, 11, 34, 14, 51, 15, 90, 6, 25, 7, 35, 18, 136, 32, 308,
]  # fmt: skip
PATTERNS = np.array(list(itertools.product([0.0, 1.0], repeat=5)))
TOPS = (3, 2, 2, 2, 3)


@pytest.fixture(scope="module")
def section_7():
    persons = np.array(SECTION_7, float)
    return LatentTrait("2PL", tol=1e-12).fit(PATTERNS, sample_weight=persons), persons


@pytest.fixture(scope="module")
def ordinal():
    """Items of two and three answers, and persons who gave them."""
    rng = np.random.default_rng(0)
    reach = rng.normal(size=(1500, 1)) * [1.2, 0.8, 1.5, 1.0, 0.9] + rng.logistic(size=(1500, 5))
    answers = np.stack([reach[:, j] > 0.3 * j - 0.5 for j in range(5)], axis=1).astype(float)
    for j, top in enumerate(TOPS):
        answers[:, j] += (top == 3) * (reach[:, j] > 1.0)
    return LatentTrait("graded", tol=1e-12).fit(answers), answers


def test_lsat_7_as_in_mirt(section_7):
    fitted, persons = section_7
    assert round(fitted.fit_.bound, 3) == -2658.805
    found = fitted.overall_fit(PATTERNS, persons)
    np.testing.assert_allclose(found.statistic, 11.93841, atol=5e-5)
    assert found.degrees == 5
    np.testing.assert_allclose(found.p_value, stats.chi2.sf(11.93841, 5), rtol=1e-4)
    np.testing.assert_allclose(found.rmsea, np.sqrt((11.93841 - 5) / (5 * 999)), rtol=1e-4)
    low, high = found.rmsea_limits
    chances = stats.ncx2.cdf(found.statistic, 5, np.array([low, high]) ** 2 * 5 * 999)
    np.testing.assert_allclose(chances, [0.95, 0.05], atol=1e-8)


def test_lsat_6_as_in_mirt():
    """Its Rasch model to the 1e-2 that mirt's test allows, both climbs being stopped early there.

    The two-parameter model there is integrated by quasi-Monte Carlo.
    """
    answers, persons = lsat()
    for kind, expected, degrees, within in (
        ("2PL", 4.737141, 5, 2e-3),
        ("Rasch", 5.291576, 9, 1e-2),
    ):
        fitted = LatentTrait(kind, tol=1e-12).fit(answers, sample_weight=persons)
        found = fitted.overall_fit(answers, persons)
        np.testing.assert_allclose(found.statistic, expected, atol=within)
        assert found.degrees == degrees
        assert found.rmsea == 0.0
        assert found.cfi == 1.0


def test_independent_items_are_judged_by_their_correlations(section_7):
    """Their M2 is n times the sum of squared correlations: the score test of independence."""
    fitted, persons = section_7
    found = fitted.overall_fit(PATTERNS, persons)
    correlation = np.cov(PATTERNS.T, fweights=persons.astype(int))
    size = np.sqrt(np.diag(correlation))
    squares = (correlation / np.outer(size, size))[np.triu_indices(5, 1)] ** 2
    worst = 1000 * squares.sum()
    np.testing.assert_allclose(found.cfi, 1 - (found.statistic - 5) / (worst - 10), rtol=1e-9)
    ratio = worst / 10
    np.testing.assert_allclose(found.tli, (ratio - found.statistic / 5) / (ratio - 1), rtol=1e-9)


def test_persons_with_missing_answers_are_left_out(section_7):
    fitted, persons = section_7
    more = np.vstack([PATTERNS, [1, 1, np.nan, 1, 1]])
    again = fitted.overall_fit(more, np.append(persons, 7.0))
    assert again == fitted.overall_fit(PATTERNS, persons)


def graded_chances(parameters, nodes):
    """Probabilities of the answers to every item at nodes, from slopes and cuts."""
    at, found = 0, []
    for top in TOPS:
        slope, cuts = parameters[at], parameters[at + 1 : at + top]
        at += top
        beyond = 1 / (1 + np.exp(-(slope * nodes[:, None] + cuts)))
        ends = np.ones((len(nodes), 1)), np.zeros((len(nodes), 1))
        found.append(-np.diff(np.hstack([ends[0], beyond, ends[1]]), axis=1))
    return found


def slow_moments(x, kind):
    first = x if kind == "M2*" else np.concatenate([np.eye(m)[int(c), 1:] for c, m in zip(x, TOPS)])  # noqa: B905
    return np.append(first, [x[i] * x[j] for i, j in itertools.combinations(range(5), 2)])


def slow_statistic(parameters, answers, kind):
    """The textbook formula over the 72 patterns, derivatives by differences."""
    nodes = np.linspace(-8, 8, 801)
    mass = stats.norm.pdf(nodes) / stats.norm.pdf(nodes).sum()
    patterns = list(itertools.product(*map(range, TOPS)))
    moments = np.array([slow_moments(np.array(x, float), kind) for x in patterns])

    def chance(at):
        tables = graded_chances(at, nodes)
        return np.array([mass @ np.prod([t[:, c] for t, c in zip(tables, x)], 0) for x in patterns])  # noqa: B905

    p = chance(parameters)
    expected = p @ moments
    covariance = (moments.T * p) @ moments - np.outer(expected, expected)
    step = 1e-5 * np.eye(len(parameters))
    slope = np.stack(
        [(chance(parameters + s) - chance(parameters - s)) @ moments / 2e-5 for s in step], axis=1
    )
    away = np.mean([slow_moments(x, kind) for x in answers], axis=0) - expected
    inverse = np.linalg.inv(covariance)
    inner = np.linalg.inv(slope.T @ inverse @ slope)
    project = inverse - inverse @ slope @ inner @ slope.T @ inverse
    return len(answers) * away @ project @ away, len(expected) - len(parameters)


@pytest.mark.parametrize("kind", ["M2*", "C2"])
def test_ordinal_items_against_all_patterns(ordinal, kind):
    fitted, answers = ordinal
    table = fitted.items_
    own = [np.r_[table.slopes[j, 0], table.intercepts[j, : top - 1]] for j, top in enumerate(TOPS)]
    statistic, degrees = slow_statistic(np.concatenate(own), answers, kind)
    found = fitted.overall_fit(answers, kind=kind)
    assert found.degrees == degrees == {"M2*": 3, "C2": 5}[kind]
    np.testing.assert_allclose(found.statistic, statistic, rtol=1e-5)


@pytest.mark.parametrize("kind", ["M2*", "C2"])
def test_it_has_its_distribution(ordinal, kind):
    """Of 400 tables drawn from the model: mean and spread of chi-squared, by their own error."""
    fitted, _ = ordinal
    chances, masses, slopes = _overall_fit._expected(fitted.fit_, kind)
    features = [_overall_fit._features(top, kind) for top in TOPS]
    margins = _overall_fit.margins(chances, masses[0], features)
    answers, _ = fitted.sample(400_000, random_state=3)
    found = []
    for table in np.split(answers, 400):
        seen = _overall_fit.observed(table, np.ones(1000), features)
        group = _overall_fit.Group(1000.0, seen, margins, slopes[0])
        found.append(_overall_fit.misfit([group]))
    degrees = found[0][1]
    values = np.array([one[0] for one in found])
    assert abs(values.mean() - degrees) < 4 * np.sqrt(2 * degrees / 400)
    tail = (values > stats.chi2.ppf(0.9, degrees)).mean()
    assert abs(tail - 0.1) < 4 * np.sqrt(0.09 / 400)


def test_groups_are_compared_one_by_one(ordinal):
    """Two groups with one slope and one observation each double statistic and moments."""
    fitted, answers = ordinal
    features = [_overall_fit._features(top, "C2") for top in TOPS]
    chances, masses, slopes = _overall_fit._expected(fitted.fit_, "C2")
    margins = _overall_fit.margins(chances, masses[0], features)
    seen = _overall_fit.observed(answers, np.ones(len(answers)), features)
    one = _overall_fit.Group(1500.0, seen, margins, slopes[0])
    statistic, degrees = _overall_fit.misfit([one])
    both = _overall_fit.misfit([one, one])
    np.testing.assert_allclose(both[0], 2 * statistic)
    assert both[1] == degrees + len(seen)


def test_what_cannot_be_judged(ordinal):
    fitted, answers = ordinal
    with pytest.raises(ValueError, match="kind must be one of"):
        fitted.overall_fit(answers, kind="M2")
    gone = answers.copy()
    gone[:, 1] = np.nan
    with pytest.raises(ValueError, match="needs two items or more, and in every group persons"):
        fitted.overall_fit(gone)
    with pytest.raises(ValueError, match=r"compares 6 moments.*Use kind='C2', more items"):
        _overall_fit._check_degrees(0, 6, "M2*")
