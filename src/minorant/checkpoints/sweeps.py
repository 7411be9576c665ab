"""What is written of steps on parts of the rows: numbers, and the leaves of models and statistics.

Their structure is not written: the same fit builds it again when it enters the same run.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from minorant.solvers.stepwise import Sweep


def written(now: Sweep) -> dict[str, Any]:
    """Steps under way as a tree of arrays and numbers."""
    return {
        "models": _leaves(now.models),
        "end": None if now.end is None else _leaves(now.end),
        "sums": [_leaves(statistics) for statistics in now.sums],
        "kept": [_leaves(statistics) for statistics in now.kept],
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
        models=_like(fresh.models, tree["models"]),
        end=None if tree["end"] is None else _like(fresh.models, tree["end"]),
        sums=tuple(_like(like, leaves) for leaves in tree["sums"]),
        kept=tuple(_like(like, leaves) for leaves in tree["kept"]),
        weight=tree["weight"],
        turn=turn,
        place=tuple(place),
        taken=taken,
        finished=tree["finished"],
    )


def _leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def _like(like: Any, leaves: list[np.ndarray]) -> Any:
    structure = jax.tree.structure(like)
    if structure.num_leaves != len(leaves):
        raise ValueError(
            f"The checkpoint holds {len(leaves)} arrays where this fit has {structure.num_leaves}: "
            "it was written by another fit. Delete it to begin anew."
        )
    return jax.tree.unflatten(structure, leaves)
