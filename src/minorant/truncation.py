"""The climb of a mixture whose rows look at few components each: lists and parameters in turn.

EM climbs the truncated bound with every row's list of components held, for a stretch of steps; then
lists are chosen anew, for the plain step that comes next, where that raises the bound there. So the
bound never falls and no extrapolation is lost, and the climb ends when neither lists nor parameters
have more to gain. What is lost against log p(X) is measured at the end.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Int

from minorant._parameters import has_all_parameters
from minorant.answer import answer_of
from minorant.climbing import Climb, Lanes, Standing, begin, run
from minorant.data.arrays import Table
from minorant.data.paired import PairedSource
from minorant.data.summary import has_gaps
from minorant.lists import first_lists, listed, new_lists
from minorant.models import Mixture
from minorant.models.base import count_components
from minorant.posteriors.truncated import Truncated, Truncation
from minorant.preparation import Prepared
from minorant.result import Fit
from minorant.solvers import EM, Problem
from minorant.solvers.starts import Starts
from minorant.solvers.truncated_em import TruncatedEM
from minorant.truncated_ends import Blockwise, measured, started

_FIRST_STRETCH, _SHORTEST_STRETCH, _LONGEST_STRETCH = 4, 8, 64  # steps; new lists cost about 3
_WARM, _WIDER = (4, 8), 2  # steps, from k-means, with lists so many times as long
_LITTLE = 0.1  # of what a step gains: lists have settled


class Course(NamedTuple):
    """What does not change from stretch to stretch.

    Pairs are scored with the means subtracted first, blocks of rows under many components in
    product form, unless it would lose too many digits.
    """

    prepared: Prepared
    posterior: Truncated
    tolerance: float
    warm: bool

    def n_components(self) -> int:
        """Of the mixture."""
        return count_components(self.prepared.template)

    def centred(self) -> Any:
        """The model where the climb begins, in the form in which pairs are scored."""
        return self.prepared.template.stabilised(np.inf)

    def in_product_form(self, model: Any) -> Any:
        """The model in the form in which blocks are scored."""
        form = jax.tree.structure(self.prepared.template)
        return jax.tree.unflatten(form, jax.tree.leaves(model)).stabilised(self.prepared.spread)

    def problem(self, source: Any) -> Any:
        """The problem under lists."""
        model, fixed = self.centred(), self.prepared.fixed
        if fixed is not None:  # a mask has the model's structure
            fixed = jax.tree.unflatten(jax.tree.structure(model), jax.tree.leaves(fixed))
        return Problem(model, source, fixed)


class Stage(NamedTuple):
    """Lists, and how far the climb has come with them.

    Attributes:
        source: rows and their lists.
        slots: ``(n,)`` where in memory each row came from.
        length: steps of the stretch that follows.
        turn: how often lists were chosen anew.
    """

    source: PairedSource
    slots: Int[np.ndarray, " n"]
    length: int = _FIRST_STRETCH
    turn: int = 0


def climbed_truncated(
    prepared: Prepared, climb: Climb, posterior: Truncated, random_state: int | None
) -> Fit:
    """Climb the truncated bound, from the given parameters or from one k-means on a sample."""
    rng = np.random.default_rng(random_state)
    model, note, warm = prepared.template, "", False
    if not has_all_parameters(model):
        model, note = started(prepared, rng), "1 start, from k-means on a sample of rows"
        warm = climb.max_steps > sum(_WARM)
        note += f" and {sum(_WARM)} steps with longer lists." if warm else "."
    prepared = prepared._replace(template=model)
    em: Any = climb.solver  # check_truncated asks
    course = Course(prepared, posterior, em.tolerance, warm)
    paired = climb._replace(solver=TruncatedEM(em))
    lanes, stage = _in_stretches(course, paired)
    lanes = _in_product_form(course, paired, lanes)
    blockwise = prepared._replace(stream=Blockwise(prepared))
    answer = answer_of(blockwise, climb, lanes, note, "floor")
    found = measured(prepared, posterior, stage.source, answer, rng)
    return answer._replace(truncation=found, explanation=_explanation(answer, found))


def check_truncated(model: Any, posterior: Truncated, solver: Any, remedy: str) -> None:
    """Refuse what has no truncated E-step, before any work.

    Raises:
        TypeError: for another model than a mixture, or another solver than EM.
        ValueError: for more components than the mixture has, or a remedy.
    """
    if not isinstance(model, Mixture):
        raise TypeError(
            f"posteriors.Truncated is for minorant.Mixture; got {type(model).__name__}. Leave "
            "posterior= out."
        )
    if solver is not None and not isinstance(solver, EM):
        raise TypeError(
            f"posteriors.Truncated is climbed by minorant.EM; got {type(solver).__name__}."
        )
    if posterior.components > model.n_components:
        raise ValueError(
            f"Truncated(components={posterior.components}) is more than the mixture's "
            f"{model.n_components}: give fewer, or leave posterior= out for the exact E-step."
        )
    if remedy != "floor":
        raise ValueError(
            f"remedy={remedy!r} needs every row's responsibilities for all components, which "
            "Truncated does not form: leave remedy= out."
        )


def check_rows(table: Table, starts: Starts | None) -> None:
    """Refuse rows that cannot have lists.

    Raises:
        ValueError: for missing cells, known labels, or more than one start.
    """
    if has_gaps(table.values):
        row = int(np.flatnonzero(np.isnan(table.values).any(1))[0])
        raise ValueError(
            f"Truncated needs complete rows, but row {row} misses a cell: leave posterior= out for "
            "the exact E-step, which integrates missing cells out."
        )
    if table.labels is not None:
        raise ValueError("Truncated takes no known labels: leave labels= or posterior= out.")
    if starts is not None and starts.n != 1:
        raise ValueError(
            f"Truncated climbs from one start; got starts of {starts.n}. Give Starts(n=1), or fit "
            "several times with different random_state."
        )


def _in_stretches(course: Course, climb: Climb) -> tuple[Lanes, Stage]:
    """Stretches of EM, longer as lists settle, and new lists between them."""
    stage, lanes = _begun(course, climb)
    if _is_over(climb, lanes):
        return lanes, stage
    while True:
        before = _steps(lanes)
        lanes = _climbed_on(course, climb, stage, lanes)
        if _is_over(climb, lanes):
            return lanes, stage
        new, gain = _renewed(course, stage, lanes, course.posterior.components)
        if _ended(lanes) and gain <= _settled(course, lanes):
            return lanes, stage
        stage = new if gain > 0 else stage._replace(turn=new.turn)
        stage = stage._replace(length=_next_length(stage.length, gain, lanes, before))
        lanes = lanes._replace(state=_taken_up(lanes.state))
        climb.journal.leave(_standing(lanes), _written(course, stage))


def _begun(course: Course, climb: Climb) -> tuple[Stage, Lanes]:
    """The first lists and the lane at its start, or where an earlier process has left them."""
    lanes = _lane(course, climb, course.centred())
    standing, left = climb.journal.went_on(_standing(lanes))
    if left is not None:
        return _restored(course, left), standing.lanes
    if course.warm:
        return _warmed(course, climb, lanes)
    return _first(course, lanes, course.posterior.components), lanes


def _warmed(course: Course, climb: Climb, lanes: Lanes) -> tuple[Stage, Lanes]:
    """Some steps with longer lists: what k-means has parted may come from many components yet."""
    c = course.posterior.components
    wide = min(_WIDER * c, course.n_components())
    stage = _first(course, lanes, wide)
    quiet = climb._replace(callbacks=())
    for length, mean in zip(_WARM, (*[wide] * (len(_WARM) - 1), c), strict=True):
        lanes = _climbed_on(course, quiet, stage._replace(length=length), lanes)
        if lanes.interrupted or lanes.dead().any():
            return stage, lanes
        stage, _ = _renewed(course, stage, lanes, mean)
    return stage, _lane(course, climb, _next_model(lanes))


def _lane(course: Course, climb: Climb, model: Any) -> Lanes:
    """One that has not moved."""
    models = jax.tree.map(lambda leaf: np.asarray(leaf)[None], model)
    return begin(climb, course.problem(course.prepared.source), models, (0,))


def _first(course: Course, lanes: Lanes, c: int) -> Stage:
    """The best of all components for where the climb begins."""
    segment = course.prepared.source.segments[0]
    found = first_lists(segment, course.in_product_form(lanes.model(0)), c)
    return Stage(found.source, found.origin)


def _climbed_on(course: Course, climb: Climb, stage: Stage, lanes: Lanes) -> Lanes:
    """A stretch, until the plain step is next: at lists that suit it, it cannot be lower."""
    problem, spread = course.problem(stage.source), course.prepared.spread
    stretch = climb._replace(max_steps=min(_steps(lanes) + stage.length, climb.max_steps))
    lanes = run(stretch, problem, lanes, spread)
    state: Any = lanes.state
    if _is_over(climb, lanes) or _ended(lanes) or bool(np.asarray(state.pending_is_plain)[0]):
        return lanes
    return run(climb._replace(max_steps=_steps(lanes) + 1), problem, lanes, spread)


def _renewed(course: Course, stage: Stage, lanes: Lanes, c: int) -> tuple[Stage, float]:
    """Lists of this length for the step that comes next, and what they add to the bound."""
    turn, here = stage.turn + 1, _next_model(lanes)
    models = here, course.in_product_form(here)
    found = new_lists(stage.source, models, c, course.posterior.searched, turn)
    return stage._replace(
        source=found.source, slots=stage.slots[found.origin], turn=turn
    ), found.gain


def _next_model(lanes: Lanes) -> Any:
    """The model that the plain step leads to."""
    state = _at_plain(lanes.state)
    return lanes._replace(state=dataclasses.replace(state, accepted=state.pending)).model(0)


def _standing(lanes: Lanes) -> Standing:
    return Standing(lanes, None, lanes.objective())


def _written(course: Course, stage: Stage) -> dict[str, Any]:
    """What of a stage cannot be worked out again."""
    k = course.n_components()
    lists = stage.source.rows.pairs.lists(k).astype(np.uint16 if k < 1 << 16 else np.int32)
    return stage._asdict() | {"source": lists}


def _restored(course: Course, left: dict[str, Any]) -> Stage:
    """The stage that was written."""
    names, slots = left["source"].astype(np.int32), left["slots"]
    segment, k = course.prepared.source.segments[0], course.n_components()
    source = listed(segment, slots, names, names < k, k, course.posterior.components)
    return Stage(source, slots, left["length"], left["turn"])


def _next_length(length: int, gain: float, lanes: Lanes, before: int) -> int:
    """Half as long where new lists gain more than the last steps did, twice where far less."""
    if length < _SHORTEST_STRETCH:
        return 2 * length
    bounds = np.concatenate(lanes.traces[0])[before:, 0]
    late = bounds[len(bounds) // 2 :]
    by_step = (late[-1] - late[0]) / max(len(late) - 1, 1)
    wanted = length // 2 if gain > by_step else length if gain > _LITTLE * by_step else 2 * length
    return int(np.clip(wanted, _SHORTEST_STRETCH, _LONGEST_STRETCH))


def _settled(course: Course, lanes: Lanes) -> float:
    """A gain of lists that is too little to go on for: what rounding may explain, or tolerated."""
    bound = np.asarray(lanes.state.bound)[0]
    rounding = 4 * np.finfo(bound.dtype).eps * abs(float(bound))
    return max(course.tolerance * float(course.prepared.source.n_rows()), rounding)


def _steps(lanes: Lanes) -> int:
    return int(np.asarray(lanes.state.n_steps)[0])


def _ended(lanes: Lanes) -> bool:
    """Whether the climb has come to an end under its lists."""
    return int(np.asarray(lanes.state.code)[0]) != 0


def _is_over(climb: Climb, lanes: Lanes) -> bool:
    """Whether no further stretch may follow."""
    return lanes.interrupted or bool(lanes.dead().any()) or _steps(lanes) >= climb.max_steps


def _at_plain(state: Any) -> Any:
    """The climb with the plain step next."""
    plain = np.asarray(state.pending_is_plain)
    return dataclasses.replace(
        state,
        pending=np.where(plain[:, None], state.pending, state.fallback),
        pending_is_plain=np.full_like(plain, True),
        pending_worth=np.where(plain, state.pending_worth, 1.0),
    )


def _taken_up(state: Any) -> Any:
    """The climb under other lists: it goes on if it had ended, and gains so far say nothing."""
    zero = np.zeros_like(state.code)
    checking = np.zeros_like(state.checking)
    return dataclasses.replace(_at_plain(state), checking=checking, code=zero)


def _in_product_form(course: Course, climb: Climb, lanes: Lanes) -> Lanes:
    """The lane with its model in the form in which rows are scored under all components."""
    prepared = course.prepared
    form = jax.tree.structure(course.in_product_form(lanes.model(0)))
    leaves = jax.tree.leaves(lanes.state.model)
    state = eqx.tree_at(lambda s: s.model, lanes.state, jax.tree.unflatten(form, leaves))
    problem = Problem(prepared.template, prepared.source, prepared.fixed)
    return lanes._replace(state=state, settle=lambda s: climb.solver.settled(problem, s))


def _explanation(answer: Fit, found: Truncation) -> str:
    """The E-step that was asked for in the place of the exact one."""
    return f"E-step: {found}.{answer.explanation[answer.explanation.index(' Solver: ') :]}"
