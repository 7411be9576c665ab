"""What a state space model's M-step is told of a block: sums of residuals and of their spread."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from minorant._types import Array, Key, PyTree, Rows
from minorant.models import _state_space_look as look
from minorant.models._state_space_step import First, Regression
from minorant.posteriors.kalman import Collect, Sums, nothing


class StateSpaceStatistics(NamedTuple):
    """Sums for the first state, the transition and the observation, about the parameters."""

    first: First
    transition: Regression
    observation: Regression


def statistics(
    rows: Rows, view: look.View, mean: Float[Array, "n l"], sums: Sums
) -> StateSpaceStatistics:
    """The sums of a block whose states have these means and sums of covariances."""
    known = look.inputs(rows, view)
    known = jnp.zeros((len(mean), 0), mean.dtype) if known is None else known
    side = jnp.concatenate([known, jnp.ones((len(mean), 1), mean.dtype)], 1)
    starts = look.starts(rows)
    weight = jnp.where(starts, rows.weight, 0.0)
    away = mean - view.chain.mean
    first = First(weight.sum(), weight @ away, (weight[:, None] * away).T @ away + sums.first)
    transition = _transition(rows, view, mean, side, sums)
    seen = _complete if rows.observed is None else _cells if view.independent else _patterns
    return StateSpaceStatistics(first, transition, seen(rows, view, mean, side, sums))


def _transition(rows: Rows, view: look.View, mean: Array, side: Array, sums: Sums) -> Regression:
    entered = jnp.where(look.starts(rows), 0.0, rows.weight)
    before = jnp.concatenate([jnp.zeros_like(mean[:1]), mean[:-1]])
    away = mean - before @ view.chain.transition.T - look.shift(rows, view)
    inputs = jnp.concatenate([before, side], 1)
    return Regression(
        entered.sum()[None],
        (entered[:, None] * away).T @ away + sums.moved,
        _on_states(inputs.T @ (entered[:, None] * away), sums.cross.T),
        _in_corner((entered[:, None] * inputs).T @ inputs, sums.before)[None],
    )


def _complete(rows: Rows, view: look.View, mean: Array, side: Array, sums: Sums) -> Regression:
    """Every cell is there."""
    C, away = view.observation, look.residual(rows, view, mean)
    inputs = jnp.concatenate([mean, side], 1)
    weighted = rows.weight[:, None] * away
    spread = C @ sums.all
    if view.independent:
        square = (weighted * away).sum(0) + (spread * C).sum(1)
    else:
        square = weighted.T @ away + spread @ C.T
    return Regression(
        rows.weight.sum()[None],
        square,
        _on_states(inputs.T @ weighted, -spread.T),
        _in_corner((rows.weight[:, None] * inputs).T @ inputs, sums.all)[None],
    )


def _cells(rows: Rows, view: look.View, mean: Array, side: Array, sums: Sums) -> Regression:
    """Independent noises: each column by the rows in which it is there."""
    C, away = view.observation, look.residual(rows, view, mean)
    inputs = jnp.concatenate([mean, side], 1)
    weight = rows.weight[:, None] * look.mask(rows)
    spreads = sums.extra + sums.mass * sums.settled
    spread = jnp.einsum("dij,dj->di", spreads, C)
    products = (inputs[:, :, None] * inputs[:, None, :]).reshape(len(mean), -1)
    square = (weight.T @ products).reshape(-1, inputs.shape[1], inputs.shape[1])
    return Regression(
        weight.sum(0),
        (weight * away * away).sum(0) + (spread * C).sum(1),
        _on_states(inputs.T @ (weight * away), -spread.T),
        jax.vmap(_in_corner)(square, spreads),
    )


def _patterns(rows: Rows, view: look.View, mean: Array, side: Array, sums: Sums) -> Regression:
    """Correlated noises: missing cells of a row completed from those that are there."""
    C, mask = view.observation, look.mask(rows)
    weight = rows.weight * mask.any(1)
    away = jax.vmap(lambda o, a: look.completion(view, o)[0] @ a)(
        mask, look.residual(rows, view, mean)
    )
    inputs = jnp.concatenate([mean, side], 1)
    weighted = weight[:, None] * away
    limit = C @ sums.settled
    spread, moved, square = sums.extra
    return Regression(
        weight.sum()[None],
        weighted.T @ away + square + sums.mass * (limit @ C.T),
        _on_states(inputs.T @ weighted, (moved - sums.mass * limit).T),
        _in_corner((weight[:, None] * inputs).T @ inputs, spread + sums.mass * sums.settled)[None],
    )


def collector(view: look.View, rows: Rows) -> Collect:
    """What the smoother adds up of covariances beyond its own sums."""
    if rows.observed is None:
        return nothing
    if view.independent:
        return _column_spreads

    def patterns(mask: Array, weight: Array, covariance: Array) -> PyTree:
        def one(o: Array, w: Array, V: Array) -> tuple[Array, Array, Array]:
            weights, rest = look.completion(view, o)
            back = -weights @ jnp.where(o[:, None], view.observation, 0.0)
            w = w * o.any()
            return w * V, w * (back @ V), w * (back @ V @ back.T + rest)

        return jax.tree.map(lambda leaf: leaf.sum(0), jax.vmap(one)(mask, weight, covariance))

    return patterns


def _column_spreads(mask: Array, weight: Array, covariance: Array) -> Float[Array, "d l l"]:
    """``sum w o_j V`` of every column."""
    l = covariance.shape[1]
    return ((weight[:, None] * mask).T @ covariance.reshape(-1, l * l)).reshape(-1, l, l)


def completed(
    rows: Rows, view: look.View, states: Float[Array, "n l"], key: Key | None
) -> Float[Array, "n d"]:
    """The rows with missing cells filled given the states: by their mean, or a draw."""
    if rows.observed is None:
        return rows.values
    filled = look.expected(rows, view, states)
    away, noise = look.residual(rows, view, states), 0.0
    if key is not None:
        drawn = jax.random.normal(key, filled.shape, filled.dtype)
        noise = drawn * view.root if view.independent else drawn @ view.root.T
    if not view.independent:
        mask = look.mask(rows)
        away = away - jnp.where(mask, noise, 0.0)
        filled = filled + jax.vmap(lambda o, a: look.completion(view, o)[0] @ a)(mask, away)
    return jnp.where(rows.observed, rows.values, filled + noise)


def _on_states(cross: Float[Array, "p q"], more: Float[Array, "l q"]) -> Float[Array, "p q"]:
    return jnp.asarray(cross).at[: len(more)].add(more)


def _in_corner(square: Float[Array, "p p"], more: Float[Array, "l l"]) -> Float[Array, "p p"]:
    return jnp.asarray(square).at[: len(more), : len(more)].add(more)
