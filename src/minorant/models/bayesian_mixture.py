r"""Bayesian mixtures of Gaussians: weights, means and precisions are latent, with priors.

.. math:: \log p(X) \ge L = \sum_i \log \sum_k \exp E_q[\log w_k + \log p(x_i \mid k)]
          - KL(q(w) \,\|\, p(w)) - \sum_k KL(q(\mu_k, \Lambda_k) \,\|\, p(\mu_k, \Lambda_k))

with ``q(Z) q(w) prod_k q(mu_k, Lambda_k)``, and q(Z) always the best one given the rest. What the
climb moves is q of the parameters: the M-step is the closed coordinate update, which cannot lower
L, and L is a bound wherever an extrapolation looks. Every constant is kept: L of two models, or of
two numbers of components, may be compared.

Bishop (2006), "Pattern recognition and machine learning", section 10.2; the bound is equations
10.70 to 10.77 with q(Z) put in.
"""

from __future__ import annotations

from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant._parameters import constant, given, positive
from minorant._types import Array, Key, PyTree, Rows, Summary
from minorant.components.base import of
from minorant.components.bayesian_gaussian import BayesianGaussian
from minorant.models.mixture import Mixture
from minorant.models.of_components import (
    AbstractMixture,
    MixtureStatistics,
    Prepared,
    log_sum,
    where_allowed,
)
from minorant.models.weight_priors import AbstractWeightPrior, DirichletWeights


class BayesianMixture(AbstractMixture):
    """k Gaussian components whose parameters are integrated out under a mean-field q.

    ``fit.bound`` is the whole bound L, in nats. ``fit.posterior`` gives q(Z); ``fit.log_evidence``
    and ``fit.sample`` speak of new rows given those fitted: the posterior predictive density, a
    mixture of Student-t densities.

    Args:
        component: :class:`BayesianGaussian`, with the prior of means and precisions.
        prior: :class:`DirichletWeights` or :class:`StickBreaking`.
        count: (k,) rows that each component holds under q; None to be learned.
        n_components: k, the most there may be.

    Raises:
        ValueError: when k is below 1.

    Example:
        >>> import numpy as np, minorant
        >>> from minorant.components import BayesianGaussian
        >>> rows = np.r_[np.arange(20.0), 100 + np.arange(20.0)][:, None]
        >>> model = minorant.models.BayesianMixture(BayesianGaussian(), n_components=4)
        >>> np.sort(minorant.fit(model, rows).model.count.round(1))
        array([ 0.,  0., 20., 20.])

    Not for: an honest spread of what is shared. Mean-field q is too narrow, and it holds one of the
    k! ways to number the components, so L may fall short of the evidence by up to ``log k!`` more.
    """

    component: BayesianGaussian = BayesianGaussian()
    prior: AbstractWeightPrior = constant(default=DirichletWeights())
    count: Float[Array, " k"] | None = positive(default=None)
    n_components: int = eqx.field(static=True, kw_only=True)

    def __check_init__(self) -> None:
        """Raise ValueError for an impossible k."""
        if not isinstance(self.n_components, int) or self.n_components < 1:
            raise ValueError(
                f"n_components must be an integer of at least 1; got {self.n_components!r}."
            )

    @property
    def weights(self) -> Float[np.ndarray, " k"]:
        """``E_q w``, over the k components (host side)."""
        weights = self.prior.mean(np.asarray(given(self.count)))
        return np.asarray(weights / weights.sum())

    def integrates_parameters(self) -> bool:
        """Yes: the divergences are part of the bound."""
        return True

    def prepare(self) -> Prepared:
        """Expected log weights and the components' factors."""
        return Prepared(self.prior.expected_log(given(self.count)), self.component.prepare())

    def log_joint_all(self, rows: Rows, prepared: Prepared) -> Float[Array, "k n"]:
        """``E_q[log w_k + log p(x | k)]``; -inf where a known label forbids it."""
        scores = self.component.log_prob(rows, prepared.component) + prepared.log_weights[:, None]
        return where_allowed(scores, rows.labels)

    def predictive_log_joint(self, rows: Rows, prepared: Prepared) -> Float[Array, "k n"]:
        """``log E w_k + log E p(x | k)``; -inf where a known label forbids it."""
        weights = self.prior.mean(given(self.count))
        tiny = jnp.finfo(weights.dtype).tiny
        log_weights = jnp.log(jnp.maximum(weights / weights.sum(), tiny))
        scores = self.component.predictive_log_prob(rows, prepared.component)
        return where_allowed(scores + log_weights[:, None], rows.labels)

    def log_joint(self, rows: Rows, latents: Int[Array, " n"]) -> Float[Array, " n"]:
        """The predictive ``log p(x, z)``."""
        scores = self.predictive_log_joint(rows, self.prepare())
        return jnp.take_along_axis(scores, latents[None], axis=0)[0]

    def log_evidence(self, rows: Rows, prepared: Prepared) -> Float[Array, " n"]:
        """The posterior predictive ``log p(x)`` of each row by itself."""
        return log_sum(self.predictive_log_joint(rows, prepared))

    def sample(self, key: Key, n: int) -> tuple[Int[Array, " n"], Float[Array, "n d"]]:
        """Labels and rows from the posterior predictive density."""
        label_key, row_key = jax.random.split(key)
        log_weights = jnp.log(self.prior.mean(given(self.count)))
        labels = jax.random.categorical(label_key, log_weights, shape=(n,))
        return labels, self.component.sample(row_key, labels)

    def drawn(self, key: Key) -> tuple[Mixture, Float[Array, ""]]:
        """The mixture at parameters drawn from q, and ``log prior - log q`` there."""
        weight_key, component_key = jax.random.split(key)
        log_weights, weight_ratio = self.prior.drawn(weight_key, given(self.count))
        component, ratio = self.component.drawn(component_key)
        mixture = Mixture(component, jnp.exp(log_weights), n_components=self.n_components)
        return mixture, ratio + weight_ratio

    def maximise(self, statistics: MixtureStatistics, fixed: PyTree | None = None) -> Self:
        """The best q of weights, means and precisions given the responsibilities."""
        component = self.component.maximise(statistics.component, of(fixed, "component"))
        new = (component, statistics.count)
        return eqx.tree_at(lambda m: (m.component, m.count), self, new, is_leaf=_is_leaf)

    def log_prior(self) -> Float[Array, ""]:
        """``-KL(q || prior)`` of weights, means and precisions."""
        return self.component.log_prior() - self.prior.divergence(given(self.count))

    def configured(self, summary: Summary) -> Self:
        """With the priors filled in."""
        component = self.component.configured(summary, self.n_components)
        prior = self.prior.configured(self.n_components)
        return eqx.tree_at(lambda m: (m.component, m.prior), self, (component, prior), is_leaf=_cut)

    def projected(self) -> Self:
        """Itself: any q gives a bound."""
        return self

    def occupancy(self) -> np.ndarray:
        """The expected weights."""
        return self.weights

    def reason(self) -> str:
        """Coordinate ascent."""
        return (
            "the best q(Z) given a mean-field q of weights, means and precisions, in closed form; "
            "the bound is below log p(X), parameters integrated out"
        )


def _is_leaf(node: Any) -> bool:
    return node is None or isinstance(node, BayesianGaussian)


def _cut(node: Any) -> bool:
    return isinstance(node, BayesianGaussian | AbstractWeightPrior)
