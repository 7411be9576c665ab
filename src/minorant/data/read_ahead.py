"""What the next turn needs, made ready in a thread while this one is worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
_LOOK_SECONDS = 0.1


def ahead(items: Iterator[Item], depth: int = 1) -> Iterator[Item]:
    """The same items, up to ``depth`` of them made before they are asked for.

    They are made in a thread of their own, one after the other. What that thread raises is raised
    here, in its place; when the taker stops, so does the thread.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, ready, stop), daemon=True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "error":
                raise item
            if kind == "end":
                return
            yield item
    finally:
        stop.set()
        thread.join()


def _fill(items: Iterator[Any], ready: queue.Queue, stop: threading.Event) -> None:
    try:
        for item in items:
            if not _put(ready, ("item", item), stop):
                return
        _put(ready, ("end", None), stop)
    except BaseException as error:  # whatever it is, the taker is to see it
        _put(ready, ("error", error), stop)


def _put(ready: queue.Queue, entry: tuple[str, Any], stop: threading.Event) -> bool:
    """Whether there was room before the taker stopped."""
    while not stop.is_set():
        try:
            ready.put(entry, timeout=_LOOK_SECONDS)
        except queue.Full:
            continue
        return True
    return False
