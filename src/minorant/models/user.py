r"""A user's model: a prior, a likelihood given the latent, and the posterior chosen from the prior.

.. math:: p(x) = \sum_z p(z)\, p(x \mid z) \quad\text{or}\quad \int p(z)\, p(x \mid z)\, dz

A finite latent is summed out; a normal one of up to three dimensions is integrated out by adaptive
Gauss-Hermite quadrature; of any other continuous one each row has its own Gaussian q, or one
encoder gives them all, and the bound takes the place of the evidence. Parameters are climbed by
quasi-Newton steps; with an encoder, by stochastic ascent. Priors and likelihoods are distributions
of ``numpyro.distributions``, or whatever has their methods.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from minorant._parameters import constant
from minorant._types import Affine, Array, Key, Rows, Summary
from minorant.components.base import reject_cells
from minorant.models._encoded import (
    Encoded,
    count_outputs,
    in_rows,
    joint_of,
    refined_in_rows,
)
from minorant.models._latents import (
    AbstractRoute,
    Bounded,
    IntegratedOut,
    is_discrete,
    is_finite,
    log_free_joint,
    prior_of,
    route_of,
)
from minorant.models._look import check_traced, seen_likelihood
from minorant.models._states import is_product, states
from minorant.models.base import AbstractExactModel
from minorant.posteriors import AbstractPosterior, Encoder
from minorant.posteriors.amortised import PerRow
from minorant.posteriors.in_rows import AbstractInRows


class Model(AbstractExactModel):
    """A latent variable model of your own: fields, ``prior()`` and ``likelihood(z)``.

    Fields are the parameters, with a starting value each: real numbers unless declared by
    :func:`minorant.positive`, :func:`minorant.unit_interval`, :func:`minorant.simplex` or
    :func:`minorant.constant`. Rows are independent; z and x are a row's.

    ``prior()`` is a distribution of z: finite (``Categorical``, ``Bernoulli``, and vectors of them
    by ``.to_event(1)``, summed out where they take at most 4096 values), normal
    (``Normal``, ``Normal.to_event(1)``, ``MultivariateNormal``), or any continuous one, which is
    bounded in free coordinates (logarithms of what is positive, and so on), as is a normal one of
    more than 3 dimensions.
    ``likelihood(z)`` is a distribution over the d columns of a row; with ``.to_event(1)`` of
    independent columns, missing cells are left out. ``points=``, for every model, is the number of
    quadrature nodes per dimension: 15, 9 or 7 unless given. ``family=`` asks for the bound: a
    :class:`minorant.posteriors.PerRow`, where the latent is continuous; ``minorant.fit`` puts a
    fitted :class:`minorant.Encoder` there.

    Raises:
        TypeError: when ``prior`` or ``likelihood`` does not return a distribution, or the latent is
            neither finite nor continuous.

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

    Not for: sequences and groups (``HiddenMarkov``, ``StateSpace``, ``MixedModel``); latents of
    hundreds of dimensions.
    """

    points: int | None = eqx.field(static=True, kw_only=True, default=None)
    family: PerRow | Encoder | None = constant(kw_only=True, default=None)

    @abstractmethod
    def prior(self) -> Any:
        """The distribution of z."""

    @abstractmethod
    def likelihood(self, z: Any) -> Any:
        """The distribution of a row's d columns given its z."""

    def route(self) -> AbstractRoute:
        """How the latent is done away with."""
        if isinstance(self.family, Encoder):
            return Encoded()
        return route_of(self, self.points, self.family)

    def states(self) -> Array:
        """(k, ...) every value of a finite latent, in the order of ``fit.posterior(X)``.

        Raises:
            TypeError: where the latent is not finite, or takes too many values.
        """
        if not is_finite(self):
            raise TypeError("the latent does not take finitely many values, or too many to list.")
        return np.asarray(states(prior_of(self)))

    def log_joint(self, rows: Rows, latents: Array) -> Float[Array, " n"]:
        """``log p(z) + log p(x | z)``."""
        prior = prior_of(self)
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
        latents = prior_of(model).sample(latent_key, (n,))
        keys = jax.random.split(row_key, n)
        return latents, jax.vmap(lambda k, z: model.likelihood(z).sample(k))(keys, latents)

    def prepare(self) -> None:
        """Nothing."""
        return

    def posterior(self, rows: Rows, prepared: None) -> AbstractPosterior:
        """``p(z | x)``: probabilities of a finite latent, masses on nodes of a normal one.

        Of any other, the best Gaussian of each row, in free coordinates.
        """
        del prepared
        return self.route().posterior(self, rows)

    def log_evidence(self, rows: Rows, prepared: None) -> Float[Array, " n"]:
        """``log p(x)``, or the bound that takes its place."""
        del prepared
        return self.route().log_evidence(self, rows)

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
            ValueError: when the likelihood has other columns than the data, or cannot be part of
                a compiled program.
        """
        shape = _event_shape(self)
        if shape != (summary.n_columns,):
            raise ValueError(
                f"likelihood(z) must be a distribution over the {summary.n_columns} columns of a "
                f"row; its event shape is {shape}. Use .to_event(1) for independent columns."
            )
        check_traced(self, summary.n_columns)
        return self

    def check(self, values: Float[np.ndarray, "n d"], names: tuple[str, ...]) -> None:
        """Cells must be in the likelihood's support."""
        given = seen_likelihood(self)
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

    def is_exact(self) -> bool:
        """Whether the latent is summed out."""
        return self.route().is_exact()

    def is_bounded(self) -> bool:
        """Whether rows have a q of a family, and the evidence is its bound."""
        return isinstance(self.route(), Bounded | Encoded)

    def log_free_joint(self, rows: Rows, free: Float[Array, "n l"]) -> Float[Array, " n"]:
        """``log p(x, z)`` of latents in free coordinates, Jacobian included."""
        return log_free_joint((self, rows), free)

    def in_rows(self, rows: Rows) -> AbstractInRows:
        """The encoder's q of every row, to draw from."""
        return in_rows(self, rows)

    def refined_in_rows(self, rows: Rows) -> AbstractInRows:
        """The best q of every row by itself, climbed to from the encoder's."""
        return refined_in_rows(self, rows)

    def log_joint_of(self, rows: Rows) -> Callable[[Array], Float[Array, "s n"]]:
        """``log p(x, z)`` of rows as a function of many latents of each, in free coordinates."""
        return joint_of(self, rows)

    def count_outputs(self, encoder: Encoder) -> tuple[int, int]:
        """How many numbers of an encoder are means or logits, and how many it gives for a row.

        Raises:
            TypeError: for a latent that no encoder is for.
        """
        return count_outputs(self, encoder)

    def is_summed_by_number(self) -> bool:
        """Whether the latent is a single finite one."""
        return is_finite(self) and not is_product(prior_of(self))

    def is_smooth(self) -> bool:
        """Whether the latent is continuous."""
        return not is_discrete(self)

    def refined(self) -> Self:
        """With the rule doubled: what changes is the error of the rule."""
        route = self.route()
        if not isinstance(route, IntegratedOut):
            return self
        return dataclasses.replace(self, points=route.rule.refined().points)

    def bounded(self, family: PerRow | Encoder | None = None) -> Self:
        """With a q of a family for each row; unless given, a full-rank Gaussian of its own."""
        return dataclasses.replace(self, family=PerRow() if family is None else family)

    def reason(self) -> str:
        """How the latent is summed, integrated out or bounded."""
        return self.route().reason()


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


def _event_shape(model: Model) -> tuple[int, ...]:
    given = seen_likelihood(model)
    return tuple(given.event_shape) if not tuple(given.batch_shape) else ()
