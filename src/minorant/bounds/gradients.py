"""Bounds by draws of q: unbiased values, whose derivatives are estimators of the gradient."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._types import Array
from minorant.posteriors.in_rows import AbstractInRows
from minorant.posteriors.members import AbstractMember

LogDensity = Callable[[Float[Array, "s *n p"]], Float[Array, "s *n"]]
Drawn = AbstractMember | AbstractInRows


def reparametrised_elbo(
    log_density: LogDensity, member: Drawn, noise: Float[Array, "s e"]
) -> Float[Array, ""]:
    r"""The evidence lower bound, differentiated through the draws and through log q.

    .. math:: \frac{1}{s} \sum_i [\log p(z_i) - \log q(z_i)], \quad z_i = T_\phi(\epsilon_i)

    Args:
        log_density: of the target, in nats, of many vectors at once.
        member: q.
        noise: what ``member.noise`` drew.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from minorant.bounds import reparametrised_elbo
        >>> from minorant.posteriors.members import FullRank
        >>> q = FullRank(jnp.zeros(1), jnp.eye(1))
        >>> noise = q.noise(jax.random.key(0), 100)
        >>> round(float(reparametrised_elbo(lambda z: -0.5 * (z**2).sum(1), q, noise)), 4)
        0.9189

    Kingma & Welling (2014), "Auto-encoding variational Bayes", equation 6.
    """
    draws, log_q = member.transform(noise)
    return jnp.mean(log_density(draws) - log_q, axis=0)


def path_elbo(
    log_density: LogDensity, member: Drawn, noise: Float[Array, "s e"]
) -> Float[Array, ""]:
    r"""The evidence lower bound, differentiated along the path of the draws alone.

    The parameters inside log q are held: the score that is left out is zero on average, and what
    remains has no variance where q equals the target. Far from it the gain may be a loss.

    Args:
        log_density: of the target, in nats, of many vectors at once.
        member: q.
        noise: what ``member.noise`` drew.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from minorant.bounds import path_elbo
        >>> from minorant.posteriors.members import FullRank
        >>> q = FullRank(jnp.zeros(1), jnp.eye(1))
        >>> def gradient(noise):
        ...     return jax.grad(lambda q: path_elbo(lambda z: -0.5 * (z**2).sum(1), q, noise))(q)
        >>> float(jnp.abs(gradient(q.noise(jax.random.key(0), 3)).factor).max())
        0.0

    Roeder, Wu & Duvenaud (2017), "Sticking the landing: simple, lower-variance gradient
    estimators for variational inference".
    """
    return jnp.mean(_log_ratios(log_density, member, noise), axis=0)


def score_function_elbo(
    log_density: LogDensity, member: Drawn, noise: Float[Array, "s e"]
) -> Float[Array, ""]:
    r"""The evidence lower bound, with the gradient of log q weighted by how good draws are.

    .. math:: \nabla L \approx \frac{1}{s} \sum_i \nabla \log q(z_i)
              \Big(f_i - \frac{1}{s - 1} \sum_{j \ne i} f_j\Big), \quad
              f_i = \log p(z_i) - \log q(z_i)

    It needs no derivative of log p in z, which may be discontinuous. Its variance grows with the
    dimension: where log p is smooth, ``path_elbo`` needs far fewer draws.

    Args:
        log_density: of the target, in nats, of many vectors at once.
        member: q.
        noise: what ``member.noise`` drew, at least two rows.

    Raises:
        ValueError: for fewer than two draws.

    Ranganath, Gerrish & Blei (2014), "Black box variational inference"; Kool, van Hoof & Welling
    (2019), "Buy 4 REINFORCE samples, get a baseline for free!".
    """
    s = len(noise)
    if s < 2:
        raise ValueError(f"score_function_elbo needs at least 2 draws to compare; got {s}.")
    draws, value = jax.lax.stop_gradient(member.transform(noise))
    log_p, log_q = log_density(draws), member.log_density(draws)
    ratio = log_p - value
    advantage = jax.lax.stop_gradient((ratio - ratio.mean(axis=0)) * s / (s - 1))
    return jnp.mean(ratio + _without_value(advantage * log_q), axis=0)


def importance_weighted(
    log_density: LogDensity, member: Drawn, noise: Float[Array, "s e"], k: int
) -> Float[Array, ""]:
    r"""The importance-weighted bound: tighter as k grows, equal to the ELBO for k = 1.

    .. math:: E \log \frac{1}{k} \sum_{j=1}^k \frac{p(z_j)}{q(z_j)}

    Args:
        log_density: of the target, in nats, of many vectors at once.
        member: q.
        noise: what ``member.noise`` drew, s rows: s / k bounds are averaged.
        k: draws to a bound; divides s.

    Raises:
        ValueError: where k does not divide the number of draws.

    Burda, Grosse & Salakhutdinov (2016), "Importance weighted autoencoders".
    """
    draws, log_q = member.transform(noise)
    log_weights = _in_groups(log_density(draws) - log_q, k)
    return jnp.mean(jax.nn.logsumexp(log_weights, axis=1) - np.log(k), axis=0)


def doubly_reparametrised(
    log_density: LogDensity, member: Drawn, noise: Float[Array, "s e"], k: int
) -> Float[Array, ""]:
    r"""The importance-weighted bound, with a gradient in q whose noise does not grow with k.

    .. math:: \nabla_\phi = \sum_j \bar w_j^2 \,
              \frac{\partial \log w_j}{\partial z_j} \frac{\partial z_j}{\partial \phi},
              \qquad \bar w_j = w_j / \sum_i w_i

    Parameters of the target that ``log_density`` holds get their usual gradient, with weight
    :math:`\bar w_j`. For k = 1 it is ``path_elbo``.

    Args:
        log_density: of the target, in nats, of many vectors at once.
        member: q.
        noise: what ``member.noise`` drew, s rows: s / k bounds are averaged.
        k: draws to a bound; divides s.

    Raises:
        ValueError: where k does not divide the number of draws.

    Tucker, Lawson, Gu & Maddison (2019), "Doubly reparameterized gradient estimators for Monte
    Carlo objectives".
    """
    log_weights = _in_groups(jax.lax.stop_gradient(_log_ratios(log_density, member, noise)), k)
    share = jax.nn.softmax(log_weights, axis=1)
    share = share.reshape(-1, *share.shape[2:])
    # One factor of the share scales what flows back into draws, the other all that flows back.
    ratios = _log_ratios(log_density, member, noise, share[..., None])
    bound = jax.nn.logsumexp(log_weights, axis=1) - np.log(k)
    return jnp.mean(bound + _without_value(_in_groups(share * ratios, k).sum(1)), axis=0)


def renyi(
    log_density: LogDensity,
    member: Drawn,
    noise: Float[Array, "s e"],
    k: int,
    alpha: float,
) -> Float[Array, ""]:
    r"""Renyi's bound by k draws: alpha = 0 is importance weighting, alpha towards 1 the ELBO.

    .. math:: E\, \frac{1}{1 - \alpha} \log \frac{1}{k} \sum_{j=1}^k
              \Big(\frac{p(z_j)}{q(z_j)}\Big)^{1 - \alpha}

    For alpha in [0, 1) it is a lower bound on the evidence for any k. What a larger divergence
    covers in low dimension it cannot estimate in high: take a richer family there.

    Args:
        log_density: of the target, in nats, of many vectors at once.
        member: q.
        noise: what ``member.noise`` drew, s rows: s / k bounds are averaged.
        k: draws to a bound; divides s.
        alpha: at least 0 and below 1.

    Raises:
        ValueError: for another alpha, or where k does not divide the number of draws.

    Li & Turner (2016), "Renyi divergence variational inference".
    """
    check_alpha(alpha)
    draws, log_q = member.transform(noise)
    powers = (1.0 - alpha) * _in_groups(log_density(draws) - log_q, k)
    return jnp.mean(jax.nn.logsumexp(powers, axis=1) - np.log(k), axis=0) / (1.0 - alpha)


def check_alpha(alpha: float) -> None:
    """Raise ValueError unless Renyi's bound with this alpha is one."""
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be at least 0 and below 1; got {alpha}.")


def _log_ratios(
    log_density: LogDensity, member: Drawn, noise: Array, share: Array | float = 1.0
) -> Float[Array, " s"]:
    """``log p - log q`` of draws, q's parameters held; gradients in the draws are scaled."""
    draws, value = member.transform(noise)
    draws = jax.lax.stop_gradient(draws) + _without_value(share * draws)
    # The value is that of the forward pass: where a flow is so steep that its inverse loses all
    # digits, the inverse pass could claim any bound at all.
    held = _without_value(jax.lax.stop_gradient(member).log_density(draws))
    return log_density(draws) - jax.lax.stop_gradient(value) - held


def _without_value(value: Array) -> Array:
    """Zero, with the derivative of the value; not finite where the value is not."""
    return value - jax.lax.stop_gradient(value)


def _in_groups(values: Float[Array, "s *n"], k: int) -> Float[Array, "g k *n"]:
    if k < 1 or len(values) % k:
        raise ValueError(f"k must divide the number of draws, {len(values)}; got {k}.")
    return values.reshape(-1, k, *values.shape[1:])
