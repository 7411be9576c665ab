"""The time of a certificate: how much is left, and who ended it."""

from __future__ import annotations

import time


class Ended(Exception):  # noqa: N818
    """The time is over, or the user has stopped it: what there is must do."""


class Clock:
    """Seconds that may be spent, looked at between pieces of work."""

    def __init__(self, seconds: float, began: float | None = None) -> None:
        """From now on, or since ``began``."""
        self.seconds = seconds
        self.began = time.perf_counter() if began is None else began
        self.interrupted = False

    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.began

    def left(self, share: float = 1.0) -> float:
        """Seconds left of that share of the time."""
        return share * self.seconds - self.spent()

    def check(self) -> None:
        """Go on while there is time.

        Raises:
            Ended: where there is none.
        """
        if self.interrupted or self.left() < 0:
            raise Ended

    def interrupt(self) -> Ended:
        """The user has stopped it."""
        self.interrupted = True
        return Ended()

    def sentence(self) -> str:
        """Who ended it."""
        if self.interrupted:
            return "It was interrupted, and holds what was known by then."
        return f"The time ({self.seconds:g} s) was over before more could be done."
