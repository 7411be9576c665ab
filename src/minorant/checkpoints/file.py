"""The file of a checkpoint: one tree of numbers, arrays and strings, with a checksum.

A safetensors file; the tree's structure is in its metadata, beside the first words that
``minorant status`` reads without the rest. It takes the place of the last one in one rename, so
that there is always one that is whole: no second copy is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load as parse_arrays
from safetensors.numpy import save as format_arrays

from minorant import _trees as trees
from minorant._disk import replace_file
from minorant.checkpoints.place import CLIMB

FORMAT, VERSION = "minorant checkpoint", 1
_LENGTH = 8  # bytes at the beginning that say how long the header is


def write(directory: Path, head: dict[str, Any], body: dict[str, Any], model: Any) -> None:
    """Put a checkpoint in the place of the last one.

    Args:
        directory: where.
        head: what can be read without the rest, in JSON's own types.
        body: a tree.
        model: the model as it stands; left out where its classes or functions cannot be written.

    Raises:
        OSError: when it cannot be written; the last one is there and whole.
    """
    words, arrays = _encoded(body, "body")
    with contextlib.suppress(TypeError):
        more, others = _encoded(model, "model")
        words, arrays = {**words, **more}, {**arrays, **others}
    words["head"] = json.dumps({"format": FORMAT, "version": VERSION, **head})
    words["sha256"] = _checksum(words, arrays)
    content = format_arrays(arrays, metadata=words)
    try:
        replace_file(directory / CLIMB, content)
    except OSError as error:
        raise type(error)(
            f"The checkpoint in {str(directory)!r} could not be written "
            f"({error.strerror or error}); {_left(directory)}. Free some space or mend the "
            "directory, then run the same fit again."
        ) from error


def read(directory: Path, part: str = "body", classes: tuple[type, ...] = ()) -> Any:
    """A part of a checkpoint: its "body", or the "model" as it stood, None where it was left out.

    Raises:
        UnknownClassError: for a model made of classes that are not minorant's or among those given.
        FileNotFoundError: when there is none.
        OSError: when it cannot be read.
        ValueError: when it is damaged, or of a newer format.
    """
    content = _content(directory)
    words = _words(directory, content)
    try:
        arrays = parse_arrays(content)
    except Exception:  # safetensors has an error of its own for every way of being cut short
        raise ValueError(_damaged(directory)) from None
    if words.get("sha256") != _checksum(words, arrays):
        raise ValueError(_damaged(directory))
    own = {name.partition(".")[2]: array for name, array in arrays.items() if name[0] == part[0]}
    return trees.decode(json.loads(words.get(part, "null")), own, trees.known_classes(classes))


def read_head(directory: Path) -> dict[str, Any]:
    """What can be read of a checkpoint without the rest; errors as for :func:`read`."""
    with _opened(directory) as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        size = os.fstat(file.fileno()).st_size
        content = length.to_bytes(_LENGTH, "little") + file.read(min(length, size))
    return json.loads(_words(directory, content)["head"])


def _encoded(tree: Any, part: str) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """A tree as JSON and named arrays, those of each part with a name of their own."""
    store = trees.Store()
    text = json.dumps(store.encode(tree, part), separators=(",", ":"))
    return {part: text}, {f"{part[0]}.{name}": array for name, array in store.arrays.items()}


def _opened(directory: Path) -> Any:
    try:
        return open(directory / CLIMB, "rb")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{str(directory)!r} holds no checkpoint: give the directory that was given to a fit "
            "as checkpoint=."
        ) from None
    except OSError as error:
        raise type(error)(
            f"The checkpoint in {str(directory)!r} cannot be read ({error.strerror or error}): "
            "check the path and its permissions."
        ) from None


def _content(directory: Path) -> bytes:
    with _opened(directory) as file:
        return file.read()


def _words(directory: Path, content: bytes) -> dict[str, str]:
    """The metadata."""
    length = int.from_bytes(content[:_LENGTH], "little")
    try:
        words = json.loads(content[_LENGTH : _LENGTH + length])["__metadata__"]
        head = json.loads(words["head"])
        kind, version = head["format"], int(head["version"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(_damaged(directory)) from None
    if kind != FORMAT:
        raise ValueError(_damaged(directory))
    if version > VERSION:
        raise ValueError(
            f"The checkpoint in {str(directory)!r} has format {version}; this minorant reads "
            f"formats up to {VERSION}: upgrade minorant."
        )
    return words


def _checksum(words: dict[str, str], arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(words.keys() - {"sha256"}):
        digest.update(f"{name} {words[name]}\0".encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _left(directory: Path) -> str:
    whole = (directory / CLIMB).exists()
    return "the last one is still there and whole" if whole else "nothing was left there"


def _damaged(directory: Path) -> str:
    return (
        f"The checkpoint {str(directory / CLIMB)!r} is damaged (cut short or edited): restore "
        "a copy, or delete it to begin anew."
    )
