r"""EM that moves after every part of the rows before it climbs by full passes.

Incremental EM keeps the statistics ``s_c`` of every part c of the rows; looking at part c anew, it
replaces that share and maximises at once:

.. math:: S \leftarrow S - s_c + s_c(\theta), \qquad \theta \leftarrow \arg\max Q(\theta; S)

Neal & Hinton (1998), "A view of the EM algorithm that justifies incremental, sparse, and other
variants", section 4: no such step lowers the free energy, whose maxima are those of the bound.

Online EM keeps one mean of statistics and forgets:

.. math:: s_{t+1} = (1 - g_t)\, s_t + g_t\, \bar s(B_t; \theta_t), \qquad g_t = (t + 2)^{-a}

Cappe & Moulines (2009), "On-line expectation-maximization algorithm for latent data models",
equation 11. With an anchor ``A`` that all rows were looked at from, batches only correct its mean:
``s(B; theta) - s(B; A) + S_A`` takes the place of ``s(B; theta)``. Chen, Zhu, Teh & Zhang (2018),
"Stochastic expectation maximization with variance reduction", equation 5.

The rules are here; ``minorant.stepwise`` walks over the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Int

from minorant._types import Array, PyTree, Rows
from minorant.models.base import AbstractTractableModel, Expectation
from minorant.solvers.base import AbstractSolver
from minorant.solvers.em import EM, EMState, TractableProblem

_AVERAGED_FROM = 3.0  # the larger, the sooner the mean forgets what came first


class AbstractStepwise(AbstractSolver):
    """Steps on parts of the rows, then EM: its full passes, its stopping rule, its bound."""

    em: eqx.AbstractVar[EM]

    def init(self, problem: TractableProblem) -> EMState:
        """As EM."""
        return self.em.init(problem)

    def asks(self, problem: TractableProblem, state: EMState) -> tuple[Any, PyTree]:
        """As EM."""
        return self.em.asks(problem, state)

    def look(self, parameters: tuple[Any, PyTree], rows: Rows) -> Expectation:
        """As EM."""
        return self.em.look(parameters, rows)

    def answered(self, problem: TractableProblem, state: EMState, found: Expectation) -> EMState:
        """As EM."""
        return self.em.answered(problem, state, found)

    def verdict(self, problem: TractableProblem, state: EMState) -> Int[Array, ""]:
        """As EM."""
        return self.em.verdict(problem, state)

    def settled(self, problem: TractableProblem, state: EMState) -> AbstractTractableModel:
        """As EM."""
        return self.em.settled(problem, state)

    def taken_up(self, state: EMState, structure: Any, dead: Any) -> EMState:
        """As EM."""
        return self.em.taken_up(state, structure, dead)


class Incremental(AbstractStepwise):
    """Incremental EM for some sweeps, then EM: the answer and the bound are those of full passes.

    Parts are chunks where rows come in chunks, else consecutive blocks; parts not yet looked at
    count with the mean statistics of the rows that starts were chosen on. Not for few rows: of a
    table in a single part a sweep is a plain step of EM. Nor for the last digits: there accelerated
    EM is quicker (``benchmarks/streaming_fits.py``).

    Args:
        em: the EM that ends the climb.
        sweeps: how often every part is looked at before.
        parts: in how many parts rows in memory are cut.

    Raises:
        ValueError: for fewer than 1 sweep or 2 parts.

    Example:
        >>> import minorant
        >>> minorant.solvers.Incremental(sweeps=3).sweeps
        3
    """

    em: EM = EM()
    sweeps: int = eqx.field(static=True, default=2)
    parts: int = eqx.field(static=True, default=32)

    def __check_init__(self) -> None:
        """Raise ValueError for numbers that make no sweep."""
        if self.sweeps < 1 or self.parts < 2:
            raise ValueError(
                "Incremental needs at least 1 sweep over at least 2 parts; got "
                f"sweeps={self.sweeps}, parts={self.parts}."
            )

    def sentence(self) -> str:
        """What it is called."""
        return (
            f"{self.sweeps} sweeps of incremental EM, then {self.em.sentence()}; the bound is that "
            "of full passes"
        )


class OnlineEM(AbstractStepwise):
    """Online EM on batches of rows, then EM, or one full pass for the bound.

    Batches are drawn without replacement where rows are in memory, and follow the chunks, rows
    shuffled within each, where they are not: of chunks sorted by what the components differ in,
    ``Incremental`` forgets none.

    Args:
        em: the EM that ends the climb.
        batch: rows of a batch.
        passes: how often every row is drawn.
        exponent: a of the step ``(t + 2)^-a``, above 1/2 and at most 1.
        averaging: end at the mean of the later statistics, not at the last ones.
        variance_reduced: ``"anchor"``: every pass begins with a full pass whose statistics the
            batches correct, in steps of constant length; three times the work. Or None.
        finish: ``"climb"`` to EM's optimum, or ``"bound"``: one full pass for log p(X) where online
            EM has come to, and no further.

    Raises:
        ValueError: for an option out of its range.

    Example:
        >>> import minorant
        >>> minorant.solvers.OnlineEM(batch=1000, finish="bound").passes
        1
    """

    em: EM = EM()
    batch: int = eqx.field(static=True, default=4096)
    passes: int = eqx.field(static=True, default=1)
    exponent: float = eqx.field(static=True, default=0.6)
    averaging: bool = eqx.field(static=True, default=True)
    variance_reduced: str | None = eqx.field(static=True, default=None)
    finish: str = eqx.field(static=True, default="climb")

    def __check_init__(self) -> None:
        """Raise ValueError for an option out of its range."""
        if self.batch < 1 or self.passes < 1:
            raise ValueError(
                f"batch and passes must be at least 1; got {self.batch} and {self.passes}."
            )
        check_exponent(self.exponent)
        _check_one_of("variance_reduced", self.variance_reduced, (None, "anchor"))
        _check_one_of("finish", self.finish, ("climb", "bound"))

    def sentence(self) -> str:
        """What it is called, and what the bound is."""
        anchored = "" if self.variance_reduced is None else ", variance reduced by an anchor"
        begun = f"online EM on batches of {self.batch} rows{anchored}, {self.passes} pass(es)"
        if self.finish == "climb":
            return f"{begun}, then {self.em.sentence()}; the bound is that of full passes"
        return f"{begun}; the bound is that of one full pass at its end"


class Mean(NamedTuple):
    """Statistics per unit of weight: where online EM stands, and the mean it ends at.

    ``weight`` is what has been seen, the rows of the start included.
    """

    current: PyTree
    averaged: PyTree
    weight: float

    def rate(self, weight: float, exponent: float) -> float:
        """How far to step for a batch of this weight: ``(t + 2)^-a`` where all weigh the same."""
        return (weight / (self.weight + weight)) ** exponent

    def moved(self, found: PyTree, rate: float, weight: float) -> Mean:
        """A step towards the statistics found on a batch of this weight."""
        current = _between(self.current, found, rate)
        averaged = _between(self.averaged, current, self.share(weight))
        return Mean(current, averaged, self.weight + weight)

    def share(self, weight: float) -> float:
        """What the newest statistics count in the mean: early ones are forgotten, slowly.

        Shamir & Zhang (2013), "Stochastic gradient descent for non-smooth optimization", section 3.
        """
        more = _AVERAGED_FROM * weight
        return (weight + more) / (self.weight + weight + more)

    def chosen(self, averaging: bool) -> PyTree:
        """The mean, or the last."""
        return self.averaged if averaging else self.current


def _between(one: PyTree, other: PyTree, share: float) -> PyTree:
    """``(1 - share) one + share other``."""
    return jax.tree.map(lambda a, b: a + share * (b - a), one, other)


class Sweep(NamedTuple):
    """Where steps on parts of the rows stand between two of them: all that going on needs.

    Attributes:
        models: stacked, as they stand.
        first: where they began.
        like: says what statistics look like, without computing any.
        end: what the last whole sweep has come to; before the first ended, where they began.
        sums: statistics: of incremental EM their total; of online EM the last and their mean.
        kept: of incremental EM the statistics of every part that was looked at.
        weight: of online EM what has been seen.
        turn: sweeps done.
        place: what is done of the one under way: parts, and rows of the last.
        taken: steps.
        finished: whether all are taken.
    """

    models: PyTree
    first: PyTree
    like: Callable[[], PyTree]
    end: Any = None
    sums: tuple[PyTree, ...] = ()
    kept: tuple[PyTree, ...] = ()
    weight: float = 0.0
    turn: int = 0
    place: tuple[int, int] = (0, 0)
    taken: int = 0
    finished: bool = False

    def turned(self, end: PyTree) -> Sweep:
        """A sweep has ended, and come to these models."""
        return self._replace(end=end, turn=self.turn + 1, place=(0, 0))

    def reached(self) -> PyTree:
        """What the last whole sweep has come to."""
        return self.first if self.end is None else self.end

    def whole(self) -> Sweep:
        """All steps are taken: nothing but the models is needed."""
        end = self.reached()
        return self._replace(models=end, end=end, sums=(), kept=(), finished=True)

    def steps(self) -> int:
        """Steps taken."""
        return self.taken


class StreamState(NamedTuple):
    """Where a stream stands: all that going on needs besides the fit's own fields.

    ``current`` and ``averaged`` are statistics per unit of weight, ``model`` is the one that the
    current ones maximise, in the fit's units; ``columns`` is what has been seen of the columns, as
    ``minorant.data.summary.Look`` orders it, or None; ``scores`` are the means that the bound is
    estimated from.
    """

    template: Any
    model: Any
    current: PyTree
    averaged: PyTree
    weight: float
    n_batches: int
    columns: tuple | None
    scores: tuple[float, ...]


def check_exponent(exponent: float) -> None:
    """Raise ValueError for steps under which online EM does not settle."""
    if not 0.5 < exponent <= 1.0:
        raise ValueError(
            f"exponent must be above 0.5 and at most 1, or estimates do not settle; got {exponent}."
        )


def _check_one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}; got {value!r}.")
