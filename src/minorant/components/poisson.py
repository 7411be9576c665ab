"""The Poisson component: columns of counts, independent given the component."""

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


class Poisson(family.ExponentialFamily):
    r"""k sets of rates for columns of counts.

    .. math:: \log p(x \mid k) = \sum_j x_j \log r_{kj} - r_{kj} - \log x_j!

    M-step: the weighted mean; with a :class:`GammaPrior` (shape a, rate b)
    ``(sum + a - 1) / (count + b)``. Rates stay at or above 1e-10, the exact maximiser under that
    constraint.

    Args:
        rate: (k, d), expected counts; None to be learned.
        prior: a :class:`GammaPrior`, any :class:`LogDensity`, or None.

    Example:
        >>> from minorant.components import Poisson
        >>> Poisson().prior is None
        True

    Not for: counts whose variance exceeds their mean within a component (``NegativeBinomial``).
    """

    rate: Float[Array, "k d"] | None = positive(default=None)
    prior: GammaPrior | LogDensity | None = constant(default=None)

    def features(self, rows: Rows) -> tuple[Array, ...]:
        """``x``."""
        return (rows.values,)

    def natural(self) -> tuple[tuple[Array, ...], Array]:
        """``log r`` and ``-r``."""
        rate = jnp.maximum(given(self.rate), family.LEAST)
        return (jnp.log(rate),), -rate

    def log_base(self, rows: Rows) -> Float[Array, "n d"]:
        """``-log x!``."""
        return -family.log_factorial(rows.values)

    def maximise(self, statistics: family.Sums, fixed: PyTree | None) -> Self:
        """The mean count."""
        total, count = statistics.totals[:, 0], statistics.count
        prior = family.conjugate(self.prior)
        if prior is not None:
            total, count = total + prior.shape - 1.0, count + prior.rate
        new = jnp.maximum(total / base.safe_count(count), family.LEAST)
        new = family.keep_unsupported(count, self.rate, new)
        new = keep(base.of(fixed, "rate"), self.rate, new)
        closed = family.replaced(self, rate=new)
        return family.finished(self, closed, statistics, fixed)

    def log_prior(self) -> Float[Array, ""]:
        """The Gamma log density of the rates."""
        return family.log_prior(self, self.rate)

    def cell_mean(self) -> Float[Array, "k d"]:
        """``r``."""
        return given(self.rate)

    def sample(self, key: Key, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """Counts at rate ``r_z``."""
        chosen = jnp.asarray(given(self.rate))[labels]
        return jax.random.poisson(key, chosen).astype(chosen.dtype)

    def configured(self, summary: Summary, n_components: int) -> Self:
        """Itself: nothing depends on the data."""
        return self

    def standardiser(self, summary: Summary) -> Affine:
        """The identity: counts have no other units."""
        return Affine.identity(summary.n_columns)

    def rescaled(self, units: Affine) -> Self:
        """Itself: the units are the identity."""
        return self

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """``2 sqrt(x)``, in which a Poisson count has variance about 1; then standardised."""
        return family.standardised(2.0 * np.sqrt(values))

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Only 0, 1, 2, ... are in the support."""
        family.reject_counts(
            values, names, "must hold counts 0, 1, 2, ... for the Poisson component"
        )

    def collapsed(self) -> np.ndarray:
        """Zeros: no Poisson density is infinite."""
        return np.zeros(len(given(self.rate)))

    def projected(self) -> Self:
        """With the rates at or above their floor."""
        return family.replaced(self, rate=jnp.maximum(given(self.rate), family.LEAST))
