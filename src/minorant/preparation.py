"""From a user's table and model to a problem ready to climb: checks, units, precision, blocks."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from minorant._parameters import fixed_mask
from minorant._types import Affine, PyTree, Rows, Summary
from minorant.data import (
    ArraySource,
    Complete,
    Layout,
    arrange,
    arrange_compressed,
    arrange_groups,
    complete_moments,
    summarise,
)
from minorant.data.arrays import Table, aligned_zeros, bucket
from minorant.data.base import BlockFunction
from minorant.data.company import AbstractCompany, Alone
from minorant.data.summary import has_gaps, row_blocks
from minorant.models.base import AbstractExactModel, count_components
from minorant.solvers.starts import subsample, subsample_groups

_INITIAL_ROWS = 1 << 16


class Drawn(NamedTuple):
    """Rows drawn from all: which, and whether they are all there are."""

    table: Table
    index: Int[np.ndarray, " m"]
    whole: bool


class AbstractStream(ABC):
    """Rows that are not in memory, as a problem needs them besides being summed over."""

    @abstractmethod
    def n_rows(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def drawn(self, rng: np.random.Generator, size: int, grouped: bool) -> Drawn:
        """Some rows; of groups whole ones."""

    @abstractmethod
    def by_row(self, function: BlockFunction, parameters: PyTree) -> Iterator[tuple[Table, PyTree]]:
        """Chunk after chunk, a function's answers for each of its rows."""

    def company(self) -> AbstractCompany:
        """The processes that have the rows between them."""
        return Alone()


class Prepared(NamedTuple):
    """The problem in the units and precision it is computed in.

    ``spread`` is the largest absolute standardised value: what decides whether products keep
    enough digits. ``log_scale`` is ``sum_i w_i sum_(observed j) log scale_j``, the Jacobian of the
    change of units. Where rows are not in memory ``table`` is empty and ``stream`` has them.
    """

    template: AbstractExactModel
    table: Table
    units: Affine
    dtype: np.dtype
    source: Any  # an ArraySource, or where rows are not in memory an AbstractPassedSource
    layout: Layout
    fixed: PyTree | None
    names: tuple[str, ...]
    spread: float
    log_scale: float
    stream: AbstractStream | None = None

    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self.table.values) if self.stream is None else self.stream.n_rows()

    def company(self) -> AbstractCompany:
        """The processes that have the rows between them."""
        return Alone() if self.stream is None else self.stream.company()

    def drawn(self, rng: np.random.Generator, size: int) -> Drawn:
        """Some rows, those of weight zero left out; of groups whole ones."""
        grouped = self.template.is_grouped()
        if self.stream is not None:
            return self.stream.drawn(rng, size, grouped)
        index = (
            _drawn_groups(self.table, rng, size)
            if grouped
            else (subsample(rng, self.n_rows(), size, self.table.weights))
        )
        return Drawn(self.table.take(index), index, len(index) == self.n_rows())

    def of_rows(self, table: Table) -> Prepared:
        """The problem of some rows in memory, in the same units."""
        source, layout = blocks(self.template, table, self.units, self.dtype)
        return self._replace(table=table, source=source, layout=layout, stream=None)


def prepare(
    model: AbstractExactModel,
    table: Table,
    names: tuple[str, ...],
    fixed: Callable[[Any], Any] | None = None,
) -> Prepared:
    """Checks, units, precision and blocks: everything before the first step.

    Raises:
        ValueError: when the table cannot be described by the model.
    """
    counted = len(table.values) if table.weights is None else int((table.weights > 0).sum())
    check_counts(counted, count_components(model))
    check_labels(table, count_components(model))
    model.check(table.values, names)
    dtype = compute_dtype(table.values.dtype)
    found = complete_moments(table) if model.compresses(len(names)) else None
    known = None if found is None else found.columns()
    summary = summarise(table.values, table.weights, names, known)
    template, units = described(model, summary, dtype)
    source, layout = climbed_blocks(template, table, units, dtype, found)
    source = _at_hand(source)
    mask = None if fixed is None else fixed_mask(template, fixed)
    spread, log_scale = spread_of(summary, units), _log_scale(table, units)
    return Prepared(template, table, units, dtype, source, layout, mask, names, spread, log_scale)


def _at_hand(source: ArraySource) -> ArraySource:
    """The blocks where they are computed with: on an accelerator they are to be sent there once."""
    return source if jax.default_backend() == "cpu" else jax.device_put(source)


def described(
    model: AbstractExactModel, summary: Summary, dtype: np.dtype
) -> tuple[AbstractExactModel, Affine]:
    """The model in the units it computes best in, and these units."""
    summary = dataclasses.replace(summary, eps=float(np.finfo(dtype).eps))
    model = model.configured(summary)
    units = model.standardiser(summary)
    return cast(model.rescaled(units), dtype), units


def spread_of(summary: Summary, units: Affine) -> float:
    """The largest absolute value in these units."""
    return max(float(np.abs(units.apply(e)).max()) for e in (summary.minimum, summary.maximum))


def blocks(
    model: AbstractExactModel, table: Table, units: Affine, dtype: np.dtype, **options: Any
) -> tuple[ArraySource, Layout]:
    """The rows as this model wants them blocked."""
    if model.is_grouped():
        return arrange_groups(table, units, dtype)
    return arrange(table, units, dtype, model.shares_patterns(), **options)


def climbed_blocks(
    model: AbstractExactModel,
    table: Table,
    units: Affine,
    dtype: np.dtype,
    found: Complete | None = None,
) -> tuple[ArraySource, Layout]:
    """The rows as they are climbed on: compressed where the model allows."""
    if model.compresses(table.values.shape[1]):
        return arrange_compressed(table, units, dtype, model.shares_patterns(), found)
    return blocks(model, table, units, dtype)


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """The type to compute in: JAX's own configuration decides whether float64 is to be had."""
    wide = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    return np.dtype(np.float64 if wide and dtype != np.float32 else np.float32)


def cast(model: PyTree, dtype: np.dtype) -> PyTree:
    """Every leaf as a NumPy array of ``dtype``."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype=dtype), model)


def completed_block(prepared: Prepared, table: Table, rng: np.random.Generator) -> Rows:
    """Some rows as one padded block, missing cells filled by draws from their column.

    Only starts are chosen from it; the climb itself integrates missing cells out. Slot j of the
    block is row j.
    """
    values = np.where(np.isnan(table.values), _draws(table.values, rng), table.values)
    values = prepared.units.apply(values)
    n, d = values.shape
    if prepared.template.is_grouped():
        part = table._replace(values=values)
        identity = Affine.identity(d)
        return _first_block(arrange_groups(part, identity, prepared.dtype, end_to_end=True)[0])
    block = aligned_zeros((bucket(n), d), prepared.dtype)
    block[:n] = values
    weight = np.zeros(len(block), dtype=prepared.dtype)
    weight[:n] = 1.0 if table.weights is None else table.weights
    return Rows(block, weight)


def initial_block(prepared: Prepared, rng: np.random.Generator) -> Rows:
    """Rows in one block, missing cells marked: what a continuous model chooses its start from."""
    template = prepared.template
    held = prepared.stream is None and not has_gaps(prepared.table.values)
    if held and template.compresses(len(prepared.names)) and not template.is_grouped():
        return _first_block(prepared.source)
    table = prepared.drawn(rng, _INITIAL_ROWS).table
    if template.is_grouped():
        source, _ = arrange_groups(table, prepared.units, prepared.dtype, end_to_end=True)
    else:
        n = len(table.values)
        source, _ = arrange(table, prepared.units, prepared.dtype, False, n)
    return _first_block(source)


def _drawn_groups(table: Table, rng: np.random.Generator, size: int) -> np.ndarray:
    """Row numbers of whole groups, sorted by group."""
    codes = np.zeros(len(table.values), dtype=np.int64) if table.groups is None else table.groups
    order = np.argsort(codes, kind="stable")
    return order[subsample_groups(rng, np.bincount(codes), size)]


def _log_scale(table: Table, units: Affine) -> float:
    """``sum_i w_i sum_(observed j) log scale_j``: the Jacobian of the change of units."""
    logs = np.log(units.scale)
    if not logs.any():
        return 0.0
    total = 0.0
    for block, weights in row_blocks(table.values, table.weights):
        weight = np.ones(len(block)) if weights is None else weights
        if has_gaps(block):
            total += float(weight @ ~np.isnan(block) @ logs)
        else:
            total += float(weight.sum() * logs.sum())
    return total


def _first_block(source: Any) -> Rows:
    return jax.tree.map(lambda leaf: np.asarray(leaf[0]), source.segments[0].rows)


def _draws(values: Float[np.ndarray, "m d"], rng: np.random.Generator) -> np.ndarray:
    drawn = np.zeros_like(values)
    for j, column in enumerate(values.T):
        missing = np.isnan(column)
        if missing.any() and not missing.all():
            drawn[missing, j] = rng.choice(column[~missing], missing.sum())
    return drawn


def check_counts(counted: int, k: int) -> None:
    """Raise ValueError when there are fewer rows than components."""
    if counted < k:
        raise ValueError(
            f"{k} components cannot be told apart by {counted} rows: give more rows or fewer "
            "components."
        )


def check_labels(table: Table, k: int) -> None:
    """Raise ValueError for a known component that is none of the k."""
    if table.labels is not None and table.labels.max() >= k:
        row = int(np.argmax(table.labels))
        raise ValueError(
            f"labels must be below the number of components, {k}; row {row} has "
            f"{table.labels[row]}."
        )
