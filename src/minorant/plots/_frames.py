"""The frames of the EM animation as numbers: which q, which place on the path, for how long.

E-step t: theta stays, q goes from ``q_{t-1}`` to ``q_t``, and the bound rises until it touches the
curve. M-step t: q stays, theta goes along the path to ``theta_{t+1}``, up the bound. Every bound
drawn on the way is the true bound of the q of that frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from minorant.plots._path import EMPath

_HOLD, _MOVE, _END = 500, 70, 3000  # milliseconds


class Frame(NamedTuple):
    """One frame.

    Attributes:
        phase: "start", "E", "M" or "end".
        t: which step.
        place: index into the path's grid.
        q: (k, n) responsibilities.
        bound: (g,) the bound of q along the path, nats per row.
        milliseconds: how long it is shown.
        is_key: whether a step ends here.
    """

    phase: str
    t: int
    place: int
    q: Float[np.ndarray, "k n"]
    bound: Float[np.ndarray, " g"]
    milliseconds: int
    is_key: bool


def frames(path: EMPath, n_expectation: int = 3, n_maximisation: int = 6) -> Iterator[Frame]:
    """All frames in order.

    Args:
        path: the climb.
        n_expectation: frames of an E-step.
        n_maximisation: frames of an M-step.
    """
    last = len(path.iterates) - 1
    first = path.responsibilities[0], path.bounds[0]
    yield Frame("start", 0, int(path.iterates[0]), *first, 3 * _HOLD, True)
    for t in range(last):
        yield from _maximisation(path, t, n_maximisation)
        yield from _expectation(path, t + 1, n_expectation)
    end = path.responsibilities[last], path.bounds[last]
    yield Frame("end", last, int(path.iterates[last]), *end, _END, True)


def _expectation(path: EMPath, t: int, n: int) -> Iterator[Frame]:
    for share in _eased(n):
        milliseconds = _HOLD if share == 1.0 else _MOVE
        place = int(path.iterates[t])
        yield Frame("E", t, place, *path.between(t, share), milliseconds, share == 1.0)


def _maximisation(path: EMPath, t: int, n: int) -> Iterator[Frame]:
    begin, end = path.iterates[t : t + 2]
    for share in _eased(n):
        place = int(round(begin + share * (end - begin)))
        milliseconds = _HOLD if share == 1.0 else _MOVE
        q, bound = path.responsibilities[t], path.bounds[t]
        yield Frame("M", t, place, q, bound, milliseconds, share == 1.0)


def _eased(n: int) -> list[float]:
    """From just above 0 to 1, slow at both ends."""
    u = np.arange(1, n + 1) / n
    return [float(v) for v in u * u * (3.0 - 2.0 * u)]
