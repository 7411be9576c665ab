"""How the latent of a user's model is done away with: summed, integrated, or bounded per row."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._types import Array, Rows
from minorant.models._states import (
    MOST_STATES,
    coordinate_values,
    count_states,
    is_product,
    states,
)
from minorant.posteriors import AbstractPosterior, Categorical
from minorant.posteriors.amortised import PerRow
from minorant.posteriors.local import Local, best_gaussians, number_of_draws
from minorant.posteriors.quadrature import LARGEST, Adaptive, Integrated, integrate

_POINTS = {1: 15, 2: 9, 3: 7}
_AT_ONCE = 64  # states of a finite latent
_NORMAL = ("Normal", "MultivariateNormal")
INSTALL = (
    "minorant.Model takes distributions from numpyro.distributions, an optional extra: "
    "pip install 'minorant[numpyro]'."
)


class AbstractRoute(eqx.Module):
    """One way to do away with the latent; it knows of the model only what it is handed."""

    @abstractmethod
    def posterior(self, model: Any, rows: Rows) -> AbstractPosterior:
        """Q of every row."""

    @abstractmethod
    def log_evidence(self, model: Any, rows: Rows) -> Float[Array, " n"]:
        """``log p(x)`` of every row, or the bound on it."""

    @abstractmethod
    def reason(self) -> str:
        """Why and how, as the end of a sentence."""

    @abstractmethod
    def is_exact(self) -> bool:
        """Whether nothing is approximated."""


class Summed(AbstractRoute):
    """A finite latent: every value is visited."""

    def posterior(self, model: Any, rows: Rows) -> Categorical:
        """Probabilities."""
        scores = _scores(model, rows)
        return Categorical(scores - jax.nn.logsumexp(scores, axis=0))

    def log_evidence(self, model: Any, rows: Rows) -> Float[Array, " n"]:
        """The sum over all values."""
        return jax.nn.logsumexp(_scores(model, rows), axis=0)

    def reason(self) -> str:
        """Summed."""
        return "the prior is finite, so the latent is summed out exactly"

    def is_exact(self) -> bool:
        """It is."""
        return True


class IntegratedOut(AbstractRoute):
    """A normal latent of one to three dimensions: adaptive quadrature."""

    rule: Adaptive = eqx.field(static=True)
    l: int = eqx.field(static=True)

    def posterior(self, model: Any, rows: Rows) -> AbstractPosterior:
        """Masses on nodes."""
        return self._integrated(model, rows).posterior

    def log_evidence(self, model: Any, rows: Rows) -> Float[Array, " n"]:
        """The integral by the rule."""
        return self._integrated(model, rows).log_evidence

    def _integrated(self, model: Any, rows: Rows) -> Integrated:
        mean = jnp.asarray(prior_of(model).mean, rows.weight.dtype).reshape(-1)
        start = jnp.broadcast_to(mean, (len(rows.weight), len(mean)))
        return integrate(_log_joint, (model, rows), start, self.rule)

    def reason(self) -> str:
        """Integrated."""
        return (
            f"the prior is normal in {self.l} dimension(s), so the latent is integrated out by "
            f"{self.rule.points} Gauss-Hermite nodes per dimension around each row's mode: "
            "log p(x) is an estimate and no bound"
        )

    def is_exact(self) -> bool:
        """It is not."""
        return False


class Bounded(AbstractRoute):
    """Any continuous latent: the best Gaussian of every row, in free coordinates."""

    draws: int = eqx.field(static=True)
    l: int = eqx.field(static=True)
    diagonal: bool = eqx.field(static=True, default=False)

    def posterior(self, model: Any, rows: Rows) -> AbstractPosterior:
        """Gaussians in free coordinates."""
        return self._best(model, rows).posterior

    def log_evidence(self, model: Any, rows: Rows) -> Float[Array, " n"]:
        """The bound, on draws that all rows share."""
        return self._best(model, rows).bound

    def _best(self, model: Any, rows: Rows) -> Local:
        start = jnp.broadcast_to(start_of(model, rows), (len(rows.weight), self.l))
        return best_gaussians(log_free_joint, (model, rows), start, self.draws, self.diagonal)

    def reason(self) -> str:
        """Bounded."""
        return (
            f"the latent has {self.l} dimensions and no closed or finite integral, so each row "
            f"has its own {'mean-field' if self.diagonal else 'full-rank'} Gaussian q, with the "
            f"bound averaged over {self.draws} matched draws"
        )

    def is_exact(self) -> bool:
        """It is not."""
        return False


def route_of(model: Any, points: int | None, per_row: PerRow | None) -> AbstractRoute:
    """The first way that applies; with ``per_row``, a bound wherever the latent is continuous.

    Raises:
        TypeError: when the latent is neither finite nor continuous.
    """
    if is_finite(model):
        return Summed()
    l = normal_dimensions(model)
    if per_row is None and 1 <= l <= LARGEST:
        return IntegratedOut(Adaptive(points or _POINTS[l]), l)
    l, per_row = free_size(model), per_row or PerRow()
    draws = max(per_row.draws or 0, number_of_draws(l))
    return Bounded(draws, l, per_row.family == "mean-field")


def log_free_joint(parameters: tuple[Any, Rows], free: Float[Array, "n l"]) -> Float[Array, " n"]:
    """``log p(x, z)``, of a continuous latent in free coordinates, with the Jacobian."""
    model, rows = parameters
    if is_discrete(model):
        return model.log_joint(rows, free)
    latents, log_jacobian = jax.vmap(lambda u: to_latent(model, u))(free)
    return model.log_joint(rows, latents) + log_jacobian


def to_latent(model: Any, free: Float[Array, " l"]) -> tuple[Array, Float[Array, ""]]:
    """The latent at free coordinates, and the log Jacobian."""
    bijection = _bijection(prior_of(model))
    shaped = free.reshape(_free_shape(model))
    latent = bijection(shaped)
    return latent, jnp.sum(bijection.log_abs_det_jacobian(shaped, latent))


def _bijection(prior: Any) -> Any:
    from numpyro.distributions import biject_to

    return biject_to(prior.support)


def _free_shape(model: Any) -> tuple[int, ...]:
    prior = prior_of(model)
    return tuple(_bijection(prior).inverse_shape(tuple(prior.event_shape)))


def free_size(model: Any) -> int:
    """How many free coordinates a continuous latent has.

    Raises:
        TypeError: for one that is not continuous, or not one latent.
    """
    prior = prior_of(model)
    shape, kind = latent_shape(model), type(prior).__name__
    if tuple(prior.batch_shape):
        raise TypeError(
            f"prior() is {kind} with batch shape {tuple(prior.batch_shape)}: say with .to_event(1) "
            "that these are dimensions of one latent."
        )
    if is_discrete(model):
        raise TypeError(_discrete_sentence(prior, kind, shape))
    return int(np.prod(_free_shape(model), dtype=int))


def start_of(model: Any, rows: Rows) -> Float[Array, " l"]:
    """The prior's mean in free coordinates; zeros where it has none inside."""
    prior, dtype = prior_of(model), rows.weight.dtype
    zeros = jnp.zeros(free_size(model), dtype)
    try:
        free = jnp.ravel(_bijection(prior).inv(jnp.asarray(prior.mean, dtype)))
    except (NotImplementedError, AttributeError):
        return zeros
    return jnp.where(jnp.isfinite(free), free, 0.0)


def _scores(model: Any, rows: Rows) -> Float[Array, "k n"]:
    """``log p(z) + log p(x | z)`` for every z."""
    support, n = states(prior_of(model)), len(rows.weight)

    def one(z: Array) -> Float[Array, " n"]:
        return model.log_joint(rows, jnp.broadcast_to(z, (n, *jnp.shape(z))))

    if len(support) <= _AT_ONCE:
        return jax.vmap(one)(support)
    # Many states are visited a few at a time, and again for the derivative: memory stays small.
    return jax.lax.map(jax.checkpoint(one), support, batch_size=_AT_ONCE)


def _log_joint(parameters: tuple[Any, Rows], latents: Array) -> Float[Array, " n"]:
    model, rows = parameters
    return model.log_joint(rows, latents if latent_shape(model) else latents[:, 0])


def prior_of(model: Any) -> Any:
    """The model's prior.

    Raises:
        TypeError: when it is no distribution.
    """
    prior = model.prior()
    if not (hasattr(prior, "log_prob") and hasattr(prior, "event_shape")):
        raise TypeError(
            f"prior() must return a distribution; got {type(prior).__name__}. {INSTALL}"
        )
    return prior


def latent_shape(model: Any) -> tuple[int, ...]:
    """The shape of one latent."""
    prior = prior_of(model)
    return tuple(prior.batch_shape) + tuple(prior.event_shape)


def is_finite(model: Any) -> bool:
    """Whether the latent, a number or a vector, takes few enough values to visit all."""
    return 0 < count_states(prior_of(model)) <= MOST_STATES


def is_discrete(model: Any) -> bool:
    """Whether the latent jumps."""
    support = prior_of(model).support
    return bool(getattr(support, "is_discrete", False))


def _discrete_sentence(prior: Any, kind: str, shape: tuple[int, ...]) -> str:
    ways = (
        f"prior() is {kind} with shape {shape}: a latent is summed out where it takes at most "
        f"{MOST_STATES} values (Categorical, Bernoulli, vectors of them with .to_event(1)), "
        "integrated out where it is normal with 1 to 3 dimensions, and bounded where it is "
        "continuous."
    )
    count = count_states(prior)
    if not count:
        return f"{ways} This one is discrete without end: take a Categorical of the values in use."
    remedy = "Take fewer values."
    if is_product(prior):
        remedy = 'Give minorant.fit posterior="encoder", which bounds it by independent q.'
    return f"{ways} This one takes {count}. {remedy}"


def normal_dimensions(model: Any) -> int:
    """How many dimensions a normal latent has; 0 where it is not normal."""
    prior = prior_of(model)
    core = prior.base_dist if type(prior).__name__ == "Independent" else prior
    core = core.base_dist if type(core).__name__ == "ExpandedDistribution" else core
    shape = latent_shape(model)
    if type(core).__name__ not in _NORMAL or tuple(prior.batch_shape):
        return 0
    return shape[0] if shape else 1


def first_latent(model: Any) -> Any:
    """One latent, to look at the likelihood with."""
    prior = prior_of(model)
    if is_finite(model):
        return states(prior)[0]
    if is_product(prior):
        return jnp.broadcast_to(coordinate_values(prior)[0], tuple(prior.event_shape))
    if normal_dimensions(model):
        return prior.mean
    return to_latent(model, jnp.zeros(free_size(model)))[0]
