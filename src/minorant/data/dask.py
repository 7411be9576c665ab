"""Chunks read and summed over by the workers of a Dask cluster.

Each worker reads its shares of the chunks itself and keeps their blocks from step to step. A step
sends the parameters once, every share is summed where it is held, and the sums are added on the
workers as a tree that only the numbers of the chunks fix: which worker did what changes no bit. A
worker that is lost costs the time to read its shares again elsewhere, and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from minorant._types import Array, PyTree
from minorant.data import on_worker
from minorant.data.arrays import Table
from minorant.data.base import BlockFunction, Part
from minorant.data.chunks import AbstractChunks
from minorant.data.engines import AbstractEngine
from minorant.data.on_worker import Packed, Share, packed
from minorant.data.streamed import AbstractChunkedSource, Arrange
from minorant.data.survey import Check, Survey, end_to_end, surveyed

_FAN_IN = 8  # sums that one task adds
_MOST_INLINE = 100_000  # bytes sent with every task; more are sent to every worker, once
_ATTEMPTS = 3  # passes begun again after parameters were lost with all workers that held them
_LOOK_SECONDS = 5.0
_PATIENCE_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
Shares = Sequence[tuple[Share, tuple[Any, ...]]]


class AbstractSharedChunks(AbstractChunks):
    """Chunks in shares, each to be held by one worker."""

    @abstractmethod
    def shares(self) -> Shares:
        """Every share, in order, and the futures of what it is made of; the same every time."""


class SharesSeen(NamedTuple):
    """What a survey found besides: how many chunks a share has, and where chunks begin."""

    counts: tuple[int, ...]
    first_rows: tuple[int, ...]


class Dask(AbstractEngine):
    """A Dask cluster.

    Args:
        where: a ``distributed.Client``, the address of a scheduler (``"tcp://host:8786"``),
            ``"local"`` for one process on every core of this machine, or True for the client that
            was made last.

    Raises:
        ImportError: without the extra ``dask``.
        ConnectionError: when no scheduler answers.
    """

    def __init__(self, where: Any) -> None:
        self.client = client_at(self, where)
        self._seen: weakref.WeakKeyDictionary[AbstractChunks, SharesSeen] = (
            weakref.WeakKeyDictionary()
        )

    def survey(self, chunks: AbstractChunks, check: Check, with_moments: bool) -> Survey:
        """One look at every row, each share's by one worker; joined in order."""
        test = _dumps(check)
        rows = cast(AbstractSharedChunks, chunks)
        looks = self._each(rows.shares(), on_worker.look_at, test, with_moments)
        found = [self.result(look) for look in looks]
        survey = surveyed(chunks.names, (one for some in found for one in some))
        self._seen[chunks] = SharesSeen(tuple(map(len, found)), survey.first_rows)
        return survey

    def source(
        self,
        chunks: AbstractChunks,
        arrange: Arrange,
        total_weight: Float[Array, ""],
        size: tuple[int, int],
    ) -> AbstractChunkedSource:
        """The chunks as a source; their blocks are kept by the workers."""
        seen, rows = self._seen[chunks], cast(AbstractSharedChunks, chunks)
        shares = [share for share, n in zip(rows.shares(), seen.counts, strict=True) if n]
        seen = seen._replace(counts=tuple(n for n in seen.counts if n))
        each = -(-len(shares) // max(len(self.workers()), 1))
        held = self._each(shares, on_worker.hold, _dumps(arrange), each)
        return DaskSource(total_weight, size, self, chunks, tuple(held), seen)

    def _each(self, shares: Shares, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """A task for every share: where its rows are, or spread evenly over the workers."""
        workers = self.workers()
        tasks = []
        for number, (share, pieces) in enumerate(shares):
            place: dict[str, Any] = {}
            if workers and not pieces:
                at = workers[number * len(workers) // len(shares)]  # neighbours together
                place = {"workers": [at], "allow_other_workers": True}
            told = (share, *arguments, *pieces)
            tasks.append(self.client.submit(function, *told, pure=False, **place))
        return tasks

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A task; it runs where what it needs is."""
        return self.client.submit(function, *arguments, pure=False)

    def workers(self) -> list[str]:
        """The addresses of the workers, in a fixed order."""
        return sorted(self.client.nthreads())

    def result(self, future: Any) -> Any:
        """What a task gives; its errors, and those of the cluster, as one sentence.

        Raises:
            ConnectionError: when the scheduler, or all workers, are gone.
            ImportError: when workers lack a package.
        """
        waited = 0.0
        while not self._is_done(future):
            waited = 0.0 if self.workers() else waited + _LOOK_SECONDS
            if waited >= _PATIENCE_SECONDS:
                raise ConnectionError(
                    f"The Dask scheduler at {self.address()} has had no worker for "
                    f"{_PATIENCE_SECONDS:.0f} seconds: start workers and fit again."
                )
        return self._taken(future)

    def _is_done(self, future: Any) -> bool:
        """Whether it has an answer, or an error, after some seconds at most."""
        from distributed import CancelledError

        with contextlib.suppress(TimeoutError, CancelledError):
            future.exception(timeout=_LOOK_SECONDS)
        return future.done()

    def address(self) -> str:
        """Where the scheduler is."""
        return str(getattr(self.client.scheduler, "address", "an unknown address"))

    def _taken(self, future: Any) -> Any:
        from distributed import CancelledError, KilledWorker
        from distributed.comm.core import CommClosedError

        try:
            return future.result()
        except KilledWorker:
            raise ConnectionError(
                "Several Dask workers died one after the other over the same rows, most likely for "
                "lack of memory: give them more, or memory='1GB' to minorant.chunks."
            ) from None
        except (CancelledError, CommClosedError):
            raise self._gone() from None
        except ModuleNotFoundError as error:
            raise ImportError(
                f"The Dask workers lack a package that the client has, {error.name}: install it "
                "where they run, in the same version."
            ) from None

    def _gone(self) -> ConnectionError:
        if self.client.status == "running":
            return LostError(
                "What a Dask worker held was lost with it and cannot be computed again: give data "
                "that Dask knows how to make (read from files), not what was scattered to workers."
            )
        return ConnectionError(
            f"The Dask scheduler at {self.address()} has gone: start it and fit again."
        )


class LostError(ConnectionError):
    """What was sent to workers is on none of them any more."""


class DaskSource(AbstractChunkedSource):
    """Chunks whose blocks are held by the workers of a Dask cluster.

    Args:
        engine: the cluster.
        chunks: where rows come from.
        held: every share, on the worker that has it.
        seen: how many chunks each share has, and where they begin.
    """

    engine: Dask = eqx.field(static=True)
    chunks: AbstractChunks = eqx.field(static=True)
    held: tuple[Any, ...] = eqx.field(static=True)
    seen: SharesSeen = eqx.field(static=True)

    def sums(
        self, function: BlockFunction, parameters: PyTree, begun: Part | None = None
    ) -> Iterator[Part]:
        """The sums of the whole pass, at once: workers are not waited for one by one.

        A pass that was ``begun`` is made anew: its chunks were summed in another order.
        """
        del begun
        sent = packed(function, parameters)
        found, attempts = None, _ATTEMPTS
        while attempts:
            attempts -= 1
            try:
                found, attempts = self.engine.result(self._tree(sent)), 0
            except LostError:
                if not attempts:
                    raise
        yield Part(sum(self.seen.counts), found)

    def rows(self, index: Int[np.ndarray, " m"]) -> Table:
        """The rows of these numbers (ascending), each sent by the worker that holds it."""
        starts = self._first_rows()
        asked = []
        for held, first, last in zip(self.held, starts[:-1], starts[1:], strict=True):
            inside = index[np.searchsorted(index, first) : np.searchsorted(index, last)] - first
            if len(inside):
                asked.append(self.engine.submit(on_worker.rows_of, held, inside))
        return end_to_end([table for future in asked for table in self.engine.result(future)])

    def of_weight(self) -> Int[np.ndarray, " m"]:
        """The numbers of the rows that weigh something."""
        starts = zip(self.held, self._first_rows(), strict=False)
        asked = [self.engine.submit(on_worker.weighing_of, held, row) for held, row in starts]
        return np.concatenate([part for future in asked for part in self.engine.result(future)])

    def by_row(self, function: BlockFunction, parameters: PyTree) -> Iterator[tuple[Table, PyTree]]:
        """Every chunk with a function's answers for each of its rows, in their order."""
        sent = packed(function, parameters)
        places = [
            (held, chunk)
            for held, count in zip(self.held, self.seen.counts, strict=True)
            for chunk in range(count)
        ]
        window, asked = 2 * max(len(self.engine.workers()), 1), []
        for held, chunk in places:
            asked.append(self.engine.submit(on_worker.answers_of, held, chunk, sent))
            if len(asked) == window:
                yield self.engine.result(asked.pop(0))
        for future in asked:
            yield self.engine.result(future)

    def _first_rows(self) -> list[int]:
        """The number of the first row of every share, and of one after the last."""
        starts = np.append(self.seen.first_rows, self.size[0])
        return starts[np.append(0, np.cumsum(self.seen.counts))].tolist()

    def _by_worker(self) -> list[tuple[tuple[int, ...], tuple[Any, ...]]]:
        """Shares that one worker holds: numbers of their first chunks, and where they are.

        One task for every worker: of several waiting there, Dask would move some elsewhere, and
        their shares with them.
        """
        holders = self.engine.client.who_has(self.held)
        groups: dict[Any, list[int]] = {}
        for number, held in enumerate(self.held):
            found = sorted(holders.get(held.key, ()))
            groups.setdefault(found[0] if found else number, []).append(number)
        firsts = np.append(0, np.cumsum(self.seen.counts)).tolist()
        return [
            (tuple(firsts[n] for n in numbers), tuple(self.held[n] for n in numbers))
            for numbers in groups.values()
        ]

    def _tree(self, sent: Packed) -> Any:
        """The task that gives the whole sum."""
        engine = self.engine
        told: Any = sent
        if sent.nbytes() > _MOST_INLINE:
            told = engine.client.scatter(sent, broadcast=True, hash=False)
        level = [
            engine.submit(on_worker.sums_of, told, firsts, *held)
            for firsts, held in self._by_worker()
        ]
        while len(level) > _FAN_IN:
            groups = [level[i : i + _FAN_IN] for i in range(0, len(level), _FAN_IN)]
            level = [engine.submit(on_worker.join, *group) for group in groups]
        return engine.submit(on_worker.total, *level)


def _dumps(function: Any) -> bytes:
    import cloudpickle

    return cloudpickle.dumps(function)


def client_at(owner: Any, where: Any) -> Any:
    """The client of a cluster; one that is made here is closed when ``owner`` is gone.

    Raises:
        ImportError: without the extra ``dask``.
        ConnectionError: when no scheduler answers.
        ValueError: for no client, or another kind of address.
    """
    try:
        from distributed import Client, default_client
    except ImportError:
        raise ImportError(
            "Dask is not installed here: install it with pip install 'minorant[dask]'."
        ) from None
    if isinstance(where, Client):
        return where
    if where is True or where is None:
        with contextlib.suppress(ValueError):
            return default_client()
        if where:
            raise ValueError(
                "dask=True takes the client that was made last, and there is none: make one with "
                "distributed.Client(...), or give dask='local' or the address of a scheduler."
            )
    if where is None or where == "local":
        return _local(owner)
    if not isinstance(where, str) or "://" not in where:
        raise ValueError(
            "dask must be a distributed.Client, the address of a scheduler such as "
            f"'tcp://10.0.0.1:8786', or 'local'; got {where!r}."
        )
    return _at_address(owner, where)


def _at_address(owner: Any, address: str) -> Any:
    from distributed import Client

    try:
        client = Client(address, set_as_default=False, timeout=_CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError):
        raise ConnectionError(
            f"No Dask scheduler answers at {address!r}: start one with 'dask scheduler' and "
            "workers with 'dask worker ADDRESS', or check the address."
        ) from None
    weakref.finalize(owner, client.close)
    return client


def _local(owner: Any) -> Any:
    """One process of one thread on every core of this machine."""
    from distributed import Client, LocalCluster

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cluster = LocalCluster(
        n_workers=cores,
        threads_per_worker=1,
        dashboard_address=":0",
        silence_logs=logging.ERROR,
    )
    client = Client(cluster, set_as_default=False)
    weakref.finalize(owner, _close, client, cluster)
    return client


def _close(client: Any, cluster: Any) -> None:
    client.close()
    cluster.close()
