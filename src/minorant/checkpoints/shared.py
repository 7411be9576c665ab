"""The journal of processes that fit together: the first one writes, all go on from what it has."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from minorant.checkpoints.journal import About, DirectoryJournal
from minorant.checkpoints.place import Checkpoint, Lock
from minorant.data.company import AbstractCompany
from minorant.journal import Journal


class AgreedJournal(Journal):
    """Keeps nothing; a seed that is drawn is the same for all."""

    def __init__(self, company: AbstractCompany) -> None:
        self._company = company

    def seed(self, random_state: int | None) -> int | None:
        """The first process's seed."""
        drawn = secrets.randbits(31) if random_state is None else random_state
        return self._company.told(drawn)


class Follower(DirectoryJournal):
    """Knows what the first process took up; writes nothing."""

    def __init__(
        self, place: Checkpoint, about: About, fit: dict[str, str], kept: dict[str, Any]
    ) -> None:
        self._kept = kept
        super().__init__(place, about, fit)

    def _taken_up(self) -> dict[str, Any]:
        return self._kept

    def _is_due(self) -> bool:
        return False

    def _write(self) -> None:
        pass

    def _tell(self, state: str) -> None:
        pass


@contextlib.contextmanager
def shared_journal(
    company: AbstractCompany,
    place: Callable[[], Checkpoint | None],
    about: About,
    fit: Callable[[], dict[str, str]],
) -> Iterator[Journal]:
    """The journal of one of several processes.

    Args:
        company: the processes.
        place: where the checkpoint is to be; None for nowhere.
        about: what the fit is of.
        fit: what tells the fit from another; asked for in every process.

    Raises:
        ValueError: when another fit has its checkpoint there, or it is damaged; in all processes.
        OSError: when it cannot be read or written, or other processes climb there; in all.
    """
    where = company.agreed(lambda: place() if company.rank == 0 else None)[0]
    if where is None:
        yield AgreedJournal(company)
        return
    identity = company.agreed(fit)[company.rank]
    with contextlib.ExitStack() as held:

        def lead() -> DirectoryJournal | None:
            if company.rank:
                return None
            held.callback(Lock(where.path).release)
            return DirectoryJournal(where, about, identity)

        own: list[DirectoryJournal | None] = []

        def taken_up() -> dict[str, Any] | None:
            own.append(lead())
            return None if own[0] is None else own[0].taken_up()

        kept: Any = company.agreed(taken_up)[0]
        journal = own[0] or Follower(where, about, identity, kept)
        try:
            yield journal
        except BaseException as error:
            journal.broken(error)
            raise
