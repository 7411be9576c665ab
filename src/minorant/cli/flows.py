"""``--model flow-density`` on the command line: the one model without a latent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from minorant.cli.arguments import Request
from minorant.data.tables import NamedMatrix, as_table

if TYPE_CHECKING:
    from minorant.result import Fit

_OPTIONS = {
    "tol": "--tolerance",
    "max_iter": "--max-steps",
    "n_samples": "rows",
    "X ": "The table ",
}


def is_flow(fit: Fit) -> bool:
    """Whether the fit is of a flow."""
    from minorant.models import RowFlow

    return isinstance(fit.model, RowFlow)


def climbed(request: Request, matrix: NamedMatrix, weights: np.ndarray | None) -> Fit:
    """The flow of a table of numbers.

    Raises:
        ValueError: for a missing cell, a constant column, or too few rows.
    """
    from minorant.estimators import FlowDensity
    from minorant.estimators._flow_fit import as_fit

    began = time.perf_counter()
    _refuse_gaps(matrix)
    given = {"tol": request.tolerance, "max_iter": request.max_steps}
    estimator = FlowDensity(
        random_state=request.seed,
        verbose=int(not request.quiet and request.on_terminal),
        **{name: value for name, value in given.items() if value is not None},
    )
    try:
        estimator.fit(matrix.values, sample_weight=weights)
    except ValueError as error:
        raise ValueError(_reworded(str(error), matrix.names)) from None
    answer = as_fit(estimator, matrix.values, weights, matrix.names)
    return answer._replace(seconds=time.perf_counter() - began)


def log_density(fit: Fit, matrix: NamedMatrix) -> np.ndarray:
    """``log p(x)`` of every row.

    Raises:
        ValueError: for a missing cell.
    """
    _refuse_gaps(matrix)
    return np.asarray(fit.model.log_density(matrix.values), dtype=float)


def sample(fit: Fit, n: int, seed: int) -> np.ndarray:
    """New rows."""
    import jax

    return np.asarray(fit.model.sample(jax.random.key(seed), n), dtype=float)


def refuse_imputation() -> None:
    """Raise ValueError: a flow has no marginals in closed form."""
    raise ValueError(
        "A flow-density cannot fill missing cells: its density of some columns alone has no closed "
        "form. Use a fit of --model gaussian-mixture."
    )


def _refuse_gaps(matrix: NamedMatrix) -> None:
    table, names = as_table(matrix, empty_rows=True)
    row, column = (
        int(place[0]) if len(place) else -1 for place in np.where(np.isnan(table.values))
    )
    if row >= 0:
        raise ValueError(
            f"Column {names[column]!r} has no value in row {row}: a flow-density takes no missing "
            "cells. Leave the column or the row out, or use --model gaussian-mixture."
        )


def _reworded(sentence: str, names: Any) -> str:
    """An estimator's sentence in the words of the command line."""
    for ours, theirs in _OPTIONS.items():
        sentence = sentence.replace(ours, theirs)
    for j, name in enumerate(names):
        sentence = sentence.replace(f"column {j},", f"column {name!r},")
    return sentence
