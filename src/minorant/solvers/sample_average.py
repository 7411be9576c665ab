r"""Bounds of simple families as fixed functions: an average over draws that are never drawn again.

.. math:: L(\phi) \approx \frac1s \sum_i \log p(\mu + \sigma \epsilon_i) + \sum_j \log \sigma_j

With the draws held the bound is a deterministic function of its parameters, climbed by trust-region
Newton steps in any dimension, without step sizes. Draws come in pairs with exact first two moments
per coordinate.

Giordano, Ingram & Broderick (2024), "Black box variational inference with a deterministic
objective: faster, more accurate, and even more black box", section 3. Not for: a full covariance,
whose bound on fewer than p draws has no maximum (their theorem 1).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from minorant._types import Array, Key
from minorant.models.target import AbstractTarget, log_densities
from minorant.posteriors.members import MeanField
from minorant.solvers.newton import NewtonClimb, climb_newton


class AverageBound(AbstractTarget):
    """The bound of independent normal coordinates on held draws, as a function to maximise.

    Attributes:
        target: what is approximated.
        draws: (s, p) standard normal.
    """

    target: AbstractTarget
    draws: Float[Array, "s p"]

    @property
    def size(self) -> int:
        """Means and log scales."""
        return 2 * self.target.size

    def log_density(self, free: Float[Array, " p"]) -> Float[Array, ""]:
        """The bound."""
        points, log_q = self.member(free).transform(self.draws)
        return (log_densities(self.target, points) - log_q).mean()

    def member(self, free: Float[Array, " p"]) -> MeanField:
        """The density with these means and log scales."""
        return MeanField(free[: self.target.size], free[self.target.size :])

    def units(self, free: Float[Array, " p"]) -> Float[Array, " p"]:
        """About one over the root of each parameter's curvature."""
        scale = jnp.exp(free[self.target.size :])
        return jnp.concatenate([scale, jnp.full_like(scale, np.sqrt(0.5))])

    def values(self, free: Float[Array, " p"]) -> dict[str, Array]:
        """The parameters by name."""
        member = self.member(free)
        return {"mean": member.mean, "log_scale": member.log_scale}

    def free(self, values: dict[str, Array]) -> tuple[Float[Array, " p"], Float[Array, ""]]:
        """Means and log scales, one after the other."""
        return jnp.concatenate([values["mean"], values["log_scale"]]), jnp.zeros(())

    def initial(self) -> Float[np.ndarray, " p"] | None:
        """Not known."""
        return None

    def work(self) -> int:
        """What one draw holds, for every draw."""
        return self.target.work() * len(self.draws)


def climb_average(
    average: AverageBound, start: Float[Array, " p"], tolerance: Array, max_steps: Array
) -> tuple[NewtonClimb, Bool[Array, ""]]:
    """The best member on the held draws; moves of means are measured in standard deviations.

    Returns:
        The climb, and whether it could not begin: a program of another language has a gradient and
        hides what it depends on.
    """
    center = start[: average.target.size]
    slope = jax.grad(average.target.log_density)
    hidden = (jax.jvp(slope, (center,), (jnp.ones_like(center),))[1] == 0).all()
    steps = jnp.where(hidden, 0, max_steps)
    return climb_newton(average.log_density, average.units, start, tolerance, steps), hidden


def paired_draws(key: Key, s: int, p: int) -> Float[Array, "s p"]:
    """Antithetic standard normal draws, every coordinate's mean square made 1."""
    half = jax.random.normal(key, (s // 2, p), jnp.result_type(float))
    half = half / jnp.sqrt((half**2).mean(0))
    return jnp.concatenate([half, -half])
