"""One step of the climb, and when to stop."""

from minorant.solvers.accelerate import Anderson, Plain, Squarem
from minorant.solvers.base import AbstractSolver, AbstractState, Problem
from minorant.solvers.em import EM
from minorant.solvers.quasi_newton import QuasiNewton

__all__ = [
    "EM",
    "AbstractSolver",
    "AbstractState",
    "Anderson",
    "Plain",
    "Problem",
    "QuasiNewton",
    "Squarem",
]
