"""Columns of chunks described in a first pass: which component each asks for, and its categories.

What is kept of a column are a few facts that join from piece to piece, and the labels of one that
has categories. The rules are those of a table in memory, :mod:`minorant.data.columns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np

from minorant.data.cells import Cells, Codes, Label, as_floats, is_text, words_in
from minorant.data.columns import (
    CATEGORIES,
    MOST_RECURRING,
    Column,
    Columns,
    component_of_whole,
    labels_of,
    named_overrides,
)
from minorant.data.cutting import Piece
from minorant.data.tables import Place

_MOST_LABELS = 1 << 16


class Facts(NamedTuple):
    """What has been seen of a column in rows that weigh something.

    ``labels`` are None once there are too many for categories; ``square`` is the sum of squares
    about the mean.
    """

    text: bool = False
    truth: bool = True
    whole: bool = True
    weight: float = 0.0
    mean: float = 0.0
    square: float = 0.0
    least: float = np.inf
    most: float = -np.inf
    labels: frozenset[Label] | None = frozenset()

    @classmethod
    def of(cls, cells: Cells, weights: np.ndarray | None, with_labels: bool) -> Self:
        """What a piece shows."""
        if is_text(cells):
            return cls(text=True, truth=False, whole=False, labels=frozenset(words_in(cells)))
        truth, values = is_truth(cells), np.asarray(as_floats(cells), dtype=float)
        there = ~np.isnan(values)
        seen = values[there]
        if not len(seen):
            return cls(truth=truth)
        if not np.isfinite(seen).all():
            return cls(weight=1.0, least=float(seen.min()), most=float(seen.max()))
        mass = np.ones(len(seen)) if weights is None else weights[there]
        with np.errstate(over="ignore"):  # of counts, no square overflows
            mean = float(np.average(seen, weights=mass))
            square = float(mass @ (seen - mean) ** 2)
        whole, ends = bool((seen == np.round(seen)).all()), (float(seen.min()), float(seen.max()))
        labels = frozenset(map(bool if truth else float, np.unique(seen))) if with_labels else None
        return cls(False, truth, whole, float(mass.sum()), mean, square, *ends, labels)

    def joined(self, other: Self, most: int) -> Self:
        """With what other rows show, so many labels at most; Chan, Golub & LeVeque (1983)."""
        weight = self.weight + other.weight
        share = other.weight / weight if weight else 0.0
        away = other.mean - self.mean
        labels = None
        if self.labels is not None and other.labels is not None:
            labels = self.labels | other.labels
        return type(self)(
            self.text or other.text,
            self.truth and other.truth,
            self.whole and other.whole,
            weight,
            self.mean + share * away,
            self.square + other.square + self.weight * share * away * away,
            min(self.least, other.least),
            max(self.most, other.most),
            labels if labels is None or len(labels) <= most else None,
        )

    def component(self) -> str:
        """What describes the column, where the user does not say."""
        if self.text and self.labels:
            return "categorical"
        if self.truth and self.weight:
            return "bernoulli"
        if not (self.whole and self.weight):
            return "gaussian"
        variance = self.square / self.weight
        different = MOST_RECURRING + 1 if self.labels is None else len(self.labels)
        return component_of_whole(
            (self.least, self.most), self.mean, variance, different, self.weight
        )


def infer_chunks(chunks: Any, overrides: Mapping[Any, str] | None = None) -> Columns:
    """How the columns of chunks are to be described: as :func:`minorant.data.columns.infer` says.

    Args:
        chunks: of files, a table or batches, text among the columns.
        overrides: column (name or number) to one of ``columns.COMPONENTS``.

    Raises:
        TypeError: for chunks of another kind.
        ValueError: for an override that names no column or no component, and for a column that
            cannot be described.
        OSError: when the rows cannot be read.
    """
    names, known = chunks.names, _known(chunks)
    given = dict.fromkeys(known, "categorical") | named_overrides(overrides or {}, names)
    most = {n: _MOST_LABELS if given.get(n) in CATEGORIES else MOST_RECURRING for n in names}
    items = []
    for name, facts in zip(names, looked_at(chunks, names, most), strict=True):
        component = given.get(name) or facts.component()
        if facts.text and facts.labels and component not in CATEGORIES:
            _refuse_text(name, component, min(map(str, facts.labels)))
        labels = None
        if component in CATEGORIES:
            labels = known.get(name) or labels_of(name, component, _labels(name, facts))
        items.append(Column(name, component, labels))
    return Columns(tuple(items))


def looked_at(chunks: Any, names: Sequence[str], most: Mapping[str, int]) -> list[Facts]:
    """What a pass shows of some columns.

    Args:
        chunks: of files, a table or batches.
        names: which columns.
        most: how many labels of numbers are kept of each; of text there may be 65,536.

    Raises:
        ValueError: for a column with an infinite cell, or with too many labels.
    """
    form = _readable(chunks).form
    places = [form.columns.index(name) for name in names]
    weights = None if form.weights is None else form.columns.index(form.weights)
    found = [Facts() for _ in names]
    for piece, place in chunks.pieces():
        for at, (name, column) in enumerate(zip(names, places, strict=True)):
            cells, mass = _counted(piece, column, weights)
            facts = Facts.of(cells, mass, found[at].labels is not None)
            if facts.weight and not np.isfinite([facts.least, facts.most]).all():
                _refuse_infinity(name, piece.columns[column], place)
            limit = _MOST_LABELS if facts.text else most[name]
            found[at] = found[at].joined(facts, limit)
            if facts.text and found[at].labels is None:
                _refuse_many(name)
    return found


def with_categories(chunks: Any, given: Any) -> Any:
    """Chunks whose columns of categories are read as codes.

    Args:
        chunks: of files, a table or batches.
        given: names of these columns, whose labels a pass finds; or labels by name, in the order of
            codes.

    Raises:
        TypeError: for chunks of another kind.
        ValueError: for a column that is not there or cannot be of categories.
    """
    names = names_of(given)
    form = _readable(chunks).form
    for name in names:
        if name not in (*form.names, *form.inputs):
            raise ValueError(
                f"categories names the column {name!r}, which is none of {list(form.names)}."
            )
    if isinstance(given, Mapping):
        known = {name: tuple(labels) for name, labels in given.items()}
    else:
        known = labels_found(chunks, names)
    return chunks.coded(Codes(tuple(known.items())))


def labels_found(chunks: Any, names: Sequence[str]) -> dict[str, tuple[Label, ...]]:
    """The labels of some columns, in order, from a pass over all rows that weigh something.

    Raises:
        ValueError: for a column with too many.
    """
    found = zip(names, looked_at(chunks, names, dict.fromkeys(names, _MOST_LABELS)), strict=True)
    return {name: labels_of(name, "categorical", _labels(name, facts)) for name, facts in found}


def names_of(categories: Any) -> tuple[str, ...]:
    """The columns that ``categories=`` means."""
    return (categories,) if isinstance(categories, str) else tuple(categories)


def codes_of(columns: Columns, unknown: str) -> Codes:
    """How chunks of these columns are read."""
    return Codes(tuple(columns.categories.items()), unknown)


def _readable(chunks: Any) -> Any:
    """The chunks, if their cells can be looked at.

    Raises:
        TypeError: for others.
    """
    if hasattr(chunks, "pieces"):
        return chunks
    raise TypeError(
        "Categories and kinds of columns are found in files, tables and batches; these rows are in "
        f"{type(chunks).__name__}: write them to Parquet, or give numbers and their model."
    )


def _known(chunks: Any) -> dict[str, tuple[Label, ...]]:
    """Labels that the user has settled already."""
    pairs = _readable(chunks).form.codes.labels
    return {name: labels for name, labels in pairs if labels is not None}


def _counted(piece: Piece, column: int, weights: int | None) -> tuple[Cells, np.ndarray | None]:
    """A column's cells in rows that weigh something, and their weights."""
    cells = piece.columns[column]
    if weights is None:
        return cells, None
    own = np.nan_to_num(np.asarray(as_floats(piece.columns[weights]), dtype=float))
    if (own > 0).all():
        return cells, own
    kept = own > 0
    return (cells[kept] if isinstance(cells, np.ndarray) else cells.filter(kept)), own[kept]


def is_truth(cells: Cells) -> bool:
    """Whether no cell is anything but truth."""
    if isinstance(cells, np.ndarray):
        return cells.dtype.kind == "b"
    import pyarrow.types as types

    return types.is_boolean(cells.type) or types.is_null(cells.type)


def _refuse_infinity(name: str, cells: Cells, place: Place) -> NoReturn:
    values = np.asarray(as_floats(cells), dtype=float)
    row = int(np.argmax(np.isinf(values)))
    raise ValueError(
        f"Column {name!r} holds {values[row]} in {place(row)}: infinities have no density. Remove "
        "the row, or use NaN for a missing cell."
    )


def _labels(name: str, facts: Facts) -> frozenset[Label]:
    return _refuse_many(name) if facts.labels is None else facts.labels


def _refuse_text(name: str, component: str, word: str) -> NoReturn:
    raise ValueError(
        f"Column {name!r} is described as {component} but holds {word!r}. Correct it, or describe "
        "the column as categorical."
    )


def _refuse_many(name: str) -> NoReturn:
    raise ValueError(
        f"Column {name!r} has more than {_MOST_LABELS} different values, too many for categories: "
        "leave it out with columns=[...]."
    )
