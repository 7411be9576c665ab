"""Pictures of the certificate show the numbers of the record."""

import numpy as np
import pytest
from jax.scipy import stats

import minorant
from minorant import plots, unknowns
from minorant.result import Evidence


@pytest.fixture(scope="module")
def fit():
    def log_density(x):
        return stats.t.logpdf(x, 5.0).sum()

    target = minorant.Target(log_density, x=unknowns.real(2))
    return minorant.fit(target, posterior="full-rank", progress=False)


@pytest.fixture(scope="module")
def evidence(fit):
    return fit.evidence(accuracy=0.2)


def test_the_bracket_has_both_limits_of_every_round(evidence):
    axes = plots.bracket(evidence)
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    rounds = evidence.certificate.rounds
    upper = [one.upper - evidence.estimate for one in rounds]
    np.testing.assert_allclose(lines["upper 95% limit"], upper)
    np.testing.assert_allclose(
        lines["lower 95% limit"], [one.lower - evidence.estimate for one in rounds]
    )
    assert f"{evidence.upper - evidence.lower:.2g} nats" in axes.get_title(loc="left")


def test_every_rung_is_inside_its_picture(fit, evidence):
    axes = plots.rungs(fit, evidence)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [rung.family for rung in fit.rungs]
    low, high = axes.get_xlim()
    for rung in fit.rungs:
        assert low < rung.bound.value - evidence.estimate < high


def test_the_worst_rows_are_named():
    gap = np.array([0.1, 0.2, 3.0, 0.1, 0.15, 0.12, 1.0])
    one = np.zeros(7)
    record = Evidence(0.0, gap.sum(), gap.sum(), gap.sum(), 0.0, one, gap, gap, gap, None, "")
    words = [text.get_text() for text in plots.gaps(record).texts]
    assert words[:2] == ["row 2", "row 6"]


def test_what_cannot_be_drawn_says_why():
    one = np.zeros(3)
    record = Evidence(0.0, 0.0, 0.0, 0.0, 0.0, one, one, one, one, None, "")
    with pytest.raises(ValueError, match="no gap to show"):
        plots.gaps(record)
    with pytest.raises(ValueError, match="not annealed"):
        plots.bracket(record)
