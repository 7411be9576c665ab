"""The problem handed to a solver, and what a solver is."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, TypeAlias, TypeVar

import equinox as eqx
from jaxtyping import Float, Int

from minorant._parameters import from_vector, hold
from minorant._types import Array, PyTree, Rows
from minorant.data import AbstractCount, AbstractSource
from minorant.models.base import AbstractModel
from minorant.result import CODES, Outcome

Model = TypeVar("Model", bound=AbstractModel, covariant=True)
Source = TypeVar("Source", bound=AbstractCount, covariant=True)


TRACE_LENGTH = 128
RUNNING, CONVERGED, PRECISION, DECREASED, NON_FINITE = (
    CODES.index(outcome)
    for outcome in (
        Outcome.RUNNING,
        Outcome.CONVERGED,
        Outcome.PRECISION,
        Outcome.DECREASED,
        Outcome.NON_FINITE,
    )
)


class Problem(eqx.Module, Generic[Model, Source]):
    """Everything a climb is about: where it starts, over which rows, and what may not move.

    Weights live in the source's blocks; ``fixed`` has the model's shape with booleans for leaves,
    or is None. ``Problem[M, S]`` says which models and sources a solver can work with.
    """

    model: Model
    source: Source
    fixed: PyTree | None = None

    def n_rows(self) -> Float[Array, ""]:
        """The sum of the rows' weights."""
        return self.source.n_rows()


Counted: TypeAlias = Problem[AbstractModel, AbstractCount]


def model_at(template: Any, point: Array, fixed: PyTree | None) -> Any:
    """The model at a point: what is fixed held, what has a floor on or above it."""
    return hold(fixed, template, from_vector(template, point).projected())


class AbstractState(eqx.Module):
    """What the loop reads of any solver's state: one lane's, or stacked over lanes.

    ``model`` gives the accepted point its shape; ``trace`` is a ring of (bound, objective) with one
    entry per step; ``code`` is 0 while running, else the index of an outcome in
    ``minorant.result.CODES``.
    """

    model: eqx.AbstractVar[Any]
    accepted: eqx.AbstractVar[Array]
    bound: eqx.AbstractVar[Array]
    objective: eqx.AbstractVar[Array]
    plain_worth: eqx.AbstractVar[Array]
    n_steps: eqx.AbstractVar[Array]
    n_kept: eqx.AbstractVar[Array]
    n_refused: eqx.AbstractVar[Array]
    code: eqx.AbstractVar[Array]
    trace: eqx.AbstractVar[Array]


class AbstractSolver(eqx.Module):
    """One step of a climb; the loop is in ``climbing.py`` and nowhere else.

    A step is one pass over the rows between two computations that see none of them: ``asks`` says
    with which parameters to pass, ``answered`` moves by what the pass found. So a pass may be
    compiled into the step or go over chunks, files and machines.
    """

    @abstractmethod
    def init(self, problem: Problem) -> Any:
        """The state before the first step."""

    @abstractmethod
    def asks(self, problem: Counted, state: Any) -> PyTree:
        """The parameters of the next pass over the rows."""

    @abstractmethod
    def look(self, parameters: PyTree, rows: Rows) -> PyTree:
        """What one block of rows adds to the pass; a function of its arguments alone."""

    @abstractmethod
    def answered(self, problem: Counted, state: Any, found: PyTree) -> Any:
        """The state after a pass that found these sums; one that has ended stays where it is."""

    def step(self, problem: Problem[AbstractModel, AbstractSource], state: Any) -> Any:
        """The state after one more pass over the rows."""
        found = problem.source.fold(self.look, self.asks(problem, state))
        return self.answered(problem, state, found)

    @abstractmethod
    def verdict(self, problem: Problem, state: Any) -> Int[Array, ""]:
        """0 while running, else the index of an outcome in ``minorant.result.CODES``."""

    @abstractmethod
    def settled(self, problem: Problem, state: Any) -> AbstractModel:
        """The model at the accepted point of one climb (host side)."""

    @abstractmethod
    def taken_up(self, state: Any, structure: Any, dead: Any) -> Any:
        """Stacked climbs in another numerical form, from their accepted points (host side)."""

    @abstractmethod
    def sentence(self) -> str:
        """What it is called and why it is chosen, for ``fit.explanation``."""
