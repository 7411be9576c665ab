r"""Standard errors of parameters, from the curvature of the exact evidence at the fit.

With ``l(v)`` the log evidence plus log prior in free coordinates v and ``I = -l''`` (the observed
information), natural parameters ``g(v)`` have the covariance ``J I^-1 J'`` with ``J = g'`` (the
delta method). The sandwich ``I^-1 S I^-1``, S the sum of squared scores of rows (of groups, for
models of groups), stays right when the model is wrong. The free coordinates may be redundant: a
direction that moves no natural parameter is left out; a parameter moved by a direction that the
evidence does not feel is not identified and gets NaN.

Efron & Hinkley (1978), "Assessing the accuracy of the maximum likelihood estimator"; White (1982),
"Maximum likelihood estimation of misspecified models", theorem 3.2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from minorant import _config
from minorant._parameters import leaf_constraints, to_vector
from minorant._types import Array, PyTree, Rows
from minorant.data.arrays import ArraySource
from minorant.evidence.scoring import each_checked, in_blocks
from minorant.models.base import AbstractExactModel
from minorant.preparation import climbed_blocks
from minorant.result import Fit, StandardErrors
from minorant.solvers.base import model_at

_COLUMNS_AT_ONCE = 8
_STEP = 1e-5
_NULL = 1e-9
_TOUCHED = 1e-4


def standard_errors(  # noqa: PLR0913
    fit: Fit,
    X: Any,  # noqa: N803
    weights: Any = None,
    groups: Any = None,
    inputs: Any = None,
    robust: bool = False,
) -> StandardErrors:
    r"""Standard errors of every parameter of a fit, in the data's units.

    .. math:: \widehat{\mathrm{Var}}(g(\hat v)) = J\, I^{-1} J^\top

    Args:
        fit: what ``minorant.fit`` returned.
        X: (n, d) the table it was fitted to; or rows out of memory, as in
            :func:`minorant.evidence.posterior`, with their weights.
        weights: (n,) the same weights; an integer weight counts as that many rows.
        groups: (n,) the same groups.
        inputs: (n, m) the same inputs.
        robust: the sandwich, which does not trust the model's form.

    Returns:
        ``model``: the model's shape with a standard error in each parameter's place, NaN where it
        is not identified or sits at the edge of its range, 0 where it was fixed or the model's
        structure leaves nothing to learn (a transition that is not allowed); ``table()`` lists
        those learned beside the estimates; ``sentence`` says what could not be had.

    Raises:
        ValueError: for a table the fit cannot describe.
        TypeError: where parameters are integrated out, or a bound was climbed.

    Example:
        >>> import numpy as np, minorant
        >>> rows = np.tile([1.0, 3.0], 50)[:, None]
        >>> model = minorant.Mixture(minorant.components.Gaussian(), n_components=1)
        >>> errors = minorant.fit(model, rows).standard_errors(rows)
        >>> round(float(errors.model.component.mean[0, 0]), 4)
        0.1

    Not for parameters at the edge of their range (a weight of 0, a variance on its floor), where
    the likelihood is not quadratic.
    """
    _check_parameters(fit)
    _config.enable_compilation_cache()
    dtype = np.dtype(fit.dtype)
    information, spread = [], []
    with _config.precision(dtype):
        vector = np.asarray(_vector(fit.standardised))
        for table in each_checked(fit, X, weights, groups, inputs):
            source, _ = climbed_blocks(fit.standardised, table, fit.units, dtype)
            prior = np.asarray(not information, dtype)  # which belongs to all chunks: once
            found = _curvature(fit.standardised, fit.fixed, source, vector, prior)
            information.append(-np.asarray(found, float))
            if robust:
                rows = in_blocks(fit, table).source
                found = _scores(fit.standardised, fit.fixed, rows, vector)
                spread.append(np.asarray(found, float))
    return _mapped(fit, vector, np.sum(information, 0), np.sum(spread, 0) if robust else None)


def _check_parameters(fit: Fit) -> None:
    if fit.model.integrates_parameters():
        raise TypeError(
            f"{type(fit.model).__name__} has no parameters whose errors could be told: q, which "
            "fit.model holds, is their whole distribution."
        )
    if fit.model.is_bounded():
        raise TypeError(
            f"The fit of {type(fit.model).__name__} climbed a bound, whose curvature with q held "
            "says more than the data do: errors would be too small. Fit a latent of up to three "
            "normal dimensions without posterior=, or resample the rows and fit again."
        )


def _mapped(
    fit: Fit, vector: np.ndarray, information: np.ndarray, spread: np.ndarray | None
) -> StandardErrors:
    slopes = _slopes(fit, vector)
    inverse, null, sound = _inverted(information, _NULL if fit.dtype == "float64" else 1e-4)
    covariance = inverse if spread is None else inverse @ spread @ inverse
    variance = np.einsum("ip,pq,iq->i", slopes, covariance, slopes)
    length = np.linalg.norm(slopes, axis=1)
    loose = np.linalg.norm(slopes @ null, axis=1) > _TOUCHED * np.where(length > 0, length, 1.0)
    held = _held(fit)
    errors = np.sqrt(np.where(variance >= 0, variance, np.nan))
    errors = np.where(held, 0.0, np.where(loose | (length == 0), np.nan, errors))
    return StandardErrors(
        model=_as_model(fit, errors),
        estimate=fit.model,
        covariance=covariance,
        robust=spread is not None,
        sentence=_sentence(fit, np.isnan(errors), loose & ~held, sound),
    )


def _sentence(fit: Fit, missing: np.ndarray, loose: np.ndarray, sound: bool) -> str:
    said = []
    if not sound:
        said.append(
            "The evidence curves upwards in some direction, so this is no maximum: climb on "
            "(minorant.resume) before using the errors."
        )
    if loose.any():
        said.append(
            f"{int(loose.sum())} parameters are not identified (the evidence does not change along "
            "a direction that moves them): NaN."
        )
    if (missing & ~loose).any():
        edge = int((missing & ~loose).sum())
        said.append(f"{edge} parameters sit at the edge of their range: NaN.")
    if not fit.outcome.ok:
        said.append(f"The climb had not ended at an optimum ({fit.outcome.name}).")
    return " ".join(said) or "Every parameter is identified."


def _inverted(information: np.ndarray, null: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """Pseudo-inverse, the directions left out, and whether all others curve downwards."""
    diagonal = np.abs(np.diag(information))
    scale = (
        np.where(diagonal > null * max(diagonal.max(initial=0.0), 1e-300), diagonal, 1.0) ** -0.5
    )
    values, vectors = np.linalg.eigh(scale[:, None] * 0.5 * (information + information.T) * scale)
    top = max(np.abs(values).max(initial=0.0), 1e-300)
    flat = np.abs(values) <= null * top
    kept = vectors[:, ~flat] / values[~flat]
    inverse = scale[:, None] * (kept @ vectors[:, ~flat].T) * scale
    directions = scale[:, None] * vectors[:, flat]
    directions /= np.maximum(np.linalg.norm(directions, axis=0), 1e-300)
    return inverse, directions, bool((values >= -null * top).all())


def _slopes(fit: Fit, vector: np.ndarray) -> Float[np.ndarray, "g p"]:
    """How every natural parameter moves with every free coordinate, by central differences."""
    wide = vector.astype(float)
    columns = []
    for j in range(len(wide)):
        step = np.zeros_like(wide)
        step[j] = _STEP * max(1.0, abs(wide[j]) if abs(wide[j]) < 50 else 1.0)
        ahead, behind = (_natural(fit, wide + s) for s in (step, -step))
        columns.append((ahead - behind) / (2 * step[j]))
    return np.stack(columns, axis=1)


def _natural(fit: Fit, vector: np.ndarray) -> Float[np.ndarray, " g"]:
    """All leaves of the model at a point, in the data's units, one after the other."""
    template = jax.tree.map(lambda leaf: np.asarray(leaf, dtype=float), fit.standardised)
    model = model_at(template, vector, fit.fixed)
    model = model.rescaled(fit.units.inverse())
    return np.concatenate([np.asarray(leaf, float).ravel() for leaf in jax.tree.leaves(model)])


def _held(fit: Fit) -> np.ndarray:
    """Which entries were fixed, or are no parameters at all."""
    leaves = jax.tree.leaves(fit.standardised)
    fixed = [False] * len(leaves) if fit.fixed is None else jax.tree.leaves(fit.fixed)
    parts = []
    for leaf, constraint, mask in zip(
        leaves, leaf_constraints(fit.standardised), fixed, strict=True
    ):
        held = np.asarray(mask)
        held = held.reshape(held.shape + (1,) * (np.ndim(leaf) - held.ndim))
        parts.append((held | _constants(constraint, np.shape(leaf))).ravel())
    return np.concatenate(parts)


def _constants(constraint: Any, shape: tuple[int, ...]) -> Bool[np.ndarray, "..."]:
    """Which entries the structure fixes: they are the same wherever the free coordinates are."""
    if constraint is None or constraint.count(shape) == 0:
        return np.ones(shape, dtype=bool)
    points = np.random.default_rng(0).normal(size=(3, *shape))
    first, *others = (np.asarray(constraint.value(point), float) for point in points)
    same = [np.isclose(first, other, rtol=1e-6, atol=0.0) for other in others]
    return np.logical_and.reduce(same)


def _as_model(fit: Fit, errors: np.ndarray) -> PyTree:
    leaves, structure = jax.tree.flatten(fit.model)
    ends = np.cumsum([np.size(leaf) for leaf in leaves])
    pieces = np.split(errors, ends[:-1])
    shaped = [piece.reshape(np.shape(leaf)) for piece, leaf in zip(pieces, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def _block_evidence(
    template: AbstractExactModel, fixed: PyTree, vector: Array, rows: Rows
) -> Float[Array, " n"]:
    model = model_at(template, vector, fixed)
    return model.log_evidence(rows, model.prepare())


_vector = _config.quick_jit(to_vector, "once")


@_config.small_jit
def _curvature(
    template: AbstractExactModel, fixed: PyTree, source: ArraySource, vector: Array, share: Array
) -> Float[Array, "p p"]:
    """The second derivative of log evidence plus a share (0 or 1) of the log prior."""

    def total(point: Array, rows: Rows) -> Array:
        model = model_at(template, point, fixed)
        return model.summed_log_evidence(rows, model.prepare())

    def prior(point: Array) -> Array:
        model = model_at(template, point, fixed)
        return jnp.asarray(model.log_prior(), point.dtype)

    def block(point: Array, rows: Rows) -> Array:
        return _hessian(lambda inner: total(inner, rows), point)

    point = jnp.asarray(vector)
    return source.fold(block, point) + share * _hessian(prior, point)


def _hessian(function: Any, point: Array) -> Float[Array, "p p"]:
    """Forward over reverse, a few columns at a time: bounded memory."""

    def column(direction: Array) -> Array:
        return jax.jvp(jax.grad(function), (point,), (direction,))[1]

    return _each_direction(column, point)


def _each_direction(column: Any, point: Array) -> Float[Array, "p *c"]:
    """``column`` of every unit vector, a few at a time; the last few filled up with zeros.

    A remainder of its own would be compiled a second time.
    """
    p = point.size
    at_once = min(_COLUMNS_AT_ONCE, p)
    turns = -(-p // at_once)
    unit = jnp.eye(turns * at_once, p, dtype=point.dtype).reshape(turns, at_once, p)
    if turns == 1:
        return jax.vmap(column)(unit[0])
    found = jax.lax.map(jax.vmap(column), unit)
    return found.reshape(turns * at_once, *found.shape[2:])[:p]


@_config.small_jit
def _scores(
    template: AbstractExactModel, fixed: PyTree, source: ArraySource, vector: Array
) -> Float[Array, "p p"]:
    """The weighted sum of squared scores over rows, or over groups."""

    def block(point: Array, rows: Rows) -> Array:
        def column(direction: Array) -> Array:
            def per_row(inner: Array) -> Array:
                return _block_evidence(template, fixed, inner, rows)

            return jax.jvp(per_row, (point,), (direction,))[1]

        scores = _each_direction(column, point)
        scores = jnp.where(rows.weight > 0, scores, 0.0)
        weight = rows.weight
        if rows.groups is not None:
            index, count = rows.groups.index, rows.groups.count
            scores = jax.vmap(lambda s: jax.ops.segment_sum(s, index, count))(scores)
            weight = jax.ops.segment_max(weight, index, count)
            weight = jnp.where(jnp.isfinite(weight), weight, 0.0)
        return (scores * weight) @ scores.T

    return source.fold(block, jnp.asarray(vector))
