"""One step of the climb, and when to stop."""

from minorant.solvers.accelerate import Anderson, Plain, Squarem
from minorant.solvers.base import AbstractSolver, AbstractState, Problem
from minorant.solvers.em import EM
from minorant.solvers.quasi_newton import QuasiNewton
from minorant.solvers.stepwise import AbstractStepwise, Incremental, OnlineEM
from minorant.solvers.stochastic import Ascended, Ascent

__all__ = [
    "EM",
    "AbstractSolver",
    "AbstractState",
    "AbstractStepwise",
    "Anderson",
    "Ascended",
    "Ascent",
    "Incremental",
    "OnlineEM",
    "Plain",
    "Problem",
    "QuasiNewton",
    "Squarem",
]
