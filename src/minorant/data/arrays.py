"""Rows in memory: standardised once into padded blocks, folded in one compiled loop.

Complete rows go into large blocks. For components that factor matrices, rows with missing cells are
sorted by what is cheapest: those that miss few cells into blocks that name each row's missing
columns; those of a pattern that many rows share, or that miss many cells, into blocks of one
pattern (one factorisation serves the block); what is left into blocks with a mask for every cell.
Other components take masks for every cell. Capacities are rounded up to buckets so that tables of
similar length share one compiled program; a dynamic trip count keeps the rounding from costing
work. Two blocks are taken per turn: they do not depend on each other, so the elementwise work of
one runs beside the matrix product of the other.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant import _linalg
from minorant._types import Affine, Array, PyTree, Rows
from minorant.data.base import AbstractSource, BlockFunction

_BLOCK_BYTES = 2_200_000
_DEVICE_BLOCK_BYTES = 256_000_000  # so that a kernel computes for longer than it takes to launch
_FEW_ROWS = 8
_MANY_ROWS = 128
_FEW_CELLS = 4


class Segment(eqx.Module):
    """Blocks of equal shape; every leaf of ``rows`` has the leading axes (blocks, rows).

    ``n_blocks`` are in use, an even number unless there is but one.
    """

    rows: Rows
    n_blocks: Int[Array, ""]

    def capacity(self) -> int:
        """How many blocks the arrays hold, used or not."""
        return self.rows.weight.shape[0]

    def fold(self, function: BlockFunction, parameters: PyTree) -> PyTree:
        """The sum over the used blocks; compensated below float64."""
        if self.capacity() == 1:
            return function(parameters, _block(self.rows, 0))
        shape = jax.eval_shape(function, parameters, _block(self.rows, 0))
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
        if all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(zero)):
            return self._plain(function, parameters, zero)
        return self._compensated(function, parameters, zero)

    def _plain(self, function: BlockFunction, parameters: PyTree, zero: PyTree) -> PyTree:
        def add(turn: Array, total: PyTree) -> PyTree:
            for index in (2 * turn, 2 * turn + 1):
                term = function(parameters, _block(self.rows, index))
                total = jax.tree.map(jnp.add, total, term)
            return total

        return jax.lax.fori_loop(0, self.n_blocks // 2, add, zero)

    def _compensated(self, function: BlockFunction, parameters: PyTree, zero: PyTree) -> PyTree:
        def add(turn: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            for index in (2 * turn, 2 * turn + 1):
                carry = _linalg.two_sum(*carry, function(parameters, _block(self.rows, index)))
            return carry

        total, tail = jax.lax.fori_loop(0, self.n_blocks // 2, add, (zero, zero))
        return jax.tree.map(jnp.add, total, tail)

    def map(self, function: BlockFunction, parameters: PyTree) -> PyTree:
        """Per-row results, leading axis (blocks * rows)."""
        mapped = jax.lax.map(lambda rows: function(parameters, rows), self.rows)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), mapped)


class ArraySource(AbstractSource):
    """A table in memory, in standardised units, as segments of blocks."""

    segments: tuple[Segment, ...]
    total_weight: Float[Array, ""]

    def n_rows(self) -> Float[Array, ""]:
        """The sum of the weights."""
        return self.total_weight

    def shape(self) -> tuple[int, int]:
        """Rows, padding included, and columns."""
        rows = sum(segment.rows.weight.size for segment in self.segments)
        return rows, self.segments[0].rows.values.shape[-1]

    def fold(self, function: BlockFunction, parameters: PyTree) -> PyTree:
        """The sum of ``function(parameters, rows)`` over all blocks."""
        totals = [segment.fold(function, parameters) for segment in self.segments]
        result = totals[0]
        for total in totals[1:]:
            result = jax.tree.map(jnp.add, result, total)
        return result

    def map(self, function: BlockFunction, parameters: PyTree) -> tuple[PyTree, ...]:
        """Per-row results of every segment, in slot order (see :class:`Layout`)."""
        return tuple(segment.map(function, parameters) for segment in self.segments)


class Layout(NamedTuple):
    """Which row of the table sits in which slot of which segment; -1 for padding."""

    slots: tuple[Int[np.ndarray, " m"], ...]
    n_rows: int

    def restore(self, results: tuple[Array, ...]) -> np.ndarray:
        """Per-slot results of every segment as one array in the table's order."""
        first = np.asarray(results[0])
        if len(results) == 1 and _in_order(self.slots[0], self.n_rows):
            return first[: self.n_rows]
        out = np.empty((self.n_rows, *first.shape[1:]), dtype=first.dtype)
        for slot, result in zip(self.slots, results, strict=True):
            used = slot >= 0
            out[slot[used]] = np.asarray(result)[used]
        return out


class Table(NamedTuple):
    """A checked table: float cells with NaN where missing; what else there is of each row, or None.

    ``groups`` numbers from 0 what belongs together, in order of appearance; ``inputs`` are known
    covariates.
    """

    values: Float[np.ndarray, "n d"]
    weights: Float[np.ndarray, " n"] | None = None
    labels: Int[np.ndarray, " n"] | None = None
    groups: Int[np.ndarray, " n"] | None = None
    inputs: Float[np.ndarray, "n m"] | None = None

    def take(self, index: Int[np.ndarray, " m"]) -> Table:
        """Some of the rows, groups renumbered."""
        parts = [None if field is None else field[index] for field in self]
        if parts[3] is not None:
            parts[3] = np.unique(parts[3], return_inverse=True)[1].ravel()
        return Table(*parts)  # pyright: ignore[reportArgumentType]


def arrange(
    table: Table,
    units: Affine,
    dtype: np.dtype,
    shares_patterns: bool,
    block_rows: int | None = None,
) -> tuple[ArraySource, Layout]:
    """The table in ``units``, cut into segments of blocks.

    Args:
        table: values (n, d) with NaN where missing, weights and labels.
        units: shift and scale of every column, applied in float64 before rounding to ``dtype``.
        dtype: float type to compute in.
        shares_patterns: block rows that miss the same cells together.
        block_rows: rows per block; None for the rule measured in ``benchmarks/``.
    """
    block_rows = block_rows or rows_per_block(table.values.shape[1], np.dtype(dtype).itemsize)
    pieces = _pieces(table.values, shares_patterns, block_rows)
    segments = [segment_of(table, units, dtype, slots, kind) for slots, kind in pieces]
    total = len(table.values) if table.weights is None else table.weights.sum()
    source = ArraySource(tuple(segments), np.asarray(total, dtype=dtype))
    return source, Layout(tuple(slots.ravel() for slots, _ in pieces), len(table.values))


def rows_per_block(n_columns: int, itemsize: int) -> int:
    """Rows whose quadratic features take about 2 MB, the size measured to be fastest on CPUs.

    On other devices 256 MB, which has not been measured.
    """
    features = n_columns * (n_columns + 3) // 2
    if jax.default_backend() != "cpu":
        rows = _DEVICE_BLOCK_BYTES / (features * itemsize)
        return int(2 ** np.clip(np.floor(np.log2(rows)), 8, 20))
    rows = _BLOCK_BYTES / (features * itemsize)
    return int(2 ** np.clip(np.round(np.log2(rows)), 8, 12 if itemsize == 8 else 13))


def bucket(length: int) -> int:
    """The length rounded up to three leading binary digits after the first: at most 12.5% more."""
    if length <= 8:
        return max(length, 1)
    step = 1 << (int(length).bit_length() - 4)
    return -(-length // step) * step


def _pieces(
    values: np.ndarray, shares_patterns: bool, block_rows: int
) -> list[tuple[np.ndarray, str]]:
    """(slots (blocks, rows), kind): "complete", "absent", "pattern" or "cells"."""
    missing = np.isnan(values)
    incomplete = missing.any(1)
    if not incomplete.any():
        return [(_slots(np.arange(len(values)), block_rows), "complete")]
    if not shares_patterns:
        return [(_slots(np.arange(len(values)), block_rows), "cells")]
    pieces = []
    if not incomplete.all():
        pieces.append((_slots(np.flatnonzero(~incomplete), block_rows), "complete"))
    return pieces + _pattern_pieces(np.flatnonzero(incomplete), missing)


def _pattern_pieces(index: np.ndarray, missing: np.ndarray) -> list[tuple[np.ndarray, str]]:
    packed = np.packbits(missing[index], axis=1)
    _, pattern, count = np.unique(packed, axis=0, return_inverse=True, return_counts=True)
    pattern = pattern.ravel()
    common = count[pattern]
    few = (missing[index].sum(1) <= _FEW_CELLS) & (common < _MANY_ROWS)
    shared = ~few & (common >= _FEW_ROWS)
    rest = ~few & ~shared
    pieces = []
    if few.any():
        pieces.append((_slots(index[few], 512), "absent"))
    if shared.any():
        size = int(2 ** np.clip(np.round(np.log2(np.median(common[shared]))), 3, 7))
        pieces.append((_pattern_slots(index[shared], pattern[shared], size), "pattern"))
    if rest.any():
        pieces.append((_slots(index[rest], 256), "cells"))
    return pieces


def _slots(index: np.ndarray, block_rows: int) -> np.ndarray:
    """Row numbers in blocks, -1 for padding; one short block where they fit in one."""
    if len(index) <= block_rows:
        block_rows = bucket(len(index))
    slots = np.full(_capacity(-(-len(index) // block_rows)) * block_rows, -1, dtype=np.int64)
    slots[: len(index)] = index
    return slots.reshape(-1, block_rows)


def _capacity(blocks: int) -> int:
    """Blocks to hold: a bucket, even unless it is one."""
    return 1 if blocks == 1 else 2 * bucket(-(-blocks // 2))


def _pattern_slots(index: np.ndarray, pattern: np.ndarray, size: int) -> np.ndarray:
    order = np.argsort(pattern, kind="stable")
    blocks = []
    for rows in np.split(index[order], np.flatnonzero(np.diff(pattern[order])) + 1):
        padded = np.full(-(-len(rows) // size) * size, -1, dtype=np.int64)
        padded[: len(rows)] = rows
        blocks.append(padded.reshape(-1, size))
    used = np.concatenate(blocks)
    slots = np.full((_capacity(len(used)), size), -1, dtype=np.int64)
    slots[: len(used)] = used
    return slots


def segment_of(
    table: Table, units: Affine, dtype: np.dtype, slots: np.ndarray, kind: str
) -> Segment:
    """One segment: the rows named in ``slots`` (blocks, rows), -1 for padding."""
    shape = slots.shape
    taken = (slots >= 0).ravel()
    values = _standardised(table.values, units, dtype, slots)
    observed = None
    if kind != "complete":
        observed = ~np.isnan(values)
        observed[~taken.reshape(shape)] = True
        values[~observed] = 0.0
        observed = observed[:, :1] if kind == "pattern" else observed
    weight = taken.astype(dtype)
    if table.weights is not None:
        weight[taken] = table.weights[slots.ravel()[taken]]
    absent = None if observed is None or kind != "absent" else _absent(observed)
    labels = _labels(table.labels, slots)
    inputs = None if table.inputs is None else _inputs(table.inputs, slots, dtype)
    rows = Rows(values, weight.reshape(shape), observed, labels, absent, None, inputs)
    used = int((slots[:, 0] >= 0).sum())
    return Segment(rows, np.asarray(min(used + used % 2, len(slots)), dtype=np.int32))


def _absent(observed: np.ndarray) -> Int[np.ndarray, "blocks n p"]:
    """The columns that every row misses, -1 where it misses fewer than the most of any row."""
    most = int((~observed).sum(-1).max())
    order = np.argsort(observed, axis=-1, kind="stable")[..., :most]
    there = np.take_along_axis(observed, order, axis=-1)
    return np.where(there, -1, order).astype(np.int32)


def _standardised(
    values: np.ndarray, units: Affine, dtype: np.dtype, slots: np.ndarray
) -> np.ndarray:
    n, d = values.shape
    out = aligned_zeros((slots.size, d), dtype)
    if _in_order(slots.ravel(), n):
        for start in range(0, n, 1 << 14):
            stop = min(start + (1 << 14), n)
            out[start:stop] = units.apply(values[start:stop])
    else:
        taken = slots.ravel() >= 0
        out[taken] = units.apply(values[slots.ravel()[taken]])
    return out.reshape(*slots.shape, d)


def _inputs(inputs: np.ndarray, slots: np.ndarray, dtype: np.dtype) -> np.ndarray:
    taken = np.where(slots >= 0, slots, 0)
    return np.where((slots >= 0)[..., None], inputs[taken], 0.0).astype(dtype)


def _labels(labels: np.ndarray | None, slots: np.ndarray) -> np.ndarray | None:
    if labels is None:
        return None
    taken = np.where(slots >= 0, slots, 0)
    return np.where(slots >= 0, labels[taken], -1).astype(np.int32)


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros on a 64-byte boundary: the compiled code then reads them in place."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def _in_order(slots: np.ndarray, n: int) -> bool:
    return len(slots) >= n and slots[n - 1] == n - 1 and bool(np.all(slots[:n] == np.arange(n)))


def _block(rows: Rows, index: Array | int) -> Rows:
    def take(leaf: Array) -> Array:
        return jax.lax.dynamic_index_in_dim(leaf, index, 0, keepdims=False)

    return jax.tree.map(take, rows)
