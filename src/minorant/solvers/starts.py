"""Where climbs start: many cheap partitions of a subsample, the climb itself decides among them.

Kinds: ``lloyd`` partitions by k-means from seeds drawn as k-means++ draws them (Arthur &
Vassilvitskii, 2007); ``seeded`` by nearest of k seeds drawn half in proportion to the squared
distance from the seeds so far and half uniformly, as Blömer & Bujna (2016) adapt it to mixtures
("Adaptive seeding for Gaussian mixture models"); ``scattered`` by nearest of k random rows;
``random`` draws a component for every row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_SUBSAMPLE_BYTES = 48_000_000
_LLOYD_STEPS = 20
_UNIFORM_SHARE = 0.5


class Starts(NamedTuple):
    """How many starts, and of which kinds (cycled through).

    Args:
        n: number of starts.
        kinds: any of ``"lloyd"``, ``"seeded"``, ``"scattered"``, ``"random"``; of models that
            are started from partitions of the rows.
        n_climbed: how many survive to the climb on all rows.
    """

    n: int = 12
    kinds: tuple[str, ...] = ("lloyd", "lloyd", "lloyd", "seeded")
    n_climbed: int = 2


def subsample_size(n: int, features: int, k: int) -> int:
    """Rows that the short climbs look at: enough for k components, bounded in memory.

    Args:
        n: rows there are.
        features: numbers that a step forms of each row and component.
        k: components.
    """
    limit = _SUBSAMPLE_BYTES // (8 * features)
    return int(min(n, max(1000, 200 * k, 10 * features), max(limit, 50 * k)))


def subsample(
    rng: np.random.Generator, n: int, size: int, weights: Float[np.ndarray, " n"] | None
) -> Int[np.ndarray, " m"]:
    """Row numbers without replacement, in order; rows of weight zero are left out."""
    candidates = np.arange(n) if weights is None else np.flatnonzero(weights > 0)
    if len(candidates) <= size:
        return candidates
    return candidates[subsample_places(rng, len(candidates), size)]


def subsample_places(rng: np.random.Generator, n: int, size: int) -> Int[np.ndarray, " m"]:
    """Places among ``n``, in order, without replacement."""
    return np.arange(n) if n <= size else np.sort(rng.choice(n, size, replace=False))


def subsample_groups(
    rng: np.random.Generator, lengths: Int[np.ndarray, " g"], size: int
) -> Int[np.ndarray, " m"]:
    """Places of whole groups' rows, groups taken end to end; of one longer than ``size`` a stretch.

    Places count the rows of the first group, then those of the second, and so on.
    """
    ends = np.cumsum(lengths)
    if ends[-1] <= size:
        return np.arange(ends[-1])
    chosen, room = [], size
    for group in rng.permutation(len(ends)):
        start, length = int(ends[group] - lengths[group]), int(lengths[group])
        first = int(rng.integers(max(length - room, 0) + 1))
        chosen.append((group, start + np.arange(first, min(first + room, length))))
        room -= len(chosen[-1][1])
        if room <= 0:
            break
    return np.concatenate([rows for _, rows in sorted(chosen, key=lambda pair: pair[0])])


def partitions(
    rng: np.random.Generator,
    points: Float[np.ndarray, "m e"],
    weights: Float[np.ndarray, " m"],
    k: int,
    starts: Starts,
) -> Int[np.ndarray, "starts m"]:
    """A component for every row, one partition for every start."""
    kinds = np.array([starts.kinds[i % len(starts.kinds)] for i in range(starts.n)])
    labels = np.zeros((starts.n, len(points)), dtype=np.int64)
    for kind in dict.fromkeys(starts.kinds):
        chosen = kinds == kind
        if chosen.any():
            labels[chosen] = _PARTITIONS[kind](rng, points, weights, k, int(chosen.sum()))
    return labels


def _lloyd(
    rng: np.random.Generator, points: np.ndarray, weights: np.ndarray, k: int, n: int
) -> np.ndarray:
    return lloyd(points, weights, seeds(rng, points, weights, k, n, uniform=0.0))


def _seeded(
    rng: np.random.Generator, points: np.ndarray, weights: np.ndarray, k: int, n: int
) -> np.ndarray:
    return nearest(points, seeds(rng, points, weights, k, n, uniform=_UNIFORM_SHARE))


def _scattered(
    rng: np.random.Generator, points: np.ndarray, weights: np.ndarray, k: int, n: int
) -> np.ndarray:
    return nearest(points, seeds(rng, points, weights, k, n, uniform=1.0))


def _random(
    rng: np.random.Generator, points: np.ndarray, weights: np.ndarray, k: int, n: int
) -> np.ndarray:
    return rng.integers(0, k, (n, len(points)))


_PARTITIONS = {"seeded": _seeded, "lloyd": _lloyd, "scattered": _scattered, "random": _random}


def seeds(
    rng: np.random.Generator,
    points: Float[np.ndarray, "m e"],
    weights: Float[np.ndarray, " m"],
    k: int,
    n: int,
    uniform: float,
) -> Float[np.ndarray, "n k e"]:
    """``n`` times k rows, drawn one after the other, far rows preferred but for a uniform share.

    Draws by inverse distribution function over the rows' order, so that a row of weight 3 and
    three copies of it lead to the same seeds.
    """
    even = np.broadcast_to(weights / weights.sum(), (n, len(points)))
    chosen = [points[_drawn(rng, even)]]
    closest = _square_distance(points, chosen[0])
    for _ in range(k - 1):
        pull = weights * closest
        total = pull.sum(1, keepdims=True)
        far = np.where(total > 0, pull / np.where(total > 0, total, 1.0), even)
        chosen.append(points[_drawn(rng, uniform * even + (1.0 - uniform) * far)])
        closest = np.minimum(closest, _square_distance(points, chosen[-1]))
    return np.stack(chosen, axis=1)


def lloyd(
    points: Float[np.ndarray, "m e"],
    weights: Float[np.ndarray, " m"],
    centres: Float[np.ndarray, "n k e"],
) -> Int[np.ndarray, "n m"]:
    """Partitions by k-means from several sets of centres at once, at most 20 steps."""
    labels = nearest(points, centres)
    for _ in range(_LLOYD_STEPS):
        member = (labels[:, None, :] == np.arange(centres.shape[1])[:, None]) * weights
        count = member.sum(2, keepdims=True)
        centres = np.where(count > 0, member @ points / np.maximum(count, 1e-300), centres)
        moved = nearest(points, centres)
        if np.array_equal(moved, labels):
            break
        labels = moved
    return labels


def nearest(
    points: Float[np.ndarray, "m e"], centres: Float[np.ndarray, "n k e"]
) -> Int[np.ndarray, "n m"]:
    """The nearest centre of every row, for every set of centres."""
    scores = centres @ points.T - 0.5 * (centres * centres).sum(2, keepdims=True)
    return np.argmax(scores, axis=1)


def _drawn(rng: np.random.Generator, chances: Float[np.ndarray, "n m"]) -> Int[np.ndarray, " n"]:
    cumulative = np.cumsum(chances, axis=1)
    reached = cumulative > rng.random((len(chances), 1)) * cumulative[:, -1:]
    return np.argmax(reached, axis=1)


def _square_distance(points: np.ndarray, chosen: np.ndarray) -> Float[np.ndarray, "n m"]:
    squares = np.einsum("me,me->m", points, points) - 2.0 * (chosen @ points.T)
    return np.maximum(squares + np.einsum("ne,ne->n", chosen, chosen)[:, None], 0.0)
