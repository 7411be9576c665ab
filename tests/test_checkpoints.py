"""Checkpoints in one process: interrupts, refusals, damage, and what ``minorant status`` tells."""

from __future__ import annotations

import errno
import os
import signal

import durability_parts as parts
import numpy as np
import pytest

import minorant
from minorant import _disk, climbing
from minorant.checkpoints import file, identity, journal, place
from minorant.cli import main
from minorant.components import Gaussian
from minorant.components.matrix_covariance import Full
from minorant.data.files import write_table
from minorant.data.scratch import Scratch
from minorant.solvers import EM
from minorant.solvers.starts import Starts

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(scope="module", autouse=True)
def _short_blocks():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(climbing, "_SECONDS_PER_BLOCK", 1e-4)
        yield


@pytest.fixture(scope="module")
def answers():
    """The unbroken fits, each made when it is first asked for."""
    made = {}

    def of(scene):
        if scene not in made:
            made[scene] = parts.fingerprint(parts.fitted(scene))
        return made[scene]

    return of


@pytest.fixture
def here(tmp_path):
    return minorant.Checkpoint(tmp_path / "climb", seconds=0)


class Interrupt:
    """Ctrl-C at the call number ``at`` of a function."""

    def __init__(self, at, function):
        self.at, self.calls, self._function = at, 0, function

    def __call__(self, *arguments, **options):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self._function(*arguments, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A directory with a finished climb."""
    directory = tmp_path_factory.mktemp("finished") / "climb"
    with minorant._config.precision(np.dtype(float)):
        parts.fitted("starts", directory)
    return directory


# --- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", ["starts", "quasi-newton"])
def test_an_interrupted_climb_goes_on_to_the_last_bit(answers, here, monkeypatch, scene):
    monkeypatch.setattr(climbing, "_report", Interrupt(5, climbing._report))
    assert parts.fitted(scene, here).outcome is minorant.Outcome.INTERRUPTED
    assert minorant.status(here.directory).state == "interrupted"
    seen = []
    again = parts.fitted(scene, here, callbacks=(lambda progress: seen.append(progress.steps),))
    assert parts.fingerprint(again) == answers(scene)
    assert min(seen) > 5


def test_blocks_of_another_length_come_to_the_same_answer(answers, here, monkeypatch):
    monkeypatch.setattr(climbing, "_next_block", lambda block, seconds: 3)
    monkeypatch.setattr(climbing, "_report", Interrupt(4, climbing._report))
    parts.fitted("starts", here)
    monkeypatch.setattr(climbing, "_next_block", lambda block, seconds: 128)
    assert parts.fingerprint(parts.fitted("starts", here)) == answers("starts")


@pytest.mark.parametrize("at", [3, 6, 7])
def test_an_interrupt_while_a_checkpoint_is_written(answers, here, monkeypatch, at):
    monkeypatch.setattr(_disk.os, "fsync", Interrupt(at, os.fsync))
    assert parts.fitted("starts", here).outcome is minorant.Outcome.INTERRUPTED
    monkeypatch.undo()
    assert sorted(os.listdir(here.directory)) == ["climb.safetensors", "lock", "status.json"]
    assert parts.fingerprint(parts.fitted("starts", here)) == answers("starts")


def test_a_pass_that_was_under_way_goes_on_at_its_chunk(answers, here, monkeypatch):
    kept = journal.DirectoryJournal.keep_part
    stop = Interrupt(17, lambda *given: None)

    def keep_part(self, now, part):
        kept(self, now, part)
        stop()

    monkeypatch.setattr(journal.DirectoryJournal, "keep_part", keep_part)
    parts.fitted("chunks", here)
    monkeypatch.undo()
    chunk = file.read_head(here.path)["kept"]["chunk"]
    assert 0 < chunk < 10
    assert f"chunk {chunk}" in str(minorant.status(here.directory))
    firsts = []
    read = parts.Slices.read
    monkeypatch.setattr(Scratch, "offer", lambda *given: None)  # every pass reads again
    monkeypatch.setattr(
        parts.Slices, "read", lambda self, first=0: (firsts.append(first), read(self, first))[1]
    )
    assert parts.fingerprint(parts.fitted("chunks", here)) == answers("chunks")
    assert chunk in firsts


def test_rows_that_vanish_leave_the_climb_whole(answers, here, monkeypatch):
    monkeypatch.setattr(Scratch, "offer", lambda *given: None)  # every pass reads again
    vanishing = parts.Slices(parts.rows(1000), fails_at=5500)
    with pytest.raises(FileNotFoundError, match="'rows.parquet' has gone: put it back"):
        parts.fitted("chunks", here, data=vanishing)
    found = minorant.status(here.directory)
    assert found.state == "failed"
    assert "has gone" in str(found)
    assert (found.kept.step, found.kept.chunk) > (0, 0)
    assert parts.fingerprint(parts.fitted("chunks", here)) == answers("chunks")


def test_a_change_of_the_numerical_form_is_kept(here, monkeypatch):
    rng = np.random.default_rng(0)
    narrow = np.r_[rng.normal(-9, 1e-6, (200, 2)), parts.rows()]
    model = parts.started([-9.0, -9.0], [0.1, 0.0], [2.0, 2.0], floor=1e-13)
    options = {"data": narrow, "model": model}
    unbroken = parts.fingerprint(parts.fitted("starts", **options))
    forms, report = [], climbing._report

    def interrupted(climb, problem, now, *given):
        forms.append(now.lanes.state.model.component.structure.centred)
        if forms.count(True) == 2:
            raise KeyboardInterrupt
        return report(climb, problem, now, *given)

    monkeypatch.setattr(climbing, "_report", interrupted)
    parts.fitted("starts", here, **options)
    monkeypatch.undo()
    assert file.read(here.path)["left"]["standing"]["lanes"]["changes"]
    again = parts.fitted("starts", here, **options)
    assert parts.fingerprint(again) == unbroken
    assert again.state.model.component.structure == Full(centred=True)


def test_a_drawn_seed_is_kept(here, monkeypatch):
    monkeypatch.setattr(climbing, "_report", Interrupt(3, climbing._report))
    parts.fitted("starts", here, random_state=None)
    seed = file.read(here.path)["seed"]
    again = parts.fitted("starts", here, random_state=None)
    assert parts.fingerprint(again) == parts.fingerprint(parts.fitted("starts", random_state=seed))


def test_asked_again_it_answers_without_climbing(answers, finished, monkeypatch):
    monkeypatch.setattr(climbing, "_moved", lambda *given: pytest.fail("it climbs"))
    assert parts.fingerprint(parts.fitted("starts", finished)) == answers("starts")
    assert minorant.status(finished).state == "finished"


def test_it_can_begin_anew(answers, finished):
    seen = []
    options = {"callbacks": (lambda progress: seen.append(progress.steps),)}
    again = parts.fitted("starts", minorant.Checkpoint(finished, overwrite=True), **options)
    assert parts.fingerprint(again) == answers("starts")
    assert seen


# --- refusals ------------------------------------------------------------------------------------


def other_cell():
    rows = parts.rows()
    rows[7, 1] += 1e-12
    return rows


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"random_state": 1}, "there random_state was 0, here is 1"),
        ({"max_steps": 81}, "there max_steps was 80, here is 81"),
        ({"model": parts.mixture(4)}, "there model.n_components was 3, here is 4"),
        ({"solver": EM(tolerance=0.0)}, "there solver.acceleration was Plain, here is Squarem"),
        ({"starts": Starts(n=3)}, "there starts was None, here is Starts"),
        ({"remedy": "reseed"}, "there remedy was floor, here is reseed"),
        ({"data": other_cell()}, "there the data's cells was float64 600 x 2"),
        ({"data": parts.rows(500)}, "there the number of rows was 600, here is 500"),
        ({"weights": np.ones(600)}, "there the data's weights was nothing, here is float64 600"),
    ],
)
def test_another_fit_is_refused_and_told_what_differs(finished, changed, sentence):
    with pytest.raises(ValueError, match=f"checkpoint of another fit: {sentence}"):
        parts.fitted("starts", finished, **changed)
    assert minorant.status(finished).kept.step > 0


class Priced(Gaussian):
    """A component of the user's own."""

    def price(self):
        return 1.0


def test_code_of_the_user_is_told_apart():
    def word(value):
        return dict(identity._told(value, "x"))

    one, other = (lambda m: m.weights), (lambda m: m.component)
    assert word(one) == word(lambda m: m.weights)
    assert word(one) != word(other)
    before = word(Priced())
    price = Priced.price
    Priced.price = lambda self: 2.0
    try:
        assert word(Priced()) != before
    finally:
        Priced.price = price
    assert word(Priced()) == before


def test_a_damaged_checkpoint_is_refused(finished, tmp_path):
    whole = (finished / place.CLIMB).read_bytes()
    rng = np.random.default_rng(1)
    cuts = [whole[:size] for size in (0, 5, 200, len(whole) // 2, len(whole) - 1)]
    for index in rng.integers(len(whole), size=40):
        flipped = bytes([whole[index] ^ (1 << rng.integers(8))])
        cuts.append(whole[:index] + flipped + whole[index + 1 :])
    for content in cuts:
        (tmp_path / place.CLIMB).write_bytes(content)
        with pytest.raises(ValueError, match=r"is damaged \(cut short or edited\)|has format"):
            file.read(tmp_path)
    with pytest.raises(ValueError, match="is damaged"):
        parts.fitted("starts", tmp_path)


def test_one_process_climbs_in_a_directory(here, monkeypatch):
    monkeypatch.setattr(place, "_PATIENCE", 0.0)
    place.as_checkpoint(here)
    lock = place.Lock(here.path)
    with pytest.raises(BlockingIOError, match="Another process is climbing"):
        parts.fitted("starts", here)
    lock.release()


@pytest.mark.parametrize("at", [0, 3])
def test_a_full_disk_leaves_the_last_checkpoint(answers, here, monkeypatch, at):
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_disk.os, "fsync", full)
    left = "still there and whole" if at else "nothing was left there"
    with pytest.raises(OSError, match=f"No space left on device.; .*{left}.*Free some space"):
        parts.fitted("starts", here)
    monkeypatch.undo()
    assert not [name for name in os.listdir(here.directory) if name.endswith(".new")]
    assert parts.fingerprint(parts.fitted("starts", here)) == answers("starts")


def test_a_directory_that_vanishes_ends_the_climb(here):
    def vanish(progress):
        for entry in here.path.iterdir():
            entry.unlink()
        here.path.rmdir()

    with pytest.raises(FileNotFoundError, match="could not be written"):
        parts.fitted("starts", here, callbacks=(vanish,))


def test_options_that_make_no_sense(tmp_path):
    with pytest.raises(ValueError, match="seconds must be at least 0; got -1"):
        minorant.Checkpoint(tmp_path, seconds=-1)
    with pytest.raises(TypeError, match="checkpoint must be a directory.*got int"):
        parts.fitted("starts", 3)
    with pytest.raises(FileNotFoundError, match="give one whose parent exists"):
        parts.fitted("starts", tmp_path / "no" / "such")


# --- the time it takes, and what is told ---------------------------------------------------------


def test_writing_takes_its_share_of_the_time_and_no_more(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(journal.time, "monotonic", lambda: clock[0])
    written = []

    def write(directory, head, body, model):
        written.append(clock[0])
        clock[0] += 2.0

    monkeypatch.setattr(file, "write", write)
    monkeypatch.setattr(climbing, "_next_block", lambda block, seconds: 1)

    def work(progress):
        clock[0] += 10.0

    place = minorant.Checkpoint(tmp_path / "climb", seconds=30)
    parts.fitted("starts", place, callbacks=(work,))
    gaps = np.diff([at for at in written if at > 0][:-2])
    assert len(gaps) > 2
    assert all(100 <= gap <= 112 for gap in gaps)  # 2 s in 100: more than the 30 asked for


def test_a_climb_is_looked_at_while_it_runs(here, monkeypatch):
    monkeypatch.setattr(journal, "_TELLING", 0.0)
    seen = []
    parts.fitted("starts", here, callbacks=(lambda p: seen.append(minorant.status(here.path)),))
    found = seen[-1]
    assert found.state == "running"
    assert found.told.process == os.getpid()
    assert [one.told.step for one in seen] == sorted({one.told.step for one in seen})
    assert found.told.gain_per_row > 0
    assert found.model.component.mean.shape == (3, 2)
    # Data units: no state of the model is worth more than the answer, and the last is close to it.
    bounds = [one.told.bound for one in seen]
    end = minorant.status(here.path)
    assert bounds == sorted(bounds)
    assert abs(bounds[-1] - end.told.bound) < 1.0
    values = parts.rows()
    assert np.all(np.abs(found.model.component.mean - values.mean(0)) < 3 * values.std(0))
    assert str(found).startswith(f"Running. Process {os.getpid()}")


def test_status_of_a_finished_climb_holds_its_model(finished):
    found = minorant.status(finished)
    answer = parts.fitted("starts", finished)
    assert np.array_equal(found.model.component.mean, answer.model.component.mean)
    assert found.told.bound == answer.bound
    assert "answers at once" in str(found)


# --- the command line ----------------------------------------------------------------------------


FIT = "fit rows.csv --model gaussian-mixture -k 2 --tolerance 1e-11 --starts 2 --quiet"


def test_the_command_line_goes_on_after_sigterm(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = parts.rows()
    write_table("rows.csv", {"a": rows[:, 0], "b": rows[:, 1]})
    assert main(f"{FIT} --out WHOLE".split()) == 0
    report, calls = climbing._report, []

    def terminated(*given):
        calls.append(given)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return report(*given)

    monkeypatch.setattr(climbing, "_report", terminated)
    command = f"{FIT} --out FIT --checkpoint CLIMB".split()
    assert main(command) == 130
    assert "the climb is kept in CLIMB. The same command goes on" in capsys.readouterr().err
    assert not os.path.exists("FIT")
    assert main(["status", "CLIMB"]) == 0
    assert capsys.readouterr().out.startswith("Interrupted; the climb was kept.")
    assert main([*command, "--resume"]) == 0
    whole, again = minorant.load("WHOLE"), minorant.load("FIT")
    assert parts.fingerprint(whole) == parts.fingerprint(again)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--resume", "--resume goes on from a checkpoint"),
        ("--resume --checkpoint NONE", "holds no checkpoint"),
        ("--checkpoint no/such", "parent exists"),
    ],
)
def test_the_command_line_refuses(tmp_path, monkeypatch, capsys, options, sentence):
    monkeypatch.chdir(tmp_path)
    write_table("rows.csv", {"a": parts.rows()[:, 0], "b": parts.rows()[:, 1]})
    assert main(f"{FIT} --out FIT {options}".split()) == 2
    assert sentence in capsys.readouterr().err
