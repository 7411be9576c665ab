"""What can be said of a model and its table before the climb; ``minorant.check``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _config
from minorant._parameters import from_vector, has_all_parameters, leaf_constraints, to_vector
from minorant._types import Array, PyTree, Rows
from minorant.checking import check_target
from minorant.data.arrays import ArraySource
from minorant.data.tables import as_table
from minorant.evidence.scoring import log_evidence_by_slot
from minorant.models.base import AbstractExactModel
from minorant.models.target import AbstractTarget
from minorant.preparation import Prepared, prepare

_SHOWN = 6
_FINE = "Nothing stands in the way of a climb."


def check(
    model: AbstractExactModel | AbstractTarget,
    data: Any = None,
    weights: Any = None,
    groups: Any = None,
    inputs: Any = None,
) -> str:
    """Walk from "the data can be described" to "the gradient is finite", and say what is wrong.

    ``minorant.fit`` makes the same checks; here nothing is climbed.

    Args:
        model: a model of rows, or a target.
        data: (n, d) table, for a model of rows.
        weights: (n,) row weights.
        groups: (n,) sequences or clusters.
        inputs: (n, m) covariates.

    Returns:
        A sentence: what is worth saying, or that nothing stands in the way.

    Raises:
        TypeError: for what is neither a model of rows nor a target.
        ValueError: for data that the model cannot describe, rows that have no density at the
            parameters given, or a gradient that is not finite: which, and what to do.

    Example:
        >>> import minorant
        >>> from minorant.components import Poisson
        >>> minorant.check(minorant.Mixture(Poisson(), n_components=2), [[1.0], [2.0], [0.0]])
        'Nothing stands in the way of a climb.'
    """
    if isinstance(model, AbstractTarget):
        return check_target(model).sentence or _FINE
    if not isinstance(model, AbstractExactModel):
        raise TypeError(f"model must be a model of rows or a target; got {type(model).__name__}.")
    empty = model.allows_empty_rows()
    table, names = as_table(data, weights, None, groups, inputs, empty_rows=empty)
    prepared = prepare(model, table, names)
    if has_all_parameters(prepared.template):
        _check_rows(prepared)
        _check_gradient(prepared)
    return _FINE


def _check_rows(prepared: Prepared) -> None:
    """Every row has a density at the parameters given."""
    if prepared.template.compresses(len(prepared.names)):
        return
    with _config.precision(prepared.dtype):
        found = prepared.layout.restore(
            jax.device_get(log_evidence_by_slot(prepared.template, prepared.source))
        )
    bad = np.flatnonzero(~np.isfinite(found))
    if bad.size:
        rows = ", ".join(map(str, bad[:_SHOWN])) + (", ..." if bad.size > _SHOWN else "")
        raise ValueError(
            f"log p(x) is not finite in rows {rows} at the parameters given: look there for values "
            "that the model cannot produce, or start elsewhere."
        )


def _check_gradient(prepared: Prepared) -> None:
    """The evidence changes finitely with every parameter."""
    with _config.precision(prepared.dtype):
        gradient = jax.device_get(_gradient(prepared.template, prepared.source))
    bad = ~np.isfinite(gradient)
    if not bad.any():
        return
    names = sorted(
        {name for name, broken in zip(_entries(prepared.template), bad, strict=True) if broken}
    )
    raise ValueError(
        f"The gradient of log p(X) by {', '.join(names)} is not finite at the parameters given: "
        "look for sqrt(0), a norm of zero, a parameter on the edge of what it may be, or jnp.where "
        "around something that is NaN on the other side (put jnp.where before the operation)."
    )


def _entries(model: PyTree) -> list[str]:
    """The name of the parameter that each free coordinate belongs to."""
    leaves = jax.tree_util.tree_leaves_with_path(model)
    names: list[str] = []
    for (path, leaf), constraint in zip(leaves, leaf_constraints(model), strict=True):
        if constraint is not None:
            name = "".join(str(key) for key in path).lstrip(".")
            names += [name] * int(np.size(constraint.free(jnp.asarray(leaf))))
    return names


@_config.small_jit
def _gradient(model: AbstractExactModel, source: ArraySource) -> Float[Array, " p"]:
    def total(vector: Array, rows: Rows) -> Float[Array, ""]:
        at = from_vector(model, vector)
        per_row = at.log_evidence(rows, at.prepare())
        return jnp.where(rows.weight > 0, rows.weight * per_row, 0.0).sum()

    return source.fold(jax.grad(total), to_vector(model))
