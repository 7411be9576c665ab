"""Both ends of log p(x) from a rule's own nodes, against sums over fine grids."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

import minorant
from minorant.data import arrays
from minorant.models import LatentTrait, MixedModel, TwoParameter
from minorant.posteriors import Adaptive


def most_crossed(n):
    """How many of n limits may lie on the wrong side of the truth, at 2.5% each."""
    return stats.binom.ppf(0.999, n, 0.025)


def check_limits(found, exact, units):
    """Every unit's limits at their rate, the totals within theirs and in standard errors."""
    above, below = found.rows_lower[units] > exact, found.rows_upper[units] < exact
    assert max(above.sum(), below.sum()) <= most_crossed(len(exact))
    assert found.lower < exact.sum() < found.upper
    assert abs(found.estimate - exact.sum()) < 4.0 * found.standard_error


def hard_limit(found):
    """What the verdict says holds with probability 0.95."""
    return float(found.verdict.split("log p(x) is above ")[1].split(". ")[0].rstrip("."))


@pytest.fixture(scope="module")
def answers():
    rng = np.random.default_rng(2)
    ability = rng.normal(size=(120, 1))
    return (1.5 * ability + np.linspace(-1.5, 1.0, 5) > rng.logistic(size=(120, 5))).astype(float)


@pytest.fixture(scope="module")
def traits(answers):
    """Laplace's approximation, which is far off with five answers."""
    return minorant.fit(LatentTrait(TwoParameter(), rule=Adaptive(1)), answers, progress=False)


@pytest.fixture(scope="module")
def of_traits(traits, answers):
    return traits.evidence(answers, upper=True, accuracy=0.02)


@pytest.fixture(scope="module")
def exact_traits(traits, answers):
    z = np.linspace(-12.0, 12.0, 4001)
    item = traits.model.items[0]
    reach = np.asarray(item.slopes) * z + np.asarray(item.intercepts)
    logs = answers @ special.log_expit(reach) + (1 - answers) @ special.log_expit(-reach)
    return special.logsumexp(logs + stats.norm.logpdf(z), axis=1) + np.log(z[1] - z[0])


def test_limits_of_persons_hold_a_fine_grid(of_traits, exact_traits):
    check_limits(of_traits, exact_traits, slice(None))


def test_limits_hold_where_rows_fill_several_blocks(traits, answers, exact_traits, monkeypatch):
    monkeypatch.setattr(arrays, "rows_per_block", lambda *_: 32)
    found = traits.evidence(answers, upper=True, accuracy=0.1)
    check_limits(found, exact_traits, slice(None))


@pytest.fixture(scope="module")
def of_three():
    """Three traits behind five items, persons of two groups."""
    rng, n = np.random.default_rng(4), 24
    slopes = np.array([[1.5, 0, 0], [1.0, 1.2, 0], [0.8, 0, 1.4], [0, 1.0, 1.0], [1.0, 1.0, 0]])
    group = np.repeat([0.0, 1.0], n // 2)
    ability = rng.normal(size=(n, 3)) + 0.7 * group[:, None]
    rows = (ability @ slopes.T > rng.logistic(size=(n, 5))).astype(float)
    model = LatentTrait(TwoParameter(), n_traits=3, n_groups=2, rule=Adaptive(1))
    fit = minorant.fit(model, rows, inputs=group[:, None], max_steps=1, progress=False)
    return fit, rows, group


def exact_of_three(model, rows, group):
    """``log p(x)`` of every person by a sum over a fine grid of three traits."""
    line = np.linspace(-8.0, 8.0, 41)
    z = np.stack(np.meshgrid(line, line, line), -1).reshape(-1, 3)
    reach = z @ np.asarray(model.items[0].slopes).T + np.ravel(model.items[0].intercepts)
    likelihood = rows @ special.log_expit(reach).T + (1 - rows) @ special.log_expit(-reach).T
    each = zip(model.mean, model.covariance, strict=True)
    prior = np.array([stats.multivariate_normal.logpdf(z, m, c) for m, c in each])
    logs = likelihood + prior[group.astype(int)]
    return special.logsumexp(logs, axis=1) + 3 * np.log(line[1] - line[0])


def test_limits_of_three_traits_in_two_groups_hold_a_fine_grid(of_three):
    fit, rows, group = of_three
    found = fit.evidence(rows, inputs=group[:, None], upper=True, accuracy=0.2)
    check_limits(found, exact_of_three(fit.model, rows, group), slice(None))
    assert found.verdict.startswith("Tight")


def test_the_width_is_what_was_asked_for(of_traits):
    width = (of_traits.rows_upper - of_traits.rows_lower).mean()
    assert width <= 0.02
    assert of_traits.verdict.startswith("Tight")


def test_the_lower_end_does_not_follow_the_rule(traits, answers, of_traits, exact_traits):
    """Laplace's numbers lie below the truth by more than the bracket is wide; its ends do not."""
    by_rule = traits.log_evidence(answers).sum()
    assert by_rule < of_traits.lower - (of_traits.upper - of_traits.lower)
    assert of_traits.lower < exact_traits.sum()


def test_the_hard_limit_is_below_the_truth_and_near(of_traits, exact_traits):
    truth = exact_traits.sum()
    assert truth - 2.0 < hard_limit(of_traits) < truth


def test_the_same_seed_gives_the_same_numbers(traits, answers):
    one, two = (traits.evidence(answers, upper=True, accuracy=0.5, seed=3) for _ in range(2))
    other = traits.evidence(answers, upper=True, accuracy=0.5, seed=4)
    assert (one.lower, one.upper) == (two.lower, two.upper)
    assert one.lower != other.lower


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(25), 4)
    x = rng.normal(size=100)
    effects = rng.multivariate_normal([0, 0], [[0.6, 0.2], [0.2, 0.3]], 25)[groups]
    y = rng.poisson(np.exp(0.3 + effects[:, 0] + (0.2 + effects[:, 1]) * x)).astype(float)
    return y[:, None], groups, x[:, None]


def exact_groups(model, y, groups, x):
    """``log p(y_g)`` by a sum over a fine grid of both effects."""
    line = np.linspace(-5.0, 5.0, 101)
    u = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    prior = stats.multivariate_normal.logpdf(u, np.zeros(2), model.covariance)
    logs = []
    for g in np.unique(groups):
        own = groups == g
        design = np.c_[np.ones(own.sum()), x[own]]
        reach = design @ (np.asarray(model.coefficients) + u).T
        logs.append(prior + stats.poisson.logpmf(y[own], np.exp(reach)).sum(0))
    return special.logsumexp(logs, axis=1) + 2 * np.log(line[1] - line[0])


def test_limits_of_groups_hold_a_fine_grid(counts):
    y, groups, x = counts
    fit = minorant.fit(
        MixedModel("poisson", random=(0, 1)), y, groups=groups, inputs=x, progress=False
    )
    found = fit.evidence(y, groups=groups, inputs=x, upper=True, accuracy=0.05)
    first = np.r_[True, groups[1:] != groups[:-1]]
    check_limits(found, exact_groups(fit.model, y, groups, x), first)
    assert not found.rows_lower[~first].any()
    assert not found.rows_upper[~first].any()


def test_weights_of_rows_count_and_leave_out_the_hard_limit(traits, answers, exact_traits):
    weights = np.r_[np.full(60, 2.0), np.zeros(60)]
    found = traits.evidence(answers, weights=weights, upper=True, accuracy=0.1)
    assert found.lower < weights @ exact_traits < found.upper
    assert "probability 0.95" not in found.verdict
