"""What a climb tells so that it can be taken up again; here, by default, nobody listens.

A fit is a fixed sequence of runs of the loop (short climbs on a sample, the climb on all rows, the
climb after a remedy). A journal numbers the runs in the order they are entered. What it has kept
of a run is given back when the run of that number is entered again: a run that had ended is not
climbed again, one that was under way goes on from there. All else follows from the seed.
"""

from __future__ import annotations

from typing import Any

from minorant.data import Part


class Journal:
    """Keeps nothing."""

    def seed(self, random_state: int | None) -> int | None:
        """The seed of the fit: a climb that is taken up needs the one it began with."""
        return random_state

    def entered(self, standing: Any) -> Any:
        """Where the run that begins at ``standing`` stands: there, or where it was left."""
        return standing

    def keep(self, standing: Any) -> None:
        """A block of steps has ended, or with ``standing.finished`` the run."""

    def begun_pass(self) -> Part | None:
        """The pass that was under way where the last run entered was left."""
        return None

    def keep_part(self, standing: Any, part: Part) -> None:
        """A chunk has been summed."""

    def flush(self, standing: Any) -> None:
        """Keep this now: the climb is being interrupted."""

    def went_on(self, fresh: Any) -> tuple[Any, Any]:
        """Where runs that are no longer kept had led, and what was left with that.

        Args:
            fresh: where the first of them begins.

        Returns:
            A standing and a tree, as :meth:`leave` was told them; ``fresh`` and None where nothing
            was left.
        """
        return fresh, None

    def leave(self, standing: Any, tree: Any) -> None:
        """What follows depends on the runs up to here by this alone: they need not be kept.

        Args:
            standing: where they have led.
            tree: what else is needed: numbers, arrays and words.
        """

    def answered(self, answer: Any) -> None:
        """The fit has ended."""
