"""The path of states over the series, and what comes next."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from minorant.plots._components import record
from minorant.plots._style import FAINT, INK, TICK_SIZE, dress, palette, split

_WIDTH, _HEIGHT = 8.0, 4.6
_MANY_ROWS = 400


def states(  # noqa: PLR0913
    fit: Any,
    X: Any,  # noqa: N803
    column: int = 0,
    steps: int = 0,
    times: Any = None,
    level: float = 0.95,
    ax: Any = None,
) -> Any:
    """One column of a sequence over the most probable path of states, with a forecast.

    Above: the rows, on bands in the colour of the state that the path is in, the mean of each
    state as a line, and after the last row the forecast's mean and interval. Below: the
    probability of each state given all rows.

    Args:
        fit: what ``minorant.fit`` returned for a ``HiddenMarkov`` model, or an estimator that
            holds it.
        X: (n, d) one sequence.
        column: which column is drawn.
        steps: how many steps ahead are forecast; 0: none.
        times: (n,) numbers for the axis, equally spaced; None: 0, 1, 2, ...
        level: the probability that the forecast's interval holds a row with.
        ax: matplotlib axes of a subplot grid to divide; None for a new figure.

    Returns:
        The two axes.

    Raises:
        ValueError: when the column is not there, or times are not one for each row.

    Example:
        >>> import numpy as np, minorant
        >>> rows = np.tile(np.r_[np.zeros(6), np.full(6, 9.0)], 5)[:, None]
        >>> rows += np.resize([0.1, -0.1], 60)[:, None]
        >>> model = minorant.models.HiddenMarkov(minorant.components.Gaussian(), n_components=2)
        >>> fit = minorant.fit(model, rows)
        >>> above, below = minorant.plots.states(fit, rows, steps=4)
        >>> below.get_ylabel()
        'p(state)'
    """
    from minorant import evidence

    fit = record(fit)
    path, names = evidence.path(fit, X), fit.names
    values, when = _series(X, len(path), len(names), column, times)
    chances = np.exp(np.asarray(evidence.posterior(fit, X).by_row(), dtype=float))
    grid = split(ax, (2, 1), (_WIDTH, _HEIGHT), height_ratios=(3, 1))
    above, below = grid[0, 0], grid[1, 0]
    ahead = evidence.forecast(fit, X, steps, level=level) if steps else None
    _bands(above, when, path, len(chances[0]))
    _means(above, when, fit, path, column)
    marks = {"ms": 3.5, "mec": "white", "mew": 0.4} if len(values) <= _MANY_ROWS else {"ms": 0}
    above.plot(when, values, "-o", color=INK, lw=0.9, **marks)
    if ahead is not None:
        _ahead(above, below, when, ahead, column, level)
    for state, colour in enumerate(palette(chances.shape[1])):
        below.plot(when, chances[:, state], color=colour, lw=1.4)
    dress(above, f"Most probable states of {len(path)} steps", "", str(names[column]))
    dress(below, "", "step" if times is None else "time", "p(state)")
    below.set_ylim(-0.03, 1.03)
    below.set_xlim(above.get_xlim())
    return above, below


def _series(
    X: Any,  # noqa: N803
    n: int,
    d: int,
    column: int,
    times: Any,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    from minorant.data.tables import as_table

    if not 0 <= column < d:
        raise ValueError(f"column must be between 0 and {d - 1}; got {column}.")
    values = as_table(X, empty_rows=True)[0].values[:, column]
    when = np.arange(n, dtype=float) if times is None else np.asarray(times, dtype=float)
    if when.shape != (n,):
        raise ValueError(f"times must have one number for each of {n} rows; got {when.shape}.")
    return values, when


def _spacing(when: np.ndarray) -> float:
    return float(np.median(np.diff(when))) if len(when) > 1 else 1.0


def _runs(path: Int[np.ndarray, " n"]) -> list[tuple[int, int]]:
    """First and last row of each stay in one state."""
    first = np.flatnonzero(np.diff(path, prepend=-1))
    last = np.append(first[1:], len(path)) - 1
    return [(int(i), int(j)) for i, j in zip(first, last, strict=True)]


def _bands(ax: Any, when: np.ndarray, path: np.ndarray, k: int) -> None:
    half, colours, named = 0.5 * _spacing(when), palette(k), set()
    for first, last in _runs(path):
        state = int(path[first])
        label = None if state in named else f"state {state}"
        ax.axvspan(
            when[first] - half,
            when[last] + half,
            color=colours[state],
            alpha=0.18,
            lw=0,
            label=label,
        )
        named.add(state)
    handles, labels = ax.get_legend_handles_labels()
    order = np.argsort([int(label.split()[1]) for label in labels])
    place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": min(k, 6)}
    ax.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        **place,
        fontsize=TICK_SIZE,
        frameon=False,
    )


def _means(ax: Any, when: np.ndarray, fit: Any, path: np.ndarray, column: int) -> None:
    from minorant.evidence.sequences import state_means

    means, half = state_means(fit)[:, column], 0.5 * _spacing(when)
    colours = palette(len(means))
    for first, last in _runs(path):
        state = int(path[first])
        ends = (when[first] - half, when[last] + half)
        ax.hlines(means[state], *ends, color=colours[state], lw=2.0, alpha=0.9)


def _ahead(  # noqa: PLR0913
    above: Any, below: Any, when: np.ndarray, ahead: Any, column: int, level: float
) -> None:
    step = _spacing(when)
    future = when[-1] + step * np.arange(1, len(ahead.mean) + 1)
    edge = when[-1] + 0.5 * step
    for ax in (above, below):
        ax.axvline(edge, color=FAINT, lw=1.0, ls=":")
    above.fill_between(
        future, ahead.lower[:, column], ahead.upper[:, column], color=INK, alpha=0.12, lw=0
    )
    above.plot(future, ahead.mean[:, column], "--", color=INK, lw=1.4)
    above.annotate(
        f"forecast, {level:.0%}",
        (future[0], ahead.upper[:, column].max()),
        textcoords="offset points",
        xytext=(0, 4),
        annotation_clip=False,
        fontsize=TICK_SIZE,
        color=INK,
    )
    for state, colour in enumerate(palette(ahead.states.shape[1])):
        below.plot(future, ahead.states[:, state], "--", color=colour, lw=1.4)
