r"""Normal densities of low rank plus diagonal, k stacked: ``N(mean, L L^T + diag(variance))``.

With a latent ``z ~ N(0, I)`` of l dimensions and ``x = mean + L z + noise``, columns are
independent given z. So nothing here is d x d: per row the work is O(d l) where all cells are there,
and O(d l^2) where each row misses its own, because a missing cell only drops a term from

.. math:: M_i = I + \sum_{j \in o_i} L_j L_j^T / v_j, \quad
          E[z \mid x_o] = M_i^{-1} \sum_{j \in o_i} L_j (x_j - m_j) / v_j, \quad
          \mathrm{Cov}[z \mid x_o] = M_i^{-1}.

Squared distances are summed from squares, ``|z|^2 + sum_j (x_j - m_j - L_j z)^2 / v_j`` at the
posterior mean z, not as a difference of two large numbers, so that small noise variances cost no
digits. Rubin & Thayer (1982), "EM algorithms for ML factor analysis", equations 6 to 10; with
parameter expansion, Liu, Rubin & Wu (1998), "Parameter expansion to accelerate EM", section 4.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from minorant import _factors, _linalg
from minorant._parameters import Real, keep
from minorant._types import Array, Rows
from minorant.components import base


@dataclasses.dataclass(frozen=True)
class Rotatable(Real):
    """Loadings (..., d, l): any real numbers, of which rotations of the l factors do not count."""

    def count(self, shape: tuple[int, ...]) -> int:
        """Degrees of freedom: ``d l - l (l - 1) / 2`` for each density."""
        d, l = shape[-2:]
        return int(np.prod(shape[:-2], dtype=int)) * (d * l - l * (l - 1) // 2)


class Factors(eqx.Module):
    """One pass's view of k densities; ``scaled`` is ``L^T / v``, ``matrix`` M of a complete row."""

    mean: Float[Array, "k d"]
    loadings: Float[Array, "k d l"]
    variance: Float[Array, "k d"]
    scaled: Float[Array, "k l d"]
    matrix: Float[Array, "k l l"]


class Latent(NamedTuple):
    """The posterior of z and the squared distance of every row; ``away`` is ``x - mean``.

    ``root`` is the inverse R of M's Cholesky factor, ``M^-1 = R^T R``, one for all rows that miss
    the same cells.
    """

    mean: Float[Array, "k n l"]
    root: Float[Array, "k #n l l"]
    away: Float[Array, "k n d"]
    square: Float[Array, "k n"]


class Sums(NamedTuple):
    """Weighted sums over rows of ``(1, z, z z^T)``, for all rows and by column over seen cells.

    Features of z are packed ``(1, z, vech z z^T)``, f in all, their expectation under the
    posterior; ``cross`` sums ``(x - mean) (1, z)`` and ``square`` the squares, over seen cells.
    """

    features: Float[Array, "k f"]
    seen: Float[Array, "k #d f"]
    cross: Float[Array, "k d g"]
    square: Float[Array, "k d"]


class Held(NamedTuple):
    """Which parameters keep their value; each None, a flag, or flags in leading axes."""

    mean: Any = None
    loadings: Any = None
    variance: Any = None


class Parameters(NamedTuple):
    """Mean, loadings and noise variances of k densities."""

    mean: Float[Array, "k d"]
    loadings: Float[Array, "k d l"]
    variance: Float[Array, "k d"]


def prepare(parameters: Parameters) -> Factors:
    """What a pass needs and is computed once."""
    mean, loadings, variance = parameters
    scaled = jnp.swapaxes(loadings / variance[..., None], 1, 2)
    eye = np.eye(loadings.shape[-1], dtype=loadings.dtype)
    return Factors(mean, loadings, variance, scaled, eye + scaled @ loadings)


def latent(rows: Rows, factors: Factors) -> Latent:
    """The posterior of z for every row under every density."""
    away = rows.values - factors.mean[:, None, :]
    if rows.observed is not None:
        away = jnp.where(rows.observed, away, 0.0)
    root = _factors.factored(_matrices(rows, factors))[1]
    pulled = away @ jnp.swapaxes(factors.scaled, 1, 2)
    mean = solve(root, pulled)
    rest = away - mean @ jnp.swapaxes(factors.loadings, 1, 2)
    if rows.observed is not None:
        rest = jnp.where(rows.observed, rest, 0.0)
    square = (rest * rest / factors.variance[:, None, :]).sum(2) + (mean * mean).sum(2)
    return Latent(mean, root, away, square)


def log_prob(rows: Rows, factors: Factors, found: Latent) -> Float[Array, "k n"]:
    """``log N(x_observed; mean, L L^T + diag(variance))``."""
    log_variance = jnp.log(factors.variance) + _linalg.LOG_TWO_PI
    noise = (
        log_variance.sum(1, keepdims=True) if rows.observed is None else log_variance @ mask(rows).T
    )
    spread = -2.0 * jnp.log(jnp.diagonal(found.root, axis1=-2, axis2=-1)).sum(-1)
    return -0.5 * (found.square + noise + spread)


def sums(rows: Rows, responsibilities: Float[Array, "k n"], found: Latent) -> Sums:
    """What :func:`regressed` takes; weights are in the responsibilities."""
    r = responsibilities
    features = _features(found)
    weighted = r[:, :, None] * features
    total = weighted.sum(1)
    l = found.mean.shape[-1]
    cross = jnp.swapaxes(r[:, :, None] * found.away, 1, 2) @ features[:, :, : l + 1]
    square = jnp.einsum("kn,knd->kd", r, found.away * found.away)
    seen = total[:, None, :] if rows.observed is None else mask(rows).T @ weighted
    return Sums(total, seen, cross, square)


def from_moments(
    factors: Factors,
    count: Float[Array, " k"],
    first: Float[Array, "k d"],
    second: Float[Array, "k d d"],
) -> Sums:
    """The sums of complete rows from their moments about the mean alone: z is linear in x."""
    matrix = factors.matrix
    root = _factors.factored(matrix)[1]
    cross = jnp.swapaxes(solve(root, jnp.swapaxes(factors.scaled @ second, 1, 2)), 1, 2)
    z = solve(root, (factors.scaled @ first[..., None])[..., 0][:, None, :])[:, 0]
    squares = solve(root, cross @ jnp.swapaxes(factors.scaled, 1, 2))
    squares = squares + count[:, None, None] * jnp.swapaxes(root, 1, 2) @ root
    total = jnp.concatenate([count[:, None], z, _linalg.vech(squares)], axis=1)
    crossed = jnp.concatenate([first[..., None], jnp.swapaxes(cross, 1, 2)], axis=2)
    return Sums(total, total[:, None, :], crossed, jnp.diagonal(second, axis1=1, axis2=2))


def regressed(old: Parameters, found: Sums, held: Held | None = None) -> Parameters:
    """The M-step: each column regressed on ``(1, z)``, then z brought back to ``N(0, I)``.

    Nothing held: the expanded model ``z ~ N(a, R)`` is fitted and its a and R folded into mean and
    loadings, which never climbs less. Columns without a seen cell, and densities without a row,
    keep what they were.
    """
    held = held or Held()
    moves = held.mean is None and held.loadings is None
    gram = _square(found.seen, old.loadings.shape[-1])
    count = found.seen[..., 0]
    empty = count <= 10 * jnp.finfo(count.dtype).tiny
    current = jnp.concatenate([jnp.zeros_like(old.mean)[..., None], old.loadings], axis=2)
    if moves:
        new = _solved(gram, found.cross, current, empty)
    else:
        new = _solved_partly(gram, found.cross, current, _flags(held, old) | empty[..., None])
    variance = _rest(gram, found, new) / base.safe_count(count)
    mean, loadings = old.mean + new[..., 0], new[..., 1:]
    if moves:
        mean, loadings = _unexpanded(mean, loadings, found.features)
    rows = found.features[:, 0]
    return Parameters(
        base.keep_if_empty(rows, old.mean, keep(held.mean, old.mean, mean)),
        base.keep_if_empty(rows, old.loadings, keep(held.loadings, old.loadings, loadings)),
        keep(held.variance, old.variance, jnp.where(empty, old.variance, variance)),
    )


def pooled(variance: Float[Array, "k d"], found: Sums) -> Float[Array, "k d"]:
    """One variance for all columns of a density: their mean, weighted by the seen cells."""
    count = jnp.broadcast_to(found.seen[..., 0], variance.shape)
    total = count.sum(1, keepdims=True)
    mean = (count * variance).sum(1, keepdims=True) / base.safe_count(total)
    return jnp.broadcast_to(base.keep_if_empty(total[:, 0], variance[:, :1], mean), variance.shape)


def expected(parameters: Parameters, centre: Float[Array, "k d"], found: Sums) -> Array:
    """``E[log p(x, z)]`` summed with the rows' weights (k,), what :func:`regressed` maximises.

    ``centre`` are the means that ``found`` was gathered about.
    """
    l = parameters.loadings.shape[-1]
    shift = (parameters.mean - centre)[..., None]
    coefficients = jnp.concatenate([shift, parameters.loadings], axis=2)
    rest = _rest(_square(found.seen, l), found, coefficients)
    count = jnp.broadcast_to(found.seen[..., 0], rest.shape)
    log_variance = jnp.log(parameters.variance) + _linalg.LOG_TWO_PI
    latents = jnp.trace(_square(found.features[:, None], l)[:, 0, 1:, 1:], axis1=1, axis2=2)
    return -0.5 * ((count * log_variance + rest / parameters.variance).sum(1) + latents)


def solve(root: Float[Array, "k #n l l"], right: Float[Array, "k n l"]) -> Array:
    """``M^-1 b`` for every row."""
    if root.ndim == 3 or root.shape[1] == 1:
        one = root.reshape(len(root), *root.shape[-2:])
        return (right @ jnp.swapaxes(one, 1, 2)) @ one
    half = (root * right[..., None, :]).sum(-1)
    return (root * half[..., None]).sum(-2)


def covariance(found: Latent) -> Float[Array, "k #n l l"]:
    """``Cov[z | x]``."""
    return jnp.swapaxes(found.root, -1, -2) @ found.root


def uncertain(root: Float[Array, "k #n l l"], draws: Float[Array, "n l"]) -> Float[Array, "k n l"]:
    """Draws with covariance ``M^-1`` from standard normal ones."""
    return (root * draws[:, :, None]).sum(-2)


def canonical(loadings: Float[Array, "d l"], variance: Float[Array, " d"]) -> Float[Array, "d l"]:
    """The rotation with ``L^T V^-1 L`` diagonal and decreasing, each factor's sum positive."""
    xp = np if isinstance(loadings, np.ndarray) else jnp
    _, vectors = xp.linalg.eigh(loadings.T @ (loadings / variance[:, None]))
    return signed(loadings @ vectors[:, ::-1])


def signed(columns: Float[Array, "d l"]) -> Float[Array, "d l"]:
    """Columns with their sums made positive."""
    xp = np if isinstance(columns, np.ndarray) else jnp
    return columns * xp.where(columns.sum(0) < 0, -1.0, 1.0)


def mask(rows: Rows) -> Float[Array, "n d"]:
    """1 where a cell is seen, 0 where it is missing."""
    observed = True if rows.observed is None else rows.observed
    return jnp.broadcast_to(observed, rows.values.shape).astype(rows.values.dtype)


def _matrices(rows: Rows, factors: Factors) -> Float[Array, "k #n l l"]:
    """M of every row; one where rows miss the same cells."""
    if rows.observed is None:
        return factors.matrix[:, None]
    seen = rows.observed.astype(rows.values.dtype)
    first, second = _linalg.pairs(factors.loadings.shape[-1])
    products = jnp.swapaxes(factors.loadings, 1, 2)[:, first] * factors.scaled[:, second]
    packed = seen @ jnp.swapaxes(products, 1, 2)
    eye = np.eye(factors.loadings.shape[-1], dtype=rows.values.dtype)
    return eye + _linalg.unvech(packed, len(eye))


def _features(found: Latent) -> Float[Array, "k n f"]:
    """``(1, E z, vech E[z z^T])``."""
    first, second = _linalg.pairs(found.mean.shape[-1])
    squares = found.mean[..., first] * found.mean[..., second] + _linalg.vech(covariance(found))
    one = jnp.ones((*found.mean.shape[:2], 1), found.mean.dtype)
    return jnp.concatenate([one, found.mean, squares], axis=2)


def _square(features: Float[Array, "*batch f"], l: int) -> Float[Array, "*batch g g"]:
    """Packed features as the matrices ``sum (1, z) (1, z)^T``."""
    squares = _linalg.unvech(features[..., l + 1 :], l)
    top = features[..., None, 1 : l + 1]
    lower = jnp.concatenate([features[..., 1 : l + 1, None], squares], axis=-1)
    return jnp.concatenate(
        [jnp.concatenate([features[..., :1, None], top], axis=-1), lower], axis=-2
    )


def _solved(gram: Array, cross: Array, current: Array, empty: Array) -> Float[Array, "k d g"]:
    """Coefficients of each column's regression; one factor serves columns seen alike."""
    eye = np.eye(cross.shape[-1], dtype=cross.dtype)
    root = _factors.factored(jnp.where(empty[..., None, None], eye, gram))[1]
    return jnp.where(empty[..., None], current, solve(root, cross))


def _solved_partly(
    gram: Array, cross: Array, current: Array, fixed: Array
) -> Float[Array, "k d g"]:
    """Coefficients of each column's regression, those that are fixed at their current value."""
    value = jnp.where(fixed, current, 0.0)
    pull = jnp.where(fixed, 0.0, cross - _times(gram, value))
    both = ~fixed[..., :, None] & ~fixed[..., None, :]
    eye = np.eye(cross.shape[-1], dtype=cross.dtype)
    root = _factors.factored(jnp.where(both, gram, eye))[1]
    return jnp.where(fixed, current, solve(root, pull))


def _rest(gram: Array, found: Sums, coefficients: Array) -> Float[Array, "k d"]:
    """Sums of squares about the regression: ``square - 2 b c + c A c``, at least 0."""
    slope = _times(gram, coefficients) - 2.0 * found.cross
    return jnp.maximum(found.square + (slope * coefficients).sum(-1), 0.0)


def _times(gram: Float[Array, "k #d g g"], vectors: Float[Array, "k d g"]) -> Array:
    if gram.shape[1] == 1:
        return vectors @ gram[:, 0]
    return jnp.einsum("kdgh,kdh->kdg", gram, vectors)


def _unexpanded(mean: Array, loadings: Array, features: Array) -> tuple[Array, Array]:
    """Mean and loadings for ``z ~ N(0, I)`` from those for ``z ~ N(a, R)``."""
    l = loadings.shape[-1]
    moments = features[:, 1:] / base.safe_count(features[:, :1])
    centre = moments[:, :l]
    spread = _linalg.unvech(moments[:, l:], l) - centre[:, :, None] * centre[:, None, :]
    sound = features[:, 0, None, None] > 10 * jnp.finfo(features.dtype).tiny
    spread = jnp.where(sound, spread, np.eye(l, dtype=spread.dtype))
    moved = mean + jnp.einsum("kdl,kl->kd", loadings, centre)
    return moved, loadings @ _factors.cholesky(spread)


def _flags(held: Held, old: Parameters) -> Array:
    """Which coefficients (k, d, 1 + l) are held."""
    mean, loadings = _spread(held.mean, old.mean), _spread(held.loadings, old.loadings)
    return jnp.concatenate([mean[..., None], loadings], axis=2)


def _spread(fixed: Any, like: Array) -> Array:
    """A mask in leading axes, spread over all of the array's."""
    flags = jnp.asarray(False if fixed is None else fixed)
    flags = flags.reshape(flags.shape + (1,) * (like.ndim - flags.ndim))
    return jnp.broadcast_to(flags, like.shape)
