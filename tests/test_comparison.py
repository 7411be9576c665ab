"""Models side by side: criteria by hand, differences over rows, brackets of targets."""

import numpy as np
import pytest
from jax.scipy import stats
from scipy.stats import entropy

import minorant
from minorant import unknowns


def rows(n, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 1)) + 6.0 * rng.integers(0, 2, size=(n, 1))


def fitted(k, table):
    model = minorant.Mixture(minorant.components.Gaussian(), n_components=k)
    return minorant.fit(model, table, progress=False)


@pytest.fixture(scope="module")
def fits():
    return {f"{k} parts": fitted(k, rows(150, 0)) for k in (1, 2, 3)}


def test_criteria_are_those_of_the_fits(fits):
    table = rows(150, 0)
    found = minorant.compare(fits, table)
    for name, fit in fits.items():
        one = found[name]
        assert one.aic == pytest.approx(fit.aic, abs=1e-3)
        assert one.bic == pytest.approx(fit.bic, abs=1e-3)
        labels = fit.posterior(table).probability
        assert one.icl == pytest.approx(fit.bic + 2 * entropy(labels, axis=0).sum(), abs=1e-3)
    assert "by BIC the best is 2 parts" in found.sentence
    assert found["1 parts"].is_real
    assert found.models[0].difference == (0.0, 0.0)


def test_held_out_rows_decide_with_paired_errors(fits):
    fresh = rows(200, 1)
    found = minorant.compare(fits, rows(150, 0), held_out=fresh)
    scores = {name: fit.log_evidence(fresh) for name, fit in fits.items()}
    best = max(scores, key=lambda name: scores[name].sum())
    assert found.models[0].name == best
    each = scores["1 parts"] - scores[best]
    one = found["1 parts"]
    assert one.difference.value == pytest.approx(each.sum())
    assert one.difference.standard_error == pytest.approx(np.sqrt(200) * each.std(ddof=1))
    assert one.held_out.value == pytest.approx(scores["1 parts"].mean())
    assert one.is_real
    for model in found.models:
        error = model.difference.standard_error
        assert model.is_real == bool(model.difference.value < -1.959963984540054 * error)


def test_the_table_shows_every_model(fits):
    text = str(minorant.compare(fits, rows(150, 0)))
    assert all(name in text for name in fits)
    assert "ICL" in text


def test_targets_are_compared_by_their_brackets():
    def target(shift):
        return minorant.Target(lambda x: stats.norm.logpdf(x).sum() + shift, x=unknowns.real(2))

    low, high = (minorant.fit(target(shift), posterior="full-rank") for shift in (0.0, 3.0))
    found = minorant.compare({"low": low, "high": high, "again": high}, accuracy=0.1)
    assert [model.name for model in found.models] == ["high", "again", "low"]
    assert [model.is_real for model in found.models] == [False, False, True]
    assert found["low"].difference.value == pytest.approx(-3.0, abs=0.05)
    assert found["low"].aic is None
    assert "Worse for real (beyond 95% limits): low" in found.sentence


def test_what_cannot_be_compared_is_refused(fits):
    with pytest.raises(ValueError, match="at least two"):
        minorant.compare([fits["1 parts"]])
    with pytest.raises(ValueError, match="X must be the table"):
        minorant.compare(fits)
    with pytest.raises(ValueError, match="'other' is a int"):
        minorant.compare({"one": fits["1 parts"], "other": 3}, rows(150, 0))
