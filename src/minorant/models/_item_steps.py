r"""The M-step of items: Fisher scoring on expected answers, one item independent of the others.

With ``r_cs`` the expected number of answers c at node s and ``n_s = sum_c r_cs``, an item's
expected log-likelihood ``sum_cs r_cs log p_c(z_s)`` has gradient and expected information

.. math:: g = \sum_{cs} r_{cs} J_{cs}, \qquad I = \sum_s n_s \sum_c p_c(z_s) J_{cs} J_{cs}^T,
          \qquad J = \partial \log p_c / \partial \phi

in free coordinates. Bock & Aitkin (1981), "Marginal maximum likelihood estimation of item
parameters: application of an EM algorithm", section 3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from minorant import _factors
from minorant._parameters import from_vector, leaf_constraints, to_vector
from minorant._types import Array, PyTree
from minorant.models._curves import Decreasing
from minorant.models.items import AbstractItems

_LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.02, 0.0)
_LONGEST = 3.0


class Slope(NamedTuple):
    """Gradient and information of every item's expected log-likelihood, in free coordinates."""

    gradient: Float[Array, "d p"]
    information: Float[Array, "d p p"]


def vectors(items: AbstractItems) -> Float[Array, "d p"]:
    """Every item's free coordinates."""
    return jax.vmap(lambda item: to_vector(_alone(item)))(items)


def with_vectors(items: AbstractItems, points: Float[Array, "d p"]) -> AbstractItems:
    """The items at other points."""

    def one(item: AbstractItems, point: Array) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[0], from_vector(_alone(item), point))

    return jax.vmap(one)(items, points)


def slope_on_nodes(
    items: AbstractItems, counts: Float[Array, "d m s"], nodes: Float[Array, "s l"]
) -> Slope:
    """From expected counts of answers at shared nodes."""

    def one(item: AbstractItems, count: Array) -> Slope:
        jacobian, chance = _derivatives(item, nodes)
        gradient = jnp.einsum("ms,smp->p", count, jacobian)
        weight = count.sum(0)[:, None] * chance
        return Slope(gradient, jnp.einsum("sm,smp,smq->pq", weight, jacobian, jacobian))

    return jax.vmap(one)(items, counts)


def slope_at_points(
    items: AbstractItems,
    codes: Float[Array, "n d"],
    mass: Float[Array, "d n s"],
    nodes: Float[Array, "n s l"],
) -> Slope:
    """From every person's own nodes; ``mass`` is 0 where an answer is missing."""
    points = nodes.reshape(-1, nodes.shape[-1])

    def one(part: tuple[AbstractItems, Array, Array]) -> Slope:
        item, answers, weights = part
        jacobian, chance = _derivatives(item, points)
        weight = weights.reshape(-1)
        given = jnp.repeat(answers, nodes.shape[1]).astype(jnp.int32)
        chosen = jnp.take_along_axis(jacobian, given[:, None, None], axis=1)[:, 0]
        spread = jnp.einsum("s,sm,smp,smq->pq", weight, chance, jacobian, jacobian)
        return Slope(weight @ chosen, spread)

    return jax.lax.map(one, (items, codes.T, mass))


def stepped(items: AbstractItems, slope: Slope, held: Bool[Array, "d p"] | None) -> AbstractItems:
    """One scoring step, prior included, of bounded length."""
    return with_vectors(items, vectors(items) + _move(items, slope, held))


def climbed(
    items: AbstractItems,
    counts: Float[Array, "d m s"],
    nodes: Float[Array, "s l"],
    held: Bool[Array, "d p"] | None,
    n_steps: int,
) -> AbstractItems:
    """Scoring steps on fixed counts, each shortened item by item so that none ever descends."""
    lengths = jnp.asarray(_LENGTHS, nodes.dtype)

    def advance(_: Any, now: Array) -> Array:
        here = with_vectors(items, now)
        move = _move(here, slope_on_nodes(here, counts, nodes), held)
        tried = now + lengths[:, None, None] * move
        worth = jax.lax.map(lambda at: _worth(with_vectors(items, at), counts, nodes), tried)
        worth = jnp.where(jnp.isfinite(worth), worth, -jnp.inf)
        best = jnp.argmax(worth, axis=0)
        return jnp.take_along_axis(tried, best[None, :, None], axis=0)[0]

    return with_vectors(items, jax.lax.fori_loop(0, n_steps, advance, vectors(items)))


def held_mask(items: AbstractItems, fixed: PyTree | None) -> Bool[Array, "d p"] | None:
    """Which free coordinates ``fixed`` holds; decreasing intercepts are held together."""
    if fixed is None:
        return None
    parts = []
    leaves = zip(
        jax.tree.leaves(items), jax.tree.leaves(fixed), leaf_constraints(items), strict=True
    )
    for leaf, mask, constraint in leaves:
        if constraint is None:
            continue
        mask = jnp.asarray(mask)
        wide = jnp.broadcast_to(
            mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim)), leaf.shape
        )
        if isinstance(constraint, Decreasing):
            wide = jnp.broadcast_to(wide.any(-1, keepdims=True), leaf.shape)
        parts.append(wide.reshape(len(leaf), -1))
    return jnp.concatenate(parts, axis=1)


def _alone(item: PyTree) -> Any:
    """One item of a stack, as a stack of one."""
    return jax.tree.map(lambda leaf: leaf[None], item)


def _derivatives(item: AbstractItems, nodes: Array) -> tuple[Array, Array]:
    """``d log p_c / d phi`` (s, m, p) and ``p_c`` (s, m) of one item at the nodes."""
    alone = _alone(item)

    def curve(point: Array) -> tuple[Array, Array]:
        logs = from_vector(alone, point).log_probability(nodes)[:, 0]
        return logs, logs

    jacobian, logs = jax.jacfwd(curve, has_aux=True)(to_vector(alone))
    return jacobian, jnp.exp(logs)


def _move(items: AbstractItems, slope: Slope, held: Array | None) -> Float[Array, "d p"]:
    gradient, information = slope
    if items.has_prior():
        prior = _prior_slope(items)
        gradient, information = gradient + prior.gradient, information + prior.information
    p = gradient.shape[1]
    if held is not None:
        gradient = jnp.where(held, 0.0, gradient)
        information = jnp.where(held[:, :, None] | held[:, None, :], 0.0, information)
    size = jnp.diagonal(information, axis1=1, axis2=2)
    eps = jnp.finfo(gradient.dtype).eps
    # Coordinates that the answers say nothing of stay where they are.
    ridge = jnp.where(size > 0, 8 * eps * size.max(1, keepdims=True), 1.0)
    factor = _factors.cholesky(information + jnp.asarray(ridge)[:, :, None] * jnp.eye(p))
    move = _factors.cho_solve(factor, gradient[..., None])
    move = jnp.nan_to_num(move[..., 0])
    longest = jnp.abs(move).max(1, keepdims=True)
    return move * jnp.minimum(1.0, _LONGEST / jnp.maximum(longest, eps))


def _prior_slope(items: AbstractItems) -> Slope:
    def one(item: AbstractItems) -> Slope:
        alone = _alone(item)

        def density(point: Array) -> Array:
            return from_vector(alone, point).log_prior()

        at = to_vector(alone)
        return Slope(jax.grad(density)(at), -jax.hessian(density)(at))

    return jax.vmap(one)(items)


def _worth(items: AbstractItems, counts: Array, nodes: Array) -> Float[Array, " d"]:
    """Expected log-likelihood and log prior of every item."""
    expected = jnp.einsum("dms,sdm->d", counts, items.log_probability(nodes))
    if not items.has_prior():
        return expected
    return expected + jax.vmap(lambda item: _alone(item).log_prior())(items)
