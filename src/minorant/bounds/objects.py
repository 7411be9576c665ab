"""Bounds as objects, for ``minorant.fit(..., bound=)``."""

from __future__ import annotations

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._types import Array, Key, Rows
from minorant.bounds.gradients import (
    LogDensity,
    check_alpha,
    doubly_reparametrised,
    path_elbo,
    renyi,
    score_function_elbo,
)
from minorant.models.base import AbstractModel
from minorant.posteriors import AbstractPosterior, Categorical
from minorant.posteriors.in_rows import AbstractInRows
from minorant.result import Estimate


class AbstractBound(eqx.Module):
    """A function of model and q that lies below log p(x), whatever q is: ``fit(..., bound=)``."""

    @property
    @abstractmethod
    def draws(self) -> int:
        """How many draws of q one bound takes."""

    @abstractmethod
    def of_draws(
        self, log_density: LogDensity, q: AbstractInRows, noise: Array
    ) -> Float[Array, " n"]:
        """A bound for each row, averaged over draws, with a gradient to climb by."""

    @abstractmethod
    def sentence(self) -> str:
        """What it is called."""


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

    @property
    def draws(self) -> int:
        """One."""
        return 1

    def of_draws(
        self, log_density: LogDensity, q: AbstractInRows, noise: Array
    ) -> Float[Array, " n"]:
        """By the path of the draws where they are smooth, by score functions where they jump."""
        function = path_elbo if q.is_smooth() else score_function_elbo
        return function(log_density, q, noise)

    def sentence(self) -> str:
        """The evidence lower bound."""
        return "evidence lower bound"


class ImportanceWeighted(AbstractBound):
    r"""The importance-weighted bound: k draws of q to a bound, tighter as k grows.

    .. math:: E \log \frac{1}{k} \sum_{j=1}^k \frac{p(x, z_j)}{q(z_j \mid x)}

    It learns a model whose posterior q cannot reach, at k times the cost of a step; q itself covers
    more than it should. Where q reaches the posterior, the evidence lower bound is as good.

    Args:
        k: draws to a bound.

    Example:
        >>> from minorant.bounds import ImportanceWeighted
        >>> ImportanceWeighted(16).draws
        16

    Burda, Grosse & Salakhutdinov (2016); gradient by Tucker et al. (2019).
    """

    k: int = eqx.field(static=True, default=8)

    def __check_init__(self) -> None:
        _check_count(self.k)

    @property
    def draws(self) -> int:
        """``k``."""
        return self.k

    def of_draws(
        self, log_density: LogDensity, q: AbstractInRows, noise: Array
    ) -> Float[Array, " n"]:
        """Doubly reparametrised."""
        return doubly_reparametrised(log_density, q, noise, self.k)

    def sentence(self) -> str:
        """With its k."""
        return f"importance-weighted bound of {self.k} draws"


class Renyi(AbstractBound):
    r"""Renyi's bound of k draws: alpha = 0 is importance weighting, alpha towards 1 the ELBO.

    .. math:: E\, \frac{1}{1 - \alpha} \log \frac{1}{k} \sum_{j=1}^k
              \Big(\frac{p(x, z_j)}{q(z_j \mid x)}\Big)^{1 - \alpha}

    Args:
        alpha: at least 0 and below 1.
        k: draws to a bound.

    Example:
        >>> from minorant.bounds import Renyi
        >>> Renyi(0.5, k=4).sentence()
        'Renyi bound (alpha = 0.5) of 4 draws'

    Not for: latents of many dimensions, where its gradient drowns in noise.

    Li & Turner (2016), "Renyi divergence variational inference".
    """

    alpha: float = eqx.field(static=True, default=0.5)
    k: int = eqx.field(static=True, default=8)

    def __check_init__(self) -> None:
        _check_count(self.k)
        check_alpha(self.alpha)

    @property
    def draws(self) -> int:
        """``k``."""
        return self.k

    def of_draws(
        self, log_density: LogDensity, q: AbstractInRows, noise: Array
    ) -> Float[Array, " n"]:
        """Reparametrised."""
        return renyi(log_density, q, noise, self.k, self.alpha)

    def sentence(self) -> str:
        """With its alpha and k."""
        return f"Renyi bound (alpha = {self.alpha:g}) of {self.k} draws"


def log_joint_table(model: AbstractModel, rows: Rows, k: int) -> Float[Array, "k n"]:
    """``log p(x, z)`` for each of the k values of z."""
    n = rows.weight.shape[0]
    # Only the choice of z is mapped over: what does not depend on it is computed once.
    return jax.vmap(lambda z: model.log_joint(rows, jnp.full(n, z)))(jnp.arange(k))


def _check_count(k: int) -> None:
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be a whole number of draws, at least 1; got {k!r}.")
