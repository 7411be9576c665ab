"""The exponential component: columns of waiting times, independent given the component."""

from __future__ import annotations

from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._parameters import constant, given, keep, positive
from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components import base
from minorant.components import exponential_family as family
from minorant.components.priors import GammaPrior, LogDensity

RELATIVE_FLOOR = 1e-10


class Exponential(family.ExponentialFamily):
    r"""k sets of rates for columns of numbers from 0 upwards.

    .. math:: \log p(x \mid k) = \sum_j \log r_{kj} - r_{kj} x_j

    M-step: one over the weighted mean; with a :class:`GammaPrior` (shape a, rate b)
    ``(count + a - 1) / (sum + b)``. Means stay at or above ``floor``, so that a component of zeros
    alone has no infinite density: the exact maximiser under that constraint.

    Args:
        rate: (k, d), in one over the data's units; None to be learned.
        floor: (d,) or a number, the smallest mean, in the data's units; None: 1e-10 of the
            column's mean.
        prior: a :class:`GammaPrior` on the rates, any :class:`LogDensity`, or None.

    Example:
        >>> from minorant.components import Exponential
        >>> Exponential().prior is None
        True

    Not for: times whose most frequent value is not the smallest (``Gamma``, ``LogNormal``).
    """

    rate: Float[Array, "k d"] | None = positive(default=None)
    floor: Float[Array, " d"] | None = constant(default=None)
    prior: GammaPrior | LogDensity | None = constant(default=None)

    def features(self, rows: Rows) -> tuple[Array, ...]:
        """``x``."""
        return (rows.values,)

    def natural(self) -> tuple[tuple[Array, ...], Array]:
        """``-r`` and ``log r``."""
        rate = jnp.asarray(given(self.rate))
        return (-rate,), jnp.log(rate)

    def log_base(self, rows: Rows) -> None:
        """None: it is 0."""

    def maximise(self, statistics: family.Sums, fixed: PyTree | None) -> Self:
        """One over the mean."""
        total, count = statistics.totals[:, 0], statistics.count
        prior = family.conjugate(self.prior)
        if prior is not None:
            total, count = total + prior.rate, count + prior.shape - 1.0
        new = self._inside(count / base.safe_count(total))
        new = family.keep_unsupported(count, self.rate, new)
        new = keep(base.of(fixed, "rate"), self.rate, new)
        closed = family.replaced(self, rate=new)
        return family.finished(self, closed, statistics, fixed)

    def log_prior(self) -> Float[Array, ""]:
        """The Gamma log density of the rates."""
        return family.log_prior(self, self.rate)

    def cell_mean(self) -> Float[Array, "k d"]:
        """``1 / r``."""
        return 1.0 / jnp.asarray(given(self.rate))

    def sample(self, key: Key, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """Waiting times at rate ``r_z``."""
        chosen = jnp.asarray(given(self.rate))[labels]
        return jax.random.exponential(key, chosen.shape, chosen.dtype) / chosen

    def configured(self, summary: Summary, n_components: int) -> Self:
        """With the floor filled in, in the data's units."""
        floor = self.floor
        if floor is None:
            floor = RELATIVE_FLOOR * family.scale_only(summary).scale
        floor = np.broadcast_to(np.asarray(floor, dtype=float), (summary.n_columns,)).copy()
        return family.replaced(self, floor=floor)

    def standardiser(self, summary: Summary) -> Affine:
        """Every column divided by its mean."""
        return family.scale_only(summary)

    def rescaled(self, units: Affine) -> Self:
        """Rates times, floor divided by, the scale."""
        rate, floor, prior = self.rate, self.floor, self.prior
        return family.replaced(
            self,
            rate=None if rate is None else rate * units.scale,
            floor=None if floor is None else floor / units.scale,
            prior=None if prior is None else prior.rescaled(units),
        )

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """Cube roots (near normal, and finite at 0), standardised."""
        return family.standardised(np.cbrt(values))

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Numbers from 0 upwards are in the support."""
        base.reject_cells(values < 0, values, names, "must not be negative for Exponential")

    def collapsed(self) -> np.ndarray:
        """How many columns of each component have a mean on the floor."""
        if self.floor is None:
            return np.zeros(len(given(self.rate)))
        return (np.asarray(given(self.rate)) * np.asarray(self.floor) > 0.99).sum(1).astype(float)

    def projected(self) -> Self:
        """With the means at or above the floor."""
        return family.replaced(self, rate=self._inside(jnp.asarray(given(self.rate))))

    def _inside(self, rate: Array) -> Array:
        rate = jnp.maximum(rate, float(jnp.finfo(rate.dtype).tiny) ** 0.5)
        return rate if self.floor is None else jnp.minimum(rate, 1.0 / jnp.asarray(self.floor))
