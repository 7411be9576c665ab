"""Which columns a factor moves, and how much of each column the factors explain."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from minorant.models.rotation import rotate
from minorant.plots._components import record
from minorant.plots._style import FAINT, INK, TICK_SIZE, dress, palette, split
from minorant.result import Fit

_WRITTEN = 0.1
_MOST_WRITTEN = 40


def loadings(
    fit: Fit,
    rotation: str | None = "varimax",
    ordered: bool = True,
    ax: Any = None,
) -> Any:
    """Standardised loadings as a heat map, and beside it each column's communality.

    A standardised loading is the correlation of the column with the factor (for oblique factors the
    regression weight, in standard deviations); blue is positive, orange negative. The bars stack
    the shares of a column's variance that each factor explains (correlated ones: all together);
    what is left is noise.

    Args:
        fit: a fitted factor model, or an estimator that holds one.
        rotation: ``"varimax"``, ``"quartimax"``, ``"oblimin"``, or None for the canonical one.
        ordered: columns by the factor that explains most of them; False leaves them as they are.
        ax: matplotlib axes of a subplot grid, which the two panels replace; None for a new figure.

    Returns:
        The two axes.

    Raises:
        TypeError: for a fit of another model.

    Example:
        >>> import numpy as np, minorant
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.normal(size=(90, 1)) @ [[1.0, 2.0, 3.0]] + rng.normal(size=(90, 3))
        >>> fit = minorant.fit(minorant.models.FactorAnalysis(n_factors=1), rows)
        >>> map_axes, bars = minorant.plots.loadings(fit)
        >>> bars.get_xlabel()
        'share of variance'
    """
    answer = record(fit)
    matrix, shares = standardised(answer, rotation)
    order = ordering(matrix) if ordered else np.arange(len(matrix))
    d, l = matrix.shape
    size = (3.6 + 0.55 * l, 1.6 + 0.26 * d)
    axes = split(ax, (1, 2), size, width_ratios=(max(l, 2), 3.0))[0]
    _map(axes[0], matrix[order], [answer.names[j] for j in order])
    _bars(axes[1], shares[order])
    return axes


def standardised(
    fit: Fit, rotation: str | None
) -> tuple[Float[np.ndarray, "d l"], Float[np.ndarray, "d m"]]:
    """Loadings in standard deviations of the columns, rotated, and shares of their variance.

    Correlated factors share what they explain: there is one share for all of them, (d, 1).
    """
    model = fit.model
    if np.ndim(getattr(model, "loadings", 0.0)) != 2:
        raise TypeError(
            f"loadings draws factor models such as minorant.models.FactorAnalysis; got "
            f"{type(model).__name__}."
        )
    deviation = np.sqrt(np.diag(model.covariance()))
    matrix = np.asarray(model.loadings) / deviation[:, None]
    if rotation is None:
        return matrix, matrix**2
    turned = rotate(matrix, rotation)
    shares = turned.loadings * turned.structure()
    return turned.loadings, shares.sum(1, keepdims=True) if rotation == "oblimin" else shares


def ordering(matrix: Float[np.ndarray, "d l"]) -> Int[np.ndarray, " d"]:
    """Columns by their strongest factor, strongest loading first."""
    size = np.abs(matrix)
    return np.lexsort((-size.max(1), size.argmax(1)))


def _map(ax: Any, matrix: Float[np.ndarray, "d l"], names: list[str]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    blue, orange = palette(2)
    shades = LinearSegmentedColormap.from_list("loadings", [orange, (1.0, 1.0, 1.0), blue])
    ax.imshow(matrix, cmap=shades, vmin=-1.0, vmax=1.0, aspect="auto")
    d, l = matrix.shape
    if d <= _MOST_WRITTEN:
        for (i, j), value in np.ndenumerate(matrix):
            _write(ax, i, j, float(value))
    dress(ax, "Loadings", "factor")
    ax.grid(False)
    ax.set_xticks(range(l), [str(j + 1) for j in range(l)])
    step = -(-d // 60)
    ax.set_yticks(range(0, d, step), names[::step])


def _write(ax: Any, i: int, j: int, value: float) -> None:
    if abs(value) < _WRITTEN:
        return
    ink = "white" if abs(value) > 0.7 else INK
    text = f"{value:.2f}".replace("0.", ".")
    ax.text(j, i, text, color=ink, fontsize=TICK_SIZE - 1, ha="center", va="center")


def _bars(ax: Any, shares: Float[np.ndarray, "d m"]) -> None:
    d, m = shares.shape
    before = np.zeros(d)
    for j, colour in enumerate(palette(m)):
        ax.barh(np.arange(d), shares[:, j], left=before, color=colour, height=0.72)
        before = before + shares[:, j]
    dress(ax, f"{shares.sum() / d:.0%} explained", "share of variance")
    ax.set(xlim=(0.0, 1.0), ylim=(d - 0.5, -0.5))
    ax.set_yticks([])
    ax.axvline(1.0, color=FAINT, lw=1.0)
