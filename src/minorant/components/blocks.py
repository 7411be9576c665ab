"""Different components on different columns, independent given k: for tables of mixed types.

Everything delegates: each part sees its own columns of every block, and scores, sums and starts of
the parts are put together again.
"""

from __future__ import annotations

import functools
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components.base import AbstractComponent, of
from minorant.components.custom import as_component


class Blocks(AbstractComponent):
    r"""A product of components over disjoint sets of columns.

    .. math:: \log p(x \mid k) = \sum_b \log p_b(x_{\mathrm{columns}_b} \mid k)

    Args:
        parts: one component for each block of columns.
        columns: for each part the positions of its columns; together every column once.

    Raises:
        ValueError: when parts and columns do not match or a column is taken twice or not at all.

    Example:
        >>> from minorant.components import Blocks, Gaussian, Poisson
        >>> Blocks((Gaussian(), Poisson()), ((0, 2), (1,))).columns
        ((0, 2), (1,))

    Not for: columns that depend on each other within a component (give them to one part).
    """

    parts: tuple[AbstractComponent, ...] = eqx.field(
        converter=lambda parts: tuple(as_component(part) for part in parts)
    )
    columns: tuple[tuple[int, ...], ...] = eqx.field(
        static=True, converter=lambda columns: tuple(tuple(int(j) for j in c) for c in columns)
    )

    def __check_init__(self) -> None:
        """Raise ValueError for columns that do not partition the table."""
        if len(self.parts) != len(self.columns) or not self.parts:
            raise ValueError(
                f"Blocks needs one set of columns for each part; got {len(self.parts)} parts and "
                f"{len(self.columns)} sets of columns."
            )
        taken = sorted(j for columns in self.columns for j in columns)
        if taken != list(range(len(taken))) or not all(self.columns):
            raise ValueError(
                f"Blocks must give every column to one part: columns {self.columns} do not hold "
                f"each of 0 to {max(taken, default=0)} once, at least one for each part."
            )

    def prepare(self) -> PyTree:
        """The parts' preparations."""
        return tuple(part.prepare() for part in self.parts)

    def log_prob(self, rows: Rows, prepared: PyTree) -> Float[Array, "k n"]:
        """The sum of the parts'."""
        scores = [
            part.log_prob(own, own_prepared)
            for part, own, own_prepared in zip(self.parts, self._rows(rows), prepared, strict=True)
        ]
        return sum(scores[1:], scores[0])

    def statistics(self, rows: Rows, responsibilities: Array, prepared: PyTree) -> PyTree:
        """The parts' statistics."""
        each = (None,) * len(self.parts) if prepared is None else prepared
        return tuple(
            part.statistics(own, responsibilities, own_prepared)
            for part, own, own_prepared in zip(self.parts, self._rows(rows), each, strict=True)
        )

    def maximise(self, statistics: PyTree, fixed: PyTree | None) -> Self:
        """The parts' M-steps."""
        masks = of(fixed, "parts") or (None,) * len(self.parts)
        zipped = zip(self.parts, statistics, masks, strict=True)
        return self._with([part.maximise(sums, mask) for part, sums, mask in zipped])

    def expected_log_prob(self, statistics: PyTree) -> Float[Array, " k"]:
        """The sum of the parts'."""
        pairs = zip(self.parts, statistics, strict=True)
        values = [part.expected_log_prob(sums) for part, sums in pairs]
        return sum(values[1:], values[0])

    def log_prior(self) -> Float[Array, ""]:
        """The sum of the parts'."""
        values = [part.log_prior() for part in self.parts]
        return sum(values[1:], values[0])

    def sample(self, key: Key, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """The parts' draws, side by side."""
        keys = jax.random.split(key, len(self.parts))
        drawn = [part.sample(k, labels) for part, k in zip(self.parts, keys, strict=True)]
        return self._joined(drawn)

    def conditional_mean(self, rows: Rows, prepared: PyTree) -> Float[Array, "k n d"]:
        """The parts', side by side."""
        zipped = zip(self.parts, self._rows(rows), prepared, strict=True)
        return self._joined([part.conditional_mean(own, p) for part, own, p in zipped])

    def conditional_sample(
        self, key: Key, rows: Rows, labels: Int[Array, " n"], prepared: PyTree
    ) -> Float[Array, "n d"]:
        """The parts', side by side."""
        keys = jax.random.split(key, len(self.parts))
        zipped = zip(self.parts, keys, self._rows(rows), prepared, strict=True)
        drawn = [part.conditional_sample(k, own, labels, p) for part, k, own, p in zipped]
        return self._joined(drawn)

    def configured(self, summary: Summary, n_components: int) -> Self:
        """Each part from its own columns.

        Raises:
            ValueError: when the table has more or fewer columns than the blocks.
        """
        expected = sum(map(len, self.columns))
        if summary.n_columns != expected:
            raise ValueError(
                f"Blocks describes {expected} columns, the table has {summary.n_columns}: give "
                "every column to one part."
            )
        pairs = zip(self.parts, self._summaries(summary), strict=True)
        return self._with([part.configured(own, n_components) for part, own in pairs])

    def standardiser(self, summary: Summary) -> Affine:
        """The parts' units, column by column."""
        pairs = zip(self.parts, self._summaries(summary), strict=True)
        units = [part.standardiser(own) for part, own in pairs]
        shift, scale = np.zeros(summary.n_columns), np.ones(summary.n_columns)
        for columns, own in zip(self.columns, units, strict=True):
            shift[list(columns)], scale[list(columns)] = own.shift, own.scale
        return Affine(shift, scale)

    def rescaled(self, units: Affine) -> Self:
        """Each part in its columns' units."""
        pairs = zip(self.parts, self.columns, strict=True)
        return self._with([part.rescaled(_units(units, columns)) for part, columns in pairs])

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """The parts' embeddings side by side, each scaled so that none dominates.

        A part's total variance becomes its number of columns.
        """
        pairs = zip(self.parts, self.columns, strict=True)
        return np.concatenate(
            [_balanced(part.embedding(values[:, list(c)]), len(c)) for part, c in pairs], axis=1
        )

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Each part checks its columns, by their own names."""
        for part, columns in zip(self.parts, self.columns, strict=True):
            inside = [j for j in columns if j < values.shape[1]]
            part.check(values[:, inside], tuple(names[j] for j in inside))

    def collapsed(self) -> np.ndarray:
        """Summed over parts."""
        return np.sum([part.collapsed() for part in self.parts], axis=0)

    def projected(self) -> Self:
        """Each part inside its floors."""
        return self._with([part.projected() for part in self.parts])

    def stabilised(self, spread: float) -> Self:
        """Each part in the form that this precision asks for."""
        return self._with([part.stabilised(spread) for part in self.parts])

    def shares_patterns(self) -> bool:
        """When any part does."""
        return any(part.shares_patterns() for part in self.parts)

    def rounding(self, prepared: PyTree) -> Array | float:
        """The largest of the parts' amplifications."""
        each = [part.rounding(own) for part, own in zip(self.parts, prepared, strict=True)]
        return functools.reduce(jnp.maximum, each)

    def adds_up(self) -> bool:
        """Whether every part's do."""
        return all(part.adds_up() for part in self.parts)

    def may_overshoot(self) -> bool:
        """When any part does."""
        return any(part.may_overshoot() for part in self.parts)

    def _with(self, parts: list[AbstractComponent]) -> Self:
        return type(self)(tuple(parts), self.columns)

    def _rows(self, rows: Rows) -> list[Rows]:
        return [_cut(rows, columns) for columns in self.columns]

    def _summaries(self, summary: Summary) -> list[Summary]:
        return [_summary(summary, list(columns)) for columns in self.columns]

    def _joined(self, pieces: list[Array]) -> Array:
        """Columns of the parts back in the table's order."""
        order = np.argsort(np.concatenate(self.columns))
        return jnp.concatenate(pieces, axis=-1)[..., order]


def _cut(rows: Rows, columns: tuple[int, ...]) -> Rows:
    index = np.asarray(columns)
    observed = None if rows.observed is None else rows.observed[:, index]
    values = rows.values[:, index]
    return Rows(values, rows.weight, observed, rows.labels, _cut_absent(rows, index))


def _cut_absent(rows: Rows, index: np.ndarray) -> Int[Array, "n p"] | None:
    """The missing columns among these, by their place in the part; -1 for all others."""
    if rows.absent is None:
        return None
    place = np.full(rows.values.shape[1], -1, dtype=np.int32)
    place[index] = np.arange(len(index))
    return jnp.where(rows.absent >= 0, jnp.asarray(place)[jnp.maximum(rows.absent, 0)], -1)


def _units(units: Affine, columns: tuple[int, ...]) -> Affine:
    index = np.asarray(columns)
    return Affine(units.shift[index], units.scale[index])


def _summary(summary: Summary, index: list[int]) -> Summary:
    return Summary(
        mean=summary.mean[index],
        variance=summary.variance[index],
        minimum=summary.minimum[index],
        maximum=summary.maximum[index],
        total_weight=summary.total_weight,
        names=tuple(summary.names[j] for j in index),
        eps=summary.eps,
    )


def _balanced(points: np.ndarray, n_columns: int) -> np.ndarray:
    total = float(points.var(0).sum())
    return points * np.sqrt(n_columns / total) if total > 0 else points
