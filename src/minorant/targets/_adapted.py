"""What adapters of other packages' models share: a target from functions of one free vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._types import Array
from minorant.models.target import AbstractTarget, Traced, traced

Inverse = Callable[[dict[str, Any]], tuple[np.ndarray, Any]]


class Parts(NamedTuple):
    """A model of another package, taken apart.

    Attributes:
        size: the number of free coordinates.
        log_density: of a free vector, Jacobian included.
        values: named values of a free vector, derived ones included.
        free: free vector and log Jacobian of named values.
        names: of the unknowns; derived values are not among them.
        initial: where to start from, or None.
    """

    size: int
    log_density: Callable[[Array], Array]
    values: Callable[[Array], dict[str, Array]]
    free: Inverse
    names: tuple[str, ...]
    initial: np.ndarray | None = None


class Adapted(AbstractTarget):
    """A target whose functions are traced once; what they close over becomes their argument."""

    names: tuple[str, ...] = eqx.field(static=True)
    program: Traced = eqx.field(static=True)
    constants: list[Array]
    viewer: Traced = eqx.field(static=True)
    viewed: list[Array]
    inverse: Inverse = eqx.field(static=True)
    dimensions: int = eqx.field(static=True)
    start: Array | None

    @staticmethod
    def of(parts: Parts) -> Adapted:
        """Trace the parts; inside a scope of the precision wanted."""
        program, constants = traced(lambda u: jnp.asarray(parts.log_density(u), float), parts.size)
        viewer, viewed = traced(parts.values, parts.size)
        return Adapted(
            parts.names, program, constants, viewer, viewed, parts.free, parts.size, parts.initial
        )

    @property
    def size(self) -> int:
        """The number p of free coordinates."""
        return self.dimensions

    def log_density(self, free: Float[Array, " p"]) -> Float[Array, ""]:
        """Log density of free coordinates, Jacobian included."""
        return self.program(self.constants, free)

    def values(self, free: Float[Array, " p"]) -> dict[str, Array]:
        """The named unknowns and what is derived from them."""
        return self.viewer(self.viewed, free)

    def free(self, values: dict[str, Any]) -> tuple[Float[Array, " p"], Float[Array, ""]]:
        """Free coordinates of named values, and the log Jacobian there.

        Raises:
            ValueError: when a name is missing or a value is outside.
        """
        missing = sorted(set(self.names) - set(values))
        if missing:
            raise ValueError(f"Values are needed for every unknown; {missing} are missing.")
        free, log_jacobian = self.inverse({name: values[name] for name in self.names})
        if not np.isfinite(free).all():
            raise ValueError("A value is not strictly inside its support: give values that are.")
        return free, log_jacobian

    def initial(self) -> Float[np.ndarray, " p"] | None:
        """Where the package would start, if it says."""
        return None if self.start is None else np.asarray(self.start)

    def work(self) -> int:
        """The largest number of array entries that one evaluation holds at once."""
        return self.program.work()


def missing_package(package: str) -> ImportError:
    """The sentence for a package that is an optional extra."""
    return ImportError(
        f"minorant.targets.from_{package} needs an optional extra: pip install "
        f"'minorant[{package}]'."
    )
