"""The bound step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from minorant.plots._components import record
from minorant.plots._style import FAINT, INK, TICK_SIZE, dress, one
from minorant.result import Fit

_BOUND, _REFUSED = "#0072B2", "#D55E00"
_FEW_STEPS = 60


def climb(fit: Fit, ax: Any = None) -> Any:
    """The bound after each EM step, and in the inset how far below its last value it was.

    Steps where an extrapolation was refused are marked: there the bound stays as it was.

    Args:
        fit: what ``minorant.fit`` returned, or an estimator that holds it.
        ax: matplotlib axes to draw into; None for a new figure.

    Returns:
        The axes.

    Example:
        >>> import numpy as np, minorant
        >>> rows = np.r_[np.arange(20.0), 100 + np.arange(20.0)][:, None]
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=2)
        >>> fit = minorant.fit(model, rows)
        >>> minorant.plots.climb(fit).get_ylabel()
        'bound, nats per row'
    """
    fit, ax = record(fit), one(ax)
    bound = per_row(fit)
    steps = np.arange(1, len(bound) + 1)
    few = len(bound) <= _FEW_STEPS
    ax.plot(steps, bound, "-o" if few else "-", color=_BOUND, lw=2.0, ms=5, mec="white", mew=0.6)
    refused = refused_steps(fit)
    if len(refused):
        size, edge = (6.0, 1.6) if few else (3.5, 1.0)
        marks = {"mfc": "white", "mec": _REFUSED, "mew": edge, "ms": size}
        ax.plot(steps[refused], bound[refused], "o", label="extrapolation refused", **marks)
    dress(ax, _title(fit), "EM step", "bound, nats per row")
    ax.xaxis.set_major_locator(_whole_numbers())
    _focus(ax, bound)
    _inset(ax, bound)
    if len(refused):
        ax.legend(loc="upper left", fontsize=TICK_SIZE, frameon=False)
    return ax


def per_row(fit: Fit) -> Float[np.ndarray, " steps"]:
    """The trace of the bound in nats per row."""
    return np.asarray(fit.trace.bound) / fit.n_rows


def refused_steps(fit: Fit) -> np.ndarray:
    """Indices of the steps at which an extrapolation was refused; empty when they are not known.

    A refused step leaves the bound to the last bit; they are known when as many steps do so as
    the solver refused.
    """
    same = np.flatnonzero(np.diff(fit.trace.bound, prepend=-np.inf) == 0)
    return same if len(same) == fit.acceleration.refused else same[:0]


def _title(fit: Fit) -> str:
    outcome = fit.outcome.value.split(":")[0].rstrip(".")
    did = fit.acceleration
    steps = f"{did.steps} EM step" + ("s" if did.steps != 1 else "")
    if did.kept:
        steps += f", {did.kept} of them extrapolated"
    return f"{outcome} after {steps}"


def _focus(ax: Any, bound: np.ndarray) -> None:
    """Leave a far-off first value out of the picture rather than flatten all others."""
    seen = bound[np.isfinite(bound)]
    if len(seen) > 4 and seen[1] - seen[0] > 4 * (seen[-1] - seen[1]) > 0:
        seen = seen[1:]
    room = max(seen[-1] - seen[0], 1e-9 * abs(seen[-1]), 1e-12)
    ax.set_ylim(seen[0] - 0.08 * room, seen[-1] + 0.08 * room)


def _inset(ax: Any, bound: np.ndarray) -> None:
    """What was still to be gained, on a log scale."""
    left = bound[-1] - bound[:-1]
    if len(left) < 4 or not (left > 0).any():
        return
    inset = ax.inset_axes((0.46, 0.16, 0.5, 0.42))
    inset.semilogy(np.arange(1, len(bound)), np.where(left > 0, left, np.nan), color=INK, lw=1.3)
    inset.set_title("below the last value, nats per row", fontsize=TICK_SIZE, color=INK, loc="left")
    inset.tick_params(labelsize=TICK_SIZE - 1, colors=INK, length=2)
    inset.yaxis.set_major_locator(_decades())
    inset.minorticks_off()
    inset.spines[["top", "right"]].set_visible(False)
    inset.spines[["left", "bottom"]].set_color(FAINT)
    inset.xaxis.set_major_locator(_whole_numbers(5))


def _whole_numbers(n: int = 9) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True, nbins=n)


def _decades() -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(base=10.0, numticks=5)
