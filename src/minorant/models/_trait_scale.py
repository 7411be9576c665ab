"""The traits' own distribution: what identifies it, its grid of nodes, and its M-step."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._parameters import PositiveDefinite
from minorant._types import Array
from minorant.posteriors._small_matrices import cholesky, diagonal, forward, log_normal
from minorant.posteriors.quadrature import Adaptive, Grid

_POINTS = {1: 61, 2: 31, 3: 15}
_ADAPTIVE = {1: 15, 2: 9, 3: 7}
_MOST_NODES = 20_000


@dataclasses.dataclass(frozen=True)
class Means:
    """Means (g, l) of groups; the first group's are 0."""

    def free(self, value: Array) -> Array:
        """Value to free coordinates."""
        return value

    def value(self, free: Array) -> Array:
        """Free coordinates to value."""
        later = np.arange(free.shape[0])[:, None] > 0
        return _namespace(free).where(later, free, 0.0)

    def count(self, shape: tuple[int, ...]) -> int:
        """Those of later groups."""
        return (shape[0] - 1) * shape[1]


@dataclasses.dataclass(frozen=True)
class Covariances:
    """Covariances (g, l, l) of groups; of the first "fixed" to I, a "correlation", or "free"."""

    scale: str

    def free(self, value: Array) -> Array:
        """Value to free coordinates."""
        return PositiveDefinite().free(value)

    def value(self, free: Array) -> Array:
        """Free coordinates to value."""
        xp = _namespace(free)
        every = PositiveDefinite().value(free)
        if self.scale == "free":
            return every
        first = every[:1]
        size = xp.sqrt(xp.diagonal(first, axis1=1, axis2=2))
        first = first / (size[:, :, None] * size[:, None, :])
        if self.scale == "fixed":
            first = xp.broadcast_to(np.eye(free.shape[-1], dtype=free.dtype), first.shape)
        return xp.concatenate([first, every[1:]])

    def count(self, shape: tuple[int, ...]) -> int:
        """Entries of later groups, and what the first group leaves free."""
        g, l, _ = shape
        every = l * (l + 1) // 2
        first = {"fixed": 0, "correlation": every - l, "free": every}[self.scale]
        return first + (g - 1) * every


class Population(NamedTuple):
    """Means and covariances of the traits in every group."""

    mean: Float[Array, "g l"]
    covariance: Float[Array, "g l l"]


class Moments(NamedTuple):
    """Persons of every group, and sums of their traits and of products of traits."""

    persons: Float[Array, " g"]
    first: Float[Array, "g l"]
    second: Float[Array, "g l l"]


def moments(mass: Float[Array, "g *s"], nodes: Float[Array, "*s l"]) -> Moments:
    """Sums over nodes, shared (s, l) or of every person (n, s, l)."""
    l = nodes.shape[-1]
    mass, nodes = mass.reshape(len(mass), -1), nodes.reshape(-1, l)
    products = (nodes[:, :, None] * nodes[:, None, :]).reshape(-1, l * l)
    return Moments(mass.sum(1), mass @ nodes, (mass @ products).reshape(-1, l, l))


def default_rule(n_traits: int, n_items: int) -> Grid | Adaptive:
    """A grid whose step is the posterior's usual deviation, or adaptive nodes if that is too fine.

    An item is taken to tell 0.3 about a trait of variance 1 (a slope of 1.3 at usual difficulties),
    items shared among traits; at a step of one deviation the trapezoidal rule is off by
    ``2 exp(-2 pi^2) = 5e-9`` of a normal integrand.
    """
    deviation = 1.0 / np.sqrt(1.0 + 0.3 * n_items / n_traits)
    points = max(_POINTS[n_traits], int(np.ceil(2 * Grid(2).width / deviation)) | 1)
    return Grid(points) if points**n_traits <= _MOST_NODES else Adaptive(_ADAPTIVE[n_traits])


def sentence(n_traits: int, rule: Grid | Adaptive) -> str:
    """How traits are integrated out, as the end of a sentence."""
    how = f"a grid of {rule.points} equally spaced nodes per trait"
    if isinstance(rule, Adaptive):
        how = f"{rule.points} Gauss-Hermite nodes per trait around each person's mode"
    return (
        f"the posterior of {n_traits} trait(s) is integrated on {how}, so log p(x) is an estimate "
        "and no bound; doubling the rule (model.refined()) tells its error"
    )


def nodes(
    rule: Grid, mean: Float[Array, "g l"], covariance: Float[Array, "g l l"]
) -> tuple[Float[Array, "s l"], Float[Array, "g s"]]:
    """Nodes around all groups together, and the log mass of each in every group, summing to 1."""
    unit, log_volume = rule.nodes(mean.shape[1])
    centre = mean.mean(0)
    away = mean - centre
    spread = (covariance + away[:, :, None] * away[:, None, :]).mean(0)
    root = cholesky(spread, 0.0)
    placed = centre + jnp.asarray(unit, mean.dtype) @ root.T
    density = log_normal(placed - mean[:, None], covariance[:, None]) + log_volume
    return placed, density - jax.nn.logsumexp(density, axis=1, keepdims=True)


def maximised(
    old: Population, found: Moments, shape: str, expands: bool
) -> tuple[Population, Float[Array, " l"], Float[Array, "l l"]]:
    """The population's M-step, and the change of traits ``z = shift + root u`` to carry to items.

    Args:
        old: kept where a group has no persons.
        found: expected sums.
        shape: what identifies the first group: "fixed", "correlation" or "free", followed by
            " axes" where a pattern gives every trait a meaning, so that traits may be rescaled but
            not mixed.
        expands: whether the first group's origin and unit may be carried over to the items.
    """
    count = jnp.maximum(found.persons, jnp.finfo(found.first.dtype).tiny)[:, None]
    mean = found.first / count
    about = mean[:, :, None] * mean[:, None, :]
    covariance = found.second / count[..., None] - about
    empty = (found.persons <= 0)[:, None]
    mean = jnp.where(empty, old.mean, mean)
    covariance = jnp.where(empty[..., None], old.covariance, covariance)
    l = mean.shape[1]
    shift, root = jnp.zeros(l, mean.dtype), jnp.eye(l, dtype=mean.dtype)
    first = (found.second / count[..., None])[0]
    if expands:
        shift, first = mean[0], covariance[0]
        root = _root(first, shape)
    mean = jnp.asarray(forward(root, mean - shift)).at[0].set(0.0)
    covariance = jnp.asarray(_between(root, jnp.asarray(covariance).at[0].set(first)))
    return Population(mean, covariance.at[0].set(_identified(covariance[0], shape))), shift, root


def _root(covariance: Float[Array, "l l"], shape: str) -> Float[Array, "l l"]:
    """The unit of the expanded traits, as far as items can take it over."""
    if shape.startswith("free"):
        return jnp.eye(len(covariance), dtype=covariance.dtype)
    if shape == "fixed":
        return cholesky(covariance, jnp.finfo(covariance.dtype).tiny)
    return jnp.diag(jnp.sqrt(diagonal(covariance)))


def _identified(covariance: Float[Array, "l l"], shape: str) -> Float[Array, "l l"]:
    if shape.startswith("free"):
        return covariance
    if shape.startswith("fixed"):
        return jnp.eye(len(covariance), dtype=covariance.dtype)
    size = jnp.sqrt(diagonal(covariance))
    return covariance / (size[:, None] * size[None, :])


def _between(root: Float[Array, "l l"], covariance: Float[Array, "g l l"]) -> Array:
    """``root^-1 S root^-T``."""
    half = forward(root, jnp.swapaxes(covariance, 1, 2))
    return forward(root, jnp.swapaxes(half, 1, 2))


def _namespace(array: Array):  # noqa: ANN202
    return np if isinstance(array, np.ndarray) else jnp
