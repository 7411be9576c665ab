"""Formulae that item structures share: constraints, curves, priors, starts, changes of traits."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant._parameters import given
from minorant._types import Array


@dataclasses.dataclass(frozen=True)
class Masked:
    """Real numbers where the mask is above 0, and 0 elsewhere."""

    mask: Any

    def free(self, value: Array) -> Array:
        """Value to free coordinates."""
        return value

    def value(self, free: Array) -> Array:
        """Free coordinates to value."""
        return _namespace(free).where(self.mask > 0, free, 0.0)

    def count(self, shape: tuple[int, ...]) -> int:
        """How many are not held at 0."""
        return int(np.broadcast_to(np.asarray(self.mask) > 0, shape).sum())


@dataclasses.dataclass(frozen=True)
class Decreasing:
    """Numbers that decrease along the last axis: the first, then logarithms of the decrements."""

    def free(self, value: Array) -> Array:
        """Value to free coordinates."""
        fall = jnp.maximum(-jnp.diff(value, axis=-1), jnp.finfo(value.dtype).eps)
        return jnp.concatenate([value[..., :1], jnp.log(fall)], axis=-1)

    def value(self, free: Array) -> Array:
        """Free coordinates to value."""
        xp = _namespace(free)
        steps = xp.concatenate([free[..., :1], -xp.exp(free[..., 1:])], axis=-1)
        return xp.cumsum(steps, axis=-1)

    def count(self, shape: tuple[int, ...]) -> int:
        """All of them."""
        return int(np.prod(shape))


def reach(items: Any, latents: Array) -> Float[Array, "*b d"]:
    """``a'z`` of every item."""
    return latents @ given(items.slopes).T


def cumulative(reach: Array, intercepts: Array) -> Float[Array, "*b d m"]:
    """``log(s(L_c) - s(L_{c+1}))``, by ``s(a) - s(b) = s(a) s(-b) (1 - e^(b - a))``."""
    logits = reach[..., None] + intercepts
    above, below = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    between = above[..., :-1] + below[..., 1:] + jnp.log(-jnp.expm1(jnp.diff(intercepts, axis=-1)))
    return jnp.concatenate([below[..., :1], between, above[..., -1:]], axis=-1)


def adjacent(reach: Array, intercepts: Array) -> Float[Array, "*b d m"]:
    """``log p(c)`` proportional to ``c a'z + d_c``."""
    steps = jnp.arange(1.0, intercepts.shape[1] + 1.0, dtype=intercepts.dtype)
    scores = reach[..., None] * steps + intercepts
    scores = jnp.concatenate([jnp.zeros_like(scores[..., :1]), scores], axis=-1)
    return jax.nn.log_softmax(scores, axis=-1)


def log_prior(items: Any) -> Float[Array, ""]:
    """Normal densities of free slopes and of intercepts."""
    slopes, intercepts = given(items.slopes), given(items.intercepts)
    density = jnp.zeros((), intercepts.dtype)
    if items.prior is None:
        return density
    if items.prior.slope is not None:
        mean, deviation = items.prior.slope
        squares = ((slopes - mean) / deviation) ** 2
        free = squares if items.pattern is None else jnp.where(items.pattern > 0, squares, 0.0)
        density = density - 0.5 * free.sum()
    if items.prior.intercept is not None:
        mean, deviation = items.prior.intercept
        density = density - 0.5 * (((intercepts - mean) / deviation) ** 2).sum()
    return density


def moved(items: Any, shift: Array, root: Array, steps: Any) -> Any:
    """For traits u, ``z = shift + root u``: slopes turned, intercepts shifted ``steps`` times."""
    slopes = given(items.slopes)
    new = given(items.intercepts) + (slopes @ shift)[:, None] * steps
    return eqx.tree_at(lambda i: (i.slopes, i.intercepts), items, (slopes @ root, new))


def begun(items: Any, slopes: np.ndarray, intercepts: np.ndarray) -> Any:
    """With slopes and intercepts put in."""
    where = lambda i: (i.slopes, i.intercepts)  # noqa: E731
    return eqx.tree_at(where, items, (slopes, intercepts), is_leaf=is_none)


def cumulative_start(slopes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Logits of the shares at or above c, spread by what averaging over a normal trait flattens."""
    above = np.cumsum(shares[:, :0:-1], axis=1)[:, ::-1]
    spread = np.sqrt(1.0 + 0.346 * (slopes**2).sum(1, keepdims=True))
    return spread * np.log(above / (1.0 - above))


def length(slopes: Array) -> Float[Array, "d 1"]:
    """The length of the slopes with the sign of their sum."""
    xp = _namespace(slopes)
    size = xp.sqrt((slopes**2).sum(1, keepdims=True))
    return xp.where(slopes.sum(1, keepdims=True) < 0, -size, size)


def steps(items: Any) -> Float[Array, "d c"]:
    """Where neighbouring categories are equally likely."""
    intercepts = given(items.intercepts)
    xp = _namespace(intercepts)
    previous = xp.concatenate([xp.zeros_like(intercepts[:, :1]), intercepts[:, :-1]], axis=1)
    return (previous - intercepts) / length(given(items.slopes))


def is_none(node: Any) -> bool:
    """Whether a leaf is a template's."""
    return node is None


def _namespace(array: Any) -> Any:
    return np if isinstance(array, np.ndarray) else jnp
