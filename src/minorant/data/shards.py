"""A JAX array spread over devices, as chunks that stay where their rows are."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from minorant.data.arrays import Table
from minorant.data.company import Device
from minorant.data.cutting import bytes_of
from minorant.data.in_chunks import ArrayChunks
from minorant.data.on_worker import count_of
from minorant.data.sharded import AbstractPlacedChunks, Devices


class ShardedChunks(AbstractPlacedChunks):
    """The rows of an array that is sharded along its first axis.

    Every shard is cut into chunks of its own, by the process that holds it. All processes have to
    make these chunks, and to ask the same of them.

    Args:
        values: (n, d) numbers, NaN where missing, in whole rows on every device.
        weights: (n,) row weights: sharded alike, or an array of NumPy that all processes have.
        labels: (n,) known components, -1 or NaN where unknown; likewise.
        groups: (n,) what belongs together; likewise. A group is on one device.
        inputs: (n, m) known covariates; likewise.
        memory: bytes that a process may take, as a number or ``"2GB"``; smaller chunks.
        empty_rows: let rows without any observed cell through.

    Raises:
        ValueError: for rows that are cut over devices, arrays of another length or sharding, and
            groups on two devices.
    """

    def __init__(  # noqa: PLR0913
        self,
        values: Float[jax.Array, "n d"],
        *,
        weights: Any = None,
        labels: Any = None,
        groups: Any = None,
        inputs: Any = None,
        memory: int | str | None = None,
        empty_rows: bool = False,
    ) -> None:
        self._starts, owners = _layout(values)
        self.engine = Devices(owners)
        self._places = tuple(self.engine.devices.index(owner) for owner in owners)
        self.memory = bytes_of(memory)
        sides = {"weights": weights, "labels": labels, "groups": groups, "inputs": inputs}
        given = {name: side for name, side in sides.items() if side is not None}
        own = [k for k, owner in enumerate(owners) if owner.process_index == jax.process_index()]

        def cut() -> dict[int, tuple[int, np.ndarray]]:
            for shard in own:
                part = slice(self._starts[shard], self._starts[shard + 1])
                beside = {
                    name: _here(side, name, part, len(values)) for name, side in given.items()
                }
                self._parts[shard] = _Shard(
                    part.start, _here(values, "data", part, len(values)), **beside,
                    memory=memory, empty_rows=empty_rows,
                )  # fmt: skip
            return {shard: (count_of(one).count() or 0, one.groups()) for shard, one in
                    self._parts.items()}  # fmt: skip

        self._parts: dict[int, Any] = {}
        found: dict[int, tuple[int, np.ndarray]] = {}
        for told in self.engine.company.agreed(cut):
            found.update(told)
        _check_apart([found[shard][1] for shard in range(len(owners))], self._starts)
        self._firsts = np.cumsum([0] + [found[shard][0] for shard in range(len(owners))]).tolist()
        self._like = self._parts[own[0]]

    @property
    def names(self) -> tuple[str, ...]:
        """``column 0``, ``column 1`` and so on."""
        return self._like.names

    @property
    def dtype(self) -> str:
        """``"float32"`` where the array is; else ``"float64"``."""
        return self._like.dtype

    def places(self) -> tuple[int, ...]:
        """For every chunk the number of its device, among those of the engine."""
        lengths = np.diff(self._firsts).tolist()
        return tuple(k for k, n in zip(self._places, lengths, strict=True) for _ in range(n))

    def read(self, first: int = 0) -> Iterator[Table]:
        """The chunks in order, from number ``first``; those of other processes cannot be read.

        Raises:
            ValueError: at a chunk of another process.
        """
        for shard in range(len(self._places)):
            begun = max(first - self._firsts[shard], 0)
            if begun >= self._firsts[shard + 1] - self._firsts[shard]:
                continue
            if shard not in self._parts:
                raise ValueError(
                    f"Rows from {self._starts[shard]} on are with another process: ask each "
                    "process about the rows that it has."
                )
            yield from self._parts[shard].read(begun)

    def count(self) -> int:
        """How many chunks there are."""
        return self._firsts[-1]

    def identity(self) -> str:
        """A digest of all cells; all processes have to ask for it."""
        own = {shard: part.identity() for shard, part in self._parts.items()}
        told = self.engine.company.gathered(own)
        found = sorted(pair for one in told for pair in one.items())
        return hashlib.sha256(repr(found).encode()).hexdigest()

    def with_empty_rows(self) -> ShardedChunks:
        """The same chunks, rows without any observed cell let through."""
        other = copy.copy(self)
        other._parts = {shard: part.with_empty_rows() for shard, part in self._parts.items()}
        return other


class _Shard(ArrayChunks):
    """The rows on one device."""

    def __init__(self, start: int, values: np.ndarray, **options: Any) -> None:
        """Rows from number ``start`` on."""
        self.start = start
        super().__init__(values, **options)

    def at_row(self, row: int) -> str:
        """Where a row is, in words."""
        return super().at_row(self.start + row)

    def read(self, first: int = 0) -> Iterator[Table]:
        """The chunks from number ``first``; all may weigh nothing, where other shards do."""
        return self._cutter.unweighed(self._pieces, first)

    def groups(self) -> np.ndarray:
        """The groups that the rows are of."""
        return np.unique(self._single.get("groups", np.empty(0, np.int64)))


def _layout(values: jax.Array) -> tuple[list[int], list[Device]]:
    """Where shards begin, and one after the last; and the first device that has each."""
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            "data must be a table of n rows and d columns, both at least 1; got shape "
            f"{values.shape}."
        )
    n, d = values.shape
    first: dict[int, Device] = {}
    for device, (rows, columns) in values.sharding.devices_indices_map(values.shape).items():
        if columns.indices(d) != (0, d, 1):
            raise ValueError(
                "Columns of data are on several devices: shard rows only, "
                "jax.device_put(data, NamedSharding(mesh, PartitionSpec('rows')))."
            )
        start = rows.indices(n)[0]
        if start not in first or device.id < first[start].id:
            first[start] = device
    starts = sorted(first)
    return [*starts, n], [first[start] for start in starts]


def _here(array: Any, name: str, part: slice, n: int) -> np.ndarray:
    """Some rows of what is sharded alike, or of what every process has whole."""
    if len(array) != n:
        raise ValueError(f"{name} must have one entry per row of data, {n}; got {len(array)}.")
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array[part])
    for shard in array.addressable_shards:
        if shard.index[0].indices(n) == part.indices(n):
            return np.asarray(shard.data)
    raise ValueError(
        f"{name} must be sharded as data is: its rows from {part.start} to {part.stop} are not in "
        "this process."
    )


def _check_apart(groups: list[np.ndarray], starts: list[int]) -> None:
    """Raise ValueError for a group on two devices."""
    seen: dict[Any, int] = {}
    for shard, found in enumerate(groups):
        for group in found.tolist():
            if group in seen:
                raise ValueError(
                    f"Group {group!r} has rows on two devices, in the shards that begin at rows "
                    f"{starts[seen[group]]} and {starts[shard]}: put all rows of a group on one."
                )
            seen[group] = shard
