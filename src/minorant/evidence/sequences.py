"""What a hidden Markov fit says about sequences: paths of states, filtered states, forecasts.

Smoothed states are :func:`minorant.evidence.posterior`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from minorant import _config
from minorant._types import Array, PyTree, Rows
from minorant.data.arrays import ArraySource
from minorant.data.tables import as_labels
from minorant.degeneracy import impossible_sentence
from minorant.evidence.in_chunks import joined
from minorant.evidence.scoring import Scored, arranged, each_scored, mapped
from minorant.models import HiddenMarkov, TransitionLogits
from minorant.posteriors import Categorical
from minorant.preparation import blocks
from minorant.result import Fit


class StateForecast(NamedTuple):
    """What comes after the last row of each sequence, the parameters taken as known.

    Attributes:
        states: (h, k) probabilities of the states, or (g, h, k) for g sequences.
        mean: (h, d) or (g, h, d), ``E[x]``.
        lower: of an interval that holds each cell with the probability asked for, from draws.
        upper: its other end.
    """

    states: Float[np.ndarray, "*g h k"]
    mean: Float[np.ndarray, "*g h d"]
    lower: Float[np.ndarray, "*g h d"]
    upper: Float[np.ndarray, "*g h d"]


def path(  # noqa: PLR0913
    fit: Fit,
    X: Any,  # noqa: N803
    groups: Any = None,
    draw: bool = False,
    random_state: Any = 0,
    inputs: Any = None,
) -> Int[np.ndarray, " n"]:
    """The most probable path of states of each sequence, given all of its rows (Viterbi).

    Args:
        fit: what ``minorant.fit`` returned for a :class:`HiddenMarkov` model.
        X: (n, d) table with the fit's columns; or rows out of memory, as in :func:`posterior`.
        groups: (n,) the sequence of each row; None for one sequence.
        draw: a draw of the path from its posterior instead.
        random_state: seed of the draw.
        inputs: (n, m) covariates, where transitions depend on them.

    Returns:
        (n,) states, in the table's row order.

    Raises:
        TypeError: when the fit's model is not :class:`HiddenMarkov`.
        ValueError: for cells or columns that the fit cannot describe.

    Example:
        >>> import numpy as np, minorant
        >>> rows = np.r_[np.arange(9.0), 90 + np.arange(9.0), np.arange(9.0)][:, None]
        >>> model = minorant.models.HiddenMarkov(minorant.components.Gaussian(), n_components=2)
        >>> states = minorant.evidence.path(minorant.fit(model, rows), rows)
        >>> np.flatnonzero(np.diff(states))
        array([ 8, 17])

    Viterbi (1967), "Error bounds for convolutional codes and an asymptotically optimum decoding
    algorithm".
    """
    rng = np.random.default_rng(random_state)
    return joined([_path(fit, one, rng if draw else None) for one in _each(fit, X, groups, inputs)])


def _path(fit: Fit, scored: Scored, rng: np.random.Generator | None) -> Int[np.ndarray, " n"]:
    """The most probable path, or with a generator a draw."""
    if rng is None:
        return mapped(fit, scored, _paths)
    return mapped(fit, scored, _drawn, np.asarray(rng.integers(2**31 - 1), np.uint32))


def log_joint(
    fit: Fit,
    X: Any,  # noqa: N803
    states: Any,
    groups: Any = None,
    inputs: Any = None,
) -> Float[np.ndarray, " n"]:
    """``log p(z_t | z_t-1) + log p(x_t | z_t)`` of every row, for given states.

    Args:
        fit: what ``minorant.fit`` returned for a :class:`HiddenMarkov` model.
        X: (n, d) table with the fit's columns; or rows out of memory, as in :func:`posterior`.
        states: (n,) a state for every row.
        groups: (n,) the sequence of each row; None for one sequence.
        inputs: (n, m) covariates, where transitions depend on them.

    Returns:
        (n,) nats that add up to ``log p(x, z)`` of each sequence.

    Raises:
        ValueError: when states are not one for each row, from 0 to k - 1.
    """
    known, found, first = np.atleast_1d(states), [], 0
    for scored in _each(fit, X, groups, inputs):
        last = first + len(scored.table.values)
        found.append(_joint(fit, scored, known[first:last]))
        first = last
    _check_states(fit, known, first)
    return joined(found)


def _check_states(fit: Fit, known: np.ndarray, n: int) -> None:
    k = fit.model.n_components
    if known.shape != (n,) or not np.isin(known, np.arange(k)).all():
        raise ValueError(f"states must be whole numbers from 0 to {k - 1}, one for each row.")


def _joint(fit: Fit, scored: Scored, known: np.ndarray) -> Float[np.ndarray, " n"]:
    """The same for the rows of one table."""
    _check_states(fit, known, len(scored.table.values))
    in_slots = tuple(
        np.where(slots >= 0, known[np.maximum(slots, 0)], 0).astype(np.int32)
        for slots in scored.layout.slots
    )
    return mapped(fit, scored, _log_joint, in_slots).astype(float) - scored.log_scale


def filtered(fit: Fit, X: Any, groups: Any = None, inputs: Any = None) -> Categorical:  # noqa: N803
    """``p(z_t | x_1 .. x_t)`` of every row: the states given the rows so far.

    Args:
        fit: what ``minorant.fit`` returned for a :class:`HiddenMarkov` model.
        X: (n, d) table with the fit's columns; or rows out of memory, as in :func:`posterior`.
        groups: (n,) the sequence of each row; None for one sequence.
        inputs: (n, m) covariates, where transitions depend on them.

    Returns:
        A :class:`Categorical` whose ``probability`` is (k, n), in the table's row order.
    """
    scored = _each(fit, X, groups, inputs)
    return Categorical.from_rows(joined([mapped(fit, one, _log_filtered) for one in scored]))


def forecast(  # noqa: PLR0913
    fit: Fit,
    X: Any,  # noqa: N803
    steps: int = 1,
    groups: Any = None,
    level: float = 0.95,
    draws: int = 2000,
    random_state: Any = 0,
    inputs: Any = None,
    future_inputs: Any = None,
) -> StateForecast:
    r"""The steps after the last row of each sequence.

    .. math:: p(z_{n+h} \mid x) = p(z_n \mid x)\, A^h, \qquad
              E[x_{n+h} \mid x] = \sum_k p(z_{n+h} = k \mid x)\, E[x \mid k]

    Args:
        fit: what ``minorant.fit`` returned for a :class:`HiddenMarkov` model.
        X: (n, d) table with the fit's columns.
        steps: h, how many steps ahead.
        groups: (n,) the sequence of each row; None for one sequence.
        level: the probability that the interval is to hold each cell with.
        draws: how many futures are drawn for the interval.
        random_state: seed of the draws.
        inputs: (n, m) covariates of the rows, where transitions depend on them.
        future_inputs: (h, m) covariates of the steps to come, or (g, h, m) for g sequences.

    Returns:
        States, means and an interval for each step.

    Raises:
        ValueError: when steps are below 1, the level is not between 0 and 1, or inputs are wanted.

    Example:
        >>> import numpy as np, minorant
        >>> rows = np.tile(np.r_[np.zeros(6), np.full(6, 9.0)], 9)[:, None]
        >>> rows += np.resize([0.1, -0.1], 108)[:, None]
        >>> model = minorant.models.HiddenMarkov(minorant.components.Gaussian(), n_components=2)
        >>> ahead = minorant.evidence.forecast(minorant.fit(model, rows), rows, steps=2)
        >>> ahead.mean.shape
        (2, 1)
    """
    if steps < 1 or not 0.0 < level < 1.0:
        raise ValueError(
            f"steps must be at least 1 and level between 0 and 1; got {steps} and {level}."
        )
    scored = _scored(fit, X, groups, inputs)
    now = np.exp(mapped(fit, scored, _log_filtered)[_last_rows(scored)].astype(float))
    ahead = _known_future(fit, future_inputs, (len(now), steps))
    states = _led_on(fit, now, ahead, steps)
    seed = np.random.default_rng(random_state).integers(2**31 - 1)
    with _config.precision(np.dtype(fit.dtype)):
        chances = states[:, 0].astype(fit.dtype)
        rows = np.asarray(_futures(fit.model, np.uint32(seed), chances, ahead, steps, draws))
    ends = np.quantile(rows, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], axis=1)
    found = StateForecast(states, states @ state_means(fit), ends[0], ends[1])
    return found if len(now) > 1 else StateForecast(*(part[0] for part in found))


def impossible(
    fit: Fit,
    X: Any,  # noqa: N803
    groups: Any = None,
    labels: Any = None,
    inputs: Any = None,
) -> str:
    """A sentence that names the first row that no reachable state allows; empty without one.

    Args:
        fit: what ``minorant.fit`` returned for a :class:`HiddenMarkov` model.
        X: (n, d) table with the fit's columns.
        groups: (n,) the sequence of each row; None for one sequence.
        labels: (n,) known states, -1 where unknown; or None.
        inputs: (n, m) covariates, where transitions depend on them.
    """
    scored = _scored(fit, X, groups, inputs, labels)
    rows = np.flatnonzero(np.isneginf(mapped(fit, scored, _log_evidence)))
    if not len(rows):
        return ""
    return impossible_sentence(int(rows[0]), scored.table.groups, True)


def state_means(fit: Fit) -> Float[np.ndarray, "k d"]:
    """``E[x | k]`` of every state, in the data's units."""
    with _config.precision(np.dtype(fit.dtype)):
        return np.asarray(_state_means(fit.model), dtype=float)


def _known_future(
    fit: Fit, inputs: Any, shape: tuple[int, int]
) -> Float[np.ndarray, "g h m"] | None:
    """The inputs of the steps to come of every sequence; None where the model has none."""
    logits = fit.model.transition
    if not isinstance(logits, TransitionLogits):
        return None
    wanted = (*shape, logits.n_inputs)
    found = None if inputs is None else np.asarray(inputs, dtype=float)
    if found is None or found.shape not in (wanted, wanted[1:]) or not np.isfinite(found).all():
        shown = None if found is None else found.shape
        raise ValueError(
            f"future_inputs must be finite, shape {wanted[1:]} or {wanted} for each sequence its "
            f"own: the transitions depend on them. Got {shown}."
        )
    return np.broadcast_to(found, wanted).astype(fit.dtype)


def _led_on(
    fit: Fit, now: Float[np.ndarray, "g k"], ahead: np.ndarray | None, steps: int
) -> Float[np.ndarray, "g h k"]:
    """Probabilities of the states to come."""
    if ahead is None:
        A = np.asarray(fit.model.transition, dtype=float)
        return np.stack([now @ np.linalg.matrix_power(A, h + 1) for h in range(steps)], 1)
    found = []
    for h in range(steps):
        now = np.einsum("gi,gij->gj", now, fit.model.transition.probabilities(ahead[:, h]))
        found.append(now)
    return np.stack(found, 1)


def _scored(
    fit: Fit,
    X: Any,  # noqa: N803
    groups: Any,
    inputs: Any = None,
    labels: Any = None,
) -> Scored:
    _check_chain(fit)
    scored = arranged(fit, X, None, groups, inputs)
    if labels is None:
        return scored
    table = scored.table._replace(labels=as_labels(labels, len(scored.table.values)))
    source, layout = blocks(fit.standardised, table, fit.units, np.dtype(fit.dtype))
    return scored._replace(table=table, source=source, layout=layout)


def _each(fit: Fit, X: Any, groups: Any, inputs: Any) -> Iterator[Scored]:  # noqa: N803
    _check_chain(fit)
    return each_scored(fit, X, None, groups, inputs)


def _check_chain(fit: Fit) -> None:
    if not isinstance(fit.model, HiddenMarkov):
        raise TypeError(f"This needs a fit of HiddenMarkov; got one of {type(fit.model).__name__}.")


def _last_rows(scored: Scored) -> Int[np.ndarray, " g"]:
    """The last row of each sequence, in the order of their first appearance."""
    table = scored.table
    codes = np.zeros(len(table.values), dtype=np.int64) if table.groups is None else table.groups
    last = np.zeros(codes.max() + 1, dtype=np.int64)
    last[codes] = np.arange(len(codes))
    return last


@jax.jit
def _log_evidence(model: HiddenMarkov, source: ArraySource) -> tuple[Array, ...]:
    def evidence(parameters: PyTree, rows: Rows) -> Float[Array, " n"]:
        inner, prepared = parameters
        return inner.log_evidence(rows, prepared)

    return source.map(evidence, (model, model.prepare()))


@jax.jit
def _paths(model: HiddenMarkov, source: ArraySource) -> tuple[Array, ...]:
    def best(parameters: PyTree, rows: Rows) -> Int[Array, " n"]:
        inner, prepared = parameters
        return inner.posterior(rows, prepared).path()

    return source.map(best, (model, model.prepare()))


@jax.jit
def _drawn(model: HiddenMarkov, source: ArraySource, seed: Array) -> tuple[Array, ...]:
    def draw(parameters: PyTree, rows: Rows) -> Int[Array, " n"]:
        inner, prepared = parameters
        # Blocks differ in their rows, so the rows tell the key of one block from another's.
        own = jax.lax.bitcast_convert_type(rows.values.sum().astype(jnp.float32), jnp.uint32)
        return inner.posterior(rows, prepared).sample(jax.random.fold_in(key, own))

    key = jax.random.key(seed)
    return source.map(draw, (model, model.prepare()))


@jax.jit
def _log_joint(
    model: HiddenMarkov, source: ArraySource, states: tuple[Array, ...]
) -> tuple[Array, ...]:
    def joint(block: tuple[Rows, Array]) -> Float[Array, " n"]:
        return model.log_joint(*block)

    found = []
    for segment, own in zip(source.segments, states, strict=True):
        blocks = (segment.rows, own.reshape(segment.rows.weight.shape))
        found.append(jax.lax.map(joint, blocks).reshape(-1))
    return tuple(found)


@jax.jit
def _log_filtered(model: HiddenMarkov, source: ArraySource) -> tuple[Array, ...]:
    def probability(parameters: PyTree, rows: Rows) -> Float[Array, "n k"]:
        inner, prepared = parameters
        return inner.posterior(rows, prepared).log_filtered().T

    return source.map(probability, (model, model.prepare()))


@jax.jit
def _state_means(model: HiddenMarkov) -> Float[Array, "k d"]:
    """``E[x | k]``: what is expected of a row of which nothing is observed."""
    return model.state_means()


@functools.partial(jax.jit, static_argnums=(4, 5))
def _futures(  # noqa: PLR0913
    model: HiddenMarkov,
    seed: Array,
    chances: Float[Array, "g k"],
    ahead: Float[Array, "g h m"] | None,
    steps: int,
    draws: int,
) -> Float[Array, "g s h d"]:
    """Rows of drawn futures, from the probabilities of the first state to come."""

    def one(key: Array, initial: Array, inputs: Array | None) -> Float[Array, "h d"]:
        return model.continued(key, steps, initial, inputs)[1]

    keys = jax.random.split(jax.random.key(seed), (len(chances), draws))
    return jax.vmap(jax.vmap(one, in_axes=(0, None, None)))(keys, chances, ahead)
