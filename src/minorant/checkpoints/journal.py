"""The journal that writes: where a climb stands, on a time budget, and where it is taken up."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from minorant._types import PyTree
from minorant.answer import in_data_units
from minorant.checkpoints import file, identity, standing, status
from minorant.checkpoints.place import CLIMB, Checkpoint, Lock, as_checkpoint
from minorant.data import Part
from minorant.journal import Journal
from minorant.models.target import AbstractTarget
from minorant.preparation import Prepared
from minorant.result import Outcome

_SHARE = 50  # of the time between two checkpoints, one part in so many may go into writing
_TELLING = 1.0  # seconds between two words on how far it is


@contextlib.contextmanager
def journalled(given: Any, prepared: Prepared, asked: dict[str, Any]) -> Iterator[Journal]:
    """The journal of a fit: one that writes, where a checkpoint is asked for.

    Args:
        given: where: a directory, a ``Checkpoint``; None for nowhere.
        prepared: the problem.
        asked: the arguments that the answer depends on.

    Raises:
        ValueError: when another fit has its checkpoint there, or it is damaged.
        OSError: when it cannot be read or written, or another process climbs there.
    """
    company = prepared.company()
    name, rows = type(prepared.template).__name__, prepared.n_rows()
    about = About(name, rows, functools.partial(in_data_units, prepared), prepared.log_scale)

    def fit() -> dict[str, str]:
        return identity.identity_of(prepared, asked)

    if company.size > 1:
        from minorant.checkpoints.shared import shared_journal

        with shared_journal(company, lambda: as_checkpoint(given), about, fit) as shared:
            yield shared
        return
    with _kept(given, about, fit) as journal:
        yield journal


@contextlib.contextmanager
def journalled_target(given: Any, target: AbstractTarget, asked: dict[str, Any]) -> Iterator[Any]:
    """The journal of a target's fit; arguments and errors as for :func:`journalled`."""
    about = About(type(target).__name__, 0, lambda member: member, 0.0)
    with _kept(given, about, lambda: identity.identity_of_target(target, asked)) as journal:
        yield journal


class About(NamedTuple):
    """What a fit is of, as far as it is told.

    Attributes:
        name: what the model's class is called.
        rows: how many there are; 0 for a target.
        in_data_units: a model from the units it is computed in.
        log_scale: what these make a bound larger by, in nats.
    """

    name: str
    rows: int
    in_data_units: Callable[[PyTree], Any]
    log_scale: float


@contextlib.contextmanager
def _kept(given: Any, about: About, fit: Callable[[], dict[str, str]]) -> Iterator[Journal]:
    """A journal in a directory, locked while it is used; without one the journal of nobody."""
    place = as_checkpoint(given)
    if place is None:
        yield Journal()
        return
    lock = Lock(place.path)
    try:
        journal = DirectoryJournal(place, about, fit())
        try:
            yield journal
        except BaseException as error:
            journal.broken(error)
            raise
    finally:
        lock.release()


class DirectoryJournal(Journal):
    """Keeps the runs that have ended, the one under way and its pass, in one file.

    It is written at the end of every run, at an interrupt, and when the place's ``seconds`` have
    passed.
    """

    def __init__(self, place: Checkpoint, about: About, fit: dict[str, str]) -> None:
        """Take up what is there, or begin; either way the directory is written to at once."""
        self._place, self._about, self._fit = place, about, fit
        self._began = self._written = self._told = time.monotonic()
        self._run = 0
        self._fresh: Any = None
        self._now: Any = None
        self._part: Part | None = None
        self._begun: Part | None = None
        self._cost = 0.0
        self._over = False
        self._before: tuple[int, float] | None = None
        self._chunks: int | None = None
        self._answer: dict[str, Any] = {}
        kept = self._taken_up()
        self._ended: list[Any] = kept.get("ended", [])
        self._left = kept.get("left")
        self._behind: dict[str, Any] | None = kept.get("behind")
        self._origin: Any = None
        self._seconds = float(kept.get("seconds", 0.0))
        self._seed = int(kept.get("seed", secrets.randbits(31)))
        self._is_whole = bool(kept.get("finished", False))
        self._model: Any = None
        if not kept:
            self._write()
        self._tell(status.RUNNING)

    def taken_up(self) -> dict[str, Any]:
        """What another process needs to go on from where this one does."""
        return {
            "ended": list(self._ended),
            "left": self._left,
            "seed": self._seed,
            "finished": self._is_whole,
        }

    # What a climb tells

    def seed(self, random_state: int | None) -> int:
        """The seed of the fit: one that was drawn is the same when it is taken up."""
        return self._seed if random_state is None else random_state

    def entered(self, fresh: Any) -> Any:
        """Where the run that begins at ``fresh`` stands."""
        if self._over:
            return fresh
        self._run += 1
        self._fresh = self._now = fresh
        self._part = self._begun = self._before = None
        if self._is_known():
            self._now = standing.restored(self._ended[self._number() - 1], fresh)
            return self._now
        left, self._left = self._left, None
        if left is None:
            return fresh
        self._now = standing.restored(left["standing"], fresh)
        if left["part"] is not None:
            self._part = self._begun = Part(*left["part"])
        return self._now

    def keep(self, now: Any) -> None:
        """A block of steps has ended, or the run."""
        if self._over or self._is_known():
            return
        self._now, self._part = now, None
        if now.finished:
            self._note_end(now)
            self._write()
        elif self._is_due():
            self._write()
        self._tell_at_times()

    def begun_pass(self) -> Part | None:
        """The pass that was under way, once."""
        begun, self._begun = self._begun, None
        return begun

    def keep_part(self, now: Any, part: Part) -> None:
        """A chunk has been summed."""
        if self._over:
            return
        self._now, self._part = now, part
        self._chunks = max(part.chunks, self._chunks or 0)
        if self._is_due():
            self._write()
        self._tell_at_times()

    def flush(self, now: Any) -> None:
        """Keep this now; what the climb does after an interrupt is not kept."""
        if self._over:
            return
        self._over = True
        if now is not self._now:
            self._now, self._part = now, None
        if now.finished:
            self._note_end(now)
        self._write()

    def went_on(self, fresh: Any) -> tuple[Any, Any]:
        """Where runs that are no longer kept had led, and what was left with that."""
        self._origin, behind = fresh, self._behind
        if behind is None:
            return fresh, None
        self._run = behind["run"]
        return standing.restored(behind["standing"], fresh), behind["tree"]

    def leave(self, now: Any, tree: Any) -> None:
        """Forget the runs up to here but for this; it is written with what comes next."""
        if not self._over:
            led = standing.written(now, self._origin)
            self._behind = {"run": self._run, "standing": led, "tree": tree}
            self._ended = []

    def answered(self, answer: Any) -> None:
        """The fit has ended."""
        bound = float(getattr(answer.bound, "value", answer.bound))
        self._answer = {"sentence": answer.outcome.value, "bound": bound}
        cut = answer.outcome is Outcome.INTERRUPTED
        if not cut and not self._is_whole:
            self._is_whole, self._model = True, _answered_model(answer)
            self._write()
        self._tell(status.INTERRUPTED if cut else status.FINISHED)

    def broken(self, error: BaseException) -> None:
        """The fit has ended without an answer."""
        self._answer = {"sentence": "" if isinstance(error, KeyboardInterrupt) else str(error)}
        cut = isinstance(error, KeyboardInterrupt)
        self._tell(status.INTERRUPTED if cut else status.FAILED)

    # What is written

    def _taken_up(self) -> dict[str, Any]:
        """What an earlier process of this fit has kept."""
        if self._place.overwrite or not (self._place.path / CLIMB).exists():
            return {}
        kept = file.read(self._place.path)
        found = identity.difference(kept["fit"], self._fit)
        if found is None:
            return kept
        name, before, now = found
        raise ValueError(
            f"{str(self._place.directory)!r} holds the checkpoint of another fit: there {name} "
            f"{_was(before, 'was')}, here {_was(now, 'is')}. Give this fit another directory, or "
            "delete that one to begin anew."
        )

    def _number(self) -> int:
        """Which of the runs that are kept this one is."""
        return self._run - (self._behind["run"] if self._behind else 0)

    def _is_known(self) -> bool:
        """Whether this run is kept to its end."""
        return self._number() <= len(self._ended)

    def _note_end(self, now: Any) -> None:
        if not self._is_known():
            self._ended.append(standing.written(now, self._fresh))

    def _is_due(self) -> bool:
        wait = max(self._place.seconds, _SHARE * self._cost) if self._place.seconds else 0.0
        return time.monotonic() - self._written >= wait

    def _write(self) -> None:
        began = time.monotonic()
        body = {
            "fit": self._fit,
            "seed": self._seed,
            "ended": self._ended,
            "left": self._under_way(),
            "behind": self._behind,
            "seconds": self._worked(),
            "finished": self._is_whole,
        }
        kept = status.Kept(self._run, self._step(), self._chunk(), time.time())
        file.write(self._place.path, {"kept": kept._asdict()}, body, self._current_model())
        self._written = time.monotonic()
        self._cost = self._written - began

    def _under_way(self) -> dict[str, Any] | None:
        if self._is_known():
            return self._left
        part = self._part
        sums = None if part is None else jax.tree.leaves(jax.device_get(part.sums))
        return {
            "standing": standing.written(self._now, self._fresh),
            "part": None if part is None else (part.chunks, sums),
        }

    def _current_model(self) -> Any:
        """The best lane's model in the data's units."""
        if self._now is not None and not self._is_whole:
            best = standing.best_model(self._now, self._fresh)
            self._model = self._about.in_data_units(best)
        return self._model

    # What is told

    def _tell_at_times(self) -> None:
        if time.monotonic() - self._told >= _TELLING:
            self._tell(status.RUNNING)

    def _tell(self, state: str) -> None:
        step, bound = self._step(), self._bound()
        gain, before = None, self._before
        rows = self._about.rows
        if before is not None and bound is not None and step > before[0]:
            gain = (bound - before[1]) / max(rows, 1)
        told = status.Told(
            state=state,
            model=self._about.name,
            rows=rows,
            run=self._run,
            step=step,
            bound=bound,
            gain_per_row=gain,
            chunk=self._chunk(),
            chunks=self._chunks,
            seconds=self._worked(),
            process=os.getpid(),
            host=socket.gethostname(),
        )
        status.write(self._place.path, told._replace(**self._answer))
        self._told = time.monotonic()
        self._before = None if bound is None else (step, bound)

    def _worked(self) -> float:
        """Seconds of work in all processes of this fit."""
        return self._seconds + time.monotonic() - self._began

    def _step(self) -> int:
        return 0 if self._now is None else self._now.steps()

    def _chunk(self) -> int | None:
        return None if self._part is None else int(self._part.chunks)

    def _bound(self) -> float | None:
        """The best lane's, in the data's units."""
        if self._now is None:
            return None
        bound = standing.best_bound(self._now)
        return None if bound is None else bound - self._about.log_scale


def _answered_model(answer: Any) -> Any:
    """The model of a fit; of a target's the density."""
    return answer.model if hasattr(answer, "model") else answer.posterior.member


def _was(word: str, verb: str) -> str:
    return f"{verb} {word if len(word) <= 80 else word[:77] + '...'}"
