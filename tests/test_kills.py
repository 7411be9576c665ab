"""Fits that are killed at any moment, in processes of their own, and go on to the same answer.

They write a checkpoint after every block of steps and every chunk, so that most kills fall into the
writing of one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import durability_parts as parts
import numpy as np
import pytest

import minorant
from minorant.checkpoints import file

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
KILLS = {"starts": 14, "quasi-newton": 12, "chunks": 12, "sweeps": 12}  # 50
LONGEST = 120.0
LIMIT = 15_000  # bytes: a checkpoint that holds no state yet is shorter, one that does longer


class Nursery:
    """Lives of fits, each a fork of one process that has imported everything."""

    def __init__(self, folder):
        variables = {
            "OPENBLAS_NUM_THREADS": "1",
            "XLA_FLAGS": "--xla_backend_optimization_level=1",
            "PYTHONHASHSEED": "random",
        }
        self._folder, self._count = folder, 0
        self._mother = subprocess.Popen(
            [sys.executable, str(Path(parts.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )

    def born(self, scene, directory=None, **limits):
        """The number of a child that climbs, and where its answer will be."""
        self._count += 1
        out = self._folder / f"answer{self._count}"
        directory = directory and str(directory)
        order = {"scene": scene, "directory": directory, "out": str(out), **limits}
        print(json.dumps(order), file=self._mother.stdin, flush=True)
        return int(self._mother.stdout.readline()), out

    def answered(self, scene, directory=None, **limits):
        """What a child that is left alone answers."""
        child, out = self.born(scene, directory, **limits)
        deadline = time.monotonic() + LONGEST
        while not out.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        gone(child)
        return out.read_text()

    def writes(self, directory, out):
        """Wait until a life has written a checkpoint, or has ended."""
        before, deadline = changed(directory), time.monotonic() + LONGEST
        while changed(directory) == before and not out.exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def ends(self):
        self._mother.stdin.close()
        self._mother.wait(10)
        self._mother.stdout.close()


def changed(directory):
    """When the checkpoint was last written."""
    try:
        return (directory / "climb.safetensors").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def steps(directory):
    """How many the checkpoint knows of."""
    try:
        return file.read_head(directory)["kept"]["step"]
    except FileNotFoundError:
        return 0


def gone(child):
    """Wait until a process is no more."""
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.005)
    raise AssertionError(f"process {child} does not end")


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    started = Nursery(tmp_path_factory.mktemp("answers"))
    yield started
    started.ends()


@pytest.fixture(scope="module")
def unbroken(nursery):
    return {scene: nursery.answered(scene) for scene in parts.SCENES}


@pytest.mark.parametrize("scene", KILLS)
def test_killed_again_and_again_it_comes_to_the_answer_of_the_unbroken_run(
    nursery, unbroken, tmp_path, scene
):
    rng = np.random.default_rng(sum(map(ord, scene)))
    directory, kills, places, answers = tmp_path / "climb0", 0, [], []
    while kills < KILLS[scene]:
        child, out = nursery.born(scene, directory)
        for _ in range(rng.integers(5)):
            nursery.writes(directory, out)
        time.sleep(rng.uniform(0.0, 0.1))
        if not out.exists():
            os.kill(child, signal.SIGKILL)
        gone(child)
        if out.exists():
            answers.append(out.read_text())
            directory = tmp_path / f"climb{len(answers)}"
            continue
        kills += 1
        if (directory / "climb.safetensors").exists():
            kept = file.read(directory)
            places.append((len(answers), len(kept["ended"]), file.read_head(directory)["kept"]))
            assert minorant.status(directory).state == "killed"
    answers.append(nursery.answered(scene, directory))
    assert set(answers) == {unbroken[scene]}
    where = [(fit, kept["run"], kept["step"], kept["chunk"] or 0) for fit, _, kept in places]
    assert where == sorted(where)  # no life lost what an earlier one had kept
    assert len(set(where)) > 4


def test_a_killed_ascent_goes_on_from_its_last_block(nursery, tmp_path):
    child, out = nursery.born("encoder", tmp_path / "climb")
    deadline = time.monotonic() + LONGEST
    while not out.exists() and steps(tmp_path / "climb") < 700:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    gone(child)
    found = minorant.status(tmp_path / "climb", classes=(parts.Line,))
    assert found.state == "killed"
    assert 700 <= found.kept.step < 2700
    assert found.model.slope.shape == (2,)
    assert nursery.answered("encoder", tmp_path / "climb") == nursery.answered("encoder")


def test_a_disk_that_is_full_ends_the_climb_with_a_sentence(nursery, unbroken, tmp_path):
    found = nursery.answered("starts", tmp_path / "climb", bytes=LIMIT)
    assert "could not be written (File too large); the last one is still there and whole" in found
    assert os.listdir(tmp_path / "climb").count("climb.safetensors") == 1
    assert file.read(tmp_path / "climb")["left"] is None
    status = minorant.status(tmp_path / "climb")
    assert status.state == "failed"
    assert "File too large" in str(status)
    assert nursery.answered("starts", tmp_path / "climb") == unbroken["starts"]
