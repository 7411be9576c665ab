"""From model and table to a fit: starts, climb, remedy, answer; ``climbing.py`` has the loop."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, overload

import equinox as eqx
import jax
import numpy as np

from minorant import _config, degeneracy
from minorant._progress import Progress, Reporter
from minorant.answer import answer_of
from minorant.checkpoints.journal import journalled, journalled_target
from minorant.checkpoints.place import Checkpoint
from minorant.climbing import Callback, Climb, lanes_from, run
from minorant.encoding import (
    Course,
    asked_family,
    climbed,
    default_ascent,
    encodable,
    started,
)
from minorant.ladder import Ladder
from minorant.models.base import (
    AbstractExactModel,
    AbstractTractableModel,
)
from minorant.models.target import AbstractTarget
from minorant.posteriors import Encoder, Truncated
from minorant.preparation import Prepared
from minorant.restarts import climbed_from_starts
from minorant.result import Fit, FitError
from minorant.solvers import EM, AbstractSolver, AbstractStepwise, Ascent, Problem, QuasiNewton
from minorant.solvers.starts import (
    Starts,
)
from minorant.streaming import prepared_rows, refuse_chunks
from minorant.target_fit import TargetFit
from minorant.truncation import check_rows, check_truncated, climbed_truncated

POSTERIORS = ("auto", "exact", "full-rank", "mean-field", "encoder")
_STEPS = 2000


@overload
def fit(model: AbstractTarget, **options: Any) -> TargetFit: ...


@overload
def fit(model: AbstractExactModel, data: Any, **options: Any) -> Fit: ...


def fit(  # noqa: PLR0913  # pyright: ignore[reportInconsistentOverload]
    model: AbstractExactModel | AbstractTarget,
    data: Any = None,
    *,
    weights: Any = None,
    labels: Any = None,
    groups: Any = None,
    inputs: Any = None,
    fixed: Callable[[Any], Any] | None = None,
    posterior: Any = "auto",
    bound: Any = None,
    solver: AbstractSolver | Ascent | None = None,
    starts: Starts | None = None,
    tolerance: float = 1e-7,
    max_steps: int | None = None,
    remedy: str = "floor",
    accuracy: float = 0.05,
    seconds: float = 60.0,
    random_state: int | None = 0,
    progress: bool | None = None,
    callbacks: tuple[Callback, ...] = (),
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    throw: bool = False,
) -> Fit | TargetFit:
    r"""Climb the best lower bound on ``log p(X)`` and say how it went.

    .. math:: \max_\theta \sum_i w_i \log p_\theta(x_i) \; (+ \log p(\theta))

    Args:
        model: an exact model; parameters that are None are learned from several starts, a
            model whose parameters are all given is climbed from where it stands. Or a target
            (``minorant.Target``): a log density over the unknowns of one data set, without
            ``data``; its posterior is climbed to by the ladder of variational families.
        data: (n, d) array, list, or data frame; NaN, None or NA where a cell is missing. Or rows
            that are not in memory: ``minorant.chunks(...)``, a path, folder, pattern or list of
            paths of Parquet files, a Dask collection; weights, labels, groups and inputs are then
            names of columns.
        weights: (n,) row weights; an integer weight counts as that many copies of the row.
        labels: (n,) known components, -1 where unknown.
        groups: (n,) what belongs together, for models of groups: the sequence (its rows in the
            order of time) or cluster of each row; None for one sequence.
        inputs: (n, m) known covariates, for models that condition on them.
        fixed: selects the parameters that keep their given value, for example
            ``lambda m: (m.weights, m.component.mean)``.
        posterior: which E-step: ``"auto"`` or ``"exact"``; of a mixture of hundreds of components
            also ``minorant.posteriors.Truncated(components)``; of a user's ``Model`` also
            ``"full-rank"`` or ``"mean-field"``, a Gaussian q for each row (with options:
            ``minorant.posteriors.PerRow``), or ``"encoder"``, one network that gives every row's q
            (with options: ``minorant.Encoder``); of a target ``"auto"``,
            or the family: a name of ``minorant.families.BY_NAME``, a family with options
            (``minorant.families.Flow(kind="spline")``), or a density of yours to climb from.
        bound: an object of ``minorant.bounds``; None for the evidence lower bound. For an encoder;
            of a target for families that climb by stochastic ascent.
        solver: ``EM(acceleration, tolerance)`` or ``QuasiNewton(tolerance)``; None for EM where
            the M-step is closed and quasi-Newton where it is not. Of very many rows
            ``solvers.Incremental()`` or ``solvers.OnlineEM()``. With an encoder
            ``solvers.Ascent(accuracy)``, in nats per row.
        starts: how many starts and of which kinds; None: twelve partitions of the rows where the
            latent is discrete, else the model's own number. Of other models (``StateSpace``, a
            ``Model`` of yours) the first start is the one they propose or are given, the others
            are moved from it at random.
        tolerance: nats per row that may be left to gain at convergence.
        max_steps: limit on steps of each climb; None for 2000, with an encoder 30,000.
        remedy: what to do when the best optimum has a collapsed or empty component: ``"floor"``
            keeps it on its floor, ``"reseed"`` puts it where the fit is worst and climbs again,
            ``"merge"`` goes on with one component fewer. It is named in ``fit.degenerate``.
        accuracy: of a target: nats that importance weights may find above its bound.
        seconds: of a target: wall time after which no further family is begun.
        random_state: seed of the starts; the same seed gives the same answer.
        progress: show a bar; None shows it on a terminal.
        callbacks: called between blocks with a ``Progress``; returning False stops the climb.
        checkpoint: a directory where the climb writes how far it is (with options:
            ``minorant.Checkpoint``). The same call with the same directory goes on from there, to
            the same answer to the last bit; ``minorant.status(directory)`` looks at it. Of a
            target stochastic ascents are kept, and the rest is worked out again.
        throw: raise :class:`FitError` unless the climb converged.

    Returns:
        The fit; ``fit.outcome`` says how it ended. Of a target a :class:`TargetFit`.

    Raises:
        TypeError: for what is neither an exact model nor a target.
        ValueError: for data, weights, labels or options that cannot be used; names what and where.
        OSError: when a checkpoint or rows that are not in memory cannot be read or written.
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
    if isinstance(model, AbstractTarget):
        _check_target_options((data, weights, labels, groups, inputs, fixed, solver, starts))
        ladder = Ladder(posterior, accuracy, seconds, random_state or 0, Reporter(progress), bound)
        return _thrown(_of_target(model, ladder, checkpoint), throw)
    _check_options(model, posterior, max_steps, tolerance, remedy)
    truncated = posterior if isinstance(posterior, Truncated) else None
    if truncated is not None:
        check_truncated(model, truncated, solver, remedy)
        posterior = "exact"
    family = asked_family(model, posterior, bound)
    described: Any = _with_posterior(model, posterior, family)
    _config.enable_compilation_cache()
    reporter, sides = Reporter(progress), (weights, labels, groups, inputs)
    if isinstance(family, Encoder):
        course = Course(default_ascent(solver, max_steps), reporter, callbacks, began)
        prepared = encodable(described, data, sides, family, fixed)
        answer = _encoded(prepared, course, checkpoint, fixed, random_state)
        return _thrown(answer, throw)
    chosen = _checked_solver(described, solver or default_solver(described, tolerance))
    if truncated is not None:
        refuse_chunks(data, "posterior=Truncated(...)")
    prepared = prepared_rows(described, data, sides, fixed)
    if truncated is not None:
        check_rows(prepared.table, starts)
    asked = {"model": described, "posterior": truncated, "solver": chosen, "starts": starts}
    asked |= {"max_steps": max_steps, "remedy": remedy, "random_state": random_state}
    with journalled(checkpoint, prepared, asked) as journal, contextlib.closing(reporter):
        climb = Climb(chosen, max_steps or _STEPS, reporter, callbacks, began, journal)
        answer = _climbed(prepared, climb, truncated, starts, remedy, random_state)
    return _thrown(answer, throw)


def _climbed(  # noqa: PLR0913
    prepared: Prepared,
    climb: Climb,
    truncated: Truncated | None,
    starts: Starts | None,
    remedy: str,
    random_state: int | None,
) -> Fit:
    """The climb, told to its journal from the seed to the answer."""
    seed = climb.journal.seed(random_state)
    if truncated is not None:
        answer = climbed_truncated(prepared, climb, truncated, seed)
    else:
        answer = climbed_from_starts(prepared, climb, starts, remedy, seed)
    climb.journal.answered(answer)
    return answer


def _of_target(target: AbstractTarget, ladder: Ladder, checkpoint: Any) -> TargetFit:
    """The ladder, its stochastic ascents told to a journal."""
    names = ("family", "accuracy", "seconds", "seed", "bound")
    asked = {name: getattr(ladder, name) for name in names}
    with journalled_target(checkpoint, target, asked) as journal:
        answer = ladder._replace(journal=journal).climb(target)
        journal.answered(answer)
    return answer


def _encoded(
    prepared: Prepared, course: Course, checkpoint: Any, fixed: Any, random_state: int | None
) -> Fit:
    """The climb of a model with its encoder, from a start that the seed chooses."""
    asked = {"model": prepared.template, "solver": course.solver, "random_state": random_state}
    with (
        journalled(checkpoint, prepared, asked) as journal,
        contextlib.closing(course.reporter),
    ):
        drawn = np.random.default_rng(journal.seed(random_state))
        seed = int(drawn.integers(2**31))
        course = course._replace(journal=journal)
        answer = climbed(started(prepared, fixed, seed), course, seed)
        journal.answered(answer)
    return answer


def _thrown(answer: Any, throw: bool) -> Any:
    """The answer, or with ``throw`` an error that holds it where the climb failed."""
    if throw and not answer.outcome.ok:
        degenerate = getattr(answer, "degenerate", ())
        raise FitError(" ".join([answer.outcome.value, *map(str, degenerate)]), answer)
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
        TypeError: for the fit of a target.
        ValueError: when the table does not have the fit's columns.

    Example:
        >>> import numpy as np, minorant
        >>> from minorant.components import Gaussian
        >>> rows = np.r_[np.arange(20.0), 30 + np.arange(20.0)][:, None]
        >>> short = minorant.fit(minorant.Mixture(Gaussian(), n_components=2), rows, max_steps=2)
        >>> minorant.resume(short, rows).outcome.ok
        True
    """
    if not isinstance(fit, Fit):
        raise TypeError(
            f"resume goes on with the fit of a model of rows; got {type(fit).__name__}. A target "
            "is climbed from its start each time: give minorant.fit more seconds=."
        )
    if isinstance(getattr(fit.model, "family", None), Encoder):
        return _encoded_further(fit, data, weights, options)
    if fit.truncation is not None:
        return _truncated_further(fit, data, weights, options)
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
    prepared = prepared_rows(fit.model, data, (weights, labels, groups, inputs), None)
    if len(prepared.names) != len(fit.names):
        raise ValueError(
            f"the fit has {len(fit.names)} columns; this table has {len(prepared.names)}."
        )
    prepared = prepared._replace(fixed=fit.fixed, template=fit.standardised)
    state = jax.tree.map(lambda leaf: np.asarray(leaf)[None], fit.state)
    state = eqx.tree_at(lambda s: s.code, state, np.where(state.code < 0, 0, state.code))
    problem = Problem(prepared.template, prepared.source, prepared.fixed)
    trace = np.stack([fit.trace.bound, fit.trace.objective], 1) + fit.log_scale
    lanes = lanes_from(climb, problem, state, (0,))._replace(traces=([trace],))
    lanes = run(climb, problem, lanes, prepared.spread)
    return answer_of(prepared, climb, lanes, "", "floor")


def _encoded_further(answer: Fit, data: Any, weights: Any, options: dict[str, Any]) -> Any:
    """Another climb from where model and encoder stand."""
    family = answer.model.family
    model = answer.model.bounded()
    return fit(model, data, weights=weights, posterior=family, bound=family.bound, **options)


def _truncated_further(answer: Fit, data: Any, weights: Any, options: dict[str, Any]) -> Fit:
    """Another climb from where the model stands, its lists chosen anew."""
    if answer.fixed is not None:
        raise ValueError(
            "A truncated fit with fixed parameters cannot be resumed: give minorant.fit its model, "
            "posterior= and fixed= again."
        )
    most = max(options.pop("max_steps", _STEPS) - answer.acceleration.steps, 1)
    options = options | {"posterior": answer.truncation.posterior, "max_steps": most}
    return fit(answer.model, data, weights=weights, **options)


def default_solver(model: AbstractExactModel, tolerance: float) -> AbstractSolver:
    """EM where the M-step is closed, quasi-Newton on the evidence where it is not."""
    if isinstance(model, AbstractTractableModel):
        return EM(tolerance=tolerance)
    return QuasiNewton(tolerance)


def _checked_solver(model: Any, solver: Any) -> AbstractSolver:
    if not isinstance(solver, AbstractSolver):
        raise TypeError(
            f"solver must be minorant.EM or minorant.QuasiNewton here; got {type(solver).__name__}."
        )
    by_em = isinstance(solver, EM | AbstractStepwise)
    if by_em and not isinstance(model, AbstractTractableModel):
        raise TypeError(
            f"{type(model).__name__} has no closed M-step, which EM needs: use "
            "minorant.QuasiNewton, or no solver for the default."
        )
    return solver


def _check_target_options(given: tuple) -> None:
    names = ("data", "weights", "labels", "groups", "inputs", "fixed", "solver", "starts")
    for name, value in zip(names, given, strict=True):
        if value is not None:
            raise ValueError(
                f"{name} is for models of rows; a target holds its data itself, and where to start "
                "from (Target(..., start=))."
            )


def _with_posterior(model: Any, posterior: Any, family: Any) -> AbstractExactModel:
    """The model, its latent done away with as asked.

    Raises:
        ValueError: where the model has no such posterior.
    """
    if family is not None:
        return model if isinstance(family, Encoder) else model.bounded(family)
    if posterior == "exact" and model.is_bounded():
        raise ValueError(f"{type(model).__name__} has no exact posterior: {model.reason()}.")
    return model


def _check_options(
    model: Any, posterior: Any, max_steps: int | None, tolerance: float, remedy: str
) -> None:
    if not isinstance(model, AbstractExactModel):
        raise TypeError(
            "model must be an exact model such as minorant.Mixture, or a minorant.Target; got "
            f"{type(model).__name__}."
        )
    if isinstance(posterior, str) and posterior not in POSTERIORS:
        raise ValueError(f"posterior must be one of {POSTERIORS}; got {posterior!r}.")
    if remedy not in degeneracy.REMEDIES:
        raise ValueError(f"remedy must be one of {degeneracy.REMEDIES}; got {remedy!r}.")
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps must be at least 1; got {max_steps}.")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0 nats per row; got {tolerance}.")


__all__ = ["Callback", "Progress", "fit", "resume"]
