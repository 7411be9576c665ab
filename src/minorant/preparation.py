"""From a user's table and model to a problem ready to climb: checks, units, precision, blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from minorant._parameters import fixed_mask
from minorant._types import Affine, PyTree, Rows
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
from minorant.data.summary import has_gaps
from minorant.models.base import AbstractExactModel, count_components
from minorant.solvers.starts import subsample, subsample_groups

_INITIAL_ROWS = 1 << 16


class Prepared(NamedTuple):
    """The problem in the units and precision it is computed in.

    ``spread`` is the largest absolute standardised value: what decides whether products keep
    enough digits.
    """

    template: AbstractExactModel
    table: Table
    units: Affine
    dtype: np.dtype
    source: ArraySource
    layout: Layout
    fixed: PyTree | None
    names: tuple[str, ...]
    spread: float


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
    _check_counts(table, count_components(model))
    model.check(table.values, names)
    dtype = compute_dtype(table.values.dtype)
    found = complete_moments(table) if model.compresses(len(names)) else None
    known = None if found is None else found.columns()
    summary = summarise(table.values, table.weights, names, known)
    summary = dataclasses.replace(summary, eps=float(np.finfo(dtype).eps))
    model = model.configured(summary)
    units = model.standardiser(summary)
    template = cast(model.rescaled(units), dtype)
    source, layout = climbed_blocks(template, table, units, dtype, found)
    spread = max(float(np.abs(units.apply(e)).max()) for e in (summary.minimum, summary.maximum))
    mask = None if fixed is None else fixed_mask(template, fixed)
    return Prepared(template, table, units, dtype, source, layout, mask, names, spread)


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


def subset(prepared: Prepared, index: Int[np.ndarray, " m"]) -> tuple[ArraySource, Layout]:
    """Some rows as a source of their own, in the same units."""
    part = prepared.table.take(index)
    return blocks(prepared.template, part, prepared.units, prepared.dtype)


def completed_block(
    prepared: Prepared, index: Int[np.ndarray, " m"], rng: np.random.Generator
) -> Rows:
    """Some rows as one padded block, missing cells filled by draws from their column.

    Only starts are chosen from it; the climb itself integrates missing cells out. Slot j of the
    block is row ``index[j]``.
    """
    values = prepared.table.values[index]
    values = prepared.units.apply(np.where(np.isnan(values), _draws(values, rng), values))
    part = prepared.table.take(index)
    identity = Affine.identity(values.shape[1])
    if prepared.template.is_grouped():
        part = part._replace(values=values)
        return _first_block(arrange_groups(part, identity, prepared.dtype, end_to_end=True)[0])
    block = aligned_zeros((bucket(len(index)), values.shape[1]), prepared.dtype)
    block[: len(index)] = values
    weight = np.zeros(len(block), dtype=prepared.dtype)
    weight[: len(index)] = 1.0 if part.weights is None else part.weights
    return Rows(block, weight)


def initial_block(prepared: Prepared, rng: np.random.Generator) -> Rows:
    """Rows in one block, missing cells marked: what a continuous model chooses its start from."""
    table, template = prepared.table, prepared.template
    n = len(table.values)
    if template.is_grouped():
        index = subsample_groups(rng, table.groups, n, _INITIAL_ROWS)
        part = table.take(index)
        source, _ = arrange_groups(part, prepared.units, prepared.dtype, end_to_end=True)
    else:
        if template.compresses(table.values.shape[1]) and not has_gaps(table.values):
            return _first_block(prepared.source)
        index = subsample(rng, n, _INITIAL_ROWS, table.weights)
        part = table.take(index)
        source, _ = arrange(part, prepared.units, prepared.dtype, False, len(index))
    return _first_block(source)


def _first_block(source: ArraySource) -> Rows:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], source.segments[0].rows)


def _draws(values: Float[np.ndarray, "m d"], rng: np.random.Generator) -> np.ndarray:
    drawn = np.zeros_like(values)
    for j, column in enumerate(values.T):
        missing = np.isnan(column)
        if missing.any() and not missing.all():
            drawn[missing, j] = rng.choice(column[~missing], missing.sum())
    return drawn


def _check_counts(table: Table, k: int) -> None:
    counted = len(table.values) if table.weights is None else int((table.weights > 0).sum())
    if counted < k:
        raise ValueError(
            f"{k} components cannot be told apart by {counted} rows: give more rows or fewer "
            "components."
        )
    if table.labels is not None and table.labels.max() >= k:
        row = int(np.argmax(table.labels))
        raise ValueError(
            f"labels must be below the number of components, {k}; row {row} has "
            f"{table.labels[row]}."
        )
