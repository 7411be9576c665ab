"""The one loop: jitted blocks of solver steps, and between blocks everything the host does.

Climbs from several starts are lanes of one vectorised state. Between blocks: progress, callbacks,
interrupt, verdict, the choice of numerical form; a lane that falls clearly behind is dropped, one
that fails is set aside, and neither can end the others. No other file loops over solver steps.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from minorant import _config
from minorant._parameters import filled
from minorant._progress import Progress, Reporter
from minorant._types import PyTree, Rows
from minorant.data import AbstractPassedSource, AbstractSource
from minorant.journal import Journal
from minorant.models.base import AbstractExactModel, count_components
from minorant.passes import Watch, counted, each_lane, stepped
from minorant.result import CODES, Outcome
from minorant.solvers import AbstractSolver, AbstractState, Problem
from minorant.solvers.base import TRACE_LENGTH

RowProblem: TypeAlias = Problem[AbstractExactModel, AbstractSource]
Callback = Callable[[Progress], bool | None]
DROPPED = -1
_SECONDS_PER_BLOCK = 0.3
_FLOPS = 2e10
_WORTH_COMPACTING = 1e8
_SMALL_WORK = 1e7
_SMOOTHING = 0.01
_PATIENCE = 10.0
_FEWEST_STEPS = 8


class Climb(NamedTuple):
    """What steers a climb and is not part of the problem."""

    solver: AbstractSolver
    max_steps: int
    reporter: Reporter
    callbacks: tuple[Callback, ...] = ()
    began: float = 0.0
    journal: Journal = Journal()


class Lanes(NamedTuple):
    """Climbs under way: stacked states, their traces, and the starts they came from.

    A lane's model is read off its accepted point when it is asked for; ``settle`` does it.
    """

    state: AbstractState
    traces: tuple[list[np.ndarray], ...]
    starts: tuple[int, ...]
    settle: Callable[[AbstractState], PyTree]
    interrupted: bool = False

    def objective(self) -> np.ndarray:
        """The objective of every lane, -inf where it is not a number."""
        objective = np.asarray(self.state.objective, dtype=float)
        return np.where(np.isfinite(objective), objective, -np.inf)

    def dead(self) -> np.ndarray:
        """Which lanes ended in a failure of the numerics."""
        return np.array([_is_failure(int(code)) for code in np.asarray(self.state.code)])

    def model(self, lane: int) -> PyTree:
        """One lane's accepted model, on the host."""
        state = jax.tree.map(lambda leaf: np.asarray(leaf)[lane], self.state)
        return jax.tree.map(np.asarray, self.settle(state))

    def models(self, lanes: list[int]) -> PyTree:
        """Some lanes' accepted models, stacked."""
        chosen = [self.model(lane) for lane in lanes]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *chosen)

    def take(self, lanes: list[int]) -> Lanes:
        """Some of the lanes."""
        state = jax.tree.map(lambda leaf: np.asarray(leaf)[lanes], self.state)
        traces = tuple(self.traces[lane] for lane in lanes)
        starts = tuple(self.starts[lane] for lane in lanes)
        return self._replace(state=state, traces=traces, starts=starts)

    def joined(self, other: Lanes) -> Lanes:
        """These lanes and others."""
        state = jax.tree.map(lambda a, b: np.concatenate([a, b]), self.state, other.state)
        return Lanes(
            state,
            self.traces + other.traces,
            self.starts + other.starts,
            self.settle,
            self.interrupted or other.interrupted,
        )


def lanes_from(
    climb: Climb, problem: RowProblem, state: AbstractState, starts: tuple[int, ...]
) -> Lanes:
    """Lanes of stacked states that have not moved yet."""
    settle = functools.partial(climb.solver.settled, problem)
    return Lanes(state, tuple([] for _ in starts), starts, settle)


def launch(climb: Climb, problem: RowProblem, block: Rows, labels: np.ndarray) -> Lanes:
    """Lanes begun from partitions of ``block``: each one's smoothed M-step."""
    state = _launch(climb.solver, counted(problem), block, labels)
    return lanes_from(climb, problem, state, tuple(range(len(labels))))


def begin(climb: Climb, problem: RowProblem, models: PyTree, starts: tuple[int, ...]) -> Lanes:
    """Lanes begun from stacked models."""
    return lanes_from(climb, problem, _begin(climb.solver, counted(problem), models), starts)


class Standing(NamedTuple):
    """A run under way: the lanes climbed, those set aside, and the objective when last judged."""

    lanes: Lanes
    ended: Lanes | None
    judged: np.ndarray
    finished: bool = False

    def all_lanes(self, starts: tuple[int, ...]) -> Lanes:
        """Every lane of the run, in the order of their starts given."""
        if self.ended is None:
            return self.lanes
        lanes = self.lanes.joined(self.ended)
        return lanes.take([lanes.starts.index(start) for start in starts])

    def steps(self) -> int:
        """Steps of the lane that is furthest."""
        return int(np.asarray(self.lanes.state.n_steps).max())

    def climbs(self) -> np.ndarray:
        """Which lanes have not ended."""
        return np.asarray(self.lanes.state.code) == 0


def run(climb: Climb, problem: RowProblem, lanes: Lanes, spread: float) -> Lanes:
    """Blocks of steps until every lane has ended; an interrupt keeps what there is.

    Blocks are as long as the clock says, but lanes are judged at fixed numbers of steps: how fast
    the machine was, or that it was switched off, changes no answer.
    """
    period = _period(problem, len(lanes.starts))
    standing = Standing(lanes, None, np.full(len(lanes.starts), -np.inf))
    standing = climb.journal.entered(standing)
    block, goes_on = period, True
    try:
        while goes_on and not standing.finished:
            before = standing.lanes.objective().max()
            limit = _limit(climb, standing, block, period)
            standing, seconds = _one_block(climb, problem, standing, limit)
            if standing.steps() % period == 0 or not standing.climbs().any():
                standing = _judged(climb, problem, standing, spread)
            done = not standing.climbs().any() or standing.steps() >= climb.max_steps
            standing = standing._replace(finished=done)
            climb.journal.keep(standing)
            goes_on = done or _report(climb, problem, standing, seconds / limit, before)
            block = _next_block(limit, seconds)
    except KeyboardInterrupt:
        goes_on = False
    if goes_on:
        return standing.all_lanes(lanes.starts)
    climb.journal.flush(standing)
    if not standing.steps():  # then there is no bound yet, and nothing to answer with
        raise KeyboardInterrupt
    return standing.all_lanes(lanes.starts)._replace(interrupted=True)


def _limit(climb: Climb, standing: Standing, block: int, period: int) -> int:
    """Steps to take: no further than to where lanes are judged next."""
    steps = standing.steps()
    return max(min(block, period - steps % period, climb.max_steps - steps), 1)


def _one_block(
    climb: Climb, problem: RowProblem, standing: Standing, limit: int
) -> tuple[Standing, float]:
    """One block of steps, its trace collected, and the seconds taken."""
    lanes = standing.lanes
    before = np.asarray(lanes.state.n_steps)
    began = time.perf_counter()
    state = _moved(climb, problem, standing, limit)
    rings, after = np.asarray(state.trace), np.asarray(state.n_steps)
    traces = tuple(
        [*trace, rings[lane][np.arange(before[lane], after[lane]) % TRACE_LENGTH]]
        for lane, trace in enumerate(lanes.traces)
    )
    moved = standing._replace(lanes=lanes._replace(state=state, traces=traces))
    return moved, time.perf_counter() - began


def _moved(climb: Climb, problem: RowProblem, standing: Standing, limit: int) -> AbstractState:
    """The lanes some steps further: in one compiled loop where the rows can be compiled into it."""
    state = standing.lanes.state
    if isinstance(problem.source, AbstractPassedSource):
        watch = Watch(climb.journal, standing)
        return stepped(climb.solver, problem, state, watch)
    advance = advancing(problem, len(standing.lanes.starts))
    state = advance(climb.solver, problem, state, np.asarray(limit, np.int32))
    return jax.tree.map(np.asarray, state)


def _judged(climb: Climb, problem: RowProblem, standing: Standing, spread: float) -> Standing:
    """Lanes dropped, put into another numerical form, or set aside."""
    lanes = _drop_laggards(standing.lanes, standing.judged, problem)
    lanes = _stabilised(climb, lanes, spread)
    climbs = np.asarray(lanes.state.code) == 0
    if not climbs.any():
        return standing._replace(lanes=lanes)
    lanes, ended = _compacted(problem, lanes, climbs, standing.ended)
    return Standing(lanes, ended, lanes.objective())


def advancing(problem: RowProblem, lanes: int) -> Callable[..., AbstractState]:
    """The compiled block of steps: in less time where there is little to compute."""
    return _advance_small if _work(problem) * lanes < _SMALL_WORK else _advance


def _period(problem: RowProblem, lanes: int) -> int:
    """Steps between two judgements of lanes; of small problems as many as a trace holds."""
    if isinstance(problem.source, AbstractPassedSource):
        return _FEWEST_STEPS
    steps = _SECONDS_PER_BLOCK * _FLOPS / (_work(problem) * lanes)
    return int(np.clip(steps, _FEWEST_STEPS, TRACE_LENGTH))


def _next_block(block: int, seconds: float) -> int:
    scaled = block * _SECONDS_PER_BLOCK / max(seconds, 1e-4)
    return int(np.clip(scaled, 1, TRACE_LENGTH))


def _work(problem: RowProblem) -> float:
    """A rough count of floating-point operations of one step of one lane."""
    rows, d = problem.source.shape()
    return 4.0 * rows * problem.model.numbers_per_row(d) * count_components(problem.model)


def _drop_laggards(lanes: Lanes, previous: np.ndarray, problem: RowProblem) -> Lanes:
    """Mark lanes that would need ten times their last block's gain to catch up with the best."""
    objective, code = lanes.objective(), np.asarray(lanes.state.code)
    if len(code) == 1 or not np.isfinite(objective).any():
        return lanes
    with np.errstate(invalid="ignore"):
        gain = objective - previous
    allowed = _PATIENCE * gain + 1e-6 * float(problem.n_rows())
    behind = (code == 0) & (objective.max() - objective > allowed)
    marked = np.where(behind, DROPPED, code).astype(np.int32)
    return lanes._replace(state=eqx.tree_at(lambda s: s.code, lanes.state, marked))


def _compacted(
    problem: RowProblem, lanes: Lanes, running: np.ndarray, ended: Lanes | None
) -> tuple[Lanes, Lanes | None]:
    """Only the running lanes, where the work saved is worth another compilation.

    Half of them must have ended: a dozen lanes then compile four programs at most.
    """
    idle = int((~running).sum())
    if 2 * idle < len(running) or _work(problem) * idle < _WORTH_COMPACTING:
        return lanes, ended
    over = lanes.take([int(lane) for lane in np.flatnonzero(~running)])
    ended = over if ended is None else ended.joined(over)
    return lanes.take([int(lane) for lane in np.flatnonzero(running)]), ended


def _stabilised(climb: Climb, lanes: Lanes, spread: float) -> Lanes:
    """Switch lanes to the numerical form that the narrowest component asks for.

    Lanes that failed in the form that loses digits take up again from their accepted point.
    """
    state, dead = lanes.state, lanes.dead()
    current = jax.tree.structure(state.model)
    in_doubt = np.flatnonzero(((state.code == 0) | dead) & np.isfinite(state.objective))
    wanted = (jax.tree.structure(lanes.model(int(i)).stabilised(spread)) for i in in_doubt)
    structure = next((found for found in wanted if found != current), None)
    if structure is None:
        return lanes
    return lanes._replace(state=climb.solver.taken_up(state, structure, dead))


def _report(
    climb: Climb,
    problem: RowProblem,
    standing: Standing,
    seconds_per_step: float,
    before: float,
) -> bool:
    """Tell the reporter and the callbacks; False when one of them asks to stop."""
    lanes, steps = standing.lanes, standing.steps()
    best = int(np.argmax(lanes.objective()))
    gain = lanes.objective()[best] - before if np.isfinite(before) else np.inf
    progress = Progress(
        steps=steps,
        max_steps=climb.max_steps,
        bound=float(np.asarray(lanes.state.bound)[best]),
        gain_per_row=gain / float(problem.n_rows()),
        seconds=time.perf_counter() - climb.began,
        seconds_left=(climb.max_steps - steps) * seconds_per_step,
        model=lanes.model(best) if climb.callbacks else None,
    )
    climb.reporter.update(progress)
    answers = [callback(progress) for callback in climb.callbacks]
    return all(answer is not False for answer in answers)


def _is_failure(code: int) -> bool:
    return code > 0 and CODES[code] in (Outcome.NON_FINITE, Outcome.DECREASED)


def _begun(solver: AbstractSolver, problem: RowProblem, models: PyTree) -> AbstractState:
    """One state for each of the stacked models."""
    return jax.vmap(lambda model: solver.init(_at(problem, model)))(models)


def _launched(
    solver: AbstractSolver, problem: RowProblem, block: Rows, labels: jax.Array
) -> AbstractState:
    """One state for each partition: its smoothed M-step, then the given parameters put in."""

    def lane(partition: jax.Array) -> AbstractState:
        template: Any = problem.model  # discrete and tractable: fitting.py asks
        k = count_components(template)
        onehot = (partition == jnp.arange(k)[:, None]).astype(block.values.dtype)
        probability = (1 - _SMOOTHING) * onehot + _SMOOTHING / k
        statistics = template.partition_statistics(block, probability)
        model = template.maximise(statistics, problem.fixed)
        return solver.init(_at(problem, filled(template, model)))

    return jax.vmap(lane)(labels)


def _advanced(
    solver: AbstractSolver, problem: RowProblem, state: AbstractState, limit: jax.Array
) -> AbstractState:
    """Up to ``limit`` steps of every lane that still runs."""

    def running(carry: tuple[jax.Array, AbstractState]) -> jax.Array:
        return (carry[0] < limit) & jnp.any(solver.verdict(problem, carry[1]) == 0)

    def advance(carry: tuple[jax.Array, AbstractState]) -> tuple[jax.Array, AbstractState]:
        index, lanes = carry
        return index + 1, each_lane(lambda lane: solver.step(problem, lane), lanes)

    return jax.lax.while_loop(running, advance, (jnp.asarray(0, jnp.int32), state))[1]


def _at(problem: RowProblem, model: PyTree) -> RowProblem:
    return Problem(model, problem.source, problem.fixed)


_begin = _config.quick_jit(_begun, "once")
_launch = _config.quick_jit(_launched, "once")
_advance = jax.jit(_advanced)
_advance_small = _config.quick_jit(_advanced, "small")
