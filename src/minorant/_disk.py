"""Files that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_file(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, down to the disk."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes, lasting: bool = True) -> None:
    """Put a file in the place of another: until the new one is whole, the old one is there.

    One process at a time may do so; what one that was killed left behind is written over.

    Args:
        path: the file.
        content: all of it.
        lasting: wait for the disk, so that it outlives a power cut.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        with open(fresh, "wb") as file:
            file.write(content)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise
    if lasting:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames in a directory outlive a power cut."""
    # Not every system lets a directory be opened; there the rename is as safe as it gets.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
