"""From model and table to a fit: starts, climb, remedy, answer; ``climbing.py`` has the loop."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from minorant import _config, degeneracy
from minorant._parameters import filled, has_all_parameters
from minorant._progress import Progress, Reporter
from minorant._types import Rows
from minorant.answer import answer_of
from minorant.climbing import DROPPED, Callback, Climb, Lanes, begin, lanes_from, launch, run
from minorant.data import ArraySource
from minorant.data.tables import as_table
from minorant.models.base import (
    AbstractContinuousModel,
    AbstractDiscreteModel,
    AbstractExactModel,
    AbstractTractableModel,
    count_components,
)
from minorant.preparation import (
    Prepared,
    cast,
    completed_block,
    initial_block,
    prepare,
    subset,
)
from minorant.result import Fit, FitError
from minorant.solvers import EM, AbstractSolver, Problem, QuasiNewton
from minorant.solvers.starts import (
    Starts,
    partitions,
    subsample,
    subsample_groups,
    subsample_size,
)

_SHORT_STEPS = 30
_SAME_START = 1e-4
_RESEEDINGS = 3


class Sample(NamedTuple):
    """The rows that starts are chosen on: all of them when there are few."""

    index: np.ndarray
    block: Rows
    source: ArraySource
    whole: bool


def fit(  # noqa: PLR0913
    model: AbstractExactModel,
    data: Any,
    *,
    weights: Any = None,
    labels: Any = None,
    groups: Any = None,
    inputs: Any = None,
    fixed: Callable[[Any], Any] | None = None,
    posterior: str = "auto",
    solver: AbstractSolver | None = None,
    starts: Starts | None = None,
    tolerance: float = 1e-7,
    max_steps: int = 2000,
    remedy: str = "floor",
    random_state: int | None = 0,
    progress: bool | None = None,
    callbacks: tuple[Callback, ...] = (),
    throw: bool = False,
) -> Fit:
    r"""Climb the best lower bound on ``log p(X)`` and say how it went.

    .. math:: \max_\theta \sum_i w_i \log p_\theta(x_i) \; (+ \log p(\theta))

    Args:
        model: an exact model; parameters that are None are learned from several starts, a
            model whose parameters are all given is climbed from where it stands.
        data: (n, d) array, list, or data frame; NaN, None or NA where a cell is missing.
        weights: (n,) row weights; an integer weight counts as that many copies of the row.
        labels: (n,) known components, -1 where unknown.
        groups: (n,) what belongs together, for models of groups: the sequence (its rows in the
            order of time) or cluster of each row; None for one sequence.
        inputs: (n, m) known covariates, for models that condition on them.
        fixed: selects the parameters that keep their given value, for example
            ``lambda m: (m.weights, m.component.mean)``.
        posterior: ``"auto"`` or ``"exact"``: which E-step.
        solver: ``EM(acceleration, tolerance)`` or ``QuasiNewton(tolerance)``; None for EM where
            the M-step is closed and quasi-Newton where it is not.
        starts: how many starts and of which kinds.
        tolerance: nats per row that may be left to gain at convergence.
        max_steps: limit on steps of each climb.
        remedy: what to do when the best optimum has a collapsed or empty component: ``"floor"``
            keeps it on its floor, ``"reseed"`` puts it where the fit is worst and climbs again,
            ``"merge"`` goes on with one component fewer. It is named in ``fit.degenerate``.
        random_state: seed of the starts; the same seed gives the same answer.
        progress: show a bar; None shows it on a terminal.
        callbacks: called between blocks with a ``Progress``; returning False stops the climb.
        throw: raise :class:`FitError` unless the climb converged.

    Returns:
        The fit; ``fit.outcome`` says how it ended.

    Raises:
        ValueError: for data, weights, labels or options that cannot be used; names what and where.
        FitError: with ``throw``, when the climb did not converge.

    Example:
        >>> import numpy as np, minorant
        >>> from minorant.components import Gaussian
        >>> rows = np.r_[np.arange(21.0), 100 + np.arange(21.0)][:, None]
        >>> answer = minorant.fit(minorant.Mixture(Gaussian(), n_components=2), rows)
        >>> [round(float(m)) for m in sorted(answer.model.component.mean[:, 0])]
        [10, 110]

    Dempster, Laird & Rubin (1977), "Maximum likelihood from incomplete data via the EM algorithm".
    """
    began = time.perf_counter()
    _check_options(model, posterior, max_steps, tolerance, remedy)
    solver = solver or default_solver(model, tolerance)
    _check_solver(model, solver)
    _config.enable_compilation_cache()
    empty = model.allows_empty_rows()
    table, names = as_table(data, weights, labels, groups, inputs, empty_rows=empty)
    prepared = prepare(model, table, names, fixed)
    climb = Climb(solver, max_steps, Reporter(progress), callbacks, began)
    try:
        answer = _climbed(prepared, climb, starts or Starts(), remedy, random_state)
    finally:
        climb.reporter.close()
    if throw and not answer.outcome.ok:
        raise FitError(answer.outcome.value, answer)
    return answer


def resume(  # noqa: PLR0913
    fit: Fit,
    data: Any,
    *,
    weights: Any = None,
    labels: Any = None,
    groups: Any = None,
    inputs: Any = None,
    **options: Any,
) -> Fit:
    """Go on from where a fit ended (an interrupt, a step limit), step for step as if never stopped.

    Args:
        fit: what ``minorant.fit`` returned.
        data: the same table.
        weights: the same weights.
        labels: the same labels.
        groups: the same groups.
        inputs: the same inputs.
        options: ``max_steps`` (counted from the first step of all), ``solver``, ``tolerance``,
            ``progress``, ``callbacks``, as for ``fit``; the solver must accelerate alike.

    Returns:
        The fit, further on.

    Raises:
        ValueError: when the table does not have the fit's columns.

    Example:
        >>> import numpy as np, minorant
        >>> from minorant.components import Gaussian
        >>> rows = np.r_[np.arange(20.0), 30 + np.arange(20.0)][:, None]
        >>> short = minorant.fit(minorant.Mixture(Gaussian(), n_components=2), rows, max_steps=2)
        >>> minorant.resume(short, rows).outcome.ok
        True
    """
    empty = fit.model.allows_empty_rows()
    table, names = as_table(data, weights, labels, groups, inputs, empty_rows=empty)
    if len(names) != len(fit.names):
        raise ValueError(f"the fit has {len(fit.names)} columns; this table has {len(names)}.")
    began = time.perf_counter()
    solver = options.pop("solver", None)
    solver = solver or default_solver(fit.model, options.pop("tolerance", 1e-7))
    climb = Climb(
        solver,
        options.pop("max_steps", 2000),
        Reporter(options.pop("progress", None)),
        options.pop("callbacks", ()),
        began,
    )
    if options:
        raise TypeError(f"resume does not take {sorted(options)}.")
    prepared = prepare(fit.model, table, names)._replace(fixed=fit.fixed)
    prepared = prepared._replace(template=fit.standardised)
    state = jax.tree.map(lambda leaf: np.asarray(leaf)[None], fit.state)
    state = eqx.tree_at(lambda s: s.code, state, np.where(state.code < 0, 0, state.code))
    problem = Problem(prepared.template, prepared.source, prepared.fixed)
    trace = np.stack([fit.trace.bound, fit.trace.objective], 1) + fit.log_scale
    lanes = lanes_from(climb, problem, state, (0,))._replace(traces=([trace],))
    lanes = run(climb, problem, lanes, prepared.spread)
    return answer_of(prepared, climb, lanes, "", "floor")


def default_solver(model: AbstractExactModel, tolerance: float) -> AbstractSolver:
    """EM where the M-step is closed, quasi-Newton on the evidence where it is not."""
    if isinstance(model, AbstractTractableModel):
        return EM(tolerance=tolerance)
    return QuasiNewton(tolerance)


def _check_solver(model: Any, solver: AbstractSolver) -> None:
    if isinstance(solver, EM) and not isinstance(model, AbstractTractableModel):
        raise TypeError(
            f"{type(model).__name__} has no closed M-step, which EM needs: use "
            "minorant.QuasiNewton, or no solver for the default."
        )


def _check_options(
    model: Any, posterior: str, max_steps: int, tolerance: float, remedy: str
) -> None:
    if not isinstance(model, AbstractExactModel):
        raise TypeError(
            f"model must be an exact model such as minorant.Mixture; got {type(model).__name__}."
        )
    if posterior not in {"auto", "exact"}:
        raise ValueError(f"posterior must be 'auto' or 'exact'; got {posterior!r}.")
    if remedy not in degeneracy.REMEDIES:
        raise ValueError(f"remedy must be one of {degeneracy.REMEDIES}; got {remedy!r}.")
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1; got {max_steps}.")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0 nats per row; got {tolerance}.")


def _climbed(
    prepared: Prepared, climb: Climb, starts: Starts, remedy: str, random_state: int | None
) -> Fit:
    """Climb from the given parameters, or from several starts; then treat what collapsed."""
    rng = np.random.default_rng(random_state)
    template = prepared.template
    if isinstance(template, AbstractContinuousModel) and not has_all_parameters(template):
        started = template.initial(initial_block(prepared, rng), rng)
        template = filled(template, cast(started, prepared.dtype))
    if has_all_parameters(template):
        return _climbed_from(prepared._replace(template=template), climb, remedy)
    if not isinstance(template, AbstractDiscreteModel):
        raise ValueError(
            f"{type(template).__name__} does not say where to start: give all of its parameters."
        )
    sample = _sample(prepared, rng)
    m = len(sample.index)
    weights = np.asarray(sample.block.weight[:m], dtype=float)
    points = template.embedding(np.asarray(sample.block.values[:m], dtype=float))
    labels = partitions(rng, points, weights, count_components(template), starts)
    lanes, note = _from_partitions(prepared, climb, sample, labels, starts.n_climbed)
    answer = answer_of(prepared, climb, lanes, note, remedy)
    if not answer.degenerate or remedy == "floor" or lanes.interrupted:
        return answer
    return _treated(prepared, climb, sample, answer, remedy)


def _climbed_from(prepared: Prepared, climb: Climb, remedy: str) -> Fit:
    """The climb from where the template stands."""
    problem = Problem(prepared.template, prepared.source, prepared.fixed)
    models = jax.tree.map(lambda leaf: np.asarray(leaf)[None], prepared.template)
    lanes = run(climb, problem, begin(climb, problem, models, (0,)), prepared.spread)
    return answer_of(prepared, climb, lanes, "", remedy)


def _sample(prepared: Prepared, rng: np.random.Generator) -> Sample:
    table = prepared.table
    n, d = table.values.shape
    size = subsample_size(n, d, count_components(prepared.template))
    if prepared.template.is_grouped():
        index = subsample_groups(rng, table.groups, n, size)
    else:
        index = subsample(rng, n, size, table.weights)
    whole = len(index) == n
    source = prepared.source if whole else subset(prepared, index)[0]
    return Sample(index, completed_block(prepared, index, rng), source, whole)


def _from_partitions(
    prepared: Prepared, climb: Climb, sample: Sample, labels: np.ndarray, n_climbed: int
) -> tuple[Lanes, str]:
    """Short climbs on the sample, the distinct best of them climbed on all rows."""
    known = prepared.table.labels
    if known is not None:
        labels = np.where(known[sample.index] >= 0, known[sample.index], labels)
    padded = np.zeros((len(labels), len(sample.block.weight)), dtype=np.int32)
    padded[:, : len(sample.index)] = labels
    problem = Problem(prepared.template, sample.source, prepared.fixed)
    short = climb if sample.whole else climb._replace(max_steps=_SHORT_STEPS, callbacks=())
    lanes = run(short, problem, launch(short, problem, sample.block, padded), prepared.spread)
    if sample.whole or lanes.interrupted:
        return lanes, _sentence(lanes, len(labels))
    total = float(sample.source.total_weight)
    kept = _best_distinct(lanes, n_climbed, total, len(prepared.names))
    full = Problem(prepared.template, prepared.source, prepared.fixed)
    chosen = begin(climb, full, lanes.models(kept), tuple(lanes.starts[lane] for lane in kept))
    return run(climb, full, chosen, prepared.spread), _sentence(lanes, len(kept))


def _treated(prepared: Prepared, climb: Climb, sample: Sample, first: Fit, remedy: str) -> Fit:
    """The fit after re-seeding or merging; what was degenerate stays on record."""
    answer = first
    for _ in range(_RESEEDINGS if remedy == "reseed" else count_components(prepared.template) - 1):
        model = answer.standardised
        if remedy == "reseed":
            labels = degeneracy.reseeded(prepared, model)
        else:
            labels, k = degeneracy.merged(prepared, model)
            template = dataclasses.replace(prepared.template, n_components=k)
            prepared = prepared._replace(template=template)
        lanes, _ = _from_partitions(prepared, climb, sample, labels[None, sample.index], 1)
        answer = answer_of(prepared, climb, lanes, first.starts, remedy)
        if not answer.degenerate:
            return answer._replace(degenerate=first.degenerate)
    if remedy == "merge":
        return answer._replace(degenerate=first.degenerate + answer.degenerate)
    kept = f"reseed, tried {_RESEEDINGS} times in vain: left on its floor"
    return first._replace(degenerate=tuple(d._replace(remedy=kept) for d in first.degenerate))


def _sentence(lanes: Lanes, climbed: int) -> str:
    n = len(lanes.starts)
    dropped = int((np.asarray(lanes.state.code) == DROPPED).sum())
    dead = [start for start, gone in zip(lanes.starts, lanes.dead(), strict=True) if gone]
    sentence = f"{n} starts, {climbed} climbed on all rows, {dropped} dropped as hopeless; "
    return sentence + (f"dead and set aside: {dead}." if dead else "none died.")


def _best_distinct(lanes: Lanes, n: int, total: float, d: int) -> list[int]:
    """The best lanes whose bound per row differs; duplicates of a better one are left out."""
    objective = lanes.objective()
    sound = [
        np.isfinite(objective[lane]) and not degeneracy.is_spurious(lanes.model(lane), total, d)
        for lane in range(len(objective))
    ]
    order = np.lexsort((-objective, ~np.array(sound)))
    kept: list[int] = []
    for lane in order:
        gaps = [abs(objective[lane] - objective[other]) / total for other in kept]
        if np.isfinite(objective[lane]) and all(gap > _SAME_START for gap in gaps):
            kept.append(int(lane))
    return kept[:n] or [0]


__all__ = ["Callback", "Progress", "fit", "resume"]
