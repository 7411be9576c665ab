"""Fits on disk: a directory with ``fit.json`` and ``arrays.safetensors``, without pickle.

``fit.json`` says which classes the fit is made of and names the arrays; every floating-point
number, single ones included, is in ``arrays.safetensors``, so that a loaded fit gives the same
numbers to the last bit. Loading builds no class that is not on the list of minorant's own data
classes or handed in by the caller, and runs no code of theirs. Both files carry checksums. A fit
is written beside its destination and renamed into place when it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, overload

from safetensors.numpy import load as parse_arrays
from safetensors.numpy import save as format_arrays

from minorant import _trees as trees
from minorant._disk import sync_directory, write_file
from minorant.models.flow import RowFlow
from minorant.models.target import AbstractTarget
from minorant.result import Fit
from minorant.saving import targets
from minorant.target_fit import TargetFit

FORMAT, VERSION = "minorant fit", 1
DESCRIPTION, ARRAYS = "fit.json", "arrays.safetensors"


def save(
    fit: Fit | TargetFit | RowFlow,
    directory: Any,
    *,
    extra: dict | None = None,
    overwrite: bool = False,
) -> None:
    """Write a fit into a directory of its own; nothing is left behind when that fails.

    Args:
        fit: what ``minorant.fit`` returned, or the ``flow_`` of a ``FlowDensity``. Of a target
            everything but its log density is written, which is a function of yours.
        directory: where to; must not exist, its parent must.
        extra: anything of numbers, strings, arrays, lists and dicts to keep beside the fit; read it
            with :func:`load_extra`.
        overwrite: replace a fit that is there. A directory that holds anything else is left alone.

    Raises:
        TypeError: when ``fit`` is no fit, or holds what cannot be stored, such as a function.
        FileExistsError: when the directory exists.
        FileNotFoundError: when its parent does not.
        OSError: when it cannot be written; what was there before is still there.

    Example:
        >>> import numpy as np, minorant, tempfile
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=1)
        >>> fit = minorant.fit(model, np.arange(20.0)[:, None])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     minorant.save(fit, folder + "/fit")
        ...     minorant.load(folder + "/fit").bound == fit.bound
        True
    """
    if not isinstance(fit, Fit | TargetFit | RowFlow):
        raise TypeError(
            f"save stores what minorant.fit returns; got {type(fit).__name__}. For an estimator, "
            "give its fit_, or flow_."
        )
    path = Path(directory)
    check_destination(path, overwrite)
    description, arrays = _description(fit, extra)
    try:
        _write_whole(path, {ARRAYS: arrays, DESCRIPTION: description})
    except OSError as error:
        raise OSError(
            f"The fit could not be written to {path} ({error.strerror or error}); nothing new was "
            "left there. Free some space or choose a directory that can be written to."
        ) from error


@overload
def load(directory: Any, classes: tuple[type, ...] = (), *, target: None = None) -> Fit: ...


@overload
def load(
    directory: Any, classes: tuple[type, ...] = (), *, target: AbstractTarget
) -> TargetFit: ...


def load(
    directory: Any, classes: tuple[type, ...] = (), *, target: AbstractTarget | None = None
) -> Fit | TargetFit:
    """Read a fit that :func:`save` wrote.

    Args:
        directory: the directory that was given to ``save``.
        classes: your own component, model or member classes that the fit is made of.
        target: of the fit of a target the target again; it must have the same unknowns and, at
            draws that were stored, the same log density.

    Returns:
        The fit, the same to the last bit; it scores, samples and imputes as before.

    Raises:
        TypeError: when the fit is of a target and none is given, or the other way round.
        FileNotFoundError: when there is no fit, or one of its files is missing.
        ValueError: when the files are damaged, from a newer format, or name an unknown class.
        OSError: when they cannot be read.
    """
    found = _restored(directory, classes, "fit")
    if isinstance(found, dict):
        return targets.restored(found, target)
    if target is not None:
        raise TypeError("target is for the fit of one; this fit is of a model of rows.")
    return found


def load_extra(directory: Any, classes: tuple[type, ...] = ()) -> dict | None:
    """Read what was saved beside a fit as ``extra``; see :func:`load` for arguments and errors."""
    return _restored(directory, classes, "extra")


# --- writing -------------------------------------------------------------------------------------


def check_destination(path: Path, overwrite: bool) -> None:
    """Raise the OSError that :func:`save` would raise before it writes anything."""
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"The directory {path.absolute().parent} does not exist: create it, or choose another "
            "place for the fit."
        )
    if not os.path.lexists(path):
        return
    if not overwrite or not path.is_dir() or path.is_symlink():
        raise FileExistsError(
            f"{path} exists: choose another directory, or replace a saved fit with overwrite=True."
        )
    others = sorted({entry.name for entry in path.iterdir()} - {DESCRIPTION, ARRAYS})
    if others:
        raise FileExistsError(
            f"{path} holds more than a saved fit ({', '.join(others[:3])}) and is not replaced: "
            "choose another directory."
        )


def _description(fit: Fit | TargetFit | RowFlow, extra: dict | None) -> tuple[bytes, bytes]:
    """Both files' bytes."""
    import minorant

    store = trees.Store()
    kept = targets.stored(fit) if isinstance(fit, TargetFit) else fit
    body = {"fit": store.encode(kept, "fit"), "extra": store.encode(extra, "extra")}
    arrays = format_arrays(store.arrays)
    body["arrays"] = {"bytes": len(arrays), "sha256": hashlib.sha256(arrays).hexdigest()}
    body["summary"] = str(fit).splitlines()
    head = {"format": FORMAT, "version": VERSION, "minorant": minorant.__version__}
    whole = {**head, "sha256": _checksum(body), **body}
    return json.dumps(whole, indent=1, allow_nan=False).encode(), arrays


def _checksum(body: dict) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _write_whole(path: Path, files: dict[str, bytes]) -> None:
    """Write beside the destination, then rename: there is a whole fit, or what was before."""
    path = path.absolute()
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        fresh.mkdir()
        for name, content in files.items():
            write_file(fresh / name, content)
        sync_directory(fresh)
        _put_in_place(fresh, path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    sync_directory(path.parent)


def _put_in_place(fresh: Path, path: Path) -> None:
    """Rename; an earlier fit steps aside first and comes back if the rename fails."""
    if not path.exists():
        os.rename(fresh, path)
        return
    old = fresh.with_suffix(".old")
    os.rename(path, old)
    try:
        os.rename(fresh, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


# --- reading -------------------------------------------------------------------------------------


def _restored(directory: Any, classes: tuple[type, ...], part: str) -> Any:
    path = Path(directory)
    body = _read_description(path)
    content = _read_file(path, ARRAYS)
    stated = body["arrays"]
    if hashlib.sha256(content).hexdigest() != stated["sha256"]:
        raise ValueError(
            f"{path / ARRAYS} is damaged ({len(content)} bytes; {stated['bytes']} were written, or "
            "their checksum differs): copy the fit again or fit again."
        )
    known = trees.known_classes(classes)
    with _named_damage(path):
        return trees.decode(body[part], parse_arrays(content), known)


def _read_description(path: Path) -> dict:
    text = _read_file(path, DESCRIPTION)
    try:
        whole = json.loads(text)
    except ValueError:
        raise ValueError(_damaged(path)) from None
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise ValueError(
            f"{path / DESCRIPTION} was not written by minorant: give a directory that "
            "minorant.save wrote."
        )
    _check_version(path, whole)
    body = {name: whole.get(name) for name in ("fit", "extra", "arrays", "summary")}
    if whole.get("sha256") != _checksum(body):
        raise ValueError(_damaged(path))
    return body


def _check_version(path: Path, whole: dict) -> None:
    version = whole.get("version")
    if not isinstance(version, int) or version < 1:
        raise ValueError(_damaged(path))
    if version > VERSION:
        raise ValueError(
            f"The fit in {path} has format {version}, made by minorant "
            f"{whole.get('minorant')}; this one reads formats up to {VERSION}: upgrade minorant."
        )


def _read_file(path: Path, name: str) -> bytes:
    _check_is_fit(path, name)
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise OSError(
            f"{path / name} cannot be read ({error.strerror or error}): check the path and its "
            "permissions."
        ) from error


def _check_is_fit(path: Path, name: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}: give a directory that minorant.save wrote.")
    if not path.is_dir():
        raise NotADirectoryError(
            f"{path} is a file: give the directory that minorant.save wrote, not a file of it."
        )
    if (path / name).exists():
        return
    if name == DESCRIPTION:
        raise FileNotFoundError(
            f"{path} is not a saved fit, it has no {DESCRIPTION}: give a directory that "
            "minorant.save wrote."
        )
    raise FileNotFoundError(
        f"The fit in {path} has lost its {name}: copy the whole directory again."
    )


def _damaged(path: Path) -> str:
    return (
        f"{path / DESCRIPTION} is damaged (cut short or edited): copy the fit again or fit again."
    )


@contextlib.contextmanager
def _named_damage(path: Path) -> Iterator[None]:
    """Say which fit it is that cannot be built."""
    try:
        yield
    except trees.UnknownClassError as error:
        raise ValueError(f"The fit in {path} {error}") from None
    except Exception as error:
        raise ValueError(f"{_damaged(path)} ({type(error).__name__}: {error})") from error
