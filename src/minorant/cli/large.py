"""Rows that are more than fit in memory: a folder, a pattern, or any table with ``--memory``.

They are read part by part, at every step of a climb again, and what is said of them is written part
by part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minorant.cli.arguments import Request
from minorant.cli.builders import BUILDERS, published, state_space_of
from minorant.cli.climb import check_categories, estimator_of
from minorant.cli.faces import ESTIMATORS, GAUSSIAN, Face, Kinds, Numbers, floats
from minorant.data.cells import EVERY
from minorant.data.coding import codes_of, infer_chunks
from minorant.data.files import STANDARD, read_table, write_table
from minorant.data.in_tables import Tables, appended_table, is_dataset
from minorant.data.paths import find_files

if TYPE_CHECKING:
    import pyarrow as pa

    from minorant.data.chunks import AbstractChunks
    from minorant.result import Fit

_WORDS = {
    "leave it out with columns=[...]": "leave it out (--drop)",
    "name it in categories=[...]": "describe it with --model mixture",
    "memory must": "--memory must",
    "dask must be a distributed.Client, ": "--dask must be ",
}
_WHOLE = ("flow-density",)


def is_large(path: str, memory: str | None) -> bool:
    """Whether a table is to be read part by part.

    Raises:
        OSError: for a folder without tables, or a pattern that no file has.
        ValueError: for standard input, which can be read only once.
    """
    if memory is not None and path == STANDARD:
        raise ValueError("--memory is not for standard input, which is read once: name a file.")
    if is_dataset(path):
        find_files(path)  # refused for itself before anything is said of the output
        return True
    return memory is not None


def is_shared(request: Request) -> bool:
    """Whether others than this process are to read the rows.

    Raises:
        ValueError: for standard input, which only this process can read.
    """
    if request.dask is not None and request.table == STANDARD:
        raise ValueError("--dask is not for standard input, which workers cannot read: name files.")
    return request.dask is not None


# --- fit -----------------------------------------------------------------------------------------


def climbed_chunks(request: Request) -> tuple[Face, Fit]:
    """The climb that a request asks for, on rows that are read part by part.

    Raises:
        OSError: for files that cannot be read.
        ValueError: for an option, a column or a cell that cannot be used.
    """
    check_large(request)
    tables = Tables(request.table)
    names = _columns(request, tables.names)
    chunks = _chunks(request, names)
    face = _face(request, chunks, tables.n_rows)
    if isinstance(face.columns, Kinds):  # categories of rows that weigh nothing are missing ones
        chunks = chunks.coded(codes_of(face.columns.columns, "missing"))
    if request.model in ESTIMATORS:
        return face, _by_estimator(request, face, chunks)
    return face, _by_model(request, face, chunks)


def check_large(request: Request) -> None:
    """Raise ValueError for what has to see the whole table at once."""
    if request.model in _WHOLE:
        raise ValueError(
            f"--model {request.model} needs the whole table in memory: name one file, without "
            "--memory, or take a sample of the rows."
        )
    if request.time is not None:
        raise ValueError(
            "--time needs the whole table in memory: sort the rows by it in the files, and leave "
            "--time out."
        )
    if request.model in ("hidden-markov", "state-space") and request.group is None:
        raise ValueError(
            f"--model {request.model} reads whole sequences at a time: name the column that tells "
            "them apart with --group."
        )


def _columns(request: Request, known: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that are modelled."""
    gone = {*request.drop, *request.inputs, request.group}
    gone |= {request.weights_column, request.labels_column}
    named = {*gone, request.response, *request.types} - {None}
    for name in sorted(map(str, named)):
        if name not in known:
            shown = ", ".join(map(repr, known[:12])) + (", ..." if len(known) > 12 else "")
            raise ValueError(f"The files have no column {name!r}; they have {shown}.")
    if request.response is not None:
        return (request.response,)
    kept = tuple(name for name in known if name not in gone)
    if not kept:
        raise ValueError("No column is left to learn from: drop fewer columns.")
    return kept


def _kinds(request: Request) -> str:
    """Of which kinds the model's columns may be: see ``Builder.kinds``."""
    own = {GAUSSIAN: "numbers", "mixture": "any", "latent-class": "categorical"}
    return own.get(request.model) or BUILDERS[request.model].kinds


def _face(request: Request, chunks: Any, n_rows: int) -> Face:
    """How columns are read; what they are a first pass finds."""
    where, kinds = (request.group, None, request.inputs), _kinds(request)
    if kinds == "numbers":
        return Face(request.model, Numbers(chunks.names), *where)
    types = request.types
    if kinds == "categorical":
        types = dict.fromkeys(chunks.names, "categorical")
    columns = infer_chunks(chunks, types)
    check_categories(columns, request, n_rows)
    return Face(request.model, Kinds(columns), *where)


def _chunks(request: Request, names: tuple[str, ...]) -> Any:
    from minorant.data.open_chunks import uncoded

    roles = {
        "columns": list(names),
        "weights": request.weights_column,
        "labels": request.labels_column,
        "groups": request.group,
        "inputs": list(request.inputs) or None,
    }
    text = () if _kinds(request) == "numbers" else EVERY
    try:
        return uncoded(request.table, roles, {"memory": request.memory}, text, request.dask)
    except (ImportError, ValueError) as error:  # ImportError: an extra is not installed
        raise ValueError(_reworded(str(error))) from None


def _reworded(sentence: str) -> str:
    """A sentence of ``minorant.chunks`` in the words of the command line."""
    for ours, theirs in _WORDS.items():
        sentence = sentence.replace(ours, theirs)
    return sentence


def _by_estimator(request: Request, face: Face, chunks: AbstractChunks) -> Fit:
    estimator = estimator_of(request, face)
    if isinstance(face.columns, Numbers):
        return estimator.fit(chunks, checkpoint=request.checkpoint).fit_
    return estimator._climb_on(face.columns.columns, chunks, request.checkpoint)


def _by_model(request: Request, face: Face, chunks: AbstractChunks) -> Fit:
    from minorant._config import precision
    from minorant.fitting import fit

    build: Any = BUILDERS[request.model].build
    model = build(request, face.columns)
    given = {"tolerance": request.tolerance, "max_steps": request.max_steps}
    with precision(np.dtype(float)):
        if request.model == "state-space":
            model = state_space_of(model, _count_groups(chunks))
        answer = fit(
            model,
            chunks,
            random_state=request.seed,
            progress=not request.quiet and request.on_terminal,
            checkpoint=request.checkpoint,
            **{name: value for name, value in given.items() if value is not None},
        )
    return published(answer)


def _count_groups(chunks: AbstractChunks) -> int:
    return sum(int(table.groups[-1]) + 1 for table in chunks.read() if table.groups is not None)


# --- questions -----------------------------------------------------------------------------------


def parts_of(
    face: Face, fit: Fit, path: str, memory: str | None, beside: tuple[str | None, ...] | None
) -> Iterator[pa.Table]:
    """The table in one part where it is read whole; else part by part.

    Args:
        face: how the fit's columns are read.
        fit: the fit that is asked.
        path: where the rows are.
        memory: bytes that may be taken, as a word.
        beside: columns that are read beside the fit's; None for all that there are.

    Raises:
        ValueError: for a fit of one sequence, which has no parts.
    """
    if not is_large(path, memory):
        yield read_table(path, face.columns.texts)
        return
    if face.group is None and fit.model.is_grouped():
        raise ValueError(
            f"This fit of {face.model} describes one sequence, which is read whole: name one file, "
            "without --memory."
        )
    known = (*face.columns.names, face.group, face.time, *face.inputs)
    columns = None if beside is None else {name for name in (*known, *beside) if name is not None}
    answers = getattr(fit.model, "n_components", 4)
    yield from Tables(path, memory, answers).read(columns, face.group)


@contextlib.contextmanager
def written(
    out: str, large: bool, overwrite: bool
) -> Iterator[Callable[[dict[str, Any] | pa.Table], None]]:
    """A function that writes a table, or where rows are read part by part the next part of it."""
    if large:
        with appended_table(out, overwrite=overwrite) as append:
            yield append
        return
    yield lambda columns: write_table(out, columns, overwrite=overwrite)


def alike(face: Face, before: pa.Table, filled: pa.Table) -> pa.Table:
    """A filled part with types that do not depend on which of its cells were missing."""
    import pyarrow as pa

    kinds = face.columns.columns.items if isinstance(face.columns, Kinds) else ()
    coded = {column.name for column in kinds if column.categories is not None}
    for name in face.columns.names:
        place = filled.column_names.index(name)
        kind = before.schema.field(name).type if name in coded else pa.float64()
        cells: Any = filled.column(name).cast(kind) if name in coded else _numbers(filled, name)
        filled = filled.set_column(place, pa.field(name, kind), cells)
    return filled


def _numbers(table: pa.Table, name: str) -> pa.Array:
    import pyarrow as pa

    return pa.array(floats(table[name], name), from_pandas=True)
