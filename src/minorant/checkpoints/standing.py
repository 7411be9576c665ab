"""What is written of a climb under way: numbers, and how its structure has changed since it began.

The structure of a climb (which classes its states are made of) is not written: the same fit builds
it again when it enters the same run. Written are the leaves and what differs from the state that
the run began with, which is the numerical form of components. So a model of a user's own classes
and functions can be taken up without pickle.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from minorant import _trees as trees
from minorant.checkpoints import ascents, sweeps
from minorant.checkpoints.leaves import leaves_of, shaped_as
from minorant.solvers._standing import Standing as Ascending
from minorant.solvers.stepwise import Sweep

Place = tuple[str | int, ...]


def written(standing: Any, fresh: Any) -> dict[str, Any]:
    """A run under way as a tree of arrays and words.

    Args:
        standing: a ``climbing.Standing``, or that of a stochastic ascent.
        fresh: the one that its run began with.
    """
    if isinstance(standing, Ascending):
        return ascents.written(standing)
    if isinstance(standing, Sweep):
        return sweeps.written(standing)
    ended = standing.ended
    return {
        "lanes": _lanes(standing.lanes, fresh.lanes),
        "ended": None if ended is None else _lanes(ended, fresh.lanes),
        "judged": np.asarray(standing.judged),
        "finished": bool(standing.finished),
    }


def restored(tree: dict[str, Any], fresh: Any) -> Any:
    """The standing that was written.

    Raises:
        ValueError: when the run that is entered is another one.
    """
    if isinstance(fresh, Ascending):
        return ascents.restored(tree, fresh)
    if isinstance(fresh, Sweep):
        return sweeps.restored(tree, fresh)
    ended = tree["ended"]
    return fresh._replace(
        lanes=_restored_lanes(tree["lanes"], fresh.lanes),
        ended=None if ended is None else _restored_lanes(ended, fresh.lanes),
        judged=tree["judged"],
        finished=tree["finished"],
    )


def best_model(standing: Any, fresh: Any) -> Any:
    """The best start's model, in the units it is computed in."""
    if isinstance(standing, Ascending):
        return standing.model()
    if isinstance(standing, Sweep):
        return jax.tree.map(lambda leaf: leaf[0], standing.models)
    lanes = standing.all_lanes(fresh.lanes.starts)
    return lanes.model(int(np.argmax(lanes.objective())))


def best_bound(standing: Any) -> float | None:
    """The best start's bound, in the units it is computed in; None where it has none yet."""
    if isinstance(standing, Ascending):
        return standing.bound()
    if isinstance(standing, Sweep):
        return None  # a step on a part knows no bound of all rows
    lanes = standing.lanes
    bound = float(np.asarray(lanes.state.bound)[int(np.argmax(lanes.objective()))])
    return bound if np.isfinite(bound) else None


def _lanes(lanes: Any, fresh: Any) -> dict[str, Any]:
    changes = [(list(place), value) for place, value in _changes(fresh.state, lanes.state)]
    return {
        "leaves": leaves_of(lanes.state),
        "changes": changes,
        "traces": [np.concatenate(trace) if trace else None for trace in lanes.traces],
        "starts": list(lanes.starts),
    }


def _restored_lanes(tree: dict[str, Any], fresh: Any) -> Any:
    shaped = fresh.state
    for place, value in tree["changes"]:
        shaped = _changed(shaped, tuple(place), value)
    return fresh._replace(
        state=shaped_as(shaped, tree["leaves"]),
        traces=tuple([] if trace is None else [trace] for trace in tree["traces"]),
        starts=tuple(tree["starts"]),
    )


def _changes(old: Any, new: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Where two trees differ in anything but their arrays, and what the new one has there."""
    if old is new or (_is_array(old) and _is_array(new)):
        return
    parts = _parts(new) if type(old) is type(new) else None
    if parts is None or len(parts) != len(_parts(old) or {}):
        if not _is_equal(old, new):
            yield place, new
        return
    before = _parts(old) or {}
    for name, value in parts.items():
        yield from _changes(before[name], value, (*place, name))


def _parts(node: Any) -> dict[Any, Any] | None:
    """The fields, items or entries of a node; None of what has none."""
    names = trees.field_names(type(node))
    if names is not None:
        return {name: getattr(node, name) for name in names}
    if isinstance(node, tuple | list):
        return dict(enumerate(node))
    return dict(node) if isinstance(node, dict) else None


def _changed(node: Any, place: Place, value: Any) -> Any:
    """A tree with another value at one place."""
    if not place:
        return value
    name, *rest = place
    fresh = _changed(_parts_of(node)[name], tuple(rest), value)
    if isinstance(name, str) and hasattr(node, "_replace"):
        return node._replace(**{name: fresh})
    if isinstance(node, tuple | list):
        return type(node)(fresh if i == name else item for i, item in enumerate(node))
    if isinstance(node, dict):
        return {**node, name: fresh}
    altered = copy.copy(node)
    object.__setattr__(altered, str(name), fresh)
    return altered


def _parts_of(node: Any) -> dict[Any, Any]:
    return _parts(node) or {}


def _is_array(node: Any) -> bool:
    return isinstance(node, np.ndarray | np.generic | jax.Array)


def _is_equal(old: Any, new: Any) -> bool:
    try:
        return type(old) is type(new) and bool(old == new)
    except Exception:  # whatever a class of the user's makes of ==
        return False
