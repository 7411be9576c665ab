"""What is written of a stochastic ascent under way: numbers, and the leaves of its points.

Their structure is not written: the same fit builds it again when it enters the same run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minorant.checkpoints.leaves import leaves_of, shaped_as
from minorant.result import Estimate, Outcome
from minorant.solvers._adam import begun
from minorant.solvers._standing import Stage, Standing

_COUNTS = ("taken", "looks", "n_refused", "block")
_NUMBERS = ("raced", "first", "seconds")


def written(now: Standing) -> dict[str, Any]:
    """An ascent under way as a tree of arrays and words."""
    return {
        "best": leaves_of(now.best),
        "best_values": np.asarray(now.best_values),
        "counts": [int(getattr(now, name)) for name in _COUNTS],
        "numbers": [float(getattr(now, name)) for name in _NUMBERS],
        "tried": [(size, height, leaves_of(state)) for size, (height, state) in now.tried.items()],
        "stage": None if now.stage is None else _stage(now.stage),
        "trace": np.asarray(now.trace, dtype=float),
        "end": None if now.end is None else (now.end[0].name, now.end[1]),
        "value": None if now.value is None else tuple(map(float, now.value)),
    }


def restored(tree: dict[str, Any], fresh: Standing) -> Standing:
    """The ascent that was written.

    Raises:
        ValueError: when it is another one.
    """
    like, end, value = begun(fresh.best), tree["end"], tree["value"]
    tried = {size: (tuple(height), shaped_as(like, state)) for size, height, state in tree["tried"]}
    return fresh._replace(
        best=shaped_as(fresh.best, tree["best"]),
        best_values=tree["best_values"],
        tried=tried,
        stage=None if tree["stage"] is None else _restored_stage(tree["stage"], like),
        trace=tuple(tree["trace"].tolist()),
        end=None if end is None else (Outcome[end[0]], end[1]),
        value=None if value is None else Estimate(*value),
        **dict(zip(_COUNTS, tree["counts"], strict=True)),
        **dict(zip(_NUMBERS, tree["numbers"], strict=True)),
    )


def _stage(stage: Stage) -> dict[str, Any]:
    numbers = (stage.step_size, stage.before, stage.gained, stage.latest)
    return {
        "state": leaves_of(stage.state),
        "numbers": [float(number) for number in numbers],
        "calm": stage.calm,
        "history": [np.asarray(values) for values in stage.history],
    }


def _restored_stage(tree: dict[str, Any], like: Any) -> Stage:
    step_size, before, gained, latest = tree["numbers"]
    state, history = shaped_as(like, tree["state"]), tuple(tree["history"])
    return Stage(state, step_size, tree["calm"], history, before, gained, latest)
