"""How a linear Gaussian state space model looks at a block of rows: residuals, roots, smoother.

Residuals are divided by a root of the observation noise before the chain sees them; a missing cell
is then a zero, in the residual and in the row of ``C`` that belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from minorant import _factors
from minorant._factors import solve_triangular
from minorant._linalg import LOG_TWO_PI
from minorant._types import Array, PyTree, Rows
from minorant.posteriors._kalman_filter import Chain, Filtered, Observed, filtered
from minorant.posteriors._kalman_lanes import filtered_in_lanes, fits
from minorant.posteriors._kalman_parallel import filtered_in_parallel, smoothed_in_parallel
from minorant.posteriors._kalman_steady import smoothed_long
from minorant.posteriors._recursion import AbstractRecursion, ByDevice
from minorant.posteriors.kalman import Collect, Smoothed, smoothed

_LONG = 1024
_MOST_ABREAST = 16  # cells of a row, above which their matrices are factored one by one
_ABREAST_CELLS = 1 << 22


class View(NamedTuple):
    """A model's parameters for one pass; ``root`` is of the noise, (d,) or (d, d) triangular.

    ``recursion`` says how the pass goes through time.
    """

    chain: Chain
    transition_inputs: Float[Array, "l m"]
    transition_offset: Float[Array, " l"]
    observation: Float[Array, "d l"]
    observation_inputs: Float[Array, "d m"]
    observation_offset: Float[Array, " d"]
    noise: Float[Array, "d *d"]
    root: Float[Array, "d *d"]
    recursion: AbstractRecursion = ByDevice()  # noqa: RUF009

    @property
    def independent(self) -> bool:
        """Whether the noises of the cells of a row are independent."""
        return self.noise.ndim == 1


def starts(rows: Rows) -> Bool[Array, " n"]:
    """The first row of every group; rows without groups are one."""
    if rows.groups is not None:
        return jnp.asarray(rows.groups.start)
    return jnp.arange(len(rows.values)) == 0


def inputs(rows: Rows, view: View) -> Float[Array, "n m"] | None:
    """The inputs, or None where the model has none."""
    return known_inputs(rows, view.observation_inputs.shape[1])


def known_inputs(rows: Rows, wanted: int) -> Float[Array, "n m"] | None:
    """The inputs, or None where none are wanted.

    Raises:
        ValueError: when there are more or fewer.
    """
    found = 0 if rows.inputs is None else rows.inputs.shape[1]
    if wanted != found:
        raise ValueError(
            f"inputs must have one column for each of the model's n_inputs={wanted}; got {found}."
        )
    return rows.inputs if wanted else None


def shift(rows: Rows, view: View) -> Float[Array, "*n l"]:
    """What enters the states: ``b``, or ``B u + b`` and the first state's mean at first rows."""
    known = inputs(rows, view)
    if known is None:
        return view.transition_offset
    moved = known @ view.transition_inputs.T + view.transition_offset
    return jnp.where(starts(rows)[:, None], view.chain.mean, moved)


def expected(rows: Rows, view: View, states: Float[Array, "n l"]) -> Float[Array, "n d"]:
    """``C z + D u + c``."""
    known = inputs(rows, view)
    mean = states @ view.observation.T + view.observation_offset
    return mean if known is None else mean + known @ view.observation_inputs.T


def residual(rows: Rows, view: View, states: Float[Array, "n l"]) -> Float[Array, "n d"]:
    """``x - C z - D u - c``, 0 where missing."""
    away = rows.values - expected(rows, view, states)
    return away if rows.observed is None else jnp.where(rows.observed, away, 0.0)


def whitened(rows: Rows, view: View, away: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Residuals divided by the root of their noise."""
    if view.independent:
        return away / view.root
    if rows.observed is None:
        return solve_triangular(view.root, away.T, lower=True).T
    return jax.vmap(lambda o, a: _solved(_seen_root(view, o), a))(mask(rows), away)


def constant(rows: Rows, view: View) -> Float[Array, "#n"]:
    """``-(log|R| + count log(2 pi)) / 2`` over the observed cells."""
    if rows.observed is None:
        log_root = jnp.log(view.root if view.independent else jnp.diagonal(view.root)).sum()
        return -(log_root + 0.5 * view.noise.shape[0] * LOG_TWO_PI)[None]
    if view.independent:
        return -(rows.observed @ (jnp.log(view.root) + 0.5 * LOG_TWO_PI))
    roots = jax.vmap(lambda o: _seen_root(view, o))(mask(rows))
    log_root = jnp.log(jnp.diagonal(roots, axis1=1, axis2=2)).sum(1)
    return -log_root - 0.5 * LOG_TWO_PI * rows.observed.sum(1)


def factor(view: View) -> Callable[[PyTree], Float[Array, "d l"]]:
    """(mask of one row, or None) to C over the root of the noise, zero where missing."""
    C = view.observation
    if view.independent:
        whole = C / view.root[:, None]
        return lambda o: whole if o is None else jnp.where(o[:, None], whole, 0.0)
    whole = solve_triangular(view.root, C, lower=True)
    return lambda o: (
        whole if o is None else _solved(_seen_root(view, o), jnp.where(o[:, None], C, 0.0))
    )


def observe(rows: Rows, view: View) -> Observed:
    """The rows as the chain sees them."""
    nowhere = jnp.zeros((1, len(view.chain.mean)), rows.values.dtype)
    value = whitened(rows, view, residual(rows, view, nowhere))
    there = None if rows.observed is None else mask(rows)
    complete = None if there is None else jnp.asarray(there).all(1)
    seen = factor(view)
    return Observed(starts(rows), rows.weight, shift(rows, view), value, there, seen, complete)


def log_joint(rows: Rows, view: View, latents: Float[Array, "n l"]) -> Float[Array, " n"]:
    """``log p(z_t | z_t-1) + log p(x_t | z_t)`` of every row."""
    chain = view.chain
    before = jnp.concatenate([latents[:1], latents[:-1]])
    moved = latents - before @ chain.transition.T - shift(rows, view)
    first = _log_normal(latents - chain.mean, chain.covariance)
    prior = jnp.where(starts(rows), first, _log_normal(moved, chain.noise))
    away = whitened(rows, view, residual(rows, view, latents))
    return prior + constant(rows, view) - 0.5 * (away * away).sum(1)


def _log_normal(away: Float[Array, "n l"], covariance: Float[Array, "l l"]) -> Float[Array, " n"]:
    root = _factors.cholesky(covariance)
    white = solve_triangular(root, away.T)
    log_root = jnp.log(jnp.diagonal(root)).sum() + 0.5 * len(covariance) * LOG_TWO_PI
    return -0.5 * (white * white).sum(0) - log_root


def is_parallel(rows: Rows, view: View) -> bool:
    """Whether these rows are taken all at once, by a scan."""
    n, length = len(rows.values), None if rows.groups is None else rows.groups.length
    return view.recursion.is_parallel(length or n, n * len(view.chain.mean) ** 2)


def filter_rows(
    rows: Rows, view: View, keep: Callable[[Filtered], Any] = lambda found: found
) -> Any:
    """``keep`` of what the filter finds; not to be differentiated."""
    observed, n, (d, l) = observe(rows, view), len(rows.values), view.observation.shape
    if is_parallel(rows, view):
        return keep(filtered_in_parallel(view.chain, observed))

    def step_by_step() -> Any:
        return keep(filtered(view.chain, observed))

    if rows.values.dtype != jnp.float64 or d > _MOST_ABREAST or n < _LONG or not fits(n, l):
        return step_by_step()
    found, sound = filtered_in_lanes(view.chain, observed, keep)
    return jax.lax.cond(sound, lambda: found, step_by_step)


@jax.custom_jvp
def log_densities(view: View, rows: Rows) -> Float[Array, " n"]:
    """``log p(x_t | x_1 .. x_t-1)``, its derivatives step by step."""
    return filter_rows(rows, view, lambda found: found.log_density) + constant(rows, view)


@log_densities.defjvp
def _densities_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    return jax.jvp(_log_densities, primals, tangents)


def _log_densities(view: View, rows: Rows) -> Float[Array, " n"]:
    return filtered(view.chain, observe(rows, view)).log_density + constant(rows, view)


def smooth(rows: Rows, view: View, collect: Collect, record: bool) -> Smoothed:
    """The smoother in the form that suits the groups: at once, abreast, long, or row by row."""
    observed = observe(rows, view)
    if is_parallel(rows, view):
        return smoothed_in_parallel(view.chain, observed, collect, record)
    length = None if rows.groups is None else rows.groups.length
    if length is not None and length < _LONG:
        return _abreast(length, view.chain, observed, collect, record)
    if len(rows.values) >= _LONG:
        return smoothed_long(view.chain, observed, collect, record)
    return smoothed(view.chain, observed, collect, record)


def _abreast(
    length: int, chain: Chain, observed: Observed, collect: Collect, record: bool
) -> Smoothed:
    """Groups of one length advance together; as many at a time as memory allows."""

    def one(parts: Any) -> Smoothed:
        start, weight, offset, value, pattern, complete = parts
        offset = observed.offset if offset is None else offset
        part = Observed(start, weight, offset, value, pattern, observed.factor, complete)
        return smoothed(chain, part, collect, record)

    constant_shift = observed.offset.ndim == 1
    parts = (
        observed.start,
        observed.weight,
        None if constant_shift else observed.offset,
        observed.value,
        observed.pattern,
        observed.complete,
    )
    parts = jax.tree.map(lambda leaf: leaf.reshape(-1, length, *leaf.shape[1:]), parts)
    groups, l = len(parts[0]), len(chain.mean)
    most = max(_ABREAST_CELLS // (length * l * l), 1)
    found = jax.vmap(one)(parts) if groups <= most else jax.lax.map(one, parts, batch_size=most)
    sums = jax.tree.map(lambda leaf: leaf.sum(0), found.sums)
    by_row = (found.mean, found.log_term, found.covariances)
    by_row = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), by_row)
    return Smoothed(by_row[0], by_row[1], sums, by_row[2])


def completion(view: View, observed: Bool[Array, " d"]) -> tuple[Array, Array]:
    """``(H, K)``: given z, what is missing of a residual is ``H`` times what is seen, plus N(0, K).

    ``H = R_{.o} R_oo^-1`` (the identity where seen), ``K = R - H R_{o.}``.
    """
    between = jnp.where(observed, view.noise, 0.0)
    root = _seen_root(view, observed)
    half = solve_triangular(root, between.T, lower=True)
    weights = solve_triangular(root.T, half, lower=False).T
    return jnp.where(observed, weights, 0.0), view.noise - half.T @ half


def mask(rows: Rows) -> Bool[Array, "n d"]:
    """Which cells are there."""
    if rows.observed is None:
        return jnp.ones(rows.values.shape, bool)
    return jnp.broadcast_to(jnp.asarray(rows.observed), rows.values.shape)


def _seen_root(view: View, observed: Array) -> Array:
    both = observed[:, None] & observed
    eye = jnp.eye(len(observed), dtype=view.noise.dtype)
    return _factors.cholesky(jnp.where(both, view.noise, eye))


def _solved(root: Array, right: Array) -> Array:
    return solve_triangular(root, right, lower=True)
