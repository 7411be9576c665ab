"""Parameters of items as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from minorant.models import LatentTrait
    from minorant.result import Fit


_LOGISTIC = 1.702  # a logistic curve of this slope is nearest to the normal distribution function


class ItemTable(NamedTuple):
    """Parameters of items; rows are padded with NaN where items have fewer answers than others.

    Attributes:
        item: (d,) names.
        structure: (d,) names of the item structures.
        slopes: (d, l) a.
        intercepts: (d, c) d.
        difficulties: (d, c) where each step stands on the trait: for 0/1 items ``-d / |a|``, for
            graded response where ``p(x >= c) = 1/2``, for partial credit where answers c - 1 and c
            are equally likely.
        guessing: (d,) lower asymptotes, 0 where there is none.
    """

    item: tuple[str, ...]
    structure: tuple[str, ...]
    slopes: Float[np.ndarray, "d l"]
    intercepts: Float[np.ndarray, "d c"]
    difficulties: Float[np.ndarray, "d c"]
    guessing: Float[np.ndarray, " d"]

    def __str__(self) -> str:
        """The table: slopes, then difficulties, then guessing."""
        width = max(4, *map(len, self.item))
        l, c = self.slopes.shape[1], self.difficulties.shape[1]
        head = [f"{'item':<{width}}", f"{'structure':<24}"]
        head += [f"{f'slope {k + 1}':>9}" for k in range(l)]
        head += [f"{f'b {k + 1}':>9}" for k in range(c)] + [f"{'guessing':>9}"]
        lines = []
        for j, name in enumerate(self.item):
            numbers = [*self.slopes[j], *self.difficulties[j], self.guessing[j]]
            cells = [f"{x:9.4f}" if np.isfinite(x) else " " * 9 for x in numbers]
            lines.append(" ".join([f"{name:<{width}}", f"{self.structure[j]:<24}", *cells]))
        return "\n".join([" ".join(head), *lines])


class TraitLoadings(NamedTuple):
    """Slopes as factor loadings, rotated to simple structure.

    Attributes:
        item: (d,) names.
        loadings: (d, l) ``a / sqrt(D^2 + a' a)`` with D = 1.702, what the loadings would be if
            answers were cuts of normal variables; of oblique traits the pattern.
        communality: (d,) the share of that variable's variance that the traits explain.
        correlation: (l, l) of the rotated traits.
        transform: (l, l) T: rotated traits are ``traits @ T``.
        slopes: (d, l) slopes on the rotated traits, ``a (T^T)^-1``.
    """

    item: tuple[str, ...]
    loadings: Float[np.ndarray, "d l"]
    communality: Float[np.ndarray, " d"]
    correlation: Float[np.ndarray, "l l"]
    transform: Float[np.ndarray, "l l"]
    slopes: Float[np.ndarray, "d l"]

    def __str__(self) -> str:
        """Loadings and communalities, then correlations."""
        width, l = max(4, *map(len, self.item)), self.loadings.shape[1]
        numbers = [f"trait {k + 1:<3}" for k in range(l)]
        lines = [" ".join([f"{'item':<{width}}", *numbers, "communality"])]
        for name, row, share in zip(self.item, self.loadings, self.communality, strict=True):
            cells = [f"{x:9.4f}" for x in row]
            lines.append(" ".join([f"{name:<{width}}", *cells, f"{share:11.4f}"]))
        lines += [" ".join(["", *(f"{x:9.4f}" for x in row)]) for row in self.correlation]
        return "\n".join(lines)


def trait_loadings(model: LatentTrait, names: tuple[str, ...], method: str | None) -> TraitLoadings:
    """Loadings of the first group, rotated by a method of `minorant.models.rotation`, or as fitted.

    Raises:
        ValueError: for a method where a pattern or a single trait leaves nothing to rotate.
    """
    from minorant.models.rotation import Rotation, rotate

    l = model.n_traits
    if method is not None and (l == 1 or model.pattern is not None):
        why = "there is one trait" if l == 1 else "the pattern says what each trait is"
        raise ValueError(
            f"rotation must be None here, because {why}; got {method!r}. Rotations are for two or "
            "three traits without a pattern."
        )
    slopes = item_table(model, names).slopes
    covariance = np.asarray(model.covariance, float)[0]
    size = np.sqrt(np.diag(covariance))
    explained = np.einsum("dl,lm,dm->d", slopes, covariance, slopes)
    loadings = slopes * size / np.sqrt(_LOGISTIC**2 + explained)[:, None]
    correlation, found = covariance / np.outer(size, size), Rotation(loadings, np.eye(l), np.eye(l))
    if method is not None:
        found = rotate(loadings, method)
        correlation = found.correlation
    return TraitLoadings(
        names,
        found.loadings,
        explained / (_LOGISTIC**2 + explained),
        correlation,
        found.transform,
        slopes @ np.linalg.inv(found.transform).T,
    )


def item_table(model: LatentTrait, names: tuple[str, ...]) -> ItemTable:
    """Parameters of items in the table's order."""
    d = len(names)
    most = max(np.asarray(item.intercepts).shape[1] for item in model.items)
    slopes, guessing = np.zeros((d, model.n_traits)), np.zeros(d)
    intercepts, places = np.full((d, most), np.nan), np.full((d, most), np.nan)
    structure = [""] * d
    for columns, item in model._stacks():
        own, steps = list(columns), np.asarray(item.intercepts).shape[1]
        slopes[own] = np.asarray(item.slopes)
        intercepts[own, :steps] = np.asarray(item.intercepts)
        places[own, :steps] = np.asarray(item.locations())
        guessing[own] = getattr(item, "guessing", 0.0)
        for j in own:
            structure[j] = type(item).__name__
    return ItemTable(names, tuple(structure), slopes, intercepts, places, guessing)


def item_errors(fit: Fit, covariance: Float[np.ndarray, "p p"], step: float = 1e-5) -> ItemTable:
    """Standard errors in every parameter's place, by the delta method; 0 where nothing is learned.

    Args:
        fit: a fit of a latent trait model.
        covariance: of the free coordinates.
        step: of the central differences.
    """
    import jax

    from minorant._parameters import from_vector, to_vector

    template = jax.tree.map(lambda leaf: np.asarray(leaf, dtype=float), fit.model)
    at = np.asarray(to_vector(template), dtype=float)

    def numbers(vector: np.ndarray) -> tuple[np.ndarray, ...]:
        return item_table(from_vector(template, vector), fit.names)[2:]

    pieces = [np.asarray(piece) for piece in numbers(at)]
    slopes = [np.zeros((piece.size, len(at))) for piece in pieces]
    for k, move in enumerate(step * np.eye(len(at))):
        pairs = zip(numbers(at + move), numbers(at - move), strict=True)
        for slope, (ahead, behind) in zip(slopes, pairs, strict=True):
            slope[:, k] = ((ahead - behind) / (2.0 * step)).ravel()
    errors = [np.sqrt(np.einsum("ip,pq,iq->i", j, covariance, j)) for j in slopes]
    shaped = [error.reshape(piece.shape) for error, piece in zip(errors, pieces, strict=True)]
    return ItemTable(*item_table(fit.model, fit.names)[:2], *shaped)
