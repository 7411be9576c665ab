"""`LatentClassAnalysis` against published values and enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from minorant.datasets import load
from minorant.estimators import LatentClassAnalysis

CARCINOMA = pd.DataFrame(load("carcinoma")).astype(int)
# Linzer & Lewis (2011), "poLCA: an R package for polytomous variable latent class analysis", the
# example of the carcinoma data: log-likelihood, BIC and G squared for two and three classes.
PUBLISHED = {2: (-317.2568, 706.0739, 62.36543), 3: (-293.7050, 697.1357, 15.26171)}


@pytest.fixture(scope="module", params=PUBLISHED)
def case(request):
    return request.param, LatentClassAnalysis(request.param, random_state=0).fit(CARCINOMA)


def test_published_values(case):
    k, classes = case
    likelihood, bic, g_squared = PUBLISHED[k]
    assert classes.fit_.bound == pytest.approx(likelihood, abs=1e-4)
    assert classes.bic(CARCINOMA) == pytest.approx(bic, abs=2e-4)
    assert classes.goodness_of_fit_.g_squared == pytest.approx(g_squared, abs=2e-4)
    assert classes.goodness_of_fit_.n_patterns == 20
    assert classes.goodness_of_fit_.n_possible == 128
    assert classes.goodness_of_fit_.degrees_of_freedom == 127 - (8 * k - 1)


def test_patterns_enumerated_sum_to_one(case):
    _, classes = case
    patterns = pd.DataFrame(list(itertools.product([0, 1], repeat=7)), columns=CARCINOMA.columns)
    assert np.exp(classes.score_samples(patterns)).sum() == pytest.approx(1.0, rel=1e-9)


def test_profiles_are_probabilities(case):
    k, classes = case
    profiles = classes.class_profiles_
    assert profiles.probability.shape == (14, k)
    assert np.allclose(profiles.probability[::2] + profiles.probability[1::2], 1.0)
    assert profiles.column[:2] == ("pathologist_a", "pathologist_a")
    assert profiles.category[:2] == (0, 1)
    assert len(str(profiles).splitlines()) == 14
    first = classes.predict_proba(CARCINOMA)
    ones = first.T @ CARCINOMA.to_numpy() / first.sum(0)[:, None]
    assert np.allclose(profiles.probability[1::2], ones.T, atol=1e-3)


def test_entropy_by_hand(case):
    k, classes = case
    q = classes.predict_proba(CARCINOMA)
    entropy = -sum(p * np.log(p) for p in q.ravel() if p > 0)
    expected = 1 - entropy / (len(q) * np.log(k))
    assert classes.entropy_r2_ == pytest.approx(expected, rel=1e-9)


def test_weights_are_counts_of_patterns():
    patterns = CARCINOMA.groupby(list(CARCINOMA.columns)).size().reset_index(name="n")
    count = patterns.pop("n")
    weighted = LatentClassAnalysis(2, random_state=0).fit(patterns, sample_weight=count)
    likelihood, _, g_squared = PUBLISHED[2]
    assert weighted.fit_.bound == pytest.approx(likelihood, abs=1e-4)
    assert weighted.goodness_of_fit_.g_squared == pytest.approx(g_squared, abs=2e-4)
    assert weighted.bic(patterns, sample_weight=count) == pytest.approx(706.0739, abs=2e-4)


def test_text_and_gaps():
    answers = CARCINOMA.replace({0: "no", 1: "yes"}).astype(object)
    answers.iloc[3, 2] = None
    classes = LatentClassAnalysis(2, category_concentration=1.5, random_state=0).fit(answers)
    assert classes.goodness_of_fit_ is None
    assert classes.columns_.categories["pathologist_a"] == ("no", "yes")
    assert classes.impute(answers).iloc[3, 2] in ("no", "yes")
    assert classes.class_profiles_.probability.min() > 1e-3
    assert set(classes.sample(50)[0].iloc[:, 0]) <= {"no", "yes"}
    with pytest.raises(ValueError, match="Column 'pathologist_b' holds 'maybe' in row 0"):
        classes.predict(answers.assign(pathologist_b="maybe"))


def test_one_class_is_independence():
    one = LatentClassAnalysis().fit(CARCINOMA)
    share = CARCINOMA.mean()
    expected = (CARCINOMA * np.log(share) + (1 - CARCINOMA) * np.log1p(-share)).sum(axis=None)
    assert one.fit_.bound == pytest.approx(expected, rel=1e-10)
    assert one.entropy_r2_ == 1.0
