"""Processes that fit together: what each has is summed over all of them, or told to all.

Every process runs the same program on rows of its own, and comes to the same sums, so that all
take the same steps. What one process raises is raised by all: none is left waiting.
"""

from __future__ import annotations

import functools
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from minorant._types import PyTree

Device: TypeAlias = Any  # jax.Device, which type checkers take for a value
Told = TypeVar("Told")
_AXIS = "process"
_FEWEST_BYTES = 1 << 10


class AbstractCompany(ABC):
    """Processes in an order."""

    rank: int
    size: int

    @abstractmethod
    def summed(self, vector: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """The sum of every process's vector."""

    @abstractmethod
    def gathered(self, thing: Told) -> list[Told]:
        """What every process has, in their order."""

    def agreed(self, function: Callable[[], Told]) -> list[Told]:
        """What the function gives in every process.

        Raises:
            Exception: what it raised in the first process in which it did.
        """
        found = self.gathered(_tried(function))
        for one in found:
            if one.error is not None:
                raise one.error
        return [one.answer for one in found]

    def told(self, thing: Told) -> Told:
        """What the first process has."""
        return self.gathered(thing if self.rank == 0 else None)[0]  # pyright: ignore[reportReturnType]

    def total(self, sums: PyTree) -> PyTree:
        """The sums of every process, added; leaves of NumPy in the widest type of their kind."""
        if self.size == 1:
            return sums
        leaves, structure = jax.tree.flatten(sums)
        flat = np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in leaves])
        found = np.split(self.summed(flat), np.cumsum([leaf.size for leaf in leaves])[:-1])
        shaped = [one.reshape(leaf.shape) for one, leaf in zip(found, leaves, strict=True)]
        return jax.tree.unflatten(structure, shaped)


class Alone(AbstractCompany):
    """This process and no other."""

    rank, size = 0, 1

    def summed(self, vector: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """The vector."""
        return vector

    def gathered(self, thing: Told) -> list[Told]:
        """The thing."""
        return [thing]


class Processes(AbstractCompany):
    """Processes that ``jax.distributed`` has brought together; sums go over their network.

    They have to be alike: the same program on the same kind of machine, for each goes on from the
    sums by itself.

    Args:
        devices: one of each process, in their order.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        numbers = [device.process_index for device in devices]
        self._own = devices[numbers.index(jax.process_index())]
        self.rank, self.size = numbers.index(jax.process_index()), len(devices)
        self._mesh = Mesh(np.array(devices), (_AXIS,))

    def summed(self, vector: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """The sum of every process's vector."""
        with jax.enable_x64(True):
            return self._asked(_adding(self._mesh), vector)

    def gathered(self, thing: Told) -> list[Told]:
        """What every process has, in their order; it travels pickled."""
        sent = np.frombuffer(pickle.dumps(thing), np.uint8)
        lengths = self._asked(_joining(self._mesh), np.array([len(sent)], np.int32))[:, 0]
        room = np.zeros(max(_power_above(int(lengths.max())), _FEWEST_BYTES), np.uint8)
        room[: len(sent)] = sent
        found = self._asked(_joining(self._mesh), room)
        return [pickle.loads(one[:n].tobytes()) for one, n in zip(found, lengths, strict=True)]

    def _asked(self, program: Callable[[jax.Array], jax.Array], vector: np.ndarray) -> np.ndarray:
        """What a program over the network makes of every process's vector.

        Raises:
            ConnectionError: when another process has ended.
        """
        try:
            return np.asarray(program(self._spread(vector)).addressable_data(0))
        except jax.errors.JaxRuntimeError as error:
            raise ConnectionError(
                "Another process of this fit has ended or cannot be reached: start all of them "
                "again. With checkpoint= they go on from where they were."
            ) from error

    def _spread(self, vector: np.ndarray) -> jax.Array:
        """An array with a row for every process, this one's here."""
        sharding = NamedSharding(self._mesh, PartitionSpec(_AXIS))
        shape = (self.size, *vector.shape)
        own = jax.device_put(vector[None], self._own)
        return jax.make_array_from_single_device_arrays(shape, sharding, [own])


def company_of(devices: Sequence[Device]) -> AbstractCompany:
    """The processes that the devices belong to, in the order of their numbers.

    Raises:
        ValueError: when this process has none of them.
    """
    first: dict[int, Device] = {}
    for device in devices:
        first.setdefault(device.process_index, device)
    if jax.process_index() not in first:
        raise ValueError(
            f"Process {jax.process_index()} has none of the devices that rows are on: every "
            "process that fits needs at least one."
        )
    if len(first) == 1:
        return Alone()
    return Processes([first[number] for number in sorted(first)])


class _Try(NamedTuple):
    answer: Any
    error: Exception | None


def _tried(function: Callable[[], Any]) -> _Try:
    try:
        return _Try(function(), None)
    except Exception as error:  # whatever it is, all are to raise it
        return _Try(None, _sendable(error))


def _sendable(error: Exception) -> Exception:
    """The error; where it cannot travel, its sentence."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # pickle raises all kinds
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _power_above(length: int) -> int:
    """A power of two: few programs are compiled."""
    return 1 << (length - 1).bit_length()


@functools.lru_cache(8)
def _adding(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    def add(own: jax.Array) -> jax.Array:
        return jax.lax.psum(own[0], _AXIS)

    spread, same = PartitionSpec(_AXIS), PartitionSpec()
    return jax.jit(jax.shard_map(add, mesh=mesh, in_specs=spread, out_specs=same))


@functools.lru_cache(8)
def _joining(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(jnp.copy, out_shardings=NamedSharding(mesh, PartitionSpec()))
