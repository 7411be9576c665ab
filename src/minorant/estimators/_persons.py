"""Persons and their answers: from what is given to codes and groups, in memory and out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from minorant.estimators import _in_chunks
from minorant.estimators._validation import Rows, Values, as_weights

if TYPE_CHECKING:
    from minorant.data.arrays import Table


class Persons(NamedTuple):
    """What is known of persons: codes (n, d), weights (n,) or None, and groups (n,) by number.

    Out of memory, `chunks` have it all, and the others say it of none.
    """

    codes: np.ndarray
    weights: np.ndarray | None
    group: Int[np.ndarray, " n"]
    n_groups: int
    chunks: Any = None

    def tables(self) -> Iterator[Persons]:
        """Return the persons in memory, or those of one chunk after the other."""
        if self.chunks is None:
            yield self
            return
        for table in self.chunks.read():
            yield Persons(table.values, table.weights, _group_of(table), self.n_groups)

    def inputs(self) -> Float[np.ndarray, "n 1"] | None:
        """Return groups as the model takes them."""
        return None if self.n_groups == 1 else self.group[:, None].astype(float)

    def ones(self) -> Float[np.ndarray, " n"]:
        """Return the weights, where there are none ones."""
        return np.ones(len(self.codes)) if self.weights is None else self.weights.astype(float)

    def answered(self) -> Persons:
        """Return those who count and gave an answer."""
        kept = counted(self.codes, self.weights)
        weights = None if self.weights is None else self.weights[kept]
        return Persons(self.codes[kept], weights, self.group[kept], self.n_groups)


def _group_of(table: Table) -> Int[np.ndarray, " n"]:
    if table.inputs is None:
        return np.zeros(len(table.values), dtype=int)
    return table.inputs[:, 0].astype(int)


def learned(estimator: Any, X: Rows, sample_weight: Values, groups: Values) -> Persons:  # noqa: N803
    """Return the persons that `fit` is given; notes `categories_` and `groups_`.

    Raises:
        ValueError: for answers, weights or groups that cannot be used.
    """
    if estimator._takes(X):
        return _learned_chunks(estimator, X, sample_weight, groups)
    rows, weights = estimator._begin_fit(X, sample_weight, min_rows=2)
    there = counted(rows, weights)
    estimator.categories_ = categories(rows[there], estimator._item_names())
    codes = coded(rows, estimator.categories_, estimator._item_names())
    estimator.groups_, group = grouped(groups, len(rows))
    weights = None if weights is None else weights[there]
    return Persons(codes[there], weights, group[there], int(group[there].max()) + 1)


def _learned_chunks(estimator: Any, X: Rows, sample_weight: Values, groups: Values) -> Persons:  # noqa: N803
    """The same of persons out of memory, whose answers and groups a pass finds."""
    from minorant.data.coding import labels_found

    estimator._validate_params()
    chunks = _opened(estimator, X, sample_weight, groups, reset=True)
    found = labels_found(chunks, (*chunks.names, *chunks.form.inputs))
    answers = {name: np.array(found.pop(name)) for name in chunks.names}
    estimator.categories_ = [checked_answers(name, seen) for name, seen in answers.items()]
    estimator.groups_ = np.array(next(iter(found.values()), ["all"]))
    return _out_of_memory(estimator, chunks)


def known(estimator: Any, X: Rows, sample_weight: Values, groups: Values) -> Persons:  # noqa: N803
    """Return new persons, their answers and groups those of `fit`.

    Raises:
        ValueError: for answers or groups that did not occur in `fit`.
    """
    if estimator._takes(X):
        estimator._check_fitted()
        chunks = _opened(estimator, X, sample_weight, groups, reset=False)
        return _out_of_memory(estimator, chunks)
    rows = estimator._read(X)
    codes = coded(rows, estimator.categories_, estimator._item_names())
    group = numbered(groups, estimator.groups_, len(rows))
    return Persons(codes, as_weights(sample_weight, len(rows)), group, _n_groups(estimator))


def _n_groups(estimator: Any) -> int:
    return estimator.fit_.model.n_groups


def _opened(estimator: Any, X: Rows, sample_weight: Values, groups: Values, reset: bool) -> Any:  # noqa: N803
    """The chunks; the column of groups, which may be text, is an input of the model."""
    roles = {"sample_weight": sample_weight, "inputs": groups}
    chunks = _in_chunks.opened(estimator, X, reset, text=True, **roles)
    if len(chunks.form.inputs) > 1:
        raise ValueError("Persons have one group each: name one column as groups, or one input.")
    return chunks


def _out_of_memory(estimator: Any, chunks: Any) -> Persons:
    """Persons whose answers are read as codes; those without any answer are let through."""
    from minorant.data.cells import Codes

    labels = [seen.tolist() for seen in (*estimator.categories_, estimator.groups_)]
    pairs = zip((*chunks.names, *chunks.form.inputs), map(tuple, labels), strict=False)
    codes, none = Codes(tuple(pairs)), np.empty((0, len(chunks.names)))
    found = chunks.coded(codes).with_empty_rows()
    return Persons(none, None, np.zeros(0, dtype=int), len(estimator.groups_), found)


# Answers and groups


def counted(rows: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Which rows are learned from: those with a weight and an answer."""
    there = np.asarray(~np.isnan(rows).all(1))
    return there if weights is None else there & (weights > 0)


def categories(rows: Float[np.ndarray, "n d"], names: Sequence[str]) -> list[np.ndarray]:
    """The answers that occur, item by item.

    Raises:
        ValueError: for an answer that is no whole number, or an item that all answered alike.
    """
    columns = zip(names, rows.T, strict=True)
    return [checked_answers(name, np.unique(column[~np.isnan(column)])) for name, column in columns]


def checked_answers(name: str, seen: np.ndarray) -> np.ndarray:
    """Return the answers that occur to an item.

    Raises:
        ValueError: for an answer that is no whole number, or an item that all answered alike.
    """
    wrong = seen[seen != np.round(seen)]
    if len(wrong):
        raise ValueError(
            f"Item {name!r} holds {wrong[0]:g}: answers must be whole numbers, in the order of "
            "the answers' meaning. Round or recode the column."
        )
    if len(seen) < 2:
        answer = "by nobody" if len(seen) == 0 else f"{seen[0]:g} by all"
        raise ValueError(
            f"Item {name!r} was answered {answer}: its difficulty cannot be estimated. Drop it."
        )
    return seen


def coded(
    rows: Float[np.ndarray, "n d"], known: list[np.ndarray], names: Sequence[str]
) -> Float[np.ndarray, "n d"]:
    """Answers as 0, 1, 2, ...; NaN stays.

    Raises:
        ValueError: for an answer that did not occur in `fit`.
    """
    codes = np.full(rows.shape, np.nan)
    for j, seen in enumerate(known):
        there = ~np.isnan(rows[:, j])
        place = np.searchsorted(seen, rows[there, j]).clip(0, len(seen) - 1)
        strange = seen[place] != rows[there, j]
        if strange.any():
            row = int(np.flatnonzero(there)[np.argmax(strange)])
            raise ValueError(
                f"Item {names[j]!r} holds {rows[row, j]:g} in row {row}, an answer that did not "
                f"occur in fit ({', '.join(f'{s:g}' for s in seen)} did). Write NaN if unknown."
            )
        codes[there, j] = place
    return codes


def grouped(groups: Any, n: int) -> tuple[np.ndarray, Int[np.ndarray, " n"]]:
    """Names of the groups, in order, and every person's number."""
    if groups is None:
        return np.array(["all"], dtype=object), np.zeros(n, dtype=int)
    array = _vector(groups, n)
    names, numbers = np.unique(array, return_inverse=True)
    return names, numbers.ravel()


def numbered(groups: Any, known: np.ndarray, n: int) -> Int[np.ndarray, " n"]:
    """Every person's number among the known groups; 0 without groups.

    Raises:
        ValueError: for a group that did not occur in `fit`.
    """
    if groups is None:
        return np.zeros(n, dtype=int)
    array = _vector(groups, n)
    place = {name: index for index, name in enumerate(known.tolist())}
    for row, name in enumerate(array.tolist()):
        if name not in place:
            raise ValueError(f"groups holds {name!r} in row {row}, which did not occur in fit.")
    return np.array([place[name] for name in array.tolist()])


def _vector(groups: Any, n: int) -> np.ndarray:
    array = np.asarray(groups)
    if array.shape != (n,):
        raise ValueError(f"groups must have one entry per row, shape ({n},); got {array.shape}.")
    return array
