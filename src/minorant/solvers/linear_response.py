r"""Covariances that a mean-field fit does not have, from how its means respond.

Where the bound on held draws is highest, at :math:`\hat\phi` with Hessian H there, the posterior
covariance of two quantities f and g is estimated by how far the optimum's mean of f moves when the
log density is tilted towards g:

.. math:: \mathrm{Cov}(f, g) \approx J_f\, (-H)^{-1} J_g^\top, \qquad
          J_f = \partial E_q[f] / \partial \phi \text{ at } \hat\phi

It is exact where the posterior is Gaussian, although q has no covariances at all. Each quantity
takes one solve by conjugate gradients on Hessian-vector products.

Giordano, Broderick & Jordan (2018), "Covariances, robustness, and variational Bayes", theorem 1;
Giordano, Ingram & Broderick (2024), section 3.3. Not for: posteriors whose shape is far from what
one independent normal per coordinate sees (several modes, funnels).
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from minorant import _config
from minorant._types import Array
from minorant.solvers.newton import conjugate_gradients
from minorant.solvers.sample_average import AverageBound

_TOGETHER = 8


class Outputs(eqx.Module):
    """Some of a target's values as one vector."""

    names: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, values: dict[str, Array]) -> Float[Array, " m"]:
        """The values, one after the other."""
        return jnp.concatenate([jnp.ravel(values[name]) for name in self.names])


def _covariance(
    average: AverageBound, point: Float[Array, " p"], outputs: Outputs
) -> Float[Array, "m m"]:
    """``J (-H)^-1 J'`` at the optimum ``point``."""
    units = average.units(point)
    slope = jax.grad(average.log_density)

    def means(free: Array) -> Float[Array, " m"]:
        draws = average.member(free).transform(average.draws)[0]
        return jax.vmap(lambda z: outputs(average.target.values(z)))(draws).mean(0)

    def product(direction: Array) -> Array:
        return -units * jax.jvp(slope, (point,), (units * direction,))[1]

    jacobian = jax.jacrev(means)(point) * units
    solved = jax.lax.map(
        lambda row: conjugate_gradients(product, row).point, jacobian, batch_size=_TOGETHER
    )
    found = jacobian @ solved.T
    return 0.5 * (found + found.T)


covariance = _config.small_jit(_covariance)
