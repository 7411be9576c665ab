"""One step of a climb whose pass over the rows cannot be compiled into it.

The rows are in files, on other machines, or too many: a pass is then a walk of the host over
chunks, and a step is three compiled pieces: what the solver asks, what it finds in each chunk, what
it makes of the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from minorant._types import PyTree, Rows
from minorant.data import Count
from minorant.journal import Journal
from minorant.solvers import AbstractSolver, AbstractState, Problem


class Watch(NamedTuple):
    """Who is told of a pass, chunk by chunk."""

    journal: Journal
    standing: Any


class Look(eqx.Module):
    """A solver's look at a block of rows, for every lane."""

    solver: AbstractSolver
    lanes: int = eqx.field(static=True)

    def __call__(self, parameters: PyTree, rows: Rows) -> PyTree:
        """What the block adds, lane by lane."""
        return each_lane(lambda asked: self.solver.look(asked, rows), parameters, self.lanes)


def stepped(
    solver: AbstractSolver,
    problem: Problem[Any, Any],
    state: AbstractState,
    watch: Watch,
) -> AbstractState:
    """Every lane one step further; the problem's source is an ``AbstractPassedSource``."""
    small = counted(problem)
    asked = jax.device_get(_ask(solver, small, state))
    look = Look(solver, int(np.asarray(state.code).shape[0]))
    found: Any = None
    for part in problem.source.sums(look, asked, watch.journal.begun_pass()):
        watch.journal.keep_part(watch.standing, part)
        found = part.sums
    return jax.tree.map(np.asarray, _answer(solver, small, state, found))


def counted(problem: Problem[Any, Any]) -> Problem[Any, Any]:
    """The problem without its rows: what computations between passes are compiled for."""
    return Problem(problem.model, Count(problem.n_rows()), problem.fixed)


def each_lane(function: Callable[[Any], Any], lanes: PyTree, n: int | None = None) -> PyTree:
    """``vmap``, but a single lane stays a plain call: batch axes of one cost transpositions."""
    if (n or jax.tree.leaves(lanes)[0].shape[0]) > 1:
        return jax.vmap(function)(lanes)
    one = function(jax.tree.map(lambda leaf: leaf[0], lanes))
    return jax.tree.map(lambda leaf: leaf[None], one)


@jax.jit
def _ask(solver: AbstractSolver, problem: Any, state: Any) -> PyTree:
    return each_lane(lambda lane: solver.asks(problem, lane), state)


@jax.jit
def _answer(solver: AbstractSolver, problem: Any, state: Any, found: PyTree) -> Any:
    return each_lane(lambda pair: solver.answered(problem, *pair), (state, found))
