"""Rows out of memory as estimators take them: `minorant.chunks`, or where files with rows are.

Of files, weights and labels are names of columns. Nothing heavy is imported before a fit.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minorant.data.chunks import AbstractChunks
    from minorant.result import Fit


def out_of_memory(X: Any) -> bool:  # noqa: N803
    """Tell whether X is chunks, or a path, folder or pattern."""
    if isinstance(X, str | os.PathLike):
        return True
    # who has chunks has imported them
    module = sys.modules.get("minorant.data.chunks")
    return module is not None and isinstance(X, module.AbstractChunks)


def refuse_chunks(X: Any, owner: str) -> None:  # noqa: N803
    """Raise TypeError for rows out of memory."""
    if out_of_memory(X):
        raise TypeError(
            f"Here {owner} needs X in memory, but it is {_shown(X)}: read the rows into a table, "
            "or fit the model itself to chunks of numbers, minorant.fit(model, chunks)."
        )


def opened(
    estimator: Any,
    X: Any,  # noqa: N803
    weights: Any = None,
    labels: Any = None,
    reset: bool = False,
) -> AbstractChunks:
    """Return the chunks that X is read in, of the columns of `fit`.

    Args:
        estimator: keeps `n_features_in_` and `feature_names_in_`.
        X: chunks, or a path, folder or pattern.
        weights: of files, the name of the column of row weights.
        labels: of files, the name of the column of known components.
        reset: whether this is `fit`, which notes the columns.

    Raises:
        ValueError: weights or labels are given beside chunks, or are no names.
        OSError: the files cannot be read.
    """
    from minorant.data.open_chunks import chunks

    _check_names(X, sample_weight=weights, labels=labels)
    columns = None if reset else getattr(estimator, "feature_names_in_", None)
    if columns is None or not isinstance(X, str | os.PathLike):
        found = chunks(X, weights=weights, labels=labels)
    else:
        found = chunks(X, columns=list(columns), weights=weights, labels=labels)
    if reset:
        _note(estimator, found.names)
    return found


def total_weight(chunks: AbstractChunks) -> float:
    """Return the sum of the weights, or the number of rows; a pass where nobody knows it."""
    total = 0.0
    for table in chunks.read():
        total += len(table.values) if table.weights is None else float(table.weights.sum())
    return total


def log_density(answer: Fit, chunks: AbstractChunks) -> float:
    """Return the weighted sum of log p(x), nothing kept of single rows."""
    from minorant import evidence

    return evidence.evidence(answer, chunks, rows=False).estimate


def _check_names(X: Any, **given: Any) -> None:  # noqa: N803
    for name, value in given.items():
        if value is not None and not isinstance(value, str):
            raise ValueError(
                f"{name} must be the name of a column where X is {_shown(X)}; got a "
                f"{type(value).__name__}."
            )


def _note(estimator: Any, names: tuple[str, ...]) -> None:
    estimator.n_features_in_ = len(names)
    if names != tuple(f"column {j}" for j in range(len(names))):
        estimator.feature_names_in_ = np.asarray(names, dtype=object)
    elif hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_


def _shown(X: Any) -> str:  # noqa: N803
    return f"the path {os.fspath(X)!r}" if isinstance(X, str | os.PathLike) else "chunks"
