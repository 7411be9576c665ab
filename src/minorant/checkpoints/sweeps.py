"""What is written of steps on parts of the rows: numbers, and the leaves of models and statistics.

Their structure is not written: the same fit builds it again when it enters the same run.
"""

from __future__ import annotations

from typing import Any

from minorant.checkpoints.leaves import leaves_of, shaped_as
from minorant.solvers.stepwise import Sweep


def written(now: Sweep) -> dict[str, Any]:
    """Steps under way as a tree of arrays and numbers."""
    return {
        "models": leaves_of(now.models),
        "end": None if now.end is None else leaves_of(now.end),
        "sums": [leaves_of(statistics) for statistics in now.sums],
        "kept": [leaves_of(statistics) for statistics in now.kept],
        "weight": float(now.weight),
        "counts": [now.turn, *now.place, now.taken],
        "finished": now.finished,
    }


def restored(tree: dict[str, Any], fresh: Sweep) -> Sweep:
    """The steps that were written.

    Raises:
        ValueError: when they are others.
    """
    like = fresh.like() if tree["sums"] or tree["kept"] else None
    turn, *place, taken = tree["counts"]
    return fresh._replace(
        models=shaped_as(fresh.models, tree["models"]),
        end=None if tree["end"] is None else shaped_as(fresh.models, tree["end"]),
        sums=tuple(shaped_as(like, leaves) for leaves in tree["sums"]),
        kept=tuple(shaped_as(like, leaves) for leaves in tree["kept"]),
        weight=tree["weight"],
        turn=turn,
        place=tuple(place),
        taken=taken,
        finished=tree["finished"],
    )
