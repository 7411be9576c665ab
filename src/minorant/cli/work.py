"""What ``fit``, ``score``, ``sample``, ``impute`` and ``demo`` do once their arguments are read.

Outputs are checked before any work is done, and written whole or not at all.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minorant.cli import INTERRUPTED, NOT_CONVERGED, OK, flows, large
from minorant.cli.arguments import Request
from minorant.cli.faces import Face, face_of, optional
from minorant.cli.sequences import steps_of
from minorant.data.files import STANDARD, check_target, read_table, write_table
from minorant.data.in_tables import check_apart, check_appended
from minorant.data.tables import check_weights

_MASS = "responsibility_"


# --- fit -----------------------------------------------------------------------------------------


def run_fit(request: Request) -> int:
    """Read, climb, save, print; the exit code."""
    from minorant.cli.climb import check_options, climbed
    from minorant.saving import save

    check_options(request)
    check_checkpoint(request)
    check_fit_directory(request.out, request.overwrite)
    many = large.is_large(request.table, request.memory) or large.is_shared(request)
    table = None if many else read_table(request.table)
    try:
        with warnings.catch_warnings(), _ended_by_request(request):
            warnings.simplefilter("ignore")  # what is warned of is in the fit, and in the exit code
            face, answer = large.climbed_chunks(request) if many else climbed(request, table)
    except KeyboardInterrupt:
        if _keeps(request):
            return _kept(request)
        raise
    if _keeps(request) and _code(answer) == INTERRUPTED:
        return _kept(request)
    save(answer, request.out, extra=face.extra(), overwrite=request.overwrite)
    print(answer)
    if not request.quiet:
        print(f"The fit is in {request.out}.", file=sys.stderr)
    return _code(answer)


def _keeps(request: Request) -> bool:
    """Whether there is a climb to go on from."""
    from minorant.checkpoints.place import CLIMB

    return request.checkpoint is not None and (Path(request.checkpoint) / CLIMB).exists()


def _kept(request: Request) -> int:
    print(
        f"minorant: Interrupted; the climb is kept in {request.checkpoint}. The same command "
        "goes on from there.",
        file=sys.stderr,
    )
    return INTERRUPTED


def check_checkpoint(request: Request) -> None:
    """Raise for ``--resume`` without a checkpoint, and for ``--checkpoint`` of what keeps none.

    Raises:
        ValueError: for options that do not go together.
        FileNotFoundError: when there is nothing to go on from.
    """
    if request.checkpoint is None:
        if request.resume:
            raise ValueError("--resume goes on from a checkpoint: name it with --checkpoint DIR.")
        return
    if request.model == "flow-density":
        raise ValueError(f"--checkpoint is not for --model {request.model}: leave it out.")
    if request.resume:
        from minorant.checkpoints.file import read_head

        read_head(Path(request.checkpoint))


@contextlib.contextmanager
def _ended_by_request(request: Request) -> Iterator[None]:
    """Where the climb is kept, SIGTERM interrupts it as Ctrl-C does."""
    if request.checkpoint is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_fit_directory(out: str, overwrite: bool) -> None:
    """Raise before the climb when the fit could not be written afterwards.

    Raises:
        OSError: when the directory is there, or its parent is not.
    """
    from minorant.saving.directory import check_destination

    path = Path(out)
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"The output {out!r} exists: name another directory, or replace a fit with --overwrite."
        )
    check_destination(path, overwrite)


def _code(answer: Any) -> int:
    from minorant.result import Outcome

    if answer.outcome.ok:
        return OK
    return INTERRUPTED if answer.outcome is Outcome.INTERRUPTED else NOT_CONVERGED


# --- questions to a fit --------------------------------------------------------------------------


def run_score(  # noqa: PLR0913
    directory: str,
    table: str,
    out: str | None,
    weights_column: str | None,
    overwrite: bool,
    memory: str | None = None,
) -> None:
    """Total and mean of log p(x), and a line per row where asked."""
    from minorant import load

    many = large.is_large(table, memory)
    if out is not None:
        _check_output(out, table, overwrite, many)
    fit = load(directory)
    face = face_of(directory, fit)
    total, count = 0.0, 0.0
    with _writer(out, many, overwrite) as write:
        for rows in large.parts_of(face, fit, table, memory, (weights_column,)):
            weights = _weights(rows, weights_column, many)
            columns = _scores(fit, face, rows, out is not None)
            write(columns)
            density, counted = columns["log_density"], weights > 0
            total += float(np.sum(density[counted] * weights[counted]))
            count += float(weights.sum())
        check_counted(count)
    stream = sys.stderr if out == STANDARD else sys.stdout
    print(f"total log p(x)  {total!r} nats", file=stream)
    print(f"mean log p(x)   {total / count!r} nats per row", file=stream)


def _scores(fit: Any, face: Face, rows: Any, posteriors: bool) -> dict[str, np.ndarray]:
    """``log_density`` of every row, and what the posterior says of it."""
    from minorant import evidence

    steps = steps_of(face, rows, face.columns.encode(rows))
    if flows.is_flow(fit):
        return {"log_density": flows.log_density(fit, steps.matrix)}
    keywords: Any = steps.keywords()
    found = {"log_density": evidence.log_evidence(fit, steps.matrix, **keywords)}
    if posteriors:
        found |= told(evidence.posterior(fit, steps.matrix, **keywords))
    return {name: cells[steps.placed] for name, cells in found.items()}


def _weights(rows: Any, column: str | None, part: bool) -> np.ndarray:
    weights = optional(rows, column, "--weights-column")
    if weights is None:
        return np.ones(rows.num_rows)
    check_weights(weights)
    if not part:  # of which all may weigh nothing
        check_counted(weights.sum())
    return weights


def check_counted(total: float) -> None:
    """Raise ValueError when no row weighs anything."""
    if total == 0.0:
        raise ValueError("weights are all zero: at least one row must count.")


@contextlib.contextmanager
def _writer(out: str | None, large_rows: bool, overwrite: bool) -> Iterator[Any]:
    if out is None:
        yield lambda columns: None  # noqa: ARG005
        return
    with large.written(out, large_rows, overwrite) as write:
        yield write


def told(posterior: Any) -> dict[str, np.ndarray]:
    """What a posterior says of each row: the component, or means and standard deviations."""
    from minorant.posteriors import Categorical

    if isinstance(posterior, Categorical):
        probability = np.exp(np.asarray(posterior.log_probability))
        masses = {f"{_MASS}{k}": mass for k, mass in enumerate(probability)}
        return {"component": np.argmax(probability, axis=0), **masses}
    means, covariance = np.asarray(posterior.mean), np.asarray(posterior.covariance)
    spread = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    spread = np.broadcast_to(spread, means.shape)
    pairs = enumerate(zip(means.T, spread.T, strict=True))
    return {
        name: cells
        for j, (mean, deviation) in pairs
        for name, cells in ((f"latent_{j}", mean), (f"standard_error_{j}", deviation))
    }


def run_sample(
    directory: str, rows: int, out: str, with_component: bool, seed: int, overwrite: bool
) -> None:
    """New rows as a table."""
    from minorant import evidence, load

    check_target(out, overwrite=overwrite)
    fit = load(directory)
    face = face_of(directory, fit)
    if flows.is_flow(fit):
        values, components = flows.sample(fit, rows, seed), np.empty((rows, 0))
    else:
        values, components = evidence.sample(fit, rows, random_state=seed)
    columns = dict(face.columns.decode(values))
    if with_component:
        if components.ndim > 1:
            raise ValueError(f"--with-component is not for {face.model}: it has no components.")
        columns["component"] = components
    write_table(out, columns, overwrite=overwrite)


def run_impute(  # noqa: PLR0913
    directory: str,
    table: str,
    out: str,
    draw: bool,
    seed: int,
    overwrite: bool,
    memory: str | None = None,
) -> None:
    """The table with the fit's columns filled, the others as they were."""
    from minorant import load

    many = large.is_large(table, memory)
    _check_output(out, table, overwrite, many)
    fit = load(directory)
    if flows.is_flow(fit):
        flows.refuse_imputation()
    face = face_of(directory, fit)
    with large.written(out, many, overwrite) as write:
        for number, rows in enumerate(large.parts_of(face, fit, table, memory, None)):
            filled = _filled(fit, face, rows, draw, [seed, number] if number else seed)
            write(large.alike(face, rows, filled) if many else filled)


def _filled(fit: Any, face: Face, rows: Any, draw: bool, seed: Any) -> Any:
    from minorant import evidence

    matrix = face.columns.encode(rows)
    steps = steps_of(face, rows, matrix)
    options = {"draw": draw, "random_state": seed, **steps.keywords()}
    filled = evidence.impute(fit, steps.matrix, **options)[steps.placed]
    grouped = fit.model.is_grouped()
    filled = filled if draw or grouped else face.with_categories(fit, matrix, filled)
    return face.refilled(rows, matrix, filled)


def _check_output(out: str, table: str, overwrite: bool, many: bool) -> None:
    if many:
        check_appended(out, overwrite=overwrite)
        check_apart(out, table)
    check_target(out, overwrite=overwrite)
    apart = STANDARD in {out, table} or not (Path(out).exists() and Path(table).exists())
    if not apart and Path(out).samefile(table):
        raise FileExistsError(f"The output {out!r} is the table itself: give another name.")


# --- demo ----------------------------------------------------------------------------------------


def run_demo(out: str) -> None:
    """Pictures and a report on the data that come with minorant."""
    from minorant import demo

    demo.run(out, print)
