"""Fits on several devices and in several processes: the answer in memory, and none left waiting."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import sharded_parts as parts

import minorant
from minorant import _config
from minorant._types import Affine
from minorant.components import Gaussian
from minorant.data import arrange
from minorant.data.company import Alone
from minorant.data.files import write_table
from minorant.data.in_chunks import ArrayChunks
from minorant.data.resident import resident, weightless
from minorant.data.sharded import Devices

LONGEST = 150.0
pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are killed by signals")


@pytest.fixture(scope="module", autouse=True)
def double():
    with _config.precision(np.dtype(float)):
        yield


def three_places(chunks):
    """The chunks on three devices; that they are one and the same changes nothing."""
    chunks.engine = Devices([jax.devices()[0]] * 3)
    return chunks


@pytest.fixture(scope="module")
def gaps():
    values, weights, labels = parts.table()
    return minorant.fit(parts.MIXTURE, values, weights=weights, labels=labels, **parts.QUICK)


@pytest.fixture(scope="module")
def hidden():
    values, groups = parts.sequences()
    return minorant.fit(parts.HIDDEN, values, groups=groups, **parts.QUICK)


def check_same(found, fit):
    np.testing.assert_allclose(found["bound"], fit.bound, rtol=1e-10)
    np.testing.assert_allclose(found["trace"], fit.trace.bound, rtol=1e-10)


def test_devices_give_the_answer_in_memory(gaps):
    values, weights, labels = parts.table()
    rows = ArrayChunks(values, weights=weights, labels=labels, chunk_rows=700)
    found = minorant.fit(parts.MIXTURE, three_places(rows), **parts.QUICK)
    check_same(parts.told(found), gaps)
    np.testing.assert_allclose(found.model.component.mean, gaps.model.component.mean, rtol=1e-8)


def test_devices_hold_whole_sequences(hidden):
    values, groups = parts.sequences()
    rows = ArrayChunks(values, groups=groups, chunk_rows=900)
    found = minorant.fit(parts.HIDDEN, three_places(rows), **parts.QUICK)
    check_same(parts.told(found), hidden)


def test_moments_are_taken_where_a_model_needs_no_more():
    values = np.random.default_rng(0).normal(size=(3000, 3)) @ np.diag([1.0, 2.0, 3.0])
    rows = three_places(ArrayChunks(values, chunk_rows=500))
    model = minorant.Mixture(Gaussian(), n_components=1)
    found = minorant.fit(model, rows)
    np.testing.assert_allclose(found.model.component.covariance[0], np.cov(values.T, bias=True))


def test_blocks_end_to_end_have_the_same_sums():
    rng = np.random.default_rng(1)
    tables = [rng.normal(size=(n, 2)) for n in (512, 700, 90, 90, 90)]
    sources = [
        arrange(minorant.data.arrays.Table(v), Affine.identity(2), np.dtype(float), False, 256)[0]
        for v in tables
    ]

    def moments(scale, rows):
        return scale * (rows.weight @ rows.values), rows.weight.sum()

    one = resident(sources, jax.devices()[0])
    assert len(one.segments) < len(sources)
    first, weight = one.fold(moments, 2.0)
    np.testing.assert_allclose(first, 2 * np.concatenate(tables).sum(0), rtol=1e-12)
    assert float(weight) == sum(map(len, tables)) == float(one.total_weight)
    assert all(float(np.abs(x).sum()) == 0 for x in weightless(one).fold(moments, 1.0))


class Two(Alone):
    """Two processes, the other one of which has run into an error."""

    size = 2

    def gathered(self, thing):
        return [thing, type(thing)(None, OSError("the disk is gone"))]


def test_what_one_process_raises_all_raise():
    with pytest.raises(OSError, match="the disk is gone"):
        Two().agreed(lambda: "well")


def test_what_cannot_travel_is_raised_as_its_sentence():
    class Local(Exception):
        """Of a class that other processes do not have."""

    def refuse():
        raise Local("no such row")

    with pytest.raises(RuntimeError, match="Local: no such row"):
        Alone().agreed(refuse)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"devices": "gpu0"}, TypeError, "devices must be 'all'"),
        ({"devices": []}, ValueError, "at least one"),
        ({"devices": "all", "dask": "local"}, ValueError, "one of them"),
    ],
)
def test_refusals(given, error, said):
    with pytest.raises(error, match=said):
        minorant.chunks(np.zeros((4, 2)), **given)


# --- two processes -------------------------------------------------------------------------------


def started(folder, *scenes):
    """Two processes that know of each other; what one pair compiles the next one need not."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    orders = [str(port), str(folder), *scenes]
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=1", "JAX_PLATFORMS": "cpu"}
    flags["MINORANT_CACHE"] = str(folder.parent / "compiled")
    found = []
    for rank in range(2):
        with (folder / f"said{rank}").open("w") as said:
            command = [sys.executable, parts.__file__, str(rank), *orders]
            found.append(
                subprocess.Popen(command, env=os.environ | flags, stdout=said, stderr=said)
            )
    return found


def ended(processes):
    """Their exit codes; none may stay."""
    deadline = time.monotonic() + LONGEST
    try:
        return [one.wait(max(deadline - time.monotonic(), 0.1)) for one in processes]
    finally:
        for one in processes:
            one.kill()
            one.wait()


def answers(folder):
    return [json.loads(Path(folder, f"answer{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def two(place):
    """What two processes answer to every scene."""
    folder = place / "whole"
    folder.mkdir()
    values, groups = parts.sequences()
    (folder / "rows").mkdir()
    for k, part in enumerate(np.array_split(np.arange(len(groups)), 3)):
        table = {"x": values[part, 0], "y": values[part, 1], "g": groups[part]}
        write_table(folder / "rows" / f"{k}.parquet", table)
    codes = ended(started(folder, "sharded", "files", "few", "drawn", "bad", "asked", "climb"))
    assert codes == [0, 0], (folder / "said0").read_text() + (folder / "said1").read_text()
    return answers(folder)


def test_processes_agree_to_the_last_bit(two):
    assert two[0] == two[1]


@pytest.mark.parametrize("scene", ["sharded", "few"])
def test_processes_give_the_answer_in_memory(two, gaps, scene):
    check_same(two[0][scene], gaps)


def test_processes_read_their_files_themselves(two, hidden):
    check_same(two[0]["files"], hidden)


def test_a_cell_that_one_process_sees_is_named_by_all(two):
    assert f"row {parts.ROWS - 3}" in two[0]["bad"]["error"]


def test_rows_of_another_process_are_not_asked_about(two):
    assert "the rows that it has" in two[0]["asked"]["error"]


def test_a_killed_process_ends_the_others_and_all_go_on_to_the_same_bits(two, place):
    folder = place / "broken"
    folder.mkdir()
    processes = started(folder, "climb")
    deadline = time.monotonic() + LONGEST
    while _step(folder) < parts.LATE and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGKILL)
    ended(processes)  # none waits for the one that is gone
    assert parts.LATE <= _step(folder) < parts.STEPS
    assert ended(started(folder, "climb")) == [0, 0]
    assert answers(folder) == [{"climb": two[0]["climb"]}] * 2
    assert len(two[0]["climb"]["trace"]) >= parts.STEPS


def _step(folder):
    try:
        return int((folder / "step0").read_text())
    except (OSError, ValueError):
        return 0


def test_elsewhere_blocks_are_larger_and_stay_on_the_device(monkeypatch, gaps):
    from minorant.preparation import prepare

    values, weights, labels = parts.table()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    table = minorant.data.arrays.Table(values, weights, labels)
    prepared = prepare(parts.MIXTURE, table, ("x", "y", "z"))
    assert prepared.source.segments[0].capacity() == 1
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(prepared.source))
    found = minorant.fit(parts.MIXTURE, values, weights=weights, labels=labels, **parts.QUICK)
    check_same(parts.told(found), gaps)
