r"""Lower bounds on log p(x), in nats, summed over rows with their weights, every constant kept.

For any density q over the latents,

.. math:: \log p(x) = E_q[\log p(x, z) - \log q(z)] + KL(q \,\|\, p(z \mid x)),

so the first term never exceeds log p(x), and equals it where q is the exact posterior. A bound is
called with (model, q, rows, key) and answers with an estimate; larger is better.
"""

from __future__ import annotations

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._types import Array, Key, Rows
from minorant.models.base import AbstractModel
from minorant.posteriors import AbstractPosterior, Categorical
from minorant.result import Estimate


class AbstractBound(eqx.Module):
    """A function of model and q that lies below log p(x), whatever q is."""

    @abstractmethod
    def __call__(
        self, model: AbstractModel, q: AbstractPosterior, rows: Rows, key: Key | None = None
    ) -> Estimate:
        """The bound summed over a block of rows, in nats, with its standard error."""


class Elbo(AbstractBound):
    r"""The evidence lower bound, exact for a categorical q: summed over, not drawn from.

    .. math:: L(\theta, q) = \sum_i w_i \sum_k q_i(k) [\log p(x_i, k) - \log q_i(k)]

    Neal & Hinton (1998), "A view of the EM algorithm that justifies incremental, sparse, and other
    variants", equation 7.

    Example:
        >>> import numpy as np
        >>> from minorant._types import Rows
        >>> from minorant.bounds import Elbo
        >>> from minorant.components import Diagonal, Gaussian
        >>> from minorant.models import Mixture
        >>> from minorant.posteriors import Categorical
        >>> one = np.ones((1, 1))
        >>> model = Mixture(Gaussian(Diagonal(), 0 * one, one), np.ones(1), n_components=1)
        >>> bound = Elbo()(model, Categorical(np.zeros((1, 1))), Rows(0 * one, np.ones(1)))
        >>> round(float(bound.value), 4), float(bound.standard_error)
        (-0.9189, 0.0)
    """

    def __call__(
        self, model: AbstractModel, q: AbstractPosterior, rows: Rows, key: Key | None = None
    ) -> Estimate:
        """The bound summed over the block; rows of weight zero add nothing.

        Args:
            model: a model whose latent takes finitely many values.
            q: a :class:`Categorical`, (k, n).
            rows: n rows.
            key: not used: nothing is drawn.

        Returns:
            The value in nats and a standard error of zero.

        Raises:
            TypeError: for a q that cannot be summed over.
        """
        del key
        per_row = self.per_row(model, q, rows)
        total = jnp.where(rows.weight > 0, rows.weight * per_row, 0.0).sum()
        return Estimate(total, jnp.zeros_like(total))

    def per_row(self, model: AbstractModel, q: AbstractPosterior, rows: Rows) -> Float[Array, " n"]:
        """``E_q[log p(x, z) - log q(z)]`` of every row, unweighted.

        It is -inf where q allows what p does not.

        Raises:
            TypeError: for a q that cannot be summed over.
        """
        if not isinstance(q, Categorical):
            raise TypeError(
                f"Elbo sums over a Categorical q; got {type(q).__name__}. Give q as (k, n) log "
                "probabilities in minorant.posteriors.Categorical."
            )
        possible = q.log_probability > -np.inf
        log_q = jnp.where(possible, q.log_probability, 0.0)
        log_joint = jnp.where(possible, log_joint_table(model, rows, len(log_q)), 0.0)
        return jnp.where(possible, jnp.exp(log_q) * (log_joint - log_q), 0.0).sum(0)


def log_joint_table(model: AbstractModel, rows: Rows, k: int) -> Float[Array, "k n"]:
    """``log p(x, z)`` for each of the k values of z."""
    n = rows.weight.shape[0]
    # Only the choice of z is mapped over: what does not depend on it is computed once.
    return jax.vmap(lambda z: model.log_joint(rows, jnp.full(n, z)))(jnp.arange(k))
