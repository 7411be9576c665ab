"""The problem handed to a solver, and what a solver is."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, TypeVar

import equinox as eqx
from jaxtyping import Int

from minorant._types import Array, PyTree
from minorant.data import AbstractSource
from minorant.models.base import AbstractModel

Model = TypeVar("Model", bound=AbstractModel, covariant=True)
Source = TypeVar("Source", bound=AbstractSource, covariant=True)


class Problem(eqx.Module, Generic[Model, Source]):
    """Everything a climb is about: where it starts, over which rows, and what may not move.

    Weights live in the source's blocks; ``fixed`` has the model's shape with booleans for leaves,
    or is None. ``Problem[M, S]`` says which models and sources a solver can work with.
    """

    model: Model
    source: Source
    fixed: PyTree | None = None


class AbstractSolver(eqx.Module):
    """One step of a climb; the loop is in ``fitting.py`` and nowhere else."""

    @abstractmethod
    def init(self, problem: Problem) -> Any:
        """The state before the first step."""

    @abstractmethod
    def step(self, problem: Problem, state: Any) -> Any:
        """The state after one more pass over the rows."""

    @abstractmethod
    def verdict(self, problem: Problem, state: Any) -> Int[Array, ""]:
        """0 while running, else the index of an outcome in ``minorant.result.CODES``."""
