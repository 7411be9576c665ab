r"""Priors on the weights of a mixture, and the q of the weights that N rows per component leave.

Both know q by ``N_k``, the rows that each component holds: the best q has the prior's form with N
added. An answer is an expectation under q, or q's divergence from the prior, every constant kept.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln, logsumexp
from jaxtyping import Float

from minorant._parameters import given
from minorant._types import Array, Key


class AbstractWeightPrior(eqx.Module):
    """A prior on k weights that is conjugate to counts."""

    concentration: eqx.AbstractVar[Any]

    @abstractmethod
    def configured(self, n_components: int) -> Self:
        """With the concentration filled in."""

    @abstractmethod
    def parameters(self, count: Float[Array, " k"]) -> Any:
        """What q is written with: a concentration (k,), or two for betas."""

    @abstractmethod
    def mean(self, count: Float[Array, " k"]) -> Float[Array, " k"]:
        """``E_q w_k``; may sum to less than 1 where there are more components than k."""

    @abstractmethod
    def expected_log(self, count: Float[Array, " k"]) -> Float[Array, " k"]:
        """``E_q log w_k``."""

    @abstractmethod
    def drawn(self, key: Key, count: Float[Array, " k"]) -> tuple[Array, Float[Array, ""]]:
        """``log w`` drawn from q, (k,), and ``log prior - log q`` there."""

    @abstractmethod
    def divergence(self, count: Float[Array, " k"]) -> Float[Array, ""]:
        """``KL(q || prior)``."""


class DirichletWeights(AbstractWeightPrior):
    r"""A finite mixture: ``w ~ Dirichlet(alpha_0)`` and ``q(w) = Dirichlet(alpha_0 + N)``.

    .. math:: E \log w_k = \psi(\alpha_k) - \psi(\textstyle\sum_j \alpha_j)

    Args:
        concentration: ``alpha_0``, a number or (k,), above 0; None: 1 / k. Far below 1, components
            that the rows can do without are left empty.

    Raises:
        ValueError: for a concentration that is not above 0.

    Example:
        >>> import numpy as np
        >>> from minorant.models import DirichletWeights
        >>> DirichletWeights(1.0).mean(np.array([2.0, 0.0]))
        array([0.75, 0.25])

    Bishop (2006), "Pattern recognition and machine learning", equations 10.57 and 10.66.
    """

    concentration: Any = None

    def __check_init__(self) -> None:
        """Raise ValueError for what is no density."""
        _check_concentration(self)

    def configured(self, n_components: int) -> DirichletWeights:
        """(k,)."""
        value = 1.0 / n_components if self.concentration is None else self.concentration
        value = np.asarray(value, dtype=float)
        if value.shape not in {(), (n_components,)}:
            raise ValueError(
                f"DirichletWeights concentration must be one number or one for each of "
                f"{n_components} components; got shape {value.shape}."
            )
        return DirichletWeights(np.broadcast_to(value, (n_components,)).copy())

    def parameters(self, count: Float[Array, " k"]) -> Float[Array, " k"]:
        """``alpha_0 + N``."""
        return count + given(self.concentration)

    def mean(self, count: Float[Array, " k"]) -> Float[Array, " k"]:
        """``alpha_k / sum_j alpha_j``."""
        concentration = self.parameters(count)
        return concentration / concentration.sum()

    def expected_log(self, count: Float[Array, " k"]) -> Float[Array, " k"]:
        """``digamma(alpha_k) - digamma(sum_j alpha_j)``."""
        concentration = self.parameters(count)
        return digamma(concentration) - digamma(concentration.sum())

    def drawn(self, key: Key, count: Float[Array, " k"]) -> tuple[Array, Float[Array, ""]]:
        """Gammas over their sum, in logarithms, which small concentrations need."""
        first = jnp.broadcast_to(given(self.concentration), count.shape)
        logs = jax.random.loggamma(key, first + count, dtype=count.dtype)
        log_weights = logs - logsumexp(logs)
        return log_weights, self._normalisers(count) - (count * log_weights).sum()

    def divergence(self, count: Float[Array, " k"]) -> Float[Array, ""]:
        """Of one Dirichlet density from another."""
        return (count * self.expected_log(count)).sum() - self._normalisers(count)

    def _normalisers(self, count: Float[Array, " k"]) -> Float[Array, ""]:
        """``log B(alpha) - log B(alpha_0)``, B the normaliser of a Dirichlet."""
        first = jnp.broadcast_to(given(self.concentration), count.shape)
        own = first + count
        return (gammaln(own) - gammaln(first)).sum() + gammaln(first.sum()) - gammaln(own.sum())


class StickBreaking(AbstractWeightPrior):
    r"""A Dirichlet process: ``w_k = v_k prod_(j < k) (1 - v_j)``, ``v_k ~ Beta(1, alpha)``.

    .. math:: q(v_k) = Beta(1 + N_k, \; \alpha + \textstyle\sum_{j > k} N_j)

    The mixture has infinitely many components; q gives rows to the first k alone, and leaves the
    sticks after them at their prior. So the bound is one on the evidence of the infinite mixture.

    Args:
        concentration: ``alpha``, above 0; None: 1 / k. About ``alpha log n`` components are
            expected of n rows.

    Raises:
        ValueError: for a concentration that is not above 0.

    Example:
        >>> import numpy as np
        >>> from minorant.models import StickBreaking
        >>> StickBreaking(1.0).mean(np.array([2.0, 0.0]))
        array([0.75 , 0.125])

    Blei & Jordan (2006), "Variational inference for Dirichlet process mixtures", equations 18 to
    22; like Kurihara, Welling & Teh (2007) and scikit-learn, the last stick kept is a beta too.
    """

    concentration: Any = None

    def __check_init__(self) -> None:
        """Raise ValueError for what is no density."""
        _check_concentration(self)

    def configured(self, n_components: int) -> StickBreaking:
        """One number."""
        value = 1.0 / n_components if self.concentration is None else self.concentration
        value = np.asarray(value, dtype=float)
        if value.shape != ():
            raise ValueError(
                f"StickBreaking concentration must be one number; got shape {value.shape}."
            )
        return StickBreaking(value)

    def parameters(self, count: Float[Array, " k"]) -> tuple[Array, Array]:
        """``1 + N_k`` and ``alpha + sum_(j > k) N_j``, (k,) each."""
        later = count[::-1].cumsum()[::-1] - count
        return 1.0 + count, given(self.concentration) + later

    def mean(self, count: Float[Array, " k"]) -> Float[Array, " k"]:
        """``E v_k prod_(j < k) E (1 - v_j)``."""
        first, second = self.parameters(count)
        kept = second / (first + second)
        return (1.0 - kept) * (kept.cumprod() / kept)

    def expected_log(self, count: Float[Array, " k"]) -> Float[Array, " k"]:
        """``E log v_k + sum_(j < k) E log(1 - v_j)``."""
        log_taken, log_left = self._expected_logs(count)
        return log_taken + jnp.cumsum(log_left) - log_left

    def drawn(self, key: Key, count: Float[Array, " k"]) -> tuple[Array, Float[Array, ""]]:
        """Betas as shares of two gammas, in logarithms."""
        first, second = self.parameters(count)
        pair = jnp.stack([first, second])
        logs = jax.random.loggamma(key, pair, dtype=count.dtype)
        log_taken, log_left = logs - logsumexp(logs, axis=0)
        own = (1.0 - first) * log_taken + (given(self.concentration) - second) * log_left
        log_weights = log_taken + jnp.cumsum(log_left) - log_left
        return log_weights, (own + self._normalisers(count)).sum()

    def divergence(self, count: Float[Array, " k"]) -> Float[Array, ""]:
        """Of the betas from ``Beta(1, alpha)``."""
        concentration = given(self.concentration)
        first, second = self.parameters(count)
        log_taken, log_left = self._expected_logs(count)
        own = (first - 1.0) * log_taken + (second - concentration) * log_left
        return (own - self._normalisers(count)).sum()

    def _normalisers(self, count: Float[Array, " k"]) -> Float[Array, " k"]:
        """``log B(a, b) - log B(1, alpha)``, B the beta function."""
        # Not by betaln: jax 0.10's is wrong by 1e-6 where both arguments are near 10.
        first, second = self.parameters(count)
        own = gammaln(first) + gammaln(second) - gammaln(first + second)
        return own + jnp.log(given(self.concentration))

    def _expected_logs(self, count: Float[Array, " k"]) -> tuple[Array, Array]:
        first, second = self.parameters(count)
        both = digamma(first + second)
        return digamma(first) - both, digamma(second) - both


def _check_concentration(prior: AbstractWeightPrior) -> None:
    value = prior.concentration
    if isinstance(value, int | float | np.ndarray) and not np.all(np.asarray(value) > 0):
        name = type(prior).__name__
        raise ValueError(f"{name} concentration must be above 0; got {value}.")
