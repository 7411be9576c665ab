"""Blocks of many chunks as one source that lies on a device: few segments, each one loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from minorant.data.arrays import ArraySource, Segment
from minorant.data.company import Device


def resident(sources: Iterable[ArraySource], device: Device) -> ArraySource:
    """The sources end to end, on a device.

    Segments of one shape become one. Which row is in which slot is forgotten: this is for sums.

    Args:
        sources: blocks of chunks, at least one.
        device: where they are to lie.
    """
    alike: dict[Any, list[Segment]] = {}
    weight: Any = 0.0
    for source in sources:
        weight = weight + np.asarray(source.total_weight)
        for segment in source.segments:
            alike.setdefault(_shape(segment), []).append(jax.tree.map(np.asarray, segment))
    merged = []
    for kind in list(alike):
        merged.append(jax.device_put(_end_to_end(alike.pop(kind)), device))
    return ArraySource(tuple(merged), np.asarray(weight))


def weightless(source: ArraySource) -> ArraySource:
    """The first block of a source, in memory, with rows that weigh nothing."""
    rows = jax.tree.map(lambda leaf: np.array(leaf[:1]), source.segments[0].rows)
    rows.weight[:] = 0
    one = Segment(rows, np.asarray(1, np.int32))
    return ArraySource((one,), np.zeros_like(np.asarray(source.total_weight)))


def _shape(segment: Segment) -> Any:
    """What segments that can be joined have in common."""
    leaves, structure = jax.tree.flatten(segment.rows)
    return structure, tuple((np.shape(leaf)[1:], np.asarray(leaf).dtype.str) for leaf in leaves)


def _end_to_end(segments: list[Segment]) -> Segment:
    """One segment of the blocks in use; an odd one is followed by one that weighs nothing."""
    used = [int(segment.n_blocks) for segment in segments]
    rows = jax.tree.map(
        lambda *leaves: np.concatenate([leaf[:n] for leaf, n in zip(leaves, used, strict=True)]),
        *(segment.rows for segment in segments),
    )
    count = sum(used)
    if count % 2 and count > 1:
        rows = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[-1:]]), rows)
        rows.weight[-1] = 0  # an array of its own: it was just joined
        count += 1
    return Segment(rows, np.asarray(count, np.int32))
