"""What all pictures share: colours, figures without pyplot, axes that are easy to read.

Colours: Okabe & Ito (2008), "Color universal design", for up to seven components; Petroff (2021),
"Accessible color sequences for data visualization", ten colours, for more. Both were chosen to be
told apart with any common colour vision.
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from jaxtyping import Float

_FEW = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_MANY = (
    "#3F90DA", "#FFA90E", "#BD1F01", "#94A4A2", "#832DB6",
    "#A96B59", "#E76300", "#B9AC70", "#717581", "#92DADD",
)  # fmt: skip
INK, FAINT, GRID = "#222222", "#8A8A8A", "#E6E6E6"
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 11.5, 10.0, 9.0


def palette(k: int) -> Float[np.ndarray, "k 3"]:
    """One colour for each component; they repeat after ten.

    Args:
        k: how many.

    Returns:
        Red, green and blue between 0 and 1.
    """
    names = _FEW if k <= len(_FEW) else _MANY
    return np.array([_rgb(names[j % len(names)]) for j in range(k)]).reshape(k, 3)


def mixed(responsibilities: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "n 3"]:
    """Each row's colour: the components' colours mixed in proportion to its responsibilities."""
    return np.clip(responsibilities.T @ palette(len(responsibilities)), 0.0, 1.0)


def new_figure(width: float, height: float, dpi: int = 110) -> Any:
    """A figure with its own canvas, unknown to pyplot; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def one(ax: Any, width: float = 6.4, height: float = 4.2) -> Any:
    """The axes that were given, or those of a new figure."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def split(ax: Any, shape: tuple[int, int], size: tuple[float, float], **ratios: Any) -> Any:
    """A grid of axes in a new figure, or in the place of ``ax``, which is removed.

    Args:
        ax: axes of a subplot, or None.
        shape: rows and columns of the grid.
        size: width and height in inches of a new figure.
        ratios: ``width_ratios`` and ``height_ratios``.

    Raises:
        ValueError: when ``ax`` does not belong to a subplot grid and so cannot be divided.
    """
    if ax is None:
        return new_figure(*size).subplots(*shape, squeeze=False, **ratios)
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError("ax must come from a grid of subplots to be divided; or leave ax out.")
    figure = ax.figure
    ax.remove()
    grid = place.subgridspec(*shape, **ratios)
    return np.array(
        [[figure.add_subplot(grid[i, j]) for j in range(shape[1])] for i in range(shape[0])]
    )


def dress(ax: Any, title: str = "", xlabel: str = "", ylabel: str = "", wrap: int = 62) -> None:
    """Title, labels, quiet spines and grid."""
    if title:
        ax.set_title(textwrap.fill(title, wrap), fontsize=TITLE_SIZE, color=INK, loc="left")
    ax.set_xlabel(xlabel, fontsize=LABEL_SIZE, color=INK)
    ax.set_ylabel(ylabel, fontsize=LABEL_SIZE, color=INK)
    ax.tick_params(labelsize=TICK_SIZE, colors=INK, length=3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.grid(True, color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)


def outline(
    mean: Float[np.ndarray, "2"], covariance: Float[np.ndarray, "2 2"], deviations: float
) -> Float[np.ndarray, "2 m"]:
    """The ellipse at that many standard deviations, as points."""
    angle = np.linspace(0.0, 2.0 * np.pi, 73)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return mean[:, None] + deviations * root @ np.stack([np.cos(angle), np.sin(angle)])


def _rgb(name: str) -> tuple[float, ...]:
    return tuple(int(name[i : i + 2], 16) / 255.0 for i in (1, 3, 5))
