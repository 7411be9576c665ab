"""Truncated climbs that are stopped and taken up."""

from __future__ import annotations

import durability_parts as parts
import numpy as np
import pytest

import minorant
from minorant import climbing, truncation
from minorant.checkpoints import file
from minorant.components import Gaussian
from minorant.posteriors import Truncated
from minorant.solvers import EM, Plain

pytestmark = pytest.mark.usefixtures("float64")

CENTRES = np.random.default_rng(2).normal(size=(8, 2)) * 3


def rows(n=480):
    rng = np.random.default_rng(1)
    return CENTRES[rng.integers(0, 8, n)] + rng.normal(size=(n, 2)) * 0.7


START = minorant.Mixture(
    Gaussian(mean=CENTRES + 0.5, covariance=np.stack([np.eye(2)] * 8)),
    np.full(8, 1 / 8),
    n_components=8,
)
OPTIONS = {"posterior": Truncated(3), "solver": EM(Plain(), 1e-7), "max_steps": 30}


def fitted(model, **options):
    return minorant.fit(model, rows(), **(OPTIONS | options))


SCENES = {"given": START, "k-means": minorant.Mixture(Gaussian(), n_components=8)}


@pytest.fixture(scope="module")
def answers():
    """The unbroken climbs."""
    with minorant._config.precision(np.dtype(float)):
        return {scene: fitted(model) for scene, model in SCENES.items()}


class Calls:
    """A function that counts its calls, and is interrupted at the one number ``at``."""

    def __init__(self, function, at=0):
        self.count, self._function, self._at = 0, function, at

    def __call__(self, *arguments):
        self.count += 1
        if self.count == self._at:
            raise KeyboardInterrupt
        return self._function(*arguments)


@pytest.mark.parametrize(
    ("scene", "at", "from_the_first"),
    [("given", 1, True), ("given", 4, False), ("given", 8, False), ("k-means", 2, True)],
)
def test_a_stopped_climb_goes_on_to_the_last_bit(
    answers, tmp_path, monkeypatch, scene, at, from_the_first
):
    place, model = minorant.Checkpoint(tmp_path / "climb", seconds=0), SCENES[scene]
    monkeypatch.setattr(climbing, "_period", lambda problem, lanes: 2)  # short blocks
    with monkeypatch.context() as patched:
        patched.setattr(climbing, "_report", Calls(climbing._report, at))
        assert fitted(model, checkpoint=place).outcome is minorant.Outcome.INTERRUPTED
    first, new = Calls(truncation.first_lists), Calls(truncation.new_lists)
    monkeypatch.setattr(truncation, "first_lists", first)
    monkeypatch.setattr(truncation, "new_lists", new)
    again = fitted(model, checkpoint=place)
    assert parts.fingerprint(again) == parts.fingerprint(answers[scene])
    assert again.truncation == answers[scene].truncation
    assert bool(first.count) is from_the_first  # lists are kept from the second stretch on
    new.count = 0
    fitted(model, checkpoint=place)
    assert new.count <= 1


def test_runs_before_the_last_lists_are_not_kept(tmp_path):
    place = minorant.Checkpoint(tmp_path / "climb", seconds=0)
    fitted(START, checkpoint=place)
    kept = file.read(place.path)
    assert kept["behind"]["run"] >= 2
    assert len(kept["ended"]) <= 2
