r"""Gaussian chains by parallel scans: the filter, and the smoother's two passes.

What rows ``i .. j`` make of the state before them is an element: given ``z_i-1`` and those rows,

.. math:: z_j \sim N(A z_{i-1} + b, U U^T), \qquad
          p(y_i .. y_j \mid z_{i-1}) \propto \exp(-|Z z_{i-1} - r|^2 / 2)

and elements of neighbours have an associative product. Products up to a row are the filter's
moments; ``(Z, r)`` of the products from a row on is what the smoother's backward pass says; and the
posterior chain going forward is a product of linear maps with noise. The first row of a group has
A = 0, which forgets what comes before it, so groups need no care.

Both covariances are carried as roots and combined by orthogonal rotations, in either precision:
nothing is squared, subtracted or inverted. So singular noise and wide first states lose no digits.
There are no derivatives: those go step by step.

Särkkä & García-Fernández (2021), "Temporal parallelization of Bayesian smoothers", lemmas 7 to 9;
Yaghoobi, Corenflos, Hassan & Särkkä (2022), "Parallel square-root statistical linear regression for
inference in nonlinear state space models", section 4 (elements as roots).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _factors
from minorant._types import Array
from minorant.posteriors._kalman_filter import (
    Chain,
    Filtered,
    Observed,
    Roots,
    entered_by,
    entering,
)
from minorant.posteriors._scan import scanned
from minorant.posteriors.kalman import Collect, Covariances, Smoothed, added, nothing


class Element(NamedTuple):
    """See the module; the vectors ``b`` and ``r`` have a last axis of one."""

    transition: Float[Array, "n l l"]
    shift: Float[Array, "n l 1"]
    root: Float[Array, "n l l"]
    seen: Float[Array, "n l l"]
    value: Float[Array, "n l 1"]


class Turned(NamedTuple):
    """A linear map with noise, given what is said of where it leads.

    The unit noise is ``u | z ~ N(push - pull z, .)``, and ``root`` is the root of the noise then.
    """

    pull: Float[Array, "n l l"]
    push: Float[Array, "n l 1"]
    root: Float[Array, "n l l"]
    half_log_det: Float[Array, " n"]
    seen: Float[Array, "n l l"]
    value: Float[Array, "n l 1"]


def smoothed_in_parallel(
    chain: Chain, observed: Observed, collect: Collect = nothing, record: bool = False
) -> Smoothed:
    """As :func:`minorant.posteriors.kalman.smoothed`, by two scans."""
    with jax.default_matmul_precision("highest"):  # accelerators shorten float32 products
        return _smoothed(chain, observed, collect, record)


def _smoothed(chain: Chain, observed: Observed, collect: Collect, record: bool) -> Smoothed:
    roots = Roots.of(chain)
    A, G, shift, W = _entered(roots, observed)
    y = observed.value[..., None]
    own = _elements(A, G, shift, W, y)
    after = scanned(combined, own, reverse=True)
    seen = jnp.concatenate([_behind(after.seen), W], 1)
    turned = _turned(A, G, shift, seen, jnp.concatenate([_behind(after.value), y], 1), None)
    change = -G @ turned.pull
    B = A + change
    moves = (B, shift + G @ turned.push, turned.root @ _t(turned.root))
    _, means, covariance = scanned(_followed, moves)
    noise = turned.push - turned.pull @ _before(means)
    terms = -turned.half_log_det - 0.5 * (noise * noise).sum((1, 2))
    kept = Covariances(covariance, B, change, turned.root)
    if record:
        return Smoothed(means[..., 0], terms, None, kept)
    sums = added(observed, kept, _before(covariance), collect)
    return Smoothed(means[..., 0], terms, sums, None)


def filtered_in_parallel(chain: Chain, observed: Observed) -> Filtered:
    """As :func:`minorant.posteriors._kalman_filter.filtered`, by one scan; no derivatives."""
    with jax.default_matmul_precision("highest"):
        return _filtered(chain, observed)


def _filtered(chain: Chain, observed: Observed) -> Filtered:
    roots = Roots.of(chain)
    A, G, shift, W = _entered(roots, observed)
    c, l = W.shape[1:]
    up_to = scanned(combined, _elements(A, G, shift, W, observed.value[..., None]))
    mean = A @ _before(up_to.shift) + shift
    F = jnp.concatenate([_t(A @ _before(up_to.root)), _t(G)], 1)
    eye = jnp.broadcast_to(jnp.eye(c, c + l, dtype=F.dtype), (len(F), c, c + l))
    array = jnp.concatenate([eye, jnp.concatenate([F @ _t(W), F], 2)], 1)
    upper = triangle(array, c + l)
    inner = _factors.inverse_triangle(_t(upper[:, :c, :c]))
    surprise = inner @ (observed.value[..., None] - W @ mean)
    new_mean, new = mean + _t(upper[:, :c, c:]) @ surprise, upper[:, c:, c:]
    log_det = jnp.log(jnp.abs(jnp.diagonal(upper[:, :c, :c], axis1=1, axis2=2))).sum(1)
    log_density = -log_det - 0.5 * (surprise * surprise).sum((1, 2))
    return Filtered(mean[..., 0], _t(F) @ F, new_mean[..., 0], _t(new) @ new, log_density)


def combined(first: Element, then: Element) -> Element:
    """The element of both."""
    turned = _turned(first.transition, first.root, first.shift, then.seen, then.value, first)
    A = then.transition
    transition = A @ (first.transition - first.root @ turned.pull)
    shift = A @ (first.shift + first.root @ turned.push) + then.shift
    halves = jnp.concatenate([_t(A @ turned.root), _t(then.root)], 1)
    root = _t(triangle(halves, halves.shape[2])[:, : halves.shape[2]])
    return Element(transition, shift, root, turned.seen, turned.value)


def _elements(A: Array, G: Array, shift: Array, W: Array, y: Array) -> Element:
    """Every row's own."""
    turned = _turned(A, G, shift, W, y, None)
    transition, moved = A - G @ turned.pull, shift + G @ turned.push
    return Element(transition, moved, turned.root, turned.seen, turned.value)


def _turned(
    A: Array, G: Array, shift: Array, seen: Array, value: Array, known: Element | None
) -> Turned:
    """``z' = A z + shift + G u`` given ``|seen z' - value|^2``, by one rotation.

    What is left to say of z is joined with what is ``known`` of it.
    """
    n, l = len(A), A.shape[2]
    away = value - seen @ shift
    eye = jnp.broadcast_to(jnp.eye(l, 2 * l + 1, dtype=A.dtype), (n, l, 2 * l + 1))
    parts = [eye, jnp.concatenate([seen @ G, seen @ A, away], 2)]
    if known is not None:
        nothing_yet = jnp.zeros_like(known.seen)
        parts.append(jnp.concatenate([nothing_yet, known.seen, known.value], 2))
    array = jnp.concatenate(parts, 1)
    short = max(2 * l - array.shape[1], 0)
    upper = triangle(jnp.pad(array, ((0, 0), (0, short), (0, 0))), 2 * l)[:, : 2 * l]
    corner, right = upper[:, :l, :l], upper[:, :l, l:]
    inverse = _t(_factors.inverse_triangle(_t(corner)))
    both = inverse @ right
    log_det = jnp.log(jnp.abs(jnp.diagonal(corner, axis1=1, axis2=2))).sum(1)
    rest = upper[:, l:, l:]
    return Turned(both[..., :l], both[..., l:], G @ inverse, log_det, rest[..., :l], rest[..., l:])


def triangle(arrays: Float[Array, "*b m n"], columns: int) -> Float[Array, "*b m n"]:
    """``Q' A``, zero below the diagonal of the first columns: reflections side by side.

    Golub & Van Loan (2013), "Matrix computations", 4th ed., algorithm 5.2.1.
    """
    m = arrays.shape[-2]
    places = np.arange(m)

    def reflect(j: Array, left: Array) -> Array:
        column = jax.lax.dynamic_index_in_dim(left, j, -1, keepdims=False)
        column = jnp.where(places >= j, column, 0.0)
        pivot = jax.lax.dynamic_index_in_dim(column, j, -1)
        norm = jnp.sqrt((column * column).sum(-1, keepdims=True))
        normal = column + jnp.where(places == j, jnp.where(pivot < 0, -norm, norm), 0.0)
        square = norm * (norm + jnp.abs(pivot))
        scaled = normal / jnp.where(square > 0, square, 1.0)
        reflected = left - scaled[..., None] * (normal[..., None, :] @ left)
        own = jnp.arange(left.shape[-1]) == j
        return jnp.where(own & (places > j)[:, None], 0.0, reflected)

    return jax.lax.fori_loop(0, min(columns, m), reflect, arrays)


def _followed(first: tuple[Array, ...], then: tuple[Array, ...]) -> tuple[Array, ...]:
    """Two linear maps with noise, one after the other."""
    (A, b, S), (B, c, T) = first, then
    return B @ A, B @ b + c, B @ S @ _t(B) + T


def _entered(roots: Roots, observed: Observed) -> tuple[Array, Array, Array, Array]:
    """What leads into every row, and what is seen there: ``(A, G, shift, W)``."""
    A, G = jax.vmap(lambda first: entered_by(roots, first))(observed.start)
    shift = entering(roots.chain, observed)[..., None]
    if observed.pattern is None:
        whole = observed.factor(None)
        return A, G, shift, jnp.broadcast_to(whole, (len(A), *whole.shape))
    return A, G, shift, jax.vmap(observed.factor)(observed.pattern)


def _before(leaf: Array) -> Array:
    """Of the row before; zeros before the first."""
    return jnp.concatenate([jnp.zeros_like(leaf[:1]), leaf[:-1]])


def _behind(leaf: Array) -> Array:
    """Of the row after; zeros after the last."""
    return jnp.concatenate([leaf[1:], jnp.zeros_like(leaf[:1])])


def _t(matrices: Array) -> Array:
    return jnp.swapaxes(matrices, -1, -2)
