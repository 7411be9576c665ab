"""Rows scored under a fit: the exact posterior, log p(x) and labels, in the table's row order.

Rows are scored in the units and the float type that the fit was computed in, where no digits are
lost; ``log p`` is brought back to the data's units by the Jacobian of the change of units. The
float type is set in a scope, so a float64 fit scores in float64 whatever JAX's own switch says.
What comes back is NumPy. Rows may be chunks, or files: see :mod:`minorant.evidence.in_chunks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant import _config
from minorant._types import Array, PyTree, Rows
from minorant.data.arrays import ArraySource, Layout, Table
from minorant.data.tables import as_table
from minorant.evidence.in_chunks import checked_tables, joined, opened, refuse_chunks
from minorant.models.base import AbstractExactModel
from minorant.posteriors import AbstractPosterior, Categorical, Encoder
from minorant.preparation import blocks
from minorant.result import Fit

_SHOWN = 6


class Scored(NamedTuple):
    """A table as the fit's model sees it; ``log_scale`` is each row's Jacobian, in nats."""

    table: Table
    source: ArraySource
    layout: Layout
    log_scale: Float[np.ndarray, " n"]


def posterior(
    fit: Fit,
    X: Any,  # noqa: N803
    groups: Any = None,
    inputs: Any = None,
    refine: bool = False,
) -> AbstractPosterior:
    r"""The exact posterior of every row's latent; of a mixture, its responsibilities.

    .. math:: p(z_i \mid x_i) = p(x_i, z_i) / p(x_i)

    Args:
        fit: what ``minorant.fit`` returned.
        X: (n, d) table with the fit's columns; NaN where a cell is missing. A row without any
            observed cell gets the prior. Or rows out of memory: ``minorant.chunks(...)``, a memory
            map, or a path or pattern of files, where ``groups`` and ``inputs`` name columns.
        groups: (n,) the sequence or cluster of each row, for models of groups.
        inputs: (n, m) covariates, for models that condition on them.
        refine: of a fit with an encoder: each row's own best Gaussian, climbed to from what the
            encoder gives.

    Returns:
        For a finite latent a :class:`Categorical` whose ``probability`` is (k, n), columns in the
        table's row order; of a sequence, every step's marginal given the whole sequence.

    Raises:
        ValueError: for cells or columns that the fit cannot describe.

    Example:
        >>> import numpy as np, minorant
        >>> rows = np.r_[np.arange(20.0), 100 + np.arange(20.0)][:, None]
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=2)
        >>> fit = minorant.fit(model, rows)
        >>> np.round(minorant.evidence.posterior(fit, [[5.0], [105.0]]).probability.max(0), 3)
        array([1., 1.], dtype=float32)
    """
    if refine and not isinstance(getattr(fit.standardised, "family", None), Encoder):
        raise ValueError("refine= is for a fit with an encoder: leave it out.")
    kind, found = None, []
    for scored in each_scored(fit, X, None, groups, inputs):
        kind = kind or posterior_kind(fit, scored)
        found.append(mapped(fit, scored, _refined_by_row if refine else _by_row))
    return kind.from_rows(joined(found))  # pyright: ignore[reportOptionalMemberAccess]


def log_evidence(
    fit: Fit,
    X: Any,  # noqa: N803
    groups: Any = None,
    inputs: Any = None,
) -> Float[np.ndarray, " n"]:
    r"""``log p(x)`` of every row, in nats, every constant kept.

    Of a model of groups the rows' numbers add up to each group's; of sequences they are
    ``log p(x_t | x_1 .. x_{t-1})``.

    Args:
        fit: what ``minorant.fit`` returned.
        X: (n, d) table with the fit's columns; missing cells are integrated out, so a row without
            any observed cell has 0. Or rows out of memory, as in :func:`posterior`.
        groups: (n,) the sequence or cluster of each row, for models of groups.
        inputs: (n, m) covariates, for models that condition on them.

    Returns:
        (n,), in float64 and in the table's row order.

    Raises:
        ValueError: for cells or columns that the fit cannot describe.

    Example:
        >>> import numpy as np, minorant
        >>> rows = np.arange(20.0)[:, None]
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=1)
        >>> fit = minorant.fit(model, rows)
        >>> bool(np.isclose(minorant.evidence.log_evidence(fit, rows).sum(), fit.bound))
        True
    """
    scored = each_scored(fit, X, None, groups, inputs)
    return joined([rows_log_evidence(fit, one) for one in scored])


def labels(
    fit: Fit,
    X: Any,  # noqa: N803
    groups: Any = None,
    inputs: Any = None,
) -> Int[np.ndarray, " n"]:
    """The most probable component of every row; see :func:`posterior`.

    Args:
        fit: what ``minorant.fit`` returned.
        X: (n, d) table with the fit's columns; or rows out of memory, as in :func:`posterior`.
        groups: (n,) the sequence of each row, for models of sequences.
        inputs: (n, m) covariates, for models that condition on them.

    Returns:
        (n,) numbers from 0, in the table's row order.

    Raises:
        TypeError: when the latent is not finite.
        ValueError: for cells or columns that the fit cannot describe.
    """
    return joined([_labels(fit, one) for one in each_scored(fit, X, None, groups, inputs)])


def _labels(fit: Fit, scored: Scored) -> Int[np.ndarray, " n"]:
    found = posterior_kind(fit, scored).from_rows(mapped(fit, scored, _by_row))
    if not isinstance(found, Categorical):
        raise TypeError(f"{type(fit.model).__name__} has no components: its latent is not finite.")
    return np.argmax(found.log_probability, axis=0)


def arranged(
    fit: Fit,
    X: Any,  # noqa: N803
    weights: Any = None,
    groups: Any = None,
    inputs: Any = None,
) -> Scored:
    """The table checked against the fit, in blocks, in the units the fit was computed in."""
    return in_blocks(fit, checked(fit, X, weights, groups, inputs))


def each_scored(
    fit: Fit,
    X: Any,  # noqa: N803
    weights: Any = None,
    groups: Any = None,
    inputs: Any = None,
) -> Iterator[Scored]:
    """The same of each table that the rows come in: one of rows in memory, else of every chunk."""
    for table in each_checked(fit, X, weights, groups, inputs):
        yield in_blocks(fit, table)


def each_checked(
    fit: Fit,
    X: Any,  # noqa: N803
    weights: Any = None,
    groups: Any = None,
    inputs: Any = None,
) -> Iterator[Table]:
    """The tables that the rows come in, if the fit can describe them; see :func:`checked`.

    Raises:
        OSError: for files that cannot be read.
    """
    names = None if _unnamed(fit.names) else fit.names
    chunks = opened(X, names, (weights, groups, inputs))
    if chunks is None:
        yield checked(fit, X, weights, groups, inputs)
        return
    _check_exact(fit)
    check_columns(chunks.names, fit.names)
    yield from checked_tables(chunks, lambda table: _check_chunk(fit, table))


def _check_chunk(fit: Fit, table: Table) -> None:
    if fit.model.is_grouped() and table.groups is None:
        raise ValueError(
            f"{type(fit.model).__name__} is for groups of rows: name the column that tells them "
            "apart, groups=."
        )
    fit.model.check(table.values, fit.names)


def in_blocks(fit: Fit, table: Table) -> Scored:
    """A checked table in blocks, in the units the fit was computed in."""
    units, dtype = fit.units, np.dtype(fit.dtype)
    source, layout = blocks(fit.standardised, table, units, dtype)
    log_scale = ~np.isnan(table.values) @ np.log(units.scale)
    return Scored(table, source, layout, log_scale)


def rows_log_evidence(fit: Fit, scored: Scored) -> Float[np.ndarray, " n"]:
    """``log p(x)`` of every row, in the data's units."""
    return mapped(fit, scored, log_evidence_by_slot).astype(float) - scored.log_scale


def checked(
    fit: Fit,
    X: Any,  # noqa: N803
    weights: Any = None,
    groups: Any = None,
    inputs: Any = None,
) -> Table:
    """The table, if the fit can describe it.

    Raises:
        TypeError: when the model has no exact posterior.
        ValueError: for cells or columns that the fit cannot describe.
    """
    _check_exact(fit)
    refuse_chunks(X)
    table, names = as_table(X, weights, None, groups, inputs, empty_rows=True)
    check_columns(names, fit.names)
    fit.model.check(table.values, names)
    return table


def _check_exact(fit: Fit) -> None:
    if not isinstance(fit.standardised, AbstractExactModel):
        raise TypeError(
            f"{type(fit.standardised).__name__} has no exact posterior, so its rows cannot be "
            "scored exactly: fit a tractable model such as minorant.Mixture."
        )


def check_columns(names: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raise a ValueError unless the columns are those of the fit, in its order.

    Names are compared where both tables had them.
    """
    if len(names) != len(known):
        raise ValueError(
            f"The fit has {len(known)} columns ({_shown(known)}), but the table has {len(names)} "
            f"({_shown(names)}): give exactly the fit's columns."
        )
    if names == known or _unnamed(names) or _unnamed(known):
        return
    if set(names) == set(known):
        raise ValueError(
            f"The table has the fit's columns in another order ({_shown(names)}; the fit has "
            f"{_shown(known)}): select them in the fit's order, fit.names."
        )
    missing = [name for name in known if name not in names]
    extra = [name for name in names if name not in known]
    raise ValueError(
        f"The table lacks the fit's columns {_shown(missing)} and has {_shown(extra)} instead: "
        "rename or select columns so that they are those of fit.names."
    )


def mapped(fit: Fit, scored: Scored, function: Any, *per_block: Any) -> Any:
    """A compiled per-row question, its answers in the table's row order."""
    _config.enable_compilation_cache()
    with _config.precision(np.dtype(fit.dtype)):
        results = jax.device_get(function(fit.standardised, scored.source, *per_block))
    return jax.tree.map(lambda *leaves: scored.layout.restore(leaves), *results)


def posterior_kind(fit: Fit, scored: Scored) -> Any:
    """The class of the model's posterior; nothing is computed."""
    segment = scored.source.segments[0]
    rows = jax.tree.map(lambda leaf: leaf[0], segment.rows)
    with _config.precision(np.dtype(fit.dtype)):
        model = fit.standardised
        return type(eqx.filter_eval_shape(lambda: model.posterior(rows, model.prepare())))


@_config.small_jit
def _by_row(model: AbstractExactModel, source: ArraySource) -> tuple[PyTree, ...]:
    def told(parameters: PyTree, rows: Rows) -> PyTree:
        model, prepared = parameters
        return model.posterior(rows, prepared).by_row()

    return source.map(told, (model, model.prepare()))


@_config.small_jit
def _refined_by_row(model: Any, source: ArraySource) -> tuple[PyTree, ...]:
    def told(model: Any, rows: Rows) -> PyTree:
        q = model.refined_in_rows(rows)
        return q.mean, q.factor @ jnp.swapaxes(q.factor, -1, -2)

    return source.map(told, model)


@_config.small_jit
def log_evidence_by_slot(model: AbstractExactModel, source: ArraySource) -> tuple[Array, ...]:
    """``log p(x)`` of every row, segment by segment; see ``Layout.restore``."""

    def evidence(parameters: PyTree, rows: Rows) -> Float[Array, " n"]:
        model, prepared = parameters
        return model.log_evidence(rows, prepared)

    return source.map(evidence, (model, model.prepare()))


def _unnamed(names: tuple[str, ...]) -> bool:
    return names == tuple(f"column {j}" for j in range(len(names)))


def _shown(names: Any) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
