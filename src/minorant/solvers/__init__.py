"""One step of the climb, and when to stop."""

from minorant.solvers.accelerate import Anderson, Plain, Squarem
from minorant.solvers.base import AbstractSolver, Problem
from minorant.solvers.em import EM

__all__ = ["EM", "AbstractSolver", "Anderson", "Plain", "Problem", "Squarem"]
