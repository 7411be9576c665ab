"""The estimator of latent trait models: published estimates, scores, item fit, bad input."""

from __future__ import annotations

import itertools
import pickle

import equinox as eqx
import numpy as np
import pytest
import truth_quadrature as truth
from sklearn.base import clone
from trait_scenes import lsat, simulated, slow_log_joint

import minorant
from minorant import _config, plots
from minorant.estimators import LatentTrait as Traits
from minorant.estimators import _item_fit
from minorant.estimators._item_table import trait_loadings
from minorant.models import GradedResponse, ItemPrior, LatentTrait, Rasch, TwoParameter
from minorant.posteriors import Grid


@pytest.fixture(scope="module")
def lsat_fit():
    answers, persons = lsat()
    return Traits("2PL", tol=1e-12).fit(answers, sample_weight=persons)


def test_lsat_6_as_published(lsat_fit):
    """Rizopoulos (2006), "ltm: an R package for latent variable modelling", section 4.1.

    Two-parameter model: log-likelihood to the printed 3 decimals. The printed difficulties agree to
    1e-3 relative and the slopes to 1e-3: that climb stopped at a looser tolerance than ours.
    """
    assert round(lsat_fit.fit_.bound, 3) == -2466.653
    items = lsat_fit.items_
    printed = [-3.3597, -1.3696, -0.2799, -1.8659, -3.1236]
    np.testing.assert_allclose(items.difficulties[:, 0], printed, rtol=1e-3)
    printed = [0.8254, 0.7229, 0.8905, 0.6886, 0.6575]
    np.testing.assert_allclose(items.slopes[:, 0], printed, atol=1e-3)
    assert lsat_fit.quadrature_error_ < 1e-6


def test_lsat_6_standard_errors_as_published(lsat_fit):
    """The same paper's standard errors, which come from differences of its gradient: 3 decimals."""
    answers, persons = lsat()
    found = lsat_fit.standard_errors(answers, sample_weight=persons)
    printed = [0.8669, 0.3073, 0.0997, 0.4341, 0.8700]
    np.testing.assert_allclose(found.difficulties[:, 0], printed, rtol=3e-3)
    printed = [0.2581, 0.1867, 0.2326, 0.1852, 0.2100]
    np.testing.assert_allclose(found.slopes[:, 0], printed, rtol=3e-3)
    np.testing.assert_array_equal(found.guessing, 0.0)


def test_lsat_6_one_parameter_as_published():
    """The same paper's one-parameter model: log-likelihood, common slope and difficulties."""
    answers, persons = lsat()
    rasch = Traits("Rasch", tol=1e-12).fit(answers, sample_weight=persons)
    assert round(rasch.fit_.bound, 3) == -2466.938
    deviation = np.sqrt(rasch.trait_covariances_[0, 0, 0])
    np.testing.assert_allclose(deviation, 0.7551, atol=1e-4)
    printed = [-3.6153, -1.3224, -0.3176, -1.7301, -2.7802]
    difficulties = rasch.items_.difficulties[:, 0] / deviation
    np.testing.assert_allclose(difficulties, printed, atol=1.5e-3)


def test_patterns_with_counts_are_as_good_as_persons(lsat_fit):
    answers, persons = lsat()
    copies = np.repeat(answers, persons.astype(int), axis=0)
    again = Traits("2PL", tol=1e-12).fit(copies)
    np.testing.assert_allclose(again.fit_.bound, lsat_fit.fit_.bound, rtol=1e-12)
    np.testing.assert_allclose(again.items_.slopes, lsat_fit.items_.slopes, atol=1e-6)
    np.testing.assert_allclose(
        again.score_samples(answers), lsat_fit.score_samples(answers), atol=1e-5
    )


def test_turning_an_item_round_turns_its_slope(lsat_fit):
    answers, persons = lsat()
    turned = answers.copy()
    turned[:, 2] = 1 - turned[:, 2]
    other = Traits("2PL", tol=1e-12).fit(turned, sample_weight=persons)
    sign = np.array([1, 1, -1, 1, 1.0])
    np.testing.assert_allclose(other.fit_.bound, lsat_fit.fit_.bound, rtol=1e-10)
    np.testing.assert_allclose(
        other.items_.slopes[:, 0] * sign, lsat_fit.items_.slopes[:, 0], atol=1e-3
    )


def test_a_climb_that_begins_upside_down_ends_upright(lsat_fit):
    answers, persons = lsat()
    model = lsat_fit.fit_.model
    start = eqx.tree_at(lambda m: m.items[0].slopes, model, -np.asarray(model.items[0].slopes))
    with _config.precision(np.dtype(float)):
        again = minorant.fit(start, answers, weights=persons, tolerance=1e-12)
        held = minorant.fit(start, answers, weights=persons, fixed=lambda m: m.items[0].slopes)
    np.testing.assert_allclose(again.bound, lsat_fit.fit_.bound, rtol=1e-12)
    np.testing.assert_allclose(again.model.items[0].slopes, model.items[0].slopes, atol=1e-5)
    np.testing.assert_array_equal(held.model.items[0].slopes, start.items[0].slopes)


def test_loadings_turn_with_their_traits():
    """A made-up model of two traits, turned so that its first item asks for one alone."""
    simple = np.array([[1.5, 0.0], [1.0, 0.0], [0.8, 0.0], [0.0, 1.2], [0.0, 0.9], [0.0, 1.4]])
    root = np.linalg.cholesky([[1.0, 0.3], [0.3, 1.0]])
    slopes = simple @ root
    turned = slopes @ np.linalg.qr(slopes[:2].T)[0]
    items = (TwoParameter(turned, np.zeros((6, 1))),)
    model = LatentTrait(items, np.zeros((1, 2)), np.eye(2)[None], n_traits=2)
    names = tuple("abcdef")
    found = trait_loadings(model, names, "oblimin")
    order = np.argsort(-np.abs(found.slopes[0]))  # whichever trait item a asks for comes first
    np.testing.assert_allclose(found.slopes[:, order], simple, atol=1e-5)
    np.testing.assert_allclose(found.correlation[0, 1], 0.3, atol=1e-5)
    np.testing.assert_allclose(found.slopes @ found.transform.T, turned, atol=1e-12)
    explained = (turned**2).sum(1)
    np.testing.assert_allclose(found.communality, explained / (1.702**2 + explained))
    whole = np.einsum("dl,lm,dm->d", found.loadings, found.correlation, found.loadings)
    np.testing.assert_allclose(whole, found.communality)
    plain = trait_loadings(model, names, None)
    np.testing.assert_allclose((plain.loadings**2).sum(1), found.communality)
    assert "communality" in str(found)


def test_what_cannot_be_rotated(lsat_fit):
    assert lsat_fit.loadings().loadings.shape == (5, 1)
    with pytest.raises(ValueError, match="rotation must be None here, because there is one trait"):
        lsat_fit.loadings("varimax")


def test_scores_against_fine_grids(lsat_fit):
    answers, _ = lsat()
    chosen = answers[[0, 7, 31]].copy()
    chosen[1, 2] = np.nan
    mean, error = lsat_fit.scores(chosen)
    mode, spread = lsat_fit.scores(chosen, "MAP")
    for i in range(3):
        slow = slow_log_joint(lsat_fit.fit_.model, chosen[i], 0)
        _, expected, covariance = truth.fine_grid(slow, np.zeros(1), 9.0, 601)
        np.testing.assert_allclose(mean[i], expected, atol=1e-6)
        np.testing.assert_allclose(error[i] ** 2, covariance[0], atol=1e-6)
        line = mode[i] + np.linspace(-1e-3, 1e-3, 21)[:, None]
        heights = np.array([slow(z) for z in line])
        assert heights.argmax() == 10
        curvature = np.polyfit(line[:, 0] - mode[i], heights - heights[10], 2)[0] * -2
        np.testing.assert_allclose(spread[i] ** -2, curvature, rtol=1e-4)


def test_a_person_who_answered_nothing_is_scored_by_the_prior(lsat_fit):
    mean, error = lsat_fit.scores(np.full((1, 5), np.nan))
    np.testing.assert_allclose((mean[0, 0], error[0, 0]), (0.0, 1.0), atol=1e-8)
    answers, persons = lsat()
    more = np.vstack([answers, np.full((1, 5), np.nan)])
    with _config.precision(np.dtype(float)):
        start = lsat_fit.fit_.model
        again = minorant.fit(start, more, weights=np.append(persons, 50.0))
    np.testing.assert_allclose(again.bound, lsat_fit.fit_.bound, rtol=1e-12)


def test_the_estimator_refines_a_rule_that_is_too_coarse(monkeypatch):
    answers, persons = lsat()
    from minorant.models import _trait_scale

    monkeypatch.setattr(_trait_scale, "default_rule", lambda l, d: Grid(6, 5.0))
    found = Traits("2PL").fit(answers, sample_weight=persons)
    assert found.fit_.model.rule.points > 6
    np.testing.assert_allclose(found.fit_.bound, -2466.653378, atol=1e-3)


# Fit of items


def test_total_scores_by_enumeration():
    curves = [np.array([[0.3, 0.7]]), np.array([[0.2, 0.5, 0.3]]), np.array([[0.6, 0.4]])]
    slow = np.zeros(5)
    for answers in itertools.product(range(2), range(3), range(2)):
        slow[sum(answers)] += np.prod([c[0, a] for c, a in zip(curves, answers, strict=True)])
    np.testing.assert_allclose(_item_fit.total_scores(curves)[0], slow)


@pytest.fixture(scope="module")
def fitted_to_its_own():
    """2,000 persons drawn from the model, and its fit: one item copies, one is not monotone."""
    rng = np.random.default_rng(6)
    z = rng.normal(size=(2000, 1))
    slopes, cuts = np.tile([1.5, 1.0, 1.2], 3), np.linspace(-1.5, 1.5, 9)
    answers = (z * slopes - slopes * cuts + rng.logistic(size=(2000, 9)) > 0).astype(float)
    copied = rng.random(2000) < 0.4
    answers[copied, 3] = answers[copied, 2]
    answers[:, 8] = (np.abs(z[:, 0] - 0.3) < 0.8) ^ (rng.random(2000) < 0.1)
    return Traits("2PL").fit(answers), answers


def test_item_fit_finds_what_is_amiss(fitted_to_its_own):
    traits, answers = fitted_to_its_own
    found = traits.item_fit(answers)
    assert np.all(found.p_value[:2] > 1e-4)
    assert found.p_value[8] < 1e-4
    assert "S-X2" in str(found)
    correlations = traits.residual_correlations(answers)
    chance = traits.probabilities(traits.scores(answers).trait)
    right = np.stack([c[:, 1] for c in chance], axis=1)
    away, variance = answers - right, right * (1 - right)
    np.testing.assert_allclose(found.outfit, (away**2 / variance).mean(0))
    np.testing.assert_allclose(found.infit, (away**2).sum(0) / variance.sum(0))
    np.testing.assert_allclose(correlations, np.corrcoef(away.T), atol=1e-10)


@pytest.mark.slow
def test_s_x2_has_its_distribution(fitted_to_its_own):
    """Over items and simulated tables its mean is near its degrees of freedom."""
    traits, _ = fitted_to_its_own
    ratios = []
    for seed in range(4):
        answers, _ = traits.sample(2000, random_state=seed)
        found = Traits("2PL").fit(answers).item_fit(answers)
        ratios += (found.s_x2 / found.degrees)[:5].tolist()
    error = np.std(ratios) / np.sqrt(len(ratios))
    assert abs(np.mean(ratios) - 1.0) < 4 * error


@pytest.mark.slow
def test_two_traits_are_found_without_a_pattern(float64):
    """Exploratory: no rotation left, and as good as EM on the same model."""
    rng = np.random.default_rng(7)
    slopes = np.repeat([[1.6, 0.3], [0.3, 1.6]], 5, axis=0)
    reach = rng.normal(size=(600, 2)) @ slopes.T + rng.logistic(size=(600, 10))
    answers = (reach > np.linspace(-1, 1, 10)).astype(float)
    found = Traits("2PL", n_traits=2).fit(answers)
    assert found.items_.slopes[0, 1] == 0.0
    rotated = found.loadings()
    own = np.argmax(rotated.loadings[[0, 9]], axis=1)
    assert sorted(own.tolist()) == [0, 1]
    assert np.all(np.argmax(rotated.loadings, axis=1) == np.repeat(own, 5))
    assert np.all(found.items_.slopes.sum(0) > 0)
    np.testing.assert_array_equal(found.trait_covariances_[0], np.eye(2))
    other = minorant.fit(
        LatentTrait(TwoParameter(), n_traits=2, rule=found.fit_.model.rule), answers
    )
    np.testing.assert_allclose(other.bound, found.fit_.bound, atol=1e-2)
    assert found.fit_.n_parameters == other.n_parameters == 29


# Faces


def test_answers_are_counted_and_groups_named(float64):
    answers = simulated()[:, 3:] + 1
    groups = np.where(np.arange(len(answers)) % 2 == 0, "boys", "girls")
    found = Traits().fit(answers, groups=groups)
    assert found.groups_.tolist() == ["boys", "girls"]
    assert found.trait_means_[0, 0] == 0.0
    assert [seen.tolist() for seen in found.categories_] == [[1, 2, 3, 4]] * 3
    assert set(found.items_.structure) == {"GradedResponse"}
    scored = found.scores(answers, groups=groups)
    np.testing.assert_allclose(found.score_samples(answers, groups).sum(), found.fit_.bound)
    girls = groups == "girls"
    away = scored.trait[girls].mean() - scored.trait[~girls].mean()
    assert np.sign(away) == np.sign(found.trait_means_[1, 0])
    assert np.isin(found.sample(5)[0], [1, 2, 3, 4]).all()
    with pytest.raises(ValueError, match="'cats' in row 0, which did not occur in fit"):
        found.scores(answers[:1], groups=["cats"])


def test_an_estimator_like_any_other(lsat_fit):
    answers, persons = lsat()
    assert clone(lsat_fit).get_params() == lsat_fit.get_params()
    again = pickle.loads(pickle.dumps(lsat_fit))
    np.testing.assert_array_equal(again.transform(answers), lsat_fit.transform(answers))
    mean = np.average(lsat_fit.score_samples(answers), weights=persons)
    np.testing.assert_allclose(lsat_fit.score(answers, sample_weight=persons), mean)
    assert lsat_fit.get_feature_names_out().tolist() == ["latenttrait0"]
    curves, information = lsat_fit.probabilities([0.0]), lsat_fit.information([0.0])
    chance = np.array([curve[0, 1] for curve in curves])
    slopes = lsat_fit.items_.slopes[:, 0]
    np.testing.assert_allclose(information[0], slopes**2 * chance * (1 - chance))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: np.where(np.arange(5) == 1, 1.0, x), "'column 1' was answered 1 by all"),
        (lambda x: np.where(np.arange(5) == 1, np.nan, x), "'column 1' was answered by nobody"),
        (lambda x: x + 0.5, "holds 0.5: answers must be whole numbers"),
    ],
)
def test_answers_that_cannot_be_used(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Traits("2PL").fit(change(lsat()[0]))


def test_more_bad_input(lsat_fit, float64):
    answers, _ = lsat()
    with pytest.raises(ValueError, match=r"'column 0' holds 7 in row 0, an answer"):
        lsat_fit.scores(np.full((1, 5), 7.0))
    with pytest.raises(ValueError, match="method must be 'EAP' or 'MAP'"):
        lsat_fit.scores(answers, "ML")
    with pytest.raises(ValueError, match="item_type must be among"):
        Traits(["2PL"] * 4 + ["4PL"]).fit(answers)
    with pytest.raises(ValueError, match="item_type must have one entry per item, 5; got 2"):
        Traits(["2PL"] * 2).fit(answers)
    with pytest.raises(ValueError, match="item_type names 'x', which is no item"):
        Traits({"x": "2PL"}).fit(answers)
    with pytest.raises(ValueError, match="'column 0' has answers up to 2 but none of \\[1\\]"):
        minorant.fit(LatentTrait(GradedResponse()), 2 * answers)
    with pytest.raises(ValueError, match="TwoParameter was to have 2 categories"):
        minorant.fit(LatentTrait(TwoParameter()), np.vstack([answers, np.full((1, 5), 2.0)]))
    with pytest.raises(ValueError, match="n_traits must be 1, 2 or 3"):
        LatentTrait(TwoParameter(), n_traits=4)
    with pytest.raises(ValueError, match="needs a pattern"):
        minorant.fit(LatentTrait(Rasch(), n_traits=2), answers)
    with pytest.raises(ValueError, match="pattern must have a row per item"):
        minorant.fit(LatentTrait(TwoParameter(), pattern=np.ones((2, 1))), answers)
    with pytest.raises(ValueError, match="at least \\(1, 1\\) for a MAP"):
        ItemPrior(guessing=(0.5, 1.0))
    with pytest.warns(UserWarning, match="has only the answers \\[0, 2\\]"):
        Traits().fit(2 * simulated(n=400)[:, :3])


def test_pictures_show_what_was_computed(lsat_fit):
    answers, persons = lsat()
    curves = plots.item_curves(lsat_fit, "column 2")
    assert [line.get_label() for line in curves.lines] == ["0", "1"]
    traits, chance = curves.lines[1].get_data()
    np.testing.assert_allclose(lsat_fit.probabilities(traits)[2][:, 1], chance)
    information = plots.item_information(lsat_fit)
    assert len(information.lines) == 6
    traits, total = information.lines[-1].get_data()
    np.testing.assert_allclose(lsat_fit.information(traits).sum(1), total)
    histogram = plots.abilities(lsat_fit.scores(answers), persons)
    np.testing.assert_allclose(sum(bar.get_height() for bar in histogram.patches), 1000)
    with pytest.raises(ValueError, match="number or name of an item; got 9"):
        plots.item_curves(lsat_fit, 9)
