"""What a mixed model is fitted to: outcome, covariates and groups, in memory and out of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from minorant.estimators import _in_chunks
from minorant.estimators._validation import Rows, Values

if TYPE_CHECKING:
    from minorant.result import Fit


class Part(NamedTuple):
    """Some rows: outcome (n, d), weights (n,) or None, names of groups (n,), covariates (n, m)."""

    outcome: Float[np.ndarray, "n d"]
    weights: Float[np.ndarray, " n"] | None
    groups: np.ndarray
    inputs: Float[np.ndarray, "n m"]

    def ones(self) -> Float[np.ndarray, " n"]:
        """Return the weights, where there are none ones."""
        return np.ones(len(self.outcome)) if self.weights is None else self.weights

    def asked(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Return what a question is asked about, and what there is beside it."""
        return self.outcome, {"groups": self.groups, "inputs": self.inputs}


class Regressed(NamedTuple):
    """All rows: in memory one part, else chunks."""

    part: Part | None
    has_offset: bool
    chunks: Any = None

    def data(self) -> Any:
        """Return what is climbed on."""
        return self.chunks if self.part is None else self.part.outcome

    def beside(self) -> dict[str, Any]:
        """Return what is given beside it, as `minorant.fit` takes it; chunks have it all."""
        if self.part is None:
            return {}
        return {"weights": self.part.weights, **self.part.asked()[1]}

    def parts(self) -> Iterator[Part]:
        """Return the rows in memory, or those of one chunk after the other: whole groups."""
        if self.part is not None:
            yield self.part
            return
        names, first = group_names(self.chunks), 0
        for table in self.chunks.read():
            own = names[first : first + int(table.groups[-1]) + 1]
            yield Part(table.values, table.weights, own[table.groups], table.inputs)
            first += len(own)


class GroupEffects(NamedTuple):
    """Names of groups in order, how many rows each has, its effects and their deviations."""

    names: np.ndarray
    sizes: Int[np.ndarray, " g"]
    mean: Float[np.ndarray, "g l"]
    deviation: Float[np.ndarray, "g l"]


def opened(  # noqa: PLR0913
    estimator: Any,
    X: Rows,  # noqa: N803
    y: Values,
    groups: Values,
    sample_weight: Values,
    offset: Values,
) -> Regressed:
    """Return rows out of memory; of files all are names of columns, and X has all others.

    Raises:
        ValueError: for what is no name of a column, or given beside chunks, which have it all.
        OSError: for files that cannot be read.
    """
    given = {"y": y, "groups": groups, "sample_weight": sample_weight, "offset": offset}
    given = {name: value for name, value in given.items() if value is not None}
    if not _in_chunks.is_place(X):
        if given or not hasattr(X, "form"):
            raise ValueError(
                f"Of chunks the outcome is what is described, covariates are inputs: give "
                f"minorant.chunks(..., columns=, inputs=, groups=) alone, or a path and names; got "
                f"{', '.join(given) or type(X).__name__}."
            )
        return _noted(estimator, X, X.form.inputs, False)
    from minorant.data.in_tables import Tables
    from minorant.data.open_chunks import chunks

    _check_names(given, 2 if estimator.family == "binomial" else 1)
    outcome = [y] if isinstance(y, str) else list(y)
    taken = {*outcome, groups, sample_weight, offset}
    inputs = [name for name in Tables(X).names if name not in taken]
    beside = [] if offset is None else [offset]
    rows = chunks(
        X, columns=outcome, weights=sample_weight, groups=groups, inputs=[*inputs, *beside]
    )
    return _noted(estimator, rows, tuple(inputs), offset is not None)


def _noted(estimator: Any, chunks: Any, inputs: tuple[str, ...], has_offset: bool) -> Regressed:
    if not inputs or chunks.form.groups is None:
        raise ValueError(
            "A mixed model needs covariates and the group of every row: name columns of inputs and "
            "groups."
        )
    _in_chunks.note(estimator, inputs)
    return Regressed(None, has_offset, chunks.with_empty_rows())


def _check_names(given: dict[str, Any], width: int) -> None:
    for name in ("y", "groups"):
        if name not in given:
            raise ValueError(f"{name} must be the name of a column of the files.")
    for name, value in given.items():
        several = name == "y" and isinstance(value, list | tuple)
        names = list(value) if several else [value]
        if not all(isinstance(one, str) for one in names):
            raise ValueError(
                f"{name} must be the name of a column where X is a path; got a "
                f"{type(value).__name__}."
            )
        if name == "y" and len(names) != width:
            what = "two columns, successes and failures" if width == 2 else "one column"
            raise ValueError(f"y must name {what}; got {value!r}.")


def group_names(chunks: Any) -> np.ndarray:
    """Return the names of all groups, in the order that they come in."""
    from minorant.data.grouping import as_identities

    found: list[Any] = []
    for piece, _ in chunks.pieces():
        names = np.array(as_identities(piece.columns[-1]).to_pylist(), dtype=object)
        starts = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))
        own = names[starts].tolist()
        found += own[1:] if found and found[-1] == own[0] else own
    return np.array(found)


def group_effects(answer: Fit, rows: Regressed) -> GroupEffects:
    """Return what is expected of every group, groups in the order of their names."""
    from minorant.evidence import posterior

    found = []
    for part in rows.parts():
        names, first, sizes = np.unique(part.groups, return_index=True, return_counts=True)
        about, beside = part.asked()
        q: Any = posterior(answer, about, **beside)
        spread = np.diagonal(np.asarray(q.covariance, float), axis1=1, axis2=2)
        found.append((names, sizes, np.asarray(q.mean, float)[first], np.sqrt(spread)[first]))
    joined = [np.concatenate(leaves) for leaves in zip(*found, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    return GroupEffects(*(leaf[order] for leaf in joined))


def quadrature_error(answer: Fit, rows: Regressed) -> float:
    """Return by how much doubling the rule changes ``log p(y)``, in nats."""
    from minorant.evidence import log_evidence

    model, standardised = answer.model.refined(), answer.standardised.refined()
    finer, total = answer._replace(model=model, standardised=standardised), 0.0
    for part in rows.parts():
        about, beside = part.asked()
        total += float(part.ones() @ log_evidence(finer, about, **beside))
    return abs(total - answer.bound)
