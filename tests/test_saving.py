"""Fits on disk: the same to the last bit, whole or not there, and one sentence for each failure."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from saving_parts import Own, fingerprint, rows

import minorant
from minorant import _disk
from minorant.components import Diagonal, Full, Gaussian
from minorant.components.priors import Dirichlet, InverseWishart, LogDensity
from minorant.result import Degenerate
from minorant.saving import directory as saving
from minorant.saving import load_extra

FILES = ["arrays.safetensors", "fit.json"]


def fitted(dtype=float, component=None):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(60, 2)) + 3 * rng.integers(0, 2, (60, 1))) * [100.0, 0.1]
    component = component or Gaussian(Full(), prior=InverseWishart())
    model = minorant.Mixture(component, prior=Dirichlet(2.0), n_components=2)
    with jax.enable_x64(dtype is float):
        return minorant.fit(model, values.astype(dtype), progress=False, max_steps=20)


@pytest.fixture(scope="module")
def fit():
    return fitted()


@pytest.fixture(scope="module")
def narrow():
    return fitted(np.float32, Gaussian(Diagonal()))


@pytest.fixture
def saved(fit, tmp_path):
    minorant.save(fit, tmp_path / "fit")
    return tmp_path / "fit"


def with_component(fit, component):
    return fit._replace(model=eqx.tree_at(lambda m: m.component, fit.model, component))


def test_a_fit_is_two_files_that_need_no_pickle(saved):
    assert sorted(os.listdir(saved)) == FILES
    written = json.loads((saved / "fit.json").read_text())
    assert (written["format"], written["version"]) == ("minorant fit", 1)
    assert written["summary"][1].startswith("log p(X) = ")


@pytest.mark.parametrize("name", ["fit", "narrow"])
def test_a_loaded_fit_is_the_fit(name, tmp_path, request):
    fit = request.getfixturevalue(name)
    minorant.save(fit, tmp_path / "fit")
    loaded = minorant.load(tmp_path / "fit")
    assert fingerprint(loaded) == fingerprint(fit)
    ours, theirs = jax.tree.flatten(loaded), jax.tree.flatten(fit)
    assert ours[1] == theirs[1]
    for mine, other in zip(ours[0], theirs[0], strict=True):
        if isinstance(other, np.ndarray | np.generic | jax.Array):
            assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
            assert mine.tobytes() == other.tobytes()
        else:
            assert type(mine) is type(other)
            assert mine == other


def test_another_process_finds_the_same_bits(fit, narrow, tmp_path):
    for name, one in (("wide", fit), ("narrow", narrow)):
        minorant.save(one, tmp_path / name)
    script = Path(__file__).with_name("saving_parts.py")
    command = [sys.executable, script, tmp_path / "wide", tmp_path / "narrow"]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert found.stdout.split() == [fingerprint(fit), fingerprint(narrow)]


def test_odd_values_come_back(fit, tmp_path):
    one = Degenerate(3, "emptied", (0, 2), "a sentence with \N{GREEK SMALL LETTER MU}")
    odd = fit._replace(
        bound=np.nextafter(1.0, 2.0),
        objective=-np.inf,
        seconds=float("nan"),
        degenerate=(one,),
        names=("a", "b"),
    )
    extra = {"codes": [1, None, True, "x"], "big": 2**80, "array": np.arange(3)[::-1], "nested": {}}
    minorant.save(odd, tmp_path / "fit", extra=extra)
    loaded, read = minorant.load(tmp_path / "fit"), load_extra(tmp_path / "fit")
    assert (loaded.outcome, loaded.bound) == (odd.outcome, odd.bound)
    assert loaded.objective == -np.inf
    assert np.isnan(loaded.seconds)
    assert loaded.degenerate == (one,)
    assert type(loaded.degenerate[0]) is Degenerate
    assert loaded.names == ("a", "b")
    np.testing.assert_array_equal(read.pop("array"), [2, 1, 0])
    assert read == {"codes": [1, None, True, "x"], "big": 2**80, "nested": {}}


def test_nothing_extra_is_none(saved):
    assert load_extra(saved) is None


def test_a_users_component_is_handed_in(fit, tmp_path):
    part = fit.model.component
    own = Own(part.structure, part.mean, part.covariance, part.floor, part.prior)
    minorant.save(with_component(fit, own), tmp_path / "fit")
    assert type(minorant.load(tmp_path / "fit", classes=(Own,)).model.component) is Own
    with pytest.raises(ValueError, match=r"class 'Own', which .* classes=\(Own,\)"):
        minorant.load(tmp_path / "fit")


def test_a_users_class_needs_a_name_of_its_own(fit, tmp_path):
    part = fit.model.component
    named = type("Gaussian", (Own,), {})
    own = named(part.structure, part.mean, part.covariance, part.floor, part.prior)
    with pytest.raises(TypeError, match=r"fit.model.component is of your class Gaussian.*rename"):
        minorant.save(with_component(fit, own), tmp_path / "fit")
    minorant.save(fit, tmp_path / "fit")
    with pytest.raises(TypeError, match="rename yours"):
        minorant.load(tmp_path / "fit", classes=(named,))
    with pytest.raises(TypeError, match="must be component or model classes"):
        minorant.load(tmp_path / "fit", classes=(print,))


def test_no_other_class_can_be_built(saved):
    """A directory from a stranger names classes; only data classes of the list come alive."""
    for name in ("Path", "Popen", "Reporter", "ABCMeta"):
        rewrite(saved, lambda whole, name=name: whole.update(fit={"object": [name, {}]}))
        with pytest.raises(ValueError, match=f"class {name!r}, which this minorant does not know"):
            minorant.load(saved)


def test_changed_fields_are_named(saved):
    def rename(whole):
        fields = whole["fit"]["object"][1]
        fields["gone"] = fields.pop("bound")

    rewrite(saved, rename)
    with pytest.raises(ValueError, match=r"holds a Fit whose fields differ .*\(bound, gone\)"):
        minorant.load(saved)


def test_a_field_that_came_later_takes_its_default(saved):
    rewrite(saved, lambda whole: whole["fit"]["object"][1].pop("state"))
    assert minorant.load(saved).state is None


def test_a_function_cannot_be_stored(fit, tmp_path):
    part = fit.model.component
    prior = LogDensity(lambda component: 0.0)
    own = Gaussian(part.structure, part.mean, part.covariance, part.floor, prior)
    with pytest.raises(TypeError, match=r"fit.model.component.prior.function is a Python function"):
        minorant.save(with_component(fit, own), tmp_path / "fit")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ({"a": {1: 2}}, r"extra\['a'\] is a dict"),
        ({"a": [set()]}, r"extra\['a'\]\[0\] is a set"),
        ({"a": np.array(["x"])}, "an array of <U1"),
    ],
)
def test_what_cannot_be_stored_is_named(fit, tmp_path, extra, match):
    with pytest.raises(TypeError, match=match):
        minorant.save(fit, tmp_path / "fit", extra=extra)
    assert os.listdir(tmp_path) == []


def test_only_fits_are_saved(tmp_path):
    with pytest.raises(TypeError, match="got dict"):
        minorant.save({}, tmp_path / "fit")


def test_an_existing_directory_is_left_alone(saved, narrow):
    before = (saved / "fit.json").read_bytes()
    with pytest.raises(FileExistsError, match="exists: choose another"):
        minorant.save(narrow, saved)
    assert (saved / "fit.json").read_bytes() == before


def test_a_fit_can_be_replaced(saved, narrow):
    minorant.save(narrow, saved, overwrite=True)
    assert minorant.load(saved).bound == narrow.bound
    assert os.listdir(saved.parent) == ["fit"]


def test_only_a_fit_is_replaced(saved, narrow):
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"more than a saved fit \(notes.txt\)"):
        minorant.save(narrow, saved, overwrite=True)
    with pytest.raises(FileExistsError, match="exists"):
        minorant.save(narrow, saved / "notes.txt", overwrite=True)
    assert (saved / "notes.txt").read_text() == "mine"


def test_a_missing_parent_is_named(fit, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: create it"):
        minorant.save(fit, tmp_path / "no" / "fit")


def full_disk(monkeypatch, at):
    """The disk fills up while the file number ``at`` is written."""
    written = []
    write = saving.write_file

    def limited(path, content):
        written.append(path)
        if len(written) > at:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(saving, "write_file", limited)


@pytest.mark.parametrize("at", [0, 1])
def test_a_full_disk_leaves_nothing(fit, tmp_path, monkeypatch, at):
    full_disk(monkeypatch, at)
    with pytest.raises(OSError, match="No space left on device.*nothing new was left"):
        minorant.save(fit, tmp_path / "fit")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("at", [0, 1])
def test_a_full_disk_leaves_the_earlier_fit(saved, narrow, fit, monkeypatch, at):
    full_disk(monkeypatch, at)
    with pytest.raises(OSError, match="No space left"):
        minorant.save(narrow, saved, overwrite=True)
    assert os.listdir(saved.parent) == ["fit"]
    assert minorant.load(saved).bound == fit.bound


def test_a_rename_that_fails_brings_the_earlier_fit_back(saved, narrow, fit, monkeypatch):
    rename = os.rename

    def failing(source, target):
        if str(source).endswith(".new"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(saving.os, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        minorant.save(narrow, saved, overwrite=True)
    monkeypatch.undo()
    assert os.listdir(saved.parent) == ["fit"]
    assert minorant.load(saved).bound == fit.bound


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_the_system_s_own_full_device_is_reported(fit, tmp_path, monkeypatch):
    real = open

    def opened(path, mode):
        return (
            real("/dev/full", "wb")
            if str(path).endswith("arrays.safetensors")
            else real(path, mode)
        )

    monkeypatch.setattr(_disk, "open", opened, raising=False)
    with pytest.raises(OSError, match="No space left on device"):
        minorant.save(fit, tmp_path / "fit")
    assert os.listdir(tmp_path) == []


def rewrite(saved, change):
    """Edit the JSON and make its checksum right again."""
    whole = json.loads((saved / "fit.json").read_text())
    change(whole)
    body = {name: whole[name] for name in ("fit", "extra", "arrays", "summary")}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    whole["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (saved / "fit.json").write_text(json.dumps(whole))


def test_a_newer_format_asks_for_an_upgrade(saved):
    rewrite(saved, lambda whole: whole.update(version=2, minorant="9.1"))
    with pytest.raises(ValueError, match="format 2, made by minorant 9.1.*upgrade minorant"):
        minorant.load(saved)


def test_every_cut_of_either_file_is_noticed(saved):
    for name in FILES:
        whole = (saved / name).read_bytes()
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            (saved / name).write_bytes(whole[:length])
            with pytest.raises(ValueError, match=f"{name} is damaged .*fit again"):
                minorant.load(saved)
        (saved / name).write_bytes(whole)


def test_a_flipped_bit_is_noticed(saved):
    for name, old, new in (
        ("fit.json", b'"n_parameters": ', b'"n_parameters": 1'),
        (FILES[0], b"", b""),
    ):
        content = (saved / name).read_bytes()
        changed = content.replace(old, new) if old else content[:-1] + bytes([content[-1] ^ 1])
        assert changed != content
        (saved / name).write_bytes(changed)
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            minorant.load(saved)
        (saved / name).write_bytes(content)


def test_what_is_no_fit_is_named(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no .*nothing-here"):
        minorant.load(tmp_path / "nothing-here")
    with pytest.raises(NotADirectoryError, match="is a file: give the directory"):
        minorant.load(saved / "fit.json")
    with pytest.raises(FileNotFoundError, match="not a saved fit, it has no fit.json"):
        minorant.load(tmp_path)
    (saved / "arrays.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has lost its arrays.safetensors"):
        minorant.load(saved)
    for text in ("[]", '{"format": "another"}'):
        (saved / "fit.json").write_text(text)
        with pytest.raises(ValueError, match="was not written by minorant"):
            minorant.load(saved)


def test_a_file_that_cannot_be_read_is_named(saved):
    (saved / "fit.json").unlink()
    (saved / "fit.json").mkdir()
    with pytest.raises(OSError, match="fit.json cannot be read .*permissions"):
        minorant.load(saved)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_place_that_cannot_be_written_is_named(fit, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="Permission denied.*can be written to"):
        minorant.save(fit, tmp_path / "fit")


def test_a_moved_fit_still_loads(saved, fit, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    np.testing.assert_array_equal(
        minorant.load(tmp_path / "copy").log_evidence(rows()), fit.log_evidence(rows())
    )
