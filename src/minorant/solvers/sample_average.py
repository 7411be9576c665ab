r"""Bounds of simple families as fixed functions: an average over draws that are never drawn again.

.. math:: L(\phi) \approx \frac1s \sum_i \log p(\mu + \sigma \epsilon_i) + \sum_j \log \sigma_j

With the draws held the bound is a deterministic function of its parameters, and any optimiser that
looks for a mode climbs it, in any dimension, without step sizes. Draws come in pairs with exact
first two moments per coordinate.

Giordano, Ingram & Broderick (2024), "Black box variational inference with a deterministic
objective: faster, more accurate, and even more black box", section 3. Not for: a full covariance,
whose bound on fewer than p draws has no maximum (their theorem 1).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._types import Array, Key
from minorant.models.target import AbstractTarget, log_densities
from minorant.posteriors.members import MeanField


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


def paired_draws(key: Key, s: int, p: int) -> Float[Array, "s p"]:
    """Antithetic standard normal draws, every coordinate's mean square made 1."""
    half = jax.random.normal(key, (s // 2, p), jnp.result_type(float))
    half = half / jnp.sqrt((half**2).mean(0))
    return jnp.concatenate([half, -half])
