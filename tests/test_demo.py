"""The demo, run once: its files, and its printed numbers against a second computation."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from minorant import datasets, demo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "pictures"
    told: list[str] = []
    lines = demo.run(out, told.append)
    assert told == lines
    return out, lines


def _numbers(line: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?\d+\.\d+", line)]


def test_every_named_picture_is_written_and_small(ran):
    out, _ = ran
    expected = {
        "old_faithful": ["climb.png", "components.png", "responsibilities.png", "em.gif"],
        "digits": ["climb.png", "components.png", "confusion.png", "responsibilities.png"],
        "airquality": ["components.png", "imputed.png"],
        "earthquakes": ["states.png"],
        "nile": ["level.png"],
        "lsat": ["information.png", "item_3.png"],
        "penguins": ["loadings.png"],
    }
    for part, names in expected.items():
        for name in names:
            size = (out / f"{part}_{name}").stat().st_size
            assert 5_000 < size < 3_000_000
    assert len(list((out / "old_faithful_em_frames").glob("*.png"))) > 10


def test_the_summary_on_disk_is_what_was_returned(ran):
    out, lines = ran
    assert (out / "summary.txt").read_text(encoding="utf-8").splitlines() == lines


def test_old_faithful_numbers_agree_with_scikit_learn(ran):
    _, lines = ran
    values = np.stack(list(datasets.load("old_faithful").values()), axis=1)
    peer = GaussianMixture(2, tol=1e-10, max_iter=500, reg_covar=0, random_state=0).fit(values)
    bound, per_row = _numbers(next(line for line in lines if line.startswith("log p(X)")))[:2]
    assert per_row == pytest.approx(peer.score(values), abs=2e-6)
    assert bound == pytest.approx(272 * peer.score(values), abs=5e-4)
    table = [_numbers(line) for line in lines if re.match(r"  [01] ", line)]
    order = np.argsort(peer.means_[:, 0])
    printed = np.array(sorted(table, key=lambda row: row[1]))
    assert np.allclose(printed, np.c_[peer.weights_, peer.means_][order], atol=2e-3)


def test_the_printed_decomposition_adds_up_for_every_q(ran):
    _, lines = ran
    start = next(i for i, line in enumerate(lines) if line.startswith("log p(x) = L(q)"))
    rows = [_numbers(line) for line in lines[start + 2 : start + 5]]
    assert len(rows) == 3
    for lower, gap, total in rows:
        assert lower + gap == pytest.approx(total, abs=3e-6)
        assert total == pytest.approx(rows[0][0], abs=3e-6)
    assert rows[0][1] == 0
    assert rows[2][1] > rows[1][1] > 0


def test_the_digits_purity_is_that_of_the_confusion_table():
    counts = demo.confusion(np.array([0, 0, 1, 1]), np.array([3, 3, 3, 5]))
    assert counts[0, 3] == 2
    assert counts[1, 3] == counts[1, 5] == 1
    assert counts.sum() == 4


def test_imputation_beats_the_columns_mean_on_hidden_cells(ran):
    _, lines = ran
    line = next(line for line in lines if "ozone cells hidden" in line)
    mixture, mean = _numbers(line)
    ozone = datasets.load("airquality")["ozone"]
    observed = np.flatnonzero(~np.isnan(ozone))
    hidden = np.random.default_rng(0).choice(observed, round(0.2 * len(observed)), replace=False)
    kept = np.setdiff1d(observed, hidden)
    again = np.sqrt(np.mean((ozone[hidden] - ozone[kept].mean()) ** 2))
    assert mean == pytest.approx(again, abs=0.051)
    assert mixture < mean


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    with pytest.raises(OSError, match="file"):
        demo.run(blocked)


def test_the_models_beyond_mixtures_print_what_was_published(ran):
    """Zucchini & MacDonald (2009), table 3.1; Durbin & Koopman (2012), section 2.10.3."""
    _, lines = ran
    quakes = next(line for line in lines if "in the three states" in line)
    assert [round(rate, 1) for rate in _numbers(quakes)[1::2]] == [13.1, 19.7, 29.7]
    level = next(line for line in lines if "about the level" in line)
    noise, moves = (float(found) for found in re.findall(r"\d+", level))
    assert abs(noise - 15099) <= 2
    assert abs(moves - 1469.1) <= 2
    assert "log p(X) = -2466.653 nats." in lines
