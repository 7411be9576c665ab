"""How far a climb is, asked from outside: while it runs, and after it was killed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from minorant._disk import replace_file
from minorant.checkpoints import place

RUNNING, INTERRUPTED, FINISHED, FAILED, KILLED = (
    "running",
    "interrupted",
    "finished",
    "failed",
    "killed",
)
_WORDS = {
    RUNNING: "Running.",
    INTERRUPTED: "Interrupted; the climb was kept.",
    FINISHED: "Finished.",
    FAILED: "Ended by an error.",
    KILLED: "Killed: the process is gone and said nothing (a crash, kill -9, the power).",
}
_NEXT = {
    RUNNING: "Ctrl-C ends it at a checkpoint; a kill loses what came after the last one.",
    FINISHED: "The same fit with this checkpoint answers at once.",
}
_GO_ON = (
    "Run the same fit with this checkpoint again: it goes on from run {run}, step {step}{chunk}."
)


class Told(NamedTuple):
    """What a climb says of itself, at most once a second.

    ``bound`` is in nats in the data's units, of the best lane; ``gain_per_row`` is what the last
    block of steps gained; ``chunk`` counts those summed in a pass over rows out of memory, and
    ``chunks`` those of a whole pass, where one has ended. ``sentence`` is the outcome or the error.
    """

    state: str
    model: str
    rows: int
    run: int = 0
    step: int = 0
    bound: float | None = None
    gain_per_row: float | None = None
    chunk: int | None = None
    chunks: int | None = None
    seconds: float = 0.0
    sentence: str = ""
    process: int = 0
    host: str = ""


class Kept(NamedTuple):
    """What the last checkpoint holds: where the climb goes on from, and when it was written."""

    run: int
    step: int
    chunk: int | None
    written: float


class Status(NamedTuple):
    """How far a climb is.

    ``state`` is "running", "interrupted", "finished", "failed" or "killed"; ``model`` the best
    start's model when the last checkpoint was written, in the data's units, None where it cannot be
    read without the program that made it (classes or functions of yours).
    """

    directory: str
    state: str
    told: Told
    kept: Kept
    model: Any

    def __str__(self) -> str:
        """State, place, bound, last checkpoint, what to do next: a line each."""
        told = self.told
        at = f" Process {told.process} on {told.host}." if self.state == RUNNING else ""
        sentence = f" {told.sentence}" if told.sentence else ""
        ago = max(time.time() - self.kept.written, 0.0)
        return "\n".join(
            [
                f"{_WORDS[self.state]}{at}{sentence}",
                f"{told.model}{_of_rows(told)}: run {told.run}, step {told.step}"
                f"{_of_pass(told)}{_climbed(told)}; {_in_words(told.seconds)} of work.",
                f"Last checkpoint: {_in_words(ago)} ago, run {self.kept.run}, step "
                f"{self.kept.step}{_chunk(self.kept.chunk)}.",
                f"Next: {self._next()}",
            ]
        )

    def _next(self) -> str:
        kept = self.kept
        go_on = _GO_ON.format(run=kept.run, step=kept.step, chunk=_chunk(kept.chunk))
        return _NEXT.get(self.state, go_on)


def status(directory: Any, classes: tuple[type, ...] = ()) -> Status:
    """How far the climb that keeps its checkpoint in a directory is; it is not disturbed.

    Args:
        directory: what was given to a fit as ``checkpoint=``.
        classes: component or model classes of yours that the model is made of.

    Returns:
        The state, the place reached, the last checkpoint, and the model as it stood there.

    Raises:
        FileNotFoundError: when there is no checkpoint.
        ValueError: when it is damaged.

    Example:
        >>> import numpy as np, minorant, tempfile
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fit = minorant.fit(model, np.arange(20.0)[:, None], checkpoint=folder)
        ...     found = minorant.status(folder)
        >>> found.state, float(found.model.component.mean[0, 0])
        ('finished', 9.5)
    """
    from minorant.checkpoints import file

    path = Path(directory)
    held = place.is_held(path)
    kept = Kept(**file.read_head(path)["kept"])
    told = read(path)
    state = told.state
    if held:
        state = RUNNING
    elif state == RUNNING:
        state = KILLED
    return Status(str(directory), state, told, kept, _model(path, classes))


def write(path: Path, told: Told) -> None:
    """Say how far it is; a disk that is full is the checkpoint's to complain of."""
    try:
        replace_file(path / place.STATUS, json.dumps(told._asdict()).encode(), lasting=False)
    except OSError:
        return


def read(path: Path) -> Told:
    """What was last said; the least of it where that is lost."""
    try:
        return Told(**json.loads((path / place.STATUS).read_bytes()))
    except (OSError, ValueError, TypeError):
        return Told(RUNNING, "A model", 0)


def _model(path: Path, classes: tuple[type, ...]) -> Any:
    from minorant import _trees as trees
    from minorant.checkpoints import file

    try:
        return file.read(path, "model", classes)
    except trees.UnknownClassError:
        return None


def _of_rows(told: Told) -> str:
    return f", {told.rows} rows" if told.rows else ""


def _of_pass(told: Told) -> str:
    if told.chunk is None:
        return ""
    whole = "" if told.chunks is None else f" of {told.chunks}"
    return f", chunk {told.chunk}{whole} of the pass"


def _climbed(told: Told) -> str:
    if told.bound is None:
        return ""
    of_row = " per row" if told.rows else ""
    gain = "" if told.gain_per_row is None else f", gaining {told.gain_per_row:.2e}{of_row}"
    return f", bound {told.bound:.8g} nats{gain}"


def _chunk(chunk: int | None) -> str:
    return "" if chunk is None else f", chunk {chunk}"


def _in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
