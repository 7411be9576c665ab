"""Extrapolation of a fixed-point map ``x -> F(x)``; EM is one.

Every rule sees accepted points x with their images g = F(x), in an unconstrained
parametrisation, and proposes where to look next. The solver checks the bound there and falls back
to F(x) when it is lower, so no rule can break the climb.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from minorant import _factors
from minorant._types import Array


class Proposal(NamedTuple):
    """Where to look next, and whether that is more than the plain step."""

    point: Float[Array, " p"]
    extrapolated: Bool[Array, ""]


class AbstractAcceleration(eqx.Module):
    """A rule that proposes the next point from accepted points and their images."""

    @abstractmethod
    def init(self, x: Float[Array, " p"]) -> Any:
        """An empty memory."""

    @abstractmethod
    def propose(self, memory: Any, x: Array, g: Array) -> tuple[Any, Proposal]:
        """The memory and proposal after accepting ``x`` with image ``g``."""

    @abstractmethod
    def refused(self, memory: Any) -> Any:
        """The memory after the bound was lower at the proposed point."""


class Plain(AbstractAcceleration):
    """No extrapolation: plain EM."""

    def init(self, x: Array) -> Array:
        """Nothing to remember."""
        return jnp.zeros((), x.dtype)

    def propose(self, memory: Array, x: Array, g: Array) -> tuple[Array, Proposal]:
        """The image itself."""
        return memory, Proposal(g, jnp.asarray(False))

    def refused(self, memory: Array) -> Array:
        """Never called: nothing is extrapolated."""
        return memory


class AndersonMemory(NamedTuple):
    """Differences of residuals and images (rows), and the last of each."""

    residuals: Float[Array, "m p"]
    images: Float[Array, "m p"]
    last_residual: Float[Array, " p"]
    last_image: Float[Array, " p"]
    count: Int[Array, ""]


class Anderson(AbstractAcceleration):
    """Anderson's extrapolation: the combination of past images with the smallest residual.

    ``x' = g - dG gamma`` with ``gamma = argmin |f - dF gamma|``, ``f = g - x``, over the last
    ``order`` differences, with a ridge relative to their scale; memory is dropped after a refusal.

    Henderson & Varadhan (2019), "Damped Anderson acceleration with restarts and monotonicity
    control for accelerating EM and EM-like algorithms", equations 3 to 5.
    """

    order: int = eqx.field(static=True, default=5)
    ridge: float = eqx.field(static=True, default=1e-9)

    def init(self, x: Array) -> AndersonMemory:
        """No differences yet."""
        empty = jnp.zeros((self.order, x.size), x.dtype)
        return AndersonMemory(empty, empty, x * 0, x * 0, jnp.asarray(0, jnp.int32))

    def propose(
        self, memory: AndersonMemory, x: Array, g: Array
    ) -> tuple[AndersonMemory, Proposal]:
        """The extrapolated point; the plain image while there is no difference to use."""
        residual = g - x
        memory = self._remember(memory, residual, g)
        mixing = self._mixing(memory.residuals, residual)
        point = g - mixing @ memory.images
        usable = (memory.count > 1) & jnp.all(jnp.isfinite(point))
        return memory, Proposal(jnp.where(usable, point, g), usable)

    def refused(self, memory: AndersonMemory) -> AndersonMemory:
        """Start again from the last point."""
        return memory._replace(
            residuals=memory.residuals * 0,
            images=memory.images * 0,
            count=jnp.minimum(memory.count, 1),
        )

    def _remember(self, memory: AndersonMemory, residual: Array, g: Array) -> AndersonMemory:
        slot = jnp.mod(memory.count - 1, self.order)
        fresh = memory.count > 0

        def write(rows: Array, difference: Array) -> Array:
            return jnp.asarray(rows).at[slot].set(jnp.where(fresh, difference, rows[slot]))

        return AndersonMemory(
            write(memory.residuals, residual - memory.last_residual),
            write(memory.images, g - memory.last_image),
            residual,
            g,
            memory.count + 1,
        )

    def _mixing(self, differences: Array, residual: Array) -> Float[Array, " m"]:
        gram = differences @ differences.T
        scale = jnp.trace(gram) + jnp.finfo(gram.dtype).tiny
        ridge = max(self.ridge, 4 * float(jnp.finfo(gram.dtype).eps))
        system = gram / scale + ridge * jnp.eye(self.order, dtype=gram.dtype)
        factor = _factors.cholesky(system)
        return _factors.cho_solve(factor, differences @ residual / scale)


class SquaremMemory(NamedTuple):
    """The first point of the cycle and its step, the place in the cycle, the longest step."""

    start: Float[Array, " p"]
    first: Float[Array, " p"]
    place: Int[Array, ""]
    longest: Float[Array, ""]


class Squarem(AbstractAcceleration):
    """Squared extrapolation: ``x' = x0 - 2 a r + a^2 v`` after two plain steps.

    ``r = x1 - x0``, ``v = (x2 - x1) - r``, ``a = -|r| / |v|``, at least 1 long and at most
    ``longest``, which grows by 4 when reached and shrinks by 4 after a refusal.

    Varadhan & Roland (2008), "Simple and globally convergent methods for accelerating the
    convergence of any EM algorithm", equation 9 and section 6 (scheme S3).
    """

    growth: float = eqx.field(static=True, default=4.0)

    def init(self, x: Array) -> SquaremMemory:
        """At the start of a cycle."""
        return SquaremMemory(x, x * 0, jnp.asarray(0, jnp.int32), jnp.ones((), x.dtype))

    def propose(self, memory: SquaremMemory, x: Array, g: Array) -> tuple[SquaremMemory, Proposal]:
        """The plain image in the first half of a cycle, the extrapolation in the second."""
        opening = memory.place == 0
        residual = g - x
        curvature = residual - memory.first
        tiny = jnp.finfo(x.dtype).tiny
        length = jnp.linalg.norm(memory.first) / jnp.maximum(jnp.linalg.norm(curvature), tiny)
        capped = jnp.clip(length, 1.0, memory.longest)
        point = memory.start + 2.0 * capped * memory.first + capped**2 * curvature
        usable = ~opening & (capped > 1.0) & jnp.all(jnp.isfinite(point))
        longest = jnp.where(~opening & (length >= memory.longest), self.growth, 1.0)
        memory = SquaremMemory(
            start=jnp.where(opening, x, memory.start),
            first=jnp.where(opening, residual, memory.first),
            place=jnp.where(opening, 1, 0).astype(jnp.int32),
            longest=memory.longest * longest,
        )
        return memory, Proposal(jnp.where(usable, point, g), usable)

    def refused(self, memory: SquaremMemory) -> SquaremMemory:
        """Shorter steps, a new cycle."""
        shorter = jnp.maximum(memory.longest / self.growth, 1.0)
        return memory._replace(place=jnp.asarray(0, jnp.int32), longest=shorter)
