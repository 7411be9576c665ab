"""Pictures of latent trait models: curves of items, information, and the persons' traits."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from minorant.plots import _style

_POINTS = 121
_REACH = 4.0


def item_curves(estimator: Any, item: int | str = 0, ax: Any = None) -> Any:
    """The probability of every answer to an item over the trait.

    Args:
        estimator: a fitted :class:`minorant.estimators.LatentTrait` with one trait.
        item: number or name of the item.
        ax: matplotlib axes; None for a new figure.

    Returns:
        The axes drawn into.

    Raises:
        ValueError: for more than one trait, or an unknown item.
    """
    traits = _traits(estimator)
    j = _number(estimator, item)
    chance = estimator.probabilities(traits)[j]
    ax = _style.one(ax)
    for c, colour in zip(range(chance.shape[1]), _style.palette(chance.shape[1]), strict=True):
        label = f"{estimator.categories_[j][c]:g}"
        ax.plot(traits, chance[:, c], color=colour, linewidth=2.0, label=label)
    ax.set_ylim(0.0, 1.0)
    ax.legend(title="answer", frameon=False, fontsize=_style.TICK_SIZE)
    name = estimator.items_.item[j]
    _style.dress(ax, f"Answers to {name}", "trait", "probability")
    return ax


def item_information(estimator: Any, ax: Any = None) -> Any:
    """What every item tells over the trait, and the whole test with its standard error.

    Args:
        estimator: a fitted :class:`minorant.estimators.LatentTrait` with one trait.
        ax: matplotlib axes; None for a new figure.

    Returns:
        The axes drawn into; the standard error of a maximum likelihood score has an axis of its
        own on the right.

    Raises:
        ValueError: for more than one trait.
    """
    traits = _traits(estimator)
    information = estimator.information(traits)
    ax = _style.one(ax)
    d = information.shape[1]
    for j, colour in zip(range(d), _style.palette(d), strict=True):
        label = estimator.items_.item[j] if d <= 10 else None
        ax.plot(traits, information[:, j], color=colour, linewidth=1.2, label=label)
    total = information.sum(1)
    ax.plot(traits, total, color=_style.INK, linewidth=2.4, label="test")
    ax.legend(frameon=False, fontsize=_style.TICK_SIZE)
    _style.dress(ax, "Information", "trait", "information")
    other = ax.twinx()
    error = 1.0 / np.sqrt(np.maximum(total, 1e-12))
    other.plot(traits, error, color=_style.FAINT, linewidth=1.5, linestyle="--")
    other.set_ylabel("standard error (dashed)", fontsize=_style.LABEL_SIZE, color=_style.FAINT)
    other.set_ylim(0.0, 1.2 * float(np.median(error)) + float(error.min()))
    other.spines[["top"]].set_visible(False)
    other.tick_params(labelsize=_style.TICK_SIZE, colors=_style.FAINT)
    return ax


def abilities(
    scores: Any, weights: Float[np.ndarray, " n"] | None = None, trait: int = 0, ax: Any = None
) -> Any:
    """A histogram of the persons' traits, with the mean standard error as a bar.

    Args:
        scores: what ``estimator.scores(X)`` returned, or (n,) or (n, l) traits.
        weights: (n,) persons; None for ones.
        trait: which trait.
        ax: matplotlib axes; None for a new figure.

    Returns:
        The axes drawn into.
    """
    values = np.asarray(getattr(scores, "trait", scores), dtype=float)
    values = values[:, None] if values.ndim == 1 else values
    ax = _style.one(ax)
    bins = int(np.clip(2 * len(values) ** (1 / 3), 8, 60))
    colour = tuple(_style.palette(1)[0])
    heights, _, _ = ax.hist(
        values[:, trait], bins=bins, weights=weights, color=colour, alpha=0.85, edgecolor="white"
    )
    error = getattr(scores, "standard_error", None)
    if error is not None:
        size = float(np.average(np.asarray(error)[:, trait], weights=weights))
        centre, top = float(np.average(values[:, trait], weights=weights)), 1.06 * heights.max()
        ax.errorbar([centre], [top], xerr=[size], color=_style.INK, capsize=4, linewidth=1.5)
        label = f"mean standard error {size:.2f}"
        ax.annotate(label, (centre, 1.02 * top), ha="center", fontsize=_style.TICK_SIZE)
        ax.set_ylim(0.0, 1.15 * top)
    _style.dress(ax, "Traits of the persons", "trait", "persons")
    return ax


def _traits(estimator: Any) -> Float[np.ndarray, " s"]:
    """A range of traits that covers the persons."""
    if estimator.n_traits != 1:
        raise ValueError(
            f"Curves are drawn over one trait, but the model has {estimator.n_traits}: use "
            "estimator.probabilities and estimator.information."
        )
    spread = np.sqrt(estimator.trait_covariances_[:, 0, 0])
    low = float((estimator.trait_means_[:, 0] - _REACH * spread).min())
    high = float((estimator.trait_means_[:, 0] + _REACH * spread).max())
    return np.linspace(low, high, _POINTS)


def _number(estimator: Any, item: int | str) -> int:
    names = estimator.items_.item
    j = names.index(item) if item in names else item
    if not isinstance(j, int | np.integer) or not 0 <= j < len(names):
        raise ValueError(f"item must be the number or name of an item; got {item!r}.")
    return int(j)
