"""The log-normal component: numbers above zero whose logarithms are Gaussian."""

from __future__ import annotations

from typing import Any, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._types import Affine, Array, Key, PyTree, Rows, Summary
from minorant.components import base
from minorant.components import exponential_family as family
from minorant.components.covariance import Moments
from minorant.components.gaussian import Gaussian, completed_matrix
from minorant.components.scalar_covariance import Diagonal


class LogNormal(base.AbstractComponent):
    r"""k log-normal densities: a :class:`Gaussian` of the logarithms, columns independent.

    .. math:: \log p(x \mid k) = \log N(\log x; m_k, S_k) - \sum_j \log x_j

    Args:
        logs: the Gaussian of the logarithms: its structure, and its ``mean`` (k, d),
            ``covariance``, ``floor`` and ``prior``, all of natural logarithms. ``Gaussian(Full())``
            gives columns that depend on each other. The floor left open is 1e-6 of the variance
            that a log-normal column with the data's mean and variance would have.

    Example:
        >>> from minorant.components import LogNormal
        >>> LogNormal().logs.structure
        Diagonal(centred=True)

    Aitchison & Brown (1957), "The lognormal distribution", section 2.3.
    Not for: zeros (``Exponential``), or a density that is positive at zero.
    """

    logs: Gaussian = Gaussian(Diagonal(centred=True))

    def prepare(self) -> PyTree:
        """The Gaussian's."""
        return self.logs.prepare()

    def log_prob(self, rows: Rows, prepared: PyTree) -> Float[Array, "k n"]:
        """``log N(log x) - sum log x`` over the observed cells."""
        logs = family.log_cells(rows)
        return self.logs.log_prob(_with(rows, logs), prepared) - family.row_sums(logs, rows)

    def statistics(self, rows: Rows, responsibilities: Array, prepared: PyTree) -> Moments:
        """Moments of the logarithms."""
        logs = _with(rows, family.log_cells(rows))
        return self.logs.statistics(logs, responsibilities, prepared)

    def maximise(self, statistics: Moments, fixed: PyTree | None) -> Self:
        """The Gaussian's M-step on the logarithms."""
        logs = self.logs.maximise(statistics, base.of(fixed, "logs"))
        return family.replaced(self, logs=logs)

    def expected_log_prob(self, statistics: Moments) -> Float[Array, " k"]:
        """The Gaussian's: ``-sum log x`` depends on no parameter."""
        return self.logs.expected_log_prob(statistics)

    def log_prior(self) -> Float[Array, ""]:
        """The Gaussian's."""
        return self.logs.log_prior()

    def sample(self, key: Key, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """Exponentials of normal draws."""
        return jnp.exp(self.logs.sample(key, labels))

    def conditional_mean(self, rows: Rows, prepared: PyTree) -> Float[Array, "k n d"]:
        """``exp(m + v / 2)`` of the missing cells' conditional normals."""
        filled, spread = completed_matrix(self.logs, _with(rows, family.log_cells(rows)))
        mean = jnp.exp(filled + 0.5 * jnp.diagonal(spread, axis1=-2, axis2=-1))
        seen = True if rows.observed is None else rows.observed
        return jnp.where(seen, rows.values, mean)

    def conditional_sample(
        self, key: Key, rows: Rows, labels: Int[Array, " n"], prepared: PyTree
    ) -> Float[Array, "n d"]:
        """Exponentials of draws of the missing logarithms."""
        if rows.observed is None:
            return rows.values
        logs = _with(rows, family.log_cells(rows))
        drawn = jnp.exp(self.logs.conditional_sample(key, logs, labels, prepared))
        return jnp.where(rows.observed, rows.values, drawn)

    def configured(self, summary: Summary, n_components: int) -> Self:
        """With the Gaussian's floor and prior filled in."""
        logs = self.logs.configured(_log_summary(summary), n_components)
        return family.replaced(self, logs=logs)

    def standardiser(self, summary: Summary) -> Affine:
        """Every column divided by its mean."""
        return family.scale_only(summary)

    def rescaled(self, units: Affine) -> Self:
        """Logarithms shifted by the logarithm of the scale."""
        shift = Affine(np.log(units.scale), np.ones_like(units.scale))
        return family.replaced(self, logs=self.logs.rescaled(shift))

    def embedding(self, values: np.ndarray) -> np.ndarray:
        """Logarithms, standardised."""
        return family.standardised(np.log(values))

    def check(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Only numbers above zero are in the support."""
        base.reject_cells(values <= 0, values, names, "must be above zero for LogNormal")

    def collapsed(self) -> np.ndarray:
        """How many directions of each component's logarithms lie on the floor."""
        return self.logs.collapsed()

    def projected(self) -> Self:
        """With the covariances of the logarithms raised to the floor."""
        return family.replaced(self, logs=self.logs.projected())

    def shares_patterns(self) -> bool:
        """As the Gaussian does."""
        return self.logs.shares_patterns()

    def stabilised(self, spread: float) -> Self:
        """With means subtracted first: ``spread`` does not tell how far the logarithms reach."""
        structure: Any = type(self.logs.structure)
        logs = eqx.tree_at(
            lambda g: g.structure,
            self.logs,
            structure(centred=True),
            is_leaf=lambda node: isinstance(node, type(self.logs.structure)),
        )
        return family.replaced(self, logs=logs)


def _with(rows: Rows, values: Array) -> Rows:
    return Rows(values, rows.weight, rows.observed, rows.labels, rows.absent)


def _log_summary(summary: Summary) -> Summary:
    """What a log-normal column with this mean and variance would show of its logarithms."""
    variance = np.log1p(summary.variance / summary.mean**2)
    mean = np.where(variance > 0, np.log(summary.mean) - 0.5 * variance, 0.0)
    low, high = np.log(summary.minimum), np.log(summary.maximum)
    return Summary(mean, variance, low, high, summary.total_weight, summary.names, summary.eps)
