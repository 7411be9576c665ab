"""Checkpoints of stochastic ascents: left at any turn, they go on to the same answer."""

from __future__ import annotations

import durability_parts as parts
import numpy as np
import pytest

import minorant
from minorant import batches
from minorant.checkpoints import file, journal
from minorant.families import LowRank
from minorant.solvers import Ascent, _course

pytest.importorskip("numpyro")
pytestmark = pytest.mark.usefixtures("float64")
RACE = 4  # calls of blocks that the race takes at least


@pytest.fixture(scope="module", autouse=True)
def _small_sections():
    """Sections of rows out of memory that hold half of them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(batches, "_SECTION_BYTES", 500 * 24)
        yield


@pytest.fixture(scope="module")
def answers():
    """The unbroken fits, each made when it is first asked for."""
    made = {}

    def of(scene):
        if scene not in made:
            made[scene] = parts.fitted(scene)
        return made[scene]

    return of


@pytest.fixture
def here(tmp_path):
    return minorant.Checkpoint(tmp_path / "climb", seconds=0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A directory with a finished climb of an encoder."""
    directory = tmp_path_factory.mktemp("finished") / "climb"
    with minorant._config.precision(np.dtype(float)):
        fit = parts.fitted("encoder", directory)
    return directory, fit


def interrupted(monkeypatch, at):
    """Ctrl-C in the middle of the block number ``at``."""
    advance, calls = _course.Course._advance, []

    def counted(self, *given, **options):
        found = advance(self, *given, **options)
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(_course.Course, "_advance", counted)


@pytest.mark.parametrize(
    ("scene", "at"), [("encoder", 2), ("encoder", 9), ("encoder", 0), ("target", 3), ("target", 8)]
)
def test_an_interrupted_ascent_goes_on_to_the_last_bit(answers, here, monkeypatch, scene, at):
    """In the race, after it, in the last block of all."""
    at = at or answers(scene).acceleration.steps // 100
    interrupted(monkeypatch, at)
    assert parts.fitted(scene, here).outcome is minorant.Outcome.INTERRUPTED
    assert minorant.status(here.directory).state == "interrupted"
    assert (file.read(here.path)["left"]["standing"]["stage"] is None) == (at <= RACE)
    monkeypatch.undo()
    assert parts.fingerprint(parts.fitted(scene, here)) == parts.fingerprint(answers(scene))


def test_again_and_again(answers, here, monkeypatch):
    """By callbacks that say stop, by Ctrl-C in a callback, while a checkpoint is written."""
    seen = []

    def stop(progress):
        seen.append(progress.steps)
        return len(seen) % 3 != 0

    def pulled(progress):
        raise KeyboardInterrupt

    for callback in (stop, stop, pulled):
        fit = parts.fitted("encoder", here, callbacks=(callback,))
        assert fit.outcome is minorant.Outcome.INTERRUPTED
    keep = journal.DirectoryJournal._write
    monkeypatch.setattr(journal.DirectoryJournal, "_write", broken(keep, 2))
    assert parts.fitted("encoder", here).outcome is minorant.Outcome.INTERRUPTED
    monkeypatch.setattr(journal.DirectoryJournal, "_write", keep)
    assert parts.fingerprint(parts.fitted("encoder", here)) == parts.fingerprint(answers("encoder"))
    assert seen == sorted(set(seen))  # no step was seen twice


def broken(function, at):
    """Ctrl-C at the call number ``at`` of a method."""
    calls = []

    def call(self):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return function(self)

    return call


def test_a_slow_machine_comes_to_the_same_answer(answers, monkeypatch):
    clock = [0.0]

    def slow():
        clock[0] += 1e3
        return clock[0]

    monkeypatch.setattr(_course.time, "perf_counter", slow)
    for scene in parts.ASCENTS:
        assert parts.fingerprint(parts.fitted(scene)) == parts.fingerprint(answers(scene))


def test_a_finished_one_answers_without_a_step(finished, answers, monkeypatch):
    directory, fit = finished
    monkeypatch.setattr(_course.Course, "_turn", lambda *given: pytest.fail("it climbs"))
    again = parts.fitted("encoder", directory)
    assert (
        parts.fingerprint(again) == parts.fingerprint(fit) == parts.fingerprint(answers("encoder"))
    )
    found = minorant.status(directory, classes=(parts.Line,))
    assert found.state == "finished"
    assert found.told.bound == fit.bound
    assert np.array_equal(found.model.slope, fit.model.slope)
    assert "Line, 1000 rows: run 1" in str(found)


def test_an_ascent_is_looked_at_while_it_runs(here, monkeypatch):
    monkeypatch.setattr(journal, "_TELLING", 0.0)
    seen = []

    def look(progress):
        seen.append(minorant.status(here.path, classes=(parts.Line,)))
        return len(seen) < 4

    fit = parts.fitted("encoder", here, callbacks=(look,))
    assert [one.state for one in seen] == ["running"] * 4
    assert [one.told.step for one in seen] == sorted({one.told.step for one in seen})
    bounds = [one.told.bound for one in seen]
    assert bounds == sorted(bounds)
    # The judge has half of the draws that the fit's own bound is averaged over, and other ones.
    assert abs(bounds[-1] - fit.bound) < 0.02 * fit.n_rows
    np.testing.assert_allclose(seen[-1].model.slope, fit.model.slope, atol=0.1)


def test_the_status_of_a_target(here, monkeypatch):
    interrupted(monkeypatch, 7)
    parts.fitted("target", here)
    found = minorant.status(here.path)
    assert str(found).splitlines()[1].startswith("Target: run 1, step ")
    assert found.model.size == 3
    assert np.isfinite(found.told.bound)


@pytest.mark.parametrize(
    ("scene", "changed", "sentence"),
    [
        ("encoder", {"random_state": 1}, "there random_state was 0, here is 1"),
        ("encoder", {"solver": Ascent(accuracy=0.1)}, "there solver.accuracy was 0.01,"),
        (
            "encoder",
            {"data": lambda: parts.Slices(parts.rows(998))},
            "there the number of rows was 1000, here is 998",
        ),
        (
            "encoder",
            {"posterior": minorant.Encoder(width=4, depth=1, batch=8)},
            "there model.family.batch was 4, here is 8",
        ),
        (
            "target",
            {"model": lambda: parts.ridge(0.6)},
            "there the target's log density was float64 16",
        ),
        ("target", {"posterior": LowRank(rank=2)}, "there family.rank was 1, here is 2"),
        ("target", {"seconds": 60.0}, "there seconds was inf, here is 60"),
    ],
)
def test_another_fit_is_refused_and_told_what_differs(
    finished, here, monkeypatch, scene, changed, sentence
):
    directory = finished[0]
    if scene == "target":
        directory = here.path
        interrupted(monkeypatch, 1)
        parts.fitted(scene, directory)
    with pytest.raises(ValueError, match=f"checkpoint of another fit: {sentence}"):
        parts.fitted(scene, directory, **changed)
