"""Which files a path means: one file, a folder, a pattern or a list, and what their folders say.

In a folder every file with the ending of Parquet or Arrow counts, at any depth, in the order of
their paths; names that begin with a dot or an underscore do not. A part ``year=2024`` of a path
below the folder is a column of that file's rows.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote

from minorant.data.files import FORMATS, file_format

_BINARY = tuple(ending for ending, kind in FORMATS.items() if kind in ("parquet", "arrow"))
_NULL = "__HIVE_DEFAULT_PARTITION__"
_MAGIC = re.compile(r"[*?\[]")


class FoundFile(NamedTuple):
    """A file and the columns that its folders spell; None where they say that it is missing."""

    path: str
    partition: dict[str, str | None]


def find_files(path: str | os.PathLike[str] | Iterable[Any]) -> tuple[FoundFile, ...]:
    """The files of a dataset, in a fixed order.

    Args:
        path: a Parquet or Arrow file, a folder, a pattern (``*``, ``?``, ``[ab]``, ``**``), or
            several of them.

    Raises:
        OSError: when nothing is there.
        ValueError: for a file of another format, or the same file twice.
    """
    if not isinstance(path, str | os.PathLike):
        found = tuple(file for one in path for file in find_files(one))
        _check_once(found)
        return found
    text = os.path.expanduser(os.fspath(path))
    if os.path.isdir(text):
        return _in_folder(text, text)
    if is_pattern(text):
        return _matching(text)
    if "://" in text:
        raise ValueError(
            f"{text!r} is an address, and only files on this machine are read: mount it, copy it "
            "here, or give a function that returns batches of it."
        )
    if not os.path.exists(text):
        raise FileNotFoundError(f"The file {text!r} does not exist: check the path.")
    return (_single(text, text),)


def is_place(data: Any) -> bool:
    """Whether this is where files are: a path, folder or pattern, or a list of these."""
    several = isinstance(data, list | tuple) and len(data) > 0
    return all(isinstance(one, str | os.PathLike) for one in (data if several else (data,)))


def is_pattern(path: str) -> bool:
    """Whether a path is a pattern of several, and no file of that name."""
    return _MAGIC.search(path) is not None and not os.path.exists(path)


def _check_once(found: tuple[FoundFile, ...]) -> None:
    if not found:
        raise ValueError("The list of files is empty: name at least one.")
    seen: set[str] = set()
    for file in found:
        if os.path.realpath(file.path) in seen:
            raise ValueError(
                f"The file {file.path!r} is given twice, so its rows would count twice: name it "
                "once."
            )
        seen.add(os.path.realpath(file.path))


def _matching(pattern: str) -> tuple[FoundFile, ...]:
    matches = [m for m in sorted(glob.glob(pattern, recursive=True)) if not _is_hidden(m)]
    if not matches:
        raise FileNotFoundError(f"No file matches {pattern!r}: check the pattern.")
    fixed = os.path.dirname(pattern[: _MAGIC.search(pattern).start()])  # pyright: ignore[reportOptionalMemberAccess]
    found: dict[str, FoundFile] = {}
    for match in matches:
        inside = _in_folder(match, fixed) if os.path.isdir(match) else (_single(match, fixed),)
        found.update({file.path: file for file in inside})
    return tuple(found[path] for path in sorted(found))


def _is_hidden(path: str) -> bool:
    return os.path.basename(os.path.normpath(path))[0] in "._"


def _in_folder(folder: str, root: str) -> tuple[FoundFile, ...]:
    paths = []
    for place, folders, names in os.walk(folder):
        _check_no_log(place, folders)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        paths += [os.path.join(place, name) for name in names if not _is_hidden(name)]
    binary = sorted(path for path in paths if path.lower().endswith(_BINARY))
    if not binary:
        _refuse_folder(folder, paths)
    return tuple(FoundFile(path, _partition(path, root)) for path in binary)


def _check_no_log(folder: str, folders: list[str]) -> None:
    if "_delta_log" in folders:
        raise ValueError(
            f"The folder {folder!r} is a Delta table, whose files also hold rows that were "
            "replaced: give the list of its files of today (deltalake's DeltaTable.file_uris())."
        )


def _refuse_folder(folder: str, paths: list[str]) -> None:
    text = next((path for path in paths if path.lower().endswith((".csv", ".tsv"))), None)
    if text is not None:
        _refuse_text(text)
    raise FileNotFoundError(
        f"The folder {folder!r} holds no Parquet or Arrow file ({', '.join(_BINARY)}): check the "
        "path."
    )


def _single(path: str, root: str) -> FoundFile:
    if file_format(path) not in ("parquet", "arrow"):
        _refuse_text(path)
    return FoundFile(path, _partition(path, root) if root != path else {})


def _refuse_text(path: str) -> None:
    stem, ending = os.path.splitext(path)
    target, mark = f"{stem}.parquet", r", parse_options=pyarrow.csv.ParseOptions(delimiter='\t')"
    source = f"pyarrow.csv.read_csv({path!r}{mark if ending.lower() == '.tsv' else ''})"
    raise ValueError(
        f"The file {path!r} is text, which is slow to read again and again: turn it into Parquet "
        f"once, with pyarrow.parquet.write_table({source}, {target!r}) after import pyarrow.csv, "
        "pyarrow.parquet; then give that file."
    )


def _partition(path: str, root: str) -> dict[str, str | None]:
    """What the folders between ``root`` and the file say, as ``name=value``."""
    parts = os.path.relpath(os.path.dirname(path) or ".", root or ".").split(os.sep)
    pairs = (part.split("=", 1) for part in parts if "=" in part)
    return {unquote(k): None if v == _NULL else unquote(v) for k, v in pairs}
