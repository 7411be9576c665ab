"""A series with the state path behind it, its uncertainty, and what is to come."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from minorant.plots._components import record
from minorant.plots._style import FAINT, INK, dress, palette, split

_MOST_COLUMNS = 6
_WIDTH = 1.959963984540054  # standard deviations that hold 95%


def series(
    fit: Any,
    X: Any,  # noqa: N803
    n_steps: int = 0,
    inputs: Any = None,
    ax: Any = None,
) -> Any:
    """One sequence, what the states say of it given all rows, and a forecast.

    A panel for each column (the first six): rows as dots, the mean of the noise-free row given all
    rows as a line in a band that holds 95%; where cells are missing the line goes on and the band
    widens. Forecast rows come after, in a band for the row itself, noise included.

    Args:
        fit: a fitted state space model, or an estimator that holds one.
        X: (n, d) the rows of one sequence, NaN where missing.
        n_steps: how many steps to forecast.
        inputs: (n + n_steps, m) covariates, where the model has them.
        ax: matplotlib axes of a subplot grid, which the panels replace; None for a new figure.

    Returns:
        The axes, one for each column drawn.

    Example:
        >>> import numpy as np, minorant
        >>> from minorant.estimators import StateSpace
        >>> rows = np.cumsum(np.resize([1.0, -0.5, 0.2, -0.9, 0.4], 60))[:, None]
        >>> model = StateSpace(transition=[[1.0]], observation=[[1.0]], observation_offset=[0.0])
        >>> axes = minorant.plots.series(model.fit(rows), rows, n_steps=5)
        >>> axes[0].get_xlabel()
        'step'
    """
    from minorant.data.tables import as_table
    from minorant.estimators._series_answers import States, expected_rows

    fit = record(fit)
    rows = np.asarray(as_table(X, empty_rows=True)[0].values, dtype=float)
    longer = np.concatenate([rows, np.full((n_steps, rows.shape[1]), np.nan)])
    q = fit.posterior(longer, inputs=inputs)
    states = States(np.asarray(q.mean, dtype=float), np.asarray(q.covariance, dtype=float))
    mean, covariance = expected_rows(fit.model, states, inputs)
    whole = np.diagonal(covariance, axis1=1, axis2=2)
    signal = whole - _noise(fit.model)
    spread = np.sqrt(np.maximum(np.r_[signal[: len(rows)], whole[len(rows) :]], 0.0))
    shown = min(rows.shape[1], _MOST_COLUMNS)
    axes = split(ax, (shown, 1), (7.4, 1.1 + 2.3 * shown), sharex=True)[:, 0]
    for j, panel in enumerate(axes):
        _panel(panel, rows[:, j], mean[:, j], spread[:, j], fit.names[j])
    last = f", {n_steps} steps ahead" if n_steps else ""
    dress(axes[0], f"given all {len(rows)} rows, with 95% bands{last}", "", fit.names[0])
    axes[-1].set_xlabel("step")
    return axes


def _noise(model: Any) -> Float[np.ndarray, " d"]:
    R = np.asarray(model.observation_covariance, dtype=float)
    return R if R.ndim == 1 else np.diagonal(R)


def _panel(ax: Any, rows: np.ndarray, mean: np.ndarray, spread: np.ndarray, name: str) -> None:
    """Dots, the line and its band, and the forecast in a second colour."""
    step, n = np.arange(len(mean)), len(rows)
    now, ahead = palette(2)
    ax.plot(step[:n], rows, ls="", marker="o", ms=2.6, color=FAINT, label="observed")
    parts = [(slice(0, n), now, "states"), (slice(max(n - 1, 0), len(mean)), ahead, "forecast")]
    for part, colour, label in parts[: 1 + (len(mean) > n)]:
        low, high = (mean[part] + sign * _WIDTH * spread[part] for sign in (-1, 1))
        ax.fill_between(step[part], low, high, color=colour, alpha=0.2, linewidth=0)
        ax.plot(step[part], mean[part], color=colour, lw=1.6, label=label)
    dress(ax, "", "", name)
    if len(mean) > n:
        ax.axvline(n - 0.5, color=INK, lw=0.8, ls=":")
    ax.set_xlim(-0.5, len(mean) - 0.5)
    ax.legend(loc="best", fontsize=8, frameon=False)
