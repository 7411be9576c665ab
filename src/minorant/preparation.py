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
from minorant.data import ArraySource, Layout, arrange, summarise
from minorant.data.arrays import Table, aligned_zeros, bucket
from minorant.models.base import AbstractTractableModel, count_components


class Prepared(NamedTuple):
    """The problem in the units and precision it is computed in.

    ``spread`` is the largest absolute standardised value: what decides whether products keep
    enough digits.
    """

    template: AbstractTractableModel
    table: Table
    units: Affine
    dtype: np.dtype
    source: ArraySource
    layout: Layout
    fixed: PyTree | None
    names: tuple[str, ...]
    spread: float


def prepare(
    model: AbstractTractableModel,
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
    summary = summarise(table.values, table.weights, names)
    summary = dataclasses.replace(summary, eps=float(np.finfo(dtype).eps))
    model = model.configured(summary)
    units = model.standardiser(summary)
    template = cast(model.rescaled(units), dtype)
    source, layout = arrange(table, units, dtype, template.shares_patterns())
    spread = max(float(np.abs(units.apply(e)).max()) for e in (summary.minimum, summary.maximum))
    mask = None if fixed is None else fixed_mask(template, fixed)
    return Prepared(template, table, units, dtype, source, layout, mask, names, spread)


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """The type to compute in: JAX's own configuration decides whether float64 is to be had."""
    wide = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    return np.dtype(np.float64 if wide and dtype != np.float32 else np.float32)


def cast(model: PyTree, dtype: np.dtype) -> PyTree:
    """Every leaf as a NumPy array of ``dtype``."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype=dtype), model)


def subset(prepared: Prepared, index: Int[np.ndarray, " m"]) -> tuple[ArraySource, Layout]:
    """Some rows as a source of their own, in the same units."""
    table = prepared.table
    weights, labels = (None if f is None else f[index] for f in (table.weights, table.labels))
    part = Table(table.values[index], weights, labels)
    return arrange(part, prepared.units, prepared.dtype, prepared.template.shares_patterns())


def completed_block(
    prepared: Prepared, index: Int[np.ndarray, " m"], rng: np.random.Generator
) -> Rows:
    """Some rows as one padded block, missing cells filled by draws from their column.

    Only starts are chosen from it; the climb itself integrates missing cells out.
    """
    values = prepared.table.values[index]
    values = prepared.units.apply(np.where(np.isnan(values), _draws(values, rng), values))
    block = aligned_zeros((bucket(len(index)), values.shape[1]), prepared.dtype)
    block[: len(index)] = values
    weight = np.zeros(len(block), dtype=prepared.dtype)
    weights = prepared.table.weights
    weight[: len(index)] = 1.0 if weights is None else weights[index]
    return Rows(block, weight)


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
