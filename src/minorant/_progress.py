"""The one reporter: a bar with bound, gain per row and time left; silent off a terminal."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

_QUIET_SECONDS = 0.5


class Progress(NamedTuple):
    """Where a climb is: what callbacks receive between blocks of steps."""

    steps: int
    max_steps: int
    bound: float
    gain_per_row: float
    seconds: float
    seconds_left: float
    model: Any = None


class Reporter:
    """Shows :class:`Progress` on a terminal; nothing elsewhere, and nothing for quick fits."""

    def __init__(self, enabled: bool | None) -> None:
        """``None`` shows the bar when standard error is a terminal."""
        self._enabled = sys.stderr.isatty() if enabled is None else enabled
        self._live: Any = None

    def update(self, progress: Progress) -> None:
        """Draw the latest state."""
        if not self._enabled or progress.seconds < _QUIET_SECONDS:
            return
        if self._live is None:
            self._live = _start()
        self._live.update(_line(progress), refresh=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _start() -> Any:
    from rich.console import Console
    from rich.live import Live

    live = Live(console=Console(stderr=True), transient=True, auto_refresh=False)
    live.start()
    return live


def _line(progress: Progress) -> str:
    done = min(progress.steps / max(progress.max_steps, 1), 1.0)
    bar = "█" * round(20 * done) + "·" * (20 - round(20 * done))
    return (
        f"{bar} step {progress.steps}  bound {progress.bound:.6g} nats  "
        f"gain {progress.gain_per_row:.2e} per row  about {progress.seconds_left:.0f} s left"
    )
