"""Components over the data: ellipses, pairs of columns, and densities of single columns."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from minorant.data.tables import as_table
from minorant.plots._marginals import marginal
from minorant.plots._path import is_gaussian_like
from minorant.plots._style import (
    INK,
    LABEL_SIZE,
    TICK_SIZE,
    TITLE_SIZE,
    dress,
    mixed,
    one,
    outline,
    palette,
    split,
)
from minorant.result import Fit

_MOST_COLUMNS = 6
_MOST_POINTS = 4000


class Seen(NamedTuple):
    """What is drawn: rows, their responsibilities, and the ellipses where there are any."""

    fit: Fit
    values: Float[np.ndarray, "n d"]
    q: Float[np.ndarray, "k n"]
    means: Float[np.ndarray, "k d"] | None
    covariances: Float[np.ndarray, "k d d"] | None


def components(
    fit: Fit,
    X: Any,  # noqa: N803
    ax: Any = None,
    columns: Any = None,
) -> Any:
    """The rows, coloured by responsibility, and the fitted components over them.

    One column: histogram and weighted densities. Two columns of Gaussian-like components: rows
    and ellipses at one and two standard deviations. More columns: both of these for every pair.
    Components without covariances, on more than one column: histogram or bars of each column.

    Args:
        fit: a fitted mixture, or an estimator that holds one.
        X: (n, d) table with the fit's columns; a row is left out of a panel where its cell is
            missing.
        ax: matplotlib axes to draw into (of a subplot grid, where several panels are needed);
            None for a new figure.
        columns: names or numbers of the columns to draw; None for all, at most six.

    Returns:
        The axes, or an array of axes where there are several.

    Raises:
        ValueError: for an unknown column, or more than six.

    Example:
        >>> import numpy as np, minorant
        >>> rows = np.r_[np.arange(20.0), 100 + np.arange(20.0)][:, None]
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=2)
        >>> fit = minorant.fit(model, rows)
        >>> minorant.plots.components(fit, rows).get_ylabel()
        'density'
    """
    seen = _look(record(fit), X)
    chosen = chosen_columns(seen.fit.names, columns)
    if len(chosen) == 1:
        axes = one(ax)
        _column(axes, seen, chosen[0])
        _entitle(axes, f"{_counts(seen)}: densities times weights, and their sum")
    elif seen.means is None:
        axes = _columns(ax, seen, chosen)
    elif len(chosen) == 2:
        axes = one(ax, 6.0, 4.8)
        _pair(axes, seen, chosen[0], chosen[1])
        _entitle(axes, f"{_counts(seen)}: ellipses at 1 and 2 sd")
    else:
        axes = _pairs(ax, seen, chosen)
    return axes


def chosen_columns(names: tuple[str, ...], columns: Any) -> list[int]:
    """Column numbers from names or numbers.

    Raises:
        ValueError: for an unknown column or too many.
    """
    asked = range(len(names)) if columns is None else columns
    found = []
    for column in asked:
        index = names.index(column) if column in names else column
        if not isinstance(index, int | np.integer) or not 0 <= index < len(names):
            raise ValueError(f"Unknown column {column!r}; the fit has {', '.join(names)}.")
        found.append(int(index))
    if len(found) > _MOST_COLUMNS:
        if columns is not None:
            raise ValueError(f"columns: at most {_MOST_COLUMNS} can be drawn; got {len(found)}.")
        found = found[:_MOST_COLUMNS]
    return found


def record(fit: Any) -> Fit:
    """The fit itself, or the one that a fitted estimator holds."""
    return getattr(fit, "fit_", fit)


def responsibilities_of(fit: Fit, X: Any) -> Float[np.ndarray, "k n"]:  # noqa: N803
    """The posterior probabilities of all rows."""
    return np.exp(np.asarray(fit.posterior(X).log_probability, dtype=float))


def _look(fit: Fit, X: Any) -> Seen:  # noqa: N803
    values = np.asarray(as_table(X)[0].values, dtype=float)
    component = fit.model.component
    means = covariances = None
    if is_gaussian_like(component):
        means, covariances = np.asarray(component.mean), matrices(component)
    return Seen(fit, values, responsibilities_of(fit, X), means, covariances)


def matrices(component: Any) -> Float[np.ndarray, "k d d"]:
    """Full covariance matrices of a Gaussian-like component, on the host."""
    k, d = np.shape(component.mean)
    stored = np.asarray(component.covariance, dtype=float)
    if stored.shape == (k, d, d) and type(component.structure).__name__ == "Full":
        return stored
    if stored.ndim == 2 and stored.shape == (d, d) and type(component.structure).__name__ == "Tied":
        return np.broadcast_to(stored, (k, d, d))
    variances = stored if stored.ndim == 2 else stored[:, None]
    return np.broadcast_to(variances, (k, d))[:, :, None] * np.eye(d)


def _counts(seen: Seen) -> str:
    k, n = seen.q.shape
    return f"{n} rows and {k} component{'s' if k != 1 else ''}"


def _entitle(ax: Any, title: str) -> None:
    ax.set_title(title, fontsize=TITLE_SIZE, color=INK, loc="left")


def _pair(ax: Any, seen: Seen, first: int, second: int, labelled: bool = True) -> None:
    x, y = seen.values[:, first], seen.values[:, second]
    shown = np.flatnonzero(~np.isnan(x) & ~np.isnan(y))
    shown = shown[:: -(-len(shown) // _MOST_POINTS)] if len(shown) else shown
    size = float(np.clip((5000.0 if labelled else 1500.0) / max(len(shown), 1), 2.0, 20.0))
    ax.scatter(x[shown], y[shown], s=size, c=mixed(seen.q[:, shown]), alpha=0.7, linewidths=0)
    names = seen.fit.names
    dress(ax, "", names[first], names[second])
    assert seen.means is not None
    assert seen.covariances is not None
    pair = np.array([first, second])
    for j, colour in enumerate(palette(len(seen.q))):
        for deviations, width in ((1.0, 2.2), (2.0, 1.2)):
            points = outline(
                seen.means[j, pair], seen.covariances[j][np.ix_(pair, pair)], deviations
            )
            ax.plot(*points, color=colour, lw=width if labelled else 0.6 * width)
        if labelled:
            _number(ax, seen.means[j, pair], j, colour)


def _number(ax: Any, place: np.ndarray, j: int, colour: np.ndarray) -> None:
    box = {"boxstyle": "circle,pad=0.3", "facecolor": colour, "edgecolor": "white"}
    ax.text(
        *place, str(j), color="white", fontsize=LABEL_SIZE, fontweight="bold", ha="center",
        va="center", bbox=box, zorder=10,
    )  # fmt: skip


def _column(ax: Any, seen: Seen, column: int) -> None:
    """Histogram or bars of one column, weighted densities or masses, and their sum."""
    values = seen.values[~np.isnan(seen.values[:, column]), column]
    found = marginal(seen.fit, seen.values, column)
    colours, total = palette(len(seen.q)), found.density.sum(0)
    if found.is_discrete:
        share = (values[:, None] == found.grid).mean(0)
        ax.bar(found.grid, share, width=0.9, color="#D9D9D9")
        floor = np.zeros_like(total)
        for masses, colour in zip(found.density, colours, strict=True):
            ax.bar(found.grid, masses, bottom=floor, width=0.36, color=colour, alpha=0.9)
            floor = floor + masses
        ax.xaxis.get_major_locator().set_params(integer=True)
    else:
        bins = int(np.clip(np.sqrt(len(values)) * 1.6, 8, 50))
        ax.hist(values, bins=bins, density=True, color="#D9D9D9")
        for density, colour in zip(found.density, colours, strict=True):
            ax.fill_between(found.grid, density, color=colour, alpha=0.18, linewidth=0)
            ax.plot(found.grid, density, color=colour, lw=1.8)
        ax.plot(found.grid, total, color=INK, lw=1.1, ls=(0, (4, 2)))
    dress(ax, "", seen.fit.names[column], "probability" if found.is_discrete else "density")


def _columns(ax: Any, seen: Seen, chosen: list[int]) -> Any:
    """A panel for each column."""
    across = min(3, len(chosen))
    down = -(-len(chosen) // across)
    axes = split(ax, (down, across), (3.1 * across, 2.5 * down + 0.3))
    for panel, column in zip(axes.ravel(), chosen, strict=False):
        _column(panel, seen, column)
    for panel in axes.ravel()[len(chosen) :]:
        panel.set_visible(False)
    _explain(axes[0, 0], seen, "grey: rows; colours: components", anchor=None)
    return axes


def _pairs(ax: Any, seen: Seen, chosen: list[int]) -> Any:
    """Columns against columns below the diagonal, densities on it, nothing above it."""
    m = len(chosen)
    side = {3: 2.5, 4: 2.1, 5: 1.8}.get(m, 1.6)
    axes = split(ax, (m, m), (side * m, side * m))
    for i, j in np.ndindex(m, m):
        panel = axes[i, j]
        if j > i:
            panel.set_visible(False)
        elif i == j:
            _column(panel, seen, chosen[i])
            panel.set_yticks([])
            panel.set_ylabel("density" if i == 0 else "", fontsize=TICK_SIZE)
        else:
            _pair(panel, seen, chosen[j], chosen[i], labelled=False)
        _tidy(panel, i, j, m)
    _share_limits(axes)
    _explain(axes[0, 0], seen, "ellipses at 1 and 2 sd", anchor=(1.25, 1.0))
    return axes


def _explain(ax: Any, seen: Seen, what: str, anchor: Any) -> None:
    """A legend of the components with their weights; beside the axes where there is room."""
    from matplotlib.patches import Patch

    weights = np.asarray(seen.fit.model.weights)
    handles = [
        Patch(color=colour, label=f"component {j}, weight {weight:.3f}")
        for j, (colour, weight) in enumerate(zip(palette(len(weights)), weights, strict=True))
    ]
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": anchor}
    if anchor is None:  # above the panels; an empty title keeps the room
        place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "ncols": 3}
        ax.set_title("\n" * (3 + (len(weights) - 1) // 3), fontsize=LABEL_SIZE)
    legend = ax.legend(
        handles=handles, title=f"{_counts(seen)}\n{what}", fontsize=TICK_SIZE - (anchor is None),
        title_fontsize=LABEL_SIZE - (anchor is None), alignment="left", frameon=False, **place,
    )  # fmt: skip
    legend.set_in_layout(False)


def _tidy(panel: Any, i: int, j: int, m: int) -> None:
    """Labels on the outside only."""
    panel.tick_params(labelsize=TICK_SIZE - 1.5)
    panel.xaxis.label.set_size(TICK_SIZE)
    panel.yaxis.label.set_size(TICK_SIZE)
    if i < m - 1:
        panel.set_xlabel("")
        panel.tick_params(labelbottom=False)
    if j > 0 and i != j:
        panel.set_ylabel("")
        panel.tick_params(labelleft=False)


def _share_limits(axes: Any) -> None:
    """Equal limits down each column and along each row of panels."""
    m = len(axes)
    for j in range(m):
        limits = axes[j, j].get_xlim()
        for i in range(j + 1, m):
            axes[i, j].set_xlim(limits)
        for i in range(j):
            axes[j, i].set_ylim(limits)
