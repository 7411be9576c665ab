"""Rows that belong together (sequences in order, clusters) in blocks that hold whole groups.

Two layouts. Side by side: groups of about equal length, padded to the longest, so that every
multiple of it starts one. End to end: groups of any length after one another with flags where each
starts, which needs no padding however ragged they are.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jaxtyping import Int

from minorant._types import Affine, Groups
from minorant.data.arrays import ArraySource, Layout, Segment, Table, bucket, segment_of

_BLOCK_ROWS = 1 << 20
_FEWEST_ABREAST = 16
_PADDING = 1.25


def arrange_groups(
    table: Table, units: Affine, dtype: np.dtype, end_to_end: bool = False
) -> tuple[ArraySource, Layout]:
    """The table in ``units``, whole groups in blocks.

    Args:
        table: values, weights (constant inside a group), labels, inputs and the group of each row;
            rows without groups are one sequence.
        units: shift and scale of every column.
        dtype: float type to compute in.
        end_to_end: one block, groups after one another, whatever their lengths.
    """
    n = len(table.values)
    codes = np.zeros(n, dtype=np.int64) if table.groups is None else table.groups
    order = np.argsort(codes, kind="stable")
    lengths = np.bincount(codes)
    if not end_to_end and is_even(lengths):
        slots, groups = _side_by_side(order, lengths)
    else:
        slots, groups = _end_to_end(order, lengths, n if end_to_end else _BLOCK_ROWS)
    kind = "cells" if np.isnan(table.values).any() else "complete"
    segment = _with_groups(segment_of(table, units, dtype, slots, kind), groups)
    total = n if table.weights is None else table.weights.sum()
    source = ArraySource((segment,), np.asarray(total, dtype=dtype))
    return source, Layout((slots.ravel(),), n)


def is_even(lengths: Int[np.ndarray, " g"]) -> bool:
    """Whether padding all groups to the longest costs little."""
    return len(lengths) >= _FEWEST_ABREAST and lengths.max() <= _PADDING * lengths.mean()


def _side_by_side(order: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, Groups]:
    """Slots (blocks, abreast * length) and the groups of each block."""
    length = int(lengths.max())
    abreast = min(bucket(len(lengths)), max(_BLOCK_ROWS // length, 1))
    blocks = -(-len(lengths) // abreast)
    slots = np.full((_even(blocks) * abreast, length), -1, dtype=np.int64)
    inside = np.arange(length) < lengths[:, None]
    slots[: len(lengths)][inside] = order
    taken = slots >= 0
    index = np.broadcast_to(np.arange(len(slots))[:, None] % abreast, slots.shape)
    index = np.where(taken, index, abreast).astype(np.int32)
    start = ~taken
    start[:, 0] = True
    shape = (-1, abreast * length)
    groups = Groups(start.reshape(shape), index.reshape(shape), abreast + 1, length)
    return slots.reshape(shape), groups


def _end_to_end(order: np.ndarray, lengths: np.ndarray, limit: int) -> tuple[np.ndarray, Groups]:
    """Slots (blocks, rows) and the groups of each block."""
    packed = _packed(lengths, limit)
    most = max(int(lengths[first:last].sum()) for first, last in packed)
    rows, count = bucket(most), bucket(max(last - first for first, last in packed) + 1)
    shape = (_even(len(packed)), rows)
    slots = np.full(shape, -1, dtype=np.int64)
    start, index = np.ones(shape, dtype=bool), np.full(shape, count - 1, dtype=np.int32)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    for block, (first, last) in enumerate(packed):
        inside = lengths[first:last]
        size = int(inside.sum())
        slots[block, :size] = order[ends[first] : ends[last]]
        index[block, :size] = np.repeat(np.arange(last - first), inside)
        start[block, :size] = np.diff(index[block, :size], prepend=-1) > 0
    return slots, Groups(start, index, count)


def _packed(lengths: np.ndarray, limit: int) -> list[tuple[int, int]]:
    """Ranges of groups with at most ``limit`` rows each, or one longer group."""
    ranges, first, size = [], 0, 0
    for group, length in enumerate(lengths):
        if size and size + length > limit:
            ranges.append((first, group))
            first, size = group, 0
        size += int(length)
    return [*ranges, (first, len(lengths))]


def _even(blocks: int) -> int:
    """Blocks to hold: the fold takes two a turn unless there is but one."""
    return blocks if blocks == 1 else 2 * bucket(-(-blocks // 2))


def _with_groups(segment: Segment, groups: Groups) -> Segment:
    rows = dataclasses.replace(segment.rows, groups=jax.tree.map(np.asarray, groups))
    return dataclasses.replace(segment, rows=rows)
