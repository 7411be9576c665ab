r"""A target: a log density over the unknowns of one data set, in free coordinates.

.. math:: \log p(u) = \log p(x, \theta(u)) + \log |\det \partial \theta / \partial u|

Its normaliser is the evidence, its normalised form the posterior. A climb walks in the vector u;
people read the named values theta(u).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun, subjaxprs
from jaxtyping import Float

from minorant._types import Array, PyTree

_BLOCK = 2**24


class AbstractTarget(eqx.Module):
    """A log density over ``size`` free coordinates, and the named values they stand for."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The number p of free coordinates."""

    @abstractmethod
    def log_density(self, free: Float[Array, " p"]) -> Float[Array, ""]:
        """Log density of free coordinates, Jacobian included, constants as the user gave them."""

    @abstractmethod
    def values(self, free: Float[Array, " p"]) -> dict[str, Array]:
        """The named unknowns and what is derived from them."""

    @abstractmethod
    def free(self, values: dict[str, Any]) -> tuple[Float[Array, " p"], Float[Array, ""]]:
        """Free coordinates of named values, and the log Jacobian there."""

    @abstractmethod
    def initial(self) -> Float[np.ndarray, " p"] | None:
        """Where to start from; None where nothing is known."""

    @abstractmethod
    def work(self) -> int:
        """The largest number of array entries that one evaluation holds at once."""


class Traced:
    """A function traced once: its program, free of data, compared by identity."""

    def __init__(self, program: Any, structure: Any) -> None:
        """Keep the program; ``structure`` is that of its answer."""
        self.program = program
        self.structure = structure

    def __call__(self, constants: list[Array], free: Array) -> PyTree:
        """The function's answer."""
        leaves = jaxpr_as_fun(ClosedJaxpr(self.program, constants))(free)
        return jax.tree.unflatten(self.structure, leaves)

    def work(self) -> int:
        """The size of the largest intermediate array."""
        return _largest(self.program)


def traced(function: Callable[[Array], PyTree], size: int) -> tuple[Traced, list[Array]]:
    """The function of a vector traced once, and the data it closed over.

    Data become arguments of what is compiled: programs stay small and are reused for other data.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(jnp.zeros(size))
    constants: list[Array] = [np.asarray(c) for c in closed.consts]
    return Traced(closed.jaxpr, jax.tree.structure(shapes)), constants


def log_densities(target: AbstractTarget, points: Float[Array, "s p"]) -> Float[Array, " s"]:
    """The log density of many vectors, as many at once as memory allows."""
    return _mapped(target, target.log_density, points)


def log_densities_and_gradients(
    target: AbstractTarget, points: Float[Array, "s p"]
) -> tuple[Float[Array, " s"], Float[Array, "s p"]]:
    """The log density of many vectors and its gradients."""
    return _mapped(target, jax.value_and_grad(target.log_density), points)


def _mapped(target: AbstractTarget, function: Callable, points: Array) -> PyTree:
    together = max(1, _BLOCK // max(target.work(), 1))
    if together >= len(points):
        return jax.vmap(function)(points)
    return jax.lax.map(function, points, batch_size=together)


def largest_array(target: AbstractTarget) -> int:
    """The largest number of array entries that one evaluation of a target holds at once."""
    return _largest(jax.make_jaxpr(target.log_density)(jnp.zeros(target.size)).jaxpr)


def _largest(program: Any) -> int:
    sizes = [int(np.prod(v.aval.shape, dtype=int)) for e in program.eqns for v in e.outvars]
    return max([1, *sizes, *(_largest(inner) for inner in subjaxprs(program))])
