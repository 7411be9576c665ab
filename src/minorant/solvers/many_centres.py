"""Where climbs with hundreds or thousands of components start: one k-means on a sample of rows.

Seeds are drawn half in proportion to the squared distance from the seeds so far and half uniformly,
as Blömer & Bujna (2016) adapt k-means++ to mixtures: among thousands of seeds drawn by distance
alone many would be outliers, on which components collapse. Lloyd's steps follow. Scores are formed
for some rows at a time, so memory stays at that of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from minorant.solvers.starts import seeds

_SAMPLE = 150  # rows per component: covariances need several times d
_UNIFORM_SHARE = 0.5
_FEWEST = 10_000
_STEPS = 10
_SCORES = 4_000_000  # formed at a time


def sample_size(n: int, k: int) -> int:
    """Rows that centres are looked for on."""
    return min(n, max(_FEWEST, _SAMPLE * k))


def partition(
    rng: np.random.Generator,
    points: Float[np.ndarray, "m e"],
    weights: Float[np.ndarray, " m"],
    k: int,
) -> Int[np.ndarray, " m"]:
    """A component for every row: k-means, at most ten steps."""
    centres = seeds(rng, points, weights, k, 1, uniform=_UNIFORM_SHARE)[0]
    labels = nearest_centre(points, centres)
    for _ in range(_STEPS):
        centres = _means(points, weights, labels, centres)
        moved = nearest_centre(points, centres)
        if np.array_equal(moved, labels):
            break
        labels = moved
    return labels


def nearest_centre(
    points: Float[np.ndarray, "m e"], centres: Float[np.ndarray, "k e"]
) -> Int[np.ndarray, " m"]:
    """The nearest centre of every row."""
    half = 0.5 * np.einsum("ke,ke->k", centres, centres)
    parts = [np.argmax(rows @ centres.T - half, axis=1) for rows in _parts(points, len(centres))]
    return np.concatenate(parts)


def _parts(points: np.ndarray, k: int) -> Iterator[np.ndarray]:
    size = max(_SCORES // k, 1)
    return (points[start : start + size] for start in range(0, len(points), size))


def _means(
    points: np.ndarray, weights: np.ndarray, labels: np.ndarray, old: np.ndarray
) -> Float[np.ndarray, "k e"]:
    """Weighted means of the rows of each label; the old centre where there are none."""
    count = np.bincount(labels, weights, len(old))[:, None]
    columns = [np.bincount(labels, weights * column, len(old)) for column in points.T]
    return np.where(count > 0, np.stack(columns, 1) / np.maximum(count, 1e-300), old)
