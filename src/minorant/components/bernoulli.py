"""The Bernoulli component: 0/1 columns, independent given the component."""

from __future__ import annotations

from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._parameters import constant, given, keep, unit_interval
from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components import base
from minorant.components import exponential_family as family
from minorant.components.priors import BetaPrior, LogDensity


class Bernoulli(family.ExponentialFamily):
    r"""k sets of success probabilities for 0/1 columns.

    .. math:: \log p(x \mid k) = \sum_j x_j \log u_{kj} + (1 - x_j) \log (1 - u_{kj})

    M-step: the weighted share of ones, with a :class:`BetaPrior` (a, b)
    ``(ones + a - 1) / (count + a + b - 2)``, inside [1e-10, 1 - 1e-10] (float32: its epsilon): the
    exact maximiser under that constraint, so the climb stays monotone and no logarithm is infinite.

    Args:
        probability: (k, d), of a one; None to be learned.
        prior: a :class:`BetaPrior`, any :class:`LogDensity`, or None.

    Example:
        >>> from minorant.components import Bernoulli
        >>> Bernoulli().prior is None
        True

    Everitt & Hand (1981), "Finite mixture distributions", section 4.2.
    Not for: shares between 0 and 1, counts (see ``Poisson``), more than two categories.
    """

    probability: Float[Array, "k d"] | None = unit_interval(default=None)
    prior: BetaPrior | LogDensity | None = constant(default=None)

    def features(self, rows: Rows) -> tuple[Array, ...]:
        """``x``."""
        return (rows.values,)

    def natural(self) -> tuple[tuple[Array, ...], Array]:
        """``log u / (1 - u)`` and ``log (1 - u)``."""
        probability = _inside(given(self.probability))
        log_other = jnp.log1p(-probability)
        return (jnp.log(probability) - log_other,), log_other

    def log_base(self, rows: Rows) -> None:
        """None: it is 0."""

    def maximise(self, statistics: family.Sums, fixed: PyTree | None) -> Self:
        """The share of ones."""
        ones, count = statistics.totals[:, 0], statistics.count
        prior = family.conjugate(self.prior)
        if prior is not None:
            ones, count = ones + prior.a - 1.0, count + prior.a + prior.b - 2.0
        new = _inside(ones / base.safe_count(count))
        new = family.keep_unsupported(count, self.probability, new)
        new = keep(base.of(fixed, "probability"), self.probability, new)
        closed = family.replaced(self, probability=new)
        return family.finished(self, closed, statistics, fixed)

    def log_prior(self) -> Float[Array, ""]:
        """The Beta log density of the probabilities."""
        return family.log_prior(self, self.probability)

    def cell_mean(self) -> Float[Array, "k d"]:
        """``u``."""
        return given(self.probability)

    def sample(self, key: Key, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """Ones with probability ``u_z``."""
        chosen = jnp.asarray(given(self.probability))[labels]
        return jax.random.bernoulli(key, chosen).astype(chosen.dtype)

    def configured(self, summary: Summary, n_components: int) -> Self:
        """Itself: nothing depends on the data."""
        return self

    def standardiser(self, summary: Summary) -> Affine:
        """The identity: zeros and ones have no other units."""
        return Affine.identity(summary.n_columns)

    def rescaled(self, units: Affine) -> Self:
        """Itself: the units are the identity."""
        return self

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """The rows themselves."""
        return values

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Only 0 and 1 are in the support."""
        bad = (values != 0) & (values != 1) & ~np.isnan(values)
        base.reject_cells(bad, values, names, "must hold 0 or 1 for the Bernoulli component")

    def collapsed(self) -> np.ndarray:
        """Zeros: a probability near 0 or 1 makes no density infinite."""
        return np.zeros(len(given(self.probability)))

    def projected(self) -> Self:
        """With the probabilities inside their floor."""
        return family.replaced(self, probability=_inside(given(self.probability)))


def _inside(probability: Array) -> Float[Array, "k d"]:
    probability = jnp.asarray(probability)
    least = family.least_probability(probability.dtype)
    return jnp.clip(probability, least, 1.0 - least)
