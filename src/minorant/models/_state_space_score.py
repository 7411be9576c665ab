r"""The log evidence of a state space model with a cheap exact derivative: Fisher's identity.

.. math:: \nabla \log p_\theta(x) = E_{z \mid x, \theta}[\nabla \log p_\theta(x, z)]

One pass of the smoother gives the value and the expected sums that the right side needs; no pass is
taped and run back. The expected log joint is quadratic in the coefficients, about the parameters
that the sums were formed at. Second derivatives are derivatives of this one, the smoother's
included. Where Q or P is singular the states have no joint density: there the filter is
differentiated, step by step; and for few rows, where that takes less time to compile than it saves.

Cappé, Moulines & Rydén (2005), "Inference in hidden Markov models", proposition 10.1.6 (Fisher's
identity); Louis (1982), "Finding the observed information matrix when using the EM algorithm".
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Float

from minorant import _factors
from minorant._parameters import given
from minorant._types import Array, PyTree, Rows
from minorant.models import _state_space_look as look
from minorant.models import _state_space_sums as sums
from minorant.models._state_space_step import First, Regression
from minorant.posteriors._recursion import Sequential

_FEW = 512

Found = tuple[Array, sums.StateSpaceStatistics]


@jax.custom_jvp
def log_evidence(view: look.View, rows: Rows) -> Float[Array, ""]:
    """``sum_t w_t log p(x_t | x_1 .. x_t-1)``; to be differentiated by the parameters alone."""
    return expected(view, rows)[0]


def _score(primals: tuple[look.View, Rows], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    (view, rows), (along, moved) = primals, tangents
    if not all(isinstance(leaf, SymbolicZero) for leaf in jax.tree.leaves(moved, is_leaf=_zero)):
        raise TypeError("Differentiate summed_log_evidence by parameters; log_evidence by rows.")
    along = jax.tree.map(_instantiated, along, is_leaf=_zero)
    if len(rows.values) < _FEW:
        return jax.jvp(lambda moved: _filtered(moved, rows), (view,), (along,))
    value, found = expected(view, rows)

    def by_smoother() -> look.View:
        return jax.grad(lambda moved: expected_log_joint(moved, view, found))(view)

    def by_filter() -> look.View:
        return jax.grad(lambda moved: _filtered(moved, rows))(view)

    roots = [_factors.cholesky(noise) for noise in (view.chain.noise, view.chain.covariance)]
    regular = jnp.isfinite(jax.lax.stop_gradient(jnp.stack(roots))).all()
    # Gradients, not tangents: what a branch keeps for its transpose is kept by the other as well.
    slope = jax.lax.cond(regular, by_smoother, by_filter)
    parts = map(jnp.vdot, jax.tree.leaves(slope), jax.tree.leaves(along))
    return value, sum(parts, start=jnp.zeros_like(value))


log_evidence.defjvp(_score, symbolic_zeros=True)


def expected(view: look.View, rows: Rows) -> Found:
    """The log evidence, and the statistics under the exact posterior."""
    if look.is_parallel(rows, view):
        return _at_once(view, rows)
    return _expected(view, rows)


def _expected(view: look.View, rows: Rows) -> Found:
    found = look.smooth(rows, view, sums.collector(view, rows), False)
    away = look.residual(rows, view, found.mean)
    white = look.whitened(rows, view, away)
    log_p = found.log_term + look.constant(rows, view) - 0.5 * (white * white).sum(1)
    bound = jnp.where(rows.weight > 0, rows.weight * log_p, 0.0).sum()
    return bound, sums.statistics(rows, view, found.mean, given(found.sums))


@jax.custom_jvp
def _at_once(view: look.View, rows: Rows) -> Found:
    """By scans, whose rotations have no derivative where noise is singular."""
    return _expected(view, rows)


@_at_once.defjvp
def _step_by_step(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Found, Found]:
    def slow(view: look.View, rows: Rows) -> Found:
        return _expected(view._replace(recursion=Sequential()), rows)

    return jax.jvp(slow, primals, tangents)


def _filtered(view: look.View, rows: Rows) -> Array:
    """The same by the filter, step by step."""
    log_p = look.log_densities(view, rows)
    return jnp.where(rows.weight > 0, rows.weight * log_p, 0.0).sum()


def expected_log_joint(
    moved: look.View, view: look.View, found: sums.StateSpaceStatistics
) -> Float[Array, ""]:
    """``E[log p(x, z)]`` at moved parameters, by sums formed at the parameters of ``view``.

    Up to a constant. ``E[e e'] - D E[v e'] - E[e v'] D' + D E[v v'] D'`` is what is expected of the
    squared residuals where the coefficients have moved by D.
    """
    at, was = moved.chain, view.chain
    first, transition, observation = found
    led = (at.transition, moved.transition_inputs, moved.transition_offset[:, None])
    began = (was.transition, view.transition_inputs, view.transition_offset[:, None])
    seen = (moved.observation, moved.observation_inputs, moved.observation_offset[:, None])
    stood = (view.observation, view.observation_inputs, view.observation_offset[:, None])
    return (
        _of_first(first, at.mean - was.mean, at.covariance)
        + _of_equation(transition, _difference(led, began), at.noise)
        + _of_equation(observation, _difference(seen, stood), moved.noise)
    )


def _difference(moved: tuple[Array, ...], known: tuple[Array, ...]) -> Float[Array, "q p"]:
    return jnp.concatenate(moved, 1) - jnp.concatenate(known, 1)


def _of_first(first: First, moved: Array, covariance: Array) -> Array:
    outer = moved[:, None] * first.away
    square = first.square - outer - outer.T + first.count * (moved[:, None] * moved)
    return _log_normal(first.count, square, covariance)


def _of_equation(equation: Regression, moved: Array, noise: Array) -> Array:
    twice = moved @ equation.cross
    if noise.ndim == 2:
        square = equation.square - twice - twice.T + moved @ equation.inputs[0] @ moved.T
        return _log_normal(equation.count[0], square, noise)
    own = jnp.diagonal(equation.square) if equation.square.ndim == 2 else equation.square
    inputs = jnp.broadcast_to(equation.inputs, (len(moved), *equation.inputs.shape[1:]))
    bent = jnp.einsum("qp,qpr,qr->q", moved, inputs, moved)
    square = own - 2.0 * jnp.diagonal(twice) + bent
    return -0.5 * (equation.count * jnp.log(noise) + square / noise).sum()


def _log_normal(count: Array, square: Array, covariance: Array) -> Array:
    """Of ``count`` residuals whose squares add up to ``square``."""
    root, inverse = _factors.factored(covariance)
    log_det = 2.0 * jnp.log(jnp.diagonal(root)).sum()
    return -0.5 * (count * log_det + jnp.vdot(inverse @ square, inverse))


def _zero(leaf: PyTree) -> bool:
    return isinstance(leaf, SymbolicZero)


def _instantiated(leaf: Any) -> Array:
    return jnp.zeros(leaf.shape, leaf.dtype) if _zero(leaf) else leaf
