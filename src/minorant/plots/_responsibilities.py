"""Who belongs where, and how surely."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from minorant.plots._components import record, responsibilities_of
from minorant.plots._style import INK, TITLE_SIZE, dress, palette, split
from minorant.result import Fit

_MOST_ROWS = 1000
_LEAST_DOUBT = 1e-8
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def responsibilities(
    fit: Fit,
    X: Any,  # noqa: N803
    ax: Any = None,
) -> Any:
    """Responsibilities of all rows, and how the largest of each row is distributed.

    Above: every row a thin column, stacked by responsibility, rows sorted by component and then
    from sure to unsure. Below: the share of rows whose doubt, one minus
    the largest responsibility, is at most so much.

    Args:
        fit: a fitted mixture, or an estimator that holds one.
        X: (n, d) table with the fit's columns.
        ax: matplotlib axes of a subplot grid, which the two panels replace; None for a new figure.

    Returns:
        The two axes.

    Example:
        >>> import numpy as np, minorant
        >>> rows = np.r_[np.arange(20.0), 100 + np.arange(20.0)][:, None]
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=2)
        >>> fit = minorant.fit(model, rows)
        >>> above, below = minorant.plots.responsibilities(fit, rows)
        >>> above.get_ylabel()
        'responsibility'
    """
    q = responsibilities_of(record(fit), X)
    order = sorted_rows(q)
    axes = split(ax, (2, 1), (6.6, 4.8), height_ratios=(2.0, 1.0))[:, 0]
    _stack(axes[0], q[:, order])
    _certainty(axes[1], q)
    return axes


def sorted_rows(q: Float[np.ndarray, "k n"]) -> Int[np.ndarray, " n"]:
    """Rows by component, surest first."""
    return np.lexsort((-q.max(0), q.argmax(0)))


def _stack(ax: Any, q: Float[np.ndarray, "k n"]) -> None:
    k, n = q.shape
    thin = np.linspace(0, n - 1, min(n, _MOST_ROWS)).round().astype(int)
    x = np.r_[np.arange(len(thin)), len(thin)] * (n / len(thin))
    stacked = np.cumsum(np.vstack([np.zeros(len(thin)), q[:, thin]]), axis=0)
    for j, colour in enumerate(palette(k)):
        low, high = (np.r_[edge, edge[-1]] for edge in stacked[j : j + 2])
        ax.fill_between(x, low, high, step="post", color=colour, linewidth=0)
    unsure = int((q.max(0) < 0.9).sum())
    title = f"{unsure} of {n} rows have no component above 0.9"
    dress(ax, title, "rows, by component and from sure to unsure", "responsibility")
    ax.grid(False)
    ax.set(xlim=(0, n), ylim=(0, 1))
    _name_blocks(ax, q.argmax(0), k)


def _name_blocks(ax: Any, owner: Int[np.ndarray, " n"], k: int) -> None:
    count = np.bincount(owner, minlength=k)
    middle = np.cumsum(count) - count / 2
    for j, colour in enumerate(palette(k)):
        if count[j] > 0.03 * len(owner):
            ink = "white" if colour @ _LUMINANCE < 0.6 else INK
            ax.text(
                middle[j], 0.5, f"{j}\n({count[j]})" if k <= 6 else str(j), color=ink,
                fontsize=TITLE_SIZE, fontweight="bold", ha="center", va="center",
            )  # fmt: skip


def doubts(q: Float[np.ndarray, "k n"]) -> Float[np.ndarray, " n"]:
    """One minus the largest responsibility, summed from the others so that no digit is lost."""
    others = np.sort(q, axis=0)[:-1]
    return others.sum(0)


def _certainty(ax: Any, q: Float[np.ndarray, "k n"]) -> None:
    k, n = q.shape
    doubt = np.sort(np.maximum(doubts(q), _LEAST_DOUBT))
    ax.step(np.r_[doubt, 1.0], np.r_[np.arange(1, n + 1) / n, 1.0], where="post", color=INK, lw=1.8)
    ax.set_xscale("log")
    dress(ax, "", "doubt of a row: 1 − its largest responsibility", "share of rows\nat most that")
    ax.set(xlim=(_LEAST_DOUBT, 1.0), ylim=(0, 1.03))
    ax.minorticks_off()
    ax.axvline(0.1, color=INK, lw=1.0, ls=":")
