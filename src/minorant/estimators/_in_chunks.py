"""Rows out of memory as estimators take them: `minorant.chunks`, or where files with rows are.

Of files, weights, labels, groups and inputs are names of columns. Nothing heavy is imported before
a fit.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minorant.data.chunks import AbstractChunks
    from minorant.result import Fit

# What estimators call the columns that have a part of their own, and what chunks call them.
_ROLES = {"sample_weight": "weights", "labels": "labels", "groups": "groups", "inputs": "inputs"}


def out_of_memory(X: Any) -> bool:  # noqa: N803
    """Tell whether X is chunks, a Dask collection, or a path, folder, pattern or list of paths."""
    return is_place(X) or _is_chunks(X) or _is_collection(X)


def refuse_chunks(X: Any, owner: str) -> None:  # noqa: N803
    """Raise TypeError for rows out of memory."""
    if out_of_memory(X):
        raise TypeError(
            f"Here {owner} needs X in memory, but it is {_shown(X)}: read the rows, or a sample of "
            "them, into a table."
        )


def opened(
    estimator: Any,
    X: Any,  # noqa: N803
    reset: bool = False,
    text: bool = False,
    **roles: Any,
) -> Any:
    """Return the chunks that X is read in, of the columns of `fit`.

    Args:
        estimator: keeps `n_features_in_` and `feature_names_in_`.
        X: chunks, a Dask collection, or a path, folder, pattern or list of paths.
        reset: whether this is `fit`, which notes the columns.
        text: whether columns may hold text; they are read once their labels are known.
        roles: of files, the names of the columns of `sample_weight`, `labels`, `groups`, `inputs`.

    Raises:
        ValueError: roles are given beside chunks, are no names, or are not for chunks.
        OSError: the files cannot be read.
    """
    from minorant.data.cells import EVERY
    from minorant.data.open_chunks import chunks, uncoded

    sides = _sides(X, {name: value for name, value in roles.items() if value is not None})
    unnamed = reset or _is_chunks(X) or _is_array(X)
    names = None if unnamed else getattr(estimator, "feature_names_in_", None)
    sides["columns"] = None if names is None else list(names)
    if text and not _is_chunks(X):
        found = uncoded(X, {**dict.fromkeys(_ROLES.values()), **sides}, {}, EVERY)
    else:
        found = chunks(X, **sides)
    if reset:
        note(estimator, found.names)
    return found


def total_weight(chunks: AbstractChunks) -> float:
    """Return the sum of the weights, or the number of rows; a pass where nobody knows it."""
    total = 0.0
    for table in chunks.read():
        total += len(table.values) if table.weights is None else float(table.weights.sum())
    return total


def log_density(answer: Fit, chunks: AbstractChunks) -> float:
    """Return the weighted sum of log p(x), nothing kept of single rows."""
    from minorant.data.read_ahead import ahead
    from minorant.data.tables import NamedMatrix
    from minorant.evidence import log_evidence

    total = 0.0
    for table in ahead(chunks.with_empty_rows().read()):
        found = log_evidence(answer, NamedMatrix(table.values, chunks.names))
        weights = np.ones(len(found)) if table.weights is None else table.weights
        total += float(weights[weights > 0] @ found[weights > 0])
    return total


def _sides(X: Any, roles: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
    """Return the roles by the words of `minorant.chunks`."""
    for name, value in roles.items():
        if name not in _ROLES:
            raise ValueError(
                f"{name} is for rows in memory, but X is {_shown(X)}: tell sequences apart by a "
                "column, groups=, and write a row without cells for a step that is missing."
            )
        if not _is_array(X) and not _is_named(value, name):
            kind = "names of columns" if name == "inputs" else "the name of a column"
            raise ValueError(
                f"{name} must be {kind} where X is {_shown(X)}; got a {type(value).__name__}."
            )
    return {_ROLES[name]: value for name, value in roles.items()}


def _is_named(value: Any, role: str) -> bool:
    several = role == "inputs" and isinstance(value, list | tuple)
    return all(isinstance(name, str) for name in (value if several else (value,)))


def is_place(X: Any) -> bool:  # noqa: N803
    """Tell whether X is a path, folder or pattern, or a list of these."""
    several = isinstance(X, list | tuple) and len(X) > 0
    return all(isinstance(one, str | os.PathLike) for one in (X if several else (X,)))


def _is_chunks(X: Any) -> bool:  # noqa: N803
    # who has chunks has imported them
    module = sys.modules.get("minorant.data.chunks")
    return module is not None and isinstance(X, module.AbstractChunks)


def _is_collection(X: Any) -> bool:  # noqa: N803
    return hasattr(X, "__dask_graph__") and hasattr(X, "to_delayed")


def _is_array(X: Any) -> bool:  # noqa: N803
    """Tell whether this is a Dask array, whose columns have no names."""
    return _is_collection(X) and not hasattr(X, "columns")


def note(estimator: Any, names: tuple[str, ...]) -> None:
    """Keep how many columns `fit` has, and their names where they have any."""
    estimator.n_features_in_ = len(names)
    if names != tuple(f"column {j}" for j in range(len(names))):
        estimator.feature_names_in_ = np.asarray(names, dtype=object)
    elif hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_


def _shown(X: Any) -> str:  # noqa: N803
    if _is_collection(X):
        return "a Dask collection"
    if not is_place(X):
        return "chunks"
    if isinstance(X, list | tuple):
        return f"a list of {len(X)} paths"
    return f"the path {os.fspath(X)!r}"
