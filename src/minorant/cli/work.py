"""What ``fit``, ``score``, ``sample``, ``impute`` and ``demo`` do once their arguments are read.

Outputs are checked before any work is done, and written whole or not at all.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from minorant.cli import INTERRUPTED, NOT_CONVERGED, OK, flows
from minorant.cli.arguments import Request
from minorant.cli.faces import face_of, optional
from minorant.cli.sequences import steps_of
from minorant.data.files import STANDARD, check_target, read_table, write_table

_MASS = "responsibility_"


# --- fit -----------------------------------------------------------------------------------------


def run_fit(request: Request) -> int:
    """Read, climb, save, print; the exit code."""
    from minorant.cli.climb import check_options, climbed
    from minorant.saving import save

    check_options(request)
    check_fit_directory(request.out, request.overwrite)
    table = read_table(request.table)
    with warnings.catch_warnings():  # what is warned of is in the fit, and in the exit code
        warnings.simplefilter("ignore")
        face, answer = climbed(request, table)
    save(answer, request.out, extra=face.extra(), overwrite=request.overwrite)
    print(answer)
    if not request.quiet:
        print(f"The fit is in {request.out}.", file=sys.stderr)
    return _code(answer)


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


def run_score(
    directory: str, table: str, out: str | None, weights_column: str | None, overwrite: bool
) -> None:
    """Total and mean of log p(x), and a line per row where asked."""
    from minorant import evidence, load
    from minorant.data.tables import as_weights

    if out is not None:
        _check_output(out, table, overwrite)
    fit = load(directory)
    face = face_of(directory, fit)
    rows = read_table(table, face.columns.texts)
    weights = as_weights(optional(rows, weights_column, "--weights-column"), rows.num_rows)
    steps = steps_of(face, rows, face.columns.encode(rows))
    flow = flows.is_flow(fit)
    if flow:
        density = flows.log_density(fit, steps.matrix)
    else:
        density = evidence.log_evidence(fit, steps.matrix, **steps.keywords())[steps.placed]
    if out is not None:
        keywords: Any = steps.keywords()
        found = {} if flow else told(evidence.posterior(fit, steps.matrix, **keywords))
        columns = {name: cells[steps.placed] for name, cells in found.items()}
        write_table(out, {"log_density": density, **columns}, overwrite=overwrite)
    weights = np.ones(len(density)) if weights is None else weights
    counted = weights > 0
    total = float(np.sum(density[counted] * weights[counted]))
    stream = sys.stderr if out == STANDARD else sys.stdout
    print(f"total log p(x)  {total!r} nats", file=stream)
    print(f"mean log p(x)   {total / float(weights.sum())!r} nats per row", file=stream)


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


def run_impute(
    directory: str, table: str, out: str, draw: bool, seed: int, overwrite: bool
) -> None:
    """The table with the fit's columns filled, the others as they were."""
    from minorant import evidence, load

    _check_output(out, table, overwrite)
    fit = load(directory)
    if flows.is_flow(fit):
        flows.refuse_imputation()
    face = face_of(directory, fit)
    rows = read_table(table, face.columns.texts)
    matrix = face.columns.encode(rows)
    steps = steps_of(face, rows, matrix)
    options = {"draw": draw, "random_state": seed, **steps.keywords()}
    filled = evidence.impute(fit, steps.matrix, **options)[steps.placed]
    grouped = fit.model.is_grouped()
    filled = filled if draw or grouped else face.with_categories(fit, matrix, filled)
    write_table(out, face.refilled(rows, matrix, filled), overwrite=overwrite)


def _check_output(out: str, table: str, overwrite: bool) -> None:
    check_target(out, overwrite=overwrite)
    if STANDARD not in {out, table} and Path(out).exists() and Path(out).samefile(table):
        raise FileExistsError(f"The output {out!r} is the table itself: give another name.")


# --- demo ----------------------------------------------------------------------------------------


def run_demo(out: str) -> None:
    """Pictures and a report on the data that come with minorant."""
    from minorant import demo

    demo.run(out, print)
