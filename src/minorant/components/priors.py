"""Priors on the parameters of components and mixtures: with one, ``fit`` finds the MAP.

A conjugate prior adds pseudo-counts to the sums the M-step sees, so the step stays closed. Any
other prior is a function ``component -> log density`` wrapped in :class:`LogDensity`; the M-step
then starts from the closed one and climbs expected log density plus log prior by guarded Newton
steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _factors
from minorant._parameters import given
from minorant._types import Affine, Array, Summary
from minorant.components.covariance import Pseudo


class LogDensity(eqx.Module):
    """Any prior: ``function(component) -> log density`` of its parameters, summed to one number.

    The function sees the component, k stacked, in the data's own units, whatever units the climb
    computes in; it is differentiated twice, so write it with ``jax.numpy``.

    Args:
        function: of the component; one number, up to a constant.
        units: the units the component is in while it climbs; leave it out.

    Example:
        >>> import jax.numpy as jnp
        >>> from minorant.components import Gaussian, LogDensity
        >>> Gaussian(prior=LogDensity(lambda c: -0.5 * (c.mean**2).sum())).prior.units is None
        True

    Not for: priors with a closed M-step (:class:`InverseWishart`, :class:`Dirichlet`, ...).
    """

    function: Callable[[Any], Array] = eqx.field(static=True)
    units: Affine | None = None

    def configured(self, summary: Summary, n_components: int) -> LogDensity:
        """Itself: nothing in it depends on the data."""
        del summary, n_components
        return self

    def rescaled(self, units: Affine) -> LogDensity:
        """The same prior for a component in other units."""
        return LogDensity(self.function, units if self.units is None else self.units.then(units))

    def pseudo(self) -> None:
        """Nothing that a closed M-step could add."""

    def log_density(self, component: Any) -> Float[Array, ""]:
        """The function of the component in the data's units."""
        bare = eqx.tree_at(lambda c: c.prior, component, None, is_leaf=_is_prior)
        if self.units is not None:
            bare = bare.rescaled(self.units.inverse())
        return jnp.asarray(self.function(bare))


def _is_prior(node: Any) -> bool:
    return isinstance(node, LogDensity)


class InverseWishart(eqx.Module):
    """``p(S) ~ |S|^-(dof + d + 1)/2 exp(-tr(scale S^-1) / 2)`` on every covariance.

    With ``scale`` None it is filled from the data as in Fraley & Raftery (2007), "Bayesian
    regularization for normal mixture estimation and model-based clustering", section 3: the
    covariance of all rows, divided by ``k^(2/d)``; and ``dof`` None gives ``d + 2``. On diagonal
    and spherical structures it acts on each variance.
    """

    scale: Float[Array, "d d"] | None = None
    dof: Float[Array, ""] | None = None

    def configured(self, summary: Summary, n_components: int) -> InverseWishart:
        """Filled from the data where the user left it open."""
        d = summary.n_columns
        scale = self.scale
        if scale is None:
            variance = np.where(summary.variance > 0, summary.variance, 1.0)
            scale = np.diag(variance) / n_components ** (2.0 / d)
        dof = np.asarray(d + 2.0 if self.dof is None else self.dof, dtype=float)
        return InverseWishart(np.asarray(scale, dtype=float), dof)

    def rescaled(self, units: Affine) -> InverseWishart:
        """The same prior in other units."""
        return InverseWishart(given(self.scale) / (units.scale[:, None] * units.scale), self.dof)

    def pseudo(self) -> Pseudo:
        """What the prior adds to scatter and count."""
        scale = given(self.scale)
        return Pseudo(scale, given(self.dof) + scale.shape[0] + 1.0)

    def log_density(self, matrices: Float[Array, "m d d"], diagonal: bool) -> Float[Array, ""]:
        """Log density of every matrix, summed; on variances alone when ``diagonal``."""
        pseudo = self.pseudo()
        if diagonal:
            variance = jnp.diagonal(matrices, axis1=1, axis2=2)
            scale = jnp.diagonal(pseudo.scale)
            return -0.5 * (pseudo.extra * jnp.log(variance) + scale / variance).sum()
        factor = _factors.cholesky(matrices)
        log_determinant = 2.0 * jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum()
        inverse = _factors.inverse(matrices)
        trace = jnp.einsum("mij,ji->", inverse, pseudo.scale)
        return -0.5 * (pseudo.extra * log_determinant + trace)


class Dirichlet(eqx.Module):
    """``p(w) ~ prod w^(concentration - 1)``; concentration (k,) or a number, >= 1 for a MAP."""

    concentration: Float[Array, "#k"]

    def __check_init__(self) -> None:
        """Raise ValueError where no MAP exists."""
        value = self.concentration
        if isinstance(value, int | float | np.ndarray) and np.any(np.asarray(value) < 1.0):
            raise ValueError(
                f"Dirichlet concentration must be at least 1 for a MAP to exist; got {value}. "
                "Use 1 (no prior) or more."
            )

    def log_density(self, probabilities: Float[Array, "*batch k"]) -> Float[Array, ""]:
        """Log density up to a constant, summed over the batch."""
        tiny = jnp.finfo(probabilities.dtype).tiny
        extra = self.concentration - 1.0
        return (extra * jnp.log(jnp.maximum(probabilities, tiny))).sum()


class BetaPrior(eqx.Module):
    """``p(u) ~ u^(a - 1) (1 - u)^(b - 1)`` on every probability; ``a``, ``b`` at least 1."""

    a: Float[Array, ""]
    b: Float[Array, ""]

    def __check_init__(self) -> None:
        """Raise ValueError where no MAP exists."""
        _require_least("BetaPrior a", self.a, 1.0)
        _require_least("BetaPrior b", self.b, 1.0)

    def log_density(self, probability: Array) -> Float[Array, ""]:
        """Log density up to a constant, summed."""
        tiny = jnp.finfo(probability.dtype).tiny
        log = jnp.log(jnp.maximum(probability, tiny))
        log_other = jnp.log(jnp.maximum(1.0 - probability, tiny))
        return ((self.a - 1.0) * log + (self.b - 1.0) * log_other).sum()


class GammaPrior(eqx.Module):
    """``p(r) ~ r^(shape - 1) exp(-rate r)`` on every rate; ``shape >= 1``, ``rate >= 0``.

    ``rate`` is in the units of one over r: one number, or one for every column.
    """

    shape: Float[Array, ""]
    rate: Float[Array, "#d"]

    def __check_init__(self) -> None:
        """Raise ValueError where no MAP exists."""
        _require_least("GammaPrior shape", self.shape, 1.0)
        _require_least("GammaPrior rate", self.rate, 0.0)

    def rescaled(self, units: Affine) -> GammaPrior:
        """The same prior on rates per unit of ``x' = x / scale``."""
        return GammaPrior(self.shape, np.asarray(self.rate) / units.scale)

    def log_density(self, value: Array) -> Float[Array, ""]:
        """Log density up to a constant, summed."""
        return ((self.shape - 1.0) * jnp.log(value) - self.rate * value).sum()


def _require_least(name: str, value: Any, least: float) -> None:
    if isinstance(value, int | float | np.ndarray) and np.any(np.asarray(value) < least):
        raise ValueError(f"{name} must be at least {least:g} for a MAP to exist; got {value}.")
