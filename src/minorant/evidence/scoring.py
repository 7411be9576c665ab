"""Rows scored under a fit: the exact posterior, log p(x) and labels, in the table's row order.

Rows are scored in the units and the float type that the fit was computed in, where no digits are
lost; ``log p`` is brought back to the data's units by the Jacobian of the change of units. The
float type is set in a scope, so a float64 fit scores in float64 whatever JAX's own switch says.
What comes back is NumPy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from minorant import _config
from minorant._types import Array, PyTree, Rows
from minorant.data.arrays import ArraySource, Layout, Table, arrange
from minorant.data.tables import as_table
from minorant.models.base import AbstractTractableModel
from minorant.posteriors import Categorical
from minorant.result import Fit

_SHOWN = 6


class Scored(NamedTuple):
    """A table as the fit's model sees it; ``log_scale`` is each row's Jacobian, in nats."""

    table: Table
    source: ArraySource
    layout: Layout
    log_scale: Float[np.ndarray, " n"]


def posterior(fit: Fit, X: Any) -> Categorical:  # noqa: N803
    r"""The exact posterior of every row: its responsibilities.

    .. math:: r_i(k) = w_k\, p(x_i \mid k) / p(x_i)

    Args:
        fit: what ``minorant.fit`` returned.
        X: (n, d) table with the fit's columns; NaN where a cell is missing. A row without any
            observed cell gets the mixing weights.

    Returns:
        A :class:`Categorical` whose ``probability`` is (k, n), columns in the table's row order.

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
    scored = arranged(fit, X)
    log_probability: Any = np.ascontiguousarray(mapped(fit, scored, _log_posterior).T)
    return Categorical(log_probability)


def log_evidence(fit: Fit, X: Any) -> Float[np.ndarray, " n"]:  # noqa: N803
    r"""``log p(x)`` of every row, in nats, every constant kept.

    Args:
        fit: what ``minorant.fit`` returned.
        X: (n, d) table with the fit's columns; missing cells are integrated out, so a row without
            any observed cell has 0.

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
    return rows_log_evidence(fit, arranged(fit, X))


def labels(fit: Fit, X: Any) -> Int[np.ndarray, " n"]:  # noqa: N803
    """The most probable component of every row; see :func:`posterior`.

    Args:
        fit: what ``minorant.fit`` returned.
        X: (n, d) table with the fit's columns.

    Returns:
        (n,) numbers from 0, in the table's row order.

    Raises:
        ValueError: for cells or columns that the fit cannot describe.
    """
    return np.argmax(posterior(fit, X).log_probability, axis=0)


def arranged(fit: Fit, X: Any, weights: Any = None) -> Scored:  # noqa: N803
    """The table checked against the fit, in blocks, in the units the fit was computed in."""
    table = checked(fit, X, weights)
    units, dtype = fit.units, np.dtype(fit.dtype)
    source, layout = arrange(table, units, dtype, fit.standardised.shares_patterns())
    log_scale = ~np.isnan(table.values) @ np.log(units.scale)
    return Scored(table, source, layout, log_scale)


def rows_log_evidence(fit: Fit, scored: Scored) -> Float[np.ndarray, " n"]:
    """``log p(x)`` of every row, in the data's units."""
    return mapped(fit, scored, _log_evidence).astype(float) - scored.log_scale


def checked(fit: Fit, X: Any, weights: Any = None) -> Table:  # noqa: N803
    """The table, if the fit can describe it.

    Raises:
        TypeError: when the model has no exact posterior.
        ValueError: for cells or columns that the fit cannot describe.
    """
    if not isinstance(fit.standardised, AbstractTractableModel):
        raise TypeError(
            f"{type(fit.standardised).__name__} has no exact posterior, so its rows cannot be "
            "scored exactly: fit a tractable model such as minorant.Mixture."
        )
    table, names = as_table(X, weights, empty_rows=True)
    check_columns(names, fit.names)
    fit.model.check(table.values, names)
    return table


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


@jax.jit
def _log_posterior(model: AbstractTractableModel, source: ArraySource) -> tuple[Array, ...]:
    def responsibilities(parameters: PyTree, rows: Rows) -> Float[Array, "n k"]:
        model, prepared = parameters
        return model.posterior(rows, prepared).log_probability.T

    return source.map(responsibilities, (model, model.prepare()))


@jax.jit
def _log_evidence(model: AbstractTractableModel, source: ArraySource) -> tuple[Array, ...]:
    def evidence(parameters: PyTree, rows: Rows) -> Float[Array, " n"]:
        model, prepared = parameters
        return model.log_evidence(rows, prepared)

    return source.map(evidence, (model, model.prepare()))


def _unnamed(names: tuple[str, ...]) -> bool:
    return names == tuple(f"column {j}" for j in range(len(names)))


def _shown(names: Any) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
