r"""A user's model: a prior, a likelihood given the latent, and the posterior chosen from the prior.

.. math:: p(x) = \sum_z p(z)\, p(x \mid z) \quad\text{or}\quad \int p(z)\, p(x \mid z)\, dz

A finite latent is summed out; a normal one of up to three dimensions is integrated out by adaptive
Gauss-Hermite quadrature. Parameters are climbed by quasi-Newton steps on the evidence. Priors and
likelihoods are distributions of ``numpyro.distributions``, or whatever has their methods.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from minorant._types import Affine, Array, Key, Rows, Summary
from minorant.components.base import reject_cells
from minorant.models.base import AbstractExactModel
from minorant.posteriors import Categorical
from minorant.posteriors.quadrature import LARGEST, Adaptive, Integrated, Quadrature, integrate

_POINTS = {1: 15, 2: 9, 3: 7}
_NORMAL = ("Normal", "MultivariateNormal")
_INSTALL = (
    "minorant.Model takes distributions from numpyro.distributions, an optional extra: "
    "pip install 'minorant[numpyro]'."
)


class Model(AbstractExactModel):
    """A latent variable model of your own: fields, ``prior()`` and ``likelihood(z)``.

    Fields are the parameters, with a starting value each: real numbers unless declared by
    :func:`minorant.positive`, :func:`minorant.unit_interval`, :func:`minorant.simplex` or
    :func:`minorant.constant`. Rows are independent; z and x are a row's.

    ``prior()`` is a distribution of z: finite (``Categorical``, ``Bernoulli``: z a number), or
    normal of 1 to 3 dimensions (``Normal``, ``Normal.to_event(1)``, ``MultivariateNormal``).
    ``likelihood(z)`` is a distribution over the d columns of a row; with ``.to_event(1)`` of
    independent columns, missing cells are left out. ``points=``, for every model, is the number of
    quadrature nodes per dimension: 15, 9 or 7 unless given.

    Raises:
        TypeError: when ``prior`` or ``likelihood`` does not return a distribution, or the latent is
            neither finite nor normal of at most three dimensions.

    Example:
        >>> import jax.numpy as jnp, numpy as np, minorant
        >>> import numpyro.distributions as dist
        >>> class Counts(minorant.Model):
        ...     level: object
        ...     spread: object = minorant.positive()
        ...     def prior(self):
        ...         return dist.Normal(0.0, 1.0)
        ...     def likelihood(self, z):
        ...         return dist.Poisson(jnp.exp(self.level + self.spread * z)).to_event(1)
        >>> rows = np.array([[0.0], [1.0], [2.0], [9.0]])
        >>> fit = minorant.fit(Counts(np.zeros(1), np.ones(1)), rows)
        >>> fit.outcome.ok
        True

    Not for: more than three latent dimensions; sequences and groups (``HiddenMarkov``,
    ``StateSpace``, ``MixedModel``).
    """

    points: int | None = eqx.field(static=True, kw_only=True, default=None)

    @abstractmethod
    def prior(self) -> Any:
        """The distribution of z."""

    @abstractmethod
    def likelihood(self, z: Any) -> Any:
        """The distribution of a row's d columns given its z."""

    def rule(self) -> Adaptive:
        """The quadrature of a normal latent."""
        return Adaptive(self.points or _POINTS[_dimensions(self)])

    def log_joint(self, rows: Rows, latents: Array) -> Float[Array, " n"]:
        """``log p(z) + log p(x | z)``."""
        prior = _prior_of(self)
        return jax.vmap(prior.log_prob)(latents) + self._log_likelihood(rows, latents)

    def _log_likelihood(self, rows: Rows, latents: Array) -> Float[Array, " n"]:
        values, there = _safe(rows)
        model = _on_device(self)

        def one(x: Array, seen: Array, z: Array) -> Array:
            return _log_prob(model.likelihood(z), x, seen, rows.observed is not None)

        return jax.vmap(one)(values, there, latents)

    def sample(self, key: Key, n: int) -> tuple[Array, Float[Array, "n d"]]:
        """``n`` draws of z and x."""
        latent_key, row_key = jax.random.split(key)
        model = _on_device(self)
        latents = _prior_of(model).sample(latent_key, (n,))
        keys = jax.random.split(row_key, n)
        return latents, jax.vmap(lambda k, z: model.likelihood(z).sample(k))(keys, latents)

    def prepare(self) -> None:
        """Nothing."""
        return

    def posterior(self, rows: Rows, prepared: None) -> Categorical | Quadrature:
        """``p(z | x)``: probabilities of a finite latent, masses on nodes of a normal one."""
        del prepared
        if _is_finite(self):
            scores = self._scores(rows)
            return Categorical(scores - jax.nn.logsumexp(scores, axis=0))
        return self._integrated(rows).posterior

    def log_evidence(self, rows: Rows, prepared: None) -> Float[Array, " n"]:
        """``log p(x)``."""
        del prepared
        if _is_finite(self):
            return jax.nn.logsumexp(self._scores(rows), axis=0)
        return self._integrated(rows).log_evidence

    def _scores(self, rows: Rows) -> Float[Array, "k n"]:
        """``log p(z) + log p(x | z)`` for every z."""
        prior = _prior_of(self)
        support = prior.enumerate_support(expand=False)
        n = len(rows.weight)

        def one(z: Array) -> Array:
            return self._log_likelihood(rows, jnp.broadcast_to(z, (n,))) + prior.log_prob(z)

        return jax.vmap(one)(support)

    def _integrated(self, rows: Rows) -> Integrated:
        mean = jnp.asarray(_prior_of(self).mean, rows.weight.dtype).reshape(-1)
        start = jnp.broadcast_to(mean, (len(rows.weight), len(mean)))
        return integrate(_log_joint, (self, rows), start, self.rule())

    def log_prior(self) -> Float[Array, ""]:
        """None; override it for priors on parameters."""
        return jnp.zeros(())

    def projected(self) -> Self:
        """Itself: fields carry their constraints."""
        return self

    def configured(self, summary: Summary) -> Self:
        """Itself, looked over.

        Raises:
            TypeError: when a distribution is not one, or the latent cannot be summed out.
            ValueError: when the likelihood has other columns than the data.
        """
        shape = _event_shape(self)
        if shape != (summary.n_columns,):
            raise ValueError(
                f"likelihood(z) must be a distribution over the {summary.n_columns} columns of a "
                f"row; its event shape is {shape}. Use .to_event(1) for independent columns."
            )
        return self

    def check(self, values: Float[np.ndarray, "n d"], names: tuple[str, ...]) -> None:
        """Cells must be in the likelihood's support."""
        given = self.likelihood(_first_latent(self))
        cells = _cells(given)
        if cells is None or np.isnan(values).all():
            return
        inside = np.broadcast_to(np.asarray(cells.support(np.nan_to_num(values))), values.shape)
        kind = type(cells).__name__
        bad = ~inside & ~np.isnan(values)
        reject_cells(bad, values, names, f"must be in the support of {kind}, the likelihood")

    def standardiser(self, summary: Summary) -> Affine:
        """The identity: nothing is known about units."""
        return Affine.identity(summary.n_columns)

    def rescaled(self, units: Affine) -> Self:
        """Itself: the units are the identity."""
        del units
        return self

    def refined(self) -> Self:
        """With the rule doubled: what changes is the error of the rule."""
        if _is_finite(self):
            return self
        return dataclasses.replace(self, points=self.rule().refined().points)

    def reason(self) -> str:
        """How the latent is summed or integrated out."""
        if _is_finite(self):
            return "the prior is finite, so the latent is summed out exactly"
        points, l = self.rule().points, _dimensions(self)
        return (
            f"the prior is normal in {l} dimension(s), so the latent is integrated out by {points} "
            "Gauss-Hermite nodes per dimension around each row's mode: log p(x) is an estimate and "
            "no bound"
        )


def _log_joint(parameters: tuple[Model, Rows], latents: Array) -> Float[Array, " n"]:
    model, rows = parameters
    return model.log_joint(rows, latents if _latent_shape(model) else latents[:, 0])


def _on_device(model: Model) -> Model:
    """With JAX arrays for leaves, which a latent may index."""
    return jax.tree.map(jnp.asarray, model)


def _safe(rows: Rows) -> tuple[Float[Array, "n d"], Bool[Array, "n d"]]:
    """Cells with a value that some row has in place of what is missing or padding.

    What a likelihood gives outside its support has NaN for a gradient, even where unused.
    """
    values = jnp.asarray(rows.values)
    there = jnp.broadcast_to((rows.weight > 0)[:, None], values.shape)
    if rows.observed is not None:
        there = there & rows.observed
    first = jnp.take_along_axis(values, jnp.argmax(there, axis=0)[None], axis=0)
    seen = jnp.ones(values.shape, bool) if rows.observed is None else rows.observed
    return jnp.where(there, values, first), jnp.broadcast_to(seen, values.shape)


def _log_prob(given: Any, x: Array, seen: Array, has_gaps: bool) -> Float[Array, ""]:
    cells = _cells(given)
    if cells is None:
        if has_gaps:
            raise ValueError(
                f"Cells are missing, but {type(given).__name__} does not say how to leave columns "
                "out: make the columns independent given z (.to_event(1)), or drop those rows."
            )
        return given.log_prob(x)
    return jnp.where(seen, cells.log_prob(x), 0.0).sum()


def _cells(given: Any) -> Any:
    """The distribution of single cells of independent columns; None where columns depend."""
    base = getattr(given, "base_dist", None)
    if base is None or type(given).__name__ != "Independent" or len(base.event_shape):
        return None
    return base


def _prior_of(model: Model) -> Any:
    prior = model.prior()
    if not (hasattr(prior, "log_prob") and hasattr(prior, "event_shape")):
        raise TypeError(
            f"prior() must return a distribution; got {type(prior).__name__}. {_INSTALL}"
        )
    return prior


def _latent_shape(model: Model) -> tuple[int, ...]:
    prior = _prior_of(model)
    return tuple(prior.batch_shape) + tuple(prior.event_shape)


def _is_finite(model: Model) -> bool:
    prior = _prior_of(model)
    return bool(getattr(prior, "has_enumerate_support", False)) and _latent_shape(model) == ()


def _dimensions(model: Model) -> int:
    """How many dimensions a normal latent has.

    Raises:
        TypeError: when the prior is not normal, or has more than three dimensions.
    """
    prior = _prior_of(model)
    core = prior.base_dist if type(prior).__name__ == "Independent" else prior
    core = core.base_dist if type(core).__name__ == "ExpandedDistribution" else core
    shape = _latent_shape(model)
    l = shape[0] if shape else 1
    if type(core).__name__ not in _NORMAL or tuple(prior.batch_shape) or not 1 <= l <= LARGEST:
        raise TypeError(
            f"prior() is {type(prior).__name__} with shape {shape}: a latent is summed out where "
            "it is finite (Categorical, Bernoulli), and integrated out where it is normal with 1 "
            "to 3 dimensions (.to_event(1)). Others need a variational posterior."
        )
    return l


def _first_latent(model: Model) -> Any:
    """One latent, to look at the likelihood with."""
    prior = _prior_of(model)
    if _is_finite(model):
        return prior.enumerate_support(expand=False)[0]
    _dimensions(model)
    return prior.mean


def _event_shape(model: Model) -> tuple[int, ...]:
    given = model.likelihood(_first_latent(model))
    if not (hasattr(given, "log_prob") and hasattr(given, "event_shape")):
        kind = type(given).__name__
        raise TypeError(f"likelihood(z) must return a distribution; got {kind}. {_INSTALL}")
    return (
        tuple(given.event_shape) if not tuple(given.batch_shape) else tuple(given.batch_shape)[:0]
    )
