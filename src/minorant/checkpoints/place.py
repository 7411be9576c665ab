"""The directory of a checkpoint: what is in it, and that one process at a time climbs there."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

CLIMB, STATUS, LOCK = "climb.safetensors", "status.json", "lock"
_SECONDS = 60.0
_PATIENCE = 1.0  # a question asked from outside holds the lock for an instant


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a climb writes how far it is: an interrupt, a crash or a power cut then costs little.

    Args:
        directory: is made where it is not there; its parent must be. Give every fit its own.
        seconds: how often it is written while the climb goes on. A killed fit loses at most this.
            Writing takes less than 2% of the time: what takes long to write is written less often.
            0 writes after every block of steps and every chunk of rows, whatever it costs.
        overwrite: begin anew, whatever fit was climbing there. Without it, the same fit goes on
            and another one is refused.

    Raises:
        ValueError: for negative seconds.

    Example:
        >>> import numpy as np, minorant, tempfile
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=2)
        >>> rows = np.r_[np.arange(20.0), 30 + np.arange(20.0)][:, None]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = minorant.Checkpoint(folder + "/climb", seconds=30)
        ...     fit = minorant.fit(model, rows, checkpoint=place)
        ...     again = minorant.fit(model, rows, checkpoint=place)  # answers without climbing
        >>> fit.bound == again.bound
        True
    """

    directory: str | os.PathLike[str]
    seconds: float = _SECONDS
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        if not self.seconds >= 0:
            raise ValueError(f"seconds must be at least 0; got {self.seconds}.")

    @property
    def path(self) -> Path:
        """The directory."""
        return Path(self.directory)


def as_checkpoint(given: Any) -> Checkpoint | None:
    """What ``checkpoint=`` means, its directory made.

    Raises:
        TypeError: for what is neither a path nor a ``Checkpoint``.
        OSError: when the directory cannot be made or written to.
    """
    if given is None:
        return None
    if not isinstance(given, Checkpoint | str | os.PathLike):
        raise TypeError(
            "checkpoint must be a directory or a minorant.Checkpoint(directory, seconds=); got "
            f"{type(given).__name__}."
        )
    place = given if isinstance(given, Checkpoint) else Checkpoint(given)
    try:
        place.path.mkdir(exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"The directory {str(place.path)!r} for the checkpoint cannot be made "
            f"({error.strerror or error}): give one whose parent exists and can be written to."
        ) from None
    return place


class Lock:
    """Held by the process that climbs in a directory; the system frees it when that process ends.

    So it tells a climb that runs from one that was killed, whatever its files say.
    """

    def __init__(self, directory: Path) -> None:
        """Take it.

        Raises:
            BlockingIOError: when another process climbs there.
            OSError: when the directory cannot be written to.
        """
        try:
            self._file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise type(error)(
                f"The checkpoint in {str(directory)!r} cannot be written "
                f"({error.strerror or error}): give a directory that can be written to."
            ) from None
        deadline = time.monotonic() + _PATIENCE
        while not _locked(self._file, shared=False):
            if time.monotonic() > deadline:
                os.close(self._file)
                raise BlockingIOError(
                    f"Another process is climbing in {str(directory)!r} (minorant status "
                    f"{directory}): wait for it, or give this fit another directory."
                )
            time.sleep(0.02)

    def release(self) -> None:
        """Let it go."""
        os.close(self._file)


def is_held(directory: Path) -> bool:
    """Whether a process climbs in this directory."""
    try:
        file = os.open(directory / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _locked(file, shared=True)
    finally:
        os.close(file)


if sys.platform == "win32":
    import msvcrt

    def _locked(file: int, shared: bool) -> bool:
        """Take the lock of an open file; False when somebody has it."""
        del shared
        with contextlib.suppress(OSError):
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            return True
        return False

else:
    import fcntl

    def _locked(file: int, shared: bool) -> bool:
        """Take the lock of an open file; False when somebody has it."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return True
        return False
