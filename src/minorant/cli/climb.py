"""From what ``minorant fit`` was asked to a fit: columns chosen, kinds inferred, estimator run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minorant.cli.arguments import Request
from minorant.cli.builders import check_model_options, climbed_model
from minorant.cli.commands import in_words
from minorant.cli.faces import ESTIMATORS, GAUSSIAN, Face, Kinds, Numbers, named, optional
from minorant.data.columns import COMPONENTS, Columns, infer
from minorant.data.tables import NamedMatrix, as_labels, as_table, as_weights
from minorant.estimators.options import OPTIONS

if TYPE_CHECKING:
    import pyarrow as pa

    from minorant.result import Fit

_OPTIONS = {
    "n_components": "--components",
    "tol": "--tolerance",
    "max_iter": "--max-steps",
    "n_init": "--starts",
    "random_state": "--seed",
}
_COVARIANCES = {"diagonal": "diag"}
_MOST_CATEGORIES = 20


def climbed(request: Request, table: pa.Table) -> tuple[Face, Fit]:
    """The climb that a request asks for, on a table.

    Raises:
        ValueError: for an option, a column, weight, label or cell that cannot be used.
    """
    if request.model not in ESTIMATORS:
        return climbed_model(request, table)
    weights = optional(table, request.weights_column, "--weights-column")
    labels = optional(table, request.labels_column, "--labels-column")
    weights, labels = as_weights(weights, table.num_rows), as_labels(labels, table.num_rows)
    table = _kept(table, request)
    face = _face(request, table, weights)
    rows = face.columns.encode(table)
    as_table(rows)  # refused here in a table's own words, before the estimator's
    estimator = estimator_of(request, face)
    X = _given(face, rows)  # noqa: N806
    return face, estimator.fit(
        X, sample_weight=weights, labels=labels, checkpoint=request.checkpoint
    ).fit_


def check_options(request: Request) -> None:
    """Raise ValueError for an option out of its range, before a file is read."""
    for name, value in _values(request).items():
        if name in _OPTIONS and OPTIONS[name].complaint(value, ""):
            raise ValueError(
                f"{_OPTIONS[name]} must be {in_words(OPTIONS[name])}; got {value}. Correct it, or "
                "leave it out for the default."
            )
    if request.model not in ESTIMATORS:
        check_model_options(request)
        _check_types(request)
        return
    for name in ("factors", "items", "family", "group", "time", "inputs", "random", "response"):
        if getattr(request, name) not in (None, ()):
            option = "--" + {"inputs": "input"}.get(name, name)
            raise ValueError(f"{option} is not for --model {request.model}: leave it out.")
    if request.components is None:
        raise ValueError(f"--model {request.model} needs --components.")
    if request.covariance is not None and request.model == "latent-class":
        raise ValueError("--covariance is not for --model latent-class: leave it out.")
    if request.types and request.model != "mixture":
        raise ValueError(
            "--column is for --model mixture only: leave it out, or choose that model."
        )
    _check_types(request)


def _check_types(request: Request) -> None:
    for name, kind in request.types.items():
        if kind not in COMPONENTS:
            raise ValueError(
                f"--column {name}={kind} names no type of column: use one of "
                f"{', '.join(COMPONENTS)}."
            )


def _given(face: Face, rows: NamedMatrix) -> Any:
    """The rows by name; labels in place of codes where the estimator reads columns itself."""
    if isinstance(face.columns, Kinds):
        return face.columns.decode(rows.values)
    import pyarrow as pa

    return pa.table(dict(zip(rows.names, rows.values.T, strict=True)))


def _kept(table: pa.Table, request: Request) -> pa.Table:
    """The table without the columns that are dropped or are weights or labels."""
    for name in request.drop:
        named(table, name, "named by --drop")
    gone = {*request.drop, request.weights_column, request.labels_column}
    kept = table.select([name for name in table.column_names if name not in gone])
    if not kept.column_names:
        raise ValueError("No column is left to learn from: drop fewer columns.")
    for name in request.types:
        named(kept, name, "named by --column")
    return kept


def _face(request: Request, table: pa.Table, weights: np.ndarray | None) -> Face:
    if request.model == GAUSSIAN:
        return Face(GAUSSIAN, Numbers(tuple(table.column_names)))
    types = request.types
    if request.model == "latent-class":
        types = dict.fromkeys(table.column_names, "categorical")
    columns = infer(table, types, weights)
    check_categories(columns, request, table.num_rows)
    return Face(request.model, Kinds(columns))


def check_categories(columns: Columns, request: Request, n: int) -> None:
    """Refuse names, notes and numbers that were taken for categories."""
    for column in columns.items:
        count = len(column.categories or ())
        if count > max(_MOST_CATEGORIES, n // 2) and column.name not in request.types:
            raise ValueError(
                f"Column {column.name!r} has {count} different values in {n} rows, too many to be "
                f"categories: leave it out (--drop {column.name})."
            )


def estimator_of(request: Request, face: Face) -> Any:
    """The estimator that a request asks for."""
    from minorant import estimators

    kind = getattr(estimators, ESTIMATORS[request.model])
    given = _values(request)
    if request.model == "mixture" and isinstance(face.columns, Kinds):
        columns = face.columns.columns
        given["components"] = dict(zip(columns.names, columns.components, strict=True))
    return kind(**given)


def _values(request: Request) -> dict[str, Any]:
    """The estimator's options, those that were given."""
    given = {
        "n_components": request.components,
        "covariance_type": request.covariance
        and _COVARIANCES.get(request.covariance, request.covariance),
        "tol": request.tolerance,
        "max_iter": request.max_steps,
        "n_init": _number(request.starts),
        "random_state": request.seed,
        "verbose": int(not request.quiet and request.on_terminal),
    }
    return {name: value for name, value in given.items() if value is not None}


def _number(word: str | None) -> int | str | None:
    return int(word) if word is not None and word.lstrip("-").isdigit() else word
